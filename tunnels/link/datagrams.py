"""The datagrams in which link handshakes travel (SPEC 4.1 to 4.4).  Floor 3: sans-IO.

    initiation     index 4 | salt 12 | M1 1292, masked | random 10                               | mac1 16 | mac2 16
    response       index 4 | salt 12 | M2 1140, masked | random 162                              | mac1 16 | mac2 16
    cookie reply   index 4 | nonce 24 | cookie 16 + 16 | random 1290

All have CELL_SIZE bytes and look random to whoever does not know the receiver's static key (the responder's, for a
cookie reply).  `Gate` throws away what was not made for one static before anything dear is done with it.

  cost    3.4 us to refuse a datagram at the gate, 5.6 us to open one that passes; under load a wrong mac2 costs 8.6 us
          more and the cookie reply 5 us.  Reading M1 takes 95 us: the gate refuses 28 datagrams in that time.
"""

import struct
from typing import Final

from tunnels.crypto import sodium
from tunnels.crypto.kdf import MAC_SIZE, blake2s_hash, blake2s_mac
from tunnels.errors import LocalError
from tunnels.ids import Address, Index, Rng
from tunnels.link.handshake import index_bytes
from tunnels.params import (
    CELL_SIZE,
    COOKIE_LIFETIME,
    INDEX_SIZE,
    KEY_SIZE,
    M1_SIZE,
    M2_SIZE,
    TAG_SIZE,
    VERSION,
    X25519_SIZE,
)

SALT_SIZE: Final = 12
"""The nonce of ChaCha20 (SPEC 4.2)."""

COOKIE_NONCE_SIZE: Final = 24
"""The nonce of XChaCha20 (SPEC 4.4)."""

_MASKED_AT: Final = INDEX_SIZE + SALT_SIZE
_MAC2_AT: Final = CELL_SIZE - MAC_SIZE
_MAC1_AT: Final = _MAC2_AT - MAC_SIZE
_COOKIE_AT: Final = INDEX_SIZE + COOKIE_NONCE_SIZE
_COOKIE_END: Final = _COOKIE_AT + MAC_SIZE + TAG_SIZE
_PORT: Final = struct.Struct(">xH")

_MAC1_LABEL: Final = b"tropea mac1 %d" % VERSION
_MASK_LABEL: Final = b"tropea mask %d" % VERSION
_COOKIE_LABEL: Final = b"tropea cookie %d" % VERSION


class Gate:
    """What a node checks first on a datagram that claims to be for its `static` public key."""

    __slots__ = ("_mac1_key", "_mask_key")

    def __init__(self, static: bytes) -> None:
        self._mac1_key = _mac1_key(static)
        self._mask_key = _mask_key(static)

    def open_initiation(self, datagram: bytes) -> tuple[Index, bytes] | None:
        """The initiator's index and M1; None when the datagram was not made for this static (SPEC 4.1 step 3)."""
        if not self._admits(datagram):
            return None
        return Index(int.from_bytes(datagram[:INDEX_SIZE])), self._unmask(datagram, M1_SIZE)

    def open_response(self, datagram: bytes) -> bytes | None:
        """M2, for the handshake that the datagram's index names; None as above (SPEC 4.1 step 2)."""
        return self._unmask(datagram, M2_SIZE) if self._admits(datagram) else None

    def _admits(self, datagram: bytes) -> bool:
        if len(datagram) != CELL_SIZE or datagram[0] == 0:
            return False
        mac1 = blake2s_mac(self._mac1_key, memoryview(datagram)[:_MAC1_AT])
        return sodium.equal(mac1, mac1_of(datagram))

    def _unmask(self, datagram: bytes, size: int) -> bytes:
        salt = datagram[INDEX_SIZE:_MASKED_AT]
        return _mask(self._mask_key, salt, datagram[_MASKED_AT : _MASKED_AT + size])


def build_initiation(m1: bytes, index: Index, responder: bytes, cookie: bytes | None, rng: Rng) -> bytes:
    """An initiation (SPEC 4.2).

    Args:
        index: the one `m1` was made with.
        responder: static public key of the node it is for.
        cookie: the newest one that node gave us, at most COOKIE_LIFETIME old, or None.

    Raises:
        LocalError: `m1` or `index` is malformed.
    """
    _check_size(m1, M1_SIZE)
    return _build(m1, index, responder, cookie, rng)


def build_response(m2: bytes, index: Index, initiator: bytes, rng: Rng) -> bytes:
    """A response (SPEC 4.3).

    Args:
        index: the initiator's.
        initiator: static public key of the node it is for.

    Raises:
        LocalError: `m2` or `index` is malformed.
    """
    _check_size(m2, M2_SIZE)
    return _build(m2, index, initiator, None, rng)


