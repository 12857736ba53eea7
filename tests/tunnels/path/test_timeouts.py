"""Build timeouts follow the network: learned, bounded, forgotten when it changes."""

from collections.abc import Callable
from math import exp, log, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plugin import Figure, Size
from tunnels.crypto.rng import StreamRng
from tunnels.errors import LocalError
from tunnels.params import (
    BUILD_INITIAL_TIMEOUT,
    BUILD_MAX_RECENT_TIMEOUTS,
    BUILD_MAX_TIMEOUT,
    BUILD_MIN_SAMPLES,
    BUILD_MIN_TIMEOUT,
    BUILD_RECENT,
    BUILD_SAMPLES,
    MAX_HOPS,
)
from tunnels.path.saved import StateError
from tunnels.path.timeouts import BuildTimes

RNG = StreamRng(bytes(32))


def uniform() -> float:
    return (RNG.below(1 << 40) + 1) / (1 << 40)


def pareto() -> float:
    return float(1.2 * uniform() ** (-1 / 2.5))


def frechet() -> float:
    return float(2.0 * (-log(uniform() * 0.999999)) ** (-1 / 3))


def two_modes() -> float:
    """Through a near guard and a far one."""
    return frechet() if RNG.below(2) else 3 + frechet()


def lognormal() -> float:
    normal = sqrt(12) * (sum(uniform() for _ in range(4)) - 2) / 2
    return 2.0 * exp(0.5 * normal)


def learned(draw: Callable[[], float], number: int = BUILD_SAMPLES, hops: int = 3) -> BuildTimes:
    """As it is learned: what would take longer than the give-up time is never seen."""
    times = BuildTimes()
    for _ in range(number):
        if (seconds := draw()) <= times.give_up(hops):
            times.built(hops, seconds)
        else:
            times.given_up()
    return times


@pytest.mark.parametrize("draw", [pareto, frechet, two_modes, lognormal])
def test_four_in_five_circuits_are_built_in_time_and_nearly_all_before_they_are_given_up(
    size: Size, figure: Figure, draw: Callable[[], float]
) -> None:
    times = learned(draw, size(small=2_000, long=20_000))
    sample = [draw() for _ in range(20_000)]
    in_time = sum(seconds <= times.timeout(3) for seconds in sample) / len(sample)
    before_end = sum(seconds <= times.give_up(3) for seconds in sample) / len(sample)
    figure(f"built in time, {draw.__name__}", in_time, "")
    figure(f"built before given up, {draw.__name__}", before_end, "")
    assert in_time == pytest.approx(0.8, abs=0.06)
    assert 0.95 < before_end <= 1


def test_what_is_learned_does_not_shrink_by_itself() -> None:
    """Ten times over, the history is replaced by what the timeout let through."""
    times = learned(frechet, 10 * BUILD_SAMPLES)
    sample = [frechet() for _ in range(20_000)]
    assert sum(seconds <= times.timeout(3) for seconds in sample) / len(sample) == pytest.approx(0.8, abs=0.06)


def test_nothing_is_learned_from_a_few_circuits() -> None:
    times = BuildTimes()
    for number in range(BUILD_MIN_SAMPLES):
        assert times.timeout(3) == times.give_up(3) == BUILD_INITIAL_TIMEOUT
        assert not times.is_learned
        times.built(3, 2.0 + number / 1000)
    assert times.is_learned
    assert 2.0 < times.timeout(3) < 2.2


def test_only_the_newest_times_count() -> None:
    times = learned(lambda: 9.0)
    for _ in range(BUILD_SAMPLES):
        times.built(3, 2.0)
    assert times.timeout(3) == pytest.approx(2.0)
    assert len(times) == BUILD_SAMPLES


def test_longer_circuits_get_the_time_their_round_trips_take() -> None:
    times = learned(lambda: 6.0)
    assert [round(times.timeout(hops), 6) for hops in range(1, MAX_HOPS + 1)] == [1, 3, 6, 10, 15, 21]


