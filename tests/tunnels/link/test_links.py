"""SPEC 4.2 to 4.8 between whole nodes on the virtual network: what links survive, and what they must not do."""
# ruff: noqa: SLF001 (what must not stay or grow is looked at where it is kept)

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

import pytest

from sim.loop import run
from sim.network import Datagram, Fate, Pipe, unit
from tests.support.nodes import Node, RelayNode, World
from tests.support.plugin import Size
from tunnels.crypto.x25519 import KeyPair
from tunnels.ids import Address, CircuitId, CloseReason, Drop, Index, Rng
from tunnels.link import links as links_module
from tunnels.link.handshake import tai64n
from tunnels.link.link import Link, LinkState
from tunnels.link.links import Links
from tunnels.link.session import SCRATCH_SIZE, Session
from tunnels.params import (
    CELL_SIZE,
    HANDSHAKE_TIMEOUT,
    LINK_IDLE,
    LINK_PROBE_INTERVAL,
    LINK_PROBES,
    LINK_SILENCE,
    MAX_LINK_PENDING,
    PENDING_SESSION,
    PREVIOUS_SESSION,
    REKEY_AFTER_TIME,
    REKEY_JITTER,
    RETRY_DELAYS,
    SESSION_LIFETIME,
)
from tunnels.wire import link_messages as lm
from tunnels.wire.destination import Destination
from tunnels.wire.link_messages import Answer, Padding
from tunnels.wire.messages import Datagram as Message

DELAY: Final = 0.01


class Cable:
    """One direction between two nodes, with a number for each datagram and a say in its fate."""

    def __init__(self, lose: Callable[[int], bool] = lambda number: False) -> None:
        self.lose = lose
        self.sent: list[float] = []

    def carry(self, size: int, now: float, rng: Rng) -> tuple[float, ...] | Fate:
        assert size == CELL_SIZE + 28
        self.sent.append(now)
        return Fate.LOST if self.lose(len(self.sent) - 1) else (now + DELAY,)


def cable(world: World, source: Node, target: Node, lose: Callable[[int], bool] = lambda number: False) -> Cable:
    made = Cable(lose)
    world.network.set_route(source.address, target.address, made)
    return made


def first(count: int) -> Callable[[int], bool]:
    return lambda number: number < count


def dial(node: Node, relay: RelayNode) -> Link:
    link: Link = node.core.links.dial(relay.info.link_key, relay.address, node.driver.now())
    node.driver.wake()
    return link


def link_to(node: Node, other: RelayNode) -> Link:
    found: list[Link] = [link for link in node.core.links if link.remote == other.info.link_key]
    assert len(found) == 1
    return found[0]


def relays_by_static(world: World) -> tuple[RelayNode, RelayNode]:
    """Two relays, the one with the smaller static first."""
    low, high = sorted((world.relay(exits=True, exit_single_hop=True) for _ in range(2)), key=lambda r: r.info.link_key)
    return low, high


