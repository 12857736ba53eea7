"""SPEC 4.1 to 4.4 as tests: what a datagram shows, and what passes the gate."""

import json
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.crypto.kdf import blake2s_hash, blake2s_mac
from tunnels.crypto.kem import MlKem768
from tunnels.crypto.rng import StreamRng
from tunnels.crypto.x25519 import KeyPair
from tunnels.errors import LocalError, RemoteError
from tunnels.ids import Address, Index
from tunnels.link.datagrams import (
    CookieMaker,
    Gate,
    build_cookie_reply,
    build_initiation,
    build_response,
    mac1_of,
    open_cookie_reply,
)
from tunnels.link.handshake import Initiator, read_initiation, tai64n
from tunnels.params import CELL_SIZE, COOKIE_LIFETIME, M1_SIZE, M2_SIZE

VECTOR: Final = {
    name: bytes.fromhex(value)
    for name, value in json.loads((Path(__file__).parents[2] / "vectors" / "link.json").read_text()).items()
    if name != "about"
}

ALICE: Final = KeyPair(b"alice".ljust(32, b"."))
BOB: Final = KeyPair(b"bob".ljust(32, b"."))
MALLORY: Final = KeyPair(b"mallory".ljust(32, b"."))
HERS: Final = Index(0xA1B2C3D4)
HIS: Final = Index(0x01020304)
SENDER: Final[Address] = ("192.0.2.7", 4711)

INITIATION_FIELDS: Final = {
    "index": (0, 4),
    "salt": (4, 16),
    "e": (16, 48),
    "s": (48, 96),
    "payload": (96, 1308),
    "random": (1308, 1318),
    "mac1": (1318, 1334),
    "mac2": (1334, 1350),
}
"""Not to be computed from the code they check (SPEC 4.2)."""

RESPONSE_FIELDS: Final = {
    "index": (0, 4),
    "salt": (4, 16),
    "e": (16, 48),
    "payload": (48, 1156),
    "random": (1156, 1318),
    "mac1": (1318, 1334),
    "mac2": (1334, 1350),
}

GATE: Final = Gate(BOB.public)


def dice(seed: int = 0) -> StreamRng:
    return StreamRng(seed.to_bytes(32))


def begin(seed: int = 1) -> Initiator:
    return Initiator(b"tropea", ALICE, BOB.public, HERS, tai64n(1.7e9), dice(seed), MlKem768())


M1: Final = begin().m1
M2: Final = dice(4).bytes(M2_SIZE)
INITIATION: Final = build_initiation(M1, HERS, BOB.public, None, dice(2))
RESPONSE: Final = build_response(M2, HERS, ALICE.public, dice(3))


def flipped(datagram: bytes, place: int, bit: int = 0) -> bytes:
    altered = bytearray(datagram)
    altered[place] ^= 1 << bit
    return bytes(altered)


def signed_again(datagram: bytes, receiver: bytes) -> bytes:
    """With the mac1 that anybody can make who knows the receiver's static key."""
    signed = datagram[:1318]
    return signed + blake2s_mac(blake2s_hash(b"tropea mac1 1" + receiver), signed) + datagram[1334:]


class Fixed:
    """An Rng that draws the given values in this order."""

    def __init__(self, *drawn: bytes) -> None:
        self._drawn = list(drawn)

    def bytes(self, size: int) -> bytes:
        assert len(self._drawn[0]) == size
        return self._drawn.pop(0)

    def below(self, limit: int) -> int:
        raise AssertionError(limit)


# --- the vector, made by code that is not ours ----------------------------------------------


def test_the_initiation_is_that_of_the_vector() -> None:
    responder = KeyPair(VECTOR["responder_static"]).public
    index = Index(int.from_bytes(VECTOR["initiator_index"]))
    rng = Fixed(VECTOR["initiation_salt"], VECTOR["initiation_filler"])
    cookie = VECTOR["cookie_of_192.0.2.7_port_4711"]
    assert build_initiation(VECTOR["m1"], index, responder, cookie, rng) == VECTOR["initiation"]
    assert Gate(responder).open_initiation(VECTOR["initiation"]) == (index, VECTOR["m1"])


def test_the_response_is_that_of_the_vector() -> None:
    initiator = KeyPair(VECTOR["initiator_static"]).public
    index = Index(int.from_bytes(VECTOR["initiator_index"]))
    rng = Fixed(VECTOR["response_salt"], VECTOR["response_filler"], bytes(16))
    response = build_response(VECTOR["m2"], index, initiator, rng)
    assert response == VECTOR["response_without_mac2"] + bytes(16)
    assert Gate(initiator).open_response(response) == VECTOR["m2"]


