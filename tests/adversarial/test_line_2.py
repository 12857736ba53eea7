"""The security bar's line 2: an altered, repeated, late or forged cell is delivered zero times.

Forward it dies at the next honest hop; backward, where a hop has no key to verify with, at the originator.  Counters
that were made up cost no honest cell.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from sim.loop import run
from tests.adversarial.attacker import (
    Deliveries,
    corrupt,
    drops,
    flipped,
    joined,
    onward_of,
    send_cell,
    taken,
    without_tags,
    without_windows,
)
from tests.support.nodes import Node, RelayNode, World
from tests.support.plugin import Figure, Size
from tunnels.circuit.origin import OriginCircuit, State
from tunnels.crypto import sodium
from tunnels.crypto.onion import FOR_YOU, PASS_ON, PASSED, WRITTEN, RelayLayer
from tunnels.crypto.rng import StreamRng
from tunnels.ids import Drop
from tunnels.params import BODY_OFFSET, BODY_SIZE, CELL_SIZE, COUNTER_LIMIT, MAX_EARLY, REPLAY_WINDOW
from tunnels.wire.cell import Command
from tunnels.wire.cell import nonce as nonce_for
from tunnels.wire.destination import Destination
from tunnels.wire.messages import Datagram, Ping

HOPS: Final = 3

REGIONS: Final = {
    "index": (0, 3),
    "header, circuit id": (4, 7),
    "header, command": (8,),
    "header, counter": (9, 14),
    "header, zeros": (15, 19),
    "tag": (20, 35),
    "flag": (36,),
    "body": (37, 600, 1332, 1333, 1334),
    "last byte": (1349,),
}
"""Bytes of a forward cell (SPEC 2.1, 6.1)."""

BACKWARD_REGIONS: Final = {
    "index": (0, 3),
    "header": (4, 8, 9, 15, 19),
    "flag": (20,),
    "counter or tag": (21, 26, 30, 36),
    "area": (45, 600, 1264),
}
"""Bytes of a backward cell where, on every link, the writer's seal or a hop's flag and counter stand (SPEC 6.2)."""

ONWARD: Final = [f"{hop} to {hop + 1}" for hop in range(HOPS)]


class Scene:
    """A circuit over three relays and what its ends get."""

    def __init__(self, world: World, client: Node, relays: list[RelayNode], circuit: OriginCircuit) -> None:
        self.world, self.client, self.relays, self.circuit = world, client, relays, circuit
        self.out = Deliveries(relays[-1])
        self.nodes: list[Node] = [client, *relays]

    def send(self, data: bytes = b"honest") -> None:
        assert self.client.send(self.circuit, data)

    def answer(self, data: bytes = b"honest") -> None:
        """The exit has a datagram for the originator."""
        circuit = joined(self.relays[-1])
        node = self.relays[-1]
        assert node.engine.send_backward(circuit, Datagram(Destination("192.0.2.1", 53), data), node.driver.now())
        node.driver.wake()

    def got(self) -> list[bytes]:
        return self.client.received(self.circuit)

    def sent_by(self, node: Node) -> int:
        """Cells `node` passed on or wrote."""
        return sum(joined(relay).cells for relay in self.relays if relay is node)

    async def settle(self) -> None:
        """Long enough for a cell to cross the circuit, too short for a PADDING or PING."""
        await self.world.sleep(0.2)


async def scene(seed: int = 2) -> Scene:
    world = World(seed=seed)
    relays = [world.relay(exits=True) for _ in range(HOPS)]
    client = world.client()
    circuit = await client.build(relays)
    await world.sleep(0.5)
    assert not any(node.core.drops for node in world.nodes)
    return Scene(world, client, relays, circuit)


def on_scene(attack: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        here = await scene()
        await attack(here)
        here.world.close()

    run(main())


# --- forward, on the wire ------------------------------------------------------------------------------


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("hop", range(HOPS), ids=ONWARD)
def test_a_flipped_bit_dies_at_the_next_hop_and_spends_nothing(hop: int, region: str) -> None:
    async def attack(here: Scene) -> None:
        source, receiver = here.nodes[hop], here.nodes[hop + 1]
        with taken(here.world, source, receiver) as wire:
            wire.act = lambda cell: [flipped(cell, at, bit) for at in REGIONS[region] for bit in (0, 7)]
            before, cells = drops(receiver), here.sent_by(receiver)
            here.send()
            await here.settle()
            [honest] = wire.seen
            forged = 2 * len(REGIONS[region])
            assert sum((drops(receiver) - before).values()) == forged, "each dies here and is counted"
            assert here.sent_by(receiver) == cells, "nothing of it goes on"
            assert here.out.data == []
            assert not any(drops(node) for node in here.nodes if node is not receiver)
            wire.put(honest)
            await here.settle()
        assert here.out.data == [b"honest"], "the true cell is still good"

    on_scene(attack)


@pytest.mark.parametrize("size", [0, 1, 20, 36, CELL_SIZE - 1, CELL_SIZE + 1, 2 * CELL_SIZE - 1])
@pytest.mark.parametrize("hop", range(HOPS), ids=ONWARD)
def test_a_truncated_or_lengthened_cell_dies_at_the_next_hop(hop: int, size: int) -> None:
    async def attack(here: Scene) -> None:
        source, receiver = here.nodes[hop], here.nodes[hop + 1]
        with taken(here.world, source, receiver) as wire:
            wire.act = lambda cell: [(cell * 2)[:size]]
            here.send()
            await here.settle()
            assert drops(receiver) == {Drop.WRONG_SIZE: 1}
            assert here.out.data == []
            wire.put(wire.seen[0])
            await here.settle()
        assert here.out.data == [b"honest"]

    on_scene(attack)


@pytest.mark.parametrize("hop", range(HOPS), ids=ONWARD)
def test_a_duplicated_cell_is_delivered_once_and_its_copies_die_at_the_next_hop(hop: int) -> None:
    async def attack(here: Scene) -> None:
        source, receiver = here.nodes[hop], here.nodes[hop + 1]
        with taken(here.world, source, receiver) as wire:
            wire.act = lambda cell: [cell] * 5
            here.send()
            await here.settle()
            wire.put(wire.seen[0])
            await here.settle()
        assert here.out.data == [b"honest"]
        assert drops(receiver) == {Drop.REPLAYED: 5}
        assert not any(drops(node) for node in here.nodes if node is not receiver)

    on_scene(attack)


@pytest.mark.parametrize("hop", range(HOPS), ids=ONWARD)
def test_a_cell_older_than_the_window_dies_at_the_next_hop(hop: int) -> None:
    async def attack(here: Scene) -> None:
        source, receiver = here.nodes[hop], here.nodes[hop + 1]
        with taken(here.world, source, receiver) as wire:
            wire.act = lambda cell: []
            here.send(b"late")
            await here.settle()
            wire.act = lambda cell: [cell]
            for number in range(REPLAY_WINDOW):
                here.send(b"")
                if number % 256 == 0:
                    await here.world.sleep(0.001)
            await here.settle()
            assert len(here.out.data) == REPLAY_WINDOW
            wire.put(wire.seen[0])
            await here.settle()
        assert b"late" not in here.out.data
        assert drops(receiver) == {Drop.REPLAYED: 1}

    on_scene(attack)


@pytest.mark.parametrize("at", range(11, 16))
def test_each_of_the_five_zero_bytes_of_a_header_is_looked_at(at: int) -> None:
    """They are all that stands between a header block somebody altered and the circuit it then seems to name."""

    async def attack(here: Scene) -> None:
        session = here.circuit.link.current
        assert session is not None
        send_cell(here.client, here.circuit.link, here.circuit.out_id, Command.RELAY, 1, bytes(BODY_SIZE))
        session.trains[-1].headers[at] = 1
        await here.settle()
        assert drops(here.relays[0]) == {Drop.BAD_HEADER: 1}

    on_scene(attack)


def test_a_cell_of_one_link_is_nothing_on_another() -> None:
    async def attack(here: Scene) -> None:
        with taken(here.world, here.nodes[0], here.nodes[1]) as wire:
            here.send()
            await here.settle()
        before = drops(here.nodes[2])
        here.world.network.inject(wire.seen[0], here.nodes[1].address, here.nodes[2].address)
        await here.settle()
        assert drops(here.nodes[2]) - before == {Drop.BAD_MAC1: 1}
        assert here.out.data == [b"honest"]

    on_scene(attack)


def test_with_tags_unchecked_a_flipped_bit_would_come_through(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(here: Scene) -> None:
        without_tags(monkeypatch)
        with taken(here.world, here.nodes[0], here.nodes[1]) as wire:
            wire.act = lambda cell: [flipped(cell, 20 + HOPS * 17 + 3 + 7)]
            here.send(b"honest")
            await here.settle()
        assert here.out.data == [flipped(b"honest", 0)]

    on_scene(attack)


def test_without_windows_a_duplicate_would_be_delivered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(here: Scene) -> None:
        without_windows(monkeypatch)
        with taken(here.world, here.nodes[0], here.nodes[1]) as wire:
            wire.act = lambda cell: [cell, cell]
            here.send()
            await here.settle()
        assert here.out.data == [b"honest", b"honest"]

    on_scene(attack)


# --- backward, on the wire -----------------------------------------------------------------------------


@pytest.mark.parametrize("region", BACKWARD_REGIONS)
@pytest.mark.parametrize("hop", range(HOPS), ids=ONWARD)
def test_a_flipped_bit_on_the_way_back_dies_at_the_originator_at_the_latest(hop: int, region: str) -> None:
    """Index and header are the link's: they die at its end.  Flag, counters, tag and area are the circuit's."""

    async def attack(here: Scene) -> None:
        source, receiver = here.nodes[hop + 1], here.nodes[hop]
        with taken(here.world, source, receiver) as wire:
            wire.act = lambda cell: [flipped(cell, at, bit) for at in BACKWARD_REGIONS[region] for bit in (0, 7)]
            here.answer()
            await here.settle()
            where = receiver if region in {"index", "header"} else here.client
            assert sum(drops(where).values()) == 2 * len(BACKWARD_REGIONS[region])
            assert not any(drops(node) for node in here.nodes if node is not where)
            assert here.got() == []
            wire.put(wire.seen[0])
            await here.settle()
        assert here.got() == [b"honest"]
        assert here.circuit.state is State.OPEN

    on_scene(attack)


@pytest.mark.parametrize("at", [1349, 1340, 1300])
def test_a_flipped_bit_in_the_tail_alters_nothing_that_is_delivered(at: int) -> None:
    """Behind the seal stand random bytes nobody reads; what was sealed comes through as it was, once."""

    async def attack(here: Scene) -> None:
        with taken(here.world, here.nodes[1], here.nodes[0]) as wire:
            wire.act = lambda cell: [flipped(cell, at), cell]
            here.answer()
            await here.settle()
        assert here.got() == [b"honest"]
        assert drops(here.client) == {Drop.REPLAYED: 1}

    on_scene(attack)


@pytest.mark.parametrize("hop", range(HOPS), ids=ONWARD)
def test_a_duplicate_on_the_way_back_is_delivered_once(hop: int) -> None:
    async def attack(here: Scene) -> None:
        with taken(here.world, here.nodes[hop + 1], here.nodes[hop]) as wire:
            wire.act = lambda cell: [cell] * 3
            here.answer()
            await here.settle()
        assert here.got() == [b"honest"]
        assert drops(here.client) == {Drop.REPLAYED: 2}

    on_scene(attack)


def test_a_cell_older_than_the_window_dies_at_the_originator() -> None:
    async def attack(here: Scene) -> None:
        with taken(here.world, here.nodes[1], here.nodes[0]) as wire:
            wire.act = lambda cell: []
            here.answer(b"late")
            await here.settle()
            wire.act = lambda cell: [cell]
            for number in range(REPLAY_WINDOW):
                here.answer(b"")
                if number % 256 == 0:
                    await here.world.sleep(0.001)
            await here.settle()
            wire.put(wire.seen[0])
            await here.settle()
        assert here.got() == [b""] * REPLAY_WINDOW
        assert drops(here.client) == {Drop.REPLAYED: 1}

    on_scene(attack)


def test_with_seals_unchecked_a_flipped_bit_would_reach_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(here: Scene) -> None:
        without_tags(monkeypatch)
        with taken(here.world, here.nodes[1], here.nodes[0]) as wire:
            wire.act = lambda cell: [flipped(cell, 20 + 2 * 7 + 17 + 3 + 7)]
            here.answer(b"honest")
            await here.settle()
        assert here.got() == [flipped(b"honest", 0)]

    on_scene(attack)


# --- forged counters -----------------------------------------------------------------------------------


def forged(number: int, newest: int) -> tuple[int, bytes]:
    """A counter where it hurts most, and any body."""
    rng = StreamRng(number.to_bytes(32))
    where = (
        newest + 1 + number % REPLAY_WINDOW,
        newest + rng.below(1 << 20),
        rng.below(COUNTER_LIMIT),
        COUNTER_LIMIT - 1,
    )
    return where[number % len(where)] % COUNTER_LIMIT, rng.bytes(BODY_SIZE)


def test_forged_counters_of_the_hop_before_cost_no_honest_cell(size: Size, figure: Figure) -> None:
    number_of_cells: int = size(small=2000, long=100_000)

    async def attack(here: Scene) -> None:
        evil, victim = here.relays[0], here.relays[1]
        layer = joined(victim).layer
        honest = 0
        for number in range(number_of_cells):
            counter, body = forged(number, layer.window.last)
            command = Command.EARLY if number % 2 else Command.RELAY
            send_cell(evil, onward_of(evil).link, onward_of(evil).out_id, command, counter, body)
            if number % 100 == 0:
                here.send(b"%d" % number)
                honest += 1
                await here.world.sleep(0.05)
        await here.settle()
        assert len(here.out.data) == len(set(here.out.data)) == honest
        assert sum(drops(victim).values()) == number_of_cells
        assert drops(victim).keys() <= {Drop.BAD_TAG, Drop.REPLAYED}
        figure("forged forward counters that cost no honest cell", number_of_cells, "cells")

    on_scene(attack)


def test_forged_counters_of_the_guard_cost_the_originator_no_honest_cell(size: Size, figure: Figure) -> None:
    number_of_cells: int = size(small=2000, long=100_000)

    async def attack(here: Scene) -> None:
        guard = here.relays[0]
        honest = 0
        for number in range(number_of_cells):
            counter, body = forged(number, joined(guard).layer.backward_counter)
            send_cell(guard, joined(guard).link, joined(guard).back_id, Command.RELAY, counter, body)
            if number % 100 == 0:
                here.answer(b"%d" % number)
                honest += 1
                await here.world.sleep(0.05)
        await here.settle()
        assert len(here.got()) == len(set(here.got())) == honest
        assert sum(drops(here.client).values()) == number_of_cells
        figure("forged backward counters that cost no honest cell", number_of_cells, "cells")

    on_scene(attack)


def test_forged_datagrams_with_a_live_index_cost_no_honest_cell(size: Size) -> None:
    """Without the header key nobody gets past the header block."""
    number_of_cells: int = size(small=2000, long=100_000)

    async def attack(here: Scene) -> None:
        rng = StreamRng(b"w" * 32)
        with taken(here.world, here.nodes[0], here.nodes[1]) as wire:
            here.send()
            await here.settle()
            index = wire.seen[0][:4]
            for number in range(number_of_cells):
                wire.put(index + rng.bytes(CELL_SIZE - 4))
                if number % 48 == 0:
                    await here.world.sleep(0.001)
            here.send()
            await here.settle()
        assert here.out.data == [b"honest", b"honest"]
        assert drops(here.nodes[1]) == {Drop.BAD_HEADER: number_of_cells}

    on_scene(attack)


def test_with_windows_moved_before_the_tag_one_forged_counter_would_silence_a_hop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def attack(here: Scene) -> None:
        opens = RelayLayer.open_forward

        def hasty(
            self: RelayLayer, body: int, nonce: int, counter: int, out: bytearray, at: int, place: int
        ) -> int | Drop:
            if not self.window.fresh(counter):
                return Drop.REPLAYED
            self.window.mark(counter)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(self.window), "fresh", lambda window, number: True)
                return opens(self, body, nonce, counter, out, at, place)

        monkeypatch.setattr(RelayLayer, "open_forward", hasty)
        evil = here.relays[0]
        send_cell(
            evil, onward_of(evil).link, onward_of(evil).out_id, Command.RELAY, COUNTER_LIMIT - 1, bytes(BODY_SIZE)
        )
        await here.settle()
        here.send()
        await here.settle()
        assert here.out.data == []

    on_scene(attack)


# --- a malicious hop -----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 15, 16, 17, 600, BODY_SIZE - 17, BODY_SIZE - 1])
def test_a_hop_that_flips_bits_behind_its_layer_is_cut_off_by_the_next(at: int) -> None:
    async def attack(here: Scene) -> None:
        evil, cells = corrupt(here.relays[0]), joined(here.relays[1]).cells
        evil.forward = lambda body, flag: (flipped(body, at), flag)
        here.send()
        await here.settle()
        assert drops(here.relays[1]) == {Drop.BAD_TAG: 1}
        assert joined(here.relays[1]).cells == cells
        assert here.out.data == []
        evil.forward = lambda body, flag: (body, flag)
        here.send()
        await here.settle()
        assert here.out.data == [b"honest"]

    on_scene(attack)


def tagged(body: bytes) -> bytes:
    """The mark of two colluding hops: a pattern in the part that becomes the payload at the exit."""
    for at in range(17 * 2 + 20, 17 * 2 + 60):
        body = flipped(body, at, at % 8)
    return body


@pytest.mark.parametrize("honest", [True, False], ids=["honest middle", "tags unchecked"])
def test_two_colluding_hops_around_an_honest_one_cannot_tag_a_cell(
    honest: bool,  # noqa: FBT001 (with and without the defence)
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def attack(here: Scene) -> None:
        if not honest:
            without_tags(monkeypatch)
        guard, leaver = corrupt(here.relays[0]), corrupt(here.relays[2])
        guard.forward = lambda body, flag: (tagged(body), flag)
        here.send(bytes(1000))
        await here.settle()
        if honest:
            assert leaver.sees == [], "the mark dies in between, and the cell with it"
            assert here.out.data == []
        else:
            assert here.out.data != [bytes(1000)]
            assert len(leaver.sees) == 1, "without tags the exit finds the guard's mark"

    on_scene(attack)


@pytest.mark.parametrize("command", [Command.EARLY, Command.RELAY])
def test_a_hop_that_marks_early_as_relay_or_relay_as_early_is_cut_off_by_the_next(command: Command) -> None:
    """The nonce of a layer binds the command."""

    async def attack(here: Scene) -> None:
        guard, middle = here.relays[0], here.relays[1]
        while command is Command.RELAY and here.circuit.cells_sent < MAX_EARLY:
            here.send(b"used up")
        await here.settle()
        here.out.data.clear()
        evil, onward = corrupt(guard), onward_of(guard)
        evil.swallow()
        here.send()
        await here.settle()
        [cell] = evil.opened
        assert cell.command == command
        other = Command.RELAY if command is Command.EARLY else Command.EARLY
        send_cell(guard, onward.link, onward.out_id, other, cell.counter, cell.body)
        await here.settle()
        assert drops(middle) == {Drop.BAD_TAG: 1}
        assert here.out.data == []
        send_cell(guard, onward.link, onward.out_id, command, cell.counter, cell.body)
        await here.settle()
        assert here.out.data == [b"honest"], "it was the command, and nothing else"

    on_scene(attack)


@pytest.mark.parametrize("shift", [0, 1, -1, 1 << 30])
def test_a_hop_that_repeats_a_forward_cell_gets_it_past_the_next_once(shift: int) -> None:
    async def attack(here: Scene) -> None:
        guard = here.relays[0]
        evil, onward = corrupt(guard), onward_of(guard)
        here.send()
        await here.settle()
        [cell] = evil.opened
        send_cell(guard, onward.link, onward.out_id, cell.command, cell.counter + shift, cell.body)
        await here.settle()
        assert here.out.data == [b"honest"]
        used = {0, -1}
        assert drops(here.relays[1]) == {Drop.REPLAYED if shift in used else Drop.BAD_TAG: 1}

    on_scene(attack)


def test_a_hop_that_takes_what_is_for_it_as_passing_on_gives_the_next_nothing() -> None:
    async def attack(here: Scene) -> None:
        evil = corrupt(here.relays[0])
        evil.forward = lambda body, flag: (body, PASS_ON if flag == FOR_YOU else flag)
        here.circuit.send(Ping(bytes(8)), here.client.driver.now(), hop=0)
        here.client.driver.wake()
        await here.settle()
        assert drops(here.relays[1]) == {Drop.BAD_TAG: 1}

    on_scene(attack)


def test_a_hop_that_takes_passing_on_as_its_own_delivers_nothing_it_can_read() -> None:
    async def attack(here: Scene) -> None:
        evil = corrupt(here.relays[1])
        evil.forward = lambda body, flag: (body, FOR_YOU)
        here.send(b"secret" * 100)
        await here.settle()
        assert here.out.data == []
        assert all(b"secret" not in seen for seen in evil.sees)
        assert sum(drops(here.relays[1]).values()) == 1, "what it reads is noise"

    on_scene(attack)


@pytest.mark.parametrize("hop", [0, 1], ids=["guard", "middle"])
@pytest.mark.parametrize("to", [WRITTEN, 2, 255])
def test_a_hop_that_swaps_the_flag_of_a_backward_cell_delivers_nothing(hop: int, to: int) -> None:
    async def attack(here: Scene) -> None:
        evil = corrupt(here.relays[hop])
        evil.backward = lambda body: bytes([body[0] ^ PASSED ^ to]) + body[1:]
        here.answer()
        await here.settle()
        assert here.got() == []
        assert drops(here.client) == {Drop.BAD_TAG: 1}
        assert here.circuit.state is State.OPEN

    on_scene(attack)


@pytest.mark.parametrize("hop", [0, 1], ids=["guard", "middle"])
def test_a_hop_that_repeats_a_backward_cell_under_new_counters_of_its_own_delivers_it_once(hop: int) -> None:
    """It can make as many good outer layers as it likes; the counter of the writer is under the writer's seal."""

    async def attack(here: Scene) -> None:
        with taken(here.world, here.nodes[hop + 2], here.nodes[hop + 1]) as wire:
            wire.act = lambda cell: [cell] * 4
            here.answer()
            await here.settle()
        assert here.got() == [b"honest"]
        assert drops(here.client) == {Drop.REPLAYED: 3}

    on_scene(attack)


