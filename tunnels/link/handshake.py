"""The link handshake: Noise_IK with an ML-KEM-768 exchange in its payloads (SPEC 4.2, 4.3, 4.5).  Floor 3: sans-IO.

    M1   e 32 | s 32 + 16 | (ek 1184 | timestamp 12) + 16
    M2   e 32 | (ct 1088 | index 4) + 16

Bytes in, bytes and keys out.  It knows neither datagrams (link/datagrams.py wraps M1 and M2 for the network) nor REKEY,
which carries the same two messages inside a session, nor which timestamp an initiator used last.

  cost    M1 0.24 ms to make and 0.10 ms to read; M2 0.19 ms to make and 0.14 ms to read, and the keys with it
"""

import math
from dataclasses import dataclass, field
from typing import Final, Self

from tunnels.crypto.kdf import hkdf
from tunnels.crypto.kem import Kem
from tunnels.crypto.noise import IK, HandshakeState, Role
from tunnels.crypto.x25519 import KeyPair
from tunnels.errors import LocalError, RemoteError
from tunnels.ids import Index, Rng
from tunnels.params import (
    INDEX_SIZE,
    KEM_CIPHERTEXT_SIZE,
    KEM_PUBLIC_SIZE,
    KEY_SIZE,
    M1_SIZE,
    M2_SIZE,
    MAX_NETWORK_ID,
    TIMESTAMP_SIZE,
    VERSION,
)
from tunnels.wire.cell import MIN_INDEX

_PROLOGUE: Final = b"tropea link %d" % VERSION
_KEYS_INFO: Final = b"tropea link keys %d" % VERSION

_TAI64_EPOCH: Final = (1 << 62) + 10
"""TAI64 label of the second in which Unix time began.  Leap seconds since then are not counted, as in WireGuard 5.1."""


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """Keys of a session, from the side's own point of view (SPEC 4.5).  Never printed."""

    send_header: bytes = field(repr=False)
    send_seal: bytes = field(repr=False)
    receive_header: bytes = field(repr=False)
    receive_seal: bytes = field(repr=False)

    @classmethod
    def derive(cls, handshake: HandshakeState, ss: bytes, role: Role) -> Self:
        """Of a finished handshake and the secret of its KEM exchange."""
        k1, k2 = handshake.split()
        ikm = k1.key_bytes() + k2.key_bytes() + ss
        keys = hkdf(handshake.get_handshake_hash(), ikm, _KEYS_INFO, 4 * KEY_SIZE)
        there = keys[:KEY_SIZE], keys[KEY_SIZE : 2 * KEY_SIZE]
        back = keys[2 * KEY_SIZE : 3 * KEY_SIZE], keys[3 * KEY_SIZE :]
        return cls(*there, *back) if role is Role.INITIATOR else cls(*back, *there)


class Initiator:
    """The side that begins, from its M1 to the one M2 that answers it.

    Args:
        static: our long-term or throw-away key for this neighbour.
        remote: the neighbour's static public key.
        index: names the new session at our side.
        timestamp: `tai64n`, later than any we sent with this static.

    Raises:
        RemoteError: `remote` is a point of low order.
        LocalError: an argument has the wrong size.
    """

    __slots__ = ("_dk", "_noise", "m1")

    def __init__(
        self,
        network_id: bytes,
        static: KeyPair,
        remote: bytes,
        index: Index,
        timestamp: bytes,
        rng: Rng,
        kem: Kem,
    ) -> None:
        if len(timestamp) != TIMESTAMP_SIZE:
            raise LocalError(f"a timestamp is {TIMESTAMP_SIZE} bytes, not {len(timestamp)}")
        ek, dk = kem.keypair()
        noise = HandshakeState(IK, Role.INITIATOR, prologue(network_id, index), static, remote)
        self.m1: Final = noise.write_message(ek + timestamp, rng)
        """M1_SIZE bytes."""
        self._noise, self._dk = noise, dk

    def finish(self, m2: bytes) -> tuple[SessionKeys, Index]:
        """The session's keys, and its index at the responder's side.

        Raises:
            RemoteError: `m2` does not answer our `m1`.  Nothing changed: the true one may still come.
        """
        if len(m2) != M2_SIZE:
            raise RemoteError(f"M2 is {M2_SIZE} bytes, not {len(m2)}")
        noise = self._noise.fork()
        payload = noise.read_message(m2)
        index = int.from_bytes(payload[KEM_CIPHERTEXT_SIZE:])
        if index < MIN_INDEX:
            raise RemoteError("the responder's index begins with a zero byte")
        ss = self._dk.decapsulate(payload[:KEM_CIPHERTEXT_SIZE])
        return SessionKeys.derive(noise, ss, Role.INITIATOR), Index(index)


