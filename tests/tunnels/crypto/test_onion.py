"""SPEC 6: the layers, beside a reference of their own, against vectors of their own, and against who alters cells.

The reference is tests/support/reference_onion.py: the specification once more, out of `cryptography` only.
"""

import json
from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import reference_onion as ref
from tests.vectors import make_onion
from tunnels.crypto import sodium
from tunnels.crypto.handshake import HopKeys
from tunnels.crypto.onion import FOR_YOU, PASS_ON, WRAP_SLACK, OriginLayers, RelayLayer
from tunnels.crypto.rng import StreamRng
from tunnels.errors import LocalError
from tunnels.ids import Drop
from tunnels.params import (
    AREA_SIZE,
    BODY_OFFSET,
    BODY_SIZE,
    CELL_SIZE,
    COUNTER_LIMIT,
    COUNTER_OFFSET_LIMIT,
    COUNTER_START_LIMIT,
    MAX_HOPS,
    PAYLOAD_SIZE,
    REPLAY_WINDOW,
)
from tunnels.wire.cell import Command

VECTORS: Final = json.loads(make_onion.PATH.read_text())
VECTOR_HOPS: Final = [
    ref.Secrets(**{name: bytes.fromhex(hop[name]) for name in make_onion.KEYS}, offset=hop["offset"])
    for hop in VECTORS["hops"]
]

counters = st.integers(0, COUNTER_START_LIMIT - 1)
offsets = st.integers(0, COUNTER_OFFSET_LIMIT - 1)
commands = st.sampled_from([Command.RELAY, Command.EARLY])
payloads = st.binary(max_size=64) | st.sampled_from([bytes(PAYLOAD_SIZE), b"p" * (PAYLOAD_SIZE - 1)])
circuits = st.lists(st.tuples(st.binary(min_size=32, max_size=32), offsets), min_size=1, max_size=MAX_HOPS)


class FixedRng:
    """Gives what it was given to give, once, and zeros for ever after; keeps what it gave."""

    def __init__(self, *supply: bytes) -> None:
        self.supply = list(supply)
        self.given: list[bytes] = []

    def bytes(self, size: int) -> bytes:
        self.given.append(self.supply.pop(0) if self.supply else bytes(size))
        assert len(self.given[-1]) == size
        return self.given[-1]

    def below(self, limit: int) -> int:
        return 0


def secrets_of(circuit: Sequence[tuple[bytes, int]]) -> list[ref.Secrets]:
    return [
        ref.Secrets(
            **{name: make_onion.drawn(f"{number} {seed.hex()} {name}", 32) for name in make_onion.KEYS}, offset=offset
        )
        for number, (seed, offset) in enumerate(circuit)
    ]


def keys_of(hop: ref.Secrets) -> HopKeys:
    return HopKeys(hop.forward, hop.backward, hop.seal, hop.filler, bytes(32), hop.offset)


def origin_of(hops: Sequence[ref.Secrets], rng: FixedRng | StreamRng | None = None) -> OriginLayers:
    layers = OriginLayers(rng or FixedRng())
    for hop in hops:
        layers.add(keys_of(hop))
    return layers


def wrap(layers: OriginLayers, hop: int, payload: bytes, command: int, counter: int) -> bytes:
    """The body that goes to the first hop, made where the originator makes it: amid other cells."""
    buffer = bytearray(b"\xaa" * CELL_SIZE + bytes(CELL_SIZE + WRAP_SLACK))
    body = CELL_SIZE + BODY_OFFSET
    start = body + layers.payload_place(hop)
    buffer[start : start + len(payload)] = payload
    layers.wrap(buffer, sodium.address_of(buffer), body, hop, len(payload), Command(command), counter)
    assert buffer[:CELL_SIZE] == b"\xaa" * CELL_SIZE, "the cell before is left alone"
    assert not any(buffer[CELL_SIZE:body]), "so is what will be index and header"
    return bytes(buffer[body : body + BODY_SIZE])


