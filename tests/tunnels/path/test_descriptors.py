"""The set of descriptors: digests, pages, age and room, as laws (SPEC 12.1)."""

from collections.abc import Callable
from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plugin import Figure, Size
from tests.support.relays import HOUR, NOW, contents, described, set_of
from tunnels.crypto.rng import StreamRng
from tunnels.errors import LocalError
from tunnels.ids import RelayId
from tunnels.params import BUCKET_DIGEST_SIZE, BUCKETS, MAX_PAGE_SIZE
from tunnels.path.descriptor import RelayDescriptor
from tunnels.path.descriptors import DescriptorSet
from tunnels.wire.directory_messages import NO_RELAY

# Few relays and few versions of each, made once: sets that share some, and differ in some.
VERSIONS = tuple(
    described(name, published=NOW + later, lifetime=HOUR + name, bandwidth=bandwidth)
    for name in range(8)
    for later in (0, 1)
    for bandwidth in (1, 2)
)
some = st.lists(st.sampled_from(VERSIONS), max_size=12)


def newest(*descriptors: RelayDescriptor) -> frozenset[bytes]:
    """The one of each identity that counts, found without the set."""
    best: dict[bytes, RelayDescriptor] = {}
    for each in descriptors:
        if each.identity not in best or each.newer_than(best[each.identity]):
            best[each.identity] = each
    return frozenset(each.encode() for each in best.values())


def read(source: DescriptorSet, wanted: frozenset[int]) -> list[RelayDescriptor]:
    """Everything of the wanted buckets, page by page."""
    found: list[RelayDescriptor] = []
    after = NO_RELAY
    while True:
        page = source.page(wanted, after)
        assert page.after == after
        assert len(page.encode()) <= MAX_PAGE_SIZE
        found += map(RelayDescriptor.decode, page.descriptors)
        if page.following == NO_RELAY:
            return found
        assert page.following > after
        after = page.following


def pull(mine: DescriptorSet, theirs: DescriptorSet) -> None:
    for descriptor in read(theirs, mine.differing(theirs.digests())):
        mine.add(descriptor)


@given(some)
def test_a_set_holds_the_newest_of_each_in_whatever_order_they_come(descriptors: list[RelayDescriptor]) -> None:
    known = set_of(*descriptors)
    assert contents(known) == contents(set_of(*reversed(descriptors))) == newest(*descriptors)
    assert len(known) == len(list(known)) == len(newest(*descriptors))
    assert all(each.relay_id in known and known.get(each.relay_id) is not None for each in descriptors)


@given(some)
def test_what_was_added_is_news_exactly_when_it_changes_the_set(descriptors: list[RelayDescriptor]) -> None:
    known = DescriptorSet()
    for descriptor in descriptors:
        before = contents(known), known.digests()
        assert known.add(descriptor) is ((contents(known), known.digests()) != before)


@given(some, some)
def test_digests_are_equal_exactly_when_the_contents_are(a: list[RelayDescriptor], b: list[RelayDescriptor]) -> None:
    mine, theirs = set_of(*a), set_of(*b)
    assert (mine.digests() == theirs.digests()) is (contents(mine) == contents(theirs))
    for number in range(BUCKETS):
        here, there = ({each.encode() for each in known if each.relay_id[0] == number} for known in (mine, theirs))
        assert (number in mine.differing(theirs.digests())) is (here != there)


@given(some, st.lists(st.sampled_from(VERSIONS), max_size=4), st.integers(0, 5 * HOUR))
def test_digests_do_not_remember_how_a_set_came_about(
    kept: list[RelayDescriptor], gone: list[RelayDescriptor], later: int
) -> None:
    known = set_of(*gone, *kept)
    for descriptor in gone:
        known.remove(descriptor.relay_id)
    known.expire(NOW + later)
    assert known.digests() == set_of(*known).digests()


