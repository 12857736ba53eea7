"""How much may be on the way, and how fast it goes: the face of a congestion controller (SPEC 13.5).  Floor 3: sans-IO.

Every packet costs one cell of one size at every relay, whatever is in it: so everything here is counted in cells and
cells a second, never in bytes.  Who chooses a controller is `Recovery`'s caller; bbr.py is the default, cubic.py is for
comparison.
"""

from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

from tunnels.params import PACING_QUANTUM

_MAX_BURST: Final = 64
"""Cells that go at once at most, however fast the path: the trains of two system calls."""


@dataclass(slots=True)
class RateSample:
    """What one ACK tells (the delivery rate estimation of BBR).  Not frozen: one is made for every ACK.

    Attributes:
        acked: cells this ACK acknowledged for the first time.
        lost: cells that were called lost since the ACK before.
        delivered: cells acknowledged since the beginning, these included.
        prior_delivered: the same when the newest acknowledged cell was sent.
        in_flight: cells on the way after this ACK.
        rate: cells a second between those two moments; 0 when it cannot be told.
        rtt: seconds, of the highest acknowledged cell; None when it was acknowledged before.
        smoothed_rtt: seconds (RFC 9002 5.3).
        app_limited: the sender had too little to send then: the path may do better.
    """

    acked: int
    lost: int
    delivered: int
    prior_delivered: int
    in_flight: int
    rate: float
    rtt: float | None
    smoothed_rtt: float
    app_limited: bool


class Congestion(Protocol):
    """Decides; is told everything and asks nothing.

    Attributes:
        window: cells that may be on the way.
        pacing_rate: cells a second.
    """

    window: int
    pacing_rate: float

    def on_sent(self, in_flight: int, now: float) -> None:
        """A cell went out; `in_flight` counts it."""

    def on_acked(self, sample: RateSample, now: float) -> None:
        """An ACK came that acknowledged something."""

    def on_lost(self, lost: int, in_flight: int, newest_sent: float, now: float) -> None:
        """Cells count as lost.

        Args:
            newest_sent: when the last of them was sent: those sent before a reduction do not ask for another.
        """

    def on_persistent_congestion(self, now: float) -> None:
        """Nothing came through for several probe timeouts (RFC 9002 7.6)."""


class Pacer:
    """Spreads cells over time, in bursts as short as an event loop can make them."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = -inf
        """When the next cell is due; in the past it is credit, of one quantum at most."""

    def allowance(self, rate: float, now: float) -> int:
        """Cells that may go now."""
        earliest = now - max(PACING_QUANTUM, 1 / rate)
        self._next = max(self._next, earliest)
        if self._next > now:
            return 0
        return min(int((now - self._next) * rate) + 1, _MAX_BURST)

    def on_sent(self, rate: float) -> None:
        self._next += 1 / rate

    def next_time(self) -> float:
        """When to ask again; then a quantum is due, not a single cell."""
        return self._next + PACING_QUANTUM / 2
