"""Packets and frames of streams: the content of a STREAMS message (SPEC 13.1, 13.3).

    packet           number 4 | frame | frame ...              at most 1208 bytes, at least one frame

    PING             1
    ACK              2 | delay 2 | count 1 | (first 4 | last 4) ...
    OPEN             3 | id 4 | flags 1 | destination
    STATUS           4 | id 4 | status 1 | address
    STREAM           5 | id 4 | offset 8 | length 2 | data           6: its last byte is the last of the stream
    RESET            7 | id 4 | status 1 | final size 8
    STOP             8 | id 4 | status 1
    MAX_DATA         9 | limit 8
    MAX_STREAM_DATA 10 | id 4 | limit 8
    MAX_STREAMS     11 | number 4
    RESOLVE         12 | query 4 | host
    RESOLVED        13 | query 4 | status 1 | ttl 4 | count 1 | host ...

Floor 1 (wire): bytes in, values out.  Knows neither which stream exists nor what credit it has.

HOT PATH.  A frame is a NamedTuple, which takes a third of the time of a frozen dataclass; STREAM is decoded in line.

  cost    1.5 us to decode a full packet with one STREAM frame (a part of tests/tunnels/stream/test_cost.py)
  copies  the data of a STREAM frame, once
"""

from collections.abc import Callable, Mapping
from enum import IntEnum, IntFlag
from struct import Struct, error
from types import MappingProxyType
from typing import Final, NamedTuple

from tunnels.errors import LocalError, RemoteError
from tunnels.params import (
    ACK_DELAY_UNITS,
    MAX_ACK_RANGES,
    MAX_ANSWERS,
    MAX_PACKET,
    MAX_PACKET_NUMBER,
    MAX_PORT,
    MAX_RESOLVED_SIZE,
    MAX_STREAM_SIZE,
)
from tunnels.wire.destination import Destination, Kind
from tunnels.wire.reader import Reader

STREAMS: Final = 16
"""The message type whose content is a packet (SPEC 8.3)."""


class FrameType(IntEnum):
    PING = 1
    ACK = 2
    OPEN = 3
    STATUS = 4
    STREAM = 5
    STREAM_FIN = 6
    RESET = 7
    STOP = 8
    MAX_DATA = 9
    MAX_STREAM_DATA = 10
    MAX_STREAMS = 11
    RESOLVE = 12
    RESOLVED = 13


class Status(IntEnum):
    """How opening, resolving or a stream ended (SPEC 13.7).  One that is not known is read as UNSPECIFIED."""

    OK = 0
    UNSPECIFIED = 1
    NO_SUCH_HOST = 2
    REFUSED = 3
    EXIT_POLICY = 4
    NOT_AN_EXIT = 5
    CANCELLED = 6
    TIMED_OUT = 7
    UNREACHABLE = 8
    SHUTTING_DOWN = 9
    INTERNAL = 10
    LIMIT = 11
    CONNECTION_RESET = 12
    RESOLVER_FAILED = 13
    NO_SUCH_PORT = 14


class OpenFlags(IntFlag):
    """What the opener wants of a host name's addresses (SPEC 13.3).  Unknown bits are kept and mean nothing."""

    NO_IPV4 = 1
    NO_IPV6 = 2
    PREFER_IPV6 = 4


class FarEnd(NamedTuple):
    """A port of whoever is at the other end of the circuit, instead of a host (SPEC 13.3)."""

    port: int


class Ping(NamedTuple):
    """Nothing but a wish for an ACK."""


class Ack(NamedTuple):
    """What arrived: from first to last, both included, the highest first.

    Attributes:
        delay: seconds since the highest of them arrived.
    """

    delay: float
    ranges: tuple[tuple[int, int], ...]


class Open(NamedTuple):
    stream_id: int
    flags: OpenFlags
    destination: Destination | FarEnd


class Answered(NamedTuple):
    """STATUS: the answer to an OPEN; `address` is what an OK is connected to, where the far end tells."""

    stream_id: int
    status: Status
    address: Destination | None


