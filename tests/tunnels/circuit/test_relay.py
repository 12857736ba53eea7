"""SPEC 7 as a hop lives it: what it answers twice, whom it never dials, what ends a circuit and what does not."""

from typing import Any

import pytest

from sim.loop import run
from tests.support.nodes import Node, RelayNode, World
from tests.tunnels.circuit.test_origin import assert_nothing_left, closed, state_of
from tunnels.circuit import extend as extend_module
from tunnels.circuit.core import CircuitClosed, DatagramRejected, RelayCircuitClosed
from tunnels.circuit.limits import RelayLimits
from tunnels.circuit.origin import OriginCircuit, State
from tunnels.circuit.relay import RelayCircuit
from tunnels.crypto import onion
from tunnels.crypto.handshake import HopKeys, OriginatorHandshake
from tunnels.crypto.x25519 import KeyPair
from tunnels.ids import CircuitId, CloseReason, Drop, RelayId
from tunnels.params import ANSWER_LIFETIME, COUNTER_SEND_LIMIT, HANDSHAKE_TIMEOUT, MAX_OPEN_CREATES
from tunnels.path.directory import Directory, RelayInfo
from tunnels.wire.cell import Command
from tunnels.wire.destination import Destination
from tunnels.wire.fragments import split
from tunnels.wire.link_messages import Create
from tunnels.wire.messages import Datagram, Extend, RejectReason


def handshake_for(client: Node, relay: RelayInfo) -> bytes:
    core = client.core
    return OriginatorHandshake(relay.relay_id, relay.onion_key, core.network_id, core.rng, core.kem).create


def extend_to(client: Node, relay: RelayInfo) -> list[bytes]:
    return split(Extend.TYPE, Extend(relay.relay_id, handshake_for(client, relay)).encode(), 4711)


def send_early(client: Node, circuit: OriginCircuit, hop: int, parts: list[bytes]) -> None:
    circuit._early_left = len(parts)  # noqa: SLF001 (a hostile originator counts as it likes)
    assert circuit._send_parts(hop, parts, client.driver.now())  # noqa: SLF001
    client.driver.wake()


def joined(relay: RelayNode) -> RelayCircuit:
    [circuit] = relay.core.joined
    assert isinstance(circuit, RelayCircuit)
    return circuit


# --- CREATE --------------------------------------------------------------------------------------------


def test_the_same_create_again_gets_the_same_answer_again_for_ten_seconds_and_not_after() -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(), world.client()
        circuit = client.start([relay])
        attempt = circuit._attempt  # noqa: SLF001 (to say again what it said)
        assert attempt is not None
        await client.opened(circuit)
        answered = world.loop.time() - 0.01

        async def again() -> int:
            circuit.link.send(Create(circuit.back_id, attempt.handshake.create))
            client.driver.wake()
            before = client.core.drops[Drop.UNEXPECTED]
            await world.sleep(0.1)
            return int(client.core.drops[Drop.UNEXPECTED] - before)

        assert await again() == 1
        await world.sleep(answered + ANSWER_LIFETIME - 0.1 - world.loop.time())
        assert await again() == 1
        await world.sleep(0.2)
        assert await again() == 0
        assert relay.core.drops == {Drop.UNEXPECTED: 1}
        assert len(relay.core.joined) == 1
        assert state_of(circuit) is State.OPEN
        world.close()

    run(main())


def test_another_create_for_a_live_id_is_dropped_and_changes_nothing() -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(exits=True, exit_single_hop=True), world.client()
        circuit = await client.build([relay])
        before = joined(relay)
        circuit.link.send(Create(circuit.back_id, handshake_for(client, relay.info)))
        client.driver.wake()
        await world.sleep(0.5)
        assert relay.core.drops == {Drop.UNEXPECTED: 1}
        assert joined(relay) is before
        client.send(circuit, b"still there")
        await world.sleep(0.5)
        assert client.received() == [b"ereht llits"]
        world.close()

    run(main())


def test_creates_that_wait_are_answered_once_whatever_is_repeated_meanwhile() -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(turn=0.5), world.client()
        circuits = [client.start([relay]) for _ in range(20)]
        creates = [circuit._attempt.handshake.create for circuit in circuits if circuit._attempt]  # noqa: SLF001
        await world.sleep(0.05)
        for circuit, create in zip(circuits, creates, strict=True):
            circuit.link.send(Create(circuit.back_id, create))
        client.driver.wake()
        await world.sleep(8)
        assert len(relay.core.joined) == 20
        assert all(circuit.state is State.OPEN for circuit in circuits)
        world.close()

    run(main())


