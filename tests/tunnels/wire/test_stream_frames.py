"""SPEC 13.1 and 13.3, as tests."""

import contextlib
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vectors import make_streams
from tunnels.errors import LocalError, RemoteError
from tunnels.params import MAX_ACK_RANGES, MAX_ANSWERS, MAX_PACKET, MAX_STREAM_SIZE
from tunnels.wire.destination import Destination
from tunnels.wire.fragments import split
from tunnels.wire.stream_frames import (
    MAX_OPEN_SIZE,
    STREAM_HEAD_SIZE,
    STREAMS,
    Ack,
    Answered,
    Data,
    FarEnd,
    Frame,
    FrameType,
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
    encode,
    packet_head,
)

VECTORS = make_streams.load()


def built(vector: make_streams.FrameVector) -> Frame:
    """The frame a vector describes."""
    fields = cast("dict[str, Any]", vector["fields"])
    where = Destination(fields["host"], fields["port"]) if fields.get("host") and "port" in fields else None
    match FrameType(vector["number"]):
        case FrameType.PING:
            return Ping()
        case FrameType.ACK:
            return Ack(fields["delay"], tuple((first, last) for first, last in fields["ranges"]))
        case FrameType.OPEN:
            return Open(fields["stream_id"], OpenFlags(fields["flags"]), where or FarEnd(fields["port"]))
        case FrameType.STATUS:
            return Answered(fields["stream_id"], Status(fields["status"]), where)
        case FrameType.STREAM | FrameType.STREAM_FIN:
            return Data(fields["stream_id"], fields["offset"], bytes.fromhex(fields["data"]), fields["fin"])
        case FrameType.RESET:
            return Reset(fields["stream_id"], Status(fields["status"]), fields["final_size"])
        case FrameType.STOP:
            return Stop(fields["stream_id"], Status(fields["status"]))
        case FrameType.MAX_DATA:
            return MaxData(fields["limit"])
        case FrameType.MAX_STREAM_DATA:
            return MaxStreamData(fields["stream_id"], fields["limit"])
        case FrameType.MAX_STREAMS:
            return MaxStreams(fields["number"])
        case FrameType.RESOLVE:
            return Resolve(fields["query"], fields["host"])
        case FrameType.RESOLVED:
            return Resolved(fields["query"], Status(fields["status"]), fields["ttl"], tuple(fields["hosts"]))


def decoded(hexadecimal: str) -> Frame:
    (frame,) = decode_packet(packet_head(0) + bytes.fromhex(hexadecimal))[1]
    return frame


def test_the_file_is_what_the_generator_makes() -> None:
    assert make_streams.PATH.read_text() == make_streams.text()


def test_every_frame_type_has_a_vector_under_its_name() -> None:
    assert {(each["name"], each["number"]) for each in VECTORS["frames"]} == {(t.name, t.value) for t in FrameType}


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda vector: vector["name"])
def test_a_frame_decodes_to_its_fields_and_encodes_to_its_bytes(vector: make_streams.FrameVector) -> None:
    frame = decoded(vector["hex"])
    assert frame == built(vector)
    assert type(frame) is type(built(vector))
    assert encode(frame).hex() == vector["hex"]


@pytest.mark.parametrize("vector", VECTORS["packets"], ids=lambda vector: str(vector["number"]))
def test_a_packet_is_its_number_and_its_frames(vector: make_streams.PacketVector) -> None:
    content = bytes.fromhex(vector["hex"])
    assert decode_packet(content) == (
        vector["number"],
        [decoded(VECTORS["frames"][index]["hex"]) for index in vector["frames"]],
    )
    assert packet_head(vector["number"]) == content[:4]


def test_a_full_packet_is_one_payload() -> None:
    largest = packet_head(0) + encode(Data(0, 0, bytes(MAX_PACKET - 4 - STREAM_HEAD_SIZE), fin=False))
    assert len(largest) == MAX_PACKET
    assert len(split(STREAMS, largest, 0)) == 1


def test_the_longest_open_leaves_room_for_data() -> None:
    host = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    assert len(encode(Open(0, OpenFlags(0), Destination(host, 1)))) == MAX_OPEN_SIZE


