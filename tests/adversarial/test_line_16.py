"""The security bar's line 16: a captured cell sent from elsewhere moves no link.

The attacker reads and copies everything, and what he sends arrives before what he copied it from.  He cannot stop
datagrams: who can, is on the path, and moves nothing because everything passes him anyway.

Not defended: an attacker who is faster with every datagram from the first one on, and passes on what he gets, has
become the path before there is a link.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from sim.loop import run
from sim.network import Datagram
from tests.adversarial.attacker import DELAY
from tests.support.nodes import Node, RelayNode, World
from tunnels.ids import Address
from tunnels.link.link import Link, Move
from tunnels.link.links import Links
from tunnels.params import CELL_SIZE, CHALLENGE_GRACE, CHALLENGE_INTERVAL, CHALLENGE_LIFETIME
from tunnels.wire.link_messages import Answer, Padding, PathResponse

X: Final[Address] = ("127.66.6.6", 6666)


class Attacker:
    """Sits at X, sees every datagram when it is sent, and sends what he likes from where he likes, in no time."""

    def __init__(self, world: World) -> None:
        self.network = world.network
        self.seen: list[Datagram] = []
        self.got: list[bytes] = []
        """What was sent to X."""
        self.on_datagram: Callable[[Datagram], None] = lambda datagram: None
        world.network.tap(self._see)

    def _see(self, datagram: Datagram) -> None:
        self.seen.append(datagram)
        if datagram.destination[0].startswith("127.66."):
            self.got.append(datagram.data)
        self.on_datagram(datagram)

    def put(self, data: bytes, target: Node, source: Address = X) -> None:
        self.network.inject(data, source, target.address)

    def newest(self, source: Node, target: Node) -> bytes:
        return next(
            seen.data
            for seen in reversed(self.seen)
            if (seen.source, seen.destination) == (source.address, target.address)
        )


class Scene:
    """A client with an open circuit over two relays, and the attacker."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.guard, self.exit = world.relay(exits=True), world.relay(exits=True)
        self.client = world.client()
        self.attacker = Attacker(world)
        self.moved: list[Address] = []

    async def start(self) -> "Scene":
        self.circuit = await self.client.build([self.guard, self.exit])
        (self.near,) = self.client.core.links
        (self.far,) = (link for link in self.guard.core.links if link.address == self.client.address)
        return self

    def padding(self, node: Node, link: Link) -> None:
        link.send(Padding(Answer.NOT_WANTED))
        node.driver.wake()

    def stayed(self) -> bool:
        return (self.near.address, self.far.address) == (self.guard.address, self.client.address)

    async def watch(self, seconds: float) -> bool:
        """Whether both ends stay where they are all the time."""
        stayed = True
        for _ in range(int(seconds / 0.05)):
            await self.world.sleep(0.05)
            stayed &= self.stayed()
        return stayed

    async def works(self) -> bool:
        before = len(self.client.received())
        for number in range(5):
            self.client.send(self.circuit, bytes([number]))
            await self.world.sleep(0.1)
        return len(self.client.received()) == before + 5 and self.circuit.closed_because is None


async def capture(scene: Scene, kind: str) -> tuple[bytes, Node]:
    """A cell of that kind that somebody sent, and who it was for."""
    client, guard = scene.client, scene.guard
    match kind:
        case "a forward cell":
            scene.client.send(scene.circuit, b"forward")
        case "a backward cell":
            scene.client.send(scene.circuit, b"there and back")
            await scene.world.sleep(4 * DELAY)
        case "a sealed cell of the client":
            scene.padding(client, scene.near)
        case "a sealed cell of the guard":
            scene.padding(guard, scene.far)
    await scene.world.sleep(DELAY / 2)
    if kind in {"a backward cell", "a sealed cell of the guard"}:
        return scene.attacker.newest(guard, client), client
    return scene.attacker.newest(client, guard), guard


CELLS: Final = ("a forward cell", "a backward cell", "a sealed cell of the client", "a sealed cell of the guard")

Answering = Callable[[Attacker, Scene, Datagram], None]
"""What the attacker does with each datagram he sees."""


def keeps_quiet(attacker: Attacker, scene: Scene, datagram: Datagram) -> None:
    """He only waits."""


def sends_back(attacker: Attacker, scene: Scene, datagram: Datagram) -> None:
    """The challenge itself as its answer."""
    if datagram.destination == X:
        attacker.network.inject(datagram.data, X, datagram.source)


