"""Second guards: few, kept for days, replaced one by one."""

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plugin import Figure, Size
from tests.tunnels.path.chi import too_far
from tests.tunnels.path.numbered import relay_id
from tunnels.crypto.rng import StreamRng
from tunnels.ids import RelayId
from tunnels.params import DAY, NO_PATH_RETRY, SECOND_GUARD_LIFETIME, SECOND_GUARDS
from tunnels.path.guards import Candidate, NoGuard, Restrictions
from tunnels.path.saved import StateError
from tunnels.path.vanguards import SecondGuards

SEED, START = bytes(32), 1e9


def relays(number: int) -> dict[RelayId, Candidate]:
    return {relay_id(n): Candidate(START, frozenset([f"n{n}"])) for n in range(number)}


def made(known: Mapping[RelayId, Candidate], seed: bytes = SEED) -> tuple[SecondGuards, StreamRng]:
    guards, rng = SecondGuards(), StreamRng(seed)
    guards.relays_changed(known, START, rng)
    return guards, rng


def test_circuits_of_a_week_keep_to_a_few_second_hops_each_as_often() -> None:
    guards, rng = made(relays(200))
    counts = Counter(guards.choose(START, rng) for _ in range(2000))
    assert set(counts) == set(guards.kept)
    assert len(counts) == SECOND_GUARDS
    assert not too_far(list(counts.values()), [1 / SECOND_GUARDS] * SECOND_GUARDS)


def test_each_is_kept_for_the_larger_of_two_draws(size: Size, figure: Figure) -> None:
    lifetimes = []
    for number in range(size(small=400, long=4000)):
        (guards, rng), now = made(relays(50), number.to_bytes(32)), START
        (first, *_) = guards.kept
        while guards.kept[0] == first:
            now += DAY / 4
            guards.choose(now, rng)
        lifetimes.append(now - START)
    shortest, longest = SECOND_GUARD_LIFETIME
    assert shortest <= min(lifetimes)
    assert max(lifetimes) <= longest + DAY / 4
    mean = sum(lifetimes) / len(lifetimes)
    figure("days a second guard is kept", mean / DAY, "days")
    assert mean == pytest.approx(shortest + (longest - shortest) * 2 / 3, rel=0.08)
    late = sum(lifetime > (shortest + longest) / 2 + DAY / 8 for lifetime in lifetimes) / len(lifetimes)
    assert late == pytest.approx(0.75, abs=0.08)


def test_they_are_not_all_replaced_together() -> None:
    guards, rng = made(relays(200))
    now, before, most = START, set(guards.kept), 0
    for _ in range(100):
        now += DAY / 10
        guards.choose(now, rng)
        most = max(most, len(before - set(guards.kept)))
        before = set(guards.kept)
    assert most <= 2


def test_one_that_is_gone_is_replaced_and_the_others_stay() -> None:
    guards, rng = made(relays(50))
    gone, *stay = guards.kept
    guards.relays_changed({r: c for r, c in relays(50).items() if r != gone}, START, rng)
    assert guards.kept[: SECOND_GUARDS - 1] == tuple(stay)
    assert len(guards.kept) == SECOND_GUARDS


def test_no_two_are_in_one_network() -> None:
    guards, _ = made({relay_id(n): Candidate(START, frozenset([f"n{n % 3}"])) for n in range(60)})
    assert len(guards.kept) == 3


def test_what_the_circuit_rules_out_is_not_chosen_and_a_reason_is_given_when_nothing_is_left() -> None:
    guards, rng = made(relays(50))
    a, b, c, d = guards.kept
    out = Restrictions(relays=frozenset([a]), networks=relays(50)[b].networks)
    assert {guards.choose(START, rng, out) for _ in range(100)} == {c, d}
    none = guards.choose(START, rng, Restrictions(relays=frozenset(guards.kept)))
    assert none == NoGuard("none of the 4 second guards may be used for this circuit", NO_PATH_RETRY)
    assert SecondGuards().choose(START, rng) == NoGuard("no relays are known yet", NO_PATH_RETRY)


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_clock_that_jumps_replaces_no_more_than_a_week_would(jump: float) -> None:
    guards, rng = made(relays(200))
    before = guards.kept
    guards.choose(START + jump, rng)
    assert guards.kept == before or jump > 0
    guards.choose(START, rng)
    assert set(before) & set(guards.kept)


@given(st.integers(0, 40), st.lists(st.floats(0, 20 * DAY), max_size=10), st.binary(min_size=32, max_size=32))
def test_what_was_saved_is_what_is_restored(number: int, waits: list[float], seed: bytes) -> None:
    guards, rng = made(relays(number), seed)
    now = START
    for wait in waits:
        now += wait
        guards.relays_changed(relays(number), now, rng)
        assert len(guards.kept) == min(number, SECOND_GUARDS)
    again = SecondGuards.from_bytes(guards.to_bytes())
    assert again.kept == guards.kept
    assert again.to_bytes() == guards.to_bytes()
    for both in (guards, again):
        both.relays_changed(relays(number), now + DAY, StreamRng(seed))
    assert again.kept == guards.kept


@pytest.mark.parametrize(("old", "new"), [(b'"until":', b'"until":1'), (b'"lived":0.0', b'"lived":-1'), (b"{", b"")])
def test_saved_state_that_cannot_be_is_refused(old: bytes, new: bytes) -> None:
    guards, _ = made(relays(9))
    with pytest.raises(StateError, match="saved second guards"):
        SecondGuards.from_bytes(guards.to_bytes().replace(old, new))
