"""Answering strangers: what an initiation has to pass before it costs a public-key operation (SPEC 4.2 to 4.5, 4.8).
Floor 3: sans-IO.

The gates in order, cheapest first: mac1 (nobody who does not know our key), cookie under load (nobody who forges
addresses), the fair queue (nobody takes another prefix's turn), the static and its timestamp (no replay).
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from tunnels.crypto.x25519 import KeyPair
from tunnels.errors import RemoteError
from tunnels.fair import FairQueue, source_prefix
from tunnels.ids import Address, Drop, Index, Rng
from tunnels.link.datagrams import CookieMaker, Gate, build_cookie_reply
from tunnels.link.handshake import Initiation, read_initiation
from tunnels.params import MAX_TIMESTAMPS, UNDER_LOAD_INITIATIONS, X25519_SIZE

prefix_of = lru_cache(maxsize=4096)(source_prefix)


@dataclass(frozen=True, slots=True)
class Waiting:
    """An initiation that passed the cheap gates."""

    m1: bytes
    index: Index
    sender: Address

    @property
    def ephemeral(self) -> bytes:
        return self.m1[:X25519_SIZE]


class Timestamps:
    """The newest timestamp of each initiator static: an older or equal one is a replay (SPEC 4.2)."""

    def __init__(self, size: int = MAX_TIMESTAMPS) -> None:
        self._newest: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = size

    def accept(self, static: bytes, timestamp: bytes) -> bool:
        if (known := self._newest.get(static)) is not None and timestamp <= known:
            return False
        self._newest[static] = timestamp
        self._newest.move_to_end(static)
        if len(self._newest) > self._size:
            self._newest.popitem(last=False)
        return True


class Responder:
    """The gates of a node that accepts links."""

    def __init__(self, static: KeyPair, network_id: bytes, rng: Rng, now: float) -> None:
        self.static: Final = static
        self.queue: Final[FairQueue[Waiting]] = FairQueue()
        self._gate = Gate(static.public)
        self._cookies = CookieMaker(rng, now)
        self._network_id = network_id
        self._rng = rng
        self._timestamps = Timestamps()
        self._in_queue: set[bytes] = set()
        """Ephemeral keys of what waits: a datagram that is sent again meanwhile takes no second turn."""

    def receive(self, datagram: bytes, sender: Address, now: float) -> bytes | Drop | None:
        """Take a datagram whose index is unknown.

        Returns:
            A cookie reply to send back, why it was dropped, or None when it waits in the queue.
        """
        opened = self._gate.open_initiation(datagram)
        if opened is None:
            return Drop.BAD_MAC1
        index, m1 = opened
        if len(self.queue) >= UNDER_LOAD_INITIATIONS and not self._cookies.verify(datagram, sender, now):
            return build_cookie_reply(index, datagram, self._cookies.cookie(sender, now), self.static.public, self._rng)
        waiting = Waiting(m1, index, sender)
        if waiting.ephemeral in self._in_queue:
            return Drop.REPLAYED
        self._in_queue.add(waiting.ephemeral)
        pushed_out = self.queue.add(prefix_of(sender[0]), waiting)
        self._in_queue.difference_update(refused.ephemeral for refused in pushed_out)
        return Drop.QUEUE_FULL if pushed_out else None

    def next(self) -> Waiting | None:
        """The initiation whose turn it is, None when none waits."""
        waiting = self.queue.pop()
        if waiting is not None:
            self._in_queue.discard(waiting.ephemeral)
        return waiting

    def read(self, waiting: Waiting) -> Initiation | Drop:
        """The public-key half: who asks, and whether it is new."""
        try:
            initiation = read_initiation(
                waiting.m1, network_id=self._network_id, static=self.static, index=waiting.index
            )
        except RemoteError:
            return Drop.BAD_HANDSHAKE
        if not self._timestamps.accept(initiation.static, initiation.timestamp):
            return Drop.STALE_TIMESTAMP
        return initiation