def play(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run(main())


async def carries(world: World, sender: Node, receiver: Node) -> bool:
    """Whether a cell gets from one node to the other and one comes back."""
    link = next(link for link in sender.core.links if link.state is LinkState.UP)
    heard = link.heard
    link.send(Padding(Answer.WANTED))
    sender.driver.wake()
    await world.sleep(4 * DELAY)
    return bool(link.heard > heard)


# --- opening -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", range(len(RETRY_DELAYS) + 1))
@pytest.mark.parametrize("direction", ["initiation", "response"])
def test_a_link_opens_although_tries_are_lost(lost: int, direction: str) -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(), world.client()
        source, target = (client, relay) if direction == "initiation" else (relay, client)
        cable(world, source, target, first(lost))
        link = dial(client, relay)
        await world.sleep(sum(RETRY_DELAYS[:lost]) + 3 * DELAY)
        assert link.state is LinkState.UP
        await world.sleep(1)
        assert await carries(world, client, relay)
        assert len(relay.core.links) == 1
        world.close()

    play(main)


def test_an_unanswered_initiation_is_sent_at_0_1_3_and_7_seconds_and_given_up_at_10() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(), world.client()
        wire = cable(world, client, relay, lambda number: True)
        circuit = client.start([relay])
        link = circuit.link
        await world.sleep(HANDSHAKE_TIMEOUT - 0.01)
        assert wire.sent == pytest.approx([sum(RETRY_DELAYS[:n]) for n in range(len(RETRY_DELAYS) + 1)])
        assert len(client.core.links) == 1
        await world.sleep(0.02)
        assert link.state is LinkState.DOWN
        assert circuit.closed_because is CloseReason.LINK_FAILED
        assert not len(client.core.links)
        world.close()

    play(main)


def test_every_try_has_a_new_ephemeral_and_a_new_index() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(), world.client()
        seen: list[bytes] = []
        world.network.tap(lambda datagram: seen.append(datagram.data))
        cable(world, client, relay, lambda number: True)
        dial(client, relay)
        await world.sleep(HANDSHAKE_TIMEOUT)
        assert len({datagram[:4] for datagram in seen}) == len({datagram[4:80] for datagram in seen}) == len(seen) == 4
        world.close()

    play(main)


def test_a_node_that_is_no_relay_never_answers_an_initiation_even_one_made_for_it() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relay, client, stranger = world.relay(), world.client(), world.relay()
        dial(client, relay)
        await world.sleep(1)
        (link,) = client.core.links
        sent = cable(world, client, stranger)
        stranger.core.links.dial(link.static.public, client.address, stranger.driver.now())
        stranger.driver.wake()
        await world.sleep(HANDSHAKE_TIMEOUT + 1)
        assert not sent.sent
        assert client.core.drops[Drop.UNKNOWN_INDEX] == 4
        world.close()

    play(main)


def test_a_client_shows_every_relay_another_static_and_another_one_after_each_start() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relays = [world.relay() for _ in range(3)]
        for _ in range(2):
            client = world.client()
            for relay in relays:
                dial(client, relay)
            await world.sleep(1)
        shown = [link.remote for relay in relays for link in relay.core.links]
        assert len(shown) == len(set(shown)) == 6
        world.close()

    play(main)


def test_a_client_is_known_again_by_nobody_but_the_same_relay() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(), world.client()
        dial(client, relay)
        await world.sleep(1)
        before = [link.remote for link in relay.core.links]
        for node in (client, relay):
            node.core.links.close_all(node.driver.now())
        dial(client, relay)
        await world.sleep(1)
        assert [link.remote for link in relay.core.links] == before
        world.close()

    play(main)


def test_timestamps_of_a_client_do_not_tell_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bytes] = []

    def noted(wall: float) -> bytes:
        shown.append(tai64n(wall))
        return shown[-1]

    async def main() -> None:
        world = World(delay=DELAY)
        relays = [world.relay() for _ in range(3)]
        client = world.client()
        monkeypatch.setattr(links_module, "tai64n", noted)
        for relay in relays:
            dial(client, relay)
        seconds = [int.from_bytes(stamp[:8]) for stamp in shown]
        true = int.from_bytes(tai64n(world.loop.wall())[:8])
        assert len(seconds) == len(set(seconds)) == 3
        assert all(abs(true - each) > 10 * 365 * 86400 for each in seconds)
        await world.sleep(1)
        assert len(client.core.links) == sum(len(relay.core.links) for relay in relays) == 3
        world.close()

    play(main)


def test_a_handshake_of_another_network_opens_nothing() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relay = world.relay()
        world.network_id = b"other"
        client = world.client()
        link = dial(client, relay)
        await world.sleep(HANDSHAKE_TIMEOUT + 1)
        assert link.state is LinkState.DOWN
        assert relay.core.drops[Drop.BAD_HANDSHAKE] == 4
        world.close()

    play(main)


