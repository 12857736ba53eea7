"""The circuit handshake: hybrid ntor, X25519 beside ML-KEM-768 (SPEC 5).  Floor 2: bytes in, bytes and keys out.

ID       the relay                            KEYID    names its onion key
b, B     the relay's onion key pair           x, X     the originator's ephemeral pair
y, Y     the relay's ephemeral pair           dk, ek   the originator's ephemeral ML-KEM pair
ct, ss   ciphertext and secret of `ek`        T        hash of all that both have seen

Knows no cells, no circuits, no clock.  A handshake is one CREATE and at most one CREATED that verifies.

  cost    1.1 times the public-key operations and hashes of SPEC 5.2, which are 0.4 ms for both sides together
          (python -m bench handshake)
"""

import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tunnels.crypto import sodium
from tunnels.crypto.kdf import hkdf_expand, hkdf_extract
from tunnels.crypto.kem import DecapsulationKey, Kem
from tunnels.crypto.x25519 import KeyPair
from tunnels.errors import LocalError, RemoteError
from tunnels.ids import RelayId, Rng
from tunnels.params import (
    AUTH_SIZE,
    COUNTER_OFFSET_LIMIT,
    CREATE_SIZE,
    CREATED_SIZE,
    EXTRA_SIZE,
    HOP_KEYS_SIZE,
    KEM_CIPHERTEXT_SIZE,
    KEM_PUBLIC_SIZE,
    KEY_SIZE,
    KEYID_SIZE,
    MAX_EXTRA,
    MAX_NETWORK_ID,
    VERSION,
    X25519_SIZE,
)

PROTOID: Final = b"tropea ntor x25519 mlkem768 sha256 1"

_CREATE: Final = struct.Struct(f">B{KEYID_SIZE}s{X25519_SIZE}s{KEM_PUBLIC_SIZE}s{EXTRA_SIZE}s{AUTH_SIZE}s")
_CREATED: Final = struct.Struct(f">{X25519_SIZE}s{KEM_CIPHERTEXT_SIZE}s{EXTRA_SIZE}s{AUTH_SIZE}s")
_KEYS: Final = struct.Struct(f">{KEY_SIZE}s{KEY_SIZE}s{KEY_SIZE}s{KEY_SIZE}s{KEY_SIZE}sQ")
_NONCE: Final = bytes(12)
"""Zero: K_extra and K_answer each encrypt one text (SPEC 5.2 steps 4 and 10)."""


@dataclass(frozen=True, slots=True)
class HopKeys:
    """What the originator and one hop share (SPEC 5.3).  Never printed."""

    forward: bytes = field(repr=False)
    backward: bytes = field(repr=False)
    seal: bytes = field(repr=False)
    filler: bytes = field(repr=False)
    exporter: bytes = field(repr=False)
    counter_offset: int = field(repr=False)
    """Added to the counter of a forward cell that is passed on, below COUNTER_OFFSET_LIMIT."""


@dataclass(frozen=True, slots=True)
class AnswerKeys:
    """What step 9 derives.  Never printed."""

    K_answer: bytes = field(repr=False)
    K_auth: bytes = field(repr=False)
    KEYS: bytes = field(repr=False)


def context_of(network_id: bytes) -> bytes:
    """CONTEXT: what keeps two networks, and two versions, apart.

    Raises:
        LocalError: a network id has 1 to MAX_NETWORK_ID bytes.
    """
    if not 1 <= len(network_id) <= MAX_NETWORK_ID:
        raise LocalError(f"a network id has 1 to {MAX_NETWORK_ID} bytes, not {len(network_id)}")
    return PROTOID + bytes((len(network_id),)) + network_id


def keyid_of(B: bytes) -> bytes:
    """KEYID of an onion key (SPEC 5.1)."""
    return hashlib.sha256(B).digest()[:KEYID_SIZE]