def mac1_of(datagram: bytes) -> bytes:
    """The mac1 of an initiation or response: an initiator keeps it to open a cookie reply."""
    return datagram[_MAC1_AT:_MAC2_AT]


def build_cookie_reply(index: Index, initiation: bytes, cookie: bytes, responder: bytes, rng: Rng) -> bytes:
    """A cookie reply (SPEC 4.4).

    Args:
        index: the initiator's.
        initiation: the datagram it answers.
        cookie: what `CookieMaker.cookie` gives for the sender of `initiation`.
        responder: our own static public key.
    """
    nonce = rng.bytes(COOKIE_NONCE_SIZE)
    sealed = sodium.xseal(_cookie_key(responder), nonce, cookie, mac1_of(initiation))
    return b"".join((index_bytes(index), nonce, sealed, rng.bytes(CELL_SIZE - _COOKIE_END)))


def open_cookie_reply(datagram: bytes, mac1: bytes, responder: bytes) -> bytes | None:
    """The cookie, or None when nobody who saw our initiation and knows `responder` made it.

    Args:
        mac1: of the initiation we sent with the index of `datagram`.
        responder: static public key of the node that initiation was for.
    """
    if len(datagram) != CELL_SIZE:
        return None
    nonce = datagram[INDEX_SIZE:_COOKIE_AT]
    return sodium.xopen(_cookie_key(responder), nonce, datagram[_COOKIE_AT:_COOKIE_END], mac1)


class CookieMaker:
    """A responder's proof that a sender receives at its address; it keeps two secrets and nothing for each sender.

    Secrets live in whole periods of COOKIE_LIFETIME, so that none is accepted for longer than two, however seldom it
    is asked for.
    """

    __slots__ = ("_current", "_period", "_previous", "_rng")

    def __init__(self, rng: Rng, now: float) -> None:
        self._rng = rng
        self._period = _period(now)
        self._current = rng.bytes(KEY_SIZE)
        self._previous = rng.bytes(KEY_SIZE)

    def cookie(self, sender: Address, now: float) -> bytes:
        """The cookie to send to `sender` now."""
        self._renew(now)
        return _cookie(self._current, sender)

    def verify(self, initiation: bytes, sender: Address, now: float) -> bool:
        """Whether mac2 of a CELL_SIZE datagram was made with a cookie we sent to `sender`, at most two periods ago."""
        if len(initiation) != CELL_SIZE:
            return False
        self._renew(now)
        signed, mac2 = initiation[:_MAC2_AT], initiation[_MAC2_AT:]
        cookies = (_cookie(secret, sender) for secret in (self._current, self._previous))
        return any(sodium.equal(blake2s_mac(cookie, signed), mac2) for cookie in cookies)

    def _renew(self, now: float) -> None:
        passed = _period(now) - self._period
        if passed <= 0:
            return
        self._previous = self._current if passed == 1 else self._rng.bytes(KEY_SIZE)
        self._current = self._rng.bytes(KEY_SIZE)
        self._period += passed


def _build(message: bytes, index: Index, receiver: bytes, cookie: bytes | None, rng: Rng) -> bytes:
    salt = rng.bytes(SALT_SIZE)
    filler = rng.bytes(_MAC1_AT - _MASKED_AT - len(message))
    masked = _mask(_mask_key(receiver), salt, message)
    datagram = b"".join((index_bytes(index), salt, masked, filler))
    datagram += blake2s_mac(_mac1_key(receiver), datagram)
    return datagram + (rng.bytes(MAC_SIZE) if cookie is None else blake2s_mac(cookie, datagram))


def _mask(key: bytes, salt: bytes, message: bytes) -> bytes:
    """Hide or show the ephemeral key in front: its top bit is always 0, and it is a coordinate of a curve point."""
    return sodium.chacha20(key, salt, message[:X25519_SIZE]) + message[X25519_SIZE:]


def _mac1_key(static: bytes) -> bytes:
    return blake2s_hash(_MAC1_LABEL + static)


def _mask_key(static: bytes) -> bytes:
    return blake2s_hash(_MASK_LABEL + static)


def _cookie(secret: bytes, sender: Address) -> bytes:
    host, port = sender
    return blake2s_mac(secret, host.encode() + _PORT.pack(port))


def _cookie_key(responder: bytes) -> bytes:
    return blake2s_hash(_COOKIE_LABEL + responder)


def _period(now: float) -> int:
    return int(now // COOKIE_LIFETIME)


def _check_size(message: bytes, size: int) -> None:
    if len(message) != size:
        raise LocalError(f"a handshake message of {size} bytes was expected, not {len(message)}")
