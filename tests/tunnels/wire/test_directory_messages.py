"""SPEC 12.1, as tests."""

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vectors import make_wire
from tunnels.errors import LocalError, RemoteError
from tunnels.ids import RelayId
from tunnels.params import (
    BUCKET_DIGEST_SIZE,
    BUCKETS,
    MAX_CONTROL_SIZE,
    MAX_DESCRIPTOR_SIZE,
    MAX_PAGE_SIZE,
    PART_SIZE,
    RELAY_ID_SIZE,
)
from tunnels.wire.directory_messages import (
    NO_RELAY,
    BucketsRequest,
    Descriptors,
    DigestRequest,
    Digests,
    DirectoryType,
    Probe,
    Reach,
    Vouched,
    page,
)
from tunnels.wire.fragments import max_content, split
from tunnels.wire.messages import FORWARD, Message, decode, table

TYPES = table(DigestRequest, Digests, BucketsRequest, Descriptors, Probe, Vouched)
ROOM = MAX_PAGE_SIZE - 2 * RELAY_ID_SIZE

relay_ids = st.binary(min_size=RELAY_ID_SIZE, max_size=RELAY_ID_SIZE).map(RelayId)
descriptors = st.binary(min_size=1, max_size=64)
digests = st.lists(
    st.binary(min_size=BUCKET_DIGEST_SIZE, max_size=BUCKET_DIGEST_SIZE), min_size=BUCKETS, max_size=BUCKETS
)
exact: st.SearchStrategy[Message] = st.one_of(
    st.just(DigestRequest()),
    digests.map(lambda found: Digests(tuple(found))),
    st.builds(BucketsRequest, st.frozensets(st.integers(0, BUCKETS - 1)), relay_ids),
    st.builds(Vouched, st.sampled_from(Reach), relay_ids),
)
pages = st.builds(Descriptors, relay_ids, relay_ids, st.lists(descriptors, max_size=9).map(tuple))
probes = st.builds(Probe, descriptors)


def built(vector: make_wire.DirectoryVector) -> Message:
    """The message a vector describes."""
    fields = cast("dict[str, Any]", vector["fields"])

    def relay(name: str) -> RelayId:
        return RelayId(bytes.fromhex(fields[name]))

    match DirectoryType(vector["number"]):
        case DirectoryType.DIGEST_REQUEST:
            return DigestRequest()
        case DirectoryType.DIGESTS:
            return Digests(tuple(map(bytes.fromhex, fields["digests"])))
        case DirectoryType.BUCKETS_REQUEST:
            return BucketsRequest(frozenset(fields["wanted"]), relay("after"))
        case DirectoryType.DESCRIPTORS:
            return Descriptors(relay("after"), relay("following"), tuple(map(bytes.fromhex, fields["descriptors"])))
        case DirectoryType.PROBE:
            return Probe(bytes.fromhex(fields["descriptor"]))
        case DirectoryType.VOUCHED:
            return Vouched(Reach(fields["reach"]), relay("relay_id"))


@pytest.mark.parametrize("vector", make_wire.load()["directory_messages"], ids=lambda vector: vector["name"])
def test_messages_are_as_in_the_vectors_both_ways(vector: make_wire.DirectoryVector) -> None:
    message, content = built(vector), bytes.fromhex(vector["hex"])
    assert message.encode() == content
    assert decode(vector["number"], content, TYPES) == message


def test_no_type_of_the_directory_is_one_of_the_circuits() -> None:
    assert not set(DirectoryType) & FORWARD.keys()


@given(exact | pages | probes)
def test_what_was_encoded_decodes_to_itself(message: Message) -> None:
    assert decode(message.TYPE, message.encode(), TYPES) == message


@given(exact)
def test_one_byte_more_or_less_is_malformed(message: Message) -> None:
    content = message.encode()
    for wrong in (content + b"\0", content[:-1] if content else b"\0"):
        with pytest.raises(RemoteError):
            decode(message.TYPE, wrong, TYPES)


@given(pages.filter(lambda message: message.descriptors), st.data())
def test_a_page_that_is_cut_inside_a_descriptor_is_malformed(message: Descriptors, data: st.DataObject) -> None:
    ends = {2 * RELAY_ID_SIZE + sum(2 + len(each) for each in message.descriptors[:n]) for n in range(10)}
    content = message.encode()
    cut = data.draw(st.integers(0, len(content)).filter(lambda at: at not in ends))
    with pytest.raises(RemoteError):
        Descriptors.decode(content[:cut])


