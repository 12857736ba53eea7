"""Reading what somebody else wrote."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.errors import RemoteError
from tunnels.wire.reader import Reader

NUMBERS: list[tuple[Callable[[Reader], int], int]] = [
    (Reader.u8, 1),
    (Reader.u16, 2),
    (Reader.u32, 4),
    (Reader.u48, 6),
]


@pytest.mark.parametrize(("read", "size"), NUMBERS)
def test_numbers_are_big_endian(read: Callable[[Reader], int], size: int) -> None:
    assert read(Reader(bytes(range(1, size + 1)))) == int.from_bytes(bytes(range(1, size + 1)), "big")


@pytest.mark.parametrize(("read", "size"), NUMBERS)
def test_a_number_that_is_cut_off_is_refused_and_nothing_is_read(read: Callable[[Reader], int], size: int) -> None:
    reader = Reader(bytes(size - 1))
    with pytest.raises(RemoteError):
        read(reader)
    assert reader.remaining == size - 1


@given(st.binary(max_size=64), st.lists(st.integers(-5, 70), max_size=12))
def test_pieces_follow_each_other_and_never_go_beyond_the_end(data: bytes, sizes: list[int]) -> None:
    reader, at = Reader(data), 0
    for size in sizes:
        if 0 <= size <= len(data) - at:
            assert reader.take(size) == data[at : at + size]
            at += size
        else:
            with pytest.raises(RemoteError):
                reader.take(size)
        assert reader.remaining == len(data) - at
    assert reader.rest() == data[at:]
    reader.end()


def test_what_is_left_at_the_end_is_refused() -> None:
    reader = Reader(b"abc")
    reader.take(2)
    with pytest.raises(RemoteError, match="1 bytes too many"):
        reader.end()


def test_a_piece_does_not_change_with_the_buffer_it_was_read_from() -> None:
    buffer = bytearray(b"before")
    piece = Reader(buffer).take(6)
    buffer[:] = b"behind"
    assert piece == b"before"