class Data(NamedTuple):
    """STREAM."""

    stream_id: int
    offset: int
    data: bytes
    fin: bool


class Reset(NamedTuple):
    """The sender gives its half of the stream up, after `final_size` bytes."""

    stream_id: int
    status: Status
    final_size: int


class Stop(NamedTuple):
    """The sender of this does not read any more: the other end should RESET."""

    stream_id: int
    status: Status


class MaxData(NamedTuple):
    limit: int


class MaxStreamData(NamedTuple):
    stream_id: int
    limit: int


class MaxStreams(NamedTuple):
    number: int


class Resolve(NamedTuple):
    """`host` is a name, or an address whose names are asked for."""

    query: int
    host: str


class Resolved(NamedTuple):
    """`ttl` in seconds; `hosts` are addresses, or names for an address."""

    query: int
    status: Status
    ttl: int
    hosts: tuple[str, ...]


Frame = Ping | Ack | Open | Answered | Data | Reset | Stop | MaxData | MaxStreamData | MaxStreams | Resolve | Resolved

_STREAM_HEAD: Final = Struct(">BIQH")
_ACK_HEAD: Final = Struct(">BHB")
_ID_STATUS: Final = Struct(">BIB")
_RESET: Final = Struct(">BIBQ")
_LIMIT: Final = Struct(">BQ")
_STREAM_LIMIT: Final = Struct(">BIQ")
_NUMBER: Final = Struct(">BI")
_RESOLVED_HEAD: Final = Struct(">BIBIB")
_NUMBER_ONLY: Final = Struct(">I")

PACKET_HEAD_SIZE: Final = 4
"""The packet number."""

STREAM_HEAD_SIZE: Final = _STREAM_HEAD.size
"""Bytes of a STREAM frame before its data: 15."""

MAX_OPEN_SIZE: Final = 6 + 2 + 253 + 2
"""Bytes of the longest OPEN."""

_MAX_DELAY_UNITS: Final = 0xFFFF
_MAX_U32: Final = 0xFFFFFFFF
_NO_ADDRESS: Final = b"\x00"


# --- encode ----------------------------------------------------------------------------------


def stream_head(stream_id: int, offset: int, size: int, *, fin: bool) -> bytes:
    """What stands before the data of a STREAM frame.  The caller knows that everything fits."""
    return _STREAM_HEAD.pack(6 if fin else 5, stream_id, offset, size)


def packet_head(number: int) -> bytes:
    return _NUMBER_ONLY.pack(number)


def encode(frame: Frame) -> bytes:
    """The bytes of a frame.

    Raises:
        LocalError: a field does not fit.
    """
    try:
        return _ENCODERS[type(frame)](frame)
    except error as reason:
        raise LocalError(f"{type(frame).__name__}: {reason}") from None


def _encode_ack(frame: Ack) -> bytes:
    if not 1 <= len(frame.ranges) <= MAX_ACK_RANGES:
        raise LocalError(f"an ACK has 1 to {MAX_ACK_RANGES} ranges, not {len(frame.ranges)}")
    units = min(max(round(frame.delay * ACK_DELAY_UNITS), 0), _MAX_DELAY_UNITS)
    bounds = [bound for each in frame.ranges for bound in each]
    if not _descending(frame.ranges):
        raise LocalError("the ranges of an ACK descend and do not touch")
    return _ACK_HEAD.pack(FrameType.ACK, units, len(frame.ranges)) + _bounds(len(frame.ranges)).pack(*bounds)


def _encode_open(frame: Open) -> bytes:
    where = frame.destination
    if isinstance(where, FarEnd):
        if not 1 <= where.port <= MAX_PORT:
            raise LocalError(f"a port is 1 to {MAX_PORT}, not {where.port}")
        destination = b"\x00" + where.port.to_bytes(2)
    else:
        destination = where.encode()
    return _ID_STATUS.pack(FrameType.OPEN, frame.stream_id, frame.flags) + destination


