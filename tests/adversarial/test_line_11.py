"""The security bar's line 11, for whole nodes: whatever comes in, from strangers, neighbours, originators and hops,
nothing is raised, what is dropped is counted, and the circuits of others go on.

tests/fuzz/test_decoders.py does the same to every decoder by itself.  FUZZ_EXAMPLES in the environment sets the number
of examples.
"""
# ruff: noqa: SLF001 (the attackers are nodes of ours whose insides are used against others)

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.loop import run
from tests.adversarial.attacker import send_cell
from tests.support.nodes import Node, RelayNode, World
from tunnels.crypto.rng import StreamRng
from tunnels.ids import CloseReason, Drop, Index
from tunnels.link.datagrams import build_initiation, build_response
from tunnels.link.link import Link
from tunnels.params import (
    BODY_SIZE,
    CELL_SIZE,
    COUNTER_LIMIT,
    INDEX_SIZE,
    M1_SIZE,
    M2_SIZE,
    PAYLOAD_SIZE,
    SEALED_TEXT_SIZE,
)
from tunnels.wire.cell import MIN_INDEX, Command
from tunnels.wire.messages import MessageType

EXAMPLES: Final = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", settings().max_examples)))

STRANGER: Final = ("127.99.9.9", 9999)

numbers = st.integers(0, (1 << 32) - 1)
small = st.integers(0, 12)
counters = st.sampled_from([0, 1, 1 << 40, (1 << 47) - 1, COUNTER_LIMIT - 1, COUNTER_LIMIT, (1 << 48) - 1])
heads = st.binary(max_size=40)
seeds = st.integers(0, 1 << 60)


def filled(head: bytes, size: int, seed: int) -> bytes:
    """`size` bytes that begin with `head`."""
    return (head + StreamRng(seed.to_bytes(32)).bytes(size))[:size]


class Scene:
    """An honest client on a circuit over the relay that is attacked, and three attackers around it.

    Attributes:
        relay: the one that is attacked, and `client`, who is too.
        neighbour: a hostile client with a link and a circuit.
        hop: a hostile relay, the last hop of another honest client's circuit.
    """

    async def start(self) -> "Scene":
        self.world = World(seed=11)
        world = self.world
        self.relay, self.exit, self.hop = world.relay(), world.relay(exits=True), world.relay()
        self.client, self.other, self.neighbour = world.client(), world.client(), world.client()
        self.honest = await self.client.build([self.relay, self.exit])
        self.crossing = await self.other.build([self.relay, self.hop])
        self.own = await self.neighbour.build([self.relay])
        (self.near,) = self.neighbour.core.links
        (self.hop_link,) = self.hop.core.links
        (self.client_link,) = self.client.core.links
        return self

    def victims(self) -> list[Node]:
        return [self.relay, self.client]

    def receive(self, node: Node, data: bytes, sender: tuple[str, int] = STRANGER) -> None:
        """Straight into the engine, so that what it raises reaches the test."""
        node.engine.receive(bytearray(data), sender, node.driver.now())
        node.driver.wake()

    def index_at(self, node: Node, which: int) -> bytes:
        sessions = sorted(node.core.links._sessions)
        return int(sessions[which % len(sessions)]).to_bytes(INDEX_SIZE)


Attack = Callable[[Scene], None]


def strays(size: int, head: bytes, seed: int) -> Attack:
    def attack(scene: Scene) -> None:
        for victim in scene.victims():
            scene.receive(victim, filled(head, size, seed))

    return attack


def indexed(which: int, cells: int, seed: int) -> Attack:
    """Cells that name live sessions, one train of them, some with another index in between."""

    def attack(scene: Scene) -> None:
        for victim in scene.victims():
            rng = StreamRng(seed.to_bytes(32))
            train = [
                scene.index_at(victim, which + number * rng.below(2)) + rng.bytes(CELL_SIZE - INDEX_SIZE)
                for number in range(cells)
            ]
            scene.receive(victim, b"".join(train), scene.neighbour.address)

    return attack


