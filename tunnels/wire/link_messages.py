"""What neighbours say to each other under the seal of their link (SPEC 4.6).

    sealed text, 1314 bytes
    +--------------+---------------------------------------------+----------------+
    | circuit id 4 | content, as the command says                | random         |
    +--------------+---------------------------------------------+----------------+

Floor 1 (wire): bytes in, values out.  `encode` leaves out the random bytes behind the content: whoever seals has the
dice.  `decode` wants the whole text and ignores them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import ClassVar, Final, Self

from tunnels.errors import LocalError, RemoteError
from tunnels.ids import CircuitId, Index
from tunnels.params import CREATE_SIZE, CREATED_SIZE, M1_SIZE, M2_SIZE, PATH_TOKEN_SIZE, SEALED_TEXT_SIZE
from tunnels.wire.cell import MIN_INDEX, Command
from tunnels.wire.reader import Reader

_NO_CIRCUIT: Final = bytes(4)


class Answer(IntEnum):
    """Whether PADDING asks for a PADDING in return."""

    NOT_WANTED = 0
    WANTED = 1


@dataclass(frozen=True, slots=True)
class Create:
    """`circuit_id` is the sender's, for backward cells."""

    COMMAND: ClassVar = Command.CREATE

    circuit_id: CircuitId
    handshake: bytes = field(repr=False)

    def encode(self) -> bytes:
        return _circuit_bytes(self.circuit_id) + _exactly(CREATE_SIZE, self.handshake)

    @classmethod
    def decode(cls, reader: Reader) -> Self:
        return cls(_circuit_id(reader), reader.take(CREATE_SIZE))


@dataclass(frozen=True, slots=True)
class Created:
    """`circuit_id` is the receiver's, for backward cells; `forward_id` the sender's, for forward cells."""

    COMMAND: ClassVar = Command.CREATED

    circuit_id: CircuitId
    forward_id: CircuitId
    handshake: bytes = field(repr=False)

    def encode(self) -> bytes:
        ids = _circuit_bytes(self.circuit_id) + _circuit_bytes(self.forward_id)
        return ids + _exactly(CREATED_SIZE, self.handshake)

    @classmethod
    def decode(cls, reader: Reader) -> Self:
        return cls(_circuit_id(reader), _circuit_id(reader), reader.take(CREATED_SIZE))


@dataclass(frozen=True, slots=True)
class Destroy:
    """`circuit_id` is the receiver's, None when not yet known; `sender_id` the sender's, None when it never chose one.

    One of them is there: a relay that refuses CREATE knows only the receiver's, an originator that gave CREATE up only
    its own.
    """

    COMMAND: ClassVar = Command.DESTROY

    circuit_id: CircuitId | None
    sender_id: CircuitId | None

    def encode(self) -> bytes:
        if self.circuit_id is None and self.sender_id is None:
            raise LocalError("DESTROY has to name a circuit")
        return b"".join(
            _NO_CIRCUIT if known is None else _circuit_bytes(known) for known in (self.circuit_id, self.sender_id)
        )

    @classmethod
    def decode(cls, reader: Reader) -> Self:
        circuit_id, sender_id = reader.u32(), reader.u32()
        if circuit_id == sender_id == 0:
            raise RemoteError("DESTROY names no circuit")
        return cls(CircuitId(circuit_id) if circuit_id else None, CircuitId(sender_id) if sender_id else None)


@dataclass(frozen=True, slots=True)
class Padding:
    COMMAND: ClassVar = Command.PADDING

    answer: Answer

    def encode(self) -> bytes:
        return _NO_CIRCUIT + bytes([self.answer])

    @classmethod
    def decode(cls, reader: Reader) -> Self:
        _no_circuit(reader)
        answer = reader.u8()
        if answer > Answer.WANTED:
            raise RemoteError(f"unknown answer {answer}")
        return cls(Answer(answer))


