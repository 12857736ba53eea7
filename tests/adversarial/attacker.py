"""What an attacker can do to nodes of the virtual network: on the wire, and as a hop.

On the wire he has datagrams and no keys.  As a hop he has what a relay has, his own sessions and his own layer, and the
will to put anything into them.  Neither touches an honest node's memory.
"""

import ctypes
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import pytest

from sim.network import Datagram, Fate, Pipe
from tests.support.nodes import Node, RelayNode, World
from tunnels.circuit.core import ExitDatagram
from tunnels.circuit.relay import Onward, RelayCircuit
from tunnels.crypto import onion, sodium
from tunnels.crypto.onion import RelayLayer
from tunnels.crypto.replay import ReplayWindow
from tunnels.ids import Address, Drop, Rng
from tunnels.link.link import Link
from tunnels.params import BODY_SIZE

DELAY: Final = 0.01
"""Seconds of every link; what an attacker sends is as fast."""

Act = Callable[[bytes], Iterable[bytes]]
"""What becomes of a datagram: none, one or more."""


class _Cut:
    """A link that is cut: the attacker carries what goes over it."""

    def carry(self, size: int, now: float, rng: Rng) -> Fate:
        return Fate.LOST


class OnTheWire:
    """Holds the wire from `source` to `destination`.

    Attributes:
        act: what he does with a datagram; at first he lets it pass.
        seen: what came by, oldest first.
    """

    def __init__(self, world: World, source: Address, destination: Address) -> None:
        self.act: Act = lambda datagram: [datagram]
        self.seen: list[bytes] = []
        self._world, self._source, self._destination = world, source, destination
        world.network.set_route(source, destination, _Cut())
        self._end = world.network.tap(self._on_datagram)

    def _on_datagram(self, datagram: Datagram) -> None:
        if (datagram.source, datagram.destination) == (self._source, self._destination):
            self.seen.append(datagram.data)
            for data in self.act(datagram.data):
                self.put(data)

    def put(self, datagram: bytes) -> None:
        self._world.network.inject(datagram, self._source, self._destination, after=DELAY)

    def let_go(self) -> None:
        self._end()
        self._world.network.set_route(self._source, self._destination, Pipe(delay=DELAY))


@contextmanager
def taken(world: World, source: Node, destination: Node) -> Iterator[OnTheWire]:
    wire = OnTheWire(world, source.address, destination.address)
    yield wire
    wire.let_go()


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


# --- as a hop ------------------------------------------------------------------------------------------


def joined(relay: RelayNode) -> RelayCircuit:
    """The one circuit that crosses `relay`."""
    [circuit] = relay.core.joined
    assert isinstance(circuit, RelayCircuit)
    return circuit


def onward_of(relay: RelayNode) -> Onward:
    onward = joined(relay).onward
    assert onward is not None
    return onward


def send_cell(node: Node, link: Link, circuit_id: int, command: int, counter: int, body: bytes) -> None:
    """A layered cell as a neighbour can make it: a header that opens, and any body."""
    assert len(body) == BODY_SIZE
    session = link.current
    assert session is not None
    train = session.train()
    assert train is not None
    train.head(circuit_id, command, counter)
    place = train.place()
    train.buffer[place : place + BODY_SIZE] = body
    train.count += 1
    node.driver.wake()


class Opened(NamedTuple):
    """A forward cell a hop has opened, as it would go on."""

    command: int
    counter: int
    body: bytes


class EvilLayer:
    """A hop's own layer, under its owner's thumb.

    Attributes:
        forward: changes what a forward cell became: (next body, flag or Drop) -> the same.
        backward: changes what a backward cell became.
        opened: every forward cell that verified.
        sees: every decrypted text and every backward body that came by.
    """

    def __init__(self, layer: RelayLayer) -> None:
        self._layer = layer
        self.forward: Callable[[bytes, int | Drop], tuple[bytes, int | Drop]] = lambda body, flag: (body, flag)
        self.backward: Callable[[bytes], bytes] = lambda body: body
        self.opened: list[Opened] = []
        self.sees: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def swallow(self) -> None:
        """Pass nothing on from now on."""
        self.forward = lambda body, flag: (body, Drop.REFUSED)

    @property
    def backward_counter(self) -> int:
        return self._layer.backward_counter

    @backward_counter.setter
    def backward_counter(self, counter: int) -> None:
        self._layer.backward_counter = counter

    def open_forward(self, body: int, nonce: int, counter: int, out: bytearray, at: int, place: int) -> int | Drop:
        result = self._layer.open_forward(body, nonce, counter, out, at, place)
        seen = bytes(out[place : place + BODY_SIZE])
        if not isinstance(result, Drop):
            self.sees.append(seen)
            self.opened.append(Opened(ctypes.string_at(nonce, 1)[0], counter + self._layer.offset, seen))
        changed, result = self.forward(seen, result)
        out[place : place + BODY_SIZE] = changed
        return result

    def pass_backward(
        self, received: bytearray | memoryview, source: int, body: int, counter: bytes, target: int, nonce: int
    ) -> None:
        self.sees.append(bytes(received[body : body + BODY_SIZE]))
        self._layer.pass_backward(received, source, body, counter, target, nonce)
        made = (ctypes.c_char * BODY_SIZE).from_address(target)
        made.raw = self.backward(made.raw)


def corrupt(relay: RelayNode) -> EvilLayer:
    """Hand the one circuit that crosses `relay` to an attacker."""
    evil = EvilLayer(joined(relay).layer)
    joined(relay).__dict__["layer"] = evil
    return evil


# --- what came of it -----------------------------------------------------------------------------------


class Deliveries:
    """What an exit was asked to send, instead of sending it."""

    def __init__(self, exit_node: Node) -> None:
        self.data: list[bytes] = []
        exit_node.on_exit = self._on_exit

    def _on_exit(self, event: ExitDatagram) -> None:
        self.data.append(event.data)


def drops(node: Node) -> Counter[Drop]:
    return Counter(node.core.drops)


# --- taking a defence out ------------------------------------------------------------------------------


class _WithoutTags:
    """libsodium for tunnels.crypto.onion, whose tags are always right."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sodium, name)

    @staticmethod
    def open_at(text: int, _1: None, ciphertext: int, size: int, _tag: int, _2: None, _3: int, nonce: int | bytes,
                key: int) -> int:  # fmt: skip
        sodium.xor_at(text, ciphertext, size, nonce, 1, key)
        return 0


def without_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onion, "sodium", _WithoutTags())


def without_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReplayWindow, "fresh", lambda self, counter: True)
