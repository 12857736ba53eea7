"""SPEC 1, as tests: what one read brought is cut before it is judged."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from tunnels.endpoint.split import Kind, all_cells, split
from tunnels.params import CELL_SIZE

segments = st.sampled_from([CELL_SIZE, CELL_SIZE, CELL_SIZE, CELL_SIZE // 2, CELL_SIZE + 1, 2 * CELL_SIZE, 1, 22])
lasts = st.sampled_from([2 * CELL_SIZE, 2 * CELL_SIZE, CELL_SIZE - 1, CELL_SIZE // 2, 22, 1])
heads = st.lists(st.sampled_from([0, 0, 1, 200, 255]), min_size=1, max_size=20)


def datagrams(heads: list[int], segment: int, last: int) -> list[bytes]:
    """Datagrams as UDP_GRO joins them: of one size, the last perhaps shorter.  Heads are drawn, the rest tells."""
    sizes = [segment] * (len(heads) - 1) + [min(segment, last)]
    return [
        bytes([head]) + bytes([9 + i]) * (size - 1) for i, (head, size) in enumerate(zip(heads, sizes, strict=True))
    ]


def kind_of(datagram: bytes) -> Kind:
    if datagram[0] == 0:
        return Kind.MESSAGE
    return Kind.CELLS if len(datagram) == CELL_SIZE else Kind.GARBAGE


@given(heads, segments, lasts, st.integers(0, 70))
def test_every_datagram_of_a_train_is_handed_out_once_in_order_and_as_what_it_is(
    heads: list[int], segment: int, last: int, start: int
) -> None:
    sent = datagrams(heads, segment, last)
    joined = b"".join(sent)
    buffer = bytearray(b"\x07" * start + joined + b"\x07" * CELL_SIZE)
    got: list[tuple[Kind, bytes]] = []
    for kind, at, end in split(buffer, start, len(joined), segment):
        step = CELL_SIZE if kind is Kind.CELLS else end - at
        got += [(kind, bytes(buffer[i : i + step])) for i in range(at, end, step)]
    assert got == [(kind_of(datagram), datagram) for datagram in sent]


@given(heads, segments, lasts, st.integers(0, 70))
@example([1, 1], CELL_SIZE // 2, CELL_SIZE // 2, 0)
@example([1, 1, 1], CELL_SIZE, CELL_SIZE, 0)
@example([1, 0, 1], CELL_SIZE, CELL_SIZE, 0)
@example([0], CELL_SIZE, CELL_SIZE, 0)
@example([1], 2 * CELL_SIZE, 2 * CELL_SIZE, 0)
def test_the_short_cut_is_taken_exactly_for_trains_of_nothing_but_cells(
    heads: list[int], segment: int, last: int, start: int
) -> None:
    sent = datagrams(heads, segment, last)
    if len(sent) == 1:
        segment = len(sent[0])  # a lone datagram comes without a segment size
    buffer = bytearray(b"\0" * start + b"".join(sent) + b"\0" * CELL_SIZE)
    expected = {kind_of(datagram) for datagram in sent} == {Kind.CELLS}
    assert all_cells(buffer, start, len(b"".join(sent)), segment) is expected


@given(heads)
def test_neighbouring_cells_are_one_range(heads: list[int]) -> None:
    buffer = bytearray(b"".join(datagrams(heads, CELL_SIZE, CELL_SIZE)))
    kinds = [kind for kind, _, _ in split(buffer, 0, len(buffer), CELL_SIZE)]
    assert (Kind.CELLS, Kind.CELLS) not in set(pairwise(kinds))


def test_an_empty_datagram_is_garbage_and_no_train_of_zero_cells() -> None:
    assert list(split(bytearray(9), 3, 0, 0)) == [(Kind.GARBAGE, 3, 3)]
    assert not all_cells(bytearray(9), 3, 0, 0)
    assert not all_cells(bytearray(9), 3, 0, CELL_SIZE)