def test_times_of_other_lengths_are_learned_from_too() -> None:
    assert learned(lambda: 1.0, hops=1).timeout(3) == pytest.approx(6.0)


@pytest.mark.parametrize("hops", [0, -1, MAX_HOPS + 1])
def test_a_circuit_of_no_possible_length_is_our_own_mistake(hops: int) -> None:
    with pytest.raises(LocalError, match="1 to 6 hops"):
        BuildTimes().timeout(hops)


def test_another_network_makes_all_that_was_learned_forgotten() -> None:
    times = learned(lambda: 2.0)
    for _ in range(BUILD_MAX_RECENT_TIMEOUTS):
        assert times.timeout(3) == pytest.approx(2.0)
        times.timed_out()
    assert (times.timeout(3), len(times)) == (BUILD_INITIAL_TIMEOUT, 0)


def test_a_few_that_were_built_between_keep_what_was_learned() -> None:
    times = learned(lambda: 2.0)
    for _ in range(100):
        for _ in range(BUILD_MAX_RECENT_TIMEOUTS - 1):
            times.timed_out()
        for _ in range(BUILD_RECENT - BUILD_MAX_RECENT_TIMEOUTS + 1):
            times.built(3, 2.0)
    assert times.is_learned


def test_circuits_that_came_too_late_do_not_count_as_built_in_time() -> None:
    times = learned(lambda: 2.0)
    for _ in range(BUILD_MAX_RECENT_TIMEOUTS):
        times.timed_out()
        if times.is_learned:
            times.built(3, 2.5)
    assert not times.is_learned


def test_a_timeout_that_is_no_help_is_doubled_up_to_a_bound() -> None:
    times, seen = BuildTimes(), []
    for _ in range(4):
        seen.append(times.timeout(3))
        for _ in range(BUILD_MAX_RECENT_TIMEOUTS):
            times.timed_out()
    assert seen == [BUILD_INITIAL_TIMEOUT, 2 * BUILD_INITIAL_TIMEOUT, 4 * BUILD_INITIAL_TIMEOUT, BUILD_MAX_TIMEOUT]


def test_a_network_in_which_nothing_is_built_has_the_longest_timeout() -> None:
    times = BuildTimes()
    for _ in range(BUILD_MIN_SAMPLES):
        times.given_up()
    assert times.timeout(3) == times.give_up(3) == BUILD_MAX_TIMEOUT


events = st.one_of(
    st.tuples(st.just("built"), st.integers(1, MAX_HOPS), st.floats(0, 1e4)),
    st.tuples(st.sampled_from(["given_up", "timed_out"])),
)


@given(st.lists(events, max_size=300), st.floats(0, 50))
def test_whatever_happens_both_times_are_bounded_and_in_order(
    happened: list[tuple[object, ...]], typical: float
) -> None:
    times = learned(lambda: typical, BUILD_MIN_SAMPLES)
    for name, *arguments in happened:
        getattr(times, str(name))(*arguments)
        for hops in (1, 3, MAX_HOPS):
            assert BUILD_MIN_TIMEOUT <= times.timeout(hops) <= times.give_up(hops) <= BUILD_MAX_TIMEOUT
    again = BuildTimes.from_bytes(times.to_bytes())
    assert again.to_bytes() == times.to_bytes()
    assert (again.timeout(3), again.give_up(3)) == (times.timeout(3), times.give_up(3))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"bins":[2', b'"bins":[-2'),
        (b'"bins":[', b'"bins":[0.5,'),
        (b'"bins":[', b'"bins":[99999999,'),
        (b'"fallback":30.0', b'"fallback":1'),
        (b"build times", b"guards"),
    ],
)
def test_saved_times_that_cannot_be_are_refused(old: bytes, new: bytes) -> None:
    data = learned(lambda: 2.0, 5).to_bytes()
    assert old in data
    with pytest.raises(StateError, match="saved build times"):
        BuildTimes.from_bytes(data.replace(old, new, 1))