# --- both at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [0.0, 0.4])
def test_two_relays_that_dial_each_other_end_with_one_link_that_works_both_ways_and_lasts(
    size: Size, loss: float
) -> None:
    """Delays differ from datagram to datagram, so that everything can cross everything."""

    async def main(seed: int) -> None:
        world = World(seed=seed)
        dice = world.rng()
        pair = relays_by_static(world)
        low, high = pair
        for source, target in (pair, pair[::-1]):
            world.network.set_route(source.address, target.address, Pipe(delay=lambda rng: 0.05 * unit(rng), loss=loss))
        for node, other in sorted(zip(pair, pair[::-1], strict=True), key=lambda _: dice.below(2)):
            node.start([other])
            await world.sleep(0.08 * unit(dice))
        for _ in range(20):
            dice_says = dice.below(2)
            for link in pair[dice_says].core.links:
                link.send(Padding(Answer.NOT_WANTED))
            pair[dice_says].driver.wake()
            await world.sleep(0.01)
        await world.sleep(1.5)
        for source, target in (pair, pair[::-1]):
            world.network.set_route(source.address, target.address, Pipe(delay=DELAY))
        await world.sleep(HANDSHAKE_TIMEOUT + PREVIOUS_SESSION + 5)
        ours, theirs = link_to(low, high), link_to(high, low)
        assert ours.state is theirs.state is LinkState.UP
        assert ours.current is not None
        assert theirs.current is not None
        assert int.from_bytes(ours.current.peer_index) == theirs.current.index
        assert int.from_bytes(theirs.current.peer_index) == ours.current.index
        assert ours.current.initiator is not theirs.current.initiator
        for node in (low, high):
            await node.build([high if node is low else low])
        assert len(low.core.links) == len(high.core.links) == 1
        world.close()

    for seed in range(size(small=60, long=2000)):
        run(main(seed))


def test_two_sessions_that_crossed_become_one_although_the_cells_that_would_say_so_are_lost() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        low, high = relays_by_static(world)
        cable(world, low, high, lambda number: number == 2)  # response, initiation, and then what confirms
        cable(world, high, low, lambda number: number == 1)  # initiation, what confirms, and then the response
        dial(high, low)
        await world.sleep(DELAY + 0.001)
        dial(low, high)
        await world.sleep(3 * DELAY)
        ours, theirs = link_to(low, high), link_to(high, low)
        assert ours.current is not None
        assert theirs.current is not None
        assert ours.current.initiator
        assert theirs.current.initiator
        await world.sleep(PENDING_SESSION + 1)
        for node, other in ((low, high), (high, low)):
            before = world.loop.time()
            await node.build([other])
            assert world.loop.time() - before < 0.1
        world.close()

    play(main)


# --- sessions come and go ----------------------------------------------------------------------------


class Stream:
    """Numbered datagrams through a circuit, one each `interval` seconds, and which of them came back."""

    def __init__(self, world: World, client: Node, relays: Iterable[RelayNode]) -> None:
        self.world, self.client, self.relays = world, client, list(relays)
        self.sent: list[bytes] = []
        self._number = 0

    async def flow(self, seconds: float, interval: float) -> None:
        end = self.world.loop.time() + seconds
        while self.world.loop.time() < end:
            self._number += 1
            self.sent.append(self._number.to_bytes(4))
            self.client.send(self.circuit, self.sent[-1])
            await self.world.sleep(interval)

    async def start(self) -> "Stream":
        self.circuit = await self.client.build(self.relays)
        return self

    @property
    def lost(self) -> list[bytes]:
        came = self.client.received()
        assert len(came) == len(set(came))
        return [data for data in self.sent if data[::-1] not in came]


def sessions(link: Link) -> list[Session]:
    return [session for session in (link.current, link.previous) if session is not None]


@pytest.mark.parametrize("lost", range(4))
@pytest.mark.parametrize("who", ["REKEY", "REKEYED"])
def test_a_session_is_renewed_after_an_hour_without_losing_a_cell(
    monkeypatch: pytest.MonkeyPatch, who: str, lost: int
) -> None:
    """The renewing cells themselves are lost, not those that flow beside them."""
    kept = Session.seal
    made = [0]

    def lossy(self: Session, command: Any, text: bytes, rng: Rng) -> bool:
        if command.name == who:
            made[0] += 1
            if made[0] <= lost:
                return True
        return kept(self, command, text, rng)

    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(exits=True, exit_single_hop=True), world.client()
        stream = await Stream(world, client, [relay]).start()
        (link,) = client.core.links
        old = link.current
        await stream.flow(REKEY_AFTER_TIME * (1 - REKEY_JITTER) - 10, 4)
        assert link.current is old
        monkeypatch.setattr(Session, "seal", lossy)
        await stream.flow(REKEY_AFTER_TIME * REKEY_JITTER + 20, 0.5)
        await world.sleep(1)
        assert link.current is not old
        assert made[0] == lost + 1
        assert stream.lost == []
        (far,) = relay.core.links
        await stream.flow(PREVIOUS_SESSION + 5, 0.5)
        assert sessions(link) == [link.current]
        assert sessions(far) == [far.current]
        assert stream.circuit.closed_because is None
        assert stream.lost == []
        world.close()

    play(main)