def answer_keys(CONTEXT: bytes, T: bytes, Xy: bytes, Xb: bytes, ss: bytes) -> AnswerKeys:
    """Step 9 behind T: the combiner.  Whoever lacks one of the three secrets knows nothing of what comes out."""
    P2 = hkdf_extract(T, Xy + Xb + ss)
    okm = hkdf_expand(P2, CONTEXT + b":keys", 2 * KEY_SIZE + HOP_KEYS_SIZE)
    return AnswerKeys(okm[:KEY_SIZE], okm[KEY_SIZE : 2 * KEY_SIZE], okm[2 * KEY_SIZE :])


def hop_keys(KEYS: bytes) -> HopKeys:
    """SPEC 5.3."""
    forward, backward, seal, filler, exporter, offset = _KEYS.unpack(KEYS)
    return HopKeys(forward, backward, seal, filler, exporter, offset % COUNTER_OFFSET_LIMIT)


class OriginatorHandshake:
    """The originator's side, from its CREATE to the one CREATED that verifies.

    Args:
        relay_id: of the relay this handshake is for.
        onion_key: B, out of a descriptor that relay signed.
        extra: data for the relay, at most MAX_EXTRA bytes, hidden from everybody else as long as X25519 holds.

    Raises:
        RemoteError: B is a point of low order.
        LocalError: an argument has the wrong size.
    """

    __slots__ = ("_CONTEXT", "_secrets", "_transcript", "create")

    def __init__(
        self, relay_id: RelayId, onion_key: bytes, network_id: bytes, rng: Rng, kem: Kem, extra: bytes = b""
    ) -> None:
        ID, B, data, CONTEXT = relay_id, onion_key, extra, context_of(network_id)
        _check_arguments(ID, data)
        if len(B) != X25519_SIZE:
            raise LocalError(f"an onion key has {X25519_SIZE} bytes, not {len(B)}")
        x = KeyPair.generate(rng)  # step 1
        X = x.public
        ek, dk = kem.keypair()
        Bx = x.exchange(B)  # step 2
        known = b"".join((CONTEXT, ID, B, X, ek))
        transcript = hashlib.sha256(known)
        K_extra, K_mac = _request_keys(CONTEXT, transcript.digest(), Bx)  # step 3
        encrypted = _hide(K_extra, data)  # step 4
        MAC = hmac.digest(K_mac, known + encrypted, "sha256")  # step 5
        transcript.update(encrypted + MAC)
        self.create: Final = _CREATE.pack(VERSION, keyid_of(B), X, ek, encrypted, MAC)  # step 6
        """CREATE_SIZE bytes; a retry sends the same (SPEC 7.3)."""
        self._CONTEXT = CONTEXT
        self._transcript = transcript
        self._secrets: tuple[KeyPair, DecapsulationKey, bytes] | None = (x, dk, Bx)

    def finish(self, created: bytes) -> tuple[HopKeys, bytes]:
        """The hop's keys and the relay's data, when `created` answers our CREATE and comes from the relay we meant.

        The ephemeral secrets are dropped then: a second call is a LocalError.

        Raises:
            RemoteError: it does not.  Nothing changed: the true answer may still come.
        """
        if self._secrets is None:
            raise LocalError("this handshake is finished")
        x, dk, Bx = self._secrets
        if len(created) != CREATED_SIZE:
            raise RemoteError(f"CREATED has {CREATED_SIZE} bytes, not {len(created)}")
        Y, ct, answer, AUTH = _CREATED.unpack(created)
        Yx = x.exchange(Y)  # step 13, with 9 and 11
        ss = dk.decapsulate(ct)
        transcript = self._transcript.copy()
        transcript.update(Y + ct)
        T = transcript.digest()
        keys = answer_keys(self._CONTEXT, T, Yx, Bx, ss)
        if not sodium.equal(AUTH, _auth(self._CONTEXT, keys.K_auth, T, answer)):
            raise RemoteError("CREATED does not verify")
        data = _reveal(keys.K_answer, answer)
        self._secrets = None
        return hop_keys(keys.KEYS), data


