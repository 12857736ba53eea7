"""SPEC 2.1 on the way out: trains, their header blocks, and the pool they come from."""

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st

from tunnels.crypto import sodium
from tunnels.crypto.onion import WRAP_SLACK
from tunnels.link.outbox import Train, TrainPool
from tunnels.link.session import SCRATCH_SIZE
from tunnels.params import BATCH_CELLS, BODY_OFFSET, BODY_SIZE, CELL_SIZE, HEADER_SIZE
from tunnels.wire.cell import Command, unpack_header

KEY = bytes(range(32))
INDEX = b"\xa1\xb2\xc3\xd4"

headers = st.tuples(
    st.integers(1, (1 << 32) - 1), st.sampled_from([Command.RELAY, Command.EARLY]), st.integers(0, (1 << 47) - 1)
)


def fill(train: Train, heads: list[tuple[int, Command, int]]) -> list[bytes]:
    """Cells with these headers; their bodies."""
    bodies = []
    for number, (circuit_id, command, counter) in enumerate(heads):
        place = train.place()
        body = bytes([number]) * BODY_SIZE
        train.buffer[place : place + BODY_SIZE] = body
        train.head(circuit_id, command, counter)
        train.count += 1
        bodies.append(body)
    return bodies


@given(st.lists(headers, max_size=BATCH_CELLS))
def test_each_cell_is_the_index_its_header_block_encrypted_and_its_body(heads: list[tuple[int, Command, int]]) -> None:
    train = Train()
    bodies = fill(train, heads)
    cells = bytes(train.seal_headers(INDEX, Cipher(AES256(KEY), ECB()).encryptor(), bytearray(SCRATCH_SIZE)))
    assert len(cells) == len(heads) * CELL_SIZE
    for number, (head, body) in enumerate(zip(heads, bodies, strict=True)):
        cell = cells[number * CELL_SIZE : (number + 1) * CELL_SIZE]
        block = Cipher(AES256(KEY), ECB()).decryptor().update(cell[4:BODY_OFFSET])
        assert cell[:4] == INDEX
        assert tuple(unpack_header(block)) == head
        assert cell[BODY_OFFSET:] == body


def test_the_nonce_of_a_cell_is_where_head_says_until_the_train_is_sent() -> None:
    train = Train()
    for counter in range(3):
        at = train.head(7, Command.RELAY, counter)
        train.count += 1
        assert at == train.headers_at + counter * HEADER_SIZE + 4
        nonce = train.headers[counter * HEADER_SIZE + 4 : (counter + 1) * HEADER_SIZE]
        assert nonce == bytes([Command.RELAY]) + counter.to_bytes(6) + bytes(5)


def test_behind_the_last_cell_of_a_full_train_is_room_for_what_wrap_scribbles() -> None:
    train = Train()
    train.count = BATCH_CELLS - 1
    assert train.place() + BODY_SIZE + WRAP_SLACK <= len(train.buffer)
    assert train.at == sodium.address_of(train.buffer)


def test_a_pool_keeps_so_many_trains_and_gives_them_out_empty() -> None:
    pool = TrainPool(keep=3)
    trains = [pool.take() for _ in range(5)]
    for train in trains:
        train.count = 9
        pool.give(train)
    again = [pool.take() for _ in range(5)]
    assert sum(train in trains for train in again) == 3
    assert {train.count for train in again} == {0}
    assert len({id(train) for train in again}) == 5