def test_a_renewed_session_is_used_although_what_would_say_so_is_lost() -> None:
    """Else the responder would go on with the old session, which the initiator forgets."""

    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(exits=True, exit_single_hop=True), world.client()
        circuit = await client.build([relay])
        (link,), (far,), (theirs,) = client.core.links, relay.core.links, relay.core.joined
        wire = cable(world, client, relay)
        await world.sleep(REKEY_AFTER_TIME * (1 - REKEY_JITTER) - 20)
        while not far.pending:
            await world.sleep(DELAY / 2)
        answered = len(wire.sent)
        wire.lose = lambda number: number < answered + 3
        for number in range(40):
            assert relay.engine.send_backward(theirs, message(number), relay.driver.now())
            relay.driver.wake()
            await world.sleep(0.5)
        assert len(client.received(circuit)) == 40
        assert far.current is not None
        assert link.current is not None
        assert far.current.born > 3000
        assert int.from_bytes(far.current.peer_index) == link.current.index
        world.close()

    play(main)


def message(number: int) -> Message:
    return Message(Destination("192.0.2.1", 53), number.to_bytes(4))


def test_the_previous_session_is_accepted_for_15_seconds_after_its_successor_carried_a_cell_and_no_longer() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(), world.client()
        link = (await client.build([relay])).link
        (far,) = relay.core.links
        old, far_old = link.current, far.current
        assert old is not None
        await world.sleep(REKEY_AFTER_TIME * (1 - REKEY_JITTER) - 20)
        while far.current is far_old:
            await world.sleep(DELAY)
        renewed = world.loop.time()
        scratch = bytearray(SCRATCH_SIZE)

        await world.sleep(PREVIOUS_SESSION - 1)
        cells = [old.single(Padding(Answer.NOT_WANTED), client.core.rng, scratch) for _ in range(2)]
        world.network.inject(cells[0], client.address, relay.address)
        await world.sleep(0.1)
        assert world.loop.time() > renewed + PREVIOUS_SESSION - 1
        assert relay.core.drops.total() == 0
        await world.sleep(3)
        world.network.inject(cells[1], client.address, relay.address)
        await world.sleep(0.1)
        assert relay.core.drops == {Drop.BAD_MAC1: 1}
        world.close()

    play(main)


def test_a_session_that_cannot_be_renewed_dies_at_two_hours_and_takes_the_circuits_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Links, "_on_rekey", lambda *_: None)
    monkeypatch.setitem(links_module.__dict__, "REKEY_JITTER", 0.0)

    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(exits=True, exit_single_hop=True), world.client()
        stream = await Stream(world, client, [relay]).start()
        await stream.flow(SESSION_LIFETIME - 10, 5)
        assert stream.lost == []
        await stream.flow(8, 1)
        assert stream.circuit.closed_because is None
        await world.sleep(10)
        assert stream.circuit.closed_because in {CloseReason.LINK_FAILED, CloseReason.DESTROYED}
        assert not len(client.core.links)
        assert not len(relay.core.joined)
        world.close()

    play(main)


def test_a_link_without_circuits_is_forgotten_at_both_ends() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(), world.client()
        dial(client, relay)
        await world.sleep(LINK_IDLE - 1)
        assert len(client.core.links) == len(relay.core.links) == 1
        await world.sleep(1 + 2 * LINK_PROBE_INTERVAL)
        assert len(client.core.links) == len(relay.core.links) == 0
        assert not relay.core.links._sessions
        assert not client.core.links._sessions
        world.close()

    play(main)


def test_a_link_with_circuits_is_not_forgotten_while_its_neighbour_answers() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(), world.client()
        circuit = await client.build([relay])
        await world.sleep(100)
        assert circuit.closed_because is None
        world.close()

    play(main)


def test_a_silent_neighbour_is_probed_three_times_and_then_every_circuit_on_the_link_is_told() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        first_relay, middle, last = (world.relay() for _ in range(3))
        client = world.client()
        circuit = await client.build([first_relay, middle, last])
        wire = cable(world, first_relay, middle)
        world.network.unplug(middle.address)
        died = world.loop.time()
        await world.sleep(LINK_SILENCE + LINK_PROBES * LINK_PROBE_INTERVAL - 0.5)
        assert len(wire.sent) <= LINK_PROBES
        assert circuit.closed_because is None
        await world.sleep(2 * LINK_PROBE_INTERVAL + 1)
        assert circuit.closed_because is CloseReason.TRUNCATED
        assert world.loop.time() - died < 15
        assert not [link for link in first_relay.core.links if link.remote == middle.info.link_key]
        await world.sleep(10)
        assert not last.core.joined
        assert last.core.closed[CloseReason.LINK_FAILED] == 1
        world.close()

    play(main)


