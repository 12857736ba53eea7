"""What is said inside a circuit, between its originator and one of its hops (SPEC 8.3).

Floor 1 (wire): bytes in, values out.  Knows neither cells nor fragments: content goes in and comes out whole.

A message type is a number from 1 to 127.  Other packages add theirs with a table of their own, built with `table` from
these classes and theirs: nothing is registered anywhere.  There is one table for each direction, so that a message out
of place is refused like an unknown one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import ClassVar, Final, Protocol, Self

from tunnels.errors import LocalError, RemoteError
from tunnels.ids import RelayId
from tunnels.params import CREATE_SIZE, CREATED_SIZE, MAX_DATAGRAM_SIZE, PING_TOKEN_SIZE, RELAY_ID_SIZE
from tunnels.wire.destination import Destination
from tunnels.wire.reader import Reader


class MessageType(IntEnum):
    EXTEND = 1
    EXTENDED = 2
    TRUNCATE = 3
    TRUNCATED = 4
    PING = 5
    PONG = 6
    DATAGRAM = 7
    REJECTED = 8
    DROP = 9


MAX_TYPE: Final = 0x7F
"""Bit 7 of the type byte marks a fragment (SPEC 8.1)."""


class Message(Protocol):
    """What a class must have to stand in a table."""

    TYPE: ClassVar[int]

    def encode(self) -> bytes:
        """The content; LocalError when a field does not fit."""

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """The message; RemoteError, and nothing else, when `content` is none."""


def table(*classes: type[Message]) -> Mapping[int, type[Message]]:
    """Message type -> class.

    Raises:
        LocalError: two classes want one type, or a type is not 1 to 127.
    """
    result: dict[int, type[Message]] = {}
    for each in classes:
        if not 1 <= each.TYPE <= MAX_TYPE or each.TYPE in result:
            raise LocalError(f"{each.__name__} cannot have the type {each.TYPE}")
        result[each.TYPE] = each
    return MappingProxyType(result)


class RejectReason(IntEnum):
    """Why an exit did not send a datagram (SPEC 8.5)."""

    EXIT_POLICY = 1
    NO_SUCH_HOST = 2
    NOT_AN_EXIT = 3
    LIMIT = 4


@dataclass(frozen=True, slots=True)
class Extend:
    """Continue the circuit to `relay_id` with this CREATE handshake (SPEC 7.2)."""

    TYPE: ClassVar[int] = MessageType.EXTEND

    relay_id: RelayId
    handshake: bytes = field(repr=False)

    def encode(self) -> bytes:
        return _exactly(RELAY_ID_SIZE, self.relay_id) + _exactly(CREATE_SIZE, self.handshake)

    @classmethod
    def decode(cls, content: bytes) -> Self:
        reader = Reader(content)
        message = cls(RelayId(reader.take(RELAY_ID_SIZE)), reader.take(CREATE_SIZE))
        reader.end()
        return message


@dataclass(frozen=True, slots=True)
class Extended:
    """The handshake of the next relay's CREATED, unchanged (SPEC 7.2)."""

    TYPE: ClassVar[int] = MessageType.EXTENDED

    handshake: bytes = field(repr=False)

    def encode(self) -> bytes:
        return _exactly(CREATED_SIZE, self.handshake)

    @classmethod
    def decode(cls, content: bytes) -> Self:
        return cls(_all(CREATED_SIZE, content))


@dataclass(frozen=True, slots=True)
class Truncate:
    """Forget what is behind you (SPEC 7.5)."""

    TYPE: ClassVar[int] = MessageType.TRUNCATE

    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls, content: bytes) -> Self:
        _all(0, content)
        return cls()


@dataclass(frozen=True, slots=True)
class Truncated:
    """What was behind me is gone.  Carries no reason (SPEC 7.5)."""

    TYPE: ClassVar[int] = MessageType.TRUNCATED

    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls, content: bytes) -> Self:
        _all(0, content)
        return cls()


@dataclass(frozen=True, slots=True)
class Ping:
    TYPE: ClassVar[int] = MessageType.PING

    token: bytes = field(repr=False)

    def encode(self) -> bytes:
        return _exactly(PING_TOKEN_SIZE, self.token)

    @classmethod
    def decode(cls, content: bytes) -> Self:
        return cls(_all(PING_TOKEN_SIZE, content))


@dataclass(frozen=True, slots=True)
class Pong:
    """Repeats the token of a PING (SPEC 7.6)."""

    TYPE: ClassVar[int] = MessageType.PONG

    token: bytes = field(repr=False)

    def encode(self) -> bytes:
        return _exactly(PING_TOKEN_SIZE, self.token)

    @classmethod
    def decode(cls, content: bytes) -> Self:
        return cls(_all(PING_TOKEN_SIZE, content))


@dataclass(frozen=True, slots=True)
class Datagram:
    """Forward: `destination` is where to; backward: where from (SPEC 8.5).  `data` may be empty, as in UDP."""

    TYPE: ClassVar[int] = MessageType.DATAGRAM

    destination: Destination
    data: bytes = field(repr=False)

    def encode(self) -> bytes:
        content = self.destination.encode() + self.data
        if len(content) > MAX_DATAGRAM_SIZE:
            raise LocalError(f"at most {MAX_DATAGRAM_SIZE} bytes with the destination, not {len(content)}")
        return content

    @classmethod
    def decode(cls, content: bytes) -> Self:
        reader = Reader(content)
        return cls(Destination.read(reader), reader.rest())


@dataclass(frozen=True, slots=True)
class Rejected:
    """The exit did not send to `destination`."""

    TYPE: ClassVar[int] = MessageType.REJECTED

    reason: RejectReason
    destination: Destination

    def encode(self) -> bytes:
        return bytes([self.reason]) + self.destination.encode()

    @classmethod
    def decode(cls, content: bytes) -> Self:
        reader = Reader(content)
        number = reader.u8()
        try:
            reason = RejectReason(number)
        except ValueError:
            raise RemoteError(f"unknown reason {number}") from None
        message = cls(reason, Destination.read(reader))
        reader.end()
        return message


@dataclass(frozen=True, slots=True)
class DropMessage:
    """Cover traffic.  Says nothing: whatever came as content is forgotten, and none is sent."""

    TYPE: ClassVar[int] = MessageType.DROP

    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls, content: bytes) -> Self:
        return cls()


FORWARD: Final[Mapping[int, type[Message]]] = table(Extend, Truncate, Ping, Datagram, DropMessage)
"""What a hop takes from the originator."""

BACKWARD: Final[Mapping[int, type[Message]]] = table(Extended, Truncated, Pong, Datagram, Rejected, DropMessage)
"""What the originator takes from a hop."""


def decode(message_type: int, content: bytes, messages: Mapping[int, type[Message]]) -> Message:
    """The message with this type and content.

    Args:
        messages: FORWARD or BACKWARD, or what another package has made of one with `table`.

    Raises:
        RemoteError: the type is not in the table, or the content is malformed.  Never anything else.
    """
    try:
        message = messages[message_type]
    except KeyError:
        raise RemoteError(f"no message of type {message_type} belongs here") from None
    return message.decode(content)


def _exactly(size: int, data: bytes) -> bytes:
    if len(data) != size:
        raise LocalError(f"{size} bytes expected, not {len(data)}")
    return data


def _all(size: int, content: bytes) -> bytes:
    if len(content) != size:
        raise RemoteError(f"{size} bytes of content expected, not {len(content)}")
    return content
