"""The replay window: which counters under one key were accepted already (SPEC 2.4, RFC 6479).  Floor 2.

HOT PATH.  One byte a counter instead of one bit: the common case, a counter just above the last, is one store and no
shift.

  cost    0.06 us for a counter in order; a gap of n clears n bytes
  memory  REPLAY_WINDOW bytes a window
"""

from typing import Final

from tunnels.params import COUNTER_LIMIT, REPLAY_WINDOW

WINDOW_MASK: Final = REPLAY_WINDOW - 1
_CLEAR: Final = bytes(REPLAY_WINDOW)


class ReplayWindow:
    """Ask `fresh`, verify the tag, then `mark`: a cell that does not verify must change nothing."""

    __slots__ = ("last", "seen")

    def __init__(self) -> None:
        self.seen: Final = bytearray(REPLAY_WINDOW)
        """1 at `counter & WINDOWWINDOW_MASK` for each counter that was marked, of the last REPLAY_WINDOW."""
        self.last = -1
        """Highest counter marked, -1 before the first."""

    def fresh(self, counter: int) -> bool:
        """Whether `counter` may still be accepted: above the window or in it and not seen."""
        if counter > self.last:
            return counter < COUNTER_LIMIT
        return counter > self.last - REPLAY_WINDOW and not self.seen[counter & WINDOW_MASK]

    def mark(self, counter: int) -> None:
        """Take note of a verified counter for which `fresh` was true."""
        gap = counter - self.last
        if gap > 1:
            self._forget(gap - 1)
        if gap > 0:
            self.last = counter
        self.seen[counter & WINDOW_MASK] = 1

    def _forget(self, skipped: int) -> None:
        """Clear the places of the `skipped` counters after `last`: they hold counters that leave the window now."""
        if skipped >= REPLAY_WINDOW:
            self.seen[:] = _CLEAR
            return
        start = (self.last + 1) & WINDOW_MASK
        end = start + skipped
        self.seen[start : min(end, REPLAY_WINDOW)] = _CLEAR[: min(end, REPLAY_WINDOW) - start]
        if end > REPLAY_WINDOW:
            self.seen[: end - REPLAY_WINDOW] = _CLEAR[: end - REPLAY_WINDOW]