def open_forward(layer: RelayLayer, body: bytes, command: int, counter: int) -> tuple[int | Drop, bytes]:
    """Flag or drop, and the body that goes on or what is for the hop."""
    received = bytearray(body)
    nonce = bytearray(ref.nonce_of(command, counter))
    out = bytearray(CELL_SIZE)
    result = layer.open_forward(
        sodium.address_of(received), sodium.address_of(nonce), counter, out, sodium.address_of(out), BODY_OFFSET
    )
    assert received == body, "the receive buffer stays as it came"
    return result, bytes(out[BODY_OFFSET : BODY_OFFSET + BODY_SIZE])


def write_backward(layer: RelayLayer, payload: bytes, counter: int) -> bytes:
    out, nonce = bytearray(CELL_SIZE), bytearray(ref.nonce_of(Command.RELAY, counter))
    layer.write_backward(payload, out, sodium.address_of(out), BODY_OFFSET, sodium.address_of(nonce))
    assert not any(out[:BODY_OFFSET])
    return bytes(out[BODY_OFFSET:])


def pass_backward(layer: RelayLayer, body: bytes, received_with: int, counter: int) -> bytes:
    received, out = bytearray(BODY_OFFSET) + body, bytearray(CELL_SIZE)
    nonce = bytearray(ref.nonce_of(Command.RELAY, counter))
    layer.pass_backward(received, sodium.address_of(received), BODY_OFFSET, received_with.to_bytes(6),
                        sodium.address_of(out) + BODY_OFFSET, sodium.address_of(nonce))  # fmt: skip
    assert not any(out[:BODY_OFFSET])
    return bytes(out[BODY_OFFSET:])


def peel(layers: OriginLayers, body: bytes, counter: int) -> tuple[int, bytes] | Drop:
    """The hop that wrote it and the area."""
    buffer = bytearray(b"\xbb" * BODY_OFFSET + body + b"\xbb" * CELL_SIZE)
    peeled = layers.peel(buffer, sodium.address_of(buffer), BODY_OFFSET, counter)
    assert buffer[:BODY_OFFSET] == b"\xbb" * BODY_OFFSET
    assert buffer[CELL_SIZE:] == b"\xbb" * CELL_SIZE, "the next cell of the batch is left alone"
    if isinstance(peeled, Drop):
        return peeled
    hop, area = peeled
    return hop, bytes(buffer[area : area + AREA_SIZE])


# --- forward: every hop sees what the reference sees -------------------------------------------


@given(circuits, st.data(), payloads, commands, counters)
def test_a_forward_cell_is_at_every_hop_what_the_specification_makes_it(
    circuit: list[tuple[bytes, int]], data: st.DataObject, payload: bytes, command: Command, counter: int
) -> None:
    hops = secrets_of(circuit)
    hop = data.draw(st.integers(0, len(hops) - 1))
    rng = FixedRng(make_onion.drawn("padding", ref.padding_size(hop, len(payload))))
    body = wrap(origin_of(hops, rng), hop, payload, command, counter)
    expected = ref.forward(hops, hop, payload, rng.given[0], command, counter)
    for number, layer in enumerate(RelayLayer(keys_of(each), FixedRng()) for each in hops[: hop + 1]):
        assert body == expected.bodies[number]
        flag, body = open_forward(layer, body, command, expected.counters[number])
        assert flag == (FOR_YOU if number == hop else PASS_ON)
        assert layer.offset == hops[number].offset
    assert body[: len(payload)] == payload


@pytest.mark.parametrize("case", VECTORS["forward"], ids=lambda case: f"hop {case['hop']}")
def test_forward_vectors(case: dict[str, object]) -> None:
    made = make_onion.forward(*next(each for each in make_onion.FORWARD if each[0] == case["hop"]))
    assert made == case, "the generator still makes the file"
    payload, padding = bytes.fromhex(made["payload"]), bytes.fromhex(made["padding"])
    bodies = [bytes.fromhex(body) for body in made["bodies"]]
    layers = origin_of(VECTOR_HOPS, FixedRng(padding))
    assert wrap(layers, made["hop"], payload, made["command"], made["counters"][0]) == bodies[0]
    for number in range(made["hop"]):
        layer = RelayLayer(keys_of(VECTOR_HOPS[number]), FixedRng())
        flag, body = open_forward(layer, bodies[number], made["command"], made["counters"][number])
        assert (flag, body) == (PASS_ON, bodies[number + 1])
        assert body[-17:].hex() == made["fillers"][number]
        assert body.endswith(bytes.fromhex(made["fillers"][number]))


