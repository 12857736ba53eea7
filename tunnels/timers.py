"""Timers as data: who wants to be called when.  Floor 1: knows no clock, `now` comes in.

All times are seconds on the caller's monotonic clock.

  memory  a cancelled timer holds no callback, and at most as many of them are kept as there are others (and a few)
"""

import heapq
from collections.abc import Callable
from itertools import count
from typing import Final

_FEW_CANCELLED: Final = 64
"""Below it sweeping is not worth it: they leave when their time comes."""


class Timer:
    """One appointment.  `cancel` makes it void; a void one is skipped."""

    __slots__ = ("_timers", "callback", "when")

    def __init__(self, when: float, callback: Callable[[float], None], timers: "Timers") -> None:
        self.when = when
        self.callback: Callable[[float], None] | None = callback
        self._timers = timers

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self._timers.one_cancelled()


class Timers:
    """A heap of appointments; equal times run in the order they were made, so that a run can be repeated."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._cancelled = 0
        """Cancelled ones in the heap."""

    def __len__(self) -> int:
        """What is kept, cancelled ones included."""
        return len(self._heap)

    def at(self, when: float, callback: Callable[[float], None]) -> Timer:
        """Call `callback(now)` once, at the first `run` with now >= when."""
        timer = Timer(when, callback, self)
        heapq.heappush(self._heap, (when, next(self._order), timer))
        return timer

    def next(self) -> float | None:
        """When `run` has something to do next, None when nothing waits."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
            self._cancelled -= 1
        return self._heap[0][0] if self._heap else None

    def run(self, now: float) -> None:
        """Call everything that is due.  What a callback adds for `now` or earlier runs in the same call."""
        while (when := self.next()) is not None and when <= now:
            timer = heapq.heappop(self._heap)[2]
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback(now)

    def one_cancelled(self) -> None:
        """A neighbour decides how often timeouts are set and cancelled: the void ones must not pile up until they are
        due.
        """
        self._cancelled += 1
        if self._cancelled > _FEW_CANCELLED and 2 * self._cancelled > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0
