"""Timers as data: who wants to be called when.  Floor 1: knows no clock, `now` comes in.

All times are seconds on the caller's monotonic clock.
"""

import heapq
from collections.abc import Callable
from itertools import count


class Timer:
    """One appointment.  `cancel` makes it void; a void one is skipped."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[float], None]) -> None:
        self.when = when
        self.callback: Callable[[float], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Timers:
    """A heap of appointments; equal times run in the order they were made, so that a run can be repeated."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()

    def at(self, when: float, callback: Callable[[float], None]) -> Timer:
        """Call `callback(now)` once, at the first `run` with now >= when."""
        timer = Timer(when, callback)
        heapq.heappush(self._heap, (when, next(self._order), timer))
        return timer

    def next(self) -> float | None:
        """When `run` has something to do next, None when nothing waits."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def run(self, now: float) -> None:
        """Call everything that is due.  What a callback adds for `now` or earlier runs in the same call."""
        while (when := self.next()) is not None and when <= now:
            timer = heapq.heappop(self._heap)[2]
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback(now)
