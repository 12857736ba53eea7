"""The security bar's line 9, for link handshakes, CREATE and EXTEND: a flood of three times what saturates a relay,
from many prefixes, costs at most one honest circuit in a hundred.

Each flood is run again with the defence taken out, and then keeps most of them out.
"""
# ruff: noqa: SLF001 (defences are taken out where they are)

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from sim.loop import run
from sim.network import Datagram
from tests.adversarial.floods import Field, Fifo, Flood, HandshakeAttacker, hostile, success
from tests.support.nodes import Node, RelayNode
from tests.support.plugin import Figure, Size
from tunnels.circuit import extend as extend_module
from tunnels.circuit.create import Creates
from tunnels.crypto.handshake import OriginatorHandshake
from tunnels.fair import FairTable
from tunnels.ids import CircuitId
from tunnels.link import links as links_module
from tunnels.link import responder as responder_module
from tunnels.link.datagrams import CookieMaker
from tunnels.link.link import LinkState, Run
from tunnels.link.responder import Responder
from tunnels.params import CREATE_SIZE, MAX_OPEN_CREATES, QUEUE_PER_KEY
from tunnels.wire.fragments import split
from tunnels.wire.link_messages import Create, Created
from tunnels.wire.messages import Extend, Truncate

WARM_UP: Final = 12.0
"""Seconds of flood before the first honest client comes: long enough to fill what has no defence."""

ATTEMPTS: Final = 100
SECONDS: Final = 10.0
"""Over which the attempts are spread."""

BAR: Final = 0.99
BROKEN: Final = 0.8
"""Without the defence fewer get through."""

Scene = Callable[[Field], Awaitable[float]]
"""A flood from all prefixes of the field, and the share of honest circuits that opened."""


def measure(scene: Scene, prefixes: int) -> float:
    async def main() -> float:
        field = Field(prefixes)
        share = await scene(field)
        field.world.close()
        return share

    return run(main())


def prefixes_of(size: Size) -> int:
    return size(small=100, long=1000)


async def warmed(field: Field, victim: RelayNode, flood: Flood) -> float:
    await field.world.sleep(WARM_UP)
    share = await success(field, lambda number: [victim], ATTEMPTS, SECONDS)
    await flood.stop()
    return share


# --- link handshakes ---------------------------------------------------------------------------------------


def initiations(*, garbage: bool) -> Scene:
    async def scene(field: Field) -> float:
        victim = field.victim()
        attackers = [HandshakeAttacker(field, victim, hostile(n), garbage=garbage) for n in range(field.prefixes)]
        sent, got = [0], [0]

        def count(seen: Datagram) -> None:
            sent[0] += seen.source == victim.address
            got[0] += seen.destination == victim.address

        field.world.network.tap(count)
        share = await warmed(field, victim, Flood(field, lambda number: attackers[number % field.prefixes].send()))
        assert sent[0] <= got[0], "nobody is answered with more than he sent"
        return share

    return scene


@pytest.mark.parametrize("garbage", [False, True], ids=["genuine", "garbage with the right mac1"])
def test_initiations_from_the_attackers_own_addresses(
    garbage: bool, size: Size, figure: Figure, request: pytest.FixtureRequest  # noqa: FBT001
) -> None:  # fmt: skip
    share = measure(initiations(garbage=garbage), prefixes_of(size))
    figure(f"honest circuits through initiations, {request.node.callspec.id}", 100 * share, "%")
    assert share >= BAR


def test_without_the_fair_queue_initiations_from_own_addresses_keep_the_honest_out(
    size: Size, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responder_module, "FairQueue", Fifo)
    assert measure(initiations(garbage=True), prefixes_of(size)) < BROKEN


async def forged(field: Field) -> float:
    """Every datagram from another prefix, none of which the attacker can receive at."""
    victim = field.victim()
    spoofer = HandshakeAttacker(field, victim, hostile(0), garbage=True)

    def act(number: int) -> None:
        field.world.network.inject(spoofer.make(), (f"11.{number >> 8 & 255}.{number & 255}.9", 4), victim.address)

    return await warmed(field, victim, Flood(field, act))


def test_initiations_from_forged_addresses(size: Size, figure: Figure) -> None:
    share = measure(forged, prefixes_of(size))
    figure("honest circuits through forged initiations", 100 * share, "%")
    assert share >= BAR


def test_without_cookies_forged_addresses_keep_the_honest_out(size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CookieMaker, "verify", lambda *_: True)
    assert measure(forged, prefixes_of(size)) < BROKEN


