"""Signatures by IPv8 keys: every kind, and nothing that was not signed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipv8.keyvault.crypto import default_eccrypto
from ipv8.keyvault.keys import PrivateKey

from tunnels import identity
from tunnels.identity import sign_with, verify

KINDS = ("very-low", "low", "medium", "high", "curve25519")
KEYS = {kind: default_eccrypto.generate_key(kind) for kind in KINDS}
MESSAGE = b"what was signed, and nothing else"

kinds = pytest.mark.parametrize("kind", KINDS)


def public(key: PrivateKey) -> bytes:
    return key.pub().key_to_bin()


def test_the_kinds_are_all_that_ipv8_has() -> None:
    assert set(KINDS) == set(default_eccrypto.security_levels)


@kinds
def test_a_key_of_any_kind_signs_and_only_its_owner_does(kind: str) -> None:
    signature = sign_with(KEYS[kind])(MESSAGE)
    assert verify(public(KEYS[kind]), MESSAGE, signature)
    assert not verify(public(KEYS[kind]), MESSAGE + b"\0", signature)
    for other in KINDS:
        if other != kind:
            assert not verify(public(KEYS[other]), MESSAGE, signature)
    assert not verify(public(default_eccrypto.generate_key(kind)), MESSAGE, signature)


@kinds
def test_no_flipped_bit_of_a_signature_is_taken(kind: str) -> None:
    signature = sign_with(KEYS[kind])(MESSAGE)
    for at in range(len(signature)):
        changed = bytearray(signature)
        changed[at] ^= 1 << at % 8
        assert not verify(public(KEYS[kind]), MESSAGE, bytes(changed))


@kinds
def test_a_key_has_one_spelling(kind: str) -> None:
    key = public(KEYS[kind])
    signature = sign_with(KEYS[kind])(MESSAGE)
    for other in (key + b"\0", key + key, key[:-1], b"\0" + key, KEYS[kind].key_to_bin()):
        assert not verify(other, MESSAGE, signature)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "curve25519"])
def test_a_point_written_in_another_form_is_another_key_that_signed_nothing(kind: str) -> None:
    key = public(KEYS[kind])
    signature = sign_with(KEYS[kind])(MESSAGE)
    for at in range(len(key)):
        for bit in range(8):
            changed = bytearray(key)
            changed[at] ^= 1 << bit
            assert not verify(bytes(changed), MESSAGE, signature)


@kinds
def test_a_signature_has_one_length(kind: str) -> None:
    signature = sign_with(KEYS[kind])(MESSAGE)
    for other in (b"", signature[:-1], signature + b"\0", b"\0" + signature, signature * 2):
        assert not verify(public(KEYS[kind]), MESSAGE, other)


def test_a_signature_of_something_longer_is_none_of_its_tail_where_the_library_joins_the_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Joining:
        """Verifies `signature + message` as a whole, as py-ipv8 3.2.0 does."""

        def __init__(self, key: bytes) -> None:
            self._key = default_eccrypto.key_from_public_bin(key)

        def key_to_bin(self) -> bytes:
            return self._key.key_to_bin()

        def get_signature_length(self) -> int:
            return self._key.get_signature_length()

        def verify(self, signature: bytes, message: bytes) -> bool:
            joined, size = signature + message, self.get_signature_length()
            return self._key.verify(joined[:size], joined[size:])

    class Library:
        key_from_public_bin = staticmethod(Joining)

        @staticmethod
        def is_valid_signature(key: Joining, message: bytes, signature: bytes) -> bool:
            return key.verify(signature, message)

    key = KEYS["curve25519"]
    longer = b"an IPv8 message of the victim that ends with: " + MESSAGE
    borrowed = sign_with(key)(longer) + longer.removesuffix(MESSAGE)
    monkeypatch.setattr(identity, "default_eccrypto", Library)
    assert Joining(public(key)).verify(borrowed, MESSAGE), "else there is nothing to defend against"
    assert verify(public(key), MESSAGE, sign_with(key)(MESSAGE))
    assert not verify(public(key), MESSAGE, borrowed)


@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda tail: b"LibNaCLPK:" + tail), st.binary(max_size=200),
       st.binary(max_size=200))  # fmt: skip
def test_garbage_never_raises_and_signed_nothing(key: bytes, message: bytes, signature: bytes) -> None:
    assert not verify(key, message, signature)


@given(st.sampled_from(KINDS), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_damaged_key_never_raises(kind: str, damage: list[tuple[int, int]]) -> None:
    key = bytearray(public(KEYS[kind]))
    for at, value in damage:
        key[at % len(key)] = value
    if bytes(key) != public(KEYS[kind]) and not (kind == "curve25519" and key[42:] == public(KEYS[kind])[42:]):
        assert not verify(bytes(key), MESSAGE, sign_with(KEYS[kind])(MESSAGE))
