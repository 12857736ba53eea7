"""SPEC 4.2, 4.3 and 4.5 as tests: who gets keys, and who must not."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.crypto.kem import Kem, MlKem768, MlKem768Key, keypair_from_seed
from tunnels.crypto.noise import IK, CipherState, HandshakeState, Role
from tunnels.crypto.rng import StreamRng
from tunnels.crypto.x25519 import KeyPair
from tunnels.errors import LocalError, RemoteError
from tunnels.ids import Index, Rng
from tunnels.link.handshake import (
    Initiation,
    Initiator,
    SessionKeys,
    index_bytes,
    prologue,
    read_initiation,
    tai64n,
)
from tunnels.params import KEM_CIPHERTEXT_SIZE, KEM_PUBLIC_SIZE, M1_SIZE, M2_SIZE

VECTOR: Final = {
    name: bytes.fromhex(value)
    for name, value in json.loads((Path(__file__).parents[2] / "vectors" / "link.json").read_text()).items()
    if name != "about"
}

NET: Final = b"tropea"
ALICE: Final = KeyPair(b"alice".ljust(32, b"."))
BOB: Final = KeyPair(b"bob".ljust(32, b"."))
MALLORY: Final = KeyPair(b"mallory".ljust(32, b"."))
HERS: Final = Index(0xA1B2C3D4)
HIS: Final = Index(0x01020304)
NOON: Final = tai64n(1_700_000_000.5)
KEM: Final[Kem] = MlKem768()

M1_FIELDS: Final = {
    "e": (0, 32),
    "s": (32, 64),
    "tag of s": (64, 80),
    "ek": (80, 80 + KEM_PUBLIC_SIZE),
    "timestamp": (80 + KEM_PUBLIC_SIZE, 92 + KEM_PUBLIC_SIZE),
    "tag": (92 + KEM_PUBLIC_SIZE, M1_SIZE),
}
M2_FIELDS: Final = {
    "e": (0, 32),
    "ct": (32, 32 + KEM_CIPHERTEXT_SIZE),
    "index": (32 + KEM_CIPHERTEXT_SIZE, 36 + KEM_CIPHERTEXT_SIZE),
    "tag": (36 + KEM_CIPHERTEXT_SIZE, M2_SIZE),
}


def dice(seed: int = 0) -> StreamRng:
    return StreamRng(seed.to_bytes(32))


def begin(
    *,
    static: KeyPair = ALICE,
    remote: bytes = BOB.public,
    index: Index = HERS,
    timestamp: bytes = NOON,
    network_id: bytes = NET,
    seed: int = 1,
    kem: Kem = KEM,
) -> Initiator:
    return Initiator(network_id, static, remote, index, timestamp, dice(seed), kem)


def read(m1: bytes, *, static: KeyPair = BOB, index: Index = HERS, network_id: bytes = NET) -> Initiation:
    return read_initiation(m1, network_id=network_id, static=static, index=index)


def views_match(initiator: SessionKeys, responder: SessionKeys) -> bool:
    return (initiator.send_header, initiator.send_seal, initiator.receive_header, initiator.receive_seal) == (
        responder.receive_header,
        responder.receive_seal,
        responder.send_header,
        responder.send_seal,
    )


def flipped(message: bytes, bit: int) -> bytes:
    altered = bytearray(message)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)


@dataclass
class Fixed:
    """An Rng that draws the given values, one each call."""

    drawn: list[bytes]

    def bytes(self, size: int) -> bytes:
        assert len(self.drawn[0]) == size
        return self.drawn.pop(0)

    def below(self, limit: int) -> int:
        raise AssertionError(limit)


class FixedKem(MlKem768):
    """The exchange of the vector: `cryptography` cannot be told what to draw."""

    def keypair(self) -> tuple[bytes, MlKem768Key]:
        return keypair_from_seed(VECTOR["mlkem_seed"])

    def encapsulate(self, ek: bytes) -> tuple[bytes, bytes]:
        assert ek == self.keypair()[0]
        return VECTOR["ct"], VECTOR["ss"]


# --- the vector, made by code that is not ours ----------------------------------------------


def test_both_messages_and_all_keys_are_those_of_the_vector() -> None:
    index, answer_index = (Index(int.from_bytes(VECTOR[name])) for name in ("initiator_index", "responder_index"))
    alice, bob = KeyPair(VECTOR["initiator_static"]), KeyPair(VECTOR["responder_static"])
    initiator = Initiator(
        VECTOR["network_id"],
        alice,
        bob.public,
        index,
        VECTOR["timestamp"],
        Fixed([VECTOR["initiator_ephemeral"]]),
        FixedKem(),
    )
    assert initiator.m1 == VECTOR["m1"]
    initiation = read_initiation(VECTOR["m1"], network_id=VECTOR["network_id"], static=bob, index=index)
    assert (initiation.static, initiation.index) == (alice.public, index)
    assert initiation.timestamp == VECTOR["timestamp"]
    m2, answered = initiation.answer(answer_index, Fixed([VECTOR["responder_ephemeral"]]), FixedKem())
    assert m2 == VECTOR["m2"]
    finished, peer = initiator.finish(VECTOR["m2"])
    assert peer == answer_index
    assert finished == SessionKeys(
        send_header=VECTOR["header_key_i_to_r"],
        send_seal=VECTOR["seal_key_i_to_r"],
        receive_header=VECTOR["header_key_r_to_i"],
        receive_seal=VECTOR["seal_key_r_to_i"],
    )
    assert views_match(finished, answered)


def test_the_timestamp_of_the_vector_is_its_time() -> None:
    assert tai64n(1_700_841_472.5) == VECTOR["timestamp"]


def test_the_prologue_is_the_one_of_the_specification() -> None:
    assert prologue(b"net", HIS) == b"tropea link 1" + b"\x03net" + b"\x01\x02\x03\x04"


# --- what must happen -----------------------------------------------------------------------


def test_both_sides_get_the_same_four_keys_and_each_others_index() -> None:
    initiator = begin()
    initiation = read(initiator.m1)
    assert (len(initiator.m1), initiation.static, initiation.timestamp) == (M1_SIZE, ALICE.public, NOON)
    m2, answered = initiation.answer(HIS, dice(2), KEM)
    finished, index = initiator.finish(m2)
    assert (len(m2), index) == (M2_SIZE, HIS)
    assert views_match(finished, answered)
    keys = {getattr(finished, field.name) for field in fields(finished)}
    assert {len(key) for key in keys} == {32}
    assert len(keys) == 4


def test_every_handshake_gives_other_keys() -> None:
    seen = set()
    for seed in range(5):
        initiator = begin(seed=seed)
        m2, _ = read(initiator.m1).answer(HIS, dice(100), KEM)
        seen.add(initiator.finish(m2)[0].send_seal)
    assert len(seen) == 5


def test_an_initiation_that_is_played_again_shows_the_same_timestamp() -> None:
    m1 = begin().m1
    once, again = read(m1), read(m1)
    assert (once.static, once.timestamp) == (again.static, again.timestamp)


def test_an_initiation_that_is_played_again_gives_no_keys_twice() -> None:
    m1 = begin().m1
    (_, once), (_, again) = read(m1).answer(HIS, dice(1), KEM), read(m1).answer(HIS, dice(2), KEM)
    assert once.send_header != again.send_header
    assert once.receive_seal != again.receive_seal


# --- what must not --------------------------------------------------------------------------


@pytest.mark.parametrize("field", M1_FIELDS)
def test_no_bit_of_an_initiation_can_be_changed(field: str) -> None:
    m1 = begin().m1
    start, end = M1_FIELDS[field]
    places = range(start, end) if end - start <= 48 else (start, (start + end) // 2, end - 1)
    for place in places:
        for bit in (0, 7):
            with pytest.raises(RemoteError):
                read(flipped(m1, 8 * place + bit))


@pytest.mark.parametrize("field", M2_FIELDS)
def test_no_bit_of_an_answer_can_be_changed_and_the_true_one_still_works(field: str) -> None:
    initiator = begin()
    m2, answered = read(initiator.m1).answer(HIS, dice(2), KEM)
    start, end = M2_FIELDS[field]
    places = range(start, end) if end - start <= 48 else (start, (start + end) // 2, end - 1)
    for place in places:
        for bit in (0, 7):
            with pytest.raises(RemoteError):
                initiator.finish(flipped(m2, 8 * place + bit))
    assert views_match(initiator.finish(m2)[0], answered)


@given(bit=st.integers(0, 8 * M1_SIZE - 1))
def test_no_bit_at_all_of_an_initiation_can_be_changed(bit: int) -> None:
    bob, index = KeyPair(VECTOR["responder_static"]), Index(int.from_bytes(VECTOR["initiator_index"]))
    with pytest.raises(RemoteError):
        read(flipped(VECTOR["m1"], bit), static=bob, index=index)


def test_another_network_cannot_read_an_initiation() -> None:
    for other in (b"Tropea", b"tropea1", b"trope", b"a"):
        with pytest.raises(RemoteError):
            read(begin().m1, network_id=other)


def test_another_version_cannot_read_an_initiation(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr("tunnels.link.handshake._PROLOGUE", b"tropea link 2")
        m1 = begin().m1
    with pytest.raises(RemoteError):
        read(m1)


def test_another_index_cannot_be_put_before_an_initiation() -> None:
    with pytest.raises(RemoteError):
        read(begin().m1, index=Index(HERS ^ 1))


def test_nobody_else_can_read_an_initiation() -> None:
    with pytest.raises(RemoteError):
        read(begin().m1, static=MALLORY)


def test_an_answer_to_another_initiation_is_refused() -> None:
    mine, other = begin(seed=1), begin(seed=2)
    m2, _ = read(other.m1).answer(HIS, dice(3), KEM)
    with pytest.raises(RemoteError):
        mine.finish(m2)


def test_an_answer_from_somebody_who_cannot_read_the_initiation_is_refused() -> None:
    """Mallory knows every public key, and that Alice begins: that is not enough to be Bob."""
    initiator, lure = begin(), begin(remote=MALLORY.public)
    m2, _ = read(lure.m1, static=MALLORY).answer(HIS, dice(3), KEM)
    with pytest.raises(RemoteError):
        initiator.finish(m2)


def test_an_initiation_in_somebody_elses_name_is_refused() -> None:
    """Mallory claims Alice's static without holding its private key."""

    class Claiming(KeyPair):
        __slots__ = ()

        def __init__(self, private: bytes) -> None:
            super().__init__(private)
            self.public = ALICE.public  # type: ignore[misc]

    with pytest.raises(RemoteError):
        read(begin(static=Claiming(bytes(range(32)))).m1)


