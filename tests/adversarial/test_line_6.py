"""The security bar's line 6: EXTEND only in EARLY cells, at most 16 of them, forward only.

So nobody makes a circuit longer than its originator's first 16 cells reach, and no hop signals to the one before it by
the only part of a cell that every hop can read.
"""

from collections.abc import Awaitable, Callable

import pytest

from sim.loop import run
from tests.adversarial.attacker import corrupt, drops, joined, onward_of, send_cell
from tests.support.nodes import Node, RelayNode, World
from tunnels.circuit import extend as extend_module
from tunnels.circuit import relay as relay_module
from tunnels.circuit.core import CircuitClosed, RelayCircuitClosed
from tunnels.circuit.origin import OriginCircuit, State
from tunnels.circuit.relay import Onward, RelayCircuit
from tunnels.crypto.handshake import OriginatorHandshake
from tunnels.ids import CloseReason, Drop
from tunnels.link.link import Run
from tunnels.params import BODY_SIZE, MAX_EARLY, MIN_EARLY
from tunnels.wire.cell import Command
from tunnels.wire.fragments import split
from tunnels.wire.messages import Extend

Attack = Callable[[World, Node, list[RelayNode], OriginCircuit], Awaitable[None]]


def on_circuit(attack: Attack, hops: int = 3, relays: int = 4) -> None:
    async def main() -> None:
        world = World(seed=6)
        nodes = [world.relay(exits=True) for _ in range(relays)]
        client = world.client()
        circuit = await client.build(nodes[:hops])
        await world.sleep(0.5)
        await attack(world, client, nodes, circuit)
        world.close()

    run(main())


def extend_parts(client: Node, relay: RelayNode) -> list[bytes]:
    core = client.core
    handshake = OriginatorHandshake(relay.info.relay_id, relay.info.onion_key, core.network_id, core.rng, core.kem)
    return split(Extend.TYPE, Extend(relay.info.relay_id, handshake.create).encode(), 999)


def send_parts(client: Node, circuit: OriginCircuit, parts: list[bytes], early: list[bool]) -> None:
    """Cells to the last hop, EARLY or not as a hostile originator likes."""
    for part, marked in zip(parts, early, strict=True):
        circuit._early_left = 1 if marked else 0  # noqa: SLF001 (the originator is the attacker)
        assert circuit._send_parts(circuit.hops_built - 1, [part], client.driver.now())  # noqa: SLF001
    client.driver.wake()


def closed_here(node: Node) -> list[CloseReason]:
    return [event.reason for event in node.happened if isinstance(event, RelayCircuitClosed | CircuitClosed)]


def early_passed(relay: RelayNode) -> int:
    return joined(relay).early


# --- how many ------------------------------------------------------------------------------------------


def state_of(circuit: OriginCircuit) -> State:
    return circuit.state


def test_the_17th_early_cell_closes_the_circuit_at_the_hop_that_would_pass_it_on() -> None:
    async def attack(world: World, client: Node, relays: list[RelayNode], circuit: OriginCircuit) -> None:
        guard, middle = relays[0], relays[1]
        passed, cells = early_passed(guard), joined(middle).cells
        parts = [split(9, b"", 0)[0]] * (MAX_EARLY - passed)
        send_parts(client, circuit, parts, [True] * len(parts))
        await world.sleep(0.2)
        assert state_of(circuit) is State.OPEN
        assert early_passed(guard) == MAX_EARLY
        assert joined(middle).cells == cells + len(parts), "sixteen are no offence"
        send_parts(client, circuit, parts[:1], [True])
        await world.sleep(0.2)
        assert drops(guard) == {Drop.TOO_MANY_EARLY: 1}
        assert closed_here(guard) == [CloseReason.PROTOCOL]
        assert closed_here(middle) == [CloseReason.DESTROYED], "the 17th never left the guard"
        assert state_of(circuit) is State.CLOSED
        await world.sleep(3)
        assert not any(node.core.joined for node in relays)

    on_circuit(attack)