def test_the_cookie_is_that_of_the_vector() -> None:
    maker = CookieMaker(Fixed(VECTOR["cookie_secret"], bytes(32)), 0.0)
    assert maker.cookie(SENDER, 0.0) == VECTOR["cookie_of_192.0.2.7_port_4711"]
    assert maker.verify(VECTOR["initiation"], SENDER, 0.0)


# --- what a datagram shows ------------------------------------------------------------------


def test_every_datagram_has_the_size_of_a_cell_and_none_begins_like_ipv8() -> None:
    reply = build_cookie_reply(HERS, INITIATION, bytes(16), BOB.public, dice())
    for datagram in (INITIATION, RESPONSE, reply):
        assert len(datagram) == CELL_SIZE
        assert datagram[:4] == HERS.to_bytes(4)


@pytest.mark.parametrize("index", [0, 0x00FFFFFF, 1 << 32])
def test_an_index_that_looks_like_ipv8_is_our_own_fault(index: int) -> None:
    with pytest.raises(LocalError):
        build_initiation(M1, Index(index), BOB.public, None, dice())
    with pytest.raises(LocalError):
        build_response(M2, Index(index), ALICE.public, dice())
    with pytest.raises(LocalError):
        build_cookie_reply(Index(index), INITIATION, bytes(16), BOB.public, dice())


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_message_of_another_size_is_our_own_fault(wrong: int) -> None:
    with pytest.raises(LocalError):
        build_initiation(bytes(M1_SIZE + wrong), HERS, BOB.public, None, dice())
    with pytest.raises(LocalError):
        build_response(bytes(M2_SIZE + wrong), HERS, ALICE.public, dice())


@pytest.mark.parametrize(("datagram", "message"), [(INITIATION, M1), (RESPONSE, M2)], ids=["1", "2"])
def test_the_ephemeral_key_is_nowhere_in_its_datagram(datagram: bytes, message: bytes) -> None:
    assert message[:32] not in datagram
    assert datagram[48 : 16 + len(message)] == message[32:]


def test_one_key_is_masked_differently_for_every_salt_and_every_receiver() -> None:
    masks = {build_initiation(M1, HERS, BOB.public, None, dice(seed))[16:48] for seed in range(50)}
    assert len(masks) == 50
    fixed = [Fixed(bytes(12), bytes(10), bytes(16)) for _ in range(2)]
    for_bob = build_initiation(M1, HERS, BOB.public, None, fixed[0])
    for_mallory = build_initiation(M1, HERS, MALLORY.public, None, fixed[1])
    assert for_bob[16:48] != for_mallory[16:48]


def test_the_top_bit_that_every_key_lacks_is_as_often_set_as_not() -> None:
    """512 coins: outside 180 to 332 happens once in 10^11."""
    keys = [KeyPair.generate(dice(seed)).public for seed in range(512)]
    shown = [build_initiation(key + M1[32:], HERS, BOB.public, None, dice(seed)) for seed, key in enumerate(keys)]
    assert not any(key[31] & 0x80 for key in keys)
    assert 180 < sum(datagram[47] >> 7 for datagram in shown) < 332


def test_what_is_random_is_drawn_anew_each_time() -> None:
    one, two = (build_initiation(M1, HERS, BOB.public, None, dice(seed)) for seed in (1, 2))
    for field in ("salt", "random", "mac2"):
        start, end = INITIATION_FIELDS[field]
        assert one[start:end] != two[start:end]
    one, two = (build_response(M2, HERS, ALICE.public, dice(seed)) for seed in (1, 2))
    for field in ("salt", "random", "mac2"):
        start, end = RESPONSE_FIELDS[field]
        assert one[start:end] != two[start:end]
        assert one[start : start + 10] != bytes(10)


# --- the gate -------------------------------------------------------------------------------


def test_what_was_built_opens_to_what_was_put_in() -> None:
    assert GATE.open_initiation(INITIATION) == (HERS, M1)
    assert Gate(ALICE.public).open_response(RESPONSE) == M2


def test_a_datagram_for_somebody_else_does_not_pass() -> None:
    assert Gate(MALLORY.public).open_initiation(INITIATION) is None
    assert Gate(MALLORY.public).open_response(RESPONSE) is None
    assert Gate(BOB.public).open_response(RESPONSE) is None


