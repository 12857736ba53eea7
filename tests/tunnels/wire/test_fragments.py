"""SPEC 8.1 and 8.2, as tests."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.vectors import make_wire
from tunnels.errors import LocalError, RemoteError
from tunnels.params import (
    CIRCUIT_REASSEMBLY,
    CIRCUIT_UNFINISHED,
    MAX_CONTROL_SIZE,
    MAX_DATAGRAM_SIZE,
    MAX_FRAGMENTS,
    PART_SIZE,
    PAYLOAD_SIZE,
    REASSEMBLY_TIMEOUT,
    WHOLE_SIZE,
)
from tunnels.wire.fragments import Fragment, Joined, NodeBudget, Reassembler, Whole, max_content, parse_payload, split
from tunnels.wire.messages import MessageType

DATAGRAM = MessageType.DATAGRAM
EXTEND = MessageType.EXTEND


def padded(head: bytes, filler: int = 0xA5) -> bytes:
    """The payload a cell would carry."""
    return head + bytes([filler]) * (PAYLOAD_SIZE - len(head))


def fragments_of(message_type: int, content: bytes, message_id: int = 0) -> list[Fragment]:
    parsed = [parse_payload(padded(head)) for head in split(message_type, content, message_id)]
    fragments = [each for each in parsed if isinstance(each, Fragment)]
    assert len(fragments) == len(parsed)
    return fragments


def begun(message_id: int, count: int = MAX_FRAGMENTS) -> Fragment:
    """The first fragment of a datagram whose others do not come."""
    return Fragment(DATAGRAM, message_id, 0, count, bytes(PART_SIZE))


def fragment_payload(
    *, message_type: int = DATAGRAM, index: int = 0, count: int = 2, part: int = PART_SIZE, length: int | None = None
) -> bytes:
    length = 4 + part if length is None else length
    return padded(
        bytes([message_type | 0x80])
        + length.to_bytes(2)
        + b"\0\0"
        + bytes([index, count])
        + bytes(min(part, PART_SIZE))
    )


# --- split and parse_payload -----------------------------------------------------------------


@pytest.mark.parametrize("vector", make_wire.load()["payloads"], ids=lambda vector: vector["name"])
def test_payloads_are_as_in_the_vectors_both_ways(vector: make_wire.PayloadVector) -> None:
    content, heads = bytes.fromhex(vector["content"]), [bytes.fromhex(head) for head in vector["heads"]]
    assert split(vector["type"], content, vector["message_id"]) == heads
    if len(heads) == 1:
        assert parse_payload(padded(heads[0])) == Whole(vector["type"], content)
        return
    reassembler = Reassembler(NodeBudget())
    *first, last = [parse_payload(padded(head)) for head in heads]
    for fragment in first:
        assert isinstance(fragment, Fragment)
        assert reassembler.add(fragment, early=True, now=0.0) is None
    assert isinstance(last, Fragment)
    assert reassembler.add(last, early=True, now=0.0) == Joined(vector["type"], content, all_early=True)


@given(st.integers(1, 127), st.binary(max_size=WHOLE_SIZE), st.integers(0, 255))
def test_a_whole_message_comes_out_as_it_went_in_whatever_fills_the_payload(
    message_type: int, content: bytes, filler: int
) -> None:
    (head,) = split(message_type, content, 0)
    assert parse_payload(memoryview(padded(head, filler))) == Whole(message_type, content)


@given(st.integers(WHOLE_SIZE + 1, MAX_DATAGRAM_SIZE), st.integers(0, 0xFFFF))
def test_every_fragment_but_the_last_is_full_and_none_is_empty(size: int, message_id: int) -> None:
    fragments = fragments_of(DATAGRAM, bytes(size), message_id)
    assert 2 <= len(fragments) <= MAX_FRAGMENTS
    assert [fragment.index for fragment in fragments] == list(range(len(fragments)))
    assert {fragment.message_id for fragment in fragments} == {message_id}
    assert {fragment.count for fragment in fragments} == {len(fragments)}
    assert all(len(fragment.part) == PART_SIZE for fragment in fragments[:-1])
    assert 0 < len(fragments[-1].part) <= PART_SIZE
    assert sum(len(fragment.part) for fragment in fragments) == size


@pytest.mark.parametrize("message_type", [1, 6, 8, 127, DATAGRAM])
def test_only_datagrams_are_large(message_type: int) -> None:
    limit = MAX_DATAGRAM_SIZE if message_type == DATAGRAM else MAX_CONTROL_SIZE
    assert max_content(message_type) == limit
    assert split(message_type, bytes(limit), 0)
    with pytest.raises(LocalError, match=f"at most {limit}"):
        split(message_type, bytes(limit + 1), 0)


@pytest.mark.parametrize("message_type", [-1, 0, 0x80, 0x81, 256])
def test_a_type_that_does_not_fit_is_our_own_fault(message_type: int) -> None:
    with pytest.raises(LocalError, match="type"):
        split(message_type, b"", 0)


@pytest.mark.parametrize("message_id", [-1, 0x10000])
def test_a_message_id_that_does_not_fit_is_our_own_fault(message_id: int) -> None:
    with pytest.raises(LocalError, match="16 bits"):
        split(DATAGRAM, bytes(WHOLE_SIZE + 1), message_id)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes(PAYLOAD_SIZE - 1),
        bytes(PAYLOAD_SIZE + 1),
        padded(bytes([5]) + (WHOLE_SIZE + 1).to_bytes(2)),
        padded(bytes([5, 0xFF, 0xFF])),
        fragment_payload(length=WHOLE_SIZE + 1),
        fragment_payload(length=3),
        fragment_payload(length=0),
        fragment_payload(index=1, count=2, length=3),
        fragment_payload(count=0),
        fragment_payload(count=1, part=5),
        fragment_payload(index=2, count=2),
        fragment_payload(index=255, count=2),
        fragment_payload(count=MAX_FRAGMENTS + 1),
        fragment_payload(index=0, part=PART_SIZE - 1),
        fragment_payload(index=0, part=0),
        fragment_payload(message_type=EXTEND, count=5),
        fragment_payload(message_type=EXTEND, index=3, count=4, part=MAX_CONTROL_SIZE - 3 * PART_SIZE + 1),
        fragment_payload(index=54, count=55, part=MAX_DATAGRAM_SIZE - 54 * PART_SIZE + 1),
    ],
)
def test_a_payload_the_specification_does_not_have_is_refused(payload: bytes) -> None:
    with pytest.raises(RemoteError):
        parse_payload(payload)


@pytest.mark.parametrize(
    "payload",
    [
        fragment_payload(message_type=EXTEND, index=3, count=4, part=MAX_CONTROL_SIZE - 3 * PART_SIZE),
        fragment_payload(index=54, count=55, part=MAX_DATAGRAM_SIZE - 54 * PART_SIZE),
        fragment_payload(index=1, count=2, part=0),
    ],
)
def test_a_payload_at_the_edge_is_accepted(payload: bytes) -> None:
    assert isinstance(parse_payload(payload), Fragment)


def test_what_was_parsed_does_not_change_with_the_buffer() -> None:
    for head in (split(DATAGRAM, b"whole", 0)[0], split(DATAGRAM, bytes(2000), 0)[0]):
        buffer = bytearray(padded(head))
        parsed, again = parse_payload(buffer), parse_payload(bytes(buffer))
        buffer[:] = b"\xff" * PAYLOAD_SIZE
        assert parsed == again


# --- Reassembler: what comes out -------------------------------------------------------------

sizes = st.lists(st.integers(WHOLE_SIZE + 1, 6 * PART_SIZE), min_size=1, max_size=5)


@given(sizes, st.data())
def test_in_any_order_and_with_duplicates_each_message_comes_out_whole_and_not_more_often_than_it_was_sent(
    lengths: list[int], data: st.DataObject
) -> None:
    contents = [bytes([number]) * length for number, length in enumerate(lengths)]
    cells: list[Fragment] = []
    copies: list[int] = []
    for message_id, content in enumerate(contents):
        fragments = fragments_of(DATAGRAM, content, message_id)
        times = data.draw(st.lists(st.integers(1, 3), min_size=len(fragments), max_size=len(fragments)))
        cells += [fragment for fragment, number in zip(fragments, times, strict=True) for _ in range(number)]
        copies.append(min(times))
    budget = NodeBudget()
    reassembler = Reassembler(budget)
    came = Counter[bytes]()
    for fragment in data.draw(st.permutations(cells)):
        if joined := reassembler.add(fragment, early=False, now=0.0):
            came[joined.content] += 1
    assert came.keys() == set(contents)
    for content, most in zip(contents, copies, strict=True):
        assert 1 <= came[content] <= most  # so exactly once, unless all of its fragments came twice
    reassembler.close()
    assert budget.held == reassembler.held == 0


def test_a_message_that_is_repeated_as_a_whole_comes_out_again_because_its_answer_may_be_lost() -> None:
    reassembler, fragments = Reassembler(NodeBudget()), fragments_of(EXTEND, bytes(1338))
    came = [reassembler.add(fragment, early=True, now=0.0) for fragment in fragments * 2]
    assert [joined is not None for joined in came] == [False, True, False, True]


def test_fragments_of_two_tries_complete_each_other() -> None:
    reassembler, (one, two) = Reassembler(NodeBudget()), fragments_of(EXTEND, bytes(1338), 7)
    assert reassembler.add(one, early=True, now=0.0) is None
    assert reassembler.add(one, early=True, now=1.0) is None
    assert reassembler.add(two, early=True, now=3.0) == Joined(EXTEND, bytes(1338), all_early=True)


@given(st.lists(st.booleans(), min_size=2, max_size=6), st.data())
def test_a_message_is_all_early_exactly_when_every_fragment_was(early: list[bool], data: st.DataObject) -> None:
    fragments = fragments_of(DATAGRAM, bytes(len(early) * PART_SIZE))
    reassembler, joined = Reassembler(NodeBudget()), None
    for fragment, was_early in data.draw(st.permutations(list(zip(fragments, early, strict=True)))):
        joined = reassembler.add(fragment, early=was_early, now=0.0)
    assert joined is not None
    assert joined.all_early is all(early)


def test_a_late_fragment_cannot_be_made_early_by_its_duplicate() -> None:
    reassembler, (one, two) = Reassembler(NodeBudget()), fragments_of(EXTEND, bytes(1338))
    reassembler.add(one, early=False, now=0.0)
    reassembler.add(one, early=True, now=0.0)
    assert reassembler.add(two, early=True, now=0.0) == Joined(EXTEND, bytes(1338), all_early=False)


def test_of_two_different_copies_of_a_fragment_the_first_counts() -> None:
    reassembler = Reassembler(NodeBudget())
    reassembler.add(Fragment(EXTEND, 0, 1, 2, b"first"), early=True, now=0.0)
    reassembler.add(Fragment(EXTEND, 0, 1, 2, b"forged"), early=False, now=0.0)
    joined = reassembler.add(Fragment(EXTEND, 0, 0, 2, bytes(PART_SIZE)), early=True, now=0.0)
    assert joined == Joined(EXTEND, bytes(PART_SIZE) + b"first", all_early=True)


@pytest.mark.parametrize("other", [Fragment(8, 0, 0, 2, bytes(PART_SIZE)), Fragment(EXTEND, 0, 0, 3, bytes(PART_SIZE))])
def test_a_fragment_that_disagrees_replaces_what_was_there(other: Fragment) -> None:
    budget = NodeBudget()
    reassembler, (one, two) = Reassembler(budget), fragments_of(EXTEND, bytes(1338))
    reassembler.add(two, early=True, now=0.0)
    reassembler.add(other, early=True, now=0.0)
    assert (reassembler.unfinished, budget.held, budget.forgotten) == (1, PART_SIZE, 1)
    assert reassembler.add(one, early=True, now=0.0) is None  # replaces again, and finds nothing to complete


def test_fragments_of_two_hops_never_make_one_message() -> None:
    reassembler, (one, two) = Reassembler(NodeBudget()), fragments_of(DATAGRAM, bytes(2000))
    forged = Fragment(DATAGRAM, 0, 1, 2, b"from a hop in the middle")
    assert reassembler.add(forged, early=False, now=0.0, source=1) is None
    assert reassembler.add(one, early=False, now=0.0, source=2) is None
    assert reassembler.add(two, early=False, now=0.0, source=2) == Joined(DATAGRAM, bytes(2000), all_early=False)


# --- Reassembler: what is kept ---------------------------------------------------------------


def test_a_message_is_forgotten_10_s_after_its_newest_fragment_and_not_before() -> None:
    for wait, complete in ((9.9, True), (REASSEMBLY_TIMEOUT, False)):
        reassembler, (one, two, three) = Reassembler(NodeBudget()), fragments_of(DATAGRAM, bytes(3000))
        reassembler.add(one, early=False, now=0.0)
        reassembler.add(two, early=False, now=8.0)
        assert (reassembler.add(three, early=False, now=8.0 + wait) is not None) is complete


def test_a_duplicate_costs_nothing_and_keeps_nothing_alive() -> None:
    budget = NodeBudget()
    reassembler = Reassembler(budget)
    for now in (0.0, 9.0):
        reassembler.add(begun(0), early=False, now=now)
        assert budget.held == PART_SIZE
    reassembler.expire(REASSEMBLY_TIMEOUT)
    assert (reassembler.unfinished, budget.held, budget.next_expiry()) == (0, 0, None)


def test_the_budget_expires_every_circuit_and_says_when() -> None:
    budget = NodeBudget()
    one, two = Reassembler(budget), Reassembler(budget)
    one.add(begun(0), early=False, now=1.0)
    two.add(begun(0), early=False, now=2.0)
    one.add(begun(1), early=False, now=3.0)
    assert budget.next_expiry() == 11.0
    budget.expire(12.0)
    assert (one.unfinished, two.unfinished, budget.next_expiry(), budget.forgotten) == (1, 0, 13.0, 2)


def test_the_ninth_unfinished_message_pushes_out_the_one_longest_without_a_fragment() -> None:
    reassembler = Reassembler(NodeBudget())
    messages = [fragments_of(DATAGRAM, bytes(3000), number) for number in range(CIRCUIT_UNFINISHED)]
    for fragments in messages:
        reassembler.add(fragments[0], early=False, now=0.0)
    reassembler.add(messages[0][1], early=False, now=1.0)
    reassembler.add(begun(99), early=False, now=2.0)
    assert reassembler.unfinished == CIRCUIT_UNFINISHED
    assert reassembler.add(messages[0][2], early=False, now=2.0) is not None
    assert reassembler.add(messages[2][1], early=False, now=2.0) is None
    assert reassembler.add(messages[2][2], early=False, now=2.0) is not None
    assert reassembler.add(messages[1][1], early=False, now=2.0) is None
    assert reassembler.add(messages[1][2], early=False, now=2.0) is None  # its first was pushed out


def test_a_circuit_holds_131072_bytes_and_its_oldest_makes_room() -> None:
    reassembler = Reassembler(NodeBudget())
    for message_id in range(3):
        fragments = fragments_of(DATAGRAM, bytes(MAX_DATAGRAM_SIZE), message_id)
        for fragment in fragments[:-1]:
            reassembler.add(fragment, early=False, now=float(message_id))
            assert reassembler.held <= CIRCUIT_REASSEMBLY
    assert reassembler.unfinished == 2
    assert reassembler.add(fragments_of(DATAGRAM, bytes(MAX_DATAGRAM_SIZE), 1)[-1], early=False, now=3.0) is not None


def test_a_full_node_takes_room_from_the_same_circuit_first() -> None:
    budget = NodeBudget(3 * PART_SIZE)
    busy, other = Reassembler(budget), Reassembler(budget)
    other.add(begun(0), early=False, now=0.0)
    for message_id in range(3):
        busy.add(begun(message_id), early=False, now=1.0)
    assert (other.unfinished, busy.unfinished, budget.held) == (1, 2, budget.limit)


def test_a_circuit_with_nothing_to_push_out_takes_the_place_of_the_node_s_oldest() -> None:
    budget = NodeBudget(3 * PART_SIZE)
    one, two, three = (Reassembler(budget) for _ in range(3))
    fragments = fragments_of(DATAGRAM, bytes(3000))
    one.add(fragments[0], early=False, now=0.0)
    two.add(fragments[0], early=False, now=1.0)
    one.add(fragments[1], early=False, now=2.0)
    three.add(fragments[0], early=False, now=3.0)
    assert (one.unfinished, two.unfinished, three.unfinished, budget.forgotten) == (1, 0, 1, 1)
    budget.expire(2.0 + REASSEMBLY_TIMEOUT)
    assert (one.unfinished, three.unfinished) == (0, 1)


def test_circuits_that_sit_on_their_fragments_do_not_keep_an_honest_extend_out() -> None:
    budget = NodeBudget()
    hostile: list[Reassembler] = []
    while budget.held + PART_SIZE <= budget.limit:
        hostile.append(Reassembler(budget))
        for message_id in range(CIRCUIT_UNFINISHED):
            hostile[-1].add(begun(message_id), early=False, now=0.0)
    honest, (one, two) = Reassembler(budget), fragments_of(EXTEND, bytes(1338))
    assert honest.add(one, early=True, now=1.0) is None
    for circuit in hostile:
        circuit.add(begun(99), early=False, now=1.0)
    assert honest.add(two, early=True, now=1.0) == Joined(EXTEND, bytes(1338), all_early=True)
    assert budget.held <= budget.limit


def test_what_never_fits_is_not_kept() -> None:
    budget = NodeBudget(PART_SIZE)
    reassembler, (one, two, three) = Reassembler(budget), fragments_of(DATAGRAM, bytes(3000))
    assert reassembler.add(one, early=False, now=0.0) is None
    assert reassembler.add(two, early=False, now=0.0) is None
    assert (reassembler.unfinished, budget.held, budget.forgotten) == (0, 0, 1)
    assert reassembler.add(three, early=False, now=0.0) is None


def test_a_closed_circuit_gives_everything_back() -> None:
    budget = NodeBudget()
    one, two = Reassembler(budget), Reassembler(budget)
    for message_id in range(5):
        one.add(begun(message_id), early=False, now=0.0)
    two.add(begun(0), early=False, now=0.0)
    one.close()
    assert (one.held, one.unfinished, budget.held) == (0, 0, PART_SIZE)


class HostileCircuits(RuleBasedStateMachine):
    """Three circuits of a small node, whose peers send whatever fragments they like."""

    LIMIT = 200_000

    def __init__(self) -> None:
        super().__init__()
        self.budget = NodeBudget(self.LIMIT)
        self.circuits = [Reassembler(self.budget) for _ in range(3)]
        self.now = 0.0

    @rule(
        circuit=st.integers(0, 2),
        source=st.integers(0, 1),
        message_id=st.integers(0, 9),
        kind=st.sampled_from([(DATAGRAM, 55), (DATAGRAM, 54), (DATAGRAM, 2), (EXTEND, 4), (EXTEND, 2)]),
        begin=st.integers(0, 54),
        number=st.integers(1, 55),
        early=st.booleans(),
    )
    def send(
        self, *, circuit: int, source: int, message_id: int, kind: tuple[int, int], begin: int, number: int, early: bool
    ) -> None:
        message_type, count = kind
        for index in range(begin % count, min(begin % count + number, count)):
            part = bytes([index]) * (PART_SIZE if index < count - 1 else 480)
            fragment = Fragment(message_type, message_id, index, count, part)
            joined = self.circuits[circuit].add(fragment, early=early, now=self.now, source=source)
            self.bounds_hold()
            if joined:
                whole = b"".join(bytes([each]) * PART_SIZE for each in range(count - 1)) + bytes([count - 1]) * 480
                assert (joined.type, joined.content) == (message_type, whole)

    @rule(seconds=st.floats(0, 15))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        self.budget.expire(self.now)
        due = self.budget.next_expiry()
        assert due is None or due > self.now

    @rule(circuit=st.integers(0, 2))
    def expire_one(self, circuit: int) -> None:
        self.circuits[circuit].expire(self.now)

    @rule(circuit=st.integers(0, 2))
    def close(self, circuit: int) -> None:
        self.circuits[circuit].close()
        assert self.circuits[circuit].held == 0

    @invariant()
    def bounds_hold(self) -> None:
        assert all(circuit.unfinished <= CIRCUIT_UNFINISHED for circuit in self.circuits)
        assert all(0 <= circuit.held <= CIRCUIT_REASSEMBLY for circuit in self.circuits)
        assert sum(circuit.held for circuit in self.circuits) == self.budget.held <= self.LIMIT
        assert (self.budget.next_expiry() is None) is all(circuit.unfinished == 0 for circuit in self.circuits)

    def teardown(self) -> None:
        self.budget.expire(self.now + REASSEMBLY_TIMEOUT)
        assert self.budget.held == 0
        assert all(circuit.held == circuit.unfinished == 0 for circuit in self.circuits)


TestHostileCircuits = HostileCircuits.TestCase
