"""SPEC 7 as its originator lives it: what may happen when, what is repeated, and who is blamed."""

from inspect import getsource
from itertools import product
from typing import Any

import pytest

from sim.loop import run
from sim.network import Pipe
from tests.support.nodes import Node, RelayNode, World
from tests.support.plugin import Figure, Size
from tunnels.circuit import origin
from tunnels.circuit.core import CircuitClosed, CircuitOpened
from tunnels.circuit.origin import TRANSITIONS, Input, OriginCircuit, State, next_state
from tunnels.crypto.handshake import OriginatorHandshake
from tunnels.crypto.x25519 import KeyPair
from tunnels.errors import CircuitClosedError, LocalError
from tunnels.ids import CloseReason, Drop, RelayId
from tunnels.params import (
    HANDSHAKE_TIMEOUT,
    LINK_PROBE_INTERVAL,
    LINK_PROBES,
    LINK_SILENCE,
    MAX_EARLY,
    PING_INTERVAL,
    PING_TRIES,
)
from tunnels.path.directory import RelayInfo
from tunnels.wire.link_messages import Destroy
from tunnels.wire.messages import DropMessage, Ping, Pong, Truncate

DETECTED: float = LINK_SILENCE + (LINK_PROBES + 1) * LINK_PROBE_INTERVAL + LINK_PROBE_INTERVAL
"""Seconds until a neighbour that is gone is noticed, one look at the link's clock too late at most (SPEC 4.8)."""

ASKED: float = (PING_TRIES + 2) * PING_INTERVAL
"""Seconds until silence behind good links is noticed (SPEC 7.6)."""


def with_onion_key(info: RelayInfo, onion_key: bytes) -> RelayInfo:
    return RelayInfo(info.relay_id, info.link_key, onion_key, info.addresses, info.exit_policy)


def closed(node: Node) -> list[tuple[CloseReason, int | None]]:
    return [(event.reason, event.culprit) for event in node.happened if isinstance(event, CircuitClosed)]


def state_of(circuit: OriginCircuit) -> State:
    """Read anew: what was asserted before an await need not hold after it."""
    return circuit.state


def cut(world: World, one: Node, other: Node) -> None:
    """Nothing passes between the two any more, either way."""
    for source, destination in ((one, other), (other, one)):
        world.network.set_route(source.address, destination.address, Pipe(delay=0.01, loss=1.0))


def assert_nothing_left(world: World) -> None:
    for node in world.nodes:
        assert not node.core.joined
        assert not node.engine.circuits
        assert node.core.budget.held == 0
        assert not any(link.circuits or link.outgoing for link in node.core.links)
        assert len(node.core.creates) == 0
        assert all(lane.open == 0 and len(lane.waiting) == 0 for lane in node.core.lanes.values())


# --- the table -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "happened"), list(product(State, Input)))
def test_every_pair_leads_somewhere_or_is_refused(state: State, happened: Input) -> None:
    if (state, happened) in TRANSITIONS:
        assert next_state(state, happened) is TRANSITIONS[state, happened]
    else:
        with pytest.raises(LocalError, match=f"{happened.name}.*{state.name}"):
            next_state(state, happened)


def test_what_is_closed_stays_closed_and_what_opens_was_building() -> None:
    assert not any(state is State.CLOSED for state, _ in TRANSITIONS)
    assert {pair for pair, to in TRANSITIONS.items() if to is State.OPEN} == {(State.BUILDING, Input.LAST_HOP_ADDED)}
    assert {state for (state, happened) in TRANSITIONS if happened is Input.ENDED} == {State.BUILDING, State.OPEN}


def test_nothing_but_the_table_changes_a_state() -> None:
    assigned = [line.strip() for line in getsource(origin).splitlines() if "self.state = " in line]
    assert all("next_state(" in line or line == "self.state = State.BUILDING" for line in assigned)
    assert len(assigned) == 5


@pytest.mark.parametrize("hops", [0, 7])
def test_a_circuit_has_one_to_six_hops(hops: int) -> None:
    async def main() -> None:
        world = World()
        relays = [world.relay() for _ in range(7)]
        with pytest.raises(LocalError):
            world.client().start(relays[:hops])
        world.close()

    run(main())