def test_a_hop_that_reorders_cells_alters_and_repeats_none() -> None:
    async def attack(here: Scene) -> None:
        with taken(here.world, here.nodes[1], here.nodes[2]) as wire:
            wire.act = lambda cell: []
            for number in range(40):
                here.send(b"%d" % number)
            await here.settle()
            for cell in reversed(wire.seen):
                wire.put(cell)
            await here.settle()
        assert sorted(here.out.data, key=int) == [b"%d" % number for number in range(40)]

    on_scene(attack)


def test_a_hop_cannot_write_in_the_name_of_the_hops_behind_it() -> None:
    """The guard seals a cell with the one seal key it has, and passes it on as if it came from behind."""

    async def attack(here: Scene) -> None:
        guard = here.relays[0]
        layer, circuit = joined(guard).layer, joined(guard)
        cell = bytearray(CELL_SIZE)
        nonce = bytearray(nonce_for(Command.RELAY, 77))
        layer.write_backward(b"forged", cell, sodium.address_of(cell), BODY_OFFSET, sodium.address_of(nonce))
        layer.pass_backward(cell, sodium.address_of(cell), BODY_OFFSET, (77).to_bytes(6),
                            sodium.address_of(cell), sodium.address_of(nonce))  # fmt: skip
        send_cell(guard, circuit.link, circuit.back_id, Command.RELAY, 77, bytes(cell[:BODY_SIZE]))
        await here.settle()
        assert here.got() == []
        assert drops(here.client) == {Drop.BAD_TAG: 1}

    on_scene(attack)


def test_a_datagram_the_guard_writes_itself_is_not_taken_for_the_exits() -> None:
    async def attack(here: Scene) -> None:
        guard = here.relays[0]
        assert joined(guard).send(Datagram(Destination("192.0.2.1", 53), b"forged"), guard.driver.now())
        guard.driver.wake()
        await here.settle()
        assert here.got() == []
        assert drops(here.client) == {Drop.UNEXPECTED: 1}

    on_scene(attack)


def test_with_windows_out_a_replay_by_the_guard_would_be_delivered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(here: Scene) -> None:
        without_windows(monkeypatch)
        with taken(here.world, here.nodes[2], here.nodes[1]) as wire:
            wire.act = lambda cell: [cell] * 2
            here.answer()
            await here.settle()
        assert here.got() == [b"honest"] * 2

    on_scene(attack)
