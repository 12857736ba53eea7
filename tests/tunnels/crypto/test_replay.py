"""SPEC 2.4, as tests."""

from hypothesis import given
from hypothesis import strategies as st

from tunnels.crypto.replay import ReplayWindow
from tunnels.params import COUNTER_LIMIT, REPLAY_WINDOW

steps = st.integers(-REPLAY_WINDOW - 3, REPLAY_WINDOW + 3) | st.integers(-5, 5) | st.integers(-(2**41), 2**41)


def accept(window: ReplayWindow, counter: int) -> bool:
    if fresh := window.fresh(counter):
        window.mark(counter)
    return fresh


@given(st.integers(0, 2**40), st.lists(steps, max_size=80))
def test_a_counter_is_accepted_exactly_when_it_is_in_or_above_the_window_and_new(start: int, moves: list[int]) -> None:
    window, seen, counter = ReplayWindow(), set[int](), start
    for move in [0, *moves]:
        counter = max(0, counter + move)
        last = max(seen, default=-1)
        expected = counter not in seen and counter > last - REPLAY_WINDOW
        assert accept(window, counter) is expected
        if expected:
            seen.add(counter)


def test_asking_changes_nothing() -> None:
    window = ReplayWindow()
    window.mark(100)
    for counter in (5, 99, 100, 101, 10**6, 2**47):
        window.fresh(counter)
    assert window.last == 100
    assert window.fresh(99)
    assert window.fresh(101)
    assert not window.fresh(100)


def test_a_counter_out_of_bounds_is_never_fresh() -> None:
    window = ReplayWindow()
    assert not window.fresh(COUNTER_LIMIT)
    assert not window.fresh(2**48 - 1)
    assert window.fresh(COUNTER_LIMIT - 1)


def test_every_counter_of_a_full_window_in_reverse_order_is_accepted_once() -> None:
    window = ReplayWindow()
    counters = range(5 * REPLAY_WINDOW, 4 * REPLAY_WINDOW, -1)
    assert all(accept(window, counter) for counter in counters)
    assert not any(accept(window, counter) for counter in counters)
