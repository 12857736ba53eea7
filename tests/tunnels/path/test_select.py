"""Which relays a circuit uses, by laws over random networks: no rule is ever broken, and nothing else decides."""

import contextlib
import dataclasses
import time
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plugin import Figure, Size
from tests.tunnels.path.chi import too_far
from tests.tunnels.path.relays import networks, relay
from tunnels.crypto.rng import StreamRng
from tunnels.exit.policy import ExitPolicy, IPAddress
from tunnels.ids import RelayId
from tunnels.params import MAX_HOPS, NO_PATH_RETRY
from tunnels.path.directory import RelayInfo
from tunnels.path.guards import Restrictions
from tunnels.path.select import (
    NoPathError,
    Rules,
    Target,
    choose_exit,
    choose_path,
    exits_to,
    kin_of,
    network_of,
    networks_of,
    restrictions,
)

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


# --- Weights, families, guards, targets, blame -----------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A network and everything that may be asked of a path in it."""

    relays: list[RelayInfo]
    rules: Rules
    declared: dict[RelayId, list[RelayId]]
    weights: dict[RelayId, float] | None
    guard: RelayId | None
    keep_exit: RelayId | None
    target: Target | None
    exits: bool


@st.composite
def families(draw: st.DrawFn, any_id: st.SearchStrategy[RelayId]) -> dict[RelayId, list[RelayId]]:
    """Who names whom: some name each other, some only one the other."""
    declared: dict[RelayId, list[RelayId]] = {}
    for one, other, both in draw(st.lists(st.tuples(any_id, any_id, st.booleans()), max_size=20)):
        declared.setdefault(one, []).append(other)
        if both:
            declared.setdefault(other, []).append(one)
    return declared