class Initiation:
    """An M1 that was read and is genuine; whether it is new, its `timestamp` says."""

    __slots__ = ("_ek", "_noise", "index", "static", "timestamp")

    def __init__(self, noise: HandshakeState, static: bytes, index: Index, ek: bytes, timestamp: bytes) -> None:
        self._noise, self._ek = noise, ek
        self.index: Final = index
        """The new session's, at the initiator's side."""
        self.static: Final = static
        """The initiator's static public key: it holds the private one, or replays who does."""
        self.timestamp: Final = timestamp
        """TAI64N, to be compared as bytes with the newest one of this static."""

    def answer(self, index: Index, rng: Rng, kem: Kem) -> tuple[bytes, SessionKeys]:
        """M2 (M2_SIZE bytes), and the keys of the session that has `index` at our side.

        Raises:
            RemoteError: the initiator's ephemeral keys cannot be used.
        """
        ct, ss = kem.encapsulate(self._ek)
        noise = self._noise.fork()
        m2 = noise.write_message(ct + index_bytes(index), rng)
        return m2, SessionKeys.derive(noise, ss, Role.RESPONDER)


def read_initiation(m1: bytes, *, network_id: bytes, static: KeyPair, index: Index) -> Initiation:
    """Who begins a session with us.

    Args:
        static: our key pair.
        index: the one that came with `m1`.

    Raises:
        RemoteError: `m1` was not made for this network, this key and this index by the owner of the static key in it.
    """
    if len(m1) != M1_SIZE:
        raise RemoteError(f"M1 is {M1_SIZE} bytes, not {len(m1)}")
    if index < MIN_INDEX:
        raise RemoteError("the initiator's index begins with a zero byte")
    noise = HandshakeState(IK, Role.RESPONDER, prologue(network_id, index), static)
    payload = noise.read_message(m1)
    assert noise.rs is not None, "M1 carries s"
    return Initiation(noise, noise.rs, index, payload[:KEM_PUBLIC_SIZE], payload[KEM_PUBLIC_SIZE:])


def prologue(network_id: bytes, index: Index) -> bytes:
    """What both sides must agree on before the first byte (SPEC 4.2).

    Raises:
        LocalError: the network id or the index is not one.
    """
    if not 1 <= len(network_id) <= MAX_NETWORK_ID:
        raise LocalError(f"a network id is 1 to {MAX_NETWORK_ID} bytes, not {len(network_id)}")
    return b"".join((_PROLOGUE, bytes((len(network_id),)), network_id, index_bytes(index)))


def index_bytes(index: Index) -> bytes:
    """An index as it travels.

    Raises:
        LocalError: its first byte would be zero, or it has more than four.
    """
    if not MIN_INDEX <= index < 1 << 8 * INDEX_SIZE:
        raise LocalError(f"{index} is not an index")
    return index.to_bytes(INDEX_SIZE)


def tai64n(wall: float) -> bytes:
    """A TIMESTAMP_SIZE-byte TAI64N label whose byte order is its time order.

    Args:
        wall: Unix time in seconds.  A float is good for about 0.2 us: two labels made within that may be equal.

    Raises:
        LocalError: before 1970, or not a number.
    """
    if not 0 <= wall < 1 << 61:
        raise LocalError(f"{wall} is not a time")
    fraction, seconds = math.modf(wall)
    return (_TAI64_EPOCH + int(seconds)).to_bytes(8) + int(fraction * 1e9).to_bytes(4)
