"""A relay's onion keys: the current one and the one before (SPEC 5.1).  Floor 2: `now` and the dice come in.

A key is the current one for ONION_KEY_LIFETIME and is accepted for as long again, so that an originator with the last
relay descriptor still gets through.  After that its secret is gone, and recorded handshakes under it stay closed.

Times are wall seconds, because they outlive the process; wall clocks jump:

  forward   one rotation at the next `rotate`, however far: births are measured, not counted off a calendar
  back      a key cannot be born in the future: `rotate` moves such a birth to `now`.  The key stays, and its life is
            counted from there, so a clock that was once years ahead does not make a key live for years

Does not know where keys are saved, nor who is told about a new one.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from tunnels.crypto.handshake import keyid_of
from tunnels.crypto.x25519 import KeyPair
from tunnels.errors import LocalError
from tunnels.ids import Rng
from tunnels.params import ONION_KEY_LIFETIME, X25519_SIZE

_FORMAT: Final = 1
"""First byte of the saved form."""
_ENTRY: Final = struct.Struct(f">d{X25519_SIZE}s")
_SAVED_SIZES: Final = (1 + _ENTRY.size, 1 + 2 * _ENTRY.size)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DatedKey:
    """An onion key and when it was made, in wall seconds."""

    pair: KeyPair
    keyid: bytes
    birth: float

    @classmethod
    def of(cls, pair: KeyPair, birth: float) -> Self:
        """Raises LocalError when `birth` is no time."""
        if not math.isfinite(birth):
            raise LocalError(f"{birth} is no time")
        return cls(pair, keyid_of(pair.public), birth)

    @property
    def due(self) -> float:
        """When the next key takes its place."""
        return self.birth + ONION_KEY_LIFETIME

    @property
    def end(self) -> float:
        """When it opens no handshake any more.

        Added in two steps: so it is, to the last bit, when a successor that came in time is due.
        """
        return self.due + ONION_KEY_LIFETIME

    def not_after(self, now: float) -> "DatedKey":
        """The key, born at `now` at the latest."""
        return self if self.birth <= now else DatedKey(self.pair, self.keyid, now)


class OnionKeys:
    """INVARIANT: there is a current key until `wipe`, and the one before was born no later.

    Call `rotate` at start, when `next_rotation` has come, and once a day: somebody may have set the clock back.
    """

    __slots__ = ("_current", "_previous", "_rng")

    def __init__(self, rng: Rng, current: DatedKey, previous: DatedKey | None = None) -> None:
        if previous is not None and previous.birth > current.birth:
            raise LocalError("the current onion key is the older one")
        self._rng = rng
        self._current: DatedKey | None = current
        self._previous = previous

    @classmethod
    def generate(cls, now: float, rng: Rng) -> Self:
        """Those of a relay that starts for the first time."""
        return cls(rng, DatedKey.of(KeyPair.generate(rng), now))

    def _live(self) -> DatedKey:
        if self._current is None:
            raise LocalError("these onion keys are wiped")
        return self._current

    @property
    def public(self) -> bytes:
        """B of the current key, for the relay descriptor."""
        return self._live().pair.public

    @property
    def next_rotation(self) -> float:
        """Wall seconds at which `rotate` has something to do: a key to make or one to forget."""
        due = self._live().due
        return due if self._previous is None else min(due, self._previous.end)

    def accepted(self, now: float) -> Mapping[bytes, KeyPair]:
        """By KEYID, the keys that are younger than two lifetimes: exact even when `rotate` is late."""
        held = (self._live(), self._previous)
        return {key.keyid: key.pair for key in held if key is not None and now < key.end}

    def rotate(self, now: float) -> bool:
        """Make a new key and forget the oldest when it is time.

        Returns:
            Whether anything changed: save then, and publish `public`.
        """
        if not math.isfinite(now):
            raise LocalError(f"{now} is no time")
        before = (self._live(), self._previous)
        current = self._live().not_after(now)
        previous = self._previous and self._previous.not_after(now)
        if now >= current.due:
            current, previous = DatedKey.of(KeyPair.generate(self._rng), now), current
        if previous is not None and now >= previous.end:
            previous = None
        self._current, self._previous = current, previous
        return (current, previous) != before

    def to_bytes(self) -> bytes:
        """The saved form, with the secrets: for a store that only its owner can read."""
        held = [self._live()] if self._previous is None else [self._live(), self._previous]
        return bytes((_FORMAT,)) + b"".join(_ENTRY.pack(key.birth, key.pair.private_bytes()) for key in held)

    @classmethod
    def from_bytes(cls, saved: bytes, rng: Rng) -> Self:
        """The keys `to_bytes` saved.

        Raises:
            LocalError: that is not what is in `saved`.
        """
        if len(saved) not in _SAVED_SIZES or saved[0] != _FORMAT:
            raise LocalError("damaged onion keys")
        return cls(rng, *(DatedKey.of(KeyPair(b), birth) for birth, b in _ENTRY.iter_unpack(saved[1:])))

    def wipe(self) -> None:
        """Forget both keys.  Their memory belongs to `cryptography`, which frees it: Python cannot overwrite it."""
        self._current = self._previous = None
