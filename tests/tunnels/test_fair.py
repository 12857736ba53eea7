"""SPEC 4.8 and 7.7: the fair queue, as laws."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.errors import LocalError
from tunnels.fair import FairQueue, FairTable, source_prefix

Request = tuple[str, int]
requests = st.lists(st.tuples(st.sampled_from("abcde"), st.integers()), max_size=60)


def drain(queue: FairQueue[Request]) -> list[Request]:
    return [item for _ in range(len(queue)) if (item := queue.pop()) is not None]


@given(requests)
def test_nothing_is_lost_or_doubled_below_the_bounds_and_each_key_keeps_its_order(items: list[Request]) -> None:
    queue = FairQueue[Request](per_key=100, total=1000)
    assert not [out for key, number in items for out in queue.add(key, (key, number))]
    out = drain(queue)
    assert Counter(out) == Counter(items)
    for key in "abcde":
        assert [item for item in out if item[0] == key] == [item for item in items if item[0] == key]
    assert queue.pop() is None


@given(requests, st.integers(1, 5), st.integers(1, 12))
def test_the_bounds_hold_and_everything_is_either_queued_or_handed_back(
    items: list[Request], per_key: int, total: int
) -> None:
    queue, refused = FairQueue[Request](per_key, total), list[Request]()
    for item in items:
        refused += queue.add(item[0], item)
        assert len(queue) == len(list(queue)) <= total
        assert max(Counter(key for key, _ in queue).values(), default=0) <= per_key
    assert Counter(refused + drain(queue)) == Counter(items)


@given(requests)
def test_a_key_that_waits_is_served_within_one_round(items: list[Request]) -> None:
    queue = FairQueue[Request](per_key=100, total=1000)
    for item in items:
        queue.add(item[0], item)
    waiting = {key for key, _ in queue}
    assert {key for key, _ in drain(queue)[: len(waiting)]} == waiting


def test_a_flood_pushes_out_itself_and_not_the_quiet() -> None:
    queue = FairQueue[Request](per_key=50, total=60)
    queue.add("quiet", ("quiet", 1))
    for number in range(1000):
        queue.add(f"loud {number % 3}", ("loud", number))
    assert queue.add("late", ("late", 1)) != [("late", 1)]
    assert {"quiet", "late"} <= {key for key, _ in drain(queue)[:5]}


@pytest.mark.parametrize(
    ("host", "prefix"),
    [
        ("127.0.5.9", "127.0.5.0/24"),
        ("::ffff:127.0.5.9", "127.0.5.0/24"),
        ("2001:db8:1:2::1", "2001:db8:1::/48"),
    ],
)
def test_prefixes_are_24_bits_of_ipv4_and_48_of_ipv6(host: str, prefix: str) -> None:
    assert source_prefix(host) == prefix


def test_a_queue_without_room_is_our_own_fault() -> None:
    with pytest.raises(LocalError):
        FairQueue[int](per_key=0)


@given(requests, st.data())
def test_what_is_taken_out_of_a_queue_is_gone_and_nothing_else_is(items: list[Request], data: st.DataObject) -> None:
    queue = FairQueue[Request](per_key=100, total=1000)
    numbered = [(key, number) for number, (key, _) in enumerate(items)]
    for item in numbered:
        queue.add(item[0], item)
    unwanted = data.draw(st.lists(st.sampled_from(numbered), unique=True)) if numbered else []
    for item in [*unwanted, *unwanted]:
        queue.discard(item[0], item)
    assert len(queue) == len(numbered) - len(unwanted)
    assert Counter(drain(queue)) == Counter(numbered) - Counter(unwanted)
    assert queue.pop() is None


class TableModel:
    """What a FairTable promises, by counting."""

    def __init__(self, total: int) -> None:
        self.total, self.members = total, list[Request]()

    def share(self, key: str) -> int:
        return sum(member[0] == key for member in self.members)

    def full_for(self, key: str) -> bool:
        most = max((self.share(other) for other in "abcde"), default=0)
        return len(self.members) >= self.total and most <= self.share(key) + 1


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=80), st.integers(1, 12), st.data())
def test_a_full_table_gives_a_place_only_from_whoever_has_the_most(
    steps: list[tuple[str, bool]], total: int, data: st.DataObject
) -> None:
    table, model = FairTable[Request](total), TableModel(total)
    for number, (key, leave) in enumerate(steps):
        if leave and model.members:
            gone = data.draw(st.sampled_from(model.members))
            model.members.remove(gone)
            table.discard(gone)
            table.discard(gone)
        else:
            assert table.full_for(key) is model.full_for(key)
            if model.full_for(key):
                with pytest.raises(LocalError):
                    table.add(key, (key, number))
                continue
            leaves = table.add(key, (key, number))
            assert (leaves is not None) is (len(model.members) == total)
            if leaves is not None:
                assert model.share(leaves[0]) == max(model.share(other) for other in "abcde")
                assert leaves == [member for member in model.members if member[0] == leaves[0]][-1]
                model.members.remove(leaves)
            model.members.append((key, number))
        assert list(table) == model.members
        assert len(table) <= total


def test_however_many_places_one_key_takes_everybody_else_gets_one() -> None:
    table = FairTable[Request](100)
    for number in range(1000):
        if not table.full_for("loud"):
            table.add("loud", ("loud", number))
    for number in range(50):
        assert not table.full_for(f"quiet {number}")
        assert table.add(f"quiet {number}", ("quiet", number)) == ("loud", 99 - number)
    assert table.full_for("loud")