@given(some, some)
def test_pulling_what_differs_brings_both_to_the_newest_of_each(
    a: list[RelayDescriptor], b: list[RelayDescriptor]
) -> None:
    mine, theirs = set_of(*a), set_of(*b)
    pull(mine, theirs)
    assert contents(mine) == newest(*a, *b)
    pull(theirs, mine)
    assert contents(theirs) == contents(mine)
    assert not mine.differing(theirs.digests())


def test_an_empty_bucket_has_the_digest_of_zeros_and_an_empty_set_one_empty_page() -> None:
    known = DescriptorSet()
    assert known.digests() == (bytes(BUCKET_DIGEST_SIZE),) * BUCKETS
    page = known.page(range(BUCKETS), NO_RELAY)
    assert (page.after, page.following, page.descriptors) == (NO_RELAY, NO_RELAY, ())


def test_digests_of_another_number_are_our_own_fault() -> None:
    with pytest.raises(LocalError):
        DescriptorSet().differing([bytes(BUCKET_DIGEST_SIZE)] * (BUCKETS - 1))


LARGE = [described(f"one of many {n}") for n in range(500)]


def test_pages_are_in_order_hold_wanted_buckets_only_and_are_full_but_for_the_last() -> None:
    known = set_of(*LARGE)
    wanted = frozenset(range(0, BUCKETS, 3))
    found = read(known, wanted)
    ids = [each.relay_id for each in found]
    assert ids == sorted(each.relay_id for each in LARGE if each.relay_id[0] in wanted)
    first = known.page(wanted, NO_RELAY)
    assert MAX_PAGE_SIZE - len(first.encode()) < 300


def test_a_page_behind_an_id_nobody_has_begins_with_the_next() -> None:
    known = set_of(*LARGE)
    ids = sorted(each.relay_id for each in LARGE)
    between = ids[7][:-1] + bytes([ids[7][-1] ^ 1])
    first = RelayDescriptor.decode(known.page(range(BUCKETS), RelayId(between)).descriptors[0]).relay_id
    assert first == min(i for i in ids if i > between)
    assert known.page(range(BUCKETS), RelayId(b"\xff" * 32)).descriptors == ()


@given(some, st.integers(0, 2 * HOUR))
def test_exactly_what_expired_leaves(descriptors: list[RelayDescriptor], later: int) -> None:
    known = set_of(*descriptors)
    old = {each.relay_id for each in known if each.expires <= NOW + later}
    before = {each.relay_id for each in known}
    assert set(known.expire(NOW + later)) == old
    assert {each.relay_id for each in known} == before - old
    assert not known.expire(NOW + later)


# --- Room ----------------------------------------------------------------------------------------


def test_a_node_keeps_at_most_its_bound() -> None:
    known = DescriptorSet(limit=10)
    for n in range(50):
        known.add(described(n, address=(f"9.{n}.0.1", 1)))
        assert len(known) <= 10
    assert sum(len(known.bucket(number)) for number in range(BUCKETS)) == len(known) == 10


def test_who_shows_thousands_of_relays_in_one_network_keeps_nobody_out_and_pushes_nobody_out() -> None:
    known = DescriptorSet(limit=100)
    honest = [described(f"honest {n}", address=(f"9.{n}.0.1", 1)) for n in range(40)]
    for descriptor in honest[:20]:
        known.add(descriptor)
    for n in range(300):
        known.add(described(f"sybil {n}", address=(f"66.66.{n // 200}.{n % 200}", 1)))
    for descriptor in honest[20:]:
        assert known.has_room_for(descriptor)
        assert known.add(descriptor)
    assert all(descriptor.relay_id in known for descriptor in honest)
    assert len(known) == 100
    assert not known.has_room_for(described("one more sybil", address=("66.66.9.9", 1)))


