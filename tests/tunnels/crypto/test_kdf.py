"""HKDF and BLAKE2s beyond their published vectors (test_published_vectors.py)."""

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from tunnels.crypto.kdf import MAX_EXPANDED, blake2s_hash, blake2s_mac, hkdf, hkdf_expand, hkdf_extract
from tunnels.errors import LocalError

some = st.binary(max_size=200)


@given(salt=some, ikm=some, info=some, length=st.integers(1, MAX_EXPANDED))
def test_hkdf_agrees_with_another_implementation(salt: bytes, ikm: bytes, info: bytes, length: int) -> None:
    assert hkdf(salt, ikm, info, length) == HKDF(SHA256(), length, salt=salt, info=info).derive(ikm)


@given(prk=some, info=some, length=st.integers(0, 300))
def test_a_shorter_key_is_the_beginning_of_a_longer_one(prk: bytes, info: bytes, length: int) -> None:
    assert hkdf_expand(prk, info, 300)[:length] == hkdf_expand(prk, info, length)


@pytest.mark.parametrize("length", [-1, MAX_EXPANDED + 1, 1 << 40])
def test_more_than_255_blocks_are_our_own_fault(length: int) -> None:
    with pytest.raises(LocalError):
        hkdf_expand(bytes(32), b"", length)


def test_salt_and_key_material_are_not_interchangeable() -> None:
    assert hkdf_extract(b"a", b"b") != hkdf_extract(b"b", b"a")


def test_the_keyed_hash_has_16_bytes_and_needs_its_key() -> None:
    assert len(blake2s_mac(bytes(32), b"data")) == 16
    assert blake2s_mac(bytes(32), b"data") != blake2s_mac(b"\1" + bytes(31), b"data")
    assert blake2s_mac(bytes(32), b"data") != blake2s_hash(bytes(32) + b"data")[:16]
    assert blake2s_mac(bytes(32), memoryview(b"data")) == blake2s_mac(bytes(32), b"data")