@pytest.mark.parametrize("field", [name for name in INITIATION_FIELDS if name != "mac2"])
def test_no_bit_of_an_initiation_before_mac2_can_be_changed(field: str) -> None:
    for place in range(*INITIATION_FIELDS[field]):
        assert GATE.open_initiation(flipped(INITIATION, place, place % 8)) is None


@pytest.mark.parametrize("field", [name for name in RESPONSE_FIELDS if name != "mac2"])
def test_no_bit_of_a_response_before_mac2_can_be_changed(field: str) -> None:
    for place in range(*RESPONSE_FIELDS[field]):
        assert Gate(ALICE.public).open_response(flipped(RESPONSE, place, place % 8)) is None


@pytest.mark.parametrize("field", ["index", "salt", "e", "s", "payload"])
def test_whoever_can_make_mac1_still_cannot_change_an_initiation(field: str) -> None:
    start, end = INITIATION_FIELDS[field]
    for place in {start, (start + end) // 2, end - 1}:
        opened = GATE.open_initiation(signed_again(flipped(INITIATION, place), BOB.public))
        assert opened is not None, "the gate only knows mac1"
        index, m1 = opened
        with pytest.raises(RemoteError):
            read_initiation(m1, network_id=b"tropea", static=BOB, index=index)


@pytest.mark.parametrize("field", ["salt", "e", "payload"])
def test_whoever_can_make_mac1_still_cannot_change_a_response(field: str) -> None:
    initiator = begin()
    initiation = read_initiation(initiator.m1, network_id=b"tropea", static=BOB, index=HERS)
    m2, _ = initiation.answer(HIS, dice(), MlKem768())
    response, gate = build_response(m2, HERS, ALICE.public, dice()), Gate(ALICE.public)
    start, end = RESPONSE_FIELDS[field]
    for place in {start, (start + end) // 2, end - 1}:
        opened = gate.open_response(signed_again(flipped(response, place), ALICE.public))
        assert opened is not None, "the gate only knows mac1"
        with pytest.raises(RemoteError):
            initiator.finish(opened)
    opened = gate.open_response(response)
    assert opened == m2
    assert initiator.finish(m2)[1] == HIS


def test_a_datagram_that_begins_like_ipv8_does_not_pass_even_with_a_good_mac1() -> None:
    datagram = signed_again(b"\0" + INITIATION[1:], BOB.public)
    assert GATE.open_initiation(datagram) is None
    assert GATE.open_response(datagram) is None


@given(datagram=st.binary(max_size=2 * CELL_SIZE) | st.binary(min_size=CELL_SIZE, max_size=CELL_SIZE))
def test_garbage_of_any_size_is_none_and_never_anything_else(datagram: bytes) -> None:
    assert GATE.open_initiation(datagram) is None
    assert GATE.open_response(datagram) is None
    assert open_cookie_reply(datagram, mac1_of(INITIATION), BOB.public) is None
    assert not CookieMaker(dice(), 0.0).verify(datagram, SENDER, 0.0)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 1317, 1334, 1349, 1351, 2 * 1350])
def test_another_size_is_none(size: int) -> None:
    datagram = (INITIATION + INITIATION)[:size]
    assert GATE.open_initiation(datagram) is None
    assert GATE.open_response(datagram) is None
    assert open_cookie_reply(datagram, bytes(16), BOB.public) is None
    assert not CookieMaker(dice(), 0.0).verify(datagram, SENDER, 0.0)


# --- cookies --------------------------------------------------------------------------------


def with_cookie(cookie: bytes) -> bytes:
    return build_initiation(M1, HERS, BOB.public, cookie, dice())


def test_a_cookie_travels_and_comes_back_as_a_mac2_that_verifies() -> None:
    maker = CookieMaker(dice(), 0.0)
    reply = build_cookie_reply(HERS, INITIATION, maker.cookie(SENDER, 0.0), BOB.public, dice(9))
    cookie = open_cookie_reply(reply, mac1_of(INITIATION), BOB.public)
    assert cookie is not None
    assert maker.verify(with_cookie(cookie), SENDER, 0.0)
    assert GATE.open_initiation(with_cookie(cookie)) == (HERS, M1)


def test_an_initiation_without_cookie_does_not_verify() -> None:
    assert not CookieMaker(dice(), 0.0).verify(INITIATION, SENDER, 0.0)


