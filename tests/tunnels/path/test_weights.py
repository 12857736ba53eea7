"""Shares follow weights, weights follow what was measured, and nobody gets more than its cap."""

import time
from collections import Counter
from collections.abc import Mapping
from math import fsum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plugin import Figure, Size
from tests.tunnels.path.chi import too_far
from tests.tunnels.path.numbered import relay_id
from tunnels.crypto.rng import StreamRng
from tunnels.errors import LocalError
from tunnels.ids import RelayId
from tunnels.params import (
    DAY,
    MAX_MEASURED,
    MAX_NETWORK_SHARE,
    MAX_RELAY_SHARE,
    MEASURED_LIFETIME,
    MEASURED_RELAYS,
    MEASURED_SAMPLES,
)
from tunnels.path.saved import StateError
from tunnels.path.weights import Claim, Measured, Shares, caps, draw, fill, share, weigh

EPSILON = 1e-9
SEED = bytes(32)
LIAR = 0

claims = st.lists(
    st.builds(
        Claim,
        st.integers(1, 500).map(relay_id),
        st.floats(0, 1e6),
        st.frozensets(st.integers(1, 12).map(str), max_size=3),
    ),
    max_size=60,
    unique_by=lambda claim: claim.relay_id,
)


def spread(number: int, bandwidth: float = 1000.0, per_network: int = 1) -> list[Claim]:
    """`number` honest relays, `per_network` in each network."""
    return [Claim(relay_id(n), bandwidth, frozenset([f"n{n // per_network}"])) for n in range(1, number + 1)]


def by_network(shares: Shares, claims: list[Claim]) -> Counter[str]:
    found: Counter[str] = Counter()
    for claim in claims:
        for network in claim.networks:
            found[network] += shares.by_relay[claim.relay_id]  # type: ignore[assignment]
    return found


def varied(number: int) -> list[Claim]:
    """Relays from 100 to 100 * number, two in each network."""
    return [Claim(relay_id(n), 100.0 * n, frozenset([f"n{n // 2}"])) for n in range(1, number + 1)]


# --- Filling ------------------------------------------------------------------------------------


@given(claims, st.dictionaries(st.integers(1, 500).map(relay_id), st.floats(0, 1e6), max_size=40))
def test_shares_sum_to_one_and_keep_both_caps_for_every_relay_and_network(
    claims: list[Claim], measured: Mapping[RelayId, float]
) -> None:
    shares = share(claims, measured)
    assert shares.by_relay.keys() == {claim.relay_id for claim in claims}
    if claims:
        assert abs(fsum(shares.by_relay.values()) - 1) < EPSILON
        assert min(shares.by_relay.values()) > 0
        assert max(shares.by_relay.values()) <= shares.relay_cap
        assert max(by_network(shares, claims).values(), default=0) <= shares.network_cap + EPSILON


@given(claims, st.randoms(use_true_random=False))
def test_the_order_in_which_relays_are_told_changes_nothing(claims: list[Claim], order: object) -> None:
    other = list(claims)
    order.shuffle(other)  # type: ignore[attr-defined]
    assert share(other, {}) == share(claims, {})


@given(claims)
def test_of_two_relays_below_every_cap_the_shares_are_as_the_weights(claims: list[Claim]) -> None:
    weights, shares = weigh(claims, {}), share(claims, {})
    full = {n for n, total in by_network(shares, claims).items() if total > shares.network_cap - EPSILON}
    free = [
        claim.relay_id
        for claim in claims
        if not claim.networks & full and shares.by_relay[claim.relay_id] < shares.relay_cap - EPSILON
    ]
    levels = [shares.by_relay[relay] / weights[relay] for relay in free]
    assert max(levels, default=1) == pytest.approx(min(levels, default=1))


@given(claims)
def test_nobody_is_at_a_lower_level_than_others_without_being_at_a_cap(claims: list[Claim]) -> None:
    weights, shares = weigh(claims, {}), share(claims, {})
    full = {n for n, total in by_network(shares, claims).items() if total > shares.network_cap - EPSILON}
    top = max((shares.by_relay[relay] / weights[relay] for relay in weights), default=0)
    for claim in claims:
        own = shares.by_relay[claim.relay_id]
        capped = claim.networks & full or own > shares.relay_cap - EPSILON
        assert capped or own / weights[claim.relay_id] == pytest.approx(top)


@pytest.mark.parametrize(("relays", "networks"), [(100, 40), (1000, 400), (100, 100)])
def test_a_large_network_has_the_caps_that_were_promised(relays: int, networks: int) -> None:
    assert caps(relays, networks) == (MAX_RELAY_SHARE, MAX_NETWORK_SHARE)


