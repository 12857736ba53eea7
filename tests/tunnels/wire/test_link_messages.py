"""SPEC 4.6, as tests."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vectors import make_wire
from tunnels.errors import LocalError, RemoteError
from tunnels.ids import CircuitId, Index
from tunnels.params import CREATE_SIZE, CREATED_SIZE, M1_SIZE, M2_SIZE, PATH_TOKEN_SIZE, SEALED_TEXT_SIZE
from tunnels.wire.cell import LAYERED, Command
from tunnels.wire.link_messages import (
    LINK_MESSAGES,
    Answer,
    Create,
    Created,
    Destroy,
    LinkMessage,
    Padding,
    PathChallenge,
    PathResponse,
    Rekey,
    Rekeyed,
    decode,
)

ONE = CircuitId(1)
NO_CIRCUIT = [Command.PADDING, Command.REKEY, Command.REKEYED, Command.PATH_CHALLENGE, Command.PATH_RESPONSE]

circuit_ids = st.integers(1, 2**32 - 1).map(CircuitId)


def sized(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


link_messages: st.SearchStrategy[LinkMessage] = st.one_of(
    st.builds(Create, circuit_ids, sized(CREATE_SIZE)),
    st.builds(Created, circuit_ids, circuit_ids, sized(CREATED_SIZE)),
    st.builds(Destroy, circuit_ids, st.none() | circuit_ids),
    st.builds(Destroy, st.none(), circuit_ids),
    st.builds(Padding, st.sampled_from(Answer)),
    st.builds(Rekey, st.integers(1 << 24, 2**32 - 1).map(Index), sized(M1_SIZE)),
    st.builds(Rekeyed, sized(M2_SIZE)),
    st.builds(PathChallenge, sized(PATH_TOKEN_SIZE)),
    st.builds(PathResponse, sized(PATH_TOKEN_SIZE)),
)


def text(content: bytes, filler: int = 0xA5) -> bytes:
    """As the sealer pads it."""
    return content + bytes([filler]) * (SEALED_TEXT_SIZE - len(content))


def built(vector: make_wire.MessageVector) -> LinkMessage:
    """The message a vector describes."""
    fields = {
        name: bytes.fromhex(value) if isinstance(value, str) else value for name, value in vector["fields"].items()
    }
    if "answer" in fields:
        return Padding(Answer(int(vector["fields"]["answer"] or 0)))
    make: Callable[..., LinkMessage] = LINK_MESSAGES[vector["number"]]
    return make(**fields)


@pytest.mark.parametrize("vector", make_wire.load()["link_messages"], ids=lambda vector: vector["name"])
def test_link_messages_are_as_in_the_vectors_both_ways(vector: make_wire.MessageVector) -> None:
    message, content = built(vector), bytes.fromhex(vector["hex"])
    assert message.encode() == content
    assert decode(vector["number"], text(content)) == message


def test_every_command_is_either_layered_or_in_the_table() -> None:
    assert LINK_MESSAGES.keys() == set(Command) - LAYERED


@given(link_messages, st.integers(0, 255))
def test_what_was_encoded_decodes_to_itself_whatever_stands_behind_it(message: LinkMessage, filler: int) -> None:
    assert decode(message.COMMAND, text(message.encode(), filler)) == message


@given(link_messages)
def test_every_link_message_fits_the_seal(message: LinkMessage) -> None:
    assert len(message.encode()) <= SEALED_TEXT_SIZE


@pytest.mark.parametrize("size", [0, SEALED_TEXT_SIZE - 1, SEALED_TEXT_SIZE + 1])
@pytest.mark.parametrize("command", LINK_MESSAGES)
def test_a_sealed_text_has_one_size(command: int, size: int) -> None:
    with pytest.raises(RemoteError, match="a sealed text is"):
        decode(command, b"\1" * size)


@pytest.mark.parametrize("command", [0, *LAYERED, 11, 255])
def test_a_command_that_is_not_sealed_is_refused(command: int) -> None:
    with pytest.raises(RemoteError, match=f"command {command} is not sealed"):
        decode(command, text(b""))


@pytest.mark.parametrize("command", NO_CIRCUIT)
def test_a_circuit_id_where_there_is_no_circuit_is_refused(command: Command) -> None:
    with pytest.raises(RemoteError, match="no circuit"):
        decode(command, text(bytes([0, 0, 0, 1, 0])))


@pytest.mark.parametrize("command", [Command.CREATE, Command.CREATED])
def test_circuit_id_0_where_there_is_a_circuit_is_refused(command: Command) -> None:
    with pytest.raises(RemoteError, match="circuit id 0"):
        decode(command, text(bytes(4)))


def test_created_with_forward_id_0_is_refused() -> None:
    with pytest.raises(RemoteError, match="circuit id 0"):
        decode(Command.CREATED, text(bytes([0, 0, 0, 1, 0, 0, 0, 0])))


def test_a_destroy_that_names_no_circuit_is_refused_and_not_sent() -> None:
    with pytest.raises(RemoteError, match="names no circuit"):
        decode(Command.DESTROY, text(bytes(8)))
    with pytest.raises(LocalError):
        Destroy(None, None).encode()


@pytest.mark.parametrize("answer", [2, 3, 255])
def test_padding_asks_or_does_not_ask_and_nothing_else(answer: int) -> None:
    with pytest.raises(RemoteError, match="answer"):
        decode(Command.PADDING, text(bytes([0, 0, 0, 0, answer])))


def test_a_receiver_index_that_looks_like_ipv8_is_refused_and_not_sent() -> None:
    with pytest.raises(RemoteError, match="index"):
        decode(Command.REKEY, text(bytes(5) + b"\xff" * 3))
    for index in (0, 0x00FFFFFF, 2**32):
        with pytest.raises(LocalError):
            Rekey(Index(index), bytes(M1_SIZE)).encode()


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_field_of_the_wrong_size_is_our_own_fault(wrong: int) -> None:
    messages: list[LinkMessage] = [
        Create(ONE, bytes(CREATE_SIZE + wrong)),
        Created(ONE, ONE, bytes(CREATED_SIZE + wrong)),
        Rekey(Index(1 << 24), bytes(M1_SIZE + wrong)),
        Rekeyed(bytes(M2_SIZE + wrong)),
        PathChallenge(bytes(PATH_TOKEN_SIZE + wrong)),
        PathResponse(bytes(PATH_TOKEN_SIZE + wrong)),
    ]
    for message in messages:
        with pytest.raises(LocalError):
            message.encode()


@pytest.mark.parametrize("circuit_id", [0, -1, 2**32])
def test_a_circuit_id_out_of_range_is_our_own_fault(circuit_id: int) -> None:
    bad = CircuitId(circuit_id)
    messages: list[LinkMessage] = [
        Create(bad, bytes(CREATE_SIZE)),
        Created(bad, ONE, bytes(CREATED_SIZE)),
        Created(ONE, bad, bytes(CREATED_SIZE)),
        Destroy(bad, ONE),
        Destroy(ONE, bad),
    ]
    for message in messages:
        with pytest.raises(LocalError):
            message.encode()


@given(link_messages)
def test_no_handshake_and_no_token_is_in_a_repr(message: LinkMessage) -> None:
    assert not {"handshake", "token", "m1", "m2"} & set(repr(message).replace("(", " ").replace("=", " ").split())