@pytest.mark.parametrize(
    "other",
    [("192.0.2.8", 4711), ("192.0.2.7", 4712), ("192.0.2.74", 711), ("2001:db8::7", 4711), ("192.0.2.7", 4711 ^ 0x100)],
)
def test_a_cookie_is_good_for_one_address_and_port(other: Address) -> None:
    maker = CookieMaker(dice(), 0.0)
    datagram = with_cookie(maker.cookie(SENDER, 0.0))
    assert maker.verify(datagram, SENDER, 0.0)
    assert not maker.verify(datagram, other, 0.0)


def test_a_cookie_of_another_responder_is_refused() -> None:
    datagram = with_cookie(CookieMaker(dice(1), 0.0).cookie(SENDER, 0.0))
    assert not CookieMaker(dice(2), 0.0).verify(datagram, SENDER, 0.0)


def test_no_byte_under_mac2_can_be_changed() -> None:
    maker = CookieMaker(dice(), 0.0)
    datagram = with_cookie(maker.cookie(SENDER, 0.0))
    for start, end in INITIATION_FIELDS.values():
        for place in {start, (start + end) // 2, end - 1}:
            assert not maker.verify(flipped(datagram, place), SENDER, 0.0)


@given(made=st.floats(0, 1e6), later=st.floats(0, 1000))
def test_a_cookie_is_good_for_one_period_at_least_and_two_at_most(made: float, later: float) -> None:
    maker = CookieMaker(dice(), 0.0)
    datagram = with_cookie(maker.cookie(SENDER, made))
    good = maker.verify(datagram, SENDER, made + later)
    if later < COOKIE_LIFETIME - 1e-6:
        assert good
    if later >= 2 * COOKIE_LIFETIME:
        assert not good


@given(times=st.lists(st.floats(0, 600), min_size=1, max_size=10).map(sorted), idle=st.floats(240, 1e5))
def test_a_cookie_dies_however_often_the_secret_is_used_or_left_alone(times: list[float], idle: float) -> None:
    maker = CookieMaker(dice(), 0.0)
    datagram = with_cookie(maker.cookie(SENDER, 0.0))
    for now in times:
        assert maker.verify(datagram, SENDER, now) == (now < 2 * COOKIE_LIFETIME)
    assert not maker.verify(datagram, SENDER, idle)


def test_a_clock_that_steps_back_brings_no_old_secret_back_and_loses_no_new_one() -> None:
    maker = CookieMaker(dice(), 0.0)
    old = with_cookie(maker.cookie(SENDER, 0.0))
    new = with_cookie(maker.cookie(SENDER, 2 * COOKIE_LIFETIME))
    assert not maker.verify(old, SENDER, 0.0)
    assert maker.verify(new, SENDER, 0.0)


def test_a_cookie_reply_opens_only_for_who_sent_that_initiation() -> None:
    cookie = CookieMaker(dice(), 0.0).cookie(SENDER, 0.0)
    reply = build_cookie_reply(HERS, INITIATION, cookie, BOB.public, dice(9))
    other = build_initiation(M1, HERS, BOB.public, None, dice(5))
    assert open_cookie_reply(reply, mac1_of(INITIATION), BOB.public) == cookie
    assert open_cookie_reply(reply, mac1_of(other), BOB.public) is None
    assert open_cookie_reply(reply, mac1_of(INITIATION), MALLORY.public) is None
    for place in range(4, 60):
        assert open_cookie_reply(flipped(reply, place), mac1_of(INITIATION), BOB.public) is None


def test_a_cookie_reply_is_neither_an_initiation_nor_a_response() -> None:
    reply = build_cookie_reply(HERS, INITIATION, bytes(16), BOB.public, dice(9))
    for static in (ALICE.public, BOB.public):
        assert Gate(static).open_initiation(reply) is None
        assert Gate(static).open_response(reply) is None
    assert open_cookie_reply(RESPONSE, mac1_of(INITIATION), BOB.public) is None


def test_a_cookie_is_nowhere_in_its_reply() -> None:
    cookie = CookieMaker(dice(), 0.0).cookie(SENDER, 0.0)
    assert cookie not in build_cookie_reply(HERS, INITIATION, cookie, BOB.public, dice(9))


def test_no_secret_is_printed() -> None:
    maker = CookieMaker(dice(), 0.0)
    assert repr(maker).startswith("<tunnels.link.datagrams.CookieMaker object")
    assert repr(GATE).startswith("<tunnels.link.datagrams.Gate object")
