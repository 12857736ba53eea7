"""Which relays a circuit uses, by laws over random networks: no rule is ever broken, and nothing else decides."""

from collections import Counter
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plugin import Size
from tests.tunnels.path.relays import networks, relay
from tunnels.crypto.rng import StreamRng
from tunnels.ids import RelayId
from tunnels.params import MAX_HOPS, NO_PATH_RETRY
from tunnels.path.directory import RelayInfo
from tunnels.path.select import NoPathError, Rules, choose_path, network_of, networks_of

HOPS = st.integers(1, MAX_HOPS)
SEEDS = st.binary(min_size=32, max_size=32)
RNG = StreamRng(b"chosen once, so always the same.")


@st.composite
def rules_for(draw: st.DrawFn, relays: list[RelayInfo]) -> Rules:
    ids = [relay.relay_id for relay in relays] or [RelayId(bytes(32))]
    return Rules(
        distinct_networks=draw(st.booleans()),
        never=draw(st.frozensets(st.sampled_from(ids), max_size=2)),
        families=draw(st.sampled_from([frozenset({4}), frozenset({6}), frozenset({4, 6})])),
        private=draw(st.booleans()),
    )


CASES = networks().flatmap(lambda relays: st.tuples(st.just(relays), rules_for(relays)))


def allowed(path: tuple[RelayInfo, ...], rules: Rules, *, exits: bool) -> bool:
    """The rules, written down a second time."""
    if exits and not path[-1].is_exit:
        return False
    if len({hop.relay_id for hop in path}) < len(path) or any(hop.relay_id in rules.never for hop in path):
        return False
    prefixes = [network for hop in path for network in {network_of(host) for host, _ in hop.addresses}]
    if rules.distinct_networks and len(set(prefixes)) < len(prefixes):
        return False
    versions = [{6 if ":" in host else 4 for host, _ in hop.addresses} for hop in path]
    open_to = [
        {6 if ":" in host else 4 for host, _ in hop.addresses if rules.private or not host.startswith("10.")}
        for hop in path
    ]
    return bool(rules.families & open_to[0]) and all(
        versions[place] & open_to[place + 1] for place in range(len(path) - 1)
    )


@given(CASES, HOPS, st.booleans(), SEEDS)
def test_no_path_ever_breaks_a_rule(case: tuple[list[RelayInfo], Rules], hops: int, exits: bool, seed: bytes) -> None:  # noqa: FBT001
    relays, rules = case
    try:
        path = choose_path(relays, hops, StreamRng(seed), rules, exits=exits)
    except NoPathError:
        return
    assert len(path) == hops
    assert set(path) <= set(relays)
    assert allowed(path, rules, exits=exits)


@given(
    networks(max_size=6).flatmap(lambda relays: st.tuples(st.just(relays), rules_for(relays))),
    st.integers(1, 3), st.booleans(), SEEDS, st.data(),
)  # fmt: skip
def test_a_path_is_found_exactly_where_there_is_one_whatever_is_to_be_avoided(
    case: tuple[list[RelayInfo], Rules],
    hops: int,
    exits: bool,  # noqa: FBT001
    seed: bytes,
    data: st.DataObject,
) -> None:
    relays, rules = case
    there_is = any(allowed(path, rules, exits=exits) for path in permutations(relays, hops))
    avoid = data.draw(st.frozensets(st.sampled_from([relay.relay_id for relay in relays]))) if relays else frozenset()
    try:
        choose_path(relays, hops, StreamRng(seed), rules, exits=exits, avoid=avoid)
        found = True
    except NoPathError:
        found = False
    assert found is there_is


@given(CASES, HOPS, st.booleans(), SEEDS, st.data())
def test_a_relay_to_avoid_is_used_only_where_there_is_no_path_without_it(
    case: tuple[list[RelayInfo], Rules],
    hops: int,
    exits: bool,  # noqa: FBT001
    seed: bytes,
    data: st.DataObject,
) -> None:
    relays, rules = case
    avoid = data.draw(st.frozensets(st.sampled_from([relay.relay_id for relay in relays]))) if relays else frozenset()
    try:
        path = choose_path(relays, hops, StreamRng(seed), rules, exits=exits, avoid=avoid)
    except NoPathError:
        return
    if any(hop.relay_id in avoid for hop in path):
        with pytest.raises(NoPathError):
            choose_path([r for r in relays if r.relay_id not in avoid], hops, StreamRng(seed), rules, exits=exits)


def chi_square(counts: Counter[RelayId], ids: list[RelayId], draws: int) -> float:
    expected = draws / len(ids)
    return sum((counts[relay_id] - expected) ** 2 / expected for relay_id in ids)