def replays(prefixes: int = 8) -> Scene:
    """Initiations that were captured with good cookies, from their own addresses: the honest clients' neighbours'."""

    async def scene(field: Field) -> float:
        victim = field.victim()
        captured: list[tuple[bytes, Any]] = []
        for number in range(prefixes):
            neighbour = field.client((hostile(number, 7), 5000))
            end = field.world.network.tap(
                lambda seen: captured.append((seen.data, seen.source)) if seen.destination == victim.address else None
            )
            neighbour.core.links.dial(victim.info.link_key, victim.address, neighbour.driver.now())
            neighbour.driver.wake()
            await field.world.sleep(0.2)
            end()
            captured[number:] = captured[number + 1 : number + 2]  # the second, which has the cookie

        def act(number: int) -> None:
            datagram, source = captured[number % len(captured)]
            field.world.network.inject(datagram, source, victim.address)

        flood = Flood(field, act)
        await field.world.sleep(WARM_UP)
        clients = {number: field.client((hostile(number % prefixes, number), 5001)) for number in range(ATTEMPTS)}
        share = await success(field, lambda number: [victim], ATTEMPTS, SECONDS, clients.__getitem__)
        await flood.stop()
        return share

    return scene


def test_replays_from_the_prefixes_of_the_honest(size: Size, figure: Figure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responder_module, "UNDER_LOAD_INITIATIONS", 0)  # so that what is captured has a good cookie
    share = measure(replays(), prefixes_of(size))
    figure("honest circuits through replayed initiations", 100 * share, "%")
    assert share >= BAR


