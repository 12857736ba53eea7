"""Which packets arrived, and when the other end hears of it (SPEC 13.5).  Floor 3: sans-IO.

HOT PATH.  `received` runs for every packet; in order it touches one list element.
"""

from math import inf

from tunnels.params import (
    ACK_DELAY,
    ACK_EVERY,
    ACK_MIN_DELAY,
    ACK_START,
    ACK_START_EVERY,
    MAX_ACK_RANGES,
    PACKET_THRESHOLD,
    RECEIVED_RANGES,
)
from tunnels.stream.rangeset import RangeSet
from tunnels.wire.stream_frames import Ack


class Received:
    """Packet numbers that arrived, and the ACK that is owed for them.

    INVARIANT: at most RECEIVED_RANGES ranges; what is below `_floor` counts as seen.
    """

    __slots__ = ("_due", "_floor", "_gap_at", "_largest", "_largest_time", "_ranges", "_total", "_waiting")

    def __init__(self) -> None:
        self._ranges = RangeSet()
        self._floor = 0
        self._largest = -1
        self._largest_time = 0.0
        self._total = 0
        self._waiting = 0
        """Packets that ask for an ACK and have none."""
        self._due = inf
        self._gap_at: int | None = None
        """The packet number at which the other end can tell that a gap is a loss."""

    def seen(self, number: int) -> bool:
        """Whether this packet is to be dropped: it came before, or so long ago that nobody knows."""
        return number <= self._largest and (number < self._floor or number in self._ranges)

    def received(self, number: int, now: float, delay: float, *, asks: bool) -> None:
        """Packet `number`, not `seen`, was taken.

        Args:
            delay: seconds an ACK may wait, as `ack_delay` says.
            asks: it holds something besides an ACK.
        """
        largest = self._largest
        if number > largest:
            if number > largest + 1 and self._gap_at is None:
                self._gap_at = largest + 1 + PACKET_THRESHOLD
            self._largest, self._largest_time = number, now
        self._ranges.add(number, number + 1)
        if len(self._ranges) > RECEIVED_RANGES:
            self._ranges.keep_newest(RECEIVED_RANGES)
            self._floor = self._ranges.first[0]
        if not asks:
            return
        self._total += 1
        self._waiting += 1
        every = ACK_EVERY if self._total > ACK_START else ACK_START_EVERY
        if self._waiting >= every or (self._gap_at is not None and number >= self._gap_at):
            self._due = now
            self._gap_at = None
        elif self._waiting == 1:
            self._due = now + delay

    @property
    def waiting(self) -> bool:
        """Some packet asks for an ACK: one may ride along with data."""
        return self._waiting > 0

    @property
    def due(self) -> float:
        """When an ACK has to go, inf when none has."""
        return self._due

    def ack(self, now: float) -> Ack:
        """The ACK of all that arrived.  Once it is on its way: `told`."""
        ranges = tuple((start, end - 1) for start, end in self._ranges.newest(MAX_ACK_RANGES))
        return Ack(now - self._largest_time, ranges)

    def told(self) -> None:
        """Nothing is owed any more."""
        self._waiting = 0
        self._due = inf


def ack_delay(smoothed_rtt: float) -> float:
    """Seconds an ACK waits for more packets: a quarter of a round trip keeps the sender's window turning."""
    return min(max(smoothed_rtt / 4, ACK_MIN_DELAY), ACK_DELAY)