def headed(circuit: int, command: int, counter: int, head: bytes, seed: int) -> Attack:
    """A neighbour's cell with a header that opens, for a live circuit, an unknown one or none, and any body."""

    def attack(scene: Scene) -> None:
        for node, link, live in ((scene.neighbour, scene.near, scene.own.out_id), hop_end(scene)):
            circuit_id = {0: 0, 1: live, 2: live ^ 1}.get(circuit % 4, circuit)
            if link.current is not None:
                send_cell(node, link, circuit_id, command, counter, filled(head, BODY_SIZE, seed))

    return attack


def hop_end(scene: Scene) -> tuple[RelayNode, Link, int]:
    back = [joined.back_id for joined in scene.hop.core.joined]
    return scene.hop, scene.hop_link, back[0] if back else 1


def sealed(command: int, head: bytes, size: int, seed: int) -> Attack:
    """A neighbour's sealed cell with a right tag and any text."""

    def attack(scene: Scene) -> None:
        for node, link in ((scene.neighbour, scene.near), (scene.hop, scene.hop_link)):
            if link.current is not None:
                link.current.seal(command, filled(head, size, seed), node.core.rng)
                node.driver.wake()

    return attack


def handshakes(size: int, head: bytes, seed: int, which: int) -> Attack:
    """Right mac1, and the rest garbage."""

    def attack(scene: Scene) -> None:
        rng, index = StreamRng(seed.to_bytes(32)), Index(MIN_INDEX + seed % (1 << 31))
        key = scene.relay.info.link_key
        scene.receive(scene.relay, build_initiation(filled(head, M1_SIZE, seed), index, key, None, rng))
        dial = scene.other.core.links.dial(scene.exit.info.link_key, scene.exit.address, scene.other.driver.now())
        tries = list(scene.other.core.links._tries)
        for number in tries or [index]:
            response = build_response(filled(head, M2_SIZE, seed), Index(number), dial.static.public, rng)
            scene.receive(scene.other, response)
            scene.receive(scene.other, response[: 4 + which] + rng.bytes(CELL_SIZE - 4 - which))

    return attack


def payloads(kind: int, length: int, head: bytes, seed: int, early: int) -> Attack:
    """What an originator and a hop may write into a circuit of their own."""

    def attack(scene: Scene) -> None:
        payload = bytes([kind]) + length.to_bytes(2) + filled(head, PAYLOAD_SIZE - 3, seed)
        now = scene.world.loop.time()
        if scene.own.closed_because is None:
            scene.own._early_left = early
            scene.own._send_parts(0, [payload], now)
            scene.neighbour.driver.wake()
        for joined in list(scene.hop.core.joined):
            session = joined.link.current
            train = session.train() if session is not None else None
            if train is not None:
                nonce = train.head(joined.back_id, Command.RELAY, joined.take_counter(now))
                joined.layer.write_backward(payload, train.buffer, train.at, train.place(), nonce)
                train.count += 1
                scene.hop.driver.wake()

    return attack


kinds = st.sampled_from([*MessageType, *(each | 0x80 for each in MessageType), 0, 0x7F, 0x80, 0xFF])
commands = st.sampled_from([*Command, 0, 11, 255])
attacks = st.one_of(
    st.builds(
        strays, st.sampled_from([0, 1, 4, 20, CELL_SIZE - 1, CELL_SIZE, CELL_SIZE + 1, 3 * CELL_SIZE]), heads, seeds
    ),
    st.builds(indexed, small, st.integers(1, 5), seeds),
    st.builds(headed, numbers, commands, counters, heads, seeds),
    st.builds(sealed, commands, heads, st.integers(0, SEALED_TEXT_SIZE), seeds),
    st.builds(handshakes, small, heads, seeds, small),
    st.builds(payloads, kinds, st.integers(0, 0xFFFF) | st.integers(0, PAYLOAD_SIZE), heads, seeds, st.integers(0, 1)),
)


