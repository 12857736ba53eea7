"""The security bar's line 10: every queue, table and buffer of a node is bounded, and its bound holds.

The bounds that belong to one file are tested beside it: reassembly in tests/tunnels/wire/test_fragments.py, the fair
queue and table in tests/tunnels/test_fair.py.  Here a whole node meets somebody who wants to fill it.
"""
# ruff: noqa: SLF001 (what must not grow is looked at where it is kept)

from typing import Final

import pytest

from sim.loop import run
from tests.adversarial.census import heaviest, longest, weight
from tests.adversarial.floods import Field, HandshakeAttacker, hostile
from tests.adversarial.test_line_9 import Kept, handshake_for
from tests.support.nodes import Node, RelayNode, World
from tests.support.plugin import Figure, Size
from tunnels import fair
from tunnels.circuit import core as core_module
from tunnels.circuit.origin import OriginCircuit
from tunnels.circuit.relay import RelayCircuit
from tunnels.ids import CircuitId, CloseReason, Drop, Index
from tunnels.link import links as links_module
from tunnels.link.datagrams import CookieMaker
from tunnels.link.link import Link
from tunnels.link.responder import Responder, Timestamps
from tunnels.params import (
    BATCH_CELLS,
    CELL_SIZE,
    CIRCUIT_REASSEMBLY,
    CIRCUIT_UNFINISHED,
    CREATE_SIZE,
    HANDSHAKE_TIMEOUT,
    LINK_IDLE,
    M1_SIZE,
    MAX_LINK_BACKLOG,
    MAX_OPEN_CREATES,
    MAX_RAW_DATAGRAMS,
    MAX_REPEATED_DESTROYS,
    MAX_TRAINS,
    PING_INTERVAL,
    PING_TRIES,
    QUEUE_PER_KEY,
)
from tunnels.wire import link_messages as lm
from tunnels.wire.fragments import split
from tunnels.wire.messages import Extend, MessageType, Truncate


def wake(node: Node) -> None:
    node.driver.wake()


async def neighbour(field: Field, relay: RelayNode, host: str) -> tuple[Node, Link, Link]:
    """A client with a link to `relay`, that link, and the relay's end of it."""
    node = field.client((host, 7000))
    link = node.core.links.dial(relay.info.link_key, relay.address, node.driver.now())
    wake(node)
    await field.world.sleep(0.2)
    (far,) = (each for each in relay.core.links if each.address == node.address)
    return node, link, far


def early(node: Node, circuit: OriginCircuit, parts: list[bytes]) -> None:
    circuit._early_left = len(parts)
    circuit._send_parts(circuit.hops_built - 1, parts, node.driver.now())
    wake(node)


def extend_to(field: Field, relay: RelayNode, number: int) -> list[bytes]:
    message = Extend(relay.info.relay_id, field.rng.bytes(CREATE_SIZE))
    return split(Extend.TYPE, message.encode(), number & 0xFFFF)


# --- handshakes and links ------------------------------------------------------------------------------------


def test_the_queue_of_initiations_holds_a_few_of_each_prefix_and_so_many_in_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CookieMaker, "verify", lambda *_: True)

    async def main() -> None:
        field = Field(100)
        relay = field.world.relay(turn=1000.0)
        responder: Responder = relay.core.links.responder
        responder.__dict__["queue"] = fair.FairQueue(per_key=4, total=20)
        attacker = HandshakeAttacker(field, relay, hostile(0), garbage=True)
        for number in range(400):
            relay.engine.receive(bytearray(attacker.make()), (hostile(number % 40), 5), relay.driver.now())
            assert len(responder.queue) == len(responder._in_queue) <= 20
        assert len(responder.queue) == 20
        assert relay.core.drops[Drop.QUEUE_FULL] >= 400 - 20 - 8
        field.world.close()

    run(main())