def test_seventeen_early_cells_for_the_guard_itself_are_no_offence() -> None:
    """They are not passed on: they make nothing longer (SPEC 7.4)."""

    async def attack(world: World, client: Node, relays: list[RelayNode], circuit: OriginCircuit) -> None:
        parts = [split(9, b"", 0)[0]] * 2 * MAX_EARLY
        send_parts(client, circuit, parts, [True] * len(parts))
        await world.sleep(0.2)
        assert state_of(circuit) is State.OPEN
        assert not drops(relays[0])

    on_circuit(attack, hops=1)


def test_early_cells_that_do_not_verify_are_not_counted() -> None:
    """Else a guard could have the circuit closed at the middle, and the middle blamed."""

    async def attack(world: World, client: Node, relays: list[RelayNode], circuit: OriginCircuit) -> None:
        guard, middle = relays[0], relays[1]
        before, onward, newest = early_passed(middle), onward_of(guard), joined(middle).layer.window.last
        for number in range(2 * MAX_EARLY):
            send_cell(guard, onward.link, onward.out_id, Command.EARLY, newest + 1 + number, bytes(BODY_SIZE))
        await world.sleep(0.2)
        assert early_passed(middle) == before
        assert state_of(circuit) is State.OPEN
        assert drops(middle) == {Drop.BAD_TAG: 2 * MAX_EARLY}

    on_circuit(attack)


def test_without_the_count_the_17th_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(world: World, client: Node, relays: list[RelayNode], circuit: OriginCircuit) -> None:
        monkeypatch.setattr(relay_module, "MAX_EARLY", 1 << 30)
        parts = [split(9, b"", 0)[0]] * 2 * MAX_EARLY
        send_parts(client, circuit, parts, [True] * len(parts))
        await world.sleep(0.2)
        assert state_of(circuit) is State.OPEN
        assert early_passed(relays[0]) > MAX_EARLY

    on_circuit(attack)


def test_an_honest_originator_marks_its_first_12_to_16_cells_whatever_they_hold_and_no_other() -> None:
    """The number is drawn, so that it does not tell how long the circuit is."""
    seen: set[int] = set()

    async def main() -> None:
        world = World(seed=66)
        relays = [world.relay(exits=True) for _ in range(3)]
        client = world.client()
        for hops in (1, 2, 3) * 7:
            circuit = await client.build(relays[:hops])
            guard = corrupt(relays[0])
            for _ in range(3 * MAX_EARLY):
                client.send(circuit, b"")
            await world.sleep(0.2)
            commands = [cell.command for cell in guard.opened]
            early = commands.count(Command.EARLY)
            assert commands == [Command.EARLY] * early + [Command.RELAY] * (len(commands) - early)
            seen.add(early + 2 * (hops - 1))
            circuit.close(CloseReason.REQUESTED, client.driver.now())
            client.driver.wake()
            await world.sleep(3)
        world.close()

    run(main())
    assert seen <= set(range(MIN_EARLY, MAX_EARLY + 1))
    assert len(seen) >= 4


# --- EXTEND outside EARLY ------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [[False, False], [True, False], [False, True]])
def test_an_extend_of_which_any_cell_was_not_early_is_not_obeyed(early: list[bool]) -> None:
    async def attack(world: World, client: Node, relays: list[RelayNode], circuit: OriginCircuit) -> None:
        last, target = relays[1], relays[3]
        send_parts(client, circuit, extend_parts(client, target), early)
        await world.sleep(1)
        assert drops(last) == {Drop.NOT_EARLY: 1}
        assert joined(last).extension is None
        assert len(target.core.links) == 0, "nobody was dialled"
        assert state_of(circuit) is State.OPEN, "and nothing was said"

    on_circuit(attack, hops=2)