@pytest.mark.parametrize("who", ["client", "relay"])
def test_a_neighbour_that_starts_again_with_its_old_key_and_nothing_else_is_reached_again(who: str) -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relay = world.relay(exits=True, exit_single_hop=True)
        other: Node = world.client() if who == "client" else world.relay()
        first_circuit = await other.build([relay])
        reborn(world, relay)
        await world.sleep(0.1)
        with pytest.raises(ConnectionError):
            await other.build([relay])  # over a link that only we believe in
        await world.sleep(LINK_PROBE_INTERVAL)
        assert first_circuit.closed_because is CloseReason.LINK_FAILED
        await other.build([relay])
        world.close()

    play(main)


def test_a_relay_that_starts_again_and_dials_first_replaces_the_session_at_once() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relay, other = world.relay(), world.relay(exits=True, exit_single_hop=True)
        await other.build([relay])
        await world.sleep(HANDSHAKE_TIMEOUT)  # sooner it is taken for a handshake that crossed ours
        reborn(world, relay)
        link = link_to(other, relay)
        old = link.current
        await relay.build([other])
        assert link_to(other, relay) is link
        assert link.current is not old
        world.close()

    play(main)


def reborn(world: World, relay: RelayNode) -> None:
    """The same process with the same saved keys, a moment later: no session, no circuit, no timestamp is left."""
    core, now = relay.core, world.loop.time()
    engine_links = core.links
    for link in list(engine_links):
        engine_links.close(link, now)
    core.events.clear()
    assert not len(core.joined)
    list(engine_links.drain())


# --- what is not known --------------------------------------------------------------------------------


def test_a_cell_for_an_unknown_circuit_is_answered_with_destroy_at_most_once_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[lm.Destroy] = []
    kept = Links._on_destroy

    def noted(self: Links, link: Link, message: Any, now: float) -> None:
        answers.append(message)
        kept(self, link, message, now)

    monkeypatch.setattr(Links, "_on_destroy", noted)

    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(), world.client()
        circuit = await client.build([relay])
        true_id, circuit.out_id = circuit.out_id, CircuitId(circuit.out_id ^ 1)
        for _ in range(30):
            circuit.ping(client.driver.now())
            client.driver.wake()
            await world.sleep(0.1)
        assert len(answers) == 3
        assert {(each.circuit_id, each.sender_id) for each in answers} == {(None, true_id ^ 1)}
        assert relay.core.drops[Drop.UNKNOWN_CIRCUIT] == 30
        assert circuit.closed_because is None  # it is not *its* id that the neighbour does not know
        world.close()

    play(main)


def test_a_circuit_that_the_neighbour_lost_is_closed_by_its_first_cell() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(), world.client()
        circuit = await client.build([relay])
        (far,) = relay.core.links
        (theirs,) = relay.core.joined
        far.forget(theirs.forward_id, theirs.back_id)
        circuit.ping(client.driver.now())
        client.driver.wake()
        await world.sleep(1)
        assert circuit.closed_because is CloseReason.DESTROYED
        world.close()

    play(main)


# --- answers that nobody confirms ------------------------------------------------------------------------


def test_answered_initiations_are_forgotten_after_ten_seconds() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relay = world.relay()
        clients = [world.client() for _ in range(20)]
        for client in clients:
            cable(world, client, relay, lambda number: number > 0)
            cable(world, relay, client, lambda number: True)
            dial(client, relay)
        await world.sleep(1)
        assert len(relay.core.links._pending) == len(relay.core.links._sessions) == 20
        assert len(relay.core.links) == 0
        await world.sleep(PENDING_SESSION)
        assert not relay.core.links._pending
        assert not relay.core.links._sessions
        world.close()

    play(main)