def test_cookies_cost_no_memory() -> None:
    async def main() -> None:
        field = Field(100)
        relay = field.world.relay(turn=1000.0)
        attacker = HandshakeAttacker(field, relay, hostile(0), garbage=True)

        async def flood(count: int) -> int:
            for number in range(count):
                field.world.network.inject(attacker.make(), (hostile(number, 9), 5), relay.address)
            await field.world.sleep(0.1)
            return weight(relay)

        before = await flood(200)
        assert await flood(2000) <= before + 16_000, "less than eight bytes for each"
        assert relay.core.drops[Drop.QUEUE_FULL] == 0
        field.world.close()

    run(main())


def test_timestamps_are_kept_of_so_many_statics_and_the_least_recent_goes_first() -> None:
    table = Timestamps(size=100)
    for number in range(1000):
        assert table.accept(number.to_bytes(32), bytes(12))
        table.accept(bytes(32), (number + 1).to_bytes(12))
        assert len(table._newest) <= 100
    assert not table.accept(bytes(32), bytes(12))
    assert not table.accept((999).to_bytes(32), bytes(12))


def test_a_node_has_so_many_guests_however_many_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_module, "MAX_LINKS", 20)

    async def main() -> None:
        field = Field(10)
        relay = field.world.relay(kem=field.kem)
        for number in range(100):
            node = field.client((hostile(number % 10, number), 7000))
            node.core.links.dial(relay.info.link_key, relay.address, node.driver.now())
            wake(node)
            await field.world.sleep(0.05)
            assert len(relay.core.links) <= 20
            assert len(relay.core.links._sessions) <= 2 * 20
        assert relay.core.drops[Drop.LIMIT] > 0
        field.world.close()

    run(main())


def test_a_link_that_is_not_up_keeps_so_many_cells() -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(), world.client()
        world.network.unplug(relay.address)
        link = client.core.links.dial(relay.info.link_key, relay.address, client.driver.now())
        taken = [link.send(lm.Padding(lm.Answer.NOT_WANTED)) for _ in range(3 * MAX_LINK_BACKLOG)]
        assert taken == [True] * MAX_LINK_BACKLOG + [False] * 2 * MAX_LINK_BACKLOG
        world.close()

    run(main())


def test_a_session_keeps_so_many_trains_and_what_has_no_room_is_counted() -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(exits=True, exit_single_hop=True), world.client()
        circuit = await client.build([relay])
        room = MAX_TRAINS * BATCH_CELLS
        taken = [client.send(circuit, b"x") for _ in range(room + 100)]
        assert taken == [True] * room + [False] * 100
        assert client.core.drops[Drop.LIMIT] == 100
        (link,) = client.core.links
        assert link.current is not None
        assert len(link.current.trains) == MAX_TRAINS
        await world.sleep(1)
        assert not link.current.trains
        assert len(client.received(circuit)) == room
        world.close()

    run(main())


def test_answers_to_strangers_wait_in_a_bounded_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_module, "MAX_RAW_DATAGRAMS", 50)
    assert MAX_RAW_DATAGRAMS * CELL_SIZE < 6_000_000

    async def main() -> None:
        field = Field(10)
        relay = field.world.relay(turn=1000.0)
        attacker = HandshakeAttacker(field, relay, hostile(0), garbage=True)
        for number in range(200):  # between two turns of the loop: nothing is drained
            relay.engine.receive(bytearray(attacker.make()), (hostile(number), 5), relay.driver.now())
        assert len(relay.core.links._raw) == 50
        wake(relay)
        assert relay.core.drops[Drop.LIMIT] == 200 - 32 - 50
        await field.world.sleep(0.1)
        assert not relay.core.links._raw
        field.world.close()

    run(main())