def test_an_early_repetition_does_not_whitewash_a_fragment_that_was_not_early() -> None:
    async def attack(world: World, client: Node, relays: list[RelayNode], circuit: OriginCircuit) -> None:
        last, target = relays[1], relays[3]
        first, second = extend_parts(client, target)
        send_parts(client, circuit, [first, first, second], [False, True, True])
        await world.sleep(1)
        assert drops(last) == {Drop.NOT_EARLY: 1}
        assert len(target.core.links) == 0

    on_circuit(attack, hops=2)


def test_the_same_extend_in_early_cells_alone_is_obeyed() -> None:
    async def attack(world: World, client: Node, relays: list[RelayNode], circuit: OriginCircuit) -> None:
        send_parts(client, circuit, extend_parts(client, relays[3]), [True, True])
        await world.sleep(1)
        assert len(relays[3].core.joined) == 1

    on_circuit(attack, hops=2)


def test_without_the_check_an_extend_in_relay_cells_would_be_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(world: World, client: Node, relays: list[RelayNode], circuit: OriginCircuit) -> None:
        core = relays[1].core
        patched = dict(core.relay_handlers)
        patched[Extend] = lambda on, message, early, now: extend_module.on_extend(on, message, True, now)
        monkeypatch.setattr(core, "relay_handlers", patched)
        send_parts(client, circuit, extend_parts(client, relays[3]), [False, False])
        await world.sleep(1)
        assert len(relays[3].core.joined) == 1

    on_circuit(attack, hops=2)


# --- backward ------------------------------------------------------------------------------------------


def test_a_backward_early_closes_the_circuit_at_the_hop_that_gets_it() -> None:
    """The exit marks a cell for the guard; the honest middle ends the circuit instead of passing the mark on."""

    async def attack(world: World, client: Node, relays: list[RelayNode], circuit: OriginCircuit) -> None:
        middle, leaver = relays[1:3]
        evil = joined(leaver)
        send_cell(leaver, evil.link, evil.back_id, Command.EARLY, 1, bytes(BODY_SIZE))
        await world.sleep(0.2)
        assert drops(middle)[Drop.UNEXPECTED] == 1
        assert closed_here(middle) == [CloseReason.PROTOCOL]
        assert closed_here(client) == [CloseReason.TRUNCATED], "all the guard heard is that the rest is gone"
        await world.sleep(3)
        assert not any(node.core.joined for node in relays)

    on_circuit(attack)


def test_a_backward_early_of_the_guard_closes_the_circuit_at_the_originator() -> None:
    async def attack(world: World, client: Node, relays: list[RelayNode], circuit: OriginCircuit) -> None:
        evil = joined(relays[0])
        send_cell(relays[0], evil.link, evil.back_id, Command.EARLY, 1, bytes(BODY_SIZE))
        await world.sleep(0.2)
        assert closed_here(client) == [CloseReason.PROTOCOL]
        [event] = [event for event in client.happened if isinstance(event, CircuitClosed)]
        assert event.culprit == 0

    on_circuit(attack)


def test_without_the_check_the_mark_would_reach_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(world: World, client: Node, relays: list[RelayNode], circuit: OriginCircuit) -> None:
        on_cell, seen = Onward.on_cell, []

        def lax(self: Onward, run_: Run, command: int, counter: int, body: int, header: int) -> None:
            if self is onward_of(relays[0]):
                seen.append(command)
            on_cell(self, run_, Command.RELAY, counter, body, header)

        monkeypatch.setattr(Onward, "on_cell", lax)
        evil = joined(relays[1])
        send_cell(relays[1], evil.link, evil.back_id, Command.EARLY, 1, bytes(BODY_SIZE))
        await world.sleep(0.2)
        assert seen == [Command.EARLY]
        assert state_of(circuit) is State.OPEN
        assert isinstance(joined(relays[0]), RelayCircuit)

    on_circuit(attack)
