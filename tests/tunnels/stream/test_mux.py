"""SPEC 13, from one end of a circuit to the other."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.plugin import Figure, Size
from tests.tunnels.stream.pair import ROOM, SOON, WEB, Pair, frames_of, make_mux, pattern
from tunnels.errors import LocalError, RemoteError, TransientError
from tunnels.params import (
    INITIAL_CREDIT,
    INITIAL_STREAM_CREDIT,
    INITIAL_STREAMS,
    MAX_GAPS,
    MAX_QUERIES,
    STREAM_SHARE,
)
from tunnels.stream.events import (
    DataReadable,
    ResolveAnswered,
    ResolveAsked,
    StreamAnswered,
    StreamFinished,
    StreamOpened,
    StreamReset,
    StreamStopped,
    WriteReady,
)
from tunnels.stream.mux import Limits, Mux
from tunnels.wire.destination import Destination
from tunnels.wire.stream_frames import (
    Ack,
    Answered,
    Data,
    FarEnd,
    Frame,
    MaxData,
    MaxStreamData,
    MaxStreams,
    Open,
    OpenFlags,
    Ping,
    Reset,
    Resolve,
    Resolved,
    Status,
    Stop,
    decode_packet,
)

NO_FLAGS = OpenFlags(0)
MINUTE = 60.0


def opened(pair: Pair, data: bytes = b"") -> int:
    """A stream that both ends know."""
    stream_id = pair.near.open(WEB, data)
    pair.run(0.2)
    return stream_id


def send_all(pair: Pair, mux: Mux, stream_id: int, data: bytes) -> None:
    """Write, as room comes, until all of it is taken; then finish."""
    left = memoryview(data)
    while left:
        left = left[mux.write(stream_id, left) :]
        pair.run(0.02)
    mux.finish(stream_id)


# --- opening ---------------------------------------------------------------------------------


def test_an_open_and_its_first_bytes_share_a_cell() -> None:
    mux = make_mux(originator=True)
    stream_id = mux.open(WEB, b"GET / HTTP/1.1\r\n\r\n")
    (content,) = mux.payloads_to_send(0.0, ROOM)
    assert decode_packet(content)[1] == [
        Open(stream_id, NO_FLAGS, WEB),
        Data(stream_id, 0, b"GET / HTTP/1.1\r\n\r\n", fin=False),
    ]


def test_first_bytes_share_the_cell_of_their_open_even_while_others_have_much_to_send() -> None:
    pair = Pair()
    busy = opened(pair)
    pair.near.write(busy, bytes(100_000))
    quick = pair.near.open(WEB, b"quick")
    first = decode_packet(pair.near.payloads_to_send(pair.now, 1)[0])[1]
    assert Open(quick, NO_FLAGS, WEB) in first
    assert Data(quick, 0, b"quick", fin=False) in first


def test_the_far_end_hears_of_a_stream_its_destination_and_its_data() -> None:
    pair = Pair()
    stream_id = pair.near.open(FarEnd(80), b"hello", OpenFlags.PREFER_IPV6)
    pair.run(SOON)
    assert pair.happened(pair.far, StreamOpened) == [StreamOpened(stream_id, FarEnd(80), OpenFlags.PREFER_IPV6)]
    assert pair.read[pair.far, stream_id] == b"hello"


def test_ids_are_even_for_the_originator_and_odd_for_the_far_end() -> None:
    near, far = make_mux(originator=True), make_mux(originator=False)
    assert [near.open(WEB) for _ in range(3)] == [0, 2, 4]
    assert [far.open(WEB) for _ in range(3)] == [1, 3, 5]


def test_the_opener_hears_what_it_is_connected_to() -> None:
    pair = Pair()
    stream_id = pair.near.open(WEB)
    pair.flush()
    pair.run(0.03, until=lambda: bool(pair.happened(pair.far, StreamOpened)))
    pair.far.accept(stream_id, Destination("198.51.100.7", 80))
    pair.run(SOON)
    assert pair.happened(pair.near, StreamAnswered) == [
        StreamAnswered(stream_id, Status.OK, Destination("198.51.100.7", 80))
    ]


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_a_refusal_says_why_and_leaves_nothing_behind(status: Status) -> None:
    near, far = make_mux(originator=True), make_mux(originator=False)
    stream_id = near.open(WEB, b"data that nobody reads")
    for content in near.payloads_to_send(0.0, ROOM):
        far.receive(content, 0.1)
    far.refuse(stream_id, status)
    now = 0.1
    for _ in range(4):
        for content in far.payloads_to_send(now, ROOM):
            near.receive(content, now)
        for content in near.payloads_to_send(now, ROOM):
            far.receive(content, now)
        now += SOON
    assert near.events() == [StreamAnswered(stream_id, status, None), StreamFinished(stream_id)]
    assert far.events()[-1] == StreamFinished(stream_id)
    assert near.streams == far.streams == 0
    assert near.held == far.held == 0


def test_what_carried_something_cannot_be_refused_any_more() -> None:
    pair = Pair()
    stream_id = opened(pair)
    with pytest.raises(LocalError):
        pair.far.refuse(stream_id, Status.LIMIT)
    with pytest.raises(LocalError):
        pair.near.accept(stream_id)


def test_nothing_is_told_of_a_stream_before_its_open_is_here() -> None:
    far = make_mux(originator=False)
    pair = Pair()
    pair.far = far
    pair.tell(far, 1, Data(0, 0, b"early", fin=True), Reset(2, Status.CANCELLED, 0), Stop(2, Status.CANCELLED))
    assert far.events() == []
    pair.tell(far, 0, Open(0, NO_FLAGS, WEB), Open(2, NO_FLAGS, WEB))
    assert far.events() == [
        StreamOpened(0, WEB, NO_FLAGS),
        DataReadable(0),
        StreamOpened(2, WEB, NO_FLAGS),
        StreamStopped(2, Status.CANCELLED),
        StreamReset(2, Status.CANCELLED),
    ]


def test_a_stream_that_was_given_up_before_it_was_answered_waits_for_its_answer() -> None:
    pair = Pair()
    pair.tell(pair.far, 0, Open(0, NO_FLAGS, WEB), Reset(0, Status.CANCELLED, 0), Stop(0, Status.CANCELLED))
    pair.far.payloads_to_send(0.0, ROOM)
    pair.tell(pair.far, 1, Ack(0.0, ((0, 0),)))
    assert StreamFinished(0) not in pair.happened(pair.far, StreamFinished)
    pair.far.accept(0)
    assert pair.happened(pair.far, StreamFinished) == [StreamFinished(0)]


def test_streams_beyond_what_was_granted_wait_and_more_are_granted_as_others_end() -> None:
    pair = Pair(delay=0.001)
    ids = [pair.near.open(WEB) for _ in range(INITIAL_STREAMS)]
    with pytest.raises(TransientError):
        pair.near.open(WEB)
    pair.run(1.0)
    for stream_id in ids:
        pair.near.finish(stream_id)
        pair.far.finish(stream_id)
    pair.run(1.0)
    assert pair.near.streams == pair.far.streams == 0
    assert pair.near.open(WEB) == 2 * INITIAL_STREAMS


# --- data ------------------------------------------------------------------------------------


def no_loss(pair: Pair) -> Callable[[Mux, int], Iterator[float]]:
    return lambda mux, number: iter([pair.delay])


FATES: dict[str, Callable[[Mux, int], Iterator[float]]] = {
    "nothing lost": lambda mux, number: iter([0.02]),
    "every seventh lost": lambda mux, number: iter([] if number % 7 == 3 else [0.02]),
    "half of all lost": lambda mux, number: iter([] if number * 7919 % 11 < 5 else [0.02]),
    "all twice": lambda mux, number: iter([0.02, 0.03]),
    "reordered": lambda mux, number: iter([0.02 + (number * 7919 % 13) / 1000]),
    "far behind": lambda mux, number: iter([0.2 if number % 10 == 0 else 0.02]),
}


@pytest.mark.parametrize("fate", FATES.values(), ids=FATES)
def test_what_is_written_is_read_both_ways_whatever_the_network_does(
    fate: Callable[[Mux, int], Iterator[float]], size: Size
) -> None:
    pair = Pair(fate)
    stream_id = pair.near.open(WEB, b"")
    pair.run(5.0)
    up, down = pattern(size(small=300_000, long=10_000_000)), pattern(size(small=200_000, long=5_000_000), start=5)
    left = {pair.near: memoryview(up), pair.far: memoryview(down)}
    while any(left.values()):
        for mux, rest in left.items():
            if rest:
                left[mux] = rest[mux.write(stream_id, rest) :]
        pair.run(0.1)
    pair.near.finish(stream_id)
    pair.far.finish(stream_id)
    pair.run(10 * MINUTE, until=lambda: pair.near.streams + pair.far.streams == 0)
    assert pair.read[pair.far, stream_id] == up
    assert pair.read[pair.near, stream_id] == down
    assert pair.near.streams == pair.far.streams == 0
    assert pair.near.held == pair.far.held == 0


def test_one_half_may_end_long_before_the_other() -> None:
    pair = Pair()
    stream_id = opened(pair, b"question")
    pair.near.finish(stream_id)
    pair.run(1.0)
    assert pair.far.ended(stream_id)
    assert not pair.near.ended(stream_id)
    send_all(pair, pair.far, stream_id, pattern(50_000))
    pair.run(1.0)
    assert pair.read[pair.near, stream_id] == pattern(50_000)
    assert pair.happened(pair.near, StreamFinished) == pair.happened(pair.far, StreamFinished)
    assert pair.near.streams == 0


def test_a_reset_ends_one_half_and_says_why() -> None:
    pair = Pair()
    stream_id = opened(pair, b"question")
    pair.near.reset(stream_id, Status.CONNECTION_RESET)
    pair.run(1.0)
    assert pair.happened(pair.far, StreamReset) == [StreamReset(stream_id, Status.CONNECTION_RESET)]
    pair.far.write(stream_id, b"still here")
    pair.run(1.0)
    assert pair.read[pair.near, stream_id] == b"still here"


def test_a_stop_resets_the_other_half_and_gives_its_credit_back() -> None:
    pair = Pair()
    pair.reads = False
    ids = [opened(pair) for _ in range(8)]
    for stream_id in ids:
        pair.far.write(stream_id, bytes(INITIAL_STREAM_CREDIT))
    pair.run(3.0)
    for stream_id in ids:
        pair.near.stop(stream_id, Status.CANCELLED)
    pair.run(3.0)
    assert len(pair.happened(pair.far, StreamStopped)) == 8
    assert pair.near.held == 0
    pair.reads = True
    last = opened(pair)
    pair.far.write(last, pattern(200_000))
    pair.run(3.0)
    assert pair.read[pair.near, last] == pattern(200_000)


def test_streams_take_turns() -> None:
    pair = Pair()
    pair.reads = False
    ids = [opened(pair) for _ in range(4)]
    for stream_id in ids:
        pair.near.write(stream_id, bytes(50_000))
    contents: list[bytes] = []
    while len(contents) < 8:
        contents += pair.near.payloads_to_send(pair.now, 8 - len(contents))
        pair.now += 0.01
    order = [frame.stream_id for frame in frames_of(contents) if isinstance(frame, Data)]
    assert order == ids * 2


def test_a_reader_that_stopped_holds_up_its_own_stream_only_and_memory_stays_bounded() -> None:
    pair = Pair()
    pair.reads = False
    stalled = opened(pair)
    other = opened(pair)
    offered = 0
    for _ in range(100):
        offered += pair.near.write(stalled, bytes(1_000_000))
        pair.run(0.05)
    assert pair.far.held == INITIAL_STREAM_CREDIT
    assert offered < 2_000_000
    pair.near.write(other, pattern(100_000))
    pair.run(2.0)
    pair.drain(pair.far, other)
    assert pair.read[pair.far, other] == pattern(100_000)


def test_a_reader_that_goes_on_lets_its_sender_go_on() -> None:
    pair = Pair()
    pair.reads = False
    stream_id = opened(pair)
    data = pattern(400_000)
    taken = pair.near.write(stream_id, data)
    pair.run(5.0)
    pair.reads = True
    pair.drain(pair.far, stream_id)
    send_all(pair, pair.near, stream_id, data[taken:])
    pair.run(MINUTE, until=lambda: pair.far.ended(stream_id))
    assert pair.read[pair.far, stream_id] == data


def test_a_write_that_took_less_is_followed_by_write_ready() -> None:
    pair = Pair()
    stream_id = opened(pair)
    assert pair.near.write(stream_id, bytes(10_000_000)) < 10_000_000
    pair.run(5.0)
    assert pair.happened(pair.near, WriteReady) == [WriteReady(stream_id)]
    assert pair.near.write(stream_id, b"more") == 4


def test_every_stream_may_write_something_however_many_there_are() -> None:
    pair = Pair()
    pair.reads = False
    ids = [opened(pair) for _ in range(8)]
    for stream_id in ids:
        for _ in range(100):
            pair.near.write(stream_id, bytes(100_000))
    late = opened(pair)
    assert pair.near.write(late, bytes(STREAM_SHARE)) == STREAM_SHARE


def test_the_credit_of_the_circuit_holds_all_streams_together() -> None:
    pair = Pair()
    pair.reads = False
    ids = [opened(pair) for _ in range(8)]
    for _ in range(200):
        for stream_id in ids:
            pair.near.write(stream_id, bytes(100_000))
        pair.run(0.05)
    assert pair.far.held == INITIAL_CREDIT


def test_the_window_grows_for_a_fast_reader_to_its_limit_and_no_further() -> None:
    limits = Limits(window=2 << 20)
    pair = Pair(limits=limits)
    stream_id = opened(pair)
    for _ in range(200):
        pair.near.write(stream_id, bytes(1_000_000))
        pair.run(0.02)
    pair.reads = False
    for _ in range(200):
        pair.near.write(stream_id, bytes(1_000_000))
        pair.run(0.02)
    assert INITIAL_CREDIT < pair.far.held <= 2 << 20


def test_a_silent_network_is_probed_and_heals() -> None:
    cut = [False]
    pair = Pair(lambda mux, number: iter([] if cut[0] else [0.02]))
    stream_id = opened(pair)
    cut[0] = True
    pair.near.write(stream_id, b"lost at first")
    pair.run(20.0)
    assert 3 <= pair.near.recovery.probe_timeouts <= 12
    cut[0] = False
    pair.run(MINUTE)
    assert pair.read[pair.far, stream_id] == b"lost at first"


def test_nothing_to_say_is_said_by_nobody() -> None:
    pair = Pair()
    opened(pair, b"hello")
    pair.run(1.0)
    before = dict(pair.sent)
    pair.run(MINUTE)
    assert pair.sent == before
    assert pair.near.next_timer() is None
    assert pair.far.next_timer() is None


def test_acks_cost_a_sixteenth_of_bulk_data(figure: Figure) -> None:
    pair = Pair(delay=0.005)
    stream_id = opened(pair)
    pair.sent = {pair.near: 0, pair.far: 0}
    send_all(pair, pair.near, stream_id, bytes(3_000_000))
    pair.run(1.0)
    share = pair.sent[pair.far] / pair.sent[pair.near]
    figure("ACKs for each packet of bulk data", share, "")
    assert share < 0.1


def test_room_is_not_exceeded() -> None:
    mux = make_mux(originator=True)
    mux.write(mux.open(WEB), bytes(100_000))
    assert mux.payloads_to_send(0.0, 0) == []
    assert len(mux.payloads_to_send(0.0, 3)) == 3


# --- names -----------------------------------------------------------------------------------


def test_names_and_addresses_are_resolved_at_the_far_end() -> None:
    pair = Pair()
    names = [pair.near.resolve("example.com"), pair.near.resolve("2001:db8::1")]
    pair.run(SOON)
    assert pair.happened(pair.far, ResolveAsked) == [
        ResolveAsked(names[0], "example.com"),
        ResolveAsked(names[1], "2001:db8::1"),
    ]
    pair.far.answer(names[1], Status.OK, 60, ("example.com",))
    pair.far.answer(names[0], Status.NO_SUCH_HOST)
    pair.run(SOON)
    assert set(pair.happened(pair.near, ResolveAnswered)) == {
        ResolveAnswered(names[1], Status.OK, 60, ("example.com",)),
        ResolveAnswered(names[0], Status.NO_SUCH_HOST, 0, ()),
    }
    with pytest.raises(LocalError):
        pair.far.answer(names[0], Status.OK)


def test_questions_survive_losses_and_are_asked_once() -> None:
    pair = Pair(lambda mux, number: iter([] if number % 3 != 2 else [0.02, 0.03]))
    asked = [pair.near.resolve("example.com") for _ in range(10)]
    pair.run(30.0)
    assert [event.query for event in pair.happened(pair.far, ResolveAsked)] == asked  # type: ignore[union-attr]
    for query in asked:
        pair.far.answer(query, Status.OK, 1, ("192.0.2.1",))
    pair.run(30.0)
    assert len(pair.happened(pair.near, ResolveAnswered)) == len(asked)


def test_questions_that_wait_are_bounded_on_both_sides() -> None:
    pair = Pair()
    for _ in range(MAX_QUERIES):
        pair.near.resolve("example.com")
    with pytest.raises(TransientError):
        pair.near.resolve("example.com")
    with pytest.raises(RemoteError):
        pair.tell(pair.far, 0, *(Resolve(query, "a.example") for query in range(MAX_QUERIES)), Resolve(64, "a.example"))


# --- hostile far ends ------------------------------------------------------------------------

HOSTILE: dict[str, list[Frame]] = {
    "an ACK of a packet that was never sent": [Ack(0.0, ((5, 5000),))],
    "a stream that was never opened": [Data(2, 0, b"x", fin=False)],
    "credit for one": [MaxStreamData(2, 1 << 30)],
    "a reset of one": [Reset(2, Status.OK, 0)],
    "a stop of one": [Stop(2, Status.OK)],
    "an answer for one": [Answered(2, Status.OK, None)],
    "an answer for one of its own": [Open(1, NO_FLAGS, WEB), Answered(1, Status.OK, None)],
    "an OPEN with an id of ours": [Open(0, NO_FLAGS, WEB)],
    "two OPENs that differ": [Open(1, NO_FLAGS, WEB), Open(1, NO_FLAGS, FarEnd(1))],
    "two answers that differ": [Answered(0, Status.OK, None), Answered(0, Status.OK, WEB)],
    "an answer taken back": [Answered(0, Status.OK, None), Answered(0, Status.REFUSED, None)],
    "a refusal of what already sent": [Data(0, 0, b"x", fin=False), Answered(0, Status.REFUSED, None)],
    "a stream beyond the limit": [Open(2 * INITIAL_STREAMS + 1, NO_FLAGS, WEB)],
    "data for one": [Data(2 * INITIAL_STREAMS + 1, 0, b"", fin=False)],
    "data beyond the stream's credit": [Data(0, INITIAL_STREAM_CREDIT, b"x", fin=False)],
    "data beyond the circuit's": [
        Data(stream_id, INITIAL_STREAM_CREDIT - 1, b"x", fin=False) for stream_id in (1, 3, 5, 7, 9)
    ],
    "two final sizes": [Data(0, 0, b"abc", fin=True), Data(0, 0, b"ab", fin=True)],
    "data beyond the end": [Data(0, 0, b"abc", fin=True), Data(0, 3, b"d", fin=False)],
    "an end before what was sent": [Data(0, 5, b"abc", fin=False), Reset(0, Status.OK, 7)],
    "data that differ": [Data(0, 0, b"abc", fin=False), Data(0, 1, b"x", fin=False)],
    "an answer to what was never asked": [Resolved(0, Status.OK, 0, ())],
    "more streams than there are ids": [MaxStreams(2**31 + 1)],
}


@pytest.mark.parametrize("frames", HOSTILE.values(), ids=HOSTILE)
def test_a_far_end_that_breaks_a_rule_is_blamed(frames: list[Frame]) -> None:
    pair = Pair()
    pair.near.open(WEB)
    pair.flush()
    for number, frame in enumerate(frames[:-1]):
        pair.tell(pair.near, number, frame)
    with pytest.raises(RemoteError) as raised:
        pair.tell(pair.near, len(frames), frames[-1])
    assert raised.value.culprit == 2


def test_a_packet_that_is_none_is_blamed_too() -> None:
    with pytest.raises(RemoteError) as raised:
        make_mux(originator=True).receive(b"\x00\x00\x00\x00\xff", 0.0)
    assert raised.value.culprit == 2


def test_an_ack_of_everything_up_to_the_newest_meets_a_number_that_was_left_out() -> None:
    pair = Pair()
    pair.reads = False
    stream_id = opened(pair)

    def acknowledge_everything() -> None:
        for number in range(10, 4000):
            pair.near.write(stream_id, bytes(100_000))
            contents = pair.near.payloads_to_send(pair.now, ROOM)
            pair.now += 0.05
            if contents:
                newest = decode_packet(contents[-1])[0]
                pair.tell(pair.near, number, Ack(0.0, ((0, newest),)), MaxData(1 << 40), MaxStreamData(0, 1 << 40))

    with pytest.raises(RemoteError, match="left out"):
        acknowledge_everything()


def test_a_repeated_packet_changes_nothing() -> None:
    pair = Pair()
    pair.tell(pair.far, 0, Open(0, NO_FLAGS, WEB), Data(0, 0, b"abc", fin=False))
    before = pair.far.events()
    pair.tell(pair.far, 0, Open(0, NO_FLAGS, FarEnd(9)), Data(0, 0, b"xyz", fin=True))
    assert before
    assert pair.far.events() == []
    assert pair.far.repeated_packets == 1
    assert pair.far.read(0, 10) == b"abc"


def test_frames_for_a_stream_that_is_over_are_ignored() -> None:
    pair = Pair()
    stream_id = opened(pair, b"x")
    pair.near.reset(stream_id)
    pair.near.stop(stream_id)
    pair.run(2.0)
    assert pair.far.streams == pair.near.streams == 0
    late: list[Frame] = [
        Open(0, NO_FLAGS, WEB),
        Data(0, 0, b"x", fin=False),
        Reset(0, Status.OK, 1),
        Stop(0, Status.OK),
    ]
    for number, frame in enumerate(late, start=1000):
        pair.tell(pair.far, number, frame)
    assert pair.far.events() == []
    assert pair.far.streams == 0


def test_gaps_are_bounded_by_dropping_packets_without_acknowledging_them() -> None:
    pair = Pair()
    pair.tell(pair.far, 0, Open(0, NO_FLAGS, WEB))
    for number in range(1, MAX_GAPS + 100):
        pair.tell(pair.far, number, Data(0, 2 * number, b"x", fin=False))
    assert pair.far.refused_packets == 99
    acks = [frame for frame in frames_of(pair.far.payloads_to_send(1.0, ROOM)) if isinstance(frame, Ack)]
    assert acks[-1].ranges[0][1] == MAX_GAPS
    pair.tell(pair.far, MAX_GAPS + 1, Data(0, 0, bytes(2) + b"x", fin=False))
    assert pair.far.read(0, 10) == bytes(2) + b"x"


def test_a_million_opens_cost_as_much_as_the_limit_allows() -> None:
    pair = Pair()

    def open_very_many() -> None:
        for number in range(1_000_000):
            pair.tell(pair.far, number, Open(2 * number, NO_FLAGS, WEB))

    with pytest.raises(RemoteError, match="granted"):
        open_very_many()
    assert pair.far.streams == INITIAL_STREAMS


def test_opens_that_are_refused_do_not_pile_up_behind_a_far_end_that_answers_nothing() -> None:
    pair = Pair()
    for number in range(INITIAL_STREAMS):
        pair.tell(pair.far, number, Open(2 * number, NO_FLAGS, WEB))
        pair.far.refuse(2 * number, Status.LIMIT)
    assert pair.far.streams == INITIAL_STREAMS
    assert len(pair.far.controls) == INITIAL_STREAMS
    with pytest.raises(RemoteError):
        pair.tell(pair.far, INITIAL_STREAMS, Open(2 * INITIAL_STREAMS, NO_FLAGS, WEB))


def test_a_flood_of_pings_is_answered_with_few_acks() -> None:
    pair = Pair()
    answers = 0
    for number in range(10_000):
        pair.now += 1e-5
        pair.tell(pair.far, number, Ping())
        answers += len(pair.far.payloads_to_send(pair.now, ROOM))
    assert answers < 10_000 / 12


def test_limits_never_go_down() -> None:
    pair = Pair()
    stream_id = pair.near.open(WEB)
    pair.tell(pair.near, 0, MaxStreamData(stream_id, 5), MaxData(5), MaxStreams(0))
    pair.near.write(stream_id, pattern(20_000))
    sent = frames_of(pair.near.payloads_to_send(0.0, ROOM))
    assert sum(len(frame.data) for frame in sent if isinstance(frame, Data)) == 20_000
    pair.near.open(WEB)


# --- our own mistakes ------------------------------------------------------------------------


def test_what_the_application_does_wrong_is_a_local_error_and_sends_nothing() -> None:
    mux = make_mux(originator=True)
    stream_id = mux.open(WEB)
    mux.payloads_to_send(0.0, ROOM)
    mistakes: list[Callable[[], object]] = [
        lambda: mux.write(4, b"x"),
        lambda: mux.read(1, 1),
        lambda: mux.finish(2),
        lambda: mux.accept(stream_id),
        lambda: mux.refuse(stream_id, Status.LIMIT),
        lambda: mux.answer(0, Status.OK),
        lambda: mux.open(WEB, bytes(STREAM_SHARE + 1)),
        lambda: mux.resolve("not a host"),
    ]
    for mistake in mistakes:
        with pytest.raises(LocalError):
            mistake()
    assert mux.payloads_to_send(0.001, ROOM) == []
    mux.finish(stream_id)
    with pytest.raises(LocalError):
        mux.write(stream_id, b"x")