async def survive(plan: list[Attack]) -> Scene:
    raised: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    scene = await Scene().start()
    for attack in plan:
        attack(scene)
        await scene.world.sleep(0.03)
    await scene.world.sleep(3)
    assert not raised
    scene.client.send(scene.honest, b"still here")
    await scene.world.sleep(0.5)
    assert scene.client.received(scene.honest) == [b"still here"[::-1]]
    fresh = await scene.world.client().build([scene.relay, scene.exit])
    assert fresh.closed_because is None
    for node in scene.world.nodes:
        assert all(isinstance(reason, Drop) for reason in node.core.drops)
        assert all(isinstance(reason, CloseReason) for reason in node.core.closed)
    return scene


@EXAMPLES
@given(st.lists(attacks, min_size=1, max_size=12))
def test_no_garbage_raises_anything_or_disturbs_anybody_else(plan: list[Attack]) -> None:
    async def main() -> None:
        scene = await survive(plan)
        scene.world.close()

    run(main())


@pytest.mark.parametrize(
    ("attack", "reasons"),
    [
        (strays(CELL_SIZE + 1, b"x", 1), {Drop.WRONG_SIZE}),
        (strays(0, b"", 1), {Drop.WRONG_SIZE}),
        (strays(CELL_SIZE, b"x", 1), {Drop.BAD_MAC1}),
        (indexed(0, 3, 1), {Drop.BAD_HEADER}),
        (headed(0, 0, 5, b"", 1), {Drop.UNKNOWN_COMMAND}),
        (headed(3, Command.PADDING, 5, b"", 1), {Drop.BAD_HEADER}),
        (headed(0, Command.PADDING, 5, b"", 1), {Drop.BAD_TAG, Drop.REPLAYED}),
        (headed(1, Command.RELAY, 5, b"", 1), {Drop.BAD_TAG, Drop.REPLAYED}),
        (headed(3, Command.RELAY, 5, b"", 1), {Drop.UNKNOWN_CIRCUIT}),
        (headed(1, Command.RELAY, COUNTER_LIMIT, b"", 1), {Drop.BAD_HEADER}),
        (sealed(Command.PADDING, b"\1" * 8, 100, 1), {Drop.MALFORMED}),
        (sealed(Command.CREATED, b"\1" * 8, SEALED_TEXT_SIZE, 1), {Drop.UNKNOWN_CIRCUIT}),
        (sealed(Command.CREATE, b"\1" * 8, SEALED_TEXT_SIZE, 1), {Drop.BAD_HANDSHAKE}),
        (sealed(Command.DESTROY, b"\1" * 8, SEALED_TEXT_SIZE, 1), {Drop.UNKNOWN_CIRCUIT}),
        (sealed(Command.PATH_RESPONSE, bytes(20), SEALED_TEXT_SIZE, 1), {Drop.UNEXPECTED}),
        (sealed(Command.REKEY, bytes(4) + b"\1" * 4, SEALED_TEXT_SIZE, 1), {Drop.BAD_HANDSHAKE}),
        (sealed(Command.REKEYED, bytes(4), SEALED_TEXT_SIZE, 1), {Drop.BAD_HANDSHAKE}),
        (handshakes(0, b"", 1, 0), {Drop.BAD_HANDSHAKE}),
        (payloads(MessageType.PING, 7, b"", 1, 0), {Drop.MALFORMED}),
        (payloads(0x7E, 7, b"", 1, 0), {Drop.MALFORMED}),
        (payloads(MessageType.EXTEND, 1208, b"", 1, 1), {Drop.MALFORMED}),
    ],
)
def test_what_is_dropped_is_counted_by_reason(attack: Attack, reasons: set[Drop]) -> None:
    async def main() -> None:
        scene = await survive([attack])
        assert set(scene.relay.core.drops) & reasons
        scene.world.close()

    run(main())
