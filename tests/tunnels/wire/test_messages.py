"""SPEC 8.3, as tests."""

from dataclasses import dataclass
from typing import ClassVar, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnels.wire.test_destination import destinations
from tests.vectors import make_wire
from tunnels.errors import LocalError, RemoteError
from tunnels.ids import RelayId
from tunnels.params import CREATE_SIZE, CREATED_SIZE, MAX_CONTROL_SIZE, MAX_DATAGRAM_SIZE
from tunnels.wire.destination import Destination
from tunnels.wire.messages import (
    BACKWARD,
    FORWARD,
    Datagram,
    DropMessage,
    Extend,
    Extended,
    Message,
    MessageType,
    Ping,
    Pong,
    Rejected,
    RejectReason,
    Truncate,
    Truncated,
    decode,
    table,
)

TYPES = {  # the table of SPEC 8.3: value, forward, backward
    "EXTEND": (1, True, False),
    "EXTENDED": (2, False, True),
    "TRUNCATE": (3, True, False),
    "TRUNCATED": (4, False, True),
    "PING": (5, True, False),
    "PONG": (6, False, True),
    "DATAGRAM": (7, True, True),
    "REJECTED": (8, False, True),
    "DROP": (9, True, True),
}
EVERY = {**FORWARD, **BACKWARD}
HERE = Destination("192.0.2.1", 53)


def sized(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


control: st.SearchStrategy[Message] = st.one_of(
    st.builds(Extend, sized(32).map(RelayId), sized(CREATE_SIZE)),
    st.builds(Extended, sized(CREATED_SIZE)),
    st.just(Truncate()),
    st.just(Truncated()),
    st.builds(Ping, sized(8)),
    st.builds(Pong, sized(8)),
    st.builds(Rejected, st.sampled_from(RejectReason), destinations),
    st.just(DropMessage()),
)
datagrams: st.SearchStrategy[Message] = st.builds(Datagram, destinations, st.binary(max_size=1500))


def built(vector: make_wire.MessageVector) -> Message:
    """The message a vector describes."""

    def octets(name: str) -> bytes:
        return bytes.fromhex(str(fields[name]))

    def destination() -> Destination:
        return Destination(str(fields["host"]), int(fields["port"] or 0))

    fields = vector["fields"]
    match MessageType(vector["number"]):
        case MessageType.EXTEND:
            return Extend(RelayId(octets("relay_id")), octets("handshake"))
        case MessageType.EXTENDED:
            return Extended(octets("handshake"))
        case MessageType.TRUNCATE:
            return Truncate()
        case MessageType.TRUNCATED:
            return Truncated()
        case MessageType.PING:
            return Ping(octets("token"))
        case MessageType.PONG:
            return Pong(octets("token"))
        case MessageType.DATAGRAM:
            return Datagram(destination(), octets("data"))
        case MessageType.REJECTED:
            return Rejected(RejectReason(int(fields["reason"] or 0)), destination())
        case MessageType.DROP:
            return DropMessage()


def test_the_types_and_their_directions_are_those_of_the_specification() -> None:
    here = {each.name: (each.value, each in FORWARD, each in BACKWARD) for each in MessageType}
    assert here == TYPES


@pytest.mark.parametrize("vector", make_wire.load()["messages"], ids=lambda vector: vector["name"])
def test_messages_are_as_in_the_vectors_both_ways(vector: make_wire.MessageVector) -> None:
    message, content = built(vector), bytes.fromhex(vector["hex"])
    assert message.encode() == content
    assert decode(vector["number"], content, EVERY) == message


@given(control | datagrams)
def test_what_was_encoded_decodes_to_itself(message: Message) -> None:
    assert decode(message.TYPE, message.encode(), EVERY) == message


@given(control)
def test_every_control_message_is_within_its_bound(message: Message) -> None:
    assert len(message.encode()) <= MAX_CONTROL_SIZE


@given(control.filter(lambda message: message.TYPE != MessageType.DROP))
def test_one_byte_more_or_less_is_malformed(message: Message) -> None:
    content = message.encode()
    for wrong in (content + b"\0", content[:-1] if content else b"\0"):
        with pytest.raises(RemoteError):
            decode(message.TYPE, wrong, EVERY)


@pytest.mark.parametrize("message_type", MessageType)
def test_a_message_out_of_place_is_refused_like_an_unknown_one(message_type: MessageType) -> None:
    for messages in (FORWARD, BACKWARD):
        if message_type not in messages:
            with pytest.raises(RemoteError, match="belongs here"):
                decode(message_type, b"", messages)


@pytest.mark.parametrize("message_type", [0, 10, 127, 0x81, 255])
def test_an_unknown_type_is_refused(message_type: int) -> None:
    with pytest.raises(RemoteError, match="belongs here"):
        decode(message_type, b"", EVERY)


@given(st.binary(max_size=1500))
def test_drop_may_hold_anything(content: bytes) -> None:
    assert decode(MessageType.DROP, content, FORWARD) == DropMessage()


@pytest.mark.parametrize("reason", [0, 5, 255])
def test_an_unknown_reason_is_refused(reason: int) -> None:
    with pytest.raises(RemoteError, match="reason"):
        decode(MessageType.REJECTED, bytes([reason]) + HERE.encode(), BACKWARD)


def test_a_datagram_may_be_empty() -> None:
    assert decode(MessageType.DATAGRAM, HERE.encode(), FORWARD) == Datagram(HERE, b"")


def test_a_datagram_is_bounded_with_its_destination() -> None:
    largest = Datagram(HERE, bytes(MAX_DATAGRAM_SIZE - 7))
    assert len(largest.encode()) == MAX_DATAGRAM_SIZE
    with pytest.raises(LocalError):
        Datagram(HERE, bytes(MAX_DATAGRAM_SIZE - 6)).encode()


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_field_of_the_wrong_size_is_our_own_fault(wrong: int) -> None:
    messages: list[Message] = [
        Extend(RelayId(bytes(32 + wrong)), bytes(CREATE_SIZE)),
        Extend(RelayId(bytes(32)), bytes(CREATE_SIZE + wrong)),
        Extended(bytes(CREATED_SIZE + wrong)),
        Ping(bytes(8 + wrong)),
        Pong(bytes(8 + wrong)),
    ]
    for message in messages:
        with pytest.raises(LocalError):
            message.encode()


@dataclass(frozen=True, slots=True)
class Foreign:
    """A message of another package."""

    TYPE: ClassVar[int] = 32

    word: bytes

    def encode(self) -> bytes:
        return self.word

    @classmethod
    def decode(cls, content: bytes) -> Self:
        return cls(content)


class TooHigh(Foreign):
    TYPE: ClassVar[int] = 0x80


def test_another_package_adds_its_messages_and_ours_do_not_change() -> None:
    joined = table(*FORWARD.values(), Foreign)
    assert decode(32, b"word", joined) == Foreign(b"word")
    assert decode(MessageType.TRUNCATE, b"", joined) == Truncate()
    with pytest.raises(RemoteError):
        decode(32, b"word", FORWARD)


def test_two_messages_of_one_type_or_a_type_with_bit_7_make_no_table() -> None:
    with pytest.raises(LocalError, match="Foreign"):
        table(Foreign, Foreign)
    with pytest.raises(LocalError, match="TooHigh"):
        table(TooHigh)


def test_no_handshake_no_token_no_data_and_no_host_is_in_a_repr() -> None:
    shown = repr([Extended(b"secret"), Ping(b"secret"), Datagram(Destination("secret.example", 1), b"secret")])
    assert "secret" not in shown