class LowOrder(KeyPair):
    """A key whose every shared secret is zeros: its owner, and everybody, knows them beforehand."""

    __slots__ = ()

    def __init__(self, private: bytes) -> None:
        super().__init__(private)
        self.public = bytes(32)  # type: ignore[misc]

    @classmethod
    def generate(cls, rng: Rng) -> Self:
        return cls(rng.bytes(32))

    def exchange(self, public: bytes) -> bytes:
        return bytes(32)


def test_an_initiator_whose_ephemeral_has_low_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as attack:
        attack.setattr("tunnels.crypto.noise.KeyPair", LowOrder)
        m1 = begin().m1
    with pytest.raises(RemoteError, match="X25519"):
        read(m1)


def test_an_initiator_whose_static_has_low_order_is_refused() -> None:
    """Without this rule anybody could be this initiator."""
    with pytest.raises(RemoteError, match="X25519"):
        read(begin(static=LowOrder(bytes(range(32)))).m1)


def test_a_responder_whose_ephemeral_has_low_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    initiator = begin()
    initiation = read(initiator.m1)
    with monkeypatch.context() as attack:
        attack.setattr("tunnels.crypto.noise.KeyPair", LowOrder)
        m2, _ = initiation.answer(HIS, dice(2), KEM)
    with pytest.raises(RemoteError, match="X25519"):
        initiator.finish(m2)


