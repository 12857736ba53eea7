"""Noise, revision 34, with 25519, ChaChaPoly and BLAKE2s: as much of it as `Noise_IK` needs (SPEC 4.2).  Floor 2.

One class for each object of the Noise specification, with its names, and the pattern as a table.  A message that cannot
be read or written changes nothing: both work on a fork of the state, which takes its place when all went well.

s, e    our static and our ephemeral key pair       rs, re   the other side's public keys
ck, h   chaining key and hash of the transcript     k, n     cipher key and nonce

  cost    a message is its X25519 operations (35 us each) and 25 to 30 us of hashing and copying
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

from tunnels.crypto import sodium
from tunnels.crypto.kdf import HASH_SIZE, blake2s_hash, hmac_blake2s
from tunnels.crypto.x25519 import KeyPair
from tunnels.errors import LocalError, RemoteError
from tunnels.ids import Rng
from tunnels.params import TAG_SIZE, X25519_SIZE

MAX_MESSAGE: Final = 65535
"""Bytes of a Noise message (Noise 3)."""

MAX_NONCE: Final = (1 << 64) - 1
"""Reserved; a key that got this far is used up (Noise 5.1)."""


class Role(Enum):
    INITIATOR = 0
    RESPONDER = 1


class Token(Enum):
    """A word of a pattern (Noise 5.3): a public key is sent, or two are multiplied, the initiator's named first."""

    E = "e"
    S = "s"
    EE = "ee"
    ES = "es"
    SE = "se"
    SS = "ss"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A handshake pattern (Noise 7)."""

    name: str
    premessages: tuple[Role, ...]
    """Whose static key both sides know beforehand, the initiator's first."""
    messages: tuple[tuple[Token, ...], ...]
    """The initiator writes the first, and they take turns."""


IK: Final = Pattern(
    "IK",
    (Role.RESPONDER,),
    ((Token.E, Token.ES, Token.S, Token.SS), (Token.E, Token.EE, Token.SE)),
)


class CipherState:
    """A key and its nonce (Noise 5.1)."""

    __slots__ = ("_k", "_n")

    def __init__(self, k: bytes | None = None, n: int = 0) -> None:
        self._k, self._n = k, n

    def initialize_key(self, k: bytes) -> None:
        self._k, self._n = k, 0

    def has_key(self) -> bool:
        return self._k is not None

    def encrypt_with_ad(self, ad: bytes, plaintext: bytes) -> bytes:
        if self._k is None:
            return plaintext
        ciphertext = sodium.seal(self._k, self._nonce(), plaintext, ad)
        self._n += 1
        return ciphertext

    def decrypt_with_ad(self, ad: bytes, ciphertext: bytes) -> bytes:
        """The plaintext.

        Raises:
            RemoteError: the tag is wrong; the nonce stays what it was.
        """
        if self._k is None:
            return ciphertext
        plaintext = sodium.open_sealed(self._k, self._nonce(), ciphertext, ad)
        if plaintext is None:
            raise RemoteError("a handshake message does not decrypt")
        self._n += 1
        return plaintext

    def key_bytes(self) -> bytes:
        """k, for protocols that derive their own keys from the result of Split (SPEC 4.5)."""
        if self._k is None:
            raise LocalError("this cipher has no key yet")
        return self._k

    def fork(self) -> "CipherState":
        return CipherState(self._k, self._n)

    def _nonce(self) -> bytes:
        """32 zero bits and n, little-endian (Noise 12.3)."""
        if self._n >= MAX_NONCE:
            raise LocalError("cipher key used up")
        return bytes(4) + self._n.to_bytes(8, "little")


