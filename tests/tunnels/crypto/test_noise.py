"""Noise IK: the rules around the published messages (test_published_vectors.py)."""

import contextlib
from collections.abc import Callable
from typing import Final, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.crypto.noise import IK, MAX_MESSAGE, MAX_NONCE, CipherState, HandshakeState, Role
from tunnels.crypto.rng import StreamRng
from tunnels.crypto.x25519 import KeyPair
from tunnels.errors import LocalError, RemoteError
from tunnels.ids import Rng

ALICE: Final = KeyPair(b"alice".ljust(32, b"."))
BOB: Final = KeyPair(b"bob".ljust(32, b"."))
MALLORY: Final = KeyPair(b"mallory".ljust(32, b"."))


def dice(seed: int = 0) -> StreamRng:
    return StreamRng(seed.to_bytes(32))


def initiator(prologue: bytes = b"", s: KeyPair = ALICE, rs: bytes = BOB.public) -> HandshakeState:
    return HandshakeState(IK, Role.INITIATOR, prologue, s, rs)


def responder(prologue: bytes = b"", s: KeyPair = BOB) -> HandshakeState:
    return HandshakeState(IK, Role.RESPONDER, prologue, s)


class LowOrder(KeyPair):
    """What an attacker sends as its key: everybody's secret with it would be zeros, known to the whole world."""

    __slots__ = ()

    def __init__(self, private: bytes) -> None:
        super().__init__(private)
        self.public = bytes(32)  # type: ignore[misc]

    @classmethod
    def generate(cls, rng: Rng) -> Self:
        return cls(rng.bytes(32))

    def exchange(self, public: bytes) -> bytes:
        return bytes(32)


def test_payloads_go_both_ways_and_both_sides_end_with_the_same_keys() -> None:
    a, b = initiator(), responder()
    assert b.read_message(a.write_message(b"one", dice(1))) == b"one"
    assert b.rs == ALICE.public
    assert a.read_message(b.write_message(b"two", dice(2))) == b"two"
    assert a.get_handshake_hash() == b.get_handshake_hash()
    assert [c.key_bytes() for c in a.split()] == [c.key_bytes() for c in b.split()]
    there, back = a.split()
    assert there.key_bytes() != back.key_bytes()


@pytest.mark.parametrize(
    "other",
    [
        lambda: responder(prologue=b"another"),
        lambda: responder(s=MALLORY),
    ],
    ids=["prologue", "static"],
)
def test_a_responder_with_another_prologue_or_static_cannot_read(other: Callable[[], HandshakeState]) -> None:
    message = initiator().write_message(b"one", dice())
    with pytest.raises(RemoteError):
        other().read_message(message)


def test_a_failed_read_changes_nothing_at_the_responder() -> None:
    message, b = initiator().write_message(b"one", dice()), responder()
    for cut in range(len(message)):
        with pytest.raises(RemoteError):
            b.read_message(message[:cut])
    for forged in (message + b"x", initiator(s=MALLORY, rs=MALLORY.public).write_message(b"one", dice(7))):
        with pytest.raises(RemoteError):
            b.read_message(forged)
    assert b.rs is None
    assert b.read_message(message) == b"one"


def test_a_failed_read_changes_nothing_at_the_initiator() -> None:
    a, b = initiator(), responder()
    b.read_message(a.write_message(b"", dice(1)))
    message = b.write_message(b"two", dice(2))
    for place in range(len(message)):
        forged = bytearray(message)
        forged[place] ^= 0x80
        with pytest.raises(RemoteError):
            a.read_message(bytes(forged))
    assert a.read_message(message) == b"two"


@given(message=st.binary(max_size=200))
def test_garbage_is_a_remote_error_and_never_anything_else(message: bytes) -> None:
    b = responder()
    with pytest.raises(RemoteError):
        b.read_message(message)


def test_an_ephemeral_of_low_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = initiator(), responder()
    with monkeypatch.context() as attack:
        attack.setattr("tunnels.crypto.noise.KeyPair", LowOrder)
        message = a.write_message(b"", dice())
    with pytest.raises(RemoteError, match="X25519"):
        b.read_message(message)


def test_a_static_of_low_order_is_refused() -> None:
    message = initiator(s=LowOrder(bytes(range(32)))).write_message(b"", dice())
    with pytest.raises(RemoteError, match="X25519"):
        responder().read_message(message)