def test_in_a_large_network_the_fastest_relay_and_the_fullest_network_stop_at_two_and_five_per_cent() -> None:
    weights = {relay_id(n): 10.0 for n in range(1000)} | {relay_id(0): 1e6}
    weights |= {relay_id(n): 400.0 for n in range(1, 11)}
    networks = {relay_id(n): frozenset([f"n{max(n, 10)}"]) for n in range(1000)}
    shares = fill(weights, networks)
    assert shares.by_relay[relay_id(0)] == MAX_RELAY_SHARE
    crowded = fsum(shares.by_relay[relay_id(n)] for n in range(11))
    assert crowded == pytest.approx(MAX_NETWORK_SHARE)
    assert (shares.relay_cap, shares.network_cap) == (MAX_RELAY_SHARE, MAX_NETWORK_SHARE)


@pytest.mark.parametrize("number", [1, 2, 3, 8, 49])
def test_in_a_small_network_nobody_has_more_than_twice_an_equal_share(number: int) -> None:
    weights = {relay_id(n): 1.0 for n in range(number)} | {relay_id(0): 1e9}
    shares = fill(weights, {relay_id(n): frozenset([str(n)]) for n in range(number)})
    assert shares.by_relay[relay_id(0)] <= min(1, 2 / number) + EPSILON


def test_relays_crowded_in_two_networks_raise_both_caps_by_one_factor() -> None:
    weights = {relay_id(n): 1.0 + n for n in range(200)}
    networks = {relay_id(n): frozenset(["big" if n > 20 else f"n{n}"]) for n in range(200)}
    shares = fill(weights, networks)
    assert shares.relay_cap / MAX_RELAY_SHARE == pytest.approx(shares.network_cap / (2 / 22))
    assert shares.network_cap > 2 / 22
    assert fsum(shares.by_relay.values()) == pytest.approx(1)


def test_where_networks_do_not_matter_only_the_cap_of_a_relay_holds() -> None:
    shares = fill({relay_id(n): 1.0 for n in range(200)} | {relay_id(0): 1e6}, {})
    assert shares.by_relay[relay_id(0)] == MAX_RELAY_SHARE
    assert shares.network_cap == 1.0


def test_no_relays_have_no_shares() -> None:
    assert share([], {}).by_relay == {}


def test_shares_of_twenty_thousand_relays_are_counted_in_a_moment(figure: Figure) -> None:
    many = varied(20_000)
    begin = time.perf_counter()
    share(many, {})
    figure("shares of 20 000 relays", time.perf_counter() - begin, "s")


# --- Liars --------------------------------------------------------------------------------------


def liar_share(measured: Mapping[RelayId, float], lie: float) -> float:
    """The share of a relay that claims `lie` times the median, in shares of the median relay."""
    everybody = [*varied(199), Claim(relay_id(LIAR), 10_000 * lie, frozenset(["liar"]))]
    shares = share(everybody, measured).by_relay
    return shares[relay_id(LIAR)] / sorted(shares.values())[100]


def test_who_claims_a_hundred_times_the_median_and_was_never_measured_is_a_median_relay() -> None:
    assert liar_share({}, 100) <= 1 + EPSILON
    assert liar_share({relay_id(n): 100.0 * n for n in range(1, 60)}, 100) <= 2


@given(st.floats(0.5, 1.5), st.lists(st.floats(0.8, 1.25), min_size=199, max_size=199))
def test_who_claims_a_hundred_times_the_median_gets_twice_its_share_at_most(own: float, noise: list[float]) -> None:
    """Measured, it shows what it has: what the median relay has, give or take what measurements do."""
    measured = {relay_id(n): 70.0 * n * noise[n - 1] for n in range(1, 200)}
    assert liar_share(measured | {relay_id(LIAR): 7_000 * own}, 100) <= 2


def test_a_third_of_all_claiming_a_hundredfold_gains_nothing_from_it() -> None:
    honest = [Claim(relay_id(n), 1000.0 + n, frozenset([f"n{n}"])) for n in range(200)]
    liars = [Claim(relay_id(1000 + n), 100_000.0, frozenset([f"l{n}"])) for n in range(100)]
    shares = share([*honest, *liars], {}).by_relay
    assert fsum(shares[claim.relay_id] for claim in liars) < 0.36


def test_who_claims_little_gets_little_however_fast_it_is() -> None:
    claims = [*spread(50), Claim(relay_id(99), 10.0)]
    rates = {claim.relay_id: 1e9 for claim in claims}
    assert weigh(claims, rates)[relay_id(99)] == 10.0
    assert weigh(claims, {})[relay_id(99)] == 10.0


def test_measurements_count_once_there_are_enough_of_them() -> None:
    claims = spread(50)
    few = {relay_id(n): 1.0 for n in range(1, MEASURED_RELAYS)}
    assert set(weigh(claims, few).values()) == {1000.0}
    enough = few | {relay_id(MEASURED_RELAYS): 0.25}
    weights = weigh(claims, enough)
    assert weights[relay_id(MEASURED_RELAYS)] == 250.0
    assert weights[relay_id(50)] == 1000.0