def _encode_answered(frame: Answered) -> bytes:
    address = frame.address.encode() if frame.address else _NO_ADDRESS
    return _ID_STATUS.pack(FrameType.STATUS, frame.stream_id, frame.status) + address


def _encode_data(frame: Data) -> bytes:
    if frame.offset + len(frame.data) > MAX_STREAM_SIZE:
        raise LocalError(f"a stream ends at {MAX_STREAM_SIZE} bytes")
    return stream_head(frame.stream_id, frame.offset, len(frame.data), fin=frame.fin) + frame.data


def _encode_resolved(frame: Resolved) -> bytes:
    if len(frame.hosts) > MAX_ANSWERS:
        raise LocalError(f"at most {MAX_ANSWERS} answers, not {len(frame.hosts)}")
    head = _RESOLVED_HEAD.pack(FrameType.RESOLVED, frame.query, frame.status, frame.ttl, len(frame.hosts))
    encoded = head + b"".join(map(_host, frame.hosts))
    if len(encoded) > MAX_RESOLVED_SIZE:
        raise LocalError(f"at most {MAX_RESOLVED_SIZE} bytes, not {len(encoded)}")
    return encoded


def _host(host: str) -> bytes:
    return Destination(host, 1).encode()[:-2]


def _bounded(limit: int) -> int:
    if not 0 <= limit <= MAX_STREAM_SIZE:
        raise LocalError(f"at most {MAX_STREAM_SIZE} bytes, not {limit}")
    return limit


_ENCODERS: Final[Mapping[type, Callable[..., bytes]]] = MappingProxyType(
    {
        Ping: lambda _: bytes([FrameType.PING]),
        Ack: _encode_ack,
        Open: _encode_open,
        Answered: _encode_answered,
        Data: _encode_data,
        Reset: lambda f: _RESET.pack(FrameType.RESET, f.stream_id, f.status, _bounded(f.final_size)),
        Stop: lambda f: _ID_STATUS.pack(FrameType.STOP, f.stream_id, f.status),
        MaxData: lambda f: _LIMIT.pack(FrameType.MAX_DATA, _bounded(f.limit)),
        MaxStreamData: lambda f: _STREAM_LIMIT.pack(FrameType.MAX_STREAM_DATA, f.stream_id, _bounded(f.limit)),
        MaxStreams: lambda f: _NUMBER.pack(FrameType.MAX_STREAMS, f.number),
        Resolve: lambda f: _NUMBER.pack(FrameType.RESOLVE, f.query) + _host(f.host),
        Resolved: _encode_resolved,
    }
)


# --- decode ----------------------------------------------------------------------------------


def decode_packet(content: bytes) -> tuple[int, list[Frame]]:
    """Packet number and frames.

    Raises:
        RemoteError: anything else than whole frames.  Never anything else.
    """
    size = len(content)
    if not PACKET_HEAD_SIZE < size <= MAX_PACKET:
        raise RemoteError(f"a packet of {size} bytes")
    frames: list[Frame] = []
    at = PACKET_HEAD_SIZE
    while at < size:
        kind = content[at]
        if kind == 5 or kind == 6:  # noqa: PLR1714 (STREAM: the literals cost a third of a look-up)
            start = at + STREAM_HEAD_SIZE
            if start > size:
                raise RemoteError("a STREAM frame that ends in its head")
            _, stream_id, offset, length = _STREAM_HEAD.unpack_from(content, at)
            at = start + length
            if at > size:
                raise RemoteError("a STREAM frame that is longer than its packet")
            if offset + length > MAX_STREAM_SIZE:
                raise RemoteError("a stream that is too long")
            frames.append(Data(stream_id, offset, content[start:at], kind == FrameType.STREAM_FIN))
            continue
        reader = Reader(memoryview(content)[at + 1 :])
        try:
            decoder = _DECODERS[kind]
        except KeyError:
            raise RemoteError(f"unknown frame {kind}") from None
        frames.append(decoder(reader))
        at = size - reader.remaining
    return _NUMBER_ONLY.unpack_from(content)[0], frames