def test_the_vector_file_is_what_its_generator_makes() -> None:
    assert make_onion.text() == make_onion.PATH.read_text()


@given(st.lists(counters, min_size=1, max_size=6))
def test_a_filler_depends_on_its_counter_alone_and_not_on_the_order_of_cells(order: list[int]) -> None:
    """Chunks of 64 are kept: a cell that comes late must not get a filler of the newer chunk."""
    [hop, last] = secrets_of([(b"1" * 32, 0), (b"2" * 32, 0)])
    order = sorted({*order, *(counter ^ 64 for counter in order)}, key=lambda counter: counter & 0xFF)
    origin = origin_of([hop, last])
    for counter in order:
        body = wrap(origin, 1, b"", Command.RELAY, counter)
        flag, onward = open_forward(RelayLayer(keys_of(hop), FixedRng()), body, Command.RELAY, counter)
        assert flag == PASS_ON
        assert onward[-17:] == ref.filler_of(hop, counter)
        assert ref.receive(last, onward, Command.RELAY, counter)


def test_consecutive_fillers_are_one_keystream_without_a_gap_or_a_repeat() -> None:
    hop = VECTOR_HOPS[0]
    made = b"".join(ref.filler_of(hop, counter) for counter in range(128))
    chunks = [ref.keystream(hop.filler, bytes(4) + chunk.to_bytes(8), 17 * 64) for chunk in (0, 1)]
    assert made == b"".join(chunks)
    layer = RelayLayer(keys_of(hop), FixedRng())
    origin = origin_of(VECTOR_HOPS[:2])
    seen = [open_forward(layer, wrap(origin, 1, b"", 3, counter), 3, counter)[1][-17:] for counter in range(128)]
    assert b"".join(seen) == made


@given(payloads, st.integers(0, MAX_HOPS - 1), counters)
def test_every_byte_behind_the_payload_is_random(payload: bytes, hop: int, counter: int) -> None:
    """Zeros there would tell a hop how many layers follow, which is its position."""
    rng = FixedRng()
    wrap(origin_of(VECTOR_HOPS, rng), hop, payload, Command.RELAY, counter)
    assert [len(given) for given in rng.given] == [BODY_SIZE - 17 - 17 * hop - len(payload)]
    writer = RelayLayer(keys_of(VECTOR_HOPS[hop]), rng := FixedRng())
    write_backward(writer, payload, counter)
    assert sum(map(len, rng.given)) == BODY_SIZE - 17 - len(payload)


# --- forward: what does not verify, changes nothing ----------------------------------------------