def test_measurements_of_relays_that_are_gone_move_nothing() -> None:
    claims = spread(50)
    assert weigh(claims, {relay_id(1000 + n): 1e9 for n in range(50)}) == weigh(claims, {})


# --- Drawing ------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=20), st.binary(min_size=32, max_size=32))
def test_what_has_no_weight_is_never_drawn(weights: list[float], seed: bytes) -> None:
    if sum(weights) > 0:
        assert weights[draw(weights, StreamRng(seed))] > 0
    else:
        with pytest.raises(LocalError, match="nothing to draw"):
            draw(weights, StreamRng(seed))


def test_the_largest_fraction_draws_the_last_that_has_a_weight() -> None:
    class Last:
        def bytes(self, size: int) -> bytes:
            raise NotImplementedError

        def below(self, limit: int) -> int:
            return limit - 1

    assert [draw(weights, Last()) for weights in ([1.0], [0.1, 1e-30, 0.0], [1e-300, 5e-324, 0, 0], [3, 1e9])] == [
        0,
        0,
        0,
        1,
    ]


def test_draws_follow_the_shares(size: Size) -> None:
    everybody = varied(150)
    shares = list(share(everybody, {claim.relay_id: claim.bandwidth for claim in everybody}).by_relay.values())
    rng = StreamRng(SEED)
    counts = Counter(draw(shares, rng) for _ in range(size(small=20_000, long=200_000)))
    assert not too_far([counts[n] for n in range(150)], shares)
    assert too_far([counts[n] for n in range(150)], [1 / 150] * 150)


# --- Measuring ----------------------------------------------------------------------------------


def test_a_relay_counts_after_a_few_measurements_and_as_their_mean() -> None:
    measured = Measured()
    for number, rate in enumerate((100.0, 200.0, 600.0), start=1):
        assert measured.rates(now=0) == {}
        measured.note([relay_id(1)], rate, now=0)
        assert (relay_id(1) in measured.rates(now=0)) == (number >= MEASURED_SAMPLES)
    assert measured.rates(now=0) == {relay_id(1): pytest.approx(300)}


def test_a_relay_that_changed_is_known_as_it_is_now() -> None:
    measured = Measured()
    for rate in [100.0] * 50 + [1000.0] * 20:
        measured.note([relay_id(1)], rate, now=0)
    assert measured.rates(0)[relay_id(1)] > 950


def test_what_was_measured_long_ago_is_forgotten() -> None:
    measured = Measured()
    for _ in range(5):
        measured.note([relay_id(1)], 100.0, now=0)
    assert measured.rates(MEASURED_LIFETIME)
    assert not measured.rates(MEASURED_LIFETIME + 1)


def test_no_more_relays_are_remembered_than_there_is_room_for() -> None:
    measured = Measured()
    for _ in range(MEASURED_SAMPLES):
        for number in range(MAX_MEASURED + 10):
            measured.note([relay_id(number)], 1.0, now=0)
    measured.note([relay_id(1)], 1.0, now=0)
    assert len(measured.to_bytes()) < MAX_MEASURED * 120
    assert len(measured.rates(0)) <= MAX_MEASURED


def test_slow_relays_are_told_from_fast_ones_though_circuits_are_mixed() -> None:
    rng, measured = StreamRng(SEED), Measured()
    capacity = {relay_id(n): 100.0 if n % 4 else 1000.0 for n in range(40)}
    relays = list(capacity)
    for _ in range(3000):
        path = [relays.pop(rng.below(len(relays))) for _ in range(3)]
        measured.note(path, min(capacity[relay] for relay in path), now=0)
        relays += path
    rates = measured.rates(0)
    slow = [rates[relay] for relay in relays if capacity[relay] == 100]
    fast = [rates[relay] for relay in relays if capacity[relay] == 1000]
    assert max(slow) < min(fast) or sum(slow) / len(slow) < sum(fast) / len(fast) / 1.2


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 1e9), st.floats(0, 2e9)), max_size=60))
def test_what_was_saved_is_what_is_restored(notes: list[tuple[int, float, float]]) -> None:
    measured = Measured()
    for number, rate, now in notes:
        measured.note([relay_id(number)], rate, now)
    data = measured.to_bytes()
    again = Measured.from_bytes(data)
    assert again.to_bytes() == data
    assert again.rates(DAY) == {relay: pytest.approx(rate, abs=1) for relay, rate in measured.rates(DAY).items()}


@given(st.binary(max_size=60) | st.from_regex(rb'\{"kind":"measurements","version":1,"relays":\[\{.{0,40}'))
def test_garbage_is_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(StateError, match="saved measurements"):
        Measured.from_bytes(data)