@st.composite
def cases(draw: st.DrawFn) -> Case:
    relays = draw(networks(max_size=14))
    if draw(st.booleans()):
        web = ExitPolicy.parse("accept *:80, reject6 *:*, accept *:443")
        relays = [dataclasses.replace(r, exit_policy=web) if r.is_exit and n % 2 else r for n, r in enumerate(relays)]
    ids = [info.relay_id for info in relays] or [RelayId(bytes(32))]
    any_id = st.sampled_from(ids)
    return Case(
        relays,
        draw(rules_for(relays)),
        draw(families(any_id)),
        draw(st.none() | st.dictionaries(any_id, st.sampled_from([0.0, 1e-9, 1.0, 1e9]), min_size=len(ids) // 2)),
        draw(st.none() | any_id),
        draw(st.none() | any_id),
        draw(st.none() | st.builds(Target, st.sampled_from([80, 443, 25]), st.sampled_from([4, 6, None]))),
        draw(st.booleans()),
    )


def lets_out(relay: RelayInfo, target: Target) -> bool:
    """By asking the policy for two addresses, the second time the rule is written down."""
    addresses: dict[int, IPAddress] = {4: IPv4Address("8.8.8.8"), 6: IPv6Address("2600::8")}
    asked = [a for version, a in addresses.items() if target.version in (None, version)]
    return any(relay.exit_policy.allows(address, target.port) for address in asked)


def check(case: Case, path: tuple[RelayInfo, ...], hops: int) -> None:
    ids = [hop.relay_id for hop in path]
    assert len(path) == hops
    assert allowed(path, case.rules, exits=case.exits)
    for one, other in permutations(ids, 2):
        assert not (other in case.declared.get(one, ()) and one in case.declared.get(other, ()))
    if case.target is not None:
        assert lets_out(path[-1], case.target)
    if case.guard is not None:
        assert ids[0] == case.guard
    by_id = {info.relay_id: info for info in case.relays if info.relay_id not in case.rules.never}
    kept = by_id.get(case.keep_exit) if case.keep_exit is not None else None
    fits = kept is not None and (kept.is_exit or not case.exits) and (not case.target or lets_out(kept, case.target))
    if fits:
        assert ids[-1] == case.keep_exit
    for relay_id in ids:
        decided = relay_id == case.guard or (fits and relay_id == case.keep_exit)
        assert decided or case.weights is None or case.weights.get(relay_id, 0) > 0


@given(cases(), st.integers(1, 4), SEEDS, st.dictionaries(st.integers(0, 13), st.sampled_from([0.02, 0.5]), max_size=5))
def test_no_path_breaks_any_rule_whatever_is_asked_together(
    size: Size, case: Case, hops: int, seed: bytes, blamed: dict[int, float]
) -> None:
    rng, kin = StreamRng(seed), kin_of(case.declared)
    factors = {relay(number).relay_id: factor for number, factor in blamed.items()}
    for _ in range(size(small=10, long=150)):
        try:
            path = choose_path(
                case.relays, hops, rng, case.rules, exits=case.exits, target=case.target, guard=case.guard,
                keep_exit=case.keep_exit, kin=kin, weights=case.weights,
                blame=lambda before, at: factors.get(before or at, 1.0),
            )  # fmt: skip
        except NoPathError:
            break
        check(case, path, hops)


@given(cases(), st.integers(1, 3), SEEDS)
def test_a_path_is_found_exactly_where_there_is_one_whatever_is_asked_together(
    case: Case, hops: int, seed: bytes
) -> None:
    case = dataclasses.replace(case, relays=case.relays[:7])
    there_is = False
    for path in permutations(case.relays, hops):
        with contextlib.suppress(AssertionError):
            check(case, path, hops)
            there_is = True
    try:
        choose_path(
            case.relays, hops, StreamRng(seed), case.rules, exits=case.exits, target=case.target, guard=case.guard,
            keep_exit=case.keep_exit, kin=kin_of(case.declared), weights=case.weights,
        )  # fmt: skip
        found = True
    except NoPathError:
        found = False
    assert found is there_is


def test_a_family_counts_only_when_both_name_each_other() -> None:
    a, b, c = (relay(n).relay_id for n in range(3))
    assert kin_of({a: [b, c, a], b: [a], c: []}) == {a: {b}, b: {a}}


def test_relays_of_one_family_are_one_hop_of_a_path() -> None:
    relays = [relay(number, exits=True) for number in range(6)]
    ids = [info.relay_id for info in relays]
    kin = kin_of(dict.fromkeys(ids[:4], ids[:4]))
    for _ in range(100):
        path = choose_path(relays, 3, RNG, Rules(), exits=True, kin=kin)
        assert len(set(relays[:4]) & set(path)) == 1
    with pytest.raises(NoPathError):
        choose_path(relays, 4, RNG, Rules(), exits=True, kin=kin)


def test_naming_honest_relays_as_family_keeps_nobody_from_using_them_together() -> None:
    relays = [relay(number, exits=True) for number in range(4)]
    liar = {relays[0].relay_id: [info.relay_id for info in relays]}
    together = Counter(
        len({relays[1], relays[2]} & set(choose_path(relays, 3, RNG, Rules(), exits=True, kin=kin_of(liar))))
        for _ in range(100)
    )
    assert together[2] > 20


def test_hops_are_drawn_by_weight(size: Size) -> None:
    draws = size(small=10_000, long=100_000)
    relays = [relay(number, exits=True) for number in range(40)]
    shares = {info.relay_id: (1 + number) / 820 for number, info in enumerate(relays)}
    drawn = [choose_path(relays, 1, RNG, Rules(), exits=True, weights=shares)[0].relay_id for _ in range(draws)]
    counts = Counter(drawn)
    assert not too_far([counts[relay_id] for relay_id in shares], list(shares.values()))
    exits = Counter(choose_exit(relays, RNG, Rules(), weights=shares).relay_id for _ in range(draws))
    assert not too_far([exits[relay_id] for relay_id in shares], list(shares.values()))


def test_weights_hold_for_the_hops_between_guard_and_exit_too(size: Size) -> None:
    draws = size(small=5_000, long=50_000)
    relays = [relay(number, exits=number == 0) for number in range(30)]
    weights = {info.relay_id: 1.0 + number % 5 for number, info in enumerate(relays)}
    guard, last = relays[1].relay_id, relays[0].relay_id
    middles = Counter(
        choose_path(relays, 3, RNG, Rules(), exits=True, weights=weights, guard=guard)[1].relay_id for _ in range(draws)
    )
    rest = {relay_id: weight for relay_id, weight in weights.items() if relay_id not in (guard, last)}
    total = sum(rest.values())
    assert not too_far([middles[r] for r in rest], [weight / total for weight in rest.values()])


@pytest.mark.parametrize("crowd", [6, 200])
def test_blame_makes_a_pair_rarer_by_its_factor_and_nobody_else(size: Size, crowd: int) -> None:
    """In a small network, where those left are counted out, and in a large one, where draws are refused."""
    draws = size(small=crowd * 40, long=crowd * 400)
    relays = [relay(number, exits=number == 0) for number in range(crowd)]
    bad, last = relays[2].relay_id, relays[0].relay_id
    rest = {info.relay_id: 1.0 for info in relays[1:]} | {bad: 0.25}
    middles = Counter(
        choose_path(relays, 2, RNG, Rules(), exits=True,
                    blame=lambda before, at: 0.25 if (before, at) == (bad, last) else 1.0)[0].relay_id
        for _ in range(draws)
    )  # fmt: skip
    total = sum(rest.values())
    assert not too_far([middles[r] for r in rest], [weight / total for weight in rest.values()])


def test_blame_counts_among_the_few_that_may_exit(size: Size) -> None:
    draws = size(small=2_000, long=20_000)
    relays = [relay(number, exits=number < 2) for number in range(200)]
    bad = relays[1].relay_id
    last = Counter(
        choose_path(relays, 1, RNG, Rules(), exits=True, blame=lambda _, at: 0.25 if at == bad else 1.0)[0].relay_id
        for _ in range(draws)
    )
    assert not too_far([last[relays[0].relay_id], last[bad]], [0.8, 0.2])


def test_a_failed_build_keeps_its_exit_and_gets_another_middle() -> None:
    relays = [relay(number, exits=True) for number in range(30)]
    guard, kept = relays[0].relay_id, relays[1].relay_id
    paths = [choose_path(relays, 3, RNG, Rules(), exits=True, guard=guard, keep_exit=kept) for _ in range(50)]
    assert {(path[0].relay_id, path[-1].relay_id) for path in paths} == {(guard, kept)}
    assert len({path[1].relay_id for path in paths}) > 10


def test_a_kept_exit_that_is_gone_is_replaced() -> None:
    relays = [relay(number, exits=True) for number in range(5)]
    gone = relay(99).relay_id
    assert choose_path(relays, 3, RNG, Rules(), exits=True, keep_exit=gone)
    no_exit = [*relays, relay(99)]
    assert choose_path(no_exit, 3, RNG, Rules(), exits=True, keep_exit=gone)[-1].is_exit


def test_an_exit_is_kept_and_a_guard_used_though_they_failed_lately() -> None:
    relays = [relay(number, exits=True) for number in range(5)]
    guard, kept = relays[0].relay_id, relays[1].relay_id
    for _ in range(20):
        path = choose_path(relays, 3, RNG, Rules(), exits=True, guard=guard, keep_exit=kept, avoid={guard, kept})
        assert (path[0].relay_id, path[-1].relay_id) == (guard, kept)
        failed = {guard, kept, *(info.relay_id for info in relays[2:4])}
        path = choose_path(relays, 3, RNG, Rules(), exits=True, guard=guard, keep_exit=kept, avoid=failed)
        assert path[1] == relays[4]


def test_an_exit_rules_out_itself_its_family_and_its_networks_as_guard() -> None:
    one, two = relay(1, "9.1.0.1", "2620:1::1", exits=True), relay(2)
    kin = kin_of({one.relay_id: [two.relay_id], two.relay_id: [one.relay_id]})
    found = restrictions(one, Rules(), kin)
    assert found == Restrictions(frozenset({one.relay_id, two.relay_id}), frozenset({"9.1.0.0/16", "2620:1::/32"}))
    assert restrictions(one, Rules(distinct_networks=False)) == Restrictions(frozenset({one.relay_id}))


def test_an_exit_is_chosen_without_a_look_at_the_guard() -> None:
    """All exits are as likely, those in the guard's network too: then the guard is another one."""
    relays = [relay(number, f"9.{number // 2}.{number}.1", exits=True) for number in range(10)]
    exits = Counter(choose_exit(relays, RNG, Rules()).relay_id for _ in range(2000))
    assert not too_far([exits[info.relay_id] for info in relays], [0.1] * 10)


@pytest.mark.parametrize(
    ("policy", "target", "lets"),
    [
        ("accept *:80", Target(80), True),
        ("accept *:80", Target(443), False),
        ("accept6 *:80", Target(80, 4), False),
        ("accept6 *:80", Target(80, 6), True),
        ("accept6 *:80", Target(80), True),
        ("reject *:*", Target(80), False),
        ("accept 9.1.2.3:80", Target(80, 4), False),
        ("reject 10.0.0.0/8:*, accept *:*", Target(80, 4), True),
    ],
)
def test_an_exit_counts_for_a_target_as_its_policy_says(policy: str, target: Target, lets: bool) -> None:  # noqa: FBT001
    info = dataclasses.replace(relay(1), exit_policy=ExitPolicy.parse(policy))
    assert exits_to(info, target) is lets


def test_what_cannot_be_had_is_said() -> None:
    relays = [relay(number, exits=True) for number in range(4)]
    web = [dataclasses.replace(info, exit_policy=ExitPolicy.parse("accept *:80")) for info in relays]
    with pytest.raises(NoPathError, match=r"^0 of 3 hops: the guard is not among the relays known now$"):
        choose_path(relays, 3, RNG, Rules(), exits=True, guard=relay(99).relay_id)
    with pytest.raises(
        NoPathError, match=r"^0 of 3 hops: no exit among the 4 known relays lets port 25 out over IPv4$"
    ):
        choose_path(web, 3, RNG, Rules(), exits=True, target=Target(25, 4))
    with pytest.raises(NoPathError, match=r"^no exit: no exit among the 4 known relays lets port 25 out$"):
        choose_exit(web, RNG, Rules(), target=Target(25))
    with pytest.raises(NoPathError, match=r"^no exit: none of the 1 known relays is an exit$"):
        choose_exit([relay(1)], RNG, Rules())


def test_a_path_through_three_thousand_relays_takes_a_moment(figure: Figure) -> None:
    relays = [relay(n, f"{9 + n // 250}.{n % 250}.0.1", exits=n % 10 == 0) for n in range(3000)]
    weights = {info.relay_id: 1.0 + n for n, info in enumerate(relays)}
    begin = time.perf_counter()
    for _ in range(20):
        choose_path(relays, 3, RNG, Rules(), exits=True, weights=weights, guard=relays[1].relay_id)
    figure("path of three hops among 3000 relays", (time.perf_counter() - begin) / 20 * 1e3, "ms")