def test_every_relay_that_may_stand_in_a_place_is_as_likely_as_any_other(size: Size) -> None:
    draws = size(small=3_000, long=100_000)
    relays = [relay(number, exits=number < 8) for number in range(24)]
    places: list[Counter[RelayId]] = [Counter() for _ in range(3)]
    for _ in range(draws):
        for counts, hop in zip(places, choose_path(relays, 3, RNG, Rules(), exits=True), strict=True):
            counts[hop.relay_id] += 1
    exits = [info.relay_id for info in relays if info.is_exit]
    others = [info.relay_id for info in relays if not info.is_exit]
    # 99.99 % quantiles: 7 degrees of freedom 29.9, 15 degrees 44.3.
    assert set(places[2]) == set(exits)
    assert chi_square(places[2], exits, draws) < 29.9
    for counts in places[:2]:
        for kind, limit in ((exits, 29.9), (others, 44.3)):
            assert chi_square(counts, kind, sum(counts[relay_id] for relay_id in kind)) < limit
        # A relay that may exit stands elsewhere as often as one that may not, whenever it is not the exit itself.
        assert sum(counts[relay_id] for relay_id in exits) / draws == pytest.approx(
            8 * (7 / 8) / 23, abs=5 * (0.3 * 0.7 / draws) ** 0.5
        )


def test_a_network_gets_no_more_than_one_hop_however_many_relays_it_has() -> None:
    crowd = [relay(number, f"9.1.{number}.1", exits=True) for number in range(50)]
    honest = [relay(100 + number, f"9.{number + 2}.0.1", exits=True) for number in range(3)]
    for _ in range(200):
        path = choose_path([*crowd, *honest], 3, RNG, Rules(), exits=True)
        assert sum(hop in crowd for hop in path) <= 1


def test_the_distinct_networks_are_16_bits_of_ipv4_and_32_of_ipv6() -> None:
    assert network_of("9.1.255.1") == network_of("9.1.0.1") != network_of("9.2.0.1")
    assert network_of("2620:1:ffff::1") == network_of("2620:1::1") != network_of("2620:2::1")
    assert networks_of(relay(1, "9.1.0.1", "9.1.2.1", "2620:1::1")) == {"9.1.0.0/16", "2620:1::/32"}


def test_an_ipv4_client_reaches_a_relay_at_ipv6_through_one_at_both() -> None:
    both, six = relay(1, "9.1.0.1", "2620:1::1"), relay(2, "2620:2::1", exits=True)
    four = Rules(families=frozenset({4}))
    assert choose_path([six, both], 2, RNG, four, exits=True) == (both, six)
    with pytest.raises(NoPathError, match="IPv4"):
        choose_path([six, both], 1, RNG, four, exits=True)


@pytest.mark.parametrize(
    ("relays", "rules", "reason"),
    [
        ([], Rules(), "no relays are known"),
        ([relay(1, exits=True)], Rules(never=frozenset({relay(1).relay_id})), "no relays are known"),
        ([relay(n) for n in range(4)], Rules(), "none of the 4 known relays is an exit"),
        ([relay(1, exits=True), relay(2)], Rules(), "only 2 relays are known"),
        (
            [relay(n, f"127.0.0.{n + 1}", exits=True) for n in range(8)],
            Rules(private=True),
            "all 8 known relays are in 127.0.0.0/16",
        ),
        (
            [relay(n, f"127.{n % 2}.{n}.1", exits=True) for n in range(8)],
            Rules(private=True),
            "all 8 known relays are in 127.0.0.0/16, 127.1.0.0/16",
        ),
        (
            [relay(n, f"127.{n}.0.1", exits=True) for n in range(8)],
            Rules(),
            "all 8 known relays are at private addresses, and private_addresses is off",
        ),
        (
            [relay(n, f"2620:{n}::1", exits=True) for n in range(1, 9)],
            Rules(families=frozenset({4})),
            "none of the 8 relays to begin with has an address we can send to: we have IPv4",
        ),
        (
            [relay(n, f"9.{n}.0.1", exits=n == 8) for n in range(8)] + [relay(9, "2620:9::1", exits=True)],
            Rules(),
            "no 3 of the 9 known relays go together (networks, IP versions)",
        ),
    ],
)
def test_a_refusal_has_a_reason_a_person_can_act_on(relays: list[RelayInfo], rules: Rules, reason: str) -> None:
    with pytest.raises(NoPathError) as caught:
        choose_path(relays, 3, RNG, rules, exits=True)
    assert caught.value.retry_after == NO_PATH_RETRY
    assert str(caught.value) == f"0 of 3 hops: {reason}"


def test_a_search_without_hope_in_a_large_network_ends() -> None:
    """3000 relays of which no two go together, but each alone would do."""
    relays = [relay(n, f"9.{n % 250}.{n // 250}.1" if n else "2620::1", exits=n == 0) for n in range(3000)]
    with pytest.raises(NoPathError, match="no 6 of the 3000"):
        choose_path(relays, 6, RNG, Rules(), exits=True)


def test_neighbours_on_a_path_can_dial_each_other() -> None:
    relays = [relay(n, f"9.{n}.0.1") for n in range(5)] + [relay(n, f"2620:{n}::1") for n in range(5, 10)]
    relays += [relay(n, f"9.{n}.0.1", f"2620:{n}::1", exits=True) for n in range(10, 13)]
    for _ in range(100):
        path = choose_path(relays, 4, RNG, Rules(), exits=True)
        assert all(before.families & after.families for before, after in pairwise(path))
