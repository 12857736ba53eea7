"""A set of whole numbers as ranges: what arrived, what was acknowledged, what has to go again.  Floor 3: values only.

HOT PATH.  Numbers come almost always in order: adding behind the last range touches one list element and searches
nothing.  Everything else is a binary search, and a slice of two lists.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

Range = tuple[int, int]
"""From the first to behind the last: (3, 5) is 3 and 4."""


class RangeSet:
    """INVARIANT: ranges are ascending, not empty, and do not touch each other."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        """The number of ranges, not of numbers."""
        return len(self._starts)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._starts, self._ends, strict=True)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"

    @property
    def first(self) -> Range:
        """The lowest range; IndexError when there is none."""
        return self._starts[0], self._ends[0]

    @property
    def last(self) -> Range:
        return self._starts[-1], self._ends[-1]

    def newest(self, number: int) -> list[Range]:
        """At most `number` ranges, the highest first."""
        starts, ends = self._starts[-number:], self._ends[-number:]
        starts.reverse()
        ends.reverse()
        return list(zip(starts, ends, strict=True))

    def add(self, start: int, end: int) -> None:
        """Put start to end - 1 in."""
        starts, ends = self._starts, self._ends
        if start >= end:
            return
        if not ends or start > ends[-1]:
            starts.append(start)
            ends.append(end)
            return
        if start == ends[-1]:
            ends[-1] = end
            return
        low = bisect_left(ends, start)  # the first range that touches or lies behind
        high = bisect_right(starts, end)  # behind the last one that touches or lies before
        if low < high:
            start, end = min(start, starts[low]), max(end, ends[high - 1])
        starts[low:high] = [start]
        ends[low:high] = [end]

    def remove(self, start: int, end: int) -> None:
        """Take start to end - 1 out, as far as they are in."""
        starts, ends = self._starts, self._ends
        if start >= end or not ends or start >= ends[-1] or end <= starts[0]:
            return
        low = bisect_right(ends, start)
        high = bisect_left(starts, end)
        if low >= high:
            return
        left, right = starts[low], ends[high - 1]
        pieces = [(a, b) for a, b in ((left, start), (end, right)) if a < b]
        starts[low:high] = [a for a, _ in pieces]
        ends[low:high] = [b for _, b in pieces]

    def remove_first(self) -> Range:
        """Take the lowest range out."""
        return self._starts.pop(0), self._ends.pop(0)

    def keep_newest(self, number: int) -> None:
        """Forget all but the `number` highest ranges."""
        if len(self._starts) > number:
            del self._starts[:-number], self._ends[:-number]

    def within(self, start: int, end: int) -> Iterator[Range]:
        """The parts of start to end - 1 that are in."""
        starts, ends = self._starts, self._ends
        at = bisect_right(ends, start)
        while at < len(starts) and starts[at] < end:
            yield max(start, starts[at]), min(end, ends[at])
            at += 1