def test_one_neighbour_has_few_unconfirmed_sessions_and_all_have_a_bound_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(links_module.__dict__, "MAX_PENDING_SESSIONS", 10)

    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(), world.client()
        await client.build([relay])
        (link,) = client.core.links
        links = client.core.links
        for _ in range(3 * MAX_LINK_PENDING):
            links._dials[link] = links_module._Dial(client.driver.now(), [], [])
            links._shake(link, client.driver.now())
            links._end_dial(link)
            client.driver.wake()
            await world.sleep(0.1)
        (far,) = relay.core.links
        assert len(far.pending) == MAX_LINK_PENDING
        for _ in range(20):
            stranger = world.client()
            cable(world, relay, stranger, lambda number: True)
            dial(stranger, relay)
            await world.sleep(0.01)
        await world.sleep(0.1)
        assert len(relay.core.links._pending) == 10
        assert len(relay.core.links._sessions) == 11
        world.close()

    play(main)


def test_rekeys_wait_for_their_turn_and_a_neighbour_has_one_at_a_time() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(turn=1.0), world.client()
        await client.build([relay])
        (link,) = client.core.links
        for number in range(100):
            link.send(lm.Rekey(Index(0x01000000 + number), bytes(1292)))
        client.driver.wake()
        await world.sleep(0.5)
        assert relay.core.drops[Drop.BAD_HANDSHAKE] <= 2
        world.close()

    play(main)


# --- addresses -----------------------------------------------------------------------------------------


def elsewhere(number: int = 1) -> Address:
    return f"127.200.{number}.1", 4000 + number


def test_a_client_behind_a_nat_that_is_rebound_goes_on() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relays = [world.relay(exits=True) for _ in range(3)]
        client = world.client()
        stream = await Stream(world, client, relays).start()
        await stream.flow(3, 0.1)
        (far,) = (link for link in relays[0].core.links if link.address == client.address)
        old, new = client.address, elsewhere()
        world.network.move(old, new)
        client.address = new
        await stream.flow(1, 0.1)
        assert far.address == new
        stream.sent.clear()
        await stream.flow(3, 0.1)
        await world.sleep(1)
        assert stream.lost == []
        assert stream.circuit.closed_because is None
        world.close()

    play(main)


def test_a_nat_that_is_rebound_again_and_again_is_followed() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(exits=True, exit_single_hop=True), world.client()
        stream = await Stream(world, client, [relay]).start()
        for number in range(1, 6):
            new = elsewhere(number)
            world.network.move(client.address, new)
            client.address = new
            await stream.flow(3, 0.1)
            (far,) = relay.core.links
            assert far.address == new
        assert stream.circuit.closed_because is None
        world.close()

    play(main)


def test_the_answer_of_the_relay_may_come_from_anywhere_and_moves_nothing() -> None:
    """The address of a link is the one that was dialled: a copy of the response from elsewhere is only a response."""

    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(), world.client()

        def copy(datagram: Datagram) -> None:
            if datagram.source == relay.address:
                world.network.inject(datagram.data, elsewhere(), client.address)

        world.network.tap(copy)
        link = dial(client, relay)
        await world.sleep(0.1)
        assert link.state is LinkState.UP
        assert link.address == relay.address
        await world.sleep(10)
        assert link.address == relay.address
        world.close()

    play(main)


def test_an_initiation_that_was_copied_and_came_first_leaves_the_link_with_its_owner() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relay, client = world.relay(), world.client()
        end: list[Callable[[], None]] = []

        def copy(datagram: Datagram) -> None:
            if datagram.source == client.address:
                end.pop()()
                world.network.inject(datagram.data, elsewhere(), relay.address)

        forwarded = world.network.tap(lambda datagram: forward(datagram))  # noqa: PLW0108

        def forward(datagram: Datagram) -> None:
            if datagram.destination == elsewhere():
                world.network.inject(datagram.data, relay.address, client.address)

        end.append(world.network.tap(copy))
        dial(client, relay)
        await world.sleep(0.1)
        forwarded()
        (far,) = relay.core.links
        assert far.address == client.address
        world.close()

    play(main)


def test_a_link_key_pair_is_ours_for_every_neighbour_of_a_relay_and_nobodys_else() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        relays = [world.relay() for _ in range(3)]
        for other in relays[1:]:
            dial(relays[0], other)
        await world.sleep(1)
        assert {link.remote for other in relays[1:] for link in other.core.links} == {relays[0].info.link_key}
        assert all(isinstance(link.static, KeyPair) for link in relays[0].core.links)
        world.close()

    play(main)