def test_a_responders_ephemeral_of_low_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = initiator(), responder()
    b.read_message(a.write_message(b"", dice(1)))
    with monkeypatch.context() as attack:
        attack.setattr("tunnels.crypto.noise.KeyPair", LowOrder)
        message = b.write_message(b"", dice(2))
    with pytest.raises(RemoteError, match="X25519"):
        a.read_message(message)


def test_a_remote_static_of_low_order_is_refused_before_anything_is_sent() -> None:
    a = initiator(rs=bytes(32))
    with pytest.raises(RemoteError):
        a.write_message(b"", dice())


def test_nobody_writes_or_reads_out_of_turn() -> None:
    a, b = initiator(), responder()
    with pytest.raises(LocalError):
        b.write_message(b"", dice())
    with pytest.raises(LocalError):
        a.read_message(b"")
    first = a.write_message(b"", dice(1))
    with pytest.raises(LocalError):
        a.write_message(b"", dice(1))
    b.read_message(first)
    a.read_message(b.write_message(b"", dice(2)))
    with pytest.raises(LocalError, match="finished"):
        a.write_message(b"", dice(3))
    with pytest.raises(LocalError, match="finished"):
        b.read_message(b"")


def test_there_are_no_keys_before_the_end() -> None:
    a = initiator()
    a.write_message(b"", dice())
    with pytest.raises(LocalError, match="not finished"):
        a.split()
    with pytest.raises(LocalError, match="not finished"):
        a.get_handshake_hash()


@pytest.mark.parametrize(("role", "rs"), [(Role.INITIATOR, None), (Role.RESPONDER, BOB.public), (Role.INITIATOR, b"")])
def test_the_remote_static_is_given_exactly_where_the_pattern_knows_it(role: Role, rs: bytes | None) -> None:
    with pytest.raises(LocalError):
        HandshakeState(IK, role, b"", ALICE, rs)


def test_a_message_has_at_most_65535_bytes_and_a_longer_one_changes_nothing() -> None:
    a, b, overhead = initiator(), responder(), 32 + 48 + 16
    with pytest.raises(LocalError):
        a.write_message(bytes(MAX_MESSAGE - overhead + 1), dice())
    with pytest.raises(RemoteError):
        b.read_message(bytes(MAX_MESSAGE + 1))
    longest = bytes(MAX_MESSAGE - overhead)
    assert b.read_message(a.write_message(longest, dice())) == longest


def test_a_fork_goes_its_own_way() -> None:
    a, b = initiator(), responder()
    b.read_message(a.write_message(b"", dice(1)))
    fork = b.fork()
    one, two = b.write_message(b"one", dice(2)), fork.write_message(b"two", dice(3))
    assert a.fork().read_message(one) == b"one"
    assert a.fork().read_message(two) == b"two"


def test_a_cipher_counts_what_it_opened_and_not_what_it_refused() -> None:
    sender, receiver = CipherState(bytes(32)), CipherState(bytes(32))
    first, second = sender.encrypt_with_ad(b"", b"one"), sender.encrypt_with_ad(b"", b"one")
    assert first != second
    with contextlib.suppress(RemoteError):
        receiver.decrypt_with_ad(b"", second)
    assert receiver.decrypt_with_ad(b"", first) == b"one"
    with pytest.raises(RemoteError):
        receiver.decrypt_with_ad(b"", first)
    assert receiver.decrypt_with_ad(b"", second) == b"one"


def test_the_last_nonce_is_never_used() -> None:
    cipher = CipherState(bytes(32), MAX_NONCE - 1)
    cipher.encrypt_with_ad(b"", b"")
    with pytest.raises(LocalError, match="used up"):
        cipher.encrypt_with_ad(b"", b"")


def test_a_cipher_without_key_passes_on_and_has_no_key_to_show() -> None:
    cipher = CipherState()
    assert cipher.encrypt_with_ad(b"ad", b"text") == cipher.decrypt_with_ad(b"ad", b"text") == b"text"
    with pytest.raises(LocalError):
        cipher.key_bytes()


def test_no_key_is_printed() -> None:
    a, b = initiator(), responder()
    b.read_message(a.write_message(b"", dice(1)))
    a.read_message(b.write_message(b"", dice(2)))
    cipher = a.split()[0]
    for thing in (a, cipher):
        assert repr(thing).startswith("<tunnels.crypto.noise.")