class SymmetricState:
    """Transcript hash and chaining key (Noise 5.2)."""

    __slots__ = ("_cipher", "_ck", "_h")

    def __init__(self, ck: bytes, h: bytes, cipher: CipherState) -> None:
        self._ck, self._h, self._cipher = ck, h, cipher

    @classmethod
    def initialize(cls, protocol_name: bytes) -> Self:
        h = protocol_name.ljust(HASH_SIZE, b"\0") if len(protocol_name) <= HASH_SIZE else blake2s_hash(protocol_name)
        return cls(h, h, CipherState())

    def mix_key(self, input_key_material: bytes) -> None:
        self._ck, temp_k = _hkdf(self._ck, input_key_material)
        self._cipher.initialize_key(temp_k)

    def mix_hash(self, data: bytes) -> None:
        self._h = blake2s_hash(self._h + data)

    def get_handshake_hash(self) -> bytes:
        return self._h

    def has_key(self) -> bool:
        return self._cipher.has_key()

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = self._cipher.encrypt_with_ad(self._h, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        plaintext = self._cipher.decrypt_with_ad(self._h, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[CipherState, CipherState]:
        temp_k1, temp_k2 = _hkdf(self._ck, b"")
        return CipherState(temp_k1), CipherState(temp_k2)

    def fork(self) -> "SymmetricState":
        return SymmetricState(self._ck, self._h, self._cipher.fork())


class HandshakeState:
    """One side of a handshake (Noise 5.3).

    Args:
        rs: the other side's static key where the pattern says it is known beforehand, else None.

    Raises:
        LocalError: `rs` is given or missing against the pattern, or has the wrong size.
    """

    __slots__ = ("_done", "_e", "_pattern", "_re", "_role", "_rs", "_s", "_symmetric")

    def __init__(self, pattern: Pattern, role: Role, prologue: bytes, s: KeyPair, rs: bytes | None = None) -> None:
        other = Role.RESPONDER if role is Role.INITIATOR else Role.INITIATOR
        if (other in pattern.premessages) != (rs is not None) or (rs is not None and len(rs) != X25519_SIZE):
            raise LocalError(f"Noise_{pattern.name} wants a remote static key where it is known, and only there")
        self._pattern, self._role = pattern, role
        self._s = s
        self._e: KeyPair | None = None
        self._rs = rs
        self._re: bytes | None = None
        self._done = 0
        self._symmetric = SymmetricState.initialize(f"Noise_{pattern.name}_25519_ChaChaPoly_BLAKE2s".encode())
        self._symmetric.mix_hash(prologue)
        for whose in pattern.premessages:
            self._symmetric.mix_hash(s.public if whose is role else rs or b"")

    @property
    def rs(self) -> bytes | None:
        """The other side's static key, once it is known."""
        return self._rs

    def write_message(self, payload: bytes, rng: Rng) -> bytes:
        """The next message, with `payload` in it.

        Raises:
            RemoteError: the other side's key is a point of low order.
            LocalError: it is not our turn, or the payload is too long.
        """
        if self._done % 2 != self._role.value:
            raise LocalError("it is the other side's turn to write")
        fork = self.fork()
        message = fork._write(payload, rng)  # noqa: SLF001 (a fork is this object)
        if len(message) > MAX_MESSAGE:
            raise LocalError(f"a Noise message has at most {MAX_MESSAGE} bytes")
        self._become(fork)
        return message

    def read_message(self, message: bytes) -> bytes:
        """The payload of the other side's next message.

        Raises:
            RemoteError: it is not that message.  Nothing changed: the true one can still be read.
            LocalError: it is our turn.
        """
        if self._done % 2 == self._role.value:
            raise LocalError("it is our turn to write")
        if len(message) > MAX_MESSAGE:
            raise RemoteError(f"a Noise message has at most {MAX_MESSAGE} bytes")
        fork = self.fork()
        payload = fork._read(message)  # noqa: SLF001
        self._become(fork)
        return payload

    def split(self) -> tuple[CipherState, CipherState]:
        """The initiator's and the responder's sending cipher, after the last message."""
        self._want_finished()
        return self._symmetric.split()

    def get_handshake_hash(self) -> bytes:
        """Names this handshake; for channel binding after the last message (Noise 11.2)."""
        self._want_finished()
        return self._symmetric.get_handshake_hash()

    def fork(self) -> "HandshakeState":
        """A copy that goes its own way: whatever it reads or writes, the original has not."""
        fork = object.__new__(HandshakeState)
        fork._become(self)
        fork._symmetric = self._symmetric.fork()
        return fork

    def _become(self, other: "HandshakeState") -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))

    def _write(self, payload: bytes, rng: Rng) -> bytes:
        symmetric, parts = self._symmetric, []
        for token in self._take_tokens():
            if token is Token.E:
                self._e = KeyPair.generate(rng)
                parts.append(self._e.public)
                symmetric.mix_hash(self._e.public)
            elif token is Token.S:
                parts.append(symmetric.encrypt_and_hash(self._s.public))
            else:
                symmetric.mix_key(self._dh(token))
        parts.append(symmetric.encrypt_and_hash(payload))
        return b"".join(parts)

    def _read(self, message: bytes) -> bytes:
        symmetric, at = self._symmetric, 0
        for token in self._take_tokens():
            if token is Token.E:
                self._re, at = _cut(message, at, X25519_SIZE)
                symmetric.mix_hash(self._re)
            elif token is Token.S:
                temp, at = _cut(message, at, X25519_SIZE + (TAG_SIZE if symmetric.has_key() else 0))
                self._rs = symmetric.decrypt_and_hash(temp)
            else:
                symmetric.mix_key(self._dh(token))
        return symmetric.decrypt_and_hash(message[at:])

    def _take_tokens(self) -> tuple[Token, ...]:
        if self._done == len(self._pattern.messages):
            raise LocalError("the handshake is finished")
        self._done += 1
        return self._pattern.messages[self._done - 1]

    def _dh(self, token: Token) -> bytes:
        ours, theirs = token.value[self._role.value], token.value[1 - self._role.value]
        pair = self._e if ours == Token.E.value else self._s
        public = self._re if theirs == Token.E.value else self._rs
        assert pair is not None, "a pattern names only keys that were made or sent before (Noise 7.3)"
        assert public is not None, "likewise"
        return pair.exchange(public)

    def _want_finished(self) -> None:
        if self._done != len(self._pattern.messages):
            raise LocalError("the handshake is not finished")


def _hkdf(chaining_key: bytes, input_key_material: bytes) -> tuple[bytes, bytes]:
    """HKDF of Noise 4.3 with two outputs."""
    temp_key = hmac_blake2s(chaining_key, input_key_material)
    output1 = hmac_blake2s(temp_key, b"\x01")
    return output1, hmac_blake2s(temp_key, output1 + b"\x02")


def _cut(message: bytes, at: int, size: int) -> tuple[bytes, int]:
    if len(message) < at + size:
        raise RemoteError("a handshake message is too short")
    return message[at : at + size], at + size