def passes_on_as_himself(attacker: Attacker, scene: Scene, datagram: Datagram) -> None:
    """The challenge to the one it is meant for, as if X were the asking end."""
    if datagram.destination == X:
        attacker.put(datagram.data, _other(scene, datagram.source))


def passes_on_as_the_asker(attacker: Attacker, scene: Scene, datagram: Datagram) -> None:
    """The challenge to the one it is meant for, as if it had come straight."""
    if datagram.destination == X:
        attacker.put(datagram.data, _other(scene, datagram.source), datagram.source)


def copies_the_answer(attacker: Attacker, scene: Scene, datagram: Datagram) -> None:
    """So that the challenge is answered, and the answer comes from X before it comes from where it was made."""
    passes_on_as_the_asker(attacker, scene, datagram)
    ends = {scene.client.address: scene.guard, scene.guard.address: scene.client}
    if datagram.source in ends and datagram.destination == ends[datagram.source].address:
        attacker.put(datagram.data, ends[datagram.source])


def _other(scene: Scene, address: Address) -> Node:
    return scene.client if address == scene.guard.address else scene.guard


ANSWERS: Final = (keeps_quiet, sends_back, passes_on_as_himself, passes_on_as_the_asker, copies_the_answer)


async def attacked(kind: str, answering: Answering) -> tuple[bool, Scene]:
    scene = await Scene(World(delay=DELAY)).start()
    await scene.world.sleep(1)
    cell, target = await capture(scene, kind)
    scene.attacker.on_datagram = lambda datagram: answering(scene.attacker, scene, datagram)
    stayed = True
    for _ in range(4):
        scene.attacker.put(cell, target)
        stayed &= await scene.watch(CHALLENGE_INTERVAL + 0.1)
    return stayed, scene


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("answering", ANSWERS)
def test_a_captured_cell_from_elsewhere_moves_no_link(kind: str, answering: Answering) -> None:
    async def main() -> None:
        stayed, scene = await attacked(kind, answering)
        assert scene.attacker.got, "the attack did not come to a challenge"
        assert stayed
        scene.attacker.on_datagram = lambda datagram: None
        await scene.world.sleep(CHALLENGE_LIFETIME)
        assert scene.stayed()
        assert await scene.works()
        scene.world.close()

    run(main())


