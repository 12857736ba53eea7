"""SPEC 2, as tests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vectors import make_wire
from tunnels.errors import LocalError, RemoteError
from tunnels.params import COUNTER_LIMIT, HEADER_SIZE
from tunnels.wire.cell import (
    COUNTER_SHIFT,
    HEADER,
    HEADERS,
    LAYERED,
    LOW_BITS,
    NONCE_OFFSET,
    SHIFTED_LIMIT,
    ZEROS,
    Command,
    nonce,
    pack_header,
    unpack_header,
)

COMMANDS = {  # the table of SPEC 2.2: value, and whether the block names a circuit
    "CREATE": (1, False),
    "CREATED": (2, False),
    "RELAY": (3, True),
    "EARLY": (4, True),
    "DESTROY": (5, False),
    "PADDING": (6, False),
    "REKEY": (7, False),
    "REKEYED": (8, False),
    "PATH_CHALLENGE": (9, False),
    "PATH_RESPONSE": (10, False),
}

counters = st.integers(0, COUNTER_LIMIT - 1)
commands = st.sampled_from(Command)
circuit_ids = st.integers(1, 2**32 - 1)


def test_the_commands_are_those_of_the_specification() -> None:
    assert {command.name: (command.value, command in LAYERED) for command in Command} == COMMANDS


@pytest.mark.parametrize("vector", make_wire.load()["headers"])
def test_header_blocks_are_as_in_the_vectors_both_ways(vector: make_wire.HeaderVector) -> None:
    block = bytes.fromhex(vector["hex"])
    fields = vector["circuit_id"], Command(vector["command"]), vector["counter"]
    assert pack_header(*fields) == block
    assert unpack_header(block) == fields
    assert nonce(vector["command"], vector["counter"]) == block[NONCE_OFFSET:] == block[4:16]


@given(st.lists(st.tuples(circuit_ids, st.sampled_from(sorted(LAYERED)), counters), max_size=8))
def test_walking_a_run_gives_what_reading_each_block_gives(cells: list[tuple[int, Command, int]]) -> None:
    run = b"".join(pack_header(*cell) for cell in cells)
    walked = list(HEADERS(memoryview(run)))
    assert [(circuit_id, command, shifted >> COUNTER_SHIFT) for circuit_id, command, shifted, _ in walked] == cells
    assert all(zeros == ZEROS and not shifted & LOW_BITS and shifted < SHIFTED_LIMIT for _, _, shifted, zeros in walked)
    assert b"".join(HEADER.pack(*fields) for fields in walked) == run


@given(commands, counters, st.integers(11, 15), st.integers(0, 7))
def test_one_bit_in_the_zeros_is_enough_to_be_dropped(command: Command, counter: int, at: int, bit: int) -> None:
    block = bytearray(pack_header(int(command in LAYERED), command, counter))
    block[at] ^= 1 << bit
    with pytest.raises(RemoteError, match="did not open"):
        unpack_header(block)
    ((_, _, shifted, zeros),) = HEADERS(block)
    assert zeros != ZEROS or shifted & LOW_BITS


@pytest.mark.parametrize("counter", [COUNTER_LIMIT, COUNTER_LIMIT + 1, 2**48 - 1])
def test_a_counter_at_the_limit_or_above_is_neither_written_nor_read(counter: int) -> None:
    shifted = counter << COUNTER_SHIFT
    assert shifted >= SHIFTED_LIMIT
    with pytest.raises(RemoteError, match="counter"):
        unpack_header(HEADER.pack(1, Command.RELAY, shifted, ZEROS))
    with pytest.raises(LocalError, match="counter"):
        pack_header(1, Command.RELAY, counter)


def test_a_negative_counter_is_our_own_fault() -> None:
    with pytest.raises(LocalError):
        pack_header(1, Command.RELAY, -1)


@pytest.mark.parametrize("number", [0, 11, 127, 255])
def test_an_unknown_command_is_dropped(number: int) -> None:
    with pytest.raises(RemoteError, match=f"unknown command {number}"):
        unpack_header(HEADER.pack(0, number, 0, ZEROS))


@pytest.mark.parametrize("command", Command)
def test_a_block_names_a_circuit_exactly_when_its_body_is_layered(command: Command) -> None:
    wrong = 0 if command in LAYERED else 5
    with pytest.raises(LocalError):
        pack_header(wrong, command, 0)
    with pytest.raises(RemoteError, match=command.name):
        unpack_header(HEADER.pack(wrong, command, 0, ZEROS))


@pytest.mark.parametrize("circuit_id", [-1, 2**32])
def test_a_circuit_id_has_32_bits(circuit_id: int) -> None:
    with pytest.raises(LocalError):
        pack_header(circuit_id, Command.RELAY, 0)


@pytest.mark.parametrize("size", [0, HEADER_SIZE - 1, HEADER_SIZE + 1])
def test_a_block_has_one_size(size: int) -> None:
    with pytest.raises(RemoteError):
        unpack_header(bytes(size))
