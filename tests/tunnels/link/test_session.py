"""SPEC 4.5 and 4.6 for one session: what it seals only its peer opens, once, and nothing else."""
# ruff: noqa: SLF001 (keys are looked at where they are kept)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.crypto import sodium
from tunnels.crypto.rng import StreamRng
from tunnels.crypto.x25519 import KeyPair
from tunnels.errors import LocalError
from tunnels.ids import Drop, Index
from tunnels.link.handshake import SessionKeys
from tunnels.link.link import Link
from tunnels.link.outbox import TrainPool
from tunnels.link.session import SCRATCH_SIZE, Session
from tunnels.params import (
    BATCH_CELLS,
    BODY_OFFSET,
    CELL_SIZE,
    COUNTER_LIMIT,
    COUNTER_START_LIMIT,
    HEADER_SIZE,
    INDEX_SIZE,
    MAX_TRAINS,
    SEALED_TEXT_SIZE,
)
from tunnels.wire.cell import Command, Header, unpack_header
from tunnels.wire.link_messages import Answer, Padding, PathChallenge

A, B, C, D = (bytes([number]) * 32 for number in range(1, 5))


class Pair:
    """Both ends of a session, and what they asked their links to send."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = StreamRng(seed.to_bytes(32))
        self.dirty: list[Session] = []
        self.alice = self._end(SessionKeys(A, B, C, D), Index(0x11111111), Index(0x22222222))
        self.bob = self._end(SessionKeys(C, D, A, B), Index(0x22222222), Index(0x11111111))

    def _end(self, keys: SessionKeys, index: Index, peer: Index) -> Session:
        static = KeyPair.generate(self.rng)
        link = Link(bytes(32), ("192.0.2.1", 1), static, 0.0, self.rng, self.dirty.append, 0.0)
        pool = TrainPool()
        return Session(link, keys, index=index, peer_index=peer, initiator=True, now=0.0, rng=self.rng, pool=pool)

    def sent(self, session: Session) -> list[bytes]:
        """The cells that wait, taken off."""
        cells = b"".join(bytes(session.finish(train, bytearray(SCRATCH_SIZE))) for train in session.take_trains())
        return [cells[at : at + CELL_SIZE] for at in range(0, len(cells), CELL_SIZE)]

    def open(self, session: Session, cell: bytes) -> tuple[Header, bytes | Drop]:
        blocks = bytearray(SCRATCH_SIZE)
        session.open_headers(cell[INDEX_SIZE:BODY_OFFSET], blocks)
        header = unpack_header(bytes(blocks[:HEADER_SIZE]))
        buffer = bytearray(cell)
        nonce = sodium.address_of(blocks) + INDEX_SIZE
        return header, session.open(buffer, sodium.address_of(buffer), BODY_OFFSET, nonce, header.counter)


@given(st.sampled_from([c for c in Command if c not in {Command.RELAY, Command.EARLY}]), st.binary(max_size=200))
def test_the_peer_opens_what_was_sealed_with_random_bytes_behind_it(command: Command, text: bytes) -> None:
    pair = Pair()
    for _ in range(2):
        assert pair.alice.seal(command, text, pair.rng)
    first, second = pair.sent(pair.alice)
    assert first[:INDEX_SIZE] == second[:INDEX_SIZE] == (0x22222222).to_bytes(4)
    opened = []
    for cell in (first, second):
        header, content = pair.open(pair.bob, cell)
        assert (header.circuit_id, header.command) == (0, command)
        assert isinstance(content, bytes)
        assert len(content) == SEALED_TEXT_SIZE
        assert content.startswith(text)
        opened.append(content[len(text) :])
    assert opened[0] != opened[1]


def test_a_cell_opens_once_and_not_at_its_sender_and_not_altered() -> None:
    pair = Pair()
    pair.alice.seal(Command.PADDING, b"text", pair.rng)
    (cell,) = pair.sent(pair.alice)
    for bit in range(BODY_OFFSET * 8, CELL_SIZE * 8, 97):
        altered = bytearray(cell)
        altered[bit // 8] ^= 1 << bit % 8
        assert pair.open(pair.bob, bytes(altered))[1] is Drop.BAD_TAG
    assert isinstance(pair.open(pair.bob, cell)[1], bytes)
    assert pair.open(pair.bob, cell)[1] is Drop.REPLAYED


def test_the_command_is_under_the_tag() -> None:
    pair = Pair()
    pair.alice.seal(Command.PADDING, b"text", pair.rng)
    (cell,) = pair.sent(pair.alice)
    train = pair.alice.train()
    assert train is not None
    train.buffer[:CELL_SIZE] = cell
    train.head(0, Command.DESTROY, pair.alice.counter - 1)
    train.count = 1
    (forged,) = pair.sent(pair.alice)
    header, opened = pair.open(pair.bob, forged)
    assert header.command is Command.DESTROY
    assert opened is Drop.BAD_TAG


def test_a_counter_beyond_the_limit_is_dropped_before_anything_is_opened() -> None:
    pair = Pair()
    buffer = bytearray(CELL_SIZE)
    at = sodium.address_of(buffer)
    assert pair.bob.open(buffer, at, BODY_OFFSET, at, COUNTER_LIMIT) is Drop.BAD_COUNTER
    assert pair.bob.window.last == -1


def test_counters_start_at_random_and_count_up() -> None:
    starts = {Pair(seed).alice.counter for seed in range(50)}
    assert len(starts) == 50
    assert max(starts) < COUNTER_START_LIMIT
    assert max(starts) > COUNTER_START_LIMIT // 4
    pair = Pair()
    start = pair.alice.counter
    for number in range(5):
        pair.alice.seal(Command.PADDING, b"", pair.rng)
        assert pair.alice.counter == start + number + 1
    counters = [pair.open(pair.bob, cell)[0].counter for cell in pair.sent(pair.alice)]
    assert counters == list(range(start, start + 5))


def test_a_single_cell_is_one_of_the_same_sequence() -> None:
    pair = Pair()
    message = PathChallenge(b"t" * 16)
    single = pair.alice.single(message, pair.rng, bytearray(SCRATCH_SIZE))
    pair.alice.seal(Command.PADDING, Padding(Answer.WANTED).encode(), pair.rng)
    (other,) = pair.sent(pair.alice)
    (one, content), (two, _) = pair.open(pair.bob, single), pair.open(pair.bob, other)
    assert two.counter == one.counter + 1
    assert isinstance(content, bytes)
    assert content.startswith(message.encode())
    assert pair.alice.cells_sent == 2


def test_trains_fill_one_after_the_other_and_the_link_is_told_of_the_first_only() -> None:
    pair = Pair()
    room = MAX_TRAINS * BATCH_CELLS
    assert [pair.alice.seal(Command.PADDING, b"", pair.rng) for _ in range(room + 3)] == [True] * room + [False] * 3
    assert [train.count for train in pair.alice.trains] == [BATCH_CELLS] * MAX_TRAINS
    assert pair.dirty == [pair.alice]
    assert len(pair.sent(pair.alice)) == room
    assert pair.alice.seal(Command.PADDING, b"", pair.rng)
    assert pair.dirty == [pair.alice, pair.alice]


def test_what_does_not_fit_is_our_own_fault_and_takes_no_counter() -> None:
    pair = Pair()
    before = pair.alice.counter
    with pytest.raises(LocalError):
        pair.alice.seal(Command.PADDING, bytes(SEALED_TEXT_SIZE + 1), pair.rng)
    assert pair.alice.counter == before
    assert pair.sent(pair.alice) == []


def test_wiping_ends_keys_and_drops_what_waits() -> None:
    pair = Pair()
    pair.alice.seal(Command.PADDING, b"text", pair.rng)
    pair.alice.wipe()
    assert not pair.alice.trains
    assert bytes(pair.alice._send_seal._buffer) == bytes(pair.alice._receive_seal._buffer) == bytes(32)
