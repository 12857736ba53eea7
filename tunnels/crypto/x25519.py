"""X25519 key pairs (RFC 7748).  Floor 2.

The scalar lives inside `cryptography`; here are only the rules: which bytes are a key, and that a shared secret of
zeros, which every point of low order gives, is refused (SPEC 3).
"""

from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from tunnels.errors import LocalError, RemoteError
from tunnels.ids import Rng
from tunnels.params import X25519_SIZE


class KeyPair:
    """A private key and its public key, 32 bytes each.  Neither is ever printed: a public key may name a client."""

    __slots__ = ("_private", "public")

    def __init__(self, private: bytes) -> None:
        if len(private) != X25519_SIZE:
            raise LocalError(f"an X25519 private key is {X25519_SIZE} bytes, not {len(private)}")
        self._private = X25519PrivateKey.from_private_bytes(private)
        self.public: Final = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, rng: Rng) -> Self:
        return cls(rng.bytes(X25519_SIZE))

    def private_bytes(self) -> bytes:
        """What the constructor took: for saving a long-term key, and for nothing else."""
        return self._private.private_bytes_raw()

    def exchange(self, public: bytes) -> bytes:
        """The 32-byte secret shared with the owner of `public`.

        Raises:
            RemoteError: not 32 bytes, or a point of low order.
        """
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise RemoteError("not a usable X25519 public key") from None

    def __repr__(self) -> str:
        return "KeyPair(25519)"