@dataclass(frozen=True, slots=True)
class Rekey:
    """`index` is the sender's receiver index for the new session; `m1` is not masked (SPEC 4.5)."""

    COMMAND: ClassVar = Command.REKEY

    index: Index
    m1: bytes = field(repr=False)

    def encode(self) -> bytes:
        if not MIN_INDEX <= self.index < 1 << 32:
            raise LocalError("a receiver index has four bytes and does not begin with zero")
        return _NO_CIRCUIT + self.index.to_bytes(4) + _exactly(M1_SIZE, self.m1)

    @classmethod
    def decode(cls, reader: Reader) -> Self:
        _no_circuit(reader)
        index = reader.u32()
        if index < MIN_INDEX:
            raise RemoteError("receiver index begins with zero")
        return cls(Index(index), reader.take(M1_SIZE))


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """`m2` is not masked (SPEC 4.5); the responder's receiver index is inside it, encrypted."""

    COMMAND: ClassVar = Command.REKEYED

    m2: bytes = field(repr=False)

    def encode(self) -> bytes:
        return _NO_CIRCUIT + _exactly(M2_SIZE, self.m2)

    @classmethod
    def decode(cls, reader: Reader) -> Self:
        _no_circuit(reader)
        return cls(reader.take(M2_SIZE))


@dataclass(frozen=True, slots=True)
class PathChallenge:
    """Whoever repeats `token` from an address receives there (SPEC 4.7)."""

    COMMAND: ClassVar = Command.PATH_CHALLENGE

    token: bytes = field(repr=False)

    def encode(self) -> bytes:
        return _NO_CIRCUIT + _exactly(PATH_TOKEN_SIZE, self.token)

    @classmethod
    def decode(cls, reader: Reader) -> Self:
        _no_circuit(reader)
        return cls(reader.take(PATH_TOKEN_SIZE))


@dataclass(frozen=True, slots=True)
class PathResponse:
    COMMAND: ClassVar = Command.PATH_RESPONSE

    token: bytes = field(repr=False)

    def encode(self) -> bytes:
        return _NO_CIRCUIT + _exactly(PATH_TOKEN_SIZE, self.token)

    @classmethod
    def decode(cls, reader: Reader) -> Self:
        _no_circuit(reader)
        return cls(reader.take(PATH_TOKEN_SIZE))


LinkMessage = Create | Created | Destroy | Padding | Rekey | Rekeyed | PathChallenge | PathResponse

_CLASSES: Final[tuple[type[LinkMessage], ...]] = (
    Create, Created, Destroy, Padding, Rekey, Rekeyed, PathChallenge, PathResponse,
)  # fmt: skip

LINK_MESSAGES: Final[Mapping[int, type[LinkMessage]]] = MappingProxyType({each.COMMAND: each for each in _CLASSES})
"""Command -> class, for every command that is not layered."""


def decode(command: int, text: bytes | bytearray | memoryview) -> LinkMessage:
    """The message in an opened seal.

    Args:
        text: all SEALED_TEXT_SIZE bytes, with what stands behind the content.

    Raises:
        RemoteError: wrong size, a command that is not sealed, a circuit id of 0 or other than 0 where SPEC 4.6 has it
            the other way, a field out of range.  Never anything else.
    """
    if len(text) != SEALED_TEXT_SIZE:
        raise RemoteError(f"a sealed text is {SEALED_TEXT_SIZE} bytes, not {len(text)}")
    try:
        message = LINK_MESSAGES[command]
    except KeyError:
        raise RemoteError(f"command {command} is not sealed") from None
    return message.decode(Reader(text))


def _exactly(size: int, data: bytes) -> bytes:
    if len(data) != size:
        raise LocalError(f"{size} bytes expected, not {len(data)}")
    return data


def _circuit_bytes(circuit_id: CircuitId) -> bytes:
    if not 0 < circuit_id < 1 << 32:
        raise LocalError("a circuit id has 32 bits and is never 0")
    return circuit_id.to_bytes(4)


def _circuit_id(reader: Reader) -> CircuitId:
    if circuit_id := reader.u32():
        return CircuitId(circuit_id)
    raise RemoteError("circuit id 0")


def _no_circuit(reader: Reader) -> None:
    if reader.u32():
        raise RemoteError("a circuit id where there is no circuit")