def test_beyond_its_limit_a_relay_refuses() -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(max_joined_circuits=2), world.client()
        kept = [await client.build([relay]) for _ in range(2)]
        with pytest.raises(ConnectionError, match="destroyed"):
            await client.build([relay])
        assert relay.core.closed == {CloseReason.MAX_JOINED_CIRCUITS: 1}
        kept[0].close(CloseReason.REQUESTED, client.driver.now())
        client.driver.wake()
        await world.sleep(1)
        await client.build([relay])
        world.close()

    run(main())


def test_a_node_that_is_no_relay_answers_no_create() -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(), world.client()
        circuit = await client.build([relay])
        joined(relay).link.send(Create(CircuitId(5), handshake_for(client, relay.info)))
        relay.driver.wake()
        await world.sleep(0.5)
        assert client.core.drops == {Drop.UNKNOWN_COMMAND: 1}
        assert not client.core.joined
        assert state_of(circuit) is State.OPEN
        world.close()

    run(main())


# --- EXTEND --------------------------------------------------------------------------------------------


async def extended(world: World, client: Node, relays: list[RelayNode]) -> tuple[OriginCircuit, list[bytes]]:
    """A circuit of two hops, and the EXTEND that made it one."""
    circuit = await client.build(relays[:1])
    parts = extend_to(client, relays[1].info)
    send_early(client, circuit, 0, parts)
    await world.sleep(0.5)
    assert len(relays[1].core.joined) == 1
    client.core.drops.clear()
    return circuit, parts


def test_the_same_extend_again_gets_the_same_answer_again_for_ten_seconds_and_not_after() -> None:
    async def main() -> None:
        world = World()
        relays, client = [world.relay() for _ in range(2)], world.client()
        circuit, parts = await extended(world, client, relays)
        for wait, answers in ((1, 1), (8.2, 2), (1.5, 2)):
            await world.sleep(wait)
            send_early(client, circuit, 0, parts)
            await world.sleep(0.1)
            assert client.core.drops == {Drop.UNEXPECTED: answers}, "EXTENDED that nobody waits for"
        assert relays[0].core.drops == {Drop.UNEXPECTED: 1}
        assert len(relays[1].core.joined) == 1
        assert not relays[1].core.drops
        world.close()

    run(main())


def test_another_extend_while_one_is_under_way_or_done_is_dropped() -> None:
    async def main() -> None:
        world = World()
        relays, client = [world.relay() for _ in range(3)], world.client()
        circuit = await client.build(relays[:1])
        send_early(client, circuit, 0, extend_to(client, relays[1].info))
        send_early(client, circuit, 0, extend_to(client, relays[2].info))
        await world.sleep(0.5)
        send_early(client, circuit, 0, extend_to(client, relays[2].info))
        await world.sleep(0.5)
        assert relays[0].core.drops == {Drop.UNEXPECTED: 2}
        assert len(relays[1].core.joined) == 1
        assert len(relays[2].core.links) == 0
        world.close()

    run(main())


Whom = Any


def _itself(relays: list[RelayNode]) -> RelayInfo:
    return relays[1].info


def _itself_under_another_link_key(relays: list[RelayNode]) -> RelayInfo:
    return _known_to(relays[1], RelayInfo(relays[1].info.relay_id, b"e" * 32, b"e" * 32, (("127.9.9.9", 9),)))


def _the_neighbour(relays: list[RelayNode]) -> RelayInfo:
    return relays[0].info


def _a_stranger(relays: list[RelayNode]) -> RelayInfo:
    return RelayInfo(RelayId(b"s" * 32), b"s" * 32, relays[0].info.onion_key, relays[2].info.addresses)


def _a_private_address(relays: list[RelayNode]) -> RelayInfo:
    relays[1].core.limits = RelayLimits()
    return relays[2].info


def _its_own_link_key(relays: list[RelayNode]) -> RelayInfo:
    """Some relay says in its descriptor that it has the victim's link key; the victim knows no better."""
    return _known_to(relays[1], RelayInfo(RelayId(b"e" * 32), relays[1].info.link_key, b"e" * 32, (("127.9.9.9", 9),)))


def _the_neighbours_link_key(relays: list[RelayNode]) -> RelayInfo:
    return _known_to(relays[1], RelayInfo(RelayId(b"e" * 32), relays[0].info.link_key, b"e" * 32, (("127.9.9.9", 9),)))


def _known_to(relay: RelayNode, info: RelayInfo) -> RelayInfo:
    relay.core.__dict__["directory"] = Directory([info])
    return info


