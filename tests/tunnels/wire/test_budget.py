"""SPEC 2.5, as tests: what fits into a cell follows from its parts."""

import pytest

from tunnels.ids import RelayId
from tunnels.params import (
    AREA_SIZE,
    BODY_SIZE,
    CELL_SIZE,
    CREATE_SIZE,
    CREATED_SIZE,
    HEADER_SIZE,
    INDEX_SIZE,
    LAYER_SIZE,
    M1_SIZE,
    M2_SIZE,
    MAX_CONTROL_SIZE,
    MAX_DATAGRAM_SIZE,
    MAX_FRAGMENTS,
    MAX_HOPS,
    PART_SIZE,
    PASS_SIZE,
    PAYLOAD_SIZE,
    SEALED_CONTENT_SIZE,
    SEALED_TEXT_SIZE,
    TAG_SIZE,
    WHOLE_SIZE,
)
from tunnels.wire.cell import HEADER
from tunnels.wire.destination import Destination
from tunnels.wire.fragments import split
from tunnels.wire.messages import Datagram, Extend, Extended, MessageType

UDP, IPV4, IPV6 = 8, 20, 40
QUIC_MINIMUM = 1200


def payload_of(layers: int) -> int:
    return BODY_SIZE - LAYER_SIZE * layers


def test_a_cell_is_index_header_block_and_body() -> None:
    assert (INDEX_SIZE, HEADER_SIZE, BODY_SIZE) == (4, 16, 1330)
    assert INDEX_SIZE + HEADER_SIZE + BODY_SIZE == CELL_SIZE == 1350
    assert HEADER.size == HEADER_SIZE


def test_a_cell_fits_a_path_of_1400_bytes_over_either_ip() -> None:
    assert CELL_SIZE + UDP + IPV6 == 1398
    assert CELL_SIZE + UDP + IPV4 <= 1400


@pytest.mark.parametrize(("layers", "size"), [(5, 1245), (6, 1228), (7, 1211)])
def test_the_payload_of_so_many_layers(layers: int, size: int) -> None:
    assert payload_of(layers) == size


def test_every_circuit_has_the_payload_of_six_hops_and_one_layer_more() -> None:
    assert payload_of(MAX_HOPS + 1) == PAYLOAD_SIZE == 1211
    assert payload_of(MAX_HOPS) == AREA_SIZE == 1228


def test_a_1200_byte_datagram_fits_one_payload_and_would_not_with_one_layer_more() -> None:
    content = Datagram(Destination("192.0.2.1", 443), bytes(QUIC_MINIMUM)).encode()
    (head,) = split(MessageType.DATAGRAM, content, 0)
    assert len(head) == 3 + 7 + QUIC_MINIMUM == 1210
    assert payload_of(MAX_HOPS + 2) == 1194 < len(head) <= PAYLOAD_SIZE


def test_a_backward_cell_has_room_for_its_flag_tag_area_and_every_pass() -> None:
    tail = BODY_SIZE - 1 - TAG_SIZE - AREA_SIZE
    assert tail == 85
    assert PASS_SIZE * (MAX_HOPS - 1) == 35 <= tail


def test_what_neighbours_say_fits_the_seal() -> None:
    assert (SEALED_TEXT_SIZE, SEALED_CONTENT_SIZE) == (1314, 1310)
    assert (CREATE_SIZE, 4 + CREATED_SIZE) == (1306, 1205)
    assert (M1_SIZE, M2_SIZE) == (1292, 1140)
    assert max(CREATE_SIZE, 4 + CREATED_SIZE, 4 + M1_SIZE, M2_SIZE) <= SEALED_CONTENT_SIZE


def test_link_handshakes_fit_a_cell_with_both_macs() -> None:
    initiation, response = 4 + 12 + M1_SIZE + 10 + 16 + 16, 4 + 12 + M2_SIZE + 162 + 16 + 16
    assert initiation == response == CELL_SIZE


def test_an_extend_takes_two_cells_and_extended_one() -> None:
    extend = Extend(RelayId(bytes(32)), bytes(CREATE_SIZE)).encode()
    assert len(split(MessageType.EXTEND, extend, 0)) == 2
    assert len(split(MessageType.EXTENDED, Extended(bytes(CREATED_SIZE)).encode(), 0)) == 1


def test_the_largest_messages_take_55_and_4_cells() -> None:
    assert (WHOLE_SIZE, PART_SIZE) == (1208, 1204)
    assert len(split(MessageType.DATAGRAM, bytes(MAX_DATAGRAM_SIZE), 0)) == MAX_FRAGMENTS == 55
    assert len(split(MessageType.EXTEND, bytes(MAX_CONTROL_SIZE), 0)) == 4