def test_a_relay_is_not_used_twice_on_one_circuit() -> None:
    async def main() -> None:
        world = World()
        relay = world.relay()
        with pytest.raises(LocalError):
            world.client().start([relay, world.relay(), relay])
        world.close()

    run(main())


# --- sending on what is not open -----------------------------------------------------------------------


def test_what_is_sent_on_a_circuit_that_is_not_open_is_a_typed_error_with_the_reason() -> None:
    async def main() -> None:
        world = World()
        client = world.client()
        circuit = client.start([world.relay()])
        with pytest.raises(CircuitClosedError) as building:
            client.send(circuit, b"")
        circuit.close(CloseReason.REQUESTED, client.driver.now())
        with pytest.raises(CircuitClosedError) as over:
            client.send(circuit, b"")
        assert (building.value.reason, over.value.reason) == ("building", "requested")
        world.close()

    run(main())


def test_closing_twice_is_closing_once() -> None:
    async def main() -> None:
        world = World()
        client = world.client()
        circuit = await client.build([world.relay()])
        for reason in (CloseReason.REQUESTED, CloseReason.TIMEOUT):
            circuit.close(reason, client.driver.now())
        client.driver.wake()
        await world.sleep(5)
        assert closed(client) == [(CloseReason.REQUESTED, None)]
        assert client.core.closed == {CloseReason.REQUESTED: 1}
        world.close()

    run(main())


# --- retries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hop", range(3))
def test_an_unanswered_create_or_extend_is_repeated_after_1_2_and_4_seconds(hop: int) -> None:
    """The wire in front of one hop is cut until just before each repetition."""

    async def main() -> None:
        for repetition, back_at in enumerate((0.9, 2.9, 6.9), start=1):
            world = World(seed=repetition)
            relays = [world.relay() for _ in range(3)]
            client = world.client()
            warm = await client.build(relays)  # links are up: what is lost is CREATE or EXTEND and nothing else
            await world.sleep(1)
            before = (client, *relays)[hop]
            cut(world, before, relays[hop])
            began = world.loop.time()
            circuit = client.start(relays)
            await world.sleep(back_at)
            assert circuit.state is State.BUILDING
            for source, destination in ((before, relays[hop]), (relays[hop], before)):
                world.network.set_route(source.address, destination.address, Pipe(delay=0.01))
            await client.opened(circuit)
            assert world.loop.time() - began == pytest.approx(2 ** (repetition) - 1 + 0.1, abs=0.15)
            assert warm.state is State.OPEN
            assert [len(relay.core.joined) for relay in relays] == [2, 2, 2], (
                "a repeated CREATE makes no second circuit"
            )
            world.close()

    run(main())


@pytest.mark.parametrize("loss", [0.02, 0.2])
def test_circuits_are_built_over_links_that_lose_cells(loss: float) -> None:
    async def main() -> None:
        world = World(seed=3, loss=loss, delay=0.1)
        relays = [world.relay(exits=True) for _ in range(3)]
        client = world.client()
        built = 0
        for _ in range(10):
            try:
                await client.build(relays)
                built += 1
            except ConnectionError:
                continue
        assert built >= (10 if loss < 0.1 else 2)
        world.close()

    run(main())


def test_a_hop_that_never_answers_is_given_up_and_blamed() -> None:
    async def main() -> None:
        world = World()
        relays = [world.relay() for _ in range(3)]
        client = world.client()
        world.network.unplug(relays[2].address)
        began = world.loop.time()
        with pytest.raises(ConnectionError, match="at hop 2"):
            await client.build(relays)
        assert world.loop.time() - began <= HANDSHAKE_TIMEOUT + 1
        await world.sleep(15)
        assert_nothing_left(world)
        world.close()

    run(main())


def test_a_guard_that_never_answers_is_given_up_and_blamed() -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(), world.client()
        world.network.unplug(relay.address)
        with pytest.raises(ConnectionError, match="at hop 0"):
            await client.build([relay])
        await world.sleep(15)
        assert_nothing_left(world)
        world.close()

    run(main())