@pytest.mark.parametrize(
    "whom",
    [
        _itself,
        _itself_under_another_link_key,
        _the_neighbour,
        _a_stranger,
        _a_private_address,
        _its_own_link_key,
        _the_neighbours_link_key,
    ],
    ids=lambda whom: whom.__name__.strip("_").replace("_", " "),
)
def test_a_relay_never_dials(whom: Whom) -> None:
    async def main() -> None:
        world = World()
        relays, client = [world.relay() for _ in range(3)], world.client()
        circuit = await client.build(relays[:2])
        await world.sleep(0.5)
        links, sent = len(relays[1].core.links), []
        info = whom(relays)
        onion_key = KeyPair.generate(world.rng()).public
        real = RelayInfo(info.relay_id, info.link_key, onion_key, info.addresses)
        end = world.network.tap(
            lambda seen: sent.append(seen.destination) if seen.source == relays[1].address else None
        )
        send_early(client, circuit, 1, extend_to(client, real))
        await world.sleep(0.5)
        end()
        assert relays[1].core.drops == {Drop.REFUSED: 1}
        assert len(relays[1].core.links) == links
        assert set(sent) == {relays[0].address}, "nobody hears of it but the neighbour, who passes TRUNCATED on"
        assert len(relays[0].core.joined) == 1
        assert joined(relays[1]).extension is None
        world.close()

    run(main())


def test_a_relay_keeps_a_bounded_number_of_creates_towards_one_next_hop_and_the_rest_waits() -> None:
    async def main() -> None:
        world = World()
        relays, client = [world.relay() for _ in range(2)], world.client()
        await client.build(relays)
        world.network.unplug(relays[1].address)
        for _ in range(MAX_OPEN_CREATES + 8):
            client.start(relays)
        await world.sleep(2)
        lane = relays[0].core.lanes[relays[1].info.link_key]
        assert (lane.open, len(lane.waiting)) == (MAX_OPEN_CREATES, 8)
        await world.sleep(HANDSHAKE_TIMEOUT + 10)
        assert (lane.open, len(lane.waiting)) == (0, 0)
        assert_nothing_left(world)
        world.close()

    run(main())


def test_what_a_closed_circuit_left_in_a_queue_goes_with_it_and_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(extend_module, "MAX_OPEN_CREATES", 1)
        world = World()
        relays = [world.relay() for _ in range(2)]
        flood = world.client()
        await flood.build(relays)
        world.network.unplug(relays[1].address)
        circuits = []
        for _ in range(3):
            circuits.append(flood.start(relays))
            await world.sleep(0.3)
        lane = relays[0].core.lanes[relays[1].info.link_key]
        assert (lane.open, len(lane.waiting)) == (1, 2)
        truncated, said = RelayCircuit.truncated, []

        def watched(circuit: RelayCircuit, now: float, *, tell: bool) -> None:
            said.append(circuit.closed)
            truncated(circuit, now, tell=tell)

        monkeypatch.setattr(RelayCircuit, "truncated", watched)
        for number, left in ((1, (1, 1)), (0, (1, 0)), (2, (0, 0))):
            circuits[number].close(CloseReason.REQUESTED, flood.driver.now())
            flood.driver.wake()
            await world.sleep(0.3)
            assert (lane.open, len(lane.waiting)) == left
        assert said == [], "nothing is written under wiped keys"
        assert not relays[0].core.lanes
        world.close()

    run(main())


# --- what ends a circuit, and what does not -----------------------------------------------------------


