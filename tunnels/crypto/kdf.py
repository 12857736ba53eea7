"""Key derivation and hashing: HKDF with SHA-256 (RFC 5869), and the BLAKE2s forms the links use (RFC 7693).  Floor 2.

Pure functions of bytes; which label goes into which key is said where the key is used.
"""

import hmac
from hashlib import blake2s
from typing import Final

from tunnels.errors import LocalError

HASH_SIZE: Final = 32
"""Bytes that SHA-256 and BLAKE2s-256 give."""

MAX_EXPANDED: Final = 255 * HASH_SIZE
"""Bytes that one key can be expanded to: the block number is one byte (RFC 5869 2.3)."""

MAC_SIZE: Final = 16
"""Bytes of a keyed BLAKE2s-128 (SPEC 4.4)."""


def hkdf_extract(salt: bytes, ikm: bytes) -> bytes:
    """PRK of RFC 5869 2.2.  An empty salt means 32 zeros, as there."""
    return hmac.digest(salt, ikm, "sha256")


def hkdf_expand(prk: bytes, info: bytes, length: int) -> bytes:
    """OKM of RFC 5869 2.3.

    Raises:
        LocalError: more than MAX_EXPANDED bytes were asked for.
    """
    if not 0 <= length <= MAX_EXPANDED:
        raise LocalError(f"HKDF gives up to {MAX_EXPANDED} bytes, not {length}")
    okm = block = b""
    for number in range(1, -(-length // HASH_SIZE) + 1):
        block = hmac.digest(prk, block + info + bytes((number,)), "sha256")
        okm += block
    return okm[:length]


def hkdf(salt: bytes, ikm: bytes, info: bytes, length: int) -> bytes:
    """Extract, then expand (RFC 5869 2).

    Raises:
        LocalError: as `hkdf_expand`.
    """
    return hkdf_expand(hkdf_extract(salt, ikm), info, length)


def blake2s_hash(data: bytes) -> bytes:
    """BLAKE2s-256, without key."""
    return blake2s(data).digest()


def blake2s_mac(key: bytes, data: bytes | memoryview) -> bytes:
    """BLAKE2s-128 with a key of 1 to 32 bytes (RFC 7693 2.9)."""
    return blake2s(data, key=key, digest_size=MAC_SIZE).digest()


def hmac_blake2s(key: bytes, data: bytes) -> bytes:
    """HMAC with BLAKE2s-256: HMAC-HASH of Noise 4.3, which does not use BLAKE2's own keyed form."""
    return hmac.digest(key, data, blake2s)
