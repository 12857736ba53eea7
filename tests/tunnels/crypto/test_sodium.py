"""The binding to libsodium: sizes, places and secrecy; the published vectors are in test_published_vectors.py."""

import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.crypto import sodium
from tunnels.errors import LocalError

KEY = bytes(range(0x80, 0xA0))
NONCE = bytes(range(12))
XNONCE = bytes(range(0x40, 0x58))

texts = st.binary(max_size=300)


def test_xchacha20_poly1305_seals_as_the_draft_says() -> None:
    """draft-irtf-cfrg-xchacha-03 A.3.1."""
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    ad = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    sealed = bytes.fromhex(
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39"
        "ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
        "21f9664c97637da9768812f615c68b13b52e"
        "c0875924c1c7987947deafd8780acf49"
    )
    assert sodium.xseal(KEY, XNONCE, text, ad) == sealed
    assert sodium.xopen(KEY, XNONCE, sealed, ad) == text


@given(text=texts, ad=texts)
def test_what_was_sealed_opens(text: bytes, ad: bytes) -> None:
    assert sodium.open_sealed(KEY, NONCE, sodium.seal(KEY, NONCE, text, ad), ad) == text
    assert sodium.xopen(KEY, XNONCE, sodium.xseal(KEY, XNONCE, text, ad), ad) == text


@given(text=texts, ad=texts, data=st.data())
def test_one_changed_bit_anywhere_is_refused(text: bytes, ad: bytes, data: st.DataObject) -> None:
    for seal, opened, nonce in ((sodium.seal, sodium.open_sealed, NONCE), (sodium.xseal, sodium.xopen, XNONCE)):
        sealed = bytearray(seal(KEY, nonce, text, ad))
        bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
        sealed[bit // 8] ^= 1 << bit % 8
        assert opened(KEY, nonce, bytes(sealed), ad) is None


def test_other_associated_data_is_refused() -> None:
    assert sodium.open_sealed(KEY, NONCE, sodium.seal(KEY, NONCE, b"text", b"a"), b"b") is None
    assert sodium.xopen(KEY, XNONCE, sodium.xseal(KEY, XNONCE, b"text", b"a"), b"b") is None


@given(sealed=texts)
def test_garbage_does_not_open_whatever_its_size(sealed: bytes) -> None:
    assert sodium.open_sealed(KEY, NONCE, sealed) is None
    assert sodium.xopen(KEY, XNONCE, sealed, b"") is None


@pytest.mark.parametrize("key", [b"", KEY[:31], KEY + b"x"])
@pytest.mark.parametrize(
    "function",
    [
        lambda key: sodium.seal(key, NONCE, b""),
        lambda key: sodium.open_sealed(key, NONCE, bytes(16)),
        lambda key: sodium.xseal(key, XNONCE, b"", b""),
        lambda key: sodium.xopen(key, XNONCE, bytes(16), b""),
        lambda key: sodium.chacha20(key, NONCE, b""),
    ],
)
def test_a_key_of_another_size_never_reaches_the_library(function: object, key: bytes) -> None:
    assert callable(function)
    with pytest.raises(LocalError):
        function(key)


@pytest.mark.parametrize("nonce", [b"", bytes(11), bytes(13), bytes(23), bytes(25)])
def test_a_nonce_of_another_size_never_reaches_the_library(nonce: bytes) -> None:
    with pytest.raises(LocalError):
        sodium.seal(KEY, nonce, b"")
    with pytest.raises(LocalError):
        sodium.open_sealed(KEY, nonce, bytes(16))
    with pytest.raises(LocalError):
        sodium.chacha20(KEY, nonce, b"")
    with pytest.raises(LocalError):
        sodium.xseal(KEY, nonce, b"", b"")
    with pytest.raises(LocalError):
        sodium.xopen(KEY, nonce, bytes(16), b"")


@given(text=st.binary(min_size=1, max_size=1330), before=st.integers(0, 40), after=st.integers(0, 40))
def test_sealing_in_place_writes_its_own_bytes_and_no_others(text: bytes, before: int, after: int) -> None:
    buffer = bytearray(b"\xaa" * (before + 16) + text + b"\xbb" * after)
    tag_at = sodium.address_of(buffer) + before
    text_at = tag_at + 16
    key, nonce = sodium.Key(KEY), sodium.Key(NONCE)
    sodium.seal_at(text_at, tag_at, None, text_at, len(text), None, 0, None, nonce.at, key.at)
    sealed = sodium.seal(KEY, NONCE, text)
    assert bytes(buffer) == b"\xaa" * before + sealed[-16:] + sealed[:-16] + b"\xbb" * after
    assert sodium.open_at(text_at, None, text_at, len(text), tag_at, None, 0, nonce.at, key.at) == 0
    assert bytes(buffer[before + 16 : before + 16 + len(text)]) == text


@given(text=st.binary(min_size=1, max_size=200), place=st.integers(0, 15))
def test_opening_in_place_reports_a_wrong_tag_and_leaves_zeros(text: bytes, place: int) -> None:
    sealed = bytearray(sodium.seal(KEY, NONCE, text))
    sealed[len(text) + place] ^= 1
    at = sodium.address_of(sealed)
    assert sodium.open_at(at, None, at, len(text), at + len(text), None, 0, NONCE, KEY) != 0
    assert bytes(sealed[: len(text)]) == bytes(len(text))


@given(data=st.binary(min_size=1, max_size=500))
def test_the_stream_cipher_undoes_itself(data: bytes) -> None:
    once = sodium.chacha20(KEY, NONCE, data)
    assert sodium.chacha20(KEY, NONCE, once) == data
    out = bytearray(data)
    at = sodium.address_of(out)
    sodium.xor_at(at, at, len(out), NONCE, 0, KEY)
    assert out == once


def test_a_key_stays_where_it_is_and_is_wiped_on_demand() -> None:
    key = sodium.Key(KEY)
    assert ctypes.string_at(key.at, 32) == KEY
    key.wipe()
    assert ctypes.string_at(key.at, 32) == bytes(32)


def test_a_key_is_never_printed() -> None:
    for shown in (repr(sodium.Key(KEY)), str(sodium.Key(KEY))):
        assert shown == "Key(32 bytes)"


def test_wiping_leaves_zeros_and_takes_an_empty_buffer() -> None:
    buffer = bytearray(KEY)
    sodium.wipe(buffer)
    assert buffer == bytes(32)
    sodium.wipe(bytearray())


def test_an_address_is_that_of_the_buffer_and_of_a_slice_of_it() -> None:
    buffer = bytearray(KEY)
    at = sodium.address_of(buffer)
    assert ctypes.string_at(at, 32) == KEY
    assert sodium.address_of(memoryview(buffer)[5:]) == at + 5


@given(a=texts, b=texts)
def test_equal_means_equal(a: bytes, b: bytes) -> None:
    assert sodium.equal(a, b) == (a == b)
    assert sodium.equal(a, bytes(a))