@pytest.mark.parametrize("flag", [2, 7, 255])
def test_a_flag_that_does_not_exist_closes_the_circuit(flag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World()
        relays, client = [world.relay(exits=True) for _ in range(2)], world.client()
        circuit = await client.build(relays)
        monkeypatch.setattr(onion, "FOR_YOU", flag)
        client.send(circuit, b"")
        await world.sleep(0.5)
        assert relays[1].core.drops == {Drop.MALFORMED: 1}
        assert closed(client) == [(CloseReason.TRUNCATED, 1)]
        await world.sleep(5)
        assert_nothing_left(world)
        world.close()

    run(main())


@pytest.mark.parametrize(
    "payload", [b"", b"\x00\x00\x00", b"\x63\x00\x00", b"\x07\x00\x00", b"\x05\xff\xff", b"\x81\x00\x04"]
)
def test_a_message_that_is_none_is_dropped_and_ends_nothing(payload: bytes) -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(), world.client()
        circuit = await client.build([relay])
        padded = payload.ljust(8, b"\0")
        circuit._send_parts(0, [padded], client.driver.now())  # noqa: SLF001 (a hostile originator)
        client.driver.wake()
        await world.sleep(0.5)
        assert sum(relay.core.drops.values()) == 1
        assert state_of(circuit) is State.OPEN
        world.close()

    run(main())


def test_passing_on_with_nobody_behind_is_dropped() -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(), world.client()
        circuit = await client.build([relay])
        circuit._layers.add(OTHER_KEYS)  # noqa: SLF001 (an originator that thinks there is one more)
        circuit._send_parts(1, [b"\x09\x00\x00"], client.driver.now())  # noqa: SLF001
        client.driver.wake()
        await world.sleep(0.5)
        assert relay.core.drops == {Drop.UNEXPECTED: 1}
        assert state_of(circuit) is State.OPEN
        world.close()

    run(main())


OTHER_KEYS = HopKeys(b"1" * 32, b"2" * 32, b"3" * 32, b"4" * 32, b"5" * 32, 6)


def test_who_uses_a_circuit_we_do_not_have_is_told_at_most_once_a_second() -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(), world.client()
        circuit = await client.build([relay])
        session = circuit.link.current
        assert session is not None
        for second in range(3):
            for number in range(10):
                train = session.train()
                assert train is not None
                train.head(12345, Command.RELAY, 100 * second + number)
                train.count += 1
            client.driver.wake()
            await world.sleep(1.01)
            assert relay.core.drops == {Drop.UNKNOWN_CIRCUIT: 10 * (second + 1)}
            assert client.core.drops == {Drop.UNKNOWN_CIRCUIT: second + 1}, "a DESTROY each, for what it has not either"
        assert state_of(circuit) is State.OPEN
        world.close()

    run(main())


def test_a_relay_that_forgot_a_circuit_gets_it_closed_by_the_next_cell() -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(exits=True), world.client()
        circuit = await client.build([relay])
        lost = joined(relay)
        lost.link.forget(lost.forward_id, lost.back_id)
        client.send(circuit, b"anybody?")
        await world.sleep(0.5)
        assert closed(client) == [(CloseReason.DESTROYED, None)]
        world.close()

    run(main())


def test_destroy_is_said_three_times() -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(), world.client()
        circuit = await client.build([relay])
        circuit.close(CloseReason.REQUESTED, client.driver.now())
        client.driver.wake()
        for at, late in ((0.1, 0), (0.5, 1), (1.6, 2), (5, 2)):
            await world.sleep(at)
            assert relay.core.drops[Drop.UNKNOWN_CIRCUIT] == late
        assert not relay.core.joined
        world.close()

    run(main())


def test_a_lost_destroy_is_made_up_for() -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(), world.client()
        circuit = await client.build([relay])
        world.network.unplug(client.address)
        circuit.close(CloseReason.REQUESTED, client.driver.now())
        client.driver.wake()
        await world.sleep(1)
        world.network.plug(client.address)
        await world.sleep(1.2)
        assert not relay.core.joined
        world.close()

    run(main())


def test_counters_that_are_used_up_end_the_circuit_before_they_repeat() -> None:
    async def main() -> None:
        world = World()
        relay, client = world.relay(exits=True, exit_single_hop=True), world.client()
        ours, theirs = await client.build([relay]), await client.build([relay])
        ours._counter = COUNTER_SEND_LIMIT - 1  # noqa: SLF001 (four years at full speed)
        client.send(ours, b"the last")
        await world.sleep(0.5)
        assert closed(client) == [(CloseReason.COUNTER_USED_UP, None)]
        assert client.received() == []
        joined(relay).layer.backward_counter = COUNTER_SEND_LIMIT
        client.send(theirs, b"the last")
        await world.sleep(0.5)
        assert CloseReason.COUNTER_USED_UP in [
            event.reason for event in relay.happened if isinstance(event, RelayCircuitClosed)
        ]
        assert client.received() == [b"tsal eht"]
        assert len([event for event in client.happened if isinstance(event, CircuitClosed)]) == 2
        world.close()

    run(main())


# --- exits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("exits", "hops"), [(False, 2), (True, 1)], ids=["no exit", "the only hop"])
def test_a_datagram_that_must_not_leave_here_is_rejected_at_most_once_a_second(exits: bool, hops: int) -> None:  # noqa: FBT001
    async def main() -> None:
        world = World()
        relays, client = [world.relay(exits=exits) for _ in range(hops)], world.client()
        circuit = await client.build(relays)
        await world.sleep(1)
        for _ in range(5):
            client.send(circuit, b"out")
        await world.sleep(0.5)
        told = [event for event in client.happened if isinstance(event, DatagramRejected)]
        assert [event.reason for event in told] == [RejectReason.NOT_AN_EXIT]
        assert relays[-1].core.drops == {Drop.REFUSED: 5}
        assert client.received() == []
        world.close()

    run(main())


def test_a_hop_that_is_not_the_last_has_no_datagrams_for_us() -> None:
    async def main() -> None:
        world = World()
        relays, client = [world.relay(exits=True) for _ in range(2)], world.client()
        circuit = await client.build(relays)
        joined(relays[0]).send(Datagram(Destination("192.0.2.1", 5), b"psst"), relays[0].driver.now())
        relays[0].driver.wake()
        await world.sleep(0.5)
        assert client.received(circuit) == []
        assert client.core.drops == {Drop.UNEXPECTED: 1}
        world.close()

    run(main())