def test_without_a_look_at_what_waits_already_replays_keep_the_honest_out(
    size: Size, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(set[bytes]):
        def add(self, ephemeral: bytes) -> None:
            """Nothing is remembered."""

    monkeypatch.setattr(responder_module, "UNDER_LOAD_INITIATIONS", 0)
    made = Responder.__init__

    def forgetful(self: Responder, *args: Any) -> None:
        made(self, *args)
        self._in_queue = Forgetful()

    monkeypatch.setattr(Responder, "__init__", forgetful)
    assert measure(replays(), prefixes_of(size)) < BROKEN


FEW_LINKS: Final = 200


async def neighbours_that_stay(field: Field) -> float:
    """Each attacker opens one link after the other and keeps them all, until there is no place for more."""
    victim = field.relay("10.255.1.1")
    taken = 0
    while taken < 3 * FEW_LINKS:
        for prefix in range(field.prefixes):
            node = field.client((hostile(prefix, 1 + taken // field.prefixes), 7000))
            node.core.links.dial(victim.info.link_key, victim.address, node.driver.now())
            node.driver.wake()
            taken += 1
        await field.world.sleep(0.1)
    assert len(victim.core.links) == FEW_LINKS
    return await success(field, lambda number: [victim], ATTEMPTS, SECONDS)


def test_neighbours_that_come_to_stay(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_module, "MAX_LINKS", FEW_LINKS)
    share = measure(neighbours_that_stay, 20)
    figure("honest circuits through a full table of links", 100 * share, "%")
    assert share >= BAR


class Greedy(FairTable[Any]):
    """First come, first served: for taking the fair one out."""

    def full_for(self, key: object) -> bool:
        return len(self) >= self._total


def test_without_a_fair_table_neighbours_that_come_to_stay_keep_the_honest_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(links_module, "MAX_LINKS", FEW_LINKS)
    monkeypatch.setattr(links_module, "FairTable", Greedy)
    assert measure(neighbours_that_stay, 20) < BROKEN


# --- CREATE over established links --------------------------------------------------------------------------


async def linked(field: Field, victim: RelayNode) -> list[Node]:
    """One client in each prefix, with a link to the victim."""
    nodes = [field.client((hostile(prefix), 7000)) for prefix in range(field.prefixes)]
    for node in nodes:
        node.core.links.dial(victim.info.link_key, victim.address, node.driver.now())
        node.driver.wake()
    while not all(link.state is LinkState.UP for node in nodes for link in node.core.links):
        await field.world.sleep(0.5)
    return nodes


def handshake_for(field: Field, victim: RelayNode) -> bytes:
    info = victim.info
    return OriginatorHandshake(info.relay_id, info.onion_key, field.world.network_id, field.rng, field.kem).create


class Kept:
    """An end of a circuit whose owner wants nothing but its place."""

    def on_cell(self, run: Run, command: int, counter: int, body: int, header: int) -> None: ...

    def on_created(self, message: Created, now: float) -> None: ...

    def on_destroy(self, now: float) -> None: ...

    def on_link_down(self, now: float) -> None: ...


def creates(*, genuine: bool, max_joined_circuits: int = 100_000) -> Scene:
    async def scene(field: Field) -> float:
        victim = field.victim(max_joined_circuits)
        nodes = await linked(field, victim)
        handshake = handshake_for(field, victim)
        if not genuine:
            handshake = handshake[:9] + field.rng.bytes(CREATE_SIZE - 9)  # version and key id are right

        def act(number: int) -> None:
            node = nodes[number % field.prefixes]
            for link in node.core.links:
                link.circuits[1 + number] = Kept()
                link.send(Create(CircuitId(1 + number), handshake))
            node.driver.wake()

        return await warmed(field, victim, Flood(field, act))

    return scene


@pytest.mark.parametrize("genuine", [False, True], ids=["garbage", "genuine"])
def test_creates_over_established_links(
    genuine: bool, size: Size, figure: Figure, request: pytest.FixtureRequest  # noqa: FBT001
) -> None:  # fmt: skip
    share = measure(creates(genuine=genuine), prefixes_of(size))
    figure(f"honest circuits through CREATEs, {request.node.callspec.id}", 100 * share, "%")
    assert share >= BAR


def test_without_the_fair_queue_creates_keep_the_honest_out(size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Creates.__init__

    def unfair(self: Creates, core: Any) -> None:
        made(self, core)
        self._queue = Fifo()  # type: ignore[assignment]

    monkeypatch.setattr(Creates, "__init__", unfair)
    assert measure(creates(genuine=False), prefixes_of(size)) < BROKEN


def test_circuits_that_come_to_stay(size: Size, figure: Figure) -> None:
    prefixes = prefixes_of(size)
    share = measure(creates(genuine=True, max_joined_circuits=4 * prefixes), prefixes)
    figure("honest circuits through a full table of circuits", 100 * share, "%")
    assert share >= BAR


def test_without_a_fair_table_circuits_that_come_to_stay_keep_the_honest_out(
    size: Size, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnels.circuit.core.FairTable", Greedy)
    assert measure(creates(genuine=True, max_joined_circuits=4 * prefixes_of(size)), prefixes_of(size)) < BROKEN


# --- EXTEND through honest relays towards one victim -----------------------------------------------------------


def extends(*, by_turns: bool, circuits: int) -> Scene:
    """Each prefix has circuits over three honest relays and asks all of them to go on to the victim.

    Args:
        by_turns: whether each EXTEND is given up by TRUNCATE before it is answered, to make room for the next.
        circuits: of each prefix.
    """

    async def scene(field: Field) -> float:
        victim = field.victim()
        honest = [field.relay(f"10.255.{2 + number}.1") for number in range(3)]
        nodes = [field.client((hostile(prefix), 7000)) for prefix in range(field.prefixes)]
        made = [
            (node, await node.build([honest[prefix % 3]])) for prefix, node in enumerate(nodes) for _ in range(circuits)
        ]
        keyid = handshake_for(field, victim)[:9]

        def act(number: int) -> None:
            node, circuit = made[number % len(made)]
            if circuit.closed_because is not None:
                return
            now = node.driver.now()
            if by_turns:
                circuit.send(Truncate(), now)
            circuit._early_left = 2
            message = Extend(victim.info.relay_id, keyid + field.rng.bytes(CREATE_SIZE - 9))
            circuit._send_parts(0, split(Extend.TYPE, message.encode(), number & 0xFFFF), now)
            node.driver.wake()

        flood = Flood(field, act)
        await field.world.sleep(WARM_UP)
        share = await success(field, lambda number: [honest[number % 3], victim], ATTEMPTS, SECONDS)
        await flood.stop()
        return share

    return scene


MANY: Final = 9
"""Circuits of each prefix: without a fair lane their EXTENDs would wait longer than anybody does."""


@pytest.mark.parametrize(
    ("by_turns", "circuits"),
    [(False, MANY), (True, MANY), (True, 1)],
    ids=["EXTEND", "EXTEND and TRUNCATE by turns", "EXTEND and TRUNCATE by quick turns"],
)
def test_extends_through_honest_relays(
    by_turns: bool,  # noqa: FBT001
    circuits: int,
    size: Size,
    figure: Figure,
    request: pytest.FixtureRequest,
) -> None:
    share = measure(extends(by_turns=by_turns, circuits=circuits), prefixes_of(size))
    figure(f"honest circuits through {request.node.callspec.id}", 100 * share, "%")
    assert share >= BAR


def test_without_a_bound_on_open_creates_extends_keep_the_honest_out(
    size: Size, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_OPEN_CREATES < QUEUE_PER_KEY, "a relay's own CREATEs always find room at its next hop"
    monkeypatch.setattr(extend_module, "MAX_OPEN_CREATES", 1 << 30)
    assert measure(extends(by_turns=False, circuits=MANY), prefixes_of(size)) < BROKEN


def test_without_fair_lanes_extends_keep_the_honest_out(size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extend_module, "FairQueue", Fifo)
    assert measure(extends(by_turns=False, circuits=MANY), prefixes_of(size)) < BROKEN


def test_without_taking_back_what_was_given_up_extends_by_turns_keep_the_honest_out(
    size: Size, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Creates, "give_up", lambda self, waiting: None)
    assert measure(extends(by_turns=True, circuits=1), prefixes_of(size)) < BROKEN