def test_a_client_has_a_static_for_each_relay_it_dialled_and_no_more() -> None:
    async def main() -> None:
        world = World()
        relays, client = [world.relay() for _ in range(5)], world.client()
        for _ in range(5):
            for relay in relays:
                client.core.links.dial(relay.info.link_key, relay.address, client.driver.now())
            wake(client)
            await world.sleep(1)
            client.core.links.close_all(client.driver.now())
        assert len(client.core.links._statics) == 5
        world.close()

    run(main())


def test_a_neighbour_has_one_rekey_in_the_queue_and_a_prefix_a_few() -> None:
    async def main() -> None:
        field = Field(10)
        relay = field.world.relay(kem=field.kem)
        hosts = [await neighbour(field, relay, hostile(0, 1 + number)) for number in range(QUEUE_PER_KEY + 10)]
        for number in range(3):
            for node, link, _ in hosts:
                link.send(lm.Rekey(Index((1 << 24) + number), bytes(M1_SIZE)))
                relay.core.links._on_rekey(_, lm.Rekey(Index((1 << 24) + number), bytes(M1_SIZE)), node.driver.now())
        assert len(relay.core.links._rekeys) == len(relay.core.links._rekeying) == QUEUE_PER_KEY
        await field.world.sleep(1)
        assert not relay.core.links._rekeying
        field.world.close()

    run(main())


# --- circuits ------------------------------------------------------------------------------------------------


def test_creates_wait_in_a_bounded_queue_and_leave_nothing_behind() -> None:
    async def main() -> None:
        field = Field(10)
        relay = field.world.relay(turn=1000.0, kem=field.kem)
        hosts = [await neighbour(field, relay, hostile(number)) for number in range(3)]
        await field.world.sleep(3000)
        hosts = [await neighbour(field, relay, hostile(number, 2)) for number in range(4)]
        for number in range(4 * QUEUE_PER_KEY):
            for node, link, _ in hosts:
                link.circuits[1 + number] = Kept()
                link.send(lm.Create(CircuitId(1 + number), bytes(CREATE_SIZE)))
                wake(node)
        await field.world.sleep(1)
        assert len(relay.core.creates) <= 4 * QUEUE_PER_KEY
        assert all(len(far.outgoing) <= QUEUE_PER_KEY for _, _, far in hosts)
        for node, _, _ in hosts:
            node.close()
        field.world.nodes[1:] = []
        await field.world.sleep(60)
        assert len(relay.core.creates) == 0
        field.world.close()

    run(main())


def test_joined_circuits_have_a_bound_and_those_nobody_uses_are_let_go() -> None:
    async def main() -> None:
        field = Field(10)
        relay = field.world.relay(kem=field.kem, max_joined_circuits=50)
        node, link, far = await neighbour(field, relay, hostile(1))
        handshake = handshake_for(field, relay)
        for number in range(200):
            link.circuits[1 + number] = Kept()
            link.send(lm.Create(CircuitId(1 + number), handshake))
            wake(node)
            await field.world.sleep(0.02)
            assert len(relay.core.joined) == min(number + 1, 50)
        assert relay.core.closed == {CloseReason.MAX_JOINED_CIRCUITS: 150}
        assert len(far.circuits) == len(far.outgoing) == 50
        await field.world.sleep(relay.core.limits.max_time_inactive + 10)
        assert len(relay.core.joined) == 0
        assert relay.core.closed[CloseReason.MAX_TIME_INACTIVE] == 50
        assert not far.circuits
        assert not far.outgoing
        field.world.close()

    run(main())


