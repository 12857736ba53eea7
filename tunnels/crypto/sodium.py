"""The one binding to libsodium: functions of addresses, bound once (SPEC 3).  Floor 2.

HOT PATH.  Everything here is a direct ctypes call on memory the caller owns; `libnacl`'s own wrappers copy into new
buffers and cost twice as much.  Addresses are plain integers, so slices cost an addition: the caller keeps the buffer
alive and the bounds right.  Only this module imports libnacl (tests/test_house.py).

  cost    about 1.2 us + 0.7 ns a byte for an AEAD call (python -m bench handshake prints this machine's)
"""

import ctypes
import hmac
from typing import Final

import libnacl

from tunnels.errors import LocalError

_sodium = ctypes.PyDLL(libnacl.nacl._name)  # noqa: SLF001 (the library that libnacl found)
"""Keeps the interpreter's lock during a call: a call is shorter than handing the lock over, which every thread that
waits for it would make us do twice a cell."""

_P, _N, _IC = ctypes.c_void_p, ctypes.c_ulonglong, ctypes.c_uint32

Buffer = bytearray | memoryview
"""Writable memory.  A `bytearray` must not be resized while an address into it is in use."""

open_at = _sodium.crypto_aead_chacha20poly1305_ietf_decrypt_detached
open_at.argtypes = [_P, _P, _P, _N, _P, _P, _N, _P, _P]
"""open_at(text, None, ciphertext, size, tag, None, 0, nonce, key) -> 0 when the tag is right.  RFC 8439 2.8."""

seal_at = _sodium.crypto_aead_chacha20poly1305_ietf_encrypt_detached
seal_at.argtypes = [_P, _P, _P, _P, _N, _P, _N, _P, _P, _P]
"""seal_at(ciphertext, tag, None, text, size, None, 0, None, nonce, key).  RFC 8439 2.8."""

xor_at = _sodium.crypto_stream_chacha20_ietf_xor_ic
xor_at.argtypes = [_P, _P, _N, _P, _IC, _P]
"""xor_at(out, data, size, nonce, first block, key).  libsodium aborts the process when the block counter overflows:
every caller passes a constant first block and a size below one cell."""

stream_at = _sodium.crypto_stream_chacha20_ietf
stream_at.argtypes = [_P, _N, _P, _P]
"""stream_at(out, size, nonce, key): keystream from block 0."""

_xseal = _sodium.crypto_aead_xchacha20poly1305_ietf_encrypt
_xseal.argtypes = [_P, _P, _P, _N, _P, _N, _P, _P, _P]
_xopen = _sodium.crypto_aead_xchacha20poly1305_ietf_decrypt
_xopen.argtypes = [_P, _P, _P, _P, _N, _P, _N, _P, _P]
_memzero = _sodium.sodium_memzero
_memzero.argtypes = [_P, ctypes.c_size_t]
_memzero.restype = None


def address_of(buffer: Buffer) -> int:
    """Where `buffer` lies in memory.  About 0.4 us: once a batch, not once a cell."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


class Key:
    """Key bytes at a fixed address, wiped by `wipe` and when dropped.  Never printed.

    Python may have copied the bytes it was made from before they got here; docs/decisions.md says what cannot be wiped.
    """

    __slots__ = ("_buffer", "at")

    def __init__(self, key: bytes) -> None:
        self._buffer = (ctypes.c_char * len(key)).from_buffer_copy(key)
        self.at: Final = ctypes.addressof(self._buffer)

    def wipe(self) -> None:
        _memzero(self.at, len(self._buffer))

    def __del__(self) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"Key({len(self._buffer)} bytes)"


def wipe(buffer: bytearray) -> None:
    """Overwrite with zeros in a way no optimiser removes."""
    if buffer:
        _memzero(address_of(buffer), len(buffer))


def _check_sizes(key: bytes, nonce: bytes, nonce_size: int) -> None:
    """The library is told no sizes of keys and nonces: it would read past the end of a short one."""
    if len(key) != 32 or len(nonce) != nonce_size:
        raise LocalError(f"a key of 32 and a nonce of {nonce_size} bytes are needed, not {len(key)} and {len(nonce)}")


def equal(a: bytes, b: bytes) -> bool:
    """Constant-time comparison of two tags."""
    return hmac.compare_digest(a, b)


def chacha20(key: bytes, nonce: bytes, data: bytes) -> bytes:
    """`data` xor the keystream from block 0 (RFC 8439 2.4).  For handshakes: copies."""
    _check_sizes(key, nonce, 12)
    out = ctypes.create_string_buffer(len(data))
    xor_at(out, data, len(data), nonce, 0, key)
    return out.raw


def seal(key: bytes, nonce: bytes, text: bytes, ad: bytes = b"") -> bytes:
    """ChaCha20-Poly1305, ciphertext then tag (RFC 8439 2.8).  For handshakes: copies."""
    _check_sizes(key, nonce, 12)
    out = ctypes.create_string_buffer(len(text) + 16)
    at = ctypes.addressof(out)
    seal_at(at, at + len(text), None, text, len(text), ad, len(ad), None, nonce, key)
    return out.raw


def open_sealed(key: bytes, nonce: bytes, sealed: bytes, ad: bytes = b"") -> bytes | None:
    """What `seal` was given, or None when the tag is wrong or missing."""
    _check_sizes(key, nonce, 12)
    size = len(sealed) - 16
    if size < 0:
        return None
    out = ctypes.create_string_buffer(max(size, 1))
    if open_at(out, None, sealed, size, sealed[size:], ad, len(ad), nonce, key):
        return None
    return out.raw[:size]


def xseal(key: bytes, nonce: bytes, text: bytes, ad: bytes) -> bytes:
    """XChaCha20-Poly1305 with a 24-byte nonce (draft-irtf-cfrg-xchacha-03), ciphertext then tag."""
    _check_sizes(key, nonce, 24)
    out = ctypes.create_string_buffer(len(text) + 16)
    _xseal(out, None, text, len(text), ad, len(ad), None, nonce, key)
    return out.raw


def xopen(key: bytes, nonce: bytes, sealed: bytes, ad: bytes) -> bytes | None:
    """What `xseal` was given, or None."""
    _check_sizes(key, nonce, 24)
    if len(sealed) < 16:
        return None
    out = ctypes.create_string_buffer(max(len(sealed) - 16, 1))
    if _xopen(out, None, None, sealed, len(sealed), ad, len(ad), nonce, key):
        return None
    return out.raw[: len(sealed) - 16]