def _decode_ack(reader: Reader) -> Ack:
    delay, count = reader.u16() / ACK_DELAY_UNITS, reader.u8()
    if not 1 <= count <= MAX_ACK_RANGES:
        raise RemoteError(f"an ACK with {count} ranges")
    bounds = _bounds(count).unpack(reader.take(8 * count))
    ranges = tuple(zip(bounds[::2], bounds[1::2], strict=True))
    if not _descending(ranges):
        raise RemoteError("the ranges of an ACK descend and do not touch")
    return Ack(delay, ranges)


def _decode_open(reader: Reader) -> Open:
    stream_id, flags = reader.u32(), OpenFlags(reader.u8())
    if reader.peek() == 0:
        reader.u8()
        port = reader.u16()
        if not port:
            raise RemoteError("port 0")
        return Open(stream_id, flags, FarEnd(port))
    return Open(stream_id, flags, Destination.read(reader))


def _decode_answered(reader: Reader) -> Answered:
    stream_id, status = reader.u32(), _status(reader)
    if reader.peek() == 0:
        reader.u8()
        return Answered(stream_id, status, None)
    return Answered(stream_id, status, Destination.read(reader))


def _decode_resolved(reader: Reader) -> Resolved:
    before = reader.remaining
    query, status, ttl, count = reader.u32(), _status(reader), reader.u32(), reader.u8()
    if count > MAX_ANSWERS:
        raise RemoteError(f"{count} answers")
    hosts = tuple(_read_host(reader) for _ in range(count))
    if 1 + before - reader.remaining > MAX_RESOLVED_SIZE:
        raise RemoteError(f"a RESOLVED of more than {MAX_RESOLVED_SIZE} bytes")
    return Resolved(query, status, ttl, hosts)


def _read_host(reader: Reader) -> str:
    match reader.u8():
        case Kind.IPV4:
            head = bytes([Kind.IPV4]) + reader.take(4)
        case Kind.IPV6:
            head = bytes([Kind.IPV6]) + reader.take(16)
        case Kind.NAME:
            length = reader.u8()
            head = bytes([Kind.NAME, length]) + reader.take(length)
        case other:
            raise RemoteError(f"unknown kind {other} of host")
    return Destination.decode(head + b"\x00\x01").host


def _status(reader: Reader) -> Status:
    number = reader.u8()
    return _STATUS.get(number, Status.UNSPECIFIED)


def _limit(reader: Reader) -> int:
    limit = int.from_bytes(reader.take(8))
    if limit > MAX_STREAM_SIZE:
        raise RemoteError("a stream that is too long")
    return limit


_STATUS: Final[Mapping[int, Status]] = {status.value: status for status in Status}

_DECODERS: Final[Mapping[int, Callable[[Reader], Frame]]] = MappingProxyType(
    {
        FrameType.PING: lambda _: Ping(),
        FrameType.ACK: _decode_ack,
        FrameType.OPEN: _decode_open,
        FrameType.STATUS: _decode_answered,
        FrameType.RESET: lambda r: Reset(r.u32(), _status(r), _limit(r)),
        FrameType.STOP: lambda r: Stop(r.u32(), _status(r)),
        FrameType.MAX_DATA: lambda r: MaxData(_limit(r)),
        FrameType.MAX_STREAM_DATA: lambda r: MaxStreamData(r.u32(), _limit(r)),
        FrameType.MAX_STREAMS: lambda r: MaxStreams(r.u32()),
        FrameType.RESOLVE: lambda r: Resolve(r.u32(), _read_host(r)),
        FrameType.RESOLVED: _decode_resolved,
    }
)


def _descending(ranges: tuple[tuple[int, int], ...]) -> bool:
    above = MAX_PACKET_NUMBER + 2
    for first, last in ranges:
        if not 0 <= first <= last < above - 1:
            return False
        above = first
    return True


_BOUNDS: Final = tuple(Struct(f">{2 * count}I") for count in range(MAX_ACK_RANGES + 1))


def _bounds(count: int) -> Struct:
    return _BOUNDS[count]