def test_a_circuit_has_one_extension_however_often_it_asks() -> None:
    async def main() -> None:
        field = Field(10)
        guard, target = field.world.relay(kem=field.kem), field.world.relay(kem=field.kem)
        node = field.client((hostile(1), 7000))
        circuit = await node.build([guard])
        await node.build([guard, target])
        field.world.network.unplug(target.address)
        for number in range(300):
            early(node, circuit, extend_to(field, target, number))
            await field.world.sleep(0.01)
        await field.world.sleep(0.1)
        (lane,) = guard.core.lanes.values()
        assert (lane.open, len(lane.waiting)) == (1, 0)
        assert guard.core.drops[Drop.UNEXPECTED] == 299
        for number in range(300):
            circuit.send(Truncate(), node.driver.now())
            early(node, circuit, extend_to(field, target, number))
            await field.world.sleep(0.005)
            assert sum(each.open + len(each.waiting) for each in guard.core.lanes.values()) <= 1
        (onward,) = (link for link in guard.core.links if link.remote == target.info.link_key)
        assert len(onward.circuits) <= 2
        await field.world.sleep(2 * HANDSHAKE_TIMEOUT)
        assert not guard.core.lanes
        assert not onward.circuits
        field.world.close()

    run(main())


def test_a_lane_is_bounded_in_what_is_open_and_in_what_waits() -> None:
    async def main() -> None:
        field = Field(10)
        guard, target = field.world.relay(kem=field.kem), field.world.relay(kem=field.kem)
        node = field.client((hostile(1), 7000))
        circuits = [await node.build([guard]) for _ in range(MAX_OPEN_CREATES + QUEUE_PER_KEY + 20)]
        await node.build([guard, target])
        field.world.network.unplug(target.address)
        for number, circuit in enumerate(circuits):
            early(node, circuit, extend_to(field, target, number))
        await field.world.sleep(1)
        (lane,) = guard.core.lanes.values()
        assert (lane.open, len(lane.waiting)) == (MAX_OPEN_CREATES, QUEUE_PER_KEY)
        assert guard.core.drops[Drop.QUEUE_FULL] == 20
        await field.world.sleep(2 * HANDSHAKE_TIMEOUT)
        assert not guard.core.lanes
        field.world.close()

    run(main())


def test_fragments_without_an_end_are_bounded_by_circuit_and_forgotten() -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(exits=True, exit_single_hop=True), world.client()
        circuit = await client.build([relay])
        for number in range(40):
            parts = split(MessageType.DATAGRAM, bytes(60_000), number)
            circuit._send_parts(0, parts[:-1], client.driver.now())
            wake(client)
            await world.sleep(0.1)
            assert relay.core.budget.held <= CIRCUIT_REASSEMBLY
        (joined,) = relay.core.joined
        assert joined._reassembler.unfinished <= CIRCUIT_UNFINISHED
        circuit.close(CloseReason.REQUESTED, client.driver.now())
        wake(client)
        await world.sleep(1)
        assert relay.core.budget.held == 0
        world.close()

    run(main())


def test_ten_thousand_circuits_that_end_leave_few_timers_and_then_none(size: Size) -> None:
    rounds = size(small=1000, long=10_000)

    async def main() -> None:
        field = Field(10)
        relay = field.world.relay(kem=field.kem)
        node, link, far = await neighbour(field, relay, hostile(1))
        handshake = handshake_for(field, relay)
        quiet = len(relay.core.timers)
        most = 0
        for number in range(1, rounds + 1):
            link.circuits[number] = Kept()
            link.send(lm.Create(CircuitId(number), handshake))
            wake(node)
            await field.world.sleep(0.021)
            (joined,) = relay.core.joined
            joined.close(CloseReason.REQUESTED, field.world.loop.time())
            wake(relay)
            del link.circuits[number]
            most = max(most, len(relay.core.timers))
        assert most <= quiet + 2 * 2.0 / 0.021 + 20  # those of the last two seconds
        await field.world.sleep(10)
        assert len(relay.core.timers) <= quiet
        assert not far.outgoing
        field.world.close()

    run(main())