def answer_create(
    create: bytes,
    *,
    relay_id: RelayId,
    keys: Mapping[bytes, KeyPair],
    network_id: bytes,
    rng: Rng,
    kem: Kem,
    extra: bytes = b"",
) -> tuple[bytes, HopKeys, bytes]:
    """The relay's side: CREATED (CREATED_SIZE bytes), the keys of this hop, and the originator's data.

    Args:
        keys: the onion keys accepted now, by KEYID: `OnionKeys.accepted(now)`.
        extra: data for the originator, at most MAX_EXTRA bytes.

    Raises:
        RemoteError: `create` is malformed, for another relay, network, version or key, or forged.  An unknown key costs
            no public-key operation, a forgery one.
        LocalError: an argument of ours has the wrong size.
    """
    ID, CONTEXT = relay_id, context_of(network_id)
    _check_arguments(ID, extra)
    if len(create) != CREATE_SIZE:
        raise RemoteError(f"CREATE has {CREATE_SIZE} bytes, not {len(create)}")
    version, KEYID, X, ek, encrypted, MAC = _CREATE.unpack(create)
    if version != VERSION:
        raise RemoteError(f"CREATE of version {version}")
    if (b := keys.get(KEYID)) is None:  # step 7
        raise RemoteError("CREATE for an onion key we do not have")
    Xb = b.exchange(X)
    known = b"".join((CONTEXT, ID, b.public, X, ek))
    transcript = hashlib.sha256(known)
    K_extra, K_mac = _request_keys(CONTEXT, transcript.digest(), Xb)  # step 3
    if not sodium.equal(MAC, hmac.digest(K_mac, known + encrypted, "sha256")):  # step 5
        raise RemoteError("CREATE does not verify")
    data = _reveal(K_extra, encrypted)
    y = KeyPair.generate(rng)  # step 8
    Y = y.public
    Xy = y.exchange(X)
    ct, ss = kem.encapsulate(ek)
    transcript.update(b"".join((encrypted, MAC, Y, ct)))  # step 9
    T = transcript.digest()
    answer_key = answer_keys(CONTEXT, T, Xy, Xb, ss)
    answer = _hide(answer_key.K_answer, extra)  # step 10
    AUTH = _auth(CONTEXT, answer_key.K_auth, T, answer)  # step 11
    return _CREATED.pack(Y, ct, answer, AUTH), hop_keys(answer_key.KEYS), data  # step 12


def _check_arguments(ID: bytes, data: bytes) -> None:
    if len(ID) != hashlib.sha256().digest_size:
        raise LocalError(f"a relay id has 32 bytes, not {len(ID)}")
    if len(data) > MAX_EXTRA:
        raise LocalError(f"a handshake carries {MAX_EXTRA} bytes of data, not {len(data)}")


def _request_keys(CONTEXT: bytes, salt: bytes, Bx: bytes) -> tuple[bytes, bytes]:
    """Step 3: K_extra and K_mac."""
    P1 = hkdf_extract(salt, Bx)
    okm = hkdf_expand(P1, CONTEXT + b":extra", 2 * KEY_SIZE)
    return okm[:KEY_SIZE], okm[KEY_SIZE:]


def _auth(CONTEXT: bytes, K_auth: bytes, T: bytes, answer: bytes) -> bytes:
    """Step 11."""
    return hmac.digest(K_auth, b"".join((CONTEXT, b"relay", T, answer)), "sha256")


def _hide(key: bytes, data: bytes) -> bytes:
    """Steps 4 and 10: EXTRA_SIZE bytes whatever the length of `data`."""
    return sodium.chacha20(key, _NONCE, (bytes((len(data),)) + data).ljust(EXTRA_SIZE, b"\0"))


def _reveal(key: bytes, hidden: bytes) -> bytes:
    """What `_hide` was given.  The caller has verified it: a bad form is our peer's own doing.

    Raises:
        RemoteError: longer than MAX_EXTRA, or not followed by zeros.
    """
    text = sodium.chacha20(key, _NONCE, hidden)
    end = 1 + text[0]
    if end > EXTRA_SIZE or any(text[end:]):
        raise RemoteError("malformed data in a handshake")
    return text[1:end]
