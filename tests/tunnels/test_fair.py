"""SPEC 4.8 and 7.7: the fair queue, as laws."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.errors import LocalError
from tunnels.fair import FairQueue, source_prefix

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