def test_a_responder_whose_static_has_low_order_gets_nothing() -> None:
    with pytest.raises(RemoteError):
        begin(remote=bytes(32))


def test_an_encapsulation_key_that_is_not_reduced_is_refused_and_nothing_is_answered() -> None:
    class Overflowing(MlKem768):
        def keypair(self) -> tuple[bytes, MlKem768Key]:
            ek, dk = super().keypair()
            return b"\xff\xff" + ek[2:], dk

    initiation = read(begin(kem=Overflowing()).m1)
    with pytest.raises(RemoteError):
        initiation.answer(HIS, dice(2), KEM)


def test_a_responder_index_that_looks_like_ipv8_is_refused_and_the_true_answer_still_works() -> None:
    initiator = begin()
    m1 = initiator.m1
    noise = HandshakeState(IK, Role.RESPONDER, prologue(NET, HERS), BOB)
    ct, _ = KEM.encapsulate(noise.fork().read_message(m1)[:KEM_PUBLIC_SIZE])
    noise.read_message(m1)
    with pytest.raises(RemoteError, match="zero byte"):
        initiator.finish(noise.write_message(ct + b"\x00\xff\xff\xff", dice(2)))
    m2, answered = read(m1).answer(HIS, dice(3), KEM)
    assert views_match(initiator.finish(m2)[0], answered)


def test_an_initiator_index_that_looks_like_ipv8_is_refused() -> None:
    with pytest.raises(RemoteError, match="zero byte"):
        read(begin().m1, index=Index(0x00FFFFFF))


# --- both halves count ----------------------------------------------------------------------


def test_who_lacks_the_kem_secret_lacks_every_key() -> None:
    class Elsewhere(MlKem768):
        """Sends a good ciphertext and believes in another secret: all else is equal."""

        def encapsulate(self, ek: bytes) -> tuple[bytes, bytes]:
            ct, ss = super().encapsulate(ek)
            return ct, flipped(ss, 0)

    initiator = begin()
    m2, answered = read(initiator.m1).answer(HIS, dice(2), Elsewhere())
    finished, _ = initiator.finish(m2)
    assert not {finished.send_header, finished.send_seal} & {answered.receive_header, answered.receive_seal}
    assert not {finished.receive_header, finished.receive_seal} & {answered.send_header, answered.send_seal}


