"""Which circuits to build and to retire, by laws over random pools and over hours of virtual time."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.ids import CloseReason
from tunnels.params import EXPIRY_GRACE, EXPIRY_LEAD, MAX_BUILDING, POOL_INTERVAL, RECENTLY_USED
from tunnels.path.pool import Build, PooledCircuit, PoolLimits, Retire, for_new_traffic, plan, worn_out

NOW: Final = 10_000.0
Circuit = PooledCircuit[int]

LIMITS = st.builds(
    lambda low, more, time, idle: PoolLimits(low, low + more, time, idle, 1000),
    st.integers(1, 4), st.integers(0, 4), st.sampled_from([1.0, 60.0, 600.0, inf]), st.sampled_from([1.0, 120.0]),
)  # fmt: skip
AGES = st.sampled_from([0.0, 0.5, 5.0, 50.0, 130.0, 569.0, 575.0, 601.0, 1199.0, 1300.0])
CIRCUITS = st.builds(
    PooledCircuit,
    st.just(0), st.integers(1, 3), st.none() | AGES.map(lambda age: NOW - age),
    st.just(-inf) | AGES.map(lambda age: NOW - age), st.sampled_from([0, 1000, 1001]),
)  # fmt: skip
POOLS = st.lists(CIRCUITS, max_size=12).map(
    lambda drawn: [dataclasses.replace(circuit, key=key) for key, circuit in enumerate(drawn)]
)
WISHES = st.lists(st.integers(1, 3), max_size=4)


def retired(actions: list[Build | Retire[int]]) -> dict[int, CloseReason]:
    return {action.key: action.reason for action in actions if isinstance(action, Retire)}


def built(actions: list[Build | Retire[int]]) -> Counter[int]:
    return Counter(action.hops for action in actions if isinstance(action, Build))


def performed(pool: list[Circuit], actions: list[Build | Retire[int]], now: float) -> list[Circuit]:
    gone = retired(actions)
    new = [PooledCircuit(1000 + n, hops, None, -inf, 0) for n, hops in enumerate(built(actions).elements())]
    return [circuit for circuit in pool if circuit.key not in gone] + new


@given(POOLS, WISHES, LIMITS)
def test_a_plan_that_was_performed_leaves_nothing_to_plan(
    pool: list[Circuit], wishes: list[int], limits: PoolLimits
) -> None:
    actions = plan(pool, wishes, limits, {}, now=NOW)
    assert plan(performed(pool, actions, NOW), wishes, limits, {}, now=NOW) == []


@given(POOLS, WISHES, LIMITS)
def test_only_what_is_wanted_is_touched_and_nothing_twice(
    pool: list[Circuit], wishes: list[int], limits: PoolLimits
) -> None:
    actions = plan(pool, wishes, limits, {}, now=NOW)
    assert built(actions).keys() <= set(wishes)
    assert {pool[key].hops for key in retired(actions)} <= set(wishes)
    assert len(retired(actions)) == sum(isinstance(action, Retire) for action in actions)
    assert plan(pool, [*wishes, *wishes], limits, {}, now=NOW) == actions


@given(POOLS, LIMITS)
def test_exactly_what_is_idle_and_too_many_or_worn_out_and_replaced_goes(
    pool: list[Circuit], limits: PoolLimits
) -> None:
    pool = [dataclasses.replace(circuit, hops=3) for circuit in pool]
    gone = retired(plan(pool, [3], limits, {}, now=NOW))
    stays = [circuit for circuit in pool if circuit.key not in gone]
    fresh_open = [c for c in stays if c.opened is not None and worn_out(c, limits, NOW) is None]
    old = [c for c in pool if worn_out(c, limits, NOW) is not None]
    for circuit in pool:
        assert circuit.opened is not None or circuit.key not in gone
        reason = gone.get(circuit.key)
        if reason is CloseReason.MAX_TIME_INACTIVE:
            assert circuit not in old
            assert NOW - circuit.used > limits.max_time_inactive
        elif reason is not None:
            assert reason is worn_out(circuit, limits, NOW)
            assert fresh_open or NOW - (circuit.opened or 0) > limits.max_time + EXPIRY_GRACE \
                or len(old) > limits.max_circuits  # fmt: skip
    # What stays although it could go: some other law keeps it.
    open_stays = [c for c in stays if c.opened is not None]
    for circuit in open_stays:
        needless = len(open_stays) > limits.min_circuits and bool(fresh_open)
        age = NOW - (circuit.opened or 0)
        if circuit in old and needless:
            assert circuit.traffic <= limits.max_traffic
            assert age <= limits.max_time or NOW - circuit.used <= RECENTLY_USED
        assert age <= limits.max_time + EXPIRY_GRACE


@given(POOLS, LIMITS)
def test_retiring_never_leaves_fewer_open_circuits_than_min_where_that_is_avoidable(
    pool: list[Circuit], limits: PoolLimits
) -> None:
    pool = [dataclasses.replace(circuit, hops=3) for circuit in pool]
    gone = retired(plan(pool, [3], limits, {}, now=NOW))
    before = [circuit for circuit in pool if circuit.opened is not None]
    after = [circuit for circuit in before if circuit.key not in gone]
    if any(NOW - (c.opened or 0) > limits.max_time + EXPIRY_GRACE for c in before):
        return  # their time is up in any case
    if sum(worn_out(c, limits, NOW) is not None for c in before) > limits.max_circuits:
        return  # so many are kept by their users only
    assert len(after) >= min(len(before), limits.min_circuits)


@given(POOLS, LIMITS)
def test_what_is_built_stays_within_every_bound(pool: list[Circuit], limits: PoolLimits) -> None:
    new = built(plan(pool, [1, 2, 3], limits, {}, now=NOW))
    for hops, number in new.items():
        fresh = [c for c in pool if c.hops == hops and worn_out(c, limits, NOW) is None]
        assert len(fresh) + number <= limits.max_circuits
        assert sum(c.opened is None for c in fresh) + number <= MAX_BUILDING
        in_use = sum(c.opened is not None and NOW - c.used <= limits.max_time_inactive for c in fresh)
        assert len(fresh) + number <= max(in_use + 1, limits.min_circuits)


@given(POOLS, LIMITS, st.sampled_from([0.0, 0.1, 100.0]))
def test_nothing_is_built_before_its_time_and_the_rest_of_the_plan_does_not_change(
    pool: list[Circuit], limits: PoolLimits, wait: float
) -> None:
    actions = plan(pool, [2, 3], limits, {3: NOW + wait, 1: NOW + 1}, now=NOW)
    free = plan(pool, [2, 3], limits, {}, now=NOW)
    assert retired(actions) == retired(free)
    assert built(actions) == (built(free) if wait == 0 else Counter({2: built(free)[2]}))


def test_the_successor_is_built_before_the_time_is_up_and_the_old_one_goes_when_it_is_and_the_successor_open() -> None:
    limits = PoolLimits(1, 4, 600.0, 120.0, 1000)
    old = PooledCircuit(1, 3, 0.0, -inf, 0)
    assert plan([old], [3], limits, {}, now=600 - EXPIRY_LEAD) == []
    assert plan([old], [3], limits, {}, now=600 - EXPIRY_LEAD + 1) == [Build(3)]
    building = PooledCircuit(2, 3, None, -inf, 0)
    assert plan([old, building], [3], limits, {}, now=700) == []
    successor = PooledCircuit(2, 3, 590.0, -inf, 0)
    assert plan([old, successor], [3], limits, {}, now=599) == []
    assert plan([old, successor], [3], limits, {}, now=601) == [Retire(1, CloseReason.MAX_TIME)]


def test_a_circuit_past_its_time_stays_while_it_is_used_and_ten_minutes_at_most() -> None:
    limits = PoolLimits(1, 4, 600.0, 120.0, 1000)
    successor = PooledCircuit(2, 3, 595.0, -inf, 0)

    def goes(now: float, used: float) -> bool:
        return 1 in retired(plan([PooledCircuit(1, 3, 0.0, used, 0), successor], [3], limits, {}, now=now))

    assert not goes(650, used=650 - RECENTLY_USED)
    assert goes(650, used=649 - RECENTLY_USED)
    assert not goes(600 + EXPIRY_GRACE, used=600 + EXPIRY_GRACE)
    assert goes(601 + EXPIRY_GRACE, used=601 + EXPIRY_GRACE)


def test_a_circuit_over_its_traffic_goes_as_soon_as_its_successor_is_open_used_or_not() -> None:
    limits = PoolLimits(1, 4, 600.0, 120.0, 1000)
    over = PooledCircuit(1, 3, 0.0, 10.0, 1001)
    assert plan([over], [3], limits, {}, now=10) == [Build(3)]
    assert plan([over, PooledCircuit(2, 3, None, -inf, 0)], [3], limits, {}, now=10) == []
    successor = PooledCircuit(2, 3, 10.0, -inf, 0)
    assert plan([over, successor], [3], limits, {}, now=10) == [Retire(1, CloseReason.MAX_TRAFFIC)]


@given(POOLS, LIMITS)
def test_new_traffic_goes_to_what_is_fresh_and_stays_with_what_opened_first(
    pool: list[Circuit], limits: PoolLimits
) -> None:
    ordered = for_new_traffic(pool, limits, NOW)
    assert {circuit.key for circuit in ordered} == {c.key for c in pool if c.opened is not None}
    worn = [worn_out(circuit, limits, NOW) is not None for circuit in ordered]
    assert worn == sorted(worn)
    opened = [circuit.opened or 0 for circuit in ordered[: worn.count(False)]]
    assert opened == sorted(opened)


# --- Hours of it --------------------------------------------------------------------------------


@dataclass
class Simulated:
    """A pool whose plans are performed once a second; a build takes `build_time` seconds, or fails when it says so."""

    limits: PoolLimits
    build_time: Callable[[], float] = lambda: 1.0
    circuits: dict[int, Circuit] = field(default_factory=dict)
    opens: dict[int, float] = field(default_factory=dict)
    builds: int = 0
    ended: Counter[CloseReason] = field(default_factory=Counter)

    def run(self, seconds: float, used: Callable[[float, list[Circuit]], list[Circuit]]) -> Iterator[float]:
        """Yields after every plan; `used` says which circuits, given the best first, carry something at that moment."""
        now = 0.0
        while now < seconds:
            for key, when in list(self.opens.items()):
                if when <= now:
                    self.circuits[key] = dataclasses.replace(self.circuits[key], opened=when)
                    del self.opens[key]
            for circuit in used(now, for_new_traffic(self.circuits.values(), self.limits, now)):
                self.circuits[circuit.key] = dataclasses.replace(self.circuits[circuit.key], used=now)
            for action in plan(self.circuits.values(), [3], self.limits, {}, now=now):
                if isinstance(action, Build):
                    self.builds += 1
                    self.circuits[self.builds] = PooledCircuit(self.builds, 3, None, -inf, 0)
                    self.opens[self.builds] = now + self.build_time()
                else:
                    self.ended[action.reason] += 1
                    del self.circuits[action.key]
            yield now
            now += POOL_INTERVAL

    def open(self) -> list[Circuit]:
        return [circuit for circuit in self.circuits.values() if circuit.opened is not None]


HOURS = 6 * 3600.0


def test_an_idle_pool_builds_its_minimum_once_for_each_life_of_a_circuit() -> None:
    pool = Simulated(PoolLimits(2, 8, 600.0, 120.0, 1000))
    for now in pool.run(HOURS, lambda now, circuits: []):
        assert now < 2 or len(pool.open()) >= 2
        assert len(pool.circuits) <= 4
    lives = HOURS / (600 - EXPIRY_LEAD)
    assert 2 * lives - 2 <= pool.builds <= 2 * lives + 2
    assert set(pool.ended) == {CloseReason.MAX_TIME}


@pytest.mark.parametrize("users", [1, 3, 20])
def test_a_pool_in_use_has_one_more_ready_and_builds_no_more_than_that(users: int) -> None:
    limits = PoolLimits(2, 8, 600.0, 120.0, 1000)
    pool = Simulated(limits)
    ready = min(users + 1, 8)
    for now in pool.run(HOURS, lambda now, circuits: circuits[:users]):
        assert now < 60 or len(pool.open()) >= ready
        assert len(pool.circuits) <= 2 * limits.max_circuits
    lives = HOURS / (600 - EXPIRY_LEAD)
    assert pool.builds <= ready * (lives + 1)


def test_somebody_who_comes_and_goes_costs_a_circuit_a_visit_and_not_more() -> None:
    pool = Simulated(PoolLimits(1, 8, 600.0, 120.0, 1000))
    for _ in pool.run(HOURS, lambda now, circuits: circuits[:1] if now % 300 < 30 else []):
        pass
    visits, lives = HOURS / 300, HOURS / (600 - EXPIRY_LEAD)
    assert pool.builds <= visits + 2 * lives + 2


def test_circuits_that_take_longer_to_build_than_they_may_live_do_not_pile_up() -> None:
    pool = Simulated(PoolLimits(2, 8, 1.0, 1.0, 1000), build_time=lambda: 5.0)
    for now in pool.run(600, lambda now, circuits: circuits):
        assert len(pool.circuits) <= 16
        assert now < 10 or len(pool.open()) >= 2
    assert pool.builds <= 600 / 5 * 8


def test_users_that_never_let_go_cannot_make_the_pool_grow_for_ever() -> None:
    limits = PoolLimits(1, 4, 10.0, 10.0, 1000)
    pool = Simulated(limits)
    for _ in pool.run(3600, lambda now, circuits: circuits):
        assert len(pool.circuits) <= 2 * limits.max_circuits