def test_who_had_to_make_room_is_named_once_among_the_gone() -> None:
    known = DescriptorSet(limit=4)
    sybils = [described(f"sybil {n}", address=(f"66.66.0.{n}", 1)) for n in range(1, 5)]
    for descriptor in sybils:
        known.add(descriptor)
    known.add(described("honest", address=("9.9.9.9", 1)))
    gone = known.expire(NOW)
    assert gone == [sybils[-1].relay_id]
    assert sybils[-1].relay_id not in known
    assert not known.expire(NOW)


def test_a_relay_that_is_described_anew_is_not_the_first_to_make_room() -> None:
    known = DescriptorSet(limit=3)
    for n in range(3):
        known.add(described(n, address=(f"66.66.0.{n + 1}", 1)))
    known.add(described(0, published=NOW + 1, address=("66.66.0.1", 1)))
    known.add(described("elsewhere", address=("9.9.9.9", 1)))
    assert described(0).relay_id in known
    assert described(2).relay_id not in known


def test_a_relay_counts_where_it_says_it_is_now() -> None:
    known = DescriptorSet(limit=4)
    for n in range(4):
        known.add(described(n, address=(f"9.{n}.0.1", 1)))
    for n in range(3):
        assert known.add(described(n, published=NOW + 1, address=("66.66.0.1", 1)))
    assert known.add(described("newcomer", address=("9.9.0.1", 1)))
    assert len(known) == 4
    assert described(3).relay_id in known


# --- How fast it spreads ---------------------------------------------------------------------------


def rounds_until_equal(sets: dict[RelayId, DescriptorSet], rng: StreamRng) -> int:
    """Rounds of SPEC 12.2: each relay takes what differs from one that it knows, drawn at random."""
    rounds = 0
    while len({known.digests() for known in sets.values()}) > 1:
        rounds += 1
        for relay_id, mine in sets.items():
            others = sorted(each.relay_id for each in mine if each.relay_id != relay_id)
            theirs = sets[others[rng.below(len(others))]]
            for number in mine.differing(theirs.digests()):
                for each in map(theirs.get, theirs.bucket(number)):
                    assert each is not None
                    mine.add(each)
    return rounds


def all_new(relays: int, rng: StreamRng) -> dict[RelayId, DescriptorSet]:
    """Every relay knows itself and one that was there before, and is known to that one: introductions go both ways."""
    own = [described(f"gossip {n}") for n in range(relays)]
    sets = {descriptor.relay_id: set_of(descriptor) for descriptor in own}
    for n in range(1, relays):
        older = own[rng.below(n)]
        sets[own[n].relay_id].add(older)
        sets[older.relay_id].add(own[n])
    return sets


def one_new(relays: int, rng: StreamRng) -> dict[RelayId, DescriptorSet]:
    """All know all but the newest, which knows one of them and is known to that one."""
    *old, new = [described(f"gossip {n}") for n in range(relays)]
    first = old[rng.below(len(old))]
    sets = {descriptor.relay_id: set_of(*old) for descriptor in old}
    sets[first.relay_id].add(new)
    return sets | {new.relay_id: set_of(new, first)}


@pytest.mark.parametrize(("begin", "times"), [(one_new, 3), (all_new, 4)])
def test_all_relays_know_all_in_a_few_times_the_logarithm_of_their_number_of_rounds(
    begin: Callable[[int, StreamRng], dict[RelayId, DescriptorSet]], times: int, size: Size, figure: Figure
) -> None:
    """What is known to one relay only waits until somebody asks that one: in a round with probability 1 - 1/e.  So the
    slowest of many takes longer than the doubling, log2(n), that SPEC 12.2 has in mind.
    """
    relays, runs = size(small=20, long=200), size(small=5, long=5)
    rngs = [StreamRng(bytes([seed]) * 32) for seed in range(runs)]
    rounds = [rounds_until_equal(begin(relays, rng), rng) for rng in rngs]
    figure(f"gossip among {relays}, {begin.__name__}, mean", sum(rounds) / runs, "rounds")
    figure(f"gossip among {relays}, {begin.__name__}, worst of {runs}", max(rounds), "rounds")
    assert max(rounds) <= times * ceil(log2(relays))