@given(exact | probes)
def test_everything_but_a_page_is_within_the_bound_of_control_messages(message: Message) -> None:
    assert len(message.encode()) <= MAX_CONTROL_SIZE == max_content(message.TYPE)


def test_a_page_has_at_most_its_bound_whoever_makes_it() -> None:
    fits = (bytes(2000),) * 8 + (bytes(ROOM - 8 * 2002 - 2),)
    content = Descriptors(NO_RELAY, NO_RELAY, fits).encode()
    assert len(content) == MAX_PAGE_SIZE == max_content(Descriptors.TYPE)
    assert len(split(Descriptors.TYPE, content, 0)) == -(-MAX_PAGE_SIZE // PART_SIZE) == 14
    with pytest.raises(LocalError):
        Descriptors(NO_RELAY, NO_RELAY, (*fits, b"x")).encode()
    with pytest.raises(RemoteError, match="at most"):
        Descriptors.decode(content + b"\0\1x")


@pytest.mark.parametrize("size", [0, MAX_DESCRIPTOR_SIZE + 1, 0xFFFF])
def test_a_descriptor_of_no_size_or_too_large_is_malformed_on_a_page_and_in_a_probe(size: int) -> None:
    room = bytes(min(size, ROOM - 2))
    with pytest.raises(RemoteError):
        Descriptors.decode(bytes(2 * RELAY_ID_SIZE) + size.to_bytes(2) + room)
    with pytest.raises(RemoteError):
        Probe.decode(bytes(size))


@pytest.mark.parametrize("result", [3, 255])
def test_an_unknown_result_is_malformed(result: int) -> None:
    with pytest.raises(RemoteError, match="result"):
        Vouched.decode(bytes([result]) + NO_RELAY)


@pytest.mark.parametrize(
    "wrong",
    [
        Digests((bytes(BUCKET_DIGEST_SIZE),) * (BUCKETS - 1)),
        Digests((bytes(BUCKET_DIGEST_SIZE + 1),) * BUCKETS),
        BucketsRequest(frozenset({BUCKETS})),
        BucketsRequest(frozenset({-1})),
        BucketsRequest(frozenset(), RelayId(bytes(RELAY_ID_SIZE - 1))),
        Descriptors(RelayId(b""), NO_RELAY, ()),
        Descriptors(NO_RELAY, RelayId(b""), ()),
        Descriptors(NO_RELAY, NO_RELAY, (b"",)),
        Descriptors(NO_RELAY, NO_RELAY, (bytes(MAX_DESCRIPTOR_SIZE + 1),)),
        Probe(b""),
        Probe(bytes(MAX_DESCRIPTOR_SIZE + 1)),
        Vouched(Reach.REACHED, relay_id=RelayId(bytes(RELAY_ID_SIZE + 1))),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_that_no_receiver_would_take_is_our_own_fault(wrong: Message) -> None:
    with pytest.raises(LocalError):
        wrong.encode()


@given(st.lists(st.integers(1, MAX_DESCRIPTOR_SIZE), max_size=40))
def test_a_page_takes_from_the_front_as_many_as_fit_and_says_where_the_next_begins(sizes: list[int]) -> None:
    candidates = [(RelayId(bytes([n + 1]) * RELAY_ID_SIZE), bytes(size)) for n, size in enumerate(sizes)]
    made = page(NO_RELAY, candidates)
    taken = len(made.descriptors)
    assert list(made.descriptors) == [descriptor for _, descriptor in candidates[:taken]]
    assert len(made.encode()) <= MAX_PAGE_SIZE
    if taken == len(candidates):
        assert made.following == NO_RELAY
    else:
        assert made.following == candidates[taken - 1][0]
        assert len(made.encode()) + 2 + sizes[taken] > MAX_PAGE_SIZE


@given(st.lists(st.integers(1, MAX_DESCRIPTOR_SIZE), max_size=60))
def test_following_the_pages_reads_everything_once_and_ends(sizes: list[int]) -> None:
    candidates = [(RelayId(bytes([n + 1]) * RELAY_ID_SIZE), bytes(size)) for n, size in enumerate(sizes)]
    read: list[bytes] = []
    after = NO_RELAY
    while True:
        made = page(after, (each for each in candidates if each[0] > after))
        read += made.descriptors
        if (after := made.following) == NO_RELAY:
            break
    assert read == [descriptor for _, descriptor in candidates]


def test_no_descriptor_and_no_digest_is_in_a_repr() -> None:
    shown = repr([Digests((b"secret",)), Descriptors(NO_RELAY, NO_RELAY, (b"secret",)), Probe(b"secret")])
    assert "secret" not in shown