@pytest.mark.parametrize("number", [0, 1], ids=["k1", "k2"])
def test_who_lacks_an_x25519_secret_lacks_every_key(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transcript and the KEM secret are equal on both sides: only what Noise made of the exchanges differs."""
    initiator = begin()
    m2, answered = read(initiator.m1).answer(HIS, dice(2), KEM)
    split = HandshakeState.split

    def guessed(noise: HandshakeState) -> tuple[CipherState, ...]:
        keys = [cipher.key_bytes() for cipher in split(noise)]
        keys[number] = flipped(keys[number], 0)
        return tuple(CipherState(key) for key in keys)

    monkeypatch.setattr(HandshakeState, "split", guessed)
    finished, _ = initiator.finish(m2)
    assert not {finished.send_header, finished.send_seal} & {answered.receive_header, answered.receive_seal}
    assert not {finished.receive_header, finished.receive_seal} & {answered.send_header, answered.send_seal}


def test_the_ciphertext_is_bound_to_the_keys() -> None:
    """Two ciphertexts with one secret must not give one session."""

    class Same(MlKem768):
        def encapsulate(self, ek: bytes) -> tuple[bytes, bytes]:
            return super().encapsulate(ek)[0], bytes(32)

    initiation = read(begin().m1)
    (_, one), (_, two) = initiation.answer(HIS, dice(2), Same()), initiation.answer(HIS, dice(2), Same())
    assert one.send_seal != two.send_seal


# --- hostile bytes and our own mistakes -----------------------------------------------------


@given(m1=st.binary(max_size=2000) | st.binary(min_size=M1_SIZE, max_size=M1_SIZE), index=st.integers(0, 2**32 - 1))
def test_garbage_is_no_initiation_and_never_anything_else(m1: bytes, index: int) -> None:
    with pytest.raises(RemoteError):
        read(m1, index=Index(index))


@given(m2=st.binary(max_size=2000) | st.binary(min_size=M2_SIZE, max_size=M2_SIZE))
def test_garbage_is_no_answer_and_never_anything_else(m2: bytes) -> None:
    with pytest.raises(RemoteError):
        GARBAGE_EATER.finish(m2)


GARBAGE_EATER: Final = begin()


@pytest.mark.parametrize("network_id", [b"", bytes(33)])
def test_a_network_id_of_another_size_is_our_own_fault(network_id: bytes) -> None:
    with pytest.raises(LocalError):
        begin(network_id=network_id)


@pytest.mark.parametrize("index", [0, 0x00FFFFFF, 1 << 32, -1])
def test_an_index_that_is_none_is_our_own_fault(index: int) -> None:
    with pytest.raises(LocalError):
        index_bytes(Index(index))
    with pytest.raises(LocalError):
        begin(index=Index(index))
    with pytest.raises(LocalError):
        read(begin().m1).answer(Index(index), dice(), KEM)


@pytest.mark.parametrize("size", [0, 11, 13])
def test_a_timestamp_of_another_size_is_our_own_fault(size: int) -> None:
    with pytest.raises(LocalError):
        begin(timestamp=bytes(size))


def test_no_key_is_printed() -> None:
    initiator = begin()
    initiation = read(initiator.m1)
    _, keys = initiation.answer(HIS, dice(2), KEM)
    assert repr(keys) == "SessionKeys()"
    assert repr(initiator).startswith("<tunnels.link.handshake.Initiator object")
    assert repr(initiation).startswith("<tunnels.link.handshake.Initiation object")


# --- TAI64N ---------------------------------------------------------------------------------


@given(st.floats(0, 1e11), st.floats(0, 1e11))
def test_timestamps_sort_as_their_times(one: float, two: float) -> None:
    if one <= two:
        assert tai64n(one) <= tai64n(two)
    else:
        assert tai64n(one) >= tai64n(two)


def test_a_timestamp_is_the_label_of_its_second_and_the_nanoseconds() -> None:
    assert tai64n(0.0) == bytes.fromhex("400000000000000a 00000000")
    assert tai64n(1.25) == bytes.fromhex("400000000000000b 0ee6b280")


@given(st.floats(0, 1e11))
def test_nanoseconds_stay_below_a_second(wall: float) -> None:
    assert int.from_bytes(tai64n(wall)[8:]) < 10**9


@pytest.mark.parametrize("wall", [-1.0, float("nan"), float("inf"), 1e30])
def test_what_is_no_time_is_our_own_fault(wall: float) -> None:
    with pytest.raises(LocalError):
        tai64n(wall)
