"""The keeper: does what the pool plans, learns from what ends, and can say why nothing is ready."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.tunnels.path.relays import relay
from tunnels.circuit.origin import State
from tunnels.crypto.rng import StreamRng
from tunnels.ids import CloseReason, RelayId
from tunnels.keeper import PoolKeeper
from tunnels.params import AVOID_TIME, BUILD_BACKOFF, EXIT_WITNESSES, MAX_BUILDING, NO_PATH_RETRY, PROVEN_AGE
from tunnels.path.chooser import PathChooser
from tunnels.path.directory import RelayInfo
from tunnels.path.pool import PoolLimits
from tunnels.path.select import Rules
from tunnels.store import MemoryStore


@dataclass(eq=False)
class Circuit:
    """As much of an OriginCircuit as the keeper looks at."""

    path: tuple[RelayInfo, ...]
    born: float
    state: State = State.BUILDING
    build_time: float | None = None
    used: float = -inf
    answered: bool = False
    heard: float = -inf
    hops_built: int = 0
    cells_sent: int = 0
    cells_received: int = 0
    closed: list[CloseReason] = field(default_factory=list)

    @property
    def hops(self) -> int:
        return len(self.path)

    def close(self, reason: CloseReason, now: float) -> None:
        self.closed.append(reason)
        self.state = State.CLOSED


@dataclass
class Bench:
    """A keeper, the circuits it begins, and the relays it knows."""

    relays: list[RelayInfo] = field(default_factory=lambda: [relay(n, exits=True) for n in range(8)])
    limits: PoolLimits = field(default_factory=lambda: PoolLimits(2, 8, 600.0, 120.0, 10**9))
    circuits: list[Circuit] = field(default_factory=list)
    no_relays: str = ""

    def __post_init__(self) -> None:
        chooser = PathChooser(Rules(), StreamRng(bytes(32)), MemoryStore(), 0.0)
        self.keeper = PoolKeeper(cast("Any", self), self, self.limits, chooser)

    # What the keeper asks of an engine and of a source of relays.

    def create_circuit(self, path: Sequence[RelayInfo], now: float) -> Circuit:
        self.circuits.append(Circuit(tuple(path), now))
        return self.circuits[-1]

    def usable(self, now: float) -> list[RelayInfo]:
        return self.relays

    def first_seen(self) -> dict[RelayId, float]:
        return {}

    def trouble(self, now: float) -> str:
        return self.no_relays

    @property
    def core(self) -> Any:
        return SimpleNamespace(epoch=0.0)

    # What the world does.

    @property
    def building(self) -> list[Circuit]:
        return [circuit for circuit in self.circuits if circuit.state is State.BUILDING]

    def open(self, now: float) -> None:
        for circuit in self.building:
            circuit.state, circuit.build_time = State.OPEN, now - circuit.born
            self.keeper.opened(cast("Any", circuit), now)

    def end(self, circuit: Circuit, reason: CloseReason, now: float, culprit: int | None = None) -> None:
        circuit.state = State.CLOSED
        self.keeper.ended(cast("Any", circuit), reason, culprit, now)

    def builds_at(self, now: float) -> int:
        """How many circuits are begun then."""
        before = len(self.circuits)
        self.keeper.tend(now)
        return len(self.circuits) - before


def test_nothing_is_built_before_it_is_wanted_and_then_the_minimum_of_each_hop_count() -> None:
    bench = Bench()
    assert bench.builds_at(0) == 0
    bench.keeper.want(3)
    bench.keeper.want(2)
    bench.keeper.want(3)
    assert bench.builds_at(0) == 4
    assert sorted(circuit.hops for circuit in bench.circuits) == [2, 2, 3, 3]
    assert bench.builds_at(1) == 0


def test_failures_in_a_row_are_followed_by_longer_and_longer_waits() -> None:
    bench = Bench(limits=PoolLimits(1, 8, 600.0, 120.0, 10**9))
    bench.keeper.want(3)
    now = 0.0
    for wait in (*BUILD_BACKOFF, BUILD_BACKOFF[-1]):
        assert bench.builds_at(now) == 1
        now += 10
        bench.end(bench.circuits[-1], CloseReason.NO_ANSWER, now, culprit=0)
        if wait:
            assert bench.builds_at(now + wait - 0.1) == 0
        now += wait


def test_circuits_that_were_under_way_together_fail_together_and_count_once() -> None:
    bench = Bench(limits=PoolLimits(MAX_BUILDING, 8, 600.0, 120.0, 10**9))
    bench.keeper.want(3)
    assert bench.builds_at(0) == MAX_BUILDING
    for circuit in bench.building:
        bench.end(circuit, CloseReason.LINK_FAILED, 10.0, culprit=0)
    assert bench.builds_at(10.0 + BUILD_BACKOFF[0]) == MAX_BUILDING


def test_one_that_ends_soon_after_it_opened_counts_as_failed_and_one_that_lasted_does_not() -> None:
    for age, counts in ((PROVEN_AGE - 0.1, True), (PROVEN_AGE, False)):
        bench = Bench(limits=PoolLimits(1, 8, 600.0, 120.0, 10**9))
        bench.keeper.want(3)
        now = 0.0
        for _ in range(3):
            assert bench.builds_at(now) == 1
            bench.open(now)
            now += age
            bench.end(bench.circuits[-1], CloseReason.DESTROYED, now)
            now += BUILD_BACKOFF[1]
        assert bench.builds_at(now) == (0 if counts else 1)


def test_a_circuit_that_lasts_makes_earlier_failures_forgotten() -> None:
    bench = Bench(limits=PoolLimits(1, 8, 600.0, 120.0, 10**9))
    bench.keeper.want(3)
    for now in (0.0, 100.0, 200.0):
        bench.keeper.tend(now)
        bench.end(bench.circuits[-1], CloseReason.NO_ANSWER, now + 10)
    bench.keeper.tend(300.0)
    bench.open(300.0)
    bench.keeper.tend(300.0 + PROVEN_AGE)
    bench.end(bench.circuits[-1], CloseReason.TRUNCATED, 320.0)
    assert bench.builds_at(320.0) == 1
    bench.end(bench.circuits[-1], CloseReason.NO_ANSWER, 330.0)
    assert bench.builds_at(330.0 + BUILD_BACKOFF[0]) == 1


@pytest.mark.parametrize(
    "wish",
    [
        CloseReason.REQUESTED, CloseReason.SHUTDOWN, CloseReason.MAX_TIME, CloseReason.MAX_TIME_INACTIVE,
        CloseReason.MAX_TRAFFIC,
    ],
)  # fmt: skip
def test_what_ends_because_we_wished_so_is_no_failure(wish: CloseReason) -> None:
    bench = Bench(limits=PoolLimits(1, 8, 600.0, 120.0, 10**9))
    bench.keeper.want(3)
    for _ in range(5):
        assert bench.builds_at(5.0) == 1
        bench.end(bench.circuits[-1], wish, 5.0)


def test_a_relay_that_failed_is_avoided_for_a_while_where_there_is_another() -> None:
    bench = Bench(relays=[relay(n, exits=True) for n in range(2)], limits=PoolLimits(1, 1, 600.0, 120.0, 10**9))
    bench.keeper.want(1)
    bench.keeper.tend(0.0)
    [failed] = bench.circuits[0].path
    bench.end(bench.circuits[0], CloseReason.NO_ANSWER, 0.0, culprit=0)
    for now in (0.0, AVOID_TIME - 1):
        bench.keeper.tend(now)
        assert failed not in bench.circuits[-1].path
        bench.end(bench.circuits[-1], CloseReason.REQUESTED, now)
    seen = set()
    for n in range(40):
        bench.keeper.tend(AVOID_TIME + n)
        seen |= {*bench.circuits[-1].path}
        bench.end(bench.circuits[-1], CloseReason.REQUESTED, AVOID_TIME + n)
    assert failed in seen


@pytest.mark.parametrize("together", range(1, MAX_BUILDING + 1))
def test_an_exit_that_two_relays_could_not_reach_is_given_up_however_many_builds_were_under_way(together: int) -> None:
    bench = Bench(limits=PoolLimits(together, 8, 600.0, 120.0, 10**9))
    bench.keeper.want(3)
    bench.keeper.tend(0.0)
    dead = bench.circuits[0].path[-1]
    witnesses, now, before = set[RelayInfo](), 0.0, 0
    while len(witnesses) < EXIT_WITNESSES:
        now += 1
        for circuit in bench.building:
            if circuit.path[-1] == dead:
                witnesses.add(circuit.path[-2])
                bench.end(circuit, CloseReason.TRUNCATED, now, culprit=2)
        before = len(bench.circuits)
        bench.keeper.tend(now)
        assert now < 60
    for circuit in bench.circuits[before:]:
        assert dead not in circuit.path


@pytest.mark.parametrize(("reason", "culprit"), [(CloseReason.TRUNCATED, 1), (CloseReason.NO_ANSWER, None)])
def test_who_fails_late_does_not_take_an_exit_up_again_that_was_given_up(
    reason: CloseReason, culprit: int | None
) -> None:
    bench = Bench(relays=[relay(n, exits=n < 2) for n in range(8)], limits=PoolLimits(1, 8, 600.0, 120.0, 10**9))
    bench.keeper.want(3)
    bench.keeper.tend(0.0)
    dead = bench.circuits[0].path[-1]
    for witness in range(2, 2 + EXIT_WITNESSES):
        late = bench.circuits[-1]
        late.path = (*late.path[:1], relay(witness), dead)
        bench.end(late, CloseReason.TRUNCATED, 1.0, culprit=2)
        bench.keeper.tend(float(witness))
    [other] = {r for r in bench.relays if r.is_exit} - {dead}
    assert bench.circuits[-1].path[-1] == other
    bench.circuits[-1].path = (*bench.circuits[-1].path[:2], dead)  # one that was under way when the exit was given up
    bench.end(bench.circuits[-1], reason, 5.0, culprit)
    bench.keeper.tend(10.0)
    assert bench.circuits[-1].path[-1] == other


def test_circuits_of_others_are_neither_counted_nor_closed_nor_shown() -> None:
    bench = Bench()
    bench.keeper.want(3)
    bench.keeper.tend(0.0)
    stranger = Circuit(tuple(relay(n) for n in range(3)), 0.0, State.OPEN, 0.1)
    bench.end(stranger, CloseReason.NO_ANSWER, 1.0)
    bench.open(1.0)
    assert bench.builds_at(1.0) == 0
    assert [id(circuit) for circuit in bench.keeper.open_circuits(None, 1.0)] == [id(each) for each in bench.circuits]


def test_what_the_pool_retires_is_closed_with_its_reason() -> None:
    bench = Bench(limits=PoolLimits(1, 8, 600.0, 120.0, 10 * 1350))
    bench.keeper.want(3)
    bench.keeper.tend(0.0)
    bench.open(0.0)
    bench.circuits[0].cells_sent = bench.circuits[0].cells_received = 6
    assert bench.builds_at(1.0) == 1
    bench.open(1.0)
    bench.keeper.tend(1.0)
    assert bench.circuits[0].closed == [CloseReason.MAX_TRAFFIC]
    assert [id(circuit) for circuit in bench.keeper.open_circuits(3, 1.0)] == [id(bench.circuits[1])]


def test_why_not_ready_says_what_is_missing() -> None:
    bench = Bench(relays=[])
    why = bench.keeper.why_not_ready
    assert why(None, 0.0) == why(3, 0.0) == "call build_tunnels(3) first"
    assert why(2, 0.0) == "call build_tunnels(2) first"
    bench.keeper.want(3)
    assert why(3, 0.0) == "no circuit is open; the next try is in 0 s"
    bench.keeper.tend(0.0)
    assert why(3, 1.0) == f"0 of 3 hops: no relays are known; the next try is in {NO_PATH_RETRY - 1:.0f} s"
    bench.no_relays = "somebody says why"
    bench.keeper.tend(NO_PATH_RETRY)
    assert why(None, NO_PATH_RETRY + NO_PATH_RETRY) == "somebody says why; the next try is in 0 s"
    bench.relays = [relay(n, exits=True) for n in range(4)]
    bench.keeper.tend(2 * NO_PATH_RETRY)
    assert why(3, 10.0) == "2 circuits are being built"
    bench.end(bench.circuits[0], CloseReason.TRUNCATED, 12.0, culprit=1)
    assert why(3, 12.0) == "1 circuits are being built; the last circuit ended: truncated at hop 2 of 3"
    bench.end(bench.circuits[1], CloseReason.NO_ANSWER, 12.0)
    assert why(3, 12.0) == "the last circuit ended: no answer; the next try is in 0 s"
    bench.keeper.tend(12.0)
    bench.open(12.0)
    bench.keeper.tend(12.0 + PROVEN_AGE)
    for circuit in bench.circuits[2:]:
        bench.end(circuit, CloseReason.TRUNCATED, 40.0)
    assert why(3, 40.0) == "no circuit is open; the next try is in 0 s"
