"""Random bytes fast enough to pad every cell: ChaCha20 with fast key erasure.  Floor 2.

One system call for 1200 bytes costs 3.5 us here, more than the layer of a cell; a keystream costs 0.3 ns a byte.  Each
refill makes a new key from the first 32 bytes of the old key's stream, and what was drawn for a key (up to 64 bytes) is
overwritten at once, so a later theft of the state does not open what was drawn before (D. J. Bernstein,
"Fast-key-erasure random-number generators", 2017).  Padding stays in the pool until the next refill: it is no secret.
"""

import ctypes
import secrets
from typing import Final

from tunnels.crypto import sodium
from tunnels.errors import LocalError

_REFILL: Final = 16384
"""Bytes per refill: 256 blocks, and small enough that a fork-free process wastes nothing."""

_NONCE: Final = bytes(12)


class StreamRng:
    """Deterministic from `seed` (32 bytes); the simulator's Rng, and the engine inside `SystemRng`."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise LocalError(f"a seed is 32 bytes, not {len(seed)}")
        self._key = sodium.Key(seed)
        self._pool = bytearray(_REFILL)
        self._at = sodium.address_of(self._pool)
        self._used = _REFILL

    def _refill(self) -> None:
        sodium.stream_at(self._at, _REFILL, _NONCE, self._key.at)
        ctypes.memmove(self._key.at, self._at, 32)
        self._pool[:32] = _ZEROS[:32]
        self._used = 32

    def bytes(self, size: int) -> bytes:
        used = self._used
        if used + size <= _REFILL:
            self._used = used + size
            drawn = bytes(self._pool[used : used + size])
            if size <= len(_ZEROS):
                self._pool[used : used + size] = _ZEROS[:size]
            return drawn
        parts = [bytes(self._pool[used:])]
        missing = size - len(parts[0])
        while missing > 0:
            self._refill()
            take = min(missing, _REFILL - 32)
            parts.append(bytes(self._pool[32 : 32 + take]))
            if take <= len(_ZEROS):
                self._pool[32 : 32 + take] = _ZEROS[:take]
            self._used += take
            missing -= take
        return b"".join(parts)

    def below(self, limit: int) -> int:
        if limit < 1:
            raise LocalError(f"cannot draw below {limit}")
        size = (limit.bit_length() + 7) // 8
        mask = (1 << limit.bit_length()) - 1
        while True:  # rejection: no value is likelier than another
            if (drawn := int.from_bytes(self.bytes(size)) & mask) < limit:
                return drawn


_ZEROS: Final = bytes(64)


class SystemRng(StreamRng):
    """Seeded from the operating system.  A forked child would repeat its parent's bytes: nothing of ours forks after
    start.
    """

    def __init__(self) -> None:
        super().__init__(secrets.token_bytes(32))
