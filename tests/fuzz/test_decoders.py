"""Every decoder of the wire against garbage: a value or a RemoteError, and never anything else.

The number of examples is the hypothesis profile's (`make fuzz` runs very many); FUZZ_EXAMPLES=n in the environment
sets it.
"""

import contextlib
import os
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import relays
from tests.vectors import make_descriptor, make_wire
from tunnels.errors import RemoteError
from tunnels.identity import verify
from tunnels.params import (
    CIRCUIT_REASSEMBLY,
    CIRCUIT_UNFINISHED,
    HEADER_SIZE,
    PAYLOAD_SIZE,
    SEALED_TEXT_SIZE,
)
from tunnels.path.descriptor import RelayDescriptor
from tunnels.wire import directory_messages, link_messages, messages
from tunnels.wire.cell import Command, pack_header, unpack_header
from tunnels.wire.destination import Destination
from tunnels.wire.fragments import Fragment, NodeBudget, Reassembler, parse_payload, split
from tunnels.wire.reader import Reader

EXAMPLES = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", settings().max_examples)))
VECTORS = make_wire.load()
DIRECTORY = messages.table(
    directory_messages.DigestRequest,
    directory_messages.Digests,
    directory_messages.BucketsRequest,
    directory_messages.Descriptors,
    directory_messages.Probe,
    directory_messages.Vouched,
)
TYPES = {**messages.FORWARD, **messages.BACKWARD, **DIRECTORY}
DESCRIPTORS = make_descriptor.load()


def damaged(wires: list[bytes]) -> st.SearchStrategy[bytes]:
    """Garbage that begins well: a wire form with some bytes replaced, perhaps cut off or with something behind."""

    @st.composite
    def strategy(draw: st.DrawFn) -> bytes:
        wire = bytearray(draw(st.sampled_from(wires)))
        for at, value in draw(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255)), max_size=4)):
            if at < len(wire):
                wire[at] = value
        cut = draw(st.none() | st.integers(0, len(wire)))
        return bytes(wire[:cut]) + draw(st.binary(max_size=8))

    return strategy()


def filled(data: bytes, size: int) -> bytes:
    return (data + b"\xa5" * size)[:size]


def wires(
    vectors: list[make_wire.MessageVector] | list[make_wire.DirectoryVector] | list[make_wire.DestinationVector],
) -> list[bytes]:
    return [bytes.fromhex(vector["hex"]) for vector in vectors]


def heads() -> Iterator[bytes]:
    for vector in VECTORS["payloads"]:
        yield from map(bytes.fromhex, vector["heads"])


blocks = st.binary(max_size=2 * HEADER_SIZE) | damaged([bytes.fromhex(each["hex"]) for each in VECTORS["headers"]])
texts = (st.binary(max_size=64) | damaged(wires(VECTORS["link_messages"]))).map(lambda d: filled(d, SEALED_TEXT_SIZE))
contents = st.binary(max_size=64) | damaged(wires(VECTORS["messages"])) | damaged(wires(VECTORS["directory_messages"]))
hosts = st.binary(max_size=32) | damaged(wires(VECTORS["destinations"]))
payloads = (st.binary(max_size=32) | damaged(list(heads()))).map(lambda d: filled(d, PAYLOAD_SIZE))


@EXAMPLES
@given(st.binary(max_size=32), st.lists(st.sampled_from(["u8", "u16", "u32", "u48", "rest", "end"]), max_size=6))
def test_a_reader_raises_remote_errors_only(data: bytes, reads: list[str]) -> None:
    reader = Reader(data)
    with contextlib.suppress(RemoteError):
        for name in reads:
            getattr(reader, name)()


@EXAMPLES
@given(blocks)
def test_a_header_block_is_a_header_that_packs_to_the_same_block_or_a_remote_error(block: bytes) -> None:
    with contextlib.suppress(RemoteError):
        assert pack_header(*unpack_header(block)) == block


@EXAMPLES
@given(st.integers(0, 255) | st.sampled_from(Command), texts | st.binary(max_size=64))
def test_a_sealed_text_is_a_message_that_encodes_to_its_beginning_or_a_remote_error(command: int, text: bytes) -> None:
    with contextlib.suppress(RemoteError):
        message = link_messages.decode(command, text)
        assert command == message.COMMAND
        assert text.startswith(message.encode())


@EXAMPLES
@given(hosts)
def test_a_destination_encodes_to_the_bytes_it_was_read_from_or_is_a_remote_error(data: bytes) -> None:
    with contextlib.suppress(RemoteError):
        assert Destination.decode(data).encode() == data


@EXAMPLES
@given(st.integers(0, 255) | st.sampled_from(sorted(TYPES)), contents)
def test_a_content_is_a_message_that_encodes_to_it_or_a_remote_error(message_type: int, content: bytes) -> None:
    with contextlib.suppress(RemoteError):
        message = messages.decode(message_type, content, TYPES)
        assert message_type == message.TYPE
        assert message.encode() == content or isinstance(message, messages.DropMessage)


@st.composite
def damaged_descriptors(draw: st.DrawFn) -> bytes:
    """Damage anywhere, lengths above all: identity, addresses, policies and family stand behind fixed fields."""
    wire = bytearray.fromhex(draw(st.sampled_from(DESCRIPTORS))["hex"])
    for at, value in draw(st.lists(st.tuples(st.integers(0, len(wire) - 1), st.integers(0, 255)), max_size=4)):
        wire[at] = value
    return bytes(wire[: draw(st.none() | st.integers(0, len(wire)))]) + draw(st.binary(max_size=8))


@EXAMPLES
@given(damaged_descriptors() | st.binary(max_size=300))
def test_a_descriptor_is_of_use_and_encodes_to_its_bytes_or_is_a_remote_error(data: bytes) -> None:
    with contextlib.suppress(RemoteError):
        descriptor = RelayDescriptor.decode(data)
        assert descriptor.encode() == data
        assert RelayDescriptor(**{n: getattr(descriptor, n) for n in descriptor.__dataclass_fields__}) == descriptor
        assert descriptor.info.relay_id == descriptor.relay_id
        descriptor.check(b"tropea", relays.NOW, verify)
        assert data.hex() in [vector["hex"] for vector in DESCRIPTORS]


@EXAMPLES
@given(payloads | st.binary(max_size=64))
def test_a_payload_is_a_whole_message_or_a_fragment_or_a_remote_error(payload: bytes) -> None:
    with contextlib.suppress(RemoteError):
        parsed = parse_payload(payload)
        if not isinstance(parsed, Fragment) and parsed.type:
            assert payload.startswith(split(parsed.type, parsed.content, 0)[0])


@EXAMPLES
@given(st.lists(st.tuples(payloads, st.booleans(), st.floats(0, 4)), max_size=40))
def test_a_reassembler_takes_any_fragments_and_stays_within_its_bounds(
    cells: list[tuple[bytes, bool, float]],
) -> None:
    budget, now = NodeBudget(), 0.0
    reassembler = Reassembler(budget)
    for payload, early, wait in cells:
        now += wait
        with contextlib.suppress(RemoteError):
            parsed = parse_payload(payload)
            if isinstance(parsed, Fragment):
                joined = reassembler.add(parsed, early=early, now=now)
                assert joined is None or split(joined.type or 1, joined.content, 0)
        assert reassembler.unfinished <= CIRCUIT_UNFINISHED
        assert reassembler.held == budget.held <= CIRCUIT_REASSEMBLY
    reassembler.close()
    assert budget.held == 0
