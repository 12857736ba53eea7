"""A RangeSet is a set of numbers, and its ranges are as few as can be."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tunnels.stream.rangeset import RangeSet

spans = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: (min(pair), max(pair)))
steps = st.lists(st.tuples(st.booleans(), spans), max_size=30)


def apply(taken: list[tuple[bool, tuple[int, int]]]) -> tuple[RangeSet, set[int]]:
    ranges, numbers = RangeSet(), set[int]()
    for add, (start, end) in taken:
        if add:
            ranges.add(start, end)
            numbers |= set(range(start, end))
        else:
            ranges.remove(start, end)
            numbers -= set(range(start, end))
    return ranges, numbers


@given(steps)
def test_it_holds_what_was_added_and_not_removed(taken: list[tuple[bool, tuple[int, int]]]) -> None:
    ranges, numbers = apply(taken)
    assert {number for start, end in ranges for number in range(start, end)} == numbers
    assert {number for number in range(61) if number in ranges} == numbers


@given(steps)
def test_ranges_ascend_are_not_empty_and_do_not_touch(taken: list[tuple[bool, tuple[int, int]]]) -> None:
    ranges = list(apply(taken)[0])
    assert all(start < end for start, end in ranges)
    assert all(left[1] < right[0] for left, right in pairwise(ranges))


@given(steps, spans)
def test_what_lies_within_a_span_is_the_common_part(
    taken: list[tuple[bool, tuple[int, int]]], span: tuple[int, int]
) -> None:
    ranges, numbers = apply(taken)
    found = [number for start, end in ranges.within(*span) for number in range(start, end)]
    assert found == sorted(numbers & set(range(*span)))


@given(steps, st.integers(1, 5))
def test_the_newest_are_the_highest_and_they_are_kept(taken: list[tuple[bool, tuple[int, int]]], number: int) -> None:
    ranges = apply(taken)[0]
    everything = list(ranges)
    assert ranges.newest(number) == everything[::-1][:number]
    ranges.keep_newest(number)
    assert list(ranges) == everything[-number:]
    if everything:
        assert (ranges.first, ranges.last) == (everything[-number:][0], everything[-1])
        assert ranges.remove_first() == everything[-number:][0]
    assert len(ranges) == max(len(everything[-number:]) - 1, 0)