MALFORMED = {
    "nothing": "",
    "no frame": "00000000",
    "no whole number": "000000",
    "unknown frame": "00000000 00",
    "a frame cut off": "00000000 09 0000",
    "a STREAM cut off in its head": "00000000 05 000000",
    "a STREAM longer than its packet": "00000000 05 00000000 0000000000000000 0002 ff",
    "a STREAM behind the end of streams": "00000000 05 00000000 3fffffffffffffff 0001 ff",
    "a final size behind it": "00000000 07 00000000 00 4000000000000000",
    "a limit behind it": "00000000 09 4000000000000000",
    "an ACK without ranges": "00000000 02 0000 00",
    "an ACK with too many": "00000000 02 0000 21" + "".join(f"{n:08x}{n:08x}" for n in range(99, 33, -2)),
    "ranges that touch": "00000000 02 0000 02 00000005 00000006 00000003 00000004",
    "ranges that ascend": "00000000 02 0000 02 00000000 00000001 00000003 00000004",
    "a range backwards": "00000000 02 0000 01 00000004 00000003",
    "port 0 of the far end": "00000000 03 00000000 00 00 0000",
    "port 0 of a host": "00000000 03 00000000 00 04 c0000201 0000",
    "too many answers": "00000000 0d 00000000 00 00000000 11" + "04c0000201" * 17,
    "an unknown kind of host": "00000000 0c 00000000 07 00",
    "an address as a name": "00000000 0c 00000000 01 09" + b"127.0.0.1".hex(),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_made_of_whole_frames_is_a_remote_error(content: str) -> None:
    with pytest.raises(RemoteError):
        decode_packet(bytes.fromhex(content))


def test_a_packet_that_is_too_long_is_a_remote_error() -> None:
    with pytest.raises(RemoteError):
        decode_packet(packet_head(0) + encode(Ping()) * MAX_PACKET)


def test_a_status_that_is_not_known_is_unspecified() -> None:
    assert decoded("08 00000000 ff") == Stop(0, Status.UNSPECIFIED)


def test_an_open_says_nothing_of_its_host_in_its_repr() -> None:
    assert "example" not in repr(Open(0, OpenFlags(0), Destination("secret.example", 80)))


UNFIT: dict[str, Frame] = {
    "no ranges": Ack(0.0, ()),
    "too many ranges": Ack(0.0, tuple((n, n) for n in range(2 * MAX_ACK_RANGES, -1, -2))),
    "ranges that touch": Ack(0.0, ((2, 3), (0, 1))),
    "an id of 33 bits": Stop(2**32, Status.OK),
    "a port of 17 bits": Open(0, OpenFlags(0), FarEnd(2**16)),
    "a limit too high": MaxData(MAX_STREAM_SIZE + 1),
    "data too far": Data(0, MAX_STREAM_SIZE, b"x", fin=False),
    "too many answers": Resolved(0, Status.OK, 0, ("192.0.2.1",) * (MAX_ANSWERS + 1)),
    "answers too long": Resolved(0, Status.OK, 0, (".".join(["a" * 63] * 3),) * MAX_ANSWERS),
    "a host that is none": Resolve(0, "not a host"),
}


@pytest.mark.parametrize("frame", UNFIT.values(), ids=UNFIT)
def test_a_field_that_does_not_fit_is_our_own_fault(frame: Frame) -> None:
    with pytest.raises(LocalError):
        encode(frame)


@given(st.binary(max_size=80), st.sampled_from(VECTORS["frames"]), st.integers(0, 60), st.integers(0, 255))
def test_garbage_is_frames_that_encode_to_it_or_a_remote_error(
    garbage: bytes, vector: make_streams.FrameVector, at: int, value: int
) -> None:
    begins_well = bytearray(bytes.fromhex(vector["hex"]))
    if at < len(begins_well):
        begins_well[at] = value
    for content in (garbage, packet_head(1) + begins_well, packet_head(1) + begins_well + garbage[:8]):
        with contextlib.suppress(RemoteError):
            number, frames = decode_packet(bytes(content))
            assert len(packet_head(number) + b"".join(map(encode, frames))) == len(content)