@given(st.integers(0, BODY_SIZE * 8 - 1), st.integers(0, 2))
def test_a_bit_flipped_anywhere_in_a_body_dies_at_the_hop_that_receives_it(bit: int, hop: int) -> None:
    expected = ref.forward(VECTOR_HOPS, 2, b"payload", bytes(ref.padding_size(2, 7)), Command.RELAY, 5)
    body = bytearray(expected.bodies[hop])
    body[bit // 8] ^= 1 << bit % 8
    layer = RelayLayer(keys_of(VECTOR_HOPS[hop]), FixedRng())
    counter = expected.counters[hop]
    assert open_forward(layer, bytes(body), Command.RELAY, counter)[0] is Drop.BAD_TAG
    assert layer.window.last == -1
    assert open_forward(layer, expected.bodies[hop], Command.RELAY, counter)[0] in {PASS_ON, FOR_YOU}


@given(commands, counters, st.integers(-3, 3).filter(bool))
def test_a_tag_covers_the_command_and_the_counter(command: Command, counter: int, distance: int) -> None:
    body = wrap(origin_of(VECTOR_HOPS), 0, b"payload", command, counter)
    layer = RelayLayer(keys_of(VECTOR_HOPS[0]), FixedRng())
    other = Command.RELAY if command is Command.EARLY else Command.EARLY
    assert open_forward(layer, body, other, counter)[0] is Drop.BAD_TAG
    assert open_forward(layer, body, command, max(counter + distance, 0) or counter + 1)[0] is Drop.BAD_TAG
    assert open_forward(layer, body, command, counter)[0] == FOR_YOU


def test_a_hop_opens_a_counter_once_and_none_below_its_window() -> None:
    origin = origin_of(VECTOR_HOPS)
    layer = RelayLayer(keys_of(VECTOR_HOPS[0]), FixedRng())
    bodies = {counter: wrap(origin, 0, b"", 3, counter) for counter in (7, 8, 8 + REPLAY_WINDOW)}
    assert [open_forward(layer, bodies[counter], 3, counter)[0] for counter in (8, 8, 8 + REPLAY_WINDOW)] == [
        FOR_YOU,
        Drop.REPLAYED,
        FOR_YOU,
    ]
    assert open_forward(layer, bodies[7], 3, 7)[0] is Drop.REPLAYED
    assert open_forward(layer, bodies[7], 3, COUNTER_LIMIT)[0] is Drop.BAD_COUNTER


def test_forged_counters_move_no_window() -> None:
    origin = origin_of(VECTOR_HOPS)
    layer = RelayLayer(keys_of(VECTOR_HOPS[0]), FixedRng())
    honest = wrap(origin, 0, b"", 3, 100)
    for forged in (99, 101, 100 + REPLAY_WINDOW, 1 << 46, COUNTER_LIMIT - 1):
        assert open_forward(layer, honest, 3, forged)[0] is Drop.BAD_TAG
    assert open_forward(layer, honest, 3, 100)[0] == FOR_YOU


def test_a_hop_cannot_read_what_is_for_another() -> None:
    expected = ref.forward(VECTOR_HOPS, 3, b"s" * 64, bytes(ref.padding_size(3, 64)), Command.RELAY, 9)
    for number in range(3):
        layer = RelayLayer(keys_of(VECTOR_HOPS[number]), FixedRng())
        _, seen = open_forward(layer, expected.bodies[number], Command.RELAY, expected.counters[number])
        assert b"ssss" not in seen
        assert len(set(seen)) > 200, "and what it sees looks random"


@pytest.mark.parametrize(("hop", "used"), [(-1, 0), (6, 0), (0, -1), (0, PAYLOAD_SIZE + 1)])
def test_what_cannot_be_wrapped_is_refused_before_anything_is_written(hop: int, used: int) -> None:
    buffer = bytearray(CELL_SIZE + WRAP_SLACK)
    with pytest.raises(LocalError):
        origin_of(VECTOR_HOPS).wrap(buffer, sodium.address_of(buffer), BODY_OFFSET, hop, used, Command.RELAY, 1)
    assert not any(buffer)


def test_a_circuit_has_at_most_six_layers() -> None:
    layers = origin_of(VECTOR_HOPS)
    with pytest.raises(LocalError):
        layers.add(keys_of(VECTOR_HOPS[0]))
    assert len(layers) == MAX_HOPS


def test_layers_that_are_cut_off_open_nothing_any_more() -> None:
    layers = origin_of(VECTOR_HOPS[:3])
    body = ref.write(VECTOR_HOPS[2], bytes(AREA_SIZE), bytes(85), 30)
    body = ref.pass_on(VECTOR_HOPS[0], ref.pass_on(VECTOR_HOPS[1], body, 30, 20), 20, 10)
    layers.cut(2)
    assert len(layers) == 2
    assert peel(layers, body, 10) is Drop.BAD_TAG
    with pytest.raises(LocalError):
        wrap(layers, 2, b"", 3, 1)


# --- backward --------------------------------------------------------------------------------------


@given(circuits, st.data(), payloads)
def test_a_backward_cell_is_at_every_hop_what_the_specification_makes_it(
    circuit: list[tuple[bytes, int]], data: st.DataObject, payload: bytes
) -> None:
    hops = secrets_of(circuit)
    writer = data.draw(st.integers(0, len(hops) - 1))
    numbers = data.draw(st.lists(counters, min_size=writer + 1, max_size=writer + 1))
    rng = FixedRng(make_onion.drawn("tail", BODY_SIZE - 17 - len(payload)))
    body = write_backward(RelayLayer(keys_of(hops[writer]), rng), payload, numbers[writer])
    area, tail = (payload + rng.given[0])[:AREA_SIZE], rng.given[0][AREA_SIZE - len(payload) :]
    assert body == ref.write(hops[writer], area, tail, numbers[writer])
    for number in reversed(range(writer)):
        expected = ref.pass_on(hops[number], body, numbers[number + 1], numbers[number])
        layer = RelayLayer(keys_of(hops[number]), FixedRng())
        body = pass_backward(layer, body, numbers[number + 1], numbers[number])
        assert body == expected
    assert ref.peel(hops, body, numbers[0]) == (writer, numbers[writer], area)
    assert peel(origin_of(hops), body, numbers[0]) == (writer, area)


@pytest.mark.parametrize("case", VECTORS["backward"], ids=lambda case: f"hop {case['writer']}")
def test_backward_vectors(case: dict[str, object]) -> None:
    made = make_onion.backward(int(str(case["writer"])))
    assert made == case
    writer, numbers = made["writer"], made["counters"]
    area, tail = bytes.fromhex(made["area"]), bytes.fromhex(made["tail"])
    bodies = [bytes.fromhex(body) for body in made["bodies"]]
    rng = FixedRng(area[PAYLOAD_SIZE:] + tail)
    assert write_backward(RelayLayer(keys_of(VECTOR_HOPS[writer]), rng), area[:PAYLOAD_SIZE], numbers[-1]) == bodies[0]
    for number, received, sent in zip(reversed(range(writer)), bodies, bodies[1:], strict=False):
        layer = RelayLayer(keys_of(VECTOR_HOPS[number]), FixedRng())
        assert pass_backward(layer, received, numbers[number + 1], numbers[number]) == sent
    assert peel(origin_of(VECTOR_HOPS), bodies[-1], numbers[0]) == (writer, area)


def through(writer: int, area: bytes, numbers: Sequence[int]) -> bytes:
    """What the first hop sends of a cell that hop number `writer` wrote."""
    body = ref.write(VECTOR_HOPS[writer], area, bytes(85), numbers[writer])
    for hop in reversed(range(writer)):
        body = ref.pass_on(VECTOR_HOPS[hop], body, numbers[hop + 1], numbers[hop])
    return body


SEALED: Final = 1 + 16 + AREA_SIZE
"""Bytes of a backward body that its writer vouches for; behind them stands what passing on cuts away."""


@given(st.integers(0, 2), st.data())
def test_a_bit_flipped_under_the_seal_or_in_a_pass_dies_at_the_originator(writer: int, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, (7 * writer + SEALED) * 8 - 1))
    layers = origin_of(VECTOR_HOPS)
    body = through(writer, b"a" * AREA_SIZE, (10, 20, 30))
    bad = bytearray(body)
    bad[bit // 8] ^= 1 << bit % 8
    assert isinstance(peel(layers, bytes(bad), 10), Drop)
    assert peel(layers, body, 10) == (writer, b"a" * AREA_SIZE), "and no window has moved"


@given(st.integers(0, 2), st.data())
def test_a_bit_flipped_in_the_tail_changes_nothing_that_is_delivered(writer: int, data: st.DataObject) -> None:
    """The tail is no message: altering it is not seen, and shows nothing to anybody but who altered it."""
    bit = data.draw(st.integers((7 * writer + SEALED) * 8, BODY_SIZE * 8 - 1))
    bad = bytearray(through(writer, b"a" * AREA_SIZE, (10, 20, 30)))
    bad[bit // 8] ^= 1 << bit % 8
    assert peel(origin_of(VECTOR_HOPS), bytes(bad), 10) == (writer, b"a" * AREA_SIZE)


def test_the_writer_of_a_backward_cell_is_opened_once_whoever_repeats_it() -> None:
    """A hop on the way cannot replay under a counter of its own: the writer's counter decides."""
    layers = origin_of(VECTOR_HOPS)
    written = ref.write(VECTOR_HOPS[1], b"a" * AREA_SIZE, bytes(85), 20)
    first, again = (ref.pass_on(VECTOR_HOPS[0], written, 20, counter) for counter in (10, 11))
    assert peel(layers, first, 10) == (1, b"a" * AREA_SIZE)
    assert peel(layers, first, 10) is Drop.REPLAYED
    assert peel(layers, again, 11) is Drop.REPLAYED


def test_a_hop_cannot_pass_a_cell_off_as_newer_or_as_another_hops() -> None:
    layers = origin_of(VECTOR_HOPS)
    written = ref.write(VECTOR_HOPS[1], b"a" * AREA_SIZE, bytes(85), 20)
    newer = ref.pass_on(VECTOR_HOPS[0], written, 21, 10)
    deeper = ref.pass_on(VECTOR_HOPS[0], ref.pass_on(VECTOR_HOPS[0], written, 20, 19), 19, 10)
    assert peel(layers, newer, 10) is Drop.BAD_TAG
    assert peel(layers, deeper, 10) is Drop.BAD_TAG


@pytest.mark.parametrize("flag", range(2, 256, 23))
def test_a_flag_that_does_not_exist_drops_the_cell(flag: int) -> None:
    nonce = ref.nonce_of(Command.RELAY, 10)
    plain = bytes([flag]) + ref.sealed(VECTOR_HOPS[0].seal, nonce, bytes(AREA_SIZE)) + bytes(85)
    body = ref.xor(plain, ref.keystream(VECTOR_HOPS[0].backward, nonce, BODY_SIZE))
    assert peel(origin_of(VECTOR_HOPS), body, 10) is Drop.BAD_TAG


@pytest.mark.parametrize("built", range(1, MAX_HOPS + 1))
def test_a_cell_that_was_passed_on_by_the_last_hop_is_dropped(built: int) -> None:
    """Behind the last hop nobody shares a key with us: whatever it passes on is not from this circuit."""
    body = make_onion.drawn("from behind", BODY_SIZE)
    for hop in reversed(range(built)):
        body = ref.pass_on(VECTOR_HOPS[hop], body, 7, 7)
    assert peel(origin_of(VECTOR_HOPS[:built]), body, 7) is Drop.BAD_TAG


def test_a_counter_beyond_the_limit_is_dropped_wherever_it_stands() -> None:
    layers = origin_of(VECTOR_HOPS)
    for counter in (COUNTER_LIMIT, (1 << 48) - 1):
        written = ref.write(VECTOR_HOPS[1], bytes(AREA_SIZE), bytes(85), counter)
        assert peel(layers, ref.pass_on(VECTOR_HOPS[0], written, counter, 10), 10) is Drop.BAD_COUNTER


@given(st.binary(min_size=BODY_SIZE, max_size=BODY_SIZE), counters)
def test_garbage_is_dropped_both_ways(body: bytes, counter: int) -> None:
    layer = RelayLayer(keys_of(VECTOR_HOPS[0]), FixedRng())
    assert open_forward(layer, body, Command.RELAY, counter)[0] is Drop.BAD_TAG
    assert isinstance(peel(origin_of(VECTOR_HOPS), body, counter), Drop)


# --- keys ---------------------------------------------------------------------------------------------


def test_a_wiped_layer_opens_nothing() -> None:
    origin = origin_of(VECTOR_HOPS)
    body = wrap(origin, 0, b"", 3, 5)
    layer = RelayLayer(keys_of(VECTOR_HOPS[0]), FixedRng())
    layer.wipe()
    assert open_forward(layer, body, 3, 5)[0] is Drop.BAD_TAG


def test_no_repr_shows_a_key() -> None:
    origin, layer = origin_of(VECTOR_HOPS), RelayLayer(keys_of(VECTOR_HOPS[0]), FixedRng())
    shown = repr([origin, layer, keys_of(VECTOR_HOPS[0])])
    for hop in VECTOR_HOPS:
        for secret in (hop.forward, hop.backward, hop.seal, hop.filler):
            assert secret.hex() not in shown
            assert repr(secret) not in shown
