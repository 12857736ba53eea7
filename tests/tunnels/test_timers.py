"""Timers as data: order, cancelling, and callbacks that add callbacks."""

from hypothesis import given
from hypothesis import strategies as st

from tunnels.timers import Timers


@given(st.lists(st.floats(0, 100), max_size=30), st.floats(0, 100))
def test_exactly_what_is_due_runs_in_order_of_time_then_of_making(times: list[float], now: float) -> None:
    timers, ran = Timers(), list[int]()
    for number, when in enumerate(times):
        timers.at(when, lambda _, n=number: ran.append(n))  # type: ignore[misc]
    timers.run(now)
    assert ran == sorted((n for n, when in enumerate(times) if when <= now), key=lambda n: (times[n], n))
    assert timers.next() == min((when for when in times if when > now), default=None)


def test_a_cancelled_timer_neither_runs_nor_keeps_anybody_waiting() -> None:
    timers, ran = Timers(), list[float]()
    timers.at(1, ran.append).cancel()
    assert timers.next() is None
    timers.run(2)
    assert not ran


def test_what_a_callback_adds_for_now_runs_in_the_same_call() -> None:
    timers, ran = Timers(), list[float]()

    def once_more(now: float) -> None:
        ran.append(now)
        timers.at(now, ran.append)

    timers.at(1, once_more)
    timers.run(5)
    assert ran == [5, 5]
    assert timers.next() is None


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=300))
def test_cancelled_timers_do_not_pile_up_and_the_others_still_run(plan: list[tuple[float, bool]]) -> None:
    timers, ran, expected = Timers(), list[float](), list[float]()
    for when, stays in plan:
        timer = timers.at(when, lambda _, when=when: ran.append(when))  # type: ignore[misc]
        if stays:
            expected.append(when)
        else:
            timer.cancel()
            timer.cancel()
        assert len(timers) <= 2 * len(expected) + 65
    timers.run(100)
    assert ran == sorted(expected)
    assert len(timers) == 0
