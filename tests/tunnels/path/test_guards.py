"""Tor's guard-spec, as invariants of a machine that does whatever may happen, and our own rules beside it."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from tests.support.plugin import Figure, Size
from tests.tunnels.path.numbered import relay_id
from tunnels.crypto.rng import StreamRng
from tunnels.ids import RelayId
from tunnels.params import (
    DAY,
    GUARD_CONFIRMED_LIFETIME,
    GUARD_CONNECT_TIMEOUT,
    GUARD_LIFETIME,
    GUARD_MAX_SAMPLE,
    GUARD_MAX_STEP,
    GUARD_MIN_AGE,
    GUARD_MONTH,
    GUARD_NEW_PER_MONTH,
    GUARD_OFFLINE,
    GUARD_PRIMARIES,
    GUARD_PRIMARY_RETRY,
    GUARD_RETRY,
    GUARD_SAMPLE,
    GUARD_UNLISTED_LIFETIME,
    NO_PATH_RETRY,
)
from tunnels.path.guards import UNRESTRICTED, Candidate, Guards, LivedClock, NoGuard, Reachable, Restrictions
from tunnels.path.saved import StateError
from tunnels.store import MemoryStore

YEAR = 365 * DAY
START = 50 * YEAR
SEED = bytes(32)


def network(number: int) -> frozenset[str]:
    return frozenset([f"n{number}"])


def relays(number: int, first_seen: float = START) -> dict[RelayId, Candidate]:
    return {relay_id(n): Candidate(first_seen, network(n)) for n in range(number)}


class Client:
    """Guards, a clock and dice."""

    def __init__(self, known: Mapping[RelayId, Candidate], seed: bytes = SEED) -> None:
        self.guards, self.rng, self.now, self.known = Guards(), StreamRng(seed), START, dict(known)
        self.guards.relays_changed(self.known, self.now, self.rng)

    def choose(self, restrictions: Restrictions = UNRESTRICTED) -> RelayId | NoGuard:
        return self.guards.choose(self.now, self.rng, restrictions)

    def guard(self, restrictions: Restrictions = UNRESTRICTED) -> RelayId:
        chosen = self.choose(restrictions)
        assert not isinstance(chosen, NoGuard), chosen
        return chosen

    def succeeded(self, relay: RelayId) -> None:
        self.guards.succeeded(relay, self.now, self.rng)

    def failed(self, relay: RelayId) -> None:
        self.guards.failed(relay, self.now, self.rng)

    def changed(self, known: Mapping[RelayId, Candidate] | None = None) -> None:
        self.known = dict(self.known if known is None else known)
        self.guards.relays_changed(self.known, self.now, self.rng)

    def wait(self, seconds: float) -> None:
        """In steps that the clock follows."""
        while seconds > 0:
            self.now += min(seconds, DAY)
            seconds -= DAY
            self.changed()


# --- Choosing -----------------------------------------------------------------------------------


def test_the_first_primary_guard_is_used_again_and_again() -> None:
    client = Client(relays(50))
    first = client.guard()
    assert first == client.guards.primary[0]
    client.succeeded(first)
    assert {client.guard() for _ in range(50)} == {first}


def test_a_client_that_restarts_keeps_its_guards_through_its_store() -> None:
    client, store = Client(relays(50)), MemoryStore()
    for _ in range(3):
        guard = client.guard()
        client.succeeded(guard)
        client.failed(guard)
    expected = client.guards.confirmed
    store.save("guards", client.guards.to_bytes())
    again = Client({}, seed=bytes([7]) * 32)
    again.guards = Guards.from_bytes(store.load("guards") or b"")
    again.changed(client.known)
    assert again.guards.confirmed == again.guards.primary == expected
    assert again.guard() == expected[0]


def test_another_guard_is_used_only_while_all_primary_ones_do_not_answer() -> None:
    client = Client(relays(50))
    primary = client.guards.primary
    for relay in primary:
        assert client.guard() == relay
        client.failed(relay)
    other = client.guard()
    assert other not in primary
    assert client.guards.primary == primary
    client.succeeded(other)
    assert other in client.guards.primary


def test_an_unreachable_primary_guard_is_tried_again_after_a_time_that_grows_and_is_bounded() -> None:
    client = Client(relays(50))
    client.guards.exclude(client.guards.sampled[1:])
    (only,) = client.guards.primary
    shortest, longest = GUARD_PRIMARY_RETRY
    waited, delay = [], 0.0
    for _ in range(40):
        assert client.guard() == only
        client.failed(only)
        none = client.choose()
        assert isinstance(none, NoGuard)
        assert shortest <= none.retry_after <= min(longest, max(shortest, 3 * delay))
        delay = none.retry_after
        waited.append(delay)
        client.now += delay - 1
        assert isinstance(client.choose(), NoGuard)
        client.now += 1.001
    assert waited[0] == pytest.approx(shortest)
    assert max(waited) > 20 * shortest


def test_a_success_makes_the_next_failure_the_first_again() -> None:
    client = Client(relays(50))
    for _ in range(10):
        client.failed(client.guards.primary[0])
    client.succeeded(client.guards.primary[0])
    client.failed(client.guards.primary[0])
    client.now += GUARD_PRIMARY_RETRY[0]
    assert client.guard() == client.guards.primary[0]


def test_guards_that_are_not_primary_are_retried_more_slowly() -> None:
    client = Client(relays(50))
    for _ in range(GUARD_NEW_PER_MONTH):
        client.failed(client.guard())
    last = client.guards.sampled[5]
    client.now += GUARD_RETRY[0] - 1
    client.choose()
    assert client.guards.reachable(last) is Reachable.NO
    client.now += 1
    client.choose()
    assert client.guards.reachable(last) is Reachable.MAYBE


def test_one_circuit_at_a_time_explores_each_guard_that_is_not_primary() -> None:
    client = Client(relays(50))
    for relay in client.guards.primary:
        client.failed(relay)
    explored = [client.guard() for _ in range(5)]
    assert len(set(explored)) == 5


def test_a_restriction_is_obeyed_and_the_next_primary_guard_used() -> None:
    client = Client(relays(50))
    first, second, third = client.guards.primary
    assert client.guard(Restrictions(relays=frozenset([first]))) == second
    assert client.guard(Restrictions(networks=client.known[first].networks | client.known[second].networks)) == third
    everything = Restrictions(relays=frozenset(client.guards.sampled))
    none = client.choose(everything)
    assert isinstance(none, NoGuard)
    assert none.reason == f"none of the {GUARD_SAMPLE} guards may be used for this circuit"


def test_no_two_sampled_guards_share_a_network() -> None:
    crowd = {relay_id(n): Candidate(START, network(n % 7)) for n in range(300)}
    client = Client(crowd)
    assert len(client.guards.sampled) == 7
    assert len({n for relay in client.guards.sampled for n in crowd[relay].networks}) == 7
    assert len(Client({relay_id(n): Candidate(START) for n in range(300)}).guards.sampled) > 7


def test_fast_relays_are_drawn_more_often(size: Size) -> None:
    heavy = relays(100) | {relay_id(0): Candidate(START, network(0), weight=50.0)}
    draws = size(small=100, long=2000)
    firsts = [Client(heavy, seed=n.to_bytes(32)).guards.sampled[0] for n in range(draws)]
    assert 0.2 < firsts.count(relay_id(0)) / draws < 0.5


def test_what_our_configuration_rules_out_is_sampled_and_never_chosen() -> None:
    known = relays(50) | {relay_id(n): Candidate(START, network(n), usable=False) for n in range(25)}
    client = Client(known)
    assert any(not known[relay].usable for relay in client.guards.sampled)
    assert all(known[relay].usable for relay in client.guards.primary)


def test_a_primary_guard_stays_one_until_a_confirmed_one_takes_its_place() -> None:
    client = Client(relays(50))
    first, second, third = client.guards.primary
    client.changed({relay: candidate for relay, candidate in relays(50).items() if relay != first})
    fourth = client.guards.primary[2]
    client.changed(relays(50))
    assert client.guards.primary == (second, third, fourth)
    client.succeeded(first)
    assert client.guards.primary == (first, second, third)


def test_a_confirmed_guard_goes_before_new_ones_though_it_is_being_tried() -> None:
    client = Client(relays(50))
    for relay in client.guards.sampled[:4]:
        client.succeeded(relay)
    for relay in client.guards.primary:
        client.failed(relay)
    assert client.guard() == client.guard() == client.guards.confirmed[3]


def test_a_directory_that_knows_nothing_yet_costs_no_guard() -> None:
    client = Client(relays(50))
    client.succeeded(client.guard())
    before = client.guards.sampled, client.guards.primary
    client.known = {}
    client.wait(GUARD_UNLISTED_LIFETIME + DAY)
    assert (client.guards.sampled, client.guards.primary) == before


def test_an_excluded_guard_is_left_at_once() -> None:
    client = Client(relays(50))
    first = client.guard()
    client.succeeded(first)
    client.guards.exclude([first])
    assert first not in client.guards.primary
    assert client.guard() != first
    client.guards.exclude([])
    assert client.guard() == first


# --- Waiting for a better guard ------------------------------------------------------------------


def test_a_circuit_through_another_guard_waits_until_the_primary_ones_have_failed() -> None:
    client = Client(relays(50))
    primary = client.guards.primary
    for relay in primary:
        client.failed(relay)
    other = client.guard()
    assert not client.guards.waits(other, client.now)
    client.guards.retry_now()
    assert client.guards.waits(other, client.now)
    for relay in primary[:2]:
        client.failed(relay)
    assert client.guards.waits(other, client.now)
    assert not client.guards.waits(other, client.now, Restrictions(relays=frozenset(primary[2:])))
    client.failed(primary[2])
    assert not client.guards.waits(other, client.now)


def test_a_better_guard_that_is_being_tried_is_waited_for_but_not_long() -> None:
    client = Client(relays(50))
    for relay in client.guards.primary:
        client.failed(relay)
    better, worse = client.guard(), client.guard()
    assert client.guards.waits(worse, client.now)
    assert not client.guards.waits(better, client.now)
    client.now += GUARD_CONNECT_TIMEOUT
    assert not client.guards.waits(worse, client.now)


def test_success_after_a_long_silence_gives_the_primary_guards_another_try() -> None:
    client = Client(relays(50))
    client.succeeded(client.guard())
    for relay in client.guards.primary:
        client.failed(relay)
    other = client.guard()
    client.succeeded(other)
    assert Reachable.MAYBE not in {client.guards.reachable(relay) for relay in client.guards.primary}
    for relay in client.guards.primary:
        client.failed(relay)
    other = client.guard()
    client.now += GUARD_OFFLINE + 1
    for relay in client.guards.primary:
        client.failed(relay)
    client.succeeded(other)
    assert Reachable.MAYBE in {client.guards.reachable(relay) for relay in client.guards.primary}


# --- Who may become one, and how many -------------------------------------------------------------


def test_without_relays_there_is_a_reason() -> None:
    assert Client({}).choose() == NoGuard("no relays are known yet", NO_PATH_RETRY)


def test_a_relay_that_came_later_than_we_has_to_be_known_for_days() -> None:
    client = Client(relays(5))
    client.now += DAY
    client.changed(client.known | {relay_id(99): Candidate(client.now, network(99))})
    assert relay_id(99) not in client.guards.sampled
    client.wait(GUARD_MIN_AGE - 1)
    assert relay_id(99) not in client.guards.sampled
    client.wait(2)
    assert relay_id(99) in client.guards.sampled


def test_where_all_relays_are_too_young_the_reason_says_so() -> None:
    client = Client(relays(1))
    client.wait(GUARD_UNLISTED_LIFETIME + 5 * DAY)
    client.changed({relay_id(9): Candidate(client.now)})
    client.now += 1
    chosen = client.choose()
    assert isinstance(chosen, NoGuard)
    assert chosen.reason == (
        "none of our 1 guards is there, and no other relay that we can use has been known for 3 days"
    )


def test_a_minimum_age_of_nothing_is_a_setting() -> None:
    guards, rng = Guards(min_age=0), StreamRng(SEED)
    guards.relays_changed(relays(1), START, rng)
    guards.relays_changed({relay_id(5): Candidate(START + YEAR)}, START + YEAR, rng)
    assert relay_id(5) in guards.sampled


def test_a_censor_who_blocks_every_guard_is_shown_few_and_then_there_is_none() -> None:
    client, met = Client(relays(400)), set()
    for _ in range(2000):
        chosen = client.choose()
        if isinstance(chosen, NoGuard):
            client.now += min(chosen.retry_after, 3600)
        else:
            met.add(chosen)
            client.failed(chosen)
        if client.now - START > GUARD_MONTH - 2 * DAY:
            break
    assert len(met) == GUARD_NEW_PER_MONTH
    for relay in met:
        client.failed(relay)
    chosen = client.choose()
    assert isinstance(chosen, NoGuard)
    assert chosen.reason.startswith(
        "none of 10 guards answers, and no more than 10 new ones are tried in 30 days; next try in"
    )


def test_after_a_month_a_few_more_are_tried() -> None:
    client, met = Client(relays(400)), set()
    for _ in range(6):
        for _ in range(50):
            if not isinstance(chosen := client.choose(), NoGuard):
                met.add(chosen)
                client.failed(chosen)
        client.wait(7 * DAY)
    assert GUARD_NEW_PER_MONTH < len(met) <= 2 * GUARD_NEW_PER_MONTH


def test_being_offline_costs_no_guard_that_worked() -> None:
    """Everything fails for a day; then the guard that worked before is used."""
    client = Client(relays(50))
    first = client.guard()
    client.succeeded(first)
    while client.now < START + DAY:
        if isinstance(chosen := client.choose(), NoGuard):
            client.now += chosen.retry_after
        else:
            client.failed(chosen)
            client.now += 5
    client.guards.retry_now()
    assert client.guard() == first


def test_a_small_network_has_small_guards() -> None:
    client = Client(relays(2))
    assert len(client.guards.primary) == 2
    client.failed(client.guard())
    client.failed(client.guard())
    chosen = client.choose()
    assert isinstance(chosen, NoGuard)
    assert chosen.reason == "none of 2 guards answers; next try in 30 s"


# --- Ages ---------------------------------------------------------------------------------------


def test_a_guard_that_is_not_listed_is_kept_for_days_and_not_used_meanwhile() -> None:
    client = Client(relays(50))
    first = client.guard()
    client.succeeded(first)
    rest = {relay: candidate for relay, candidate in client.known.items() if relay != first}
    client.changed(rest)
    assert client.guard() != first
    client.wait(0.7 * GUARD_UNLISTED_LIFETIME)
    client.changed(relays(50))
    assert client.guard() == first
    client.changed(rest)
    client.wait(GUARD_UNLISTED_LIFETIME + DAY)
    client.changed(relays(50))
    assert first not in client.guards.confirmed


def test_a_guard_is_replaced_when_it_is_old_and_was_confirmed_long_ago() -> None:
    client = Client(relays(50))
    first = client.guard()
    client.succeeded(first)
    client.wait(0.85 * GUARD_LIFETIME)
    assert client.guard() == first
    client.wait(0.2 * GUARD_LIFETIME)
    assert first not in client.guards.confirmed


def test_an_old_guard_that_was_confirmed_lately_is_kept_for_as_long_as_one_new() -> None:
    client = Client(relays(50))
    first = client.guards.primary[0]
    client.wait(0.85 * GUARD_LIFETIME)
    client.succeeded(first)
    client.wait(0.8 * GUARD_CONFIRMED_LIFETIME - GUARD_LIFETIME / 10)
    assert client.guard() == first
    client.wait(GUARD_CONFIRMED_LIFETIME)
    assert first not in client.guards.sampled


@pytest.mark.parametrize("jump", [-40 * YEAR, -DAY, DAY, 3 * YEAR, 60 * YEAR])
def test_a_clock_that_is_set_wrong_and_right_again_changes_no_guard(jump: float) -> None:
    client = Client(relays(200))
    for _ in range(3):
        relay = client.guard()
        client.succeeded(relay)
        client.failed(relay)
    before = client.guards.confirmed, client.guards.primary
    client.now += jump
    client.changed()
    client.choose()
    client.now -= jump
    client.changed()
    assert (client.guards.confirmed, client.guards.primary) == before
    client.now += GUARD_RETRY[1]
    assert client.guard() == before[1][0]


def test_a_clock_that_goes_back_stops_no_retry() -> None:
    client = Client(relays(1))
    client.failed(client.guard())
    client.now -= 10 * YEAR
    assert isinstance(client.choose(), NoGuard)
    client.now += GUARD_PRIMARY_RETRY[0]
    assert client.guard()


@given(st.lists(st.floats(-1e10, 1e10), max_size=30))
def test_lived_time_never_goes_back_nor_far_ahead(looks: list[float]) -> None:
    clock, before = LivedClock(), 0.0
    for now in looks:
        lived = clock.look(now)
        assert before <= lived <= before + GUARD_MAX_STEP
        before = lived


# --- Whatever may happen ----------------------------------------------------------------------------


class GuardMachine(RuleBasedStateMachine):
    """Relays come and go, circuits succeed and fail, time passes, clocks jump, the process restarts."""

    chosen: Bundle[RelayId] = Bundle("chosen")

    @initialize(number=st.integers(0, 120), seed=st.binary(min_size=32, max_size=32))
    def begin(self, number: int, seed: bytes) -> None:
        self.guards, self.rng, self.now = Guards(), StreamRng(seed), START
        self.known = relays(number)
        self.guards.relays_changed(self.known, self.now, self.rng)
        self.lived = 0.0
        self.met: dict[RelayId, float] = {}
        self.unreachable: dict[RelayId, float] = {}

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.lived += min(max(0.0, seconds), GUARD_MAX_STEP)

    @rule(seconds=st.sampled_from([1.0, 20.0, 100.0, 3600.0, DAY, 5 * DAY]))
    def time_passes(self, seconds: float) -> None:
        self.pass_time(seconds)
        self.guards.relays_changed(self.known, self.now, self.rng)

    @rule(seconds=st.sampled_from([-50 * YEAR, -DAY, 30 * YEAR]))
    def the_clock_jumps(self, seconds: float) -> None:
        self.time_passes(seconds)

    @rule(gone=st.sets(st.integers(0, 119), max_size=60), come=st.integers(0, 30))
    def relays_come_and_go(self, gone: set[int], come: int) -> None:
        primary, confirmed = self.guards.primary, self.guards.confirmed
        new = {relay_id(1000 + n): Candidate(self.now, network(1000 + n)) for n in range(come)}
        self.known = {r: c for r, c in (relays(120) | new).items() if r not in {relay_id(n) for n in gone}}
        self.guards.relays_changed(self.known, self.now, self.rng)
        stayed = [relay for relay in primary if relay in self.guards.primary]
        assert stayed == [relay for relay in self.guards.primary if relay in stayed]
        assert [relay for relay in confirmed if relay in self.guards.confirmed] == list(self.guards.confirmed)

    @rule(target=chosen, out=st.sets(st.integers(0, 119), max_size=3))
    def a_circuit_begins(self, out: set[int]) -> RelayId:
        restrictions = Restrictions(relays=frozenset(map(relay_id, out)))
        result = self.guards.choose(self.now, self.rng, restrictions)
        if isinstance(result, NoGuard):
            assert result.reason
            assert result.retry_after > 0
            return relay_id(0)
        assert result in self.guards.sampled
        assert result in self.known
        assert result not in restrictions.relays
        # A relay that failed is left alone for the shortest time at least.
        assert self.lived - self.unreachable.get(result, -1e9) >= GUARD_PRIMARY_RETRY[0] - 1e-6
        months = [when for when in self.met.values() if self.lived - when < GUARD_MONTH]
        if result not in self.met:
            assert len(months) < GUARD_NEW_PER_MONTH
            self.met[result] = self.lived
        for better in self.guards.primary:
            if better == result:
                break
            may = better in self.met or len(months) < GUARD_NEW_PER_MONTH
            if better in self.known and better not in restrictions.relays and may:
                assert self.guards.reachable(better) is Reachable.NO
        else:
            self.confirmed_goes_before_unconfirmed(result, restrictions)
        return result

    def confirmed_goes_before_unconfirmed(self, result: RelayId, restrictions: Restrictions) -> None:
        if result not in self.guards.confirmed:
            for better in self.guards.confirmed:
                if better in self.known and better not in restrictions.relays:
                    assert self.guards.reachable(better) is Reachable.NO

    @rule(relay=chosen)
    def it_succeeds(self, relay: RelayId) -> None:
        before = self.guards.confirmed
        self.guards.succeeded(relay, self.now, self.rng)
        self.unreachable.pop(relay, None)
        expected = (*before, relay) if relay in self.guards.sampled and relay not in before else before
        assert self.guards.confirmed == expected
        assert self.guards.reachable(relay) in (Reachable.YES, None)

    @rule(relay=chosen)
    def it_fails(self, relay: RelayId) -> None:
        before = self.guards.primary, self.guards.confirmed
        self.guards.failed(relay, self.now, self.rng)
        if relay in self.guards.sampled:
            self.unreachable[relay] = self.lived
        assert (self.guards.primary, self.guards.confirmed) == before

    @rule()
    def we_move(self) -> None:
        self.guards.retry_now()
        self.unreachable.clear()
        assert all(self.guards.reachable(relay) is not Reachable.NO for relay in self.guards.sampled)

    @rule(seed=st.binary(min_size=32, max_size=32))
    def the_process_restarts(self, seed: bytes) -> None:
        """From the saved state comes what we would have become without what is not saved."""
        data = self.guards.to_bytes()
        restored, twin = Guards.from_bytes(data), Guards.from_bytes(data)
        assert restored.to_bytes() == data
        self.guards.retry_now()
        same = [StreamRng(seed) for _ in range(3)]
        for guards, rng in zip((self.guards, restored, twin), same, strict=True):
            guards.relays_changed(self.known, self.now, rng)
        assert restored.primary == self.guards.primary == twin.primary
        assert restored.sampled == self.guards.sampled
        first = [g.choose(self.now, rng) for g, rng in zip((restored, twin), same[1:], strict=True)]
        assert first[0] == first[1]
        if isinstance(first[0], bytes):
            self.met.setdefault(first[0], self.lived)
        self.guards, self.unreachable = restored, {}

    @invariant()
    def sets_are_inside_each_other_and_bounded(self) -> None:
        sampled, confirmed, primary = map(set, (self.guards.sampled, self.guards.confirmed, self.guards.primary))
        assert confirmed <= sampled
        assert primary <= sampled
        assert len(sampled) <= GUARD_MAX_SAMPLE
        assert len(primary) <= GUARD_PRIMARIES
        assert len(sampled) <= max(GUARD_SAMPLE, 0.2 * 150)

    @invariant()
    def confirmed_guards_stand_before_unconfirmed_among_the_primary(self) -> None:
        ranks = [relay not in self.guards.confirmed for relay in self.guards.primary]
        assert ranks == sorted(ranks)
        best = [relay for relay in self.guards.confirmed if relay in self.known][:GUARD_PRIMARIES]
        if self.known:
            assert list(self.guards.primary[: len(best)]) == best


TestGuardMachine = GuardMachine.TestCase


# --- Saved state ------------------------------------------------------------------------------------


def state() -> bytes:
    client = Client(relays(30))
    for _ in range(4):
        relay = client.guard()
        client.succeeded(relay)
        client.failed(relay)
    return client.guards.to_bytes()


def test_saved_state_does_not_tell_when_guards_were_sampled_or_confirmed() -> None:
    client = Client(relays(30))
    client.wait(100 * DAY)
    client.succeeded(client.guard())
    assert b'"lived":8640000.0' in client.guards.to_bytes()
    assert b'"added":8640000.0' not in client.guards.to_bytes()
    assert b'"confirmed":8640000.0' not in client.guards.to_bytes()


@given(st.binary(max_size=80))
def test_garbage_is_refused_with_an_error_that_says_what_it_is(data: bytes) -> None:
    with pytest.raises(StateError, match="saved guards"):
        Guards.from_bytes(data)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (b'"version":1', b'"version":2', "written as version 2, this program reads version 1"),
        (b'"kind":"guards"', b'"kind":"cookies"', "this is 'cookies'"),
        (b'"lived":0.0', b'"lived":-1', "lived is below 0"),
        (b'"lived":0.0', b'"lived":NaN', "lived is no number"),
        (b'"lived":0.0', b'"lived":1e999', "lived is no number"),
        (b'"lived":0.0', b'"lived":"0"', "lived is no number"),
        (b'"met":[', b'"met":[true,', "met is no number"),
        (b'"met":[', b'"met":[0,0,0,0,0,0,0,0,0,0,0,', "met is no list of at most 10"),
        (b'"met":[', b'"met":[5,', "lived is before something that happened"),
        (b'"confirmed":["', b'"confirmed":["00', "confirmed is no relay id"),
        (b'"born"', b'"bourn"', "born is missing"),
        (b'"primary":[', b'"primary":["' + b"ab" * 32 + b'",', "primary is no list of at most 3"),
        (b'"sampled":[', b'"sampled":[3,', "sampled 0: not an object"),
    ],
)
def test_a_wrong_field_is_named(old: bytes, new: bytes, text: str) -> None:
    with pytest.raises(StateError, match=text):
        Guards.from_bytes(state().replace(old, new, 1))


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_gives_guards_that_work(place: int, value: int) -> None:
    data = bytearray(state())
    data[place % len(data)] = value
    try:
        guards = Guards.from_bytes(bytes(data))
    except StateError:
        return
    guards.relays_changed(relays(30), START, StreamRng(SEED))
    assert guards.choose(START, StreamRng(SEED))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(StateError):
        Guards.from_bytes(b"[" * 100_000)


def test_state_of_a_year_of_use_is_small(figure: Figure) -> None:
    client: Any = Client(relays(2000))
    for _ in range(100):
        if isinstance(relay := client.choose(), bytes):
            client.succeeded(relay)
            client.failed(relay)
        client.wait(3.5 * DAY)
    figure("saved guards", len(client.guards.to_bytes()), "bytes")
    assert len(client.guards.to_bytes()) < 20_000
