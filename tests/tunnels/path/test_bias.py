"""Who is charged for circuits that fail, and that nobody can charge others or choose exits by it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plugin import Figure, Size
from tests.tunnels.path.numbered import ACCEPT, relay_id, relay_info
from tunnels.crypto.rng import StreamRng
from tunnels.ids import RelayId
from tunnels.params import (
    BIAS_MIN_CIRCUITS,
    BIAS_MIN_USES,
    BIAS_SCALE,
    BIAS_USE_SCALE,
    BLAME_FLOOR,
    BLAME_HALF_LIFE,
    BLAME_PARTNERS,
    KEEP_EXIT_TRIES,
    MAX_BLAMED_PAIRS,
)
from tunnels.path.bias import Attempt, Blame, PathBias, Verdict
from tunnels.path.guards import Candidate, Guards, NoGuard
from tunnels.path.saved import StateError
from tunnels.path.select import Rules, choose_exit, choose_path, networks_of, restrictions

SEED = bytes(32)
GUARD, OTHER = relay_id(1), relay_id(2)


def circuits(bias: PathBias, begun: int, built: int, guard: RelayId = GUARD) -> None:
    """`begun` circuits, the built ones spread evenly among them."""
    for number in range(begun):
        bias.begun(guard)
        if (number + 1) * built // begun > number * built // begun:
            bias.built(guard)


# --- Path bias ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begun", "built", "verdict"),
    [
        (BIAS_MIN_CIRCUITS - 1, 0, Verdict.FINE),
        (BIAS_MIN_CIRCUITS, 0, Verdict.OUT),
        (100, 29, Verdict.OUT),
        (100, 30, Verdict.WARN),
        (100, 49, Verdict.WARN),
        (100, 50, Verdict.NOTICE),
        (100, 69, Verdict.NOTICE),
        (100, 70, Verdict.FINE),
        (100, 100, Verdict.FINE),
    ],
)
def test_a_guard_is_judged_by_its_share_of_built_circuits_once_there_are_enough(
    begun: int, built: int, verdict: Verdict
) -> None:
    bias = PathBias()
    circuits(bias, begun, built)
    assert bias.verdict(GUARD) is verdict
    assert (GUARD in bias.out()) is (verdict is Verdict.OUT)
    assert bias.verdict(OTHER) is Verdict.FINE


@pytest.mark.parametrize(
    ("tried", "worked", "verdict"),
    [(BIAS_MIN_USES - 1, 0, Verdict.FINE), (50, 29, Verdict.OUT), (50, 30, Verdict.NOTICE), (50, 40, Verdict.FINE)],
)
def test_a_guard_is_judged_by_circuits_that_carried_something_too(tried: int, worked: int, verdict: Verdict) -> None:
    bias = PathBias()
    for number in range(tried):
        bias.use_tried(GUARD)
        if number < worked:
            bias.use_worked(GUARD)
    assert bias.verdict(GUARD) is verdict


def test_a_guard_with_a_long_good_past_is_found_out_within_a_few_hundred_circuits() -> None:
    bias, killed = PathBias(), 0
    circuits(bias, 100_000, 99_000)
    while bias.verdict(GUARD) is not Verdict.OUT:
        bias.begun(GUARD)
        killed += 1
    assert killed < 2 * BIAS_SCALE


def test_an_honest_guard_in_a_bad_network_stays(size: Size) -> None:
    """60 % of circuits built, ten thousand of them: never out, whatever the dice."""
    for seed in range(size(small=5, long=100)):
        bias, rng = PathBias(), StreamRng(seed.to_bytes(32))
        for _ in range(size(small=2_000, long=10_000)):
            bias.begun(GUARD)
            if rng.below(10) < 6:
                bias.built(GUARD)
            assert bias.verdict(GUARD) < Verdict.OUT


@given(st.lists(st.sampled_from(["begun", "built", "use_tried", "use_worked"]), max_size=400))
def test_whatever_is_counted_shares_stay_between_nothing_and_all(events: list[str]) -> None:
    bias = PathBias()
    for event in events:
        getattr(bias, event)(GUARD)
        assert bias.verdict(GUARD) in Verdict
    assert PathBias.from_bytes(bias.to_bytes()).to_bytes() == bias.to_bytes()


def test_counts_stay_small_for_ever() -> None:
    bias = PathBias()
    circuits(bias, 10 * BIAS_SCALE, 5 * BIAS_SCALE)
    for _ in range(10 * BIAS_USE_SCALE):
        bias.use_tried(GUARD)
    begun = bias.to_bytes().split(b'"begun":')[1].split(b",")[0]
    assert BIAS_SCALE / 2 <= float(begun) <= BIAS_SCALE + 1


def test_a_guard_that_is_none_any_more_is_forgotten() -> None:
    bias = PathBias()
    circuits(bias, 100, 0)
    circuits(bias, 100, 0, OTHER)
    bias.keep([OTHER])
    assert bias.out() == {OTHER}


def test_a_verdict_outlives_the_process() -> None:
    bias = PathBias()
    circuits(bias, 100, 10)
    assert PathBias.from_bytes(bias.to_bytes()).out() == {GUARD}


@pytest.mark.parametrize(
    ("old", "new"), [(b'"built":10.0', b'"built":101.0'), (b'"begun":100.0', b'"begun":-1'), (b"path", b"cloth")]
)
def test_saved_counts_that_cannot_be_are_refused(old: bytes, new: bytes) -> None:
    bias = PathBias()
    circuits(bias, 100, 10)
    with pytest.raises(StateError, match="saved path bias"):
        PathBias.from_bytes(bias.to_bytes().replace(old, new))


# --- One wish, several builds -----------------------------------------------------------------------


def test_a_wish_keeps_its_exit_through_failed_builds_and_gives_it_up_in_the_end() -> None:
    attempt = Attempt()
    for failures in range(1, KEEP_EXIT_TRIES):
        attempt = attempt.failed(GUARD)
        assert attempt == Attempt(GUARD, failures)
    assert attempt.failed(GUARD) == Attempt()


def test_an_exit_that_had_to_be_replaced_is_counted_from_the_beginning() -> None:
    assert Attempt(GUARD, 5).failed(OTHER) == Attempt(OTHER, 1)


# --- A guard that kills circuits (line 3 of the security bar) ------------------------------------------

RELAYS = [relay_info(number, policy=ACCEPT) for number in range(60)]
KILLER = relay_id(0)
FRIENDS = frozenset(relay_id(number) for number in range(60) if number % 5 == 0)
"""Itself among them: as the exit of a circuit with another guard it is as bad."""

SHARE = len(FRIENDS) / 60


@dataclass
class Victim:
    """A client whose first guard kills circuits to exits that are no friends of its.

    Attributes:
        kills: share of these circuits that it kills; the rest hides it.
        keeps_exit, judges: the two halves of the defence.
    """

    kills: float
    keeps_exit: bool = True
    judges: bool = True
    seed: bytes = SEED
    guards: Guards = field(default_factory=Guards)
    bias: PathBias = field(default_factory=PathBias)

    def __post_init__(self) -> None:
        self.rng = StreamRng(self.seed)
        known = {
            info.relay_id: Candidate(0.0, networks_of(info), 1e9 if info.relay_id == KILLER else 1.0)
            for info in RELAYS
        }  # fmt: skip
        self.guards.relays_changed(known, 0.0, self.rng)
        assert self.guards.primary[0] == KILLER

    def circuit(self) -> RelayId:
        """The exit of the circuit that came of one wish."""
        attempt = Attempt()
        while True:
            rules = Rules()
            last = next((info for info in RELAYS if info.relay_id == attempt.exit), None)
            last = last or choose_exit(RELAYS, self.rng, rules)
            guard = self.guards.choose(0.0, self.rng, restrictions(last, rules))
            assert not isinstance(guard, NoGuard)
            path = choose_path(RELAYS, 3, self.rng, rules, exits=True, guard=guard, keep_exit=last.relay_id)
            self.bias.begun(guard)
            if self.survives(guard, path[-1].relay_id):
                self.bias.built(guard)
                return path[-1].relay_id
            if self.keeps_exit:
                attempt = attempt.failed(last.relay_id)
            if self.judges:
                self.guards.exclude(self.bias.out())

    def survives(self, guard: RelayId, last: RelayId) -> bool:
        if self.rng.below(100) < 5:  # as honest circuits do
            return False
        return guard != KILLER or last in FRIENDS or self.rng.below(1000) >= 1000 * self.kills

    def bad_exits(self, wishes: int) -> float:
        return sum(self.circuit() in FRIENDS for _ in range(wishes)) / wishes


@pytest.mark.parametrize("kills", [1.0, 0.8, 0.6, 0.3])
def test_a_guard_that_kills_circuits_gets_no_more_bad_exits_than_there_are(
    size: Size, figure: Figure, kills: float
) -> None:
    wishes = size(small=400, long=20_000)
    found = Victim(kills).bad_exits(wishes)
    figure(f"bad exits of {SHARE:.3f} behind a guard that kills {kills:.0%}", found, "")
    # What it may gain: the exits it gets rid of before it is out, and, below that, those given up after 8 failures.
    gain = BIAS_MIN_CIRCUITS / KEEP_EXIT_TRIES / wishes if kills >= 0.8 else (kills + 0.05) ** KEEP_EXIT_TRIES
    assert found <= SHARE + gain + 4 * sqrt(SHARE * (1 - SHARE) / wishes)


def test_without_both_defences_a_guard_that_kills_gets_nearly_every_circuit(figure: Figure) -> None:
    found = Victim(1.0, keeps_exit=False, judges=False).bad_exits(300)
    figure("bad exits with the defence off", found, "")
    assert found > 0.95


def test_without_kept_exits_a_guard_that_kills_some_hides_below_every_verdict_and_gains() -> None:
    victim = Victim(0.6, keeps_exit=False)
    assert victim.bad_exits(600) > 1.7 * SHARE
    assert not victim.bias.out()


def test_without_a_verdict_on_guards_a_guard_that_kills_all_waits_until_exits_are_given_up() -> None:
    assert Victim(1.0, judges=False).bad_exits(100) > 0.95


def test_the_killing_guard_is_out_and_no_honest_one_is() -> None:
    victim = Victim(1.0)
    victim.bad_exits(300)
    assert victim.bias.out() == {KILLER}
    assert KILLER not in victim.guards.primary


# --- Blame --------------------------------------------------------------------------------------


def ids(first: int, behind: int) -> Iterator[RelayId]:
    return map(relay_id, range(first, behind))


def test_a_failed_extension_is_charged_to_the_pair_and_to_neither_alone() -> None:
    blame = Blame()
    blame.failed(GUARD, OTHER, now=0)
    assert blame.factor(GUARD, OTHER, now=0) == blame.factor(OTHER, GUARD, now=0) == 0.5
    for relay in ids(3, 10):
        assert {blame.factor(relay, OTHER, 0), blame.factor(relay, GUARD, 0), blame.factor(OTHER, relay, 0)} == {1.0}
    assert {blame.factor(None, GUARD, 0), blame.factor(None, OTHER, 0)} == {1.0}


def test_blame_grows_fades_and_never_rules_out() -> None:
    blame = Blame()
    blame.failed(GUARD, OTHER, now=0)
    assert blame.factor(GUARD, OTHER, BLAME_HALF_LIFE) == pytest.approx(1 / 1.5)
    for _ in range(1000):
        blame.failed(GUARD, OTHER, now=0)
    assert blame.factor(GUARD, OTHER, 0) == BLAME_FLOOR
    assert blame.factor(GUARD, OTHER, 30 * BLAME_HALF_LIFE) > 0.99


def test_a_pair_that_works_is_cleared() -> None:
    blame = Blame()
    blame.failed(GUARD, OTHER, now=0)
    blame.worked([relay_id(7), GUARD, OTHER], now=1)
    assert blame.factor(GUARD, OTHER, 1) == 1
    assert len(blame) == 0


def test_a_relay_that_failed_with_enough_partners_is_avoided_with_everybody() -> None:
    blame = Blame()
    for number, partner in enumerate(ids(10, 10 + BLAME_PARTNERS), start=1):
        blame.failed(partner, OTHER, now=0)
        assert (blame.factor(None, OTHER, 0) < 1) is (number >= BLAME_PARTNERS)
    assert blame.factor(OTHER, relay_id(99), 0) < 1
    blame.worked([relay_id(50), OTHER], now=1)
    assert blame.factor(None, OTHER, 1) == 1


def test_fewer_liars_than_that_cannot_have_an_honest_relay_avoided() -> None:
    blame = Blame()
    for liar in ids(10, 10 + BLAME_PARTNERS - 1):
        for _ in range(1000):
            blame.failed(liar, OTHER, now=0)
    assert blame.factor(None, OTHER, 0) == blame.factor(relay_id(50), OTHER, 0) == 1


def test_many_liars_cannot_either_while_the_honest_relay_works_for_others() -> None:
    blame = Blame()
    for now, liar in enumerate(ids(10, 40)):
        blame.failed(liar, OTHER, now)
        blame.worked([relay_id(50), OTHER, relay_id(51)], now + 0.5)
        assert blame.factor(None, OTHER, now + 0.5) == 1


def test_a_liar_loses_as_much_as_whom_it_accuses_and_that_one_nothing_with_others(size: Size) -> None:
    """A relay fails every extension to one honest relay; paths are chosen by blame all the time."""
    rng, blame = StreamRng(SEED), Blame()
    liar, honest, last = RELAYS[1].relay_id, RELAYS[2].relay_id, RELAYS[0].relay_id
    relays, uses, pairs = RELAYS[:12], Counter[RelayId](), Counter[tuple[RelayId, RelayId]]()
    circuits = size(small=3_000, long=60_000)
    for now in range(circuits):
        factor = partial(blame.factor, now=now)
        path = [
            info.relay_id
            for info in choose_path(relays, 4, rng, Rules(), exits=True, keep_exit=last, blame=factor)
        ]  # fmt: skip
        steps = list(pairwise(path))
        if (liar, honest) in steps:
            blame.failed(liar, honest, now)
            continue
        blame.worked(path, now)
        uses.update(path[:3])
        pairs.update(steps[:2])
    typical = sum(uses[info.relay_id] for info in relays[3:]) / 9
    deviation = sqrt(typical)
    assert abs(uses[liar] - uses[honest]) < 5 * deviation
    assert uses[honest] > 0.9 * typical - 5 * deviation
    met = Counter[RelayId]()  # how often each came together with anybody but the liar
    for (one, other), number in pairs.items():
        if liar not in (one, other):
            met[one] += number
            met[other] += number
    mean = sum(met[info.relay_id] for info in relays[3:]) / 9
    assert abs(met[honest] - mean) < 6 * sqrt(mean)
    assert pairs[liar, honest] == 0


@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(0, 8), min_size=2, max_size=4, unique=True), st.floats(-10, 1e5)),
        max_size=60,
    )
)
def test_whatever_is_told_a_factor_is_between_the_floor_and_one(events: list[tuple[bool, list[int], float]]) -> None:
    blame = Blame()
    for failed, path, now in events:
        if failed:
            blame.failed(relay_id(path[0]), relay_id(path[1]), now)
        else:
            blame.worked([relay_id(number) for number in path], now)
        for one in range(3):
            for other in (None, relay_id(7)):
                assert BLAME_FLOOR <= blame.factor(other, relay_id(one), now) <= 1


def test_no_more_pairs_are_remembered_than_there_is_room_for_and_the_most_blamed_stay() -> None:
    blame = Blame()
    for _ in range(5):
        blame.failed(GUARD, OTHER, now=0)
    for number in range(MAX_BLAMED_PAIRS + 50):
        blame.failed(relay_id(100 + number), relay_id(101 + number), now=0)
    assert len(blame) == MAX_BLAMED_PAIRS
    assert blame.factor(GUARD, OTHER, 0) < 0.2