@pytest.mark.parametrize("kind", CELLS)
def test_without_the_challenge_a_captured_cell_takes_the_link_away(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def follow(self: Links, session: Any, sender: Address, now: float) -> None:
        session.link.address = sender

    monkeypatch.setattr(Links, "_challenge", follow)

    async def main() -> None:
        stayed, scene = await attacked(kind, keeps_quiet)
        assert not stayed
        scene.world.close()

    run(main())


def from_anywhere(self: Links, link: Link, message: PathResponse, sender: Address, now: float) -> None:
    if link.move is not None and message.token == link.move.token:
        link.address = link.move.address


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("answering", [passes_on_as_himself, passes_on_as_the_asker])
def test_without_a_look_at_where_the_answer_comes_from_a_challenge_that_was_passed_on_takes_the_link_away(
    kind: str, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Links, "_on_path_response", from_anywhere)

    async def main() -> None:
        stayed, scene = await attacked(kind, answering)
        assert not stayed
        scene.world.close()

    run(main())


@contextmanager
def old_address_not_asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def follow(link: Link, move: Move) -> None:
        link.address, link.move = move.address, None

    with monkeypatch.context() as patch:
        patch.setattr(Links, "_follow", staticmethod(follow))
        yield


@pytest.mark.parametrize("kind", CELLS)
def test_without_a_question_to_the_old_address_a_copied_answer_takes_the_link_away(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        stayed, scene = await attacked(kind, copies_the_answer)
        assert not stayed
        scene.world.close()

    with old_address_not_asked(monkeypatch):
        run(main())


def test_the_look_at_where_the_answer_comes_from_is_enough_where_the_answer_cannot_be_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(answering: Answering) -> None:
        stayed, scene = await attacked("a forward cell", answering)
        assert stayed
        scene.world.close()

    with old_address_not_asked(monkeypatch):
        for answering in (keeps_quiet, sends_back, passes_on_as_himself, passes_on_as_the_asker):
            run(main(answering))


def test_whoever_sends_captured_cells_from_a_thousand_addresses_gets_one_challenge_a_second() -> None:
    async def main() -> None:
        scene = await Scene(World(delay=DELAY)).start()
        await scene.world.sleep(1)
        cells = [await capture(scene, kind) for kind in CELLS]
        before, began = len(scene.attacker.seen), scene.world.loop.time()
        for number in range(1000):
            for cell, target in cells:
                scene.attacker.put(cell, target, (f"127.66.{number % 250}.1", 1024 + number))
            await scene.world.sleep(0.004)
        seconds = scene.world.loop.time() - began
        answers = [seen for seen in scene.attacker.seen[before:] if seen.destination[0].startswith("127.66.")]
        for node in (scene.client, scene.guard):
            assert 3 <= sum(seen.source == node.address for seen in answers) <= seconds / CHALLENGE_INTERVAL + 1
        assert {len(seen.data) for seen in answers} == {CELL_SIZE}
        between = [seen for seen in scene.attacker.seen[before:] if seen not in answers]
        assert len(between) <= 6 * seconds / CHALLENGE_INTERVAL + 10  # to the old address, its answers, and probes
        assert scene.stayed()
        assert await scene.works()
        scene.world.close()

    run(main())


# --- handshakes ------------------------------------------------------------------------------------------


def dialled(world: World) -> tuple[Node, RelayNode, Attacker, Link]:
    relay, client = world.relay(), world.client()
    attacker = Attacker(world)
    return client, relay, attacker, client.core.links.dial(relay.info.link_key, relay.address, client.driver.now())


def test_a_captured_initiation_from_elsewhere_moves_no_link_and_opens_none() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        client, relay, attacker, link = dialled(world)
        client.driver.wake()
        await world.sleep(1)
        initiation = attacker.seen[0].data
        (far,) = relay.core.links
        for source in (X, client.address):
            attacker.put(initiation, relay, source)
            await world.sleep(1)
        assert not attacker.got
        assert far.address == client.address
        assert link.current is not None
        assert not far.pending
        world.close()

    run(main())


@pytest.mark.parametrize("also", ["the first cell", "nothing else"])
def test_an_initiation_that_comes_from_elsewhere_first_leaves_the_link_with_its_owner(also: str) -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        client, relay, attacker, _ = dialled(world)
        copied = [0]

        def copy(datagram: Datagram) -> None:
            if datagram.destination == X and len(attacker.got) == 1:
                attacker.put(datagram.data, client, relay.address)
            elif datagram.source == client.address:
                copied[0] += 1
                if copied[0] == 1 or (copied[0] == 2 and also == "the first cell"):
                    attacker.put(datagram.data, relay)

        attacker.on_datagram = copy
        client.driver.wake()
        await world.sleep(CHALLENGE_GRACE + CHALLENGE_INTERVAL)
        assert attacker.got, "the attacker was answered"
        (far,) = relay.core.links
        assert far.address == client.address
        await client.build([relay])
        world.close()

    run(main())


def test_a_response_that_comes_from_elsewhere_first_leaves_the_link_with_the_address_that_was_dialled() -> None:
    async def main() -> None:
        world = World(delay=DELAY)
        client, relay, attacker, link = dialled(world)

        def copy(datagram: Datagram) -> None:
            if datagram.source == relay.address:
                attacker.put(datagram.data, client)

        attacker.on_datagram = copy
        client.driver.wake()
        for _ in range(60):
            await world.sleep(0.05)
            assert link.address == relay.address
        assert link.current is not None
        world.close()

    run(main())


# --- who really moves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("replays", [False, True])
def test_a_client_that_really_moves_is_followed_even_while_its_old_cells_come_from_elsewhere(replays: bool) -> None:  # noqa: FBT001
    async def main() -> None:
        scene = await Scene(World(delay=DELAY)).start()
        await scene.world.sleep(1)
        cell, target = await capture(scene, "a forward cell")
        new = ("127.77.7.7", 7777)
        scene.world.network.move(scene.client.address, new)
        scene.client.address = new
        for number in range(60):
            scene.client.send(scene.circuit, number.to_bytes(2))
            if replays and number % 20 == 5:
                scene.attacker.put(cell, target)
            await scene.world.sleep(0.1)
        assert scene.far.address == new
        assert await scene.works()
        scene.world.close()

    run(main())
