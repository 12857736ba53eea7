"""X25519 key pairs beyond the published vectors (test_published_vectors.py)."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.crypto.rng import StreamRng
from tunnels.crypto.x25519 import KeyPair
from tunnels.errors import LocalError, RemoteError

scalars = st.binary(min_size=32, max_size=32)


@given(a=scalars, b=scalars)
def test_both_sides_compute_the_same_secret(a: bytes, b: bytes) -> None:
    assert KeyPair(a).exchange(KeyPair(b).public) == KeyPair(b).exchange(KeyPair(a).public)


@given(public=st.binary(max_size=64))
def test_any_bytes_are_a_key_or_a_remote_error_and_never_anything_else(public: bytes) -> None:
    with contextlib.suppress(RemoteError):
        assert len(KeyPair(bytes(range(32))).exchange(public)) == 32


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_public_key_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(RemoteError):
        KeyPair(bytes(range(32))).exchange(b"\x09" * size)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_private_key_of_another_size_is_our_own_fault(size: int) -> None:
    with pytest.raises(LocalError):
        KeyPair(b"\x09" * size)


def test_the_private_key_comes_from_the_given_dice() -> None:
    pair = KeyPair.generate(StreamRng(bytes(32)))
    assert pair.private_bytes() == StreamRng(bytes(32)).bytes(32)
    assert KeyPair(pair.private_bytes()).public == pair.public


def test_no_key_is_printed() -> None:
    pair = KeyPair(bytes(range(32)))
    for shown in (repr(pair), str(pair), f"{pair}"):
        assert pair.private_bytes().hex() not in shown
        assert pair.public.hex() not in shown
        assert repr(pair.public) not in shown


def test_a_refused_key_is_not_repeated_in_the_error() -> None:
    with pytest.raises(RemoteError) as refused:
        KeyPair(bytes(range(32))).exchange(bytes(32))
    assert "00" not in str(refused.value)
    assert refused.value.__suppress_context__
