"""Floods against one relay whose processor is slow, and honest clients who try to get through (SPEC 4.8, 7.7).

The relay does half as many public-key operations of each kind a second of virtual time as there are hostile prefixes:
500 for 1000 of them, an eighth of what a real one does (0.25 ms each).  A flood asks for FLOOD times as many.  What is
measured is the share of honest circuits that open within their own timeouts.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Final, Generic, TypeVar

from sim.network import Socket, unit
from tests.adversarial.capture import DrawnKem
from tests.support.nodes import Node, RelayNode, World
from tunnels.crypto.kem import DecapsulationKey
from tunnels.crypto.rng import StreamRng
from tunnels.crypto.x25519 import KeyPair
from tunnels.ids import Address, Index
from tunnels.link.datagrams import build_initiation, mac1_of, open_cookie_reply
from tunnels.link.handshake import Initiator, tai64n
from tunnels.params import HANDSHAKES_PER_TURN, KEM_CIPHERTEXT_SIZE, KEM_PUBLIC_SIZE, M1_SIZE, QUEUE_TOTAL

FLOOD: Final = 3.0
"""How many times what saturates the relay alone."""

NETWORK: Final = b"test"

Item = TypeVar("Item")


class CheapKem(DrawnKem):
    """Costs nothing, so that many handshakes can be made; remembers nothing."""

    def keypair(self) -> tuple[bytes, DecapsulationKey]:
        pair = super().keypair()
        self.made.clear()
        return pair

    def encapsulate(self, ek: bytes) -> tuple[bytes, bytes]:
        answer = super().encapsulate(ek)
        self.made.clear()
        return answer


assert (KEM_PUBLIC_SIZE, KEM_CIPHERTEXT_SIZE) == (1184, 1088), "what CheapKem draws"


class Fifo(Generic[Item]):
    """What a queue is that knows no keys: for taking the fair one out."""

    def __init__(self, per_key: int = 0, total: int = QUEUE_TOTAL) -> None:
        self._items: deque[Item] = deque()
        self._total = total

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def add(self, key: Hashable, item: Item) -> list[Item]:
        if len(self._items) == self._total:
            return [item]
        self._items.append(item)
        return []

    def pop(self) -> Item | None:
        return self._items.popleft() if self._items else None

    def discard(self, key: Hashable, item: Item) -> None:
        if item in self._items:
            self._items.remove(item)


class Field:
    """A world with addresses for everybody, each prefix with many hosts."""

    def __init__(self, prefixes: int, seed: int = 9) -> None:
        self.prefixes = prefixes
        self.rate = prefixes / 2
        """Public-key operations of each kind that the victim does in a second."""
        self.world = World(seed=seed, delay=0.01, network_id=NETWORK)
        self.rng: StreamRng = self.world.rng()
        self.kem = CheapKem(self.world.rng())
        self._clients = 0

    def relay(self, host: str) -> RelayNode:
        return self.world.relay(address=(host, 8000), kem=self.kem)

    def victim(self, max_joined_circuits: int = 100_000) -> RelayNode:
        return self.world.relay(
            address=("10.255.1.1", 8000),
            kem=self.kem,
            turn=HANDSHAKES_PER_TURN / 2 / self.rate,
            max_joined_circuits=max_joined_circuits,
        )

    def client(self, address: Address) -> Node:
        return self.world.client(address, kem=self.kem)

    def honest(self) -> Node:
        """Somebody new, in a prefix of his own."""
        self._clients += 1
        return self.client((f"172.{16 + self._clients // 256}.{self._clients % 256}.1", 5000))


def hostile(prefix: int, host: int = 66) -> str:
    return f"10.{prefix // 256}.{prefix % 256}.{host}"


async def success(
    field: Field, path: Callable[[int], list[RelayNode]], attempts: int, seconds: float,
    client: Callable[[int], Node] | None = None,
) -> float:  # fmt: skip
    """The share of `attempts` circuits, begun over `seconds`, that open."""
    waiting = []
    for number in range(attempts):
        node = client(number) if client else field.honest()
        waiting.append(node.opened(node.start(path(number))))
        await field.world.sleep(2 * unit(field.rng) * seconds / attempts)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, ConnectionError) for result in results if isinstance(result, BaseException))
    return sum(not isinstance(result, BaseException) for result in results) / attempts


class Flood:
    """Does `act(number)` FLOOD times as often as the victim can stand, until it is stopped."""

    def __init__(self, field: Field, act: Callable[[int], None]) -> None:
        self._field, self._act = field, act
        self._began = field.world.loop.time()
        self.done = 0
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while True:
            while self.done < self._due:
                self._act(self.done)
                self.done += 1
            await self._field.world.sleep(0.1 * unit(self._field.rng))

    @property
    def _due(self) -> float:
        return (self._field.world.loop.time() - self._began) * FLOOD * self._field.rate

    async def stop(self) -> None:
        assert self.done >= 0.9 * self._due
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class HandshakeAttacker:
    """A host that sends initiations, and has cookies for its own address.

    Attributes:
        garbage: whether M1 is random: mac1 is right, and it takes a public-key operation to find out.
    """

    def __init__(self, field: Field, victim: RelayNode, host: str, *, garbage: bool) -> None:
        self._field, self._victim, self._garbage = field, victim, garbage
        self._cookie: bytes | None = None
        self._sent: deque[bytes] = deque(maxlen=64)
        self._socket: Socket = field.world.network.open((host, 7000), self._on_datagrams)

    def _on_datagrams(self, datagrams: list[bytes], _sender: Address) -> None:
        for datagram in datagrams:
            for mac1 in self._sent:
                cookie = open_cookie_reply(datagram, mac1, self._victim.info.link_key)
                if cookie is not None:
                    self._cookie = cookie
                    break

    def make(self) -> bytes:
        rng, key = self._field.rng, self._victim.info.link_key
        index = Index((1 << 24) + rng.below(1 << 31))
        if self._garbage:
            m1 = rng.bytes(M1_SIZE)
        else:
            now = self._field.world.loop.time()
            m1 = Initiator(
                NETWORK, KeyPair.generate(rng), key, index, tai64n(self._field.world.epoch + now), rng, self._field.kem
            ).m1
        datagram = build_initiation(m1, index, key, self._cookie, rng)
        if self._cookie is None:
            self._sent.append(mac1_of(datagram))
        return datagram

    def send(self) -> None:
        self._socket.send(self.make(), self._victim.address)
