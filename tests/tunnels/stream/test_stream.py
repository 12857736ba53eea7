"""SPEC 13.2 to 13.4 for one half of a stream at a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnels.stream.pair import pattern
from tunnels.errors import LocalError, RemoteError
from tunnels.params import INITIAL_STREAM_CREDIT, MAX_STREAM_SIZE
from tunnels.stream.stream import Credit, ReceiveHalf, SendHalf, SendState
from tunnels.wire.stream_frames import Status

UNLIMITED = 1 << 40


def receiver() -> ReceiveHalf:
    return ReceiveHalf(INITIAL_STREAM_CREDIT, 0.0)


@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["arrives", "lost", "late"])), max_size=40))
def test_whatever_is_lost_goes_again_until_all_has_arrived(fates: list[tuple[int, str]]) -> None:
    half, data = SendHalf(), pattern(500)
    half.write(data)
    half.finish()
    got = bytearray(len(data))
    late: list[tuple[int, int, bool]] = []
    for room, fate in [*fates, *((50, "arrives") for _ in range(100))]:
        piece = half.piece(room, UNLIMITED)
        if piece is None:
            for start, end, fin in late:
                half.acked(start, end, fin)
            break
        span = (piece.start, piece.start + len(piece.data), piece.fin)
        if fate != "lost":
            got[span[0] : span[1]] = piece.data
        if fate == "arrives":
            half.acked(*span)
        else:
            half.lost(*span)  # a late one was lost to all appearance
            late += [span] if fate == "late" else []
    assert half.state is SendState.DONE
    assert half.held == 0
    assert bytes(got) == data


def test_pieces_respect_the_room_the_streams_limit_and_the_circuits_credit() -> None:
    half = SendHalf()
    half.write(bytes(INITIAL_STREAM_CREDIT + 10))
    piece = half.piece(100, 60)
    assert piece is not None
    assert len(piece.data) == 60
    assert half.piece(100, 0) is None
    while piece := half.piece(100_000, UNLIMITED):
        assert len(piece.data) <= 100_000
    assert half.sent == INITIAL_STREAM_CREDIT
    assert not half.ready()
    half.limit += 10
    assert half.ready()


def test_what_was_lost_goes_before_what_is_new_and_costs_no_credit() -> None:
    half = SendHalf()
    half.write(pattern(100))
    half.piece(40, UNLIMITED)
    half.lost(0, 40, False)
    assert half.resends()
    piece = half.piece(100, 0)
    assert piece is not None
    assert (piece.start, bytes(piece.data)) == (0, pattern(40))


def test_nothing_follows_a_fin_or_a_reset() -> None:
    for end in (SendHalf.finish, SendHalf.reset):
        half = SendHalf()
        half.write(b"abc")
        end(half)
        with pytest.raises(LocalError):
            half.write(b"d")


def test_a_reset_forgets_what_waits_and_names_what_was_sent() -> None:
    half = SendHalf()
    half.write(pattern(100))
    half.piece(30, UNLIMITED)
    assert half.reset() == 30
    assert half.held == 0
    assert not half.ready()
    half.lost(0, 30, False)
    assert not half.ready()


def test_a_long_transfer_does_not_keep_what_has_arrived() -> None:
    half = SendHalf()
    half.limit = UNLIMITED
    for _ in range(300):
        half.write(bytes(10_000))
        while piece := half.piece(1200, UNLIMITED):
            half.acked(piece.start, piece.start + len(piece.data), piece.fin)
        assert len(half._buffer) < 150_000  # noqa: SLF001 (memory is what is tested)


@given(
    st.integers(0, 300),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)), max_size=40),
    st.lists(st.integers(1, 50), max_size=5),
)
def test_pieces_in_any_order_overlapping_and_repeated_are_read_as_they_were_sent(
    size: int, cuts: list[tuple[int, int]], reads: list[int]
) -> None:
    data, half, got = pattern(size), receiver(), b""
    charged = 0
    for start, length in [*cuts, *((at, 60) for at in range(0, size + 1, 60))]:
        start = min(start, size)  # noqa: PLW2901
        piece = data[start : start + length]
        charged += half.receive(start, piece, fin=start + length >= size and start + len(piece) == size)
        if reads:
            got += half.read(reads.pop())
    while piece := half.read(17):
        got += piece
    assert got == data
    assert half.read(1) == b""
    assert half.ended
    assert half.gaps == 0
    assert charged == half.highest == size


def test_data_beyond_the_credit_is_refused() -> None:
    half = receiver()
    half.receive(INITIAL_STREAM_CREDIT - 1, b"x", fin=False)
    with pytest.raises(RemoteError, match="credit"):
        half.receive(INITIAL_STREAM_CREDIT, b"x", fin=False)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0, b"abc", True), (0, b"abcd", False)),
        ((0, b"abc", True), (0, b"ab", True)),
        ((0, b"abc", True), (5, b"", True)),
        ((5, b"abc", False), (0, b"ab", True)),
    ],
)
def test_a_final_size_is_said_once_and_holds(first: tuple[int, bytes, bool], second: tuple[int, bytes, bool]) -> None:
    half = receiver()
    half.receive(*first)
    with pytest.raises(RemoteError):
        half.receive(*second)


def test_a_reset_that_contradicts_what_came_is_refused() -> None:
    half = receiver()
    half.receive(0, b"abcdef", fin=False)
    with pytest.raises(RemoteError, match="below"):
        half.reset(Status.CANCELLED, 5)
    half.receive(6, b"", fin=True)
    with pytest.raises(RemoteError, match="two final sizes"):
        half.reset(Status.CANCELLED, 7)
    with pytest.raises(RemoteError, match="credit"):
        receiver().reset(Status.CANCELLED, INITIAL_STREAM_CREDIT + 1)


@pytest.mark.parametrize("at", [0, 2, 10, 12])
def test_data_that_differ_from_what_came_before_are_refused(at: int) -> None:
    half = receiver()
    half.receive(0, b"abcd", fin=False)
    half.receive(10, b"klmn", fin=False)
    with pytest.raises(RemoteError, match="differs"):
        half.receive(at, b"#", fin=False)
    half.receive(2, b"cdefghijklm", fin=False)
    assert half.read(100) == b"abcdefghijklmn"


def test_what_was_read_cannot_be_compared_and_does_not_come_back() -> None:
    half = receiver()
    half.receive(0, b"abcd", fin=False)
    assert half.read(3) == b"abc"
    half.receive(0, b"###d", fin=False)
    assert half.read(9) == b"d"


def test_a_reader_that_stopped_keeps_nothing_and_still_counts() -> None:
    half = receiver()
    half.receive(0, pattern(1000), fin=False)
    half.receive(2000, pattern(1000), fin=False)
    assert half.stop() == 3000
    assert half.held == half.gaps == 0
    assert half.receive(3000, pattern(500), fin=False) == 500
    assert half.held == 0
    assert not half.done
    assert half.reset(Status.CANCELLED, 4000) == (500, 500)
    assert half.done


def test_credit_comes_as_the_reader_reads_and_not_before() -> None:
    credit = Credit(1000, 1000, now=0.0)
    assert not credit.consume(499, 100.0, 0.1)
    assert credit.consume(1, 100.0, 0.1)
    assert credit.limit == 1500


def test_the_window_doubles_for_a_reader_that_holds_up_its_sender_and_for_no_other() -> None:
    fast, slow = Credit(1000, 4000, now=0.0), Credit(1000, 4000, now=0.0)
    for turn in range(1, 100):
        fast.consume(500, turn * 0.1, 0.1)
        slow.consume(500, turn * 10.0, 0.1)
    assert 2000 < fast.limit - 99 * 500 <= 4000
    assert slow.limit - 99 * 500 <= 1000


def test_a_limit_never_leaves_the_numbers_there_are() -> None:
    credit = Credit(1000, 1 << 62, now=0.0)
    for turn in range(100):
        credit.consume(credit.limit // 2, turn * 1e-3, 1.0)
        assert credit.limit <= MAX_STREAM_SIZE


def test_a_fin_alone_may_arrive_before_the_data() -> None:
    half = SendHalf()
    half.write(b"abc")
    half.piece(100, UNLIMITED)
    half.finish()
    piece = half.piece(100, UNLIMITED)
    assert piece is not None
    assert (piece.start, bytes(piece.data), piece.fin) == (3, b"", True)
    states = []
    for span in ((3, 3, True), (0, 3, False)):
        half.acked(*span)
        states.append(half.state)
    assert states == [SendState.FINISHING, SendState.DONE]