def test_however_many_circuits_end_at_once_few_destroys_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "MAX_REPEATED_DESTROYS", 10)
    assert MAX_REPEATED_DESTROYS <= 4096

    async def main() -> None:
        world = World()
        relay, client = world.relay(), world.client()
        circuits = [await client.build([relay]) for _ in range(40)]
        before = len(client.core.timers)
        for circuit in circuits:
            circuit.close(CloseReason.REQUESTED, client.driver.now())
        wake(client)
        assert len(client.core.timers) <= before + 20
        await world.sleep(5)
        assert not len(relay.core.joined), "the first time is enough where nothing is lost"
        assert client.core._repeating == 0
        world.close()

    run(main())


def test_an_originator_remembers_as_many_pings_as_it_asks_before_it_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World()
        relays, client = [world.relay() for _ in range(2)], world.client()
        circuit = await client.build(relays)
        monkeypatch.setattr(RelayCircuit, "send", lambda *_: True)  # the hop swallows what it should say
        for _ in range(PING_TRIES + 3):
            await world.sleep(PING_INTERVAL)
            assert len(circuit._pings) <= PING_TRIES
        assert circuit.closed_because is CloseReason.NO_ANSWER
        world.close()

    run(main())


# --- all at once ---------------------------------------------------------------------------------------------

GROWTH: Final = 24 << 20
"""Bytes by which a relay may grow in the mixed flood below."""

LEFT: Final = 1 << 19
"""Bytes that may be left of it a while after: newest timestamps, and room in tables that were large."""


def test_a_relay_in_a_mixed_flood_stays_small_and_is_as_before_afterwards(size: Size, figure: Figure) -> None:
    seconds = size(small=4, long=40)

    async def main() -> None:
        field = Field(30)
        world, rng = field.world, field.rng
        relay = world.relay(turn=0.02, kem=field.kem, exits=True, exit_single_hop=True, max_joined_circuits=500)
        target = world.relay(turn=0.02, kem=field.kem)
        first = await field.honest().build([relay, target])
        first.close(CloseReason.REQUESTED, world.loop.time())
        await world.sleep(LINK_IDLE + 20)
        before = weight(relay)
        hosts = [await neighbour(field, relay, hostile(number)) for number in range(30)]
        strangers = [HandshakeAttacker(field, relay, hostile(n, 8), garbage=bool(n % 2)) for n in range(30)]
        made = [(node, await node.build([relay])) for node, _, _ in hosts]
        handshake = handshake_for(field, relay)
        most, number, end = 0, 0, world.loop.time() + seconds
        while world.loop.time() < end:
            for (node, link, _), stranger, (_, circuit) in zip(hosts, strangers, made, strict=True):
                number += 1
                stranger.send()
                world.network.inject(stranger.make(), (hostile(number, 3), 9), relay.address)
                world.network.inject(rng.bytes(CELL_SIZE), node.address, relay.address)
                link.circuits[number] = Kept()
                link.send(lm.Create(CircuitId(number), handshake))
                link.send(lm.Destroy(None, CircuitId(1 + rng.below(1 << 32 - 1))))
                link.send(lm.Rekey(Index(1 << 24), rng.bytes(M1_SIZE)))
                link.send(lm.PathChallenge(bytes(16)))
                if circuit.closed_because is None:
                    early(node, circuit, extend_to(field, target, number))
                    circuit._send_parts(0, split(7, bytes(30_000), number & 0xFFFF)[:-1], node.driver.now())
                wake(node)
            await world.sleep(0.1)
            most = max(most, weight(relay) if number % 300 < 30 else 0)
        figure("bytes a flooded relay grows by", most - before, "B")
        assert most - before < GROWTH, heaviest(relay)
        for node, _, _ in hosts:
            node.close()
        world.nodes[:] = [relay, target]
        await world.sleep(relay.core.limits.max_time_inactive + 2 * LINK_IDLE)
        left = weight(relay) - before
        figure("bytes it keeps", left, "B")
        assert left < LEFT, heaviest(relay)
        grown = {name: length for name, length in longest(relay).items() if length > 300}
        assert grown.keys() <= {"Timestamps._newest"}, grown
        world.close()

    run(main())