# --- who is not who he says ----------------------------------------------------------------------------


@pytest.mark.parametrize("hop", range(3))
def test_a_relay_without_the_onion_key_we_expect_does_not_become_a_hop(hop: int) -> None:
    async def main() -> None:
        world = World()
        relays = [world.relay() for _ in range(3)]
        path = [relay.info for relay in relays]
        path[hop] = with_onion_key(path[hop], KeyPair.generate(world.rng()).public)
        client = world.client()
        circuit = client.start(path)
        await world.sleep(2)
        reason = CloseReason.TRUNCATED if hop else CloseReason.DESTROYED
        assert closed(client) == [(reason, hop)], "reasons stay at the relay: the wire carries none"
        assert circuit.hops_built == 0, "layers are wiped"
        await world.sleep(5)
        assert relays[hop].core.drops == {Drop.BAD_HANDSHAKE: 1}, "who refused is not told to forget"
        assert_nothing_left(world)
        world.close()

    run(main())


@pytest.mark.parametrize("hop", range(3))
def test_an_answer_that_does_not_verify_closes_the_circuit_and_blames_the_hop(
    hop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay in front lies, or the hop does: the pair shares the blame."""

    async def main() -> None:
        world = World()
        relays = [world.relay() for _ in range(3)]
        client = world.client()
        finish, calls = OriginatorHandshake.finish, []

        def tampered(handshake: OriginatorHandshake, created: bytes) -> Any:
            calls.append(created)
            if len(calls) - 1 == hop:
                created = created[:-1] + bytes([created[-1] ^ 1])
            return finish(handshake, created)

        monkeypatch.setattr(OriginatorHandshake, "finish", tampered)
        client.start(relays)
        await world.sleep(2)
        assert closed(client) == [(CloseReason.BAD_HANDSHAKE, hop)]
        await world.sleep(5)
        assert_nothing_left(world)
        world.close()

    run(main())


def test_an_onion_key_of_low_order_closes_the_circuit_and_raises_nothing() -> None:
    async def main() -> None:
        world = World()
        relays = [world.relay() for _ in range(2)]
        client = world.client()
        client.start([relays[0].info, with_onion_key(relays[1].info, bytes(32))])
        await world.sleep(2)
        assert closed(client) == [(CloseReason.BAD_HANDSHAKE, 1)]
        await world.sleep(5)
        assert_nothing_left(world)
        world.close()

    run(main())


def test_a_relay_nobody_knows_is_blamed_on_the_hop_that_was_to_be_added() -> None:
    async def main() -> None:
        world = World()
        relays = [world.relay() for _ in range(2)]
        stranger = RelayInfo(
            RelayId(b"s" * 32), KeyPair.generate(world.rng()).public, relays[0].info.onion_key, (("127.9.9.9", 9),)
        )
        client = world.client()
        client.start([relays[0].info, relays[1].info, stranger])
        await world.sleep(1)
        assert closed(client) == [(CloseReason.TRUNCATED, 2)]
        world.close()

    run(main())


# --- leaky pipe, PING ----------------------------------------------------------------------------------


def test_every_hop_of_a_circuit_can_be_addressed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World()
        relays = [world.relay() for _ in range(6)]
        client = world.client()
        circuit = await client.build(relays)
        answered: list[tuple[int, bytes]] = []
        handlers = dict(client.core.origin_handlers)
        handlers[Pong] = lambda _circuit, hop, message, _now: answered.append((hop, message.token))
        monkeypatch.setattr(client.core, "origin_handlers", handlers)
        for hop in range(6):
            circuit.send(Ping(bytes([hop] * 8)), client.driver.now(), hop)
        client.driver.wake()
        await world.sleep(1)
        assert sorted(answered) == [(hop, bytes([hop] * 8)) for hop in range(6)]
        with pytest.raises(LocalError):
            circuit.send(Ping(bytes(8)), client.driver.now(), 6)
        with pytest.raises(LocalError):
            circuit.send(Ping(bytes(8)), client.driver.now(), -1)
        world.close()

    run(main())


def test_a_quiet_circuit_is_asked_and_its_round_trip_measured() -> None:
    async def main() -> None:
        world = World(delay=0.05)
        relays = [world.relay() for _ in range(3)]
        client = world.client()
        circuit = await client.build(relays)
        await world.sleep(3 * PING_INTERVAL)
        assert circuit.rtt == pytest.approx(6 * 0.05)
        assert circuit.state is State.OPEN
        world.close()

    run(main())


@pytest.mark.parametrize("hop", range(3))
def test_a_relay_that_dies_is_noticed(hop: int, figure: Figure) -> None:
    async def main() -> None:
        world = World()
        relays = [world.relay() for _ in range(3)]
        client = world.client()
        await client.build(relays)
        await world.sleep(7)
        world.network.unplug(relays[hop].address)
        died = world.loop.time()
        while not closed(client):
            await world.sleep(0.1)
        took = world.loop.time() - died
        figure(f"until a dead hop {hop} of 3 is noticed", took, "s")
        assert took <= DETECTED
        assert closed(client) in ([(CloseReason.LINK_FAILED, 0)], [(CloseReason.TRUNCATED, hop)])
        await world.sleep(30)
        world.network.plug(relays[hop].address)
        await world.sleep(5)
        assert not any(link.circuits for node in world.nodes if node is not relays[hop] for link in node.core.links)
        world.close()

    run(main())


@pytest.mark.parametrize("chatty", [False, True], ids=["silent", "with a middle that talks"])
def test_a_circuit_whose_end_answers_nothing_is_closed_whatever_the_hops_before_it_say(chatty: bool) -> None:  # noqa: FBT001
    """A middle that swallows what comes from behind must not keep the circuit alive with words of its own."""

    async def main() -> None:
        world = World()
        relays = [world.relay() for _ in range(3)]
        client = world.client()
        circuit = await client.build(relays)
        [middle] = relays[1].core.joined
        middle.onward.on_cell = lambda *_: None
        began = world.loop.time()
        while circuit.state is State.OPEN:
            await world.sleep(1)
            if chatty and not middle.closed:
                middle.send(DropMessage(), relays[1].driver.now())
                relays[1].driver.wake()
            assert world.loop.time() - began <= ASKED
        assert closed(client) == [(CloseReason.NO_ANSWER, None)]
        world.close()

    run(main())


def test_a_pong_nobody_asked_for_measures_nothing() -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(), world.client()
        circuit = await client.build([relay])
        [joined] = relay.core.joined
        joined.send(Pong(b"unasked."), relay.driver.now())
        relay.driver.wake()
        await world.sleep(1)
        assert circuit.rtt is None
        world.close()

    run(main())


# --- extend and truncate -------------------------------------------------------------------------------


def test_an_open_circuit_can_be_extended_while_early_cells_are_left() -> None:
    async def main() -> None:
        world = World()
        relays = [world.relay(exits=True) for _ in range(4)]
        client = world.client()
        circuit = await client.build(relays[:2])
        circuit.extend(relays[2].info, client.driver.now())
        assert circuit.state is State.BUILDING
        with pytest.raises(LocalError):
            circuit.extend(relays[3].info, client.driver.now())
        client.driver.wake()
        await client.opened(circuit)
        assert circuit.hops_built == 3
        client.send(circuit, b"through three")
        await world.sleep(1)
        assert client.received() == [b"eerht hguorht"]
        with pytest.raises(LocalError):
            circuit.extend(relays[0].info, client.driver.now())
        for _ in range(MAX_EARLY):
            client.send(circuit, b"")
        with pytest.raises(LocalError, match="EARLY"):
            circuit.extend(relays[3].info, client.driver.now())
        assert state_of(circuit) is State.OPEN, "a refusal changes nothing"
        world.close()

    run(main())


@pytest.mark.parametrize("hop", range(2))
def test_truncate_cuts_off_what_is_behind_a_hop_and_closes_the_circuit(hop: int) -> None:
    async def main() -> None:
        world = World()
        relays = [world.relay() for _ in range(3)]
        client = world.client()
        circuit = await client.build(relays)
        circuit.send(Truncate(), client.driver.now(), hop)
        client.driver.wake()
        await world.sleep(0.5)
        assert closed(client) == [(CloseReason.TRUNCATED, hop + 1)]
        await world.sleep(5)
        assert_nothing_left(world)
        world.close()

    run(main())


def test_truncated_from_the_last_hop_of_a_complete_circuit_is_nothing() -> None:
    async def main() -> None:
        world = World()
        relays = [world.relay() for _ in range(2)]
        client = world.client()
        circuit = await client.build(relays)
        circuit.send(Truncate(), client.driver.now())
        client.driver.wake()
        await world.sleep(0.5)
        assert circuit.state is State.OPEN
        assert client.core.drops == {Drop.UNEXPECTED: 1}
        world.close()

    run(main())


# --- the end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [0.0, 0.005, 0.03, 0.05, 0.07, 0.09, 0.5])
def test_a_close_at_any_moment_leaves_no_ids_no_timers_and_no_memory(when: float) -> None:
    async def main() -> None:
        world = World()
        relays: list[RelayNode] = [world.relay() for _ in range(3)]
        client = world.client()
        circuit = client.start(relays)
        await world.sleep(when)
        circuit.close(CloseReason.REQUESTED, client.driver.now())
        client.driver.wake()
        await world.sleep(15)
        assert_nothing_left(world)
        assert client.core.events == []
        await world.sleep(300)
        assert not any(len(node.core.links) for node in world.nodes), "unused links are forgotten"
        assert all(node.engine.next_timer() is None for node in world.nodes if node is client)
        world.close()

    run(main())


def test_a_circuit_given_up_before_its_link_is_up_leaves_nothing_at_the_guard() -> None:
    """CREATE and DESTROY wait for the handshake together and arrive together."""

    async def main() -> None:
        world = World(delay=2.0)
        relay, client = world.relay(), world.client()
        circuit = client.start([relay])
        await world.sleep(0.1)
        circuit.close(CloseReason.REQUESTED, client.driver.now())
        client.driver.wake()
        await world.sleep(30)
        assert_nothing_left(world)
        world.close()

    run(main())


def test_destroy_counts_only_from_the_neighbour_whose_link_it_is() -> None:
    """Another client with the same circuit ids in its mouth ends nothing."""

    async def main() -> None:
        world = World()
        relays = [world.relay() for _ in range(2)]
        client, other = world.client(), world.client()
        circuit = await client.build(relays)
        theirs = await other.build(relays[:1])
        for own in (circuit.back_id, circuit.out_id):
            theirs.link.send(Destroy(own, own))
            theirs.link.send(Destroy(None, own))
            theirs.link.send(Destroy(own, None))
        other.driver.wake()
        await world.sleep(5)
        assert circuit.state is State.OPEN
        assert theirs.state is State.OPEN
        assert relays[0].core.drops == {Drop.UNKNOWN_CIRCUIT: 6}
        world.close()

    run(main())


# --- what it is for ------------------------------------------------------------------------------------


def test_over_100_ms_and_2_percent_loss_no_datagram_comes_twice_or_altered(size: Size, figure: Figure) -> None:
    number: int = size(small=1000, long=10_000)

    async def main() -> None:
        world = World(delay=0.1, loss=0.02, seed=7)
        relays = [world.relay(exits=True) for _ in range(3)]
        client = world.client()
        circuit = await client.build(relays)
        sent = [b"%d " % each + b"x" * (each % 1190) for each in range(number)]
        for each, data in enumerate(sent):
            client.send(circuit, data)
            if each % 20 == 0:
                await world.sleep(0.02)
        await world.sleep(3)
        got = [data[::-1] for data in client.received(circuit)]
        assert len(set(got)) == len(got), "none twice"
        assert set(got) <= set(sent), "none altered"
        assert got == sorted(got, key=lambda data: int(data.split()[0]))
        share = len(got) / number
        assert abs(share - 0.98**6) < 0.05
        figure("datagrams there and back over 3 hops, 100 ms and 2 % loss a link", share * 100, "%")
        assert isinstance(circuit, OriginCircuit)
        assert any(isinstance(event, CircuitOpened) for event in client.happened)
        world.close()

    run(main())
