"""ML-KEM-768 (FIPS 203), and the interface behind which it is replaceable.  Floor 2.

`cryptography` draws the randomness of an encapsulation itself, so no `Rng` can make it repeatable: whoever needs the
same bytes twice, as the simulator does, passes another `Kem`.

  cost    keypair 100 us, encapsulate 35 us, decapsulate 30 us: OpenSSL's share, ours is below 1 us
"""

from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from tunnels.errors import LocalError, RemoteError


class DecapsulationKey(Protocol):
    """The secret half, good for any number of ciphertexts."""

    def decapsulate(self, ct: bytes) -> bytes:
        """The 32-byte secret `ss`.  A ciphertext of the right size that was altered gives another one, not an error.

        Raises:
            RemoteError: `ct` has not KEM_CIPHERTEXT_SIZE bytes.
        """


class Kem(Protocol):
    """How ephemeral encapsulation keys are made and answered."""

    def keypair(self) -> tuple[bytes, DecapsulationKey]:
        """A fresh `ek` of KEM_PUBLIC_SIZE bytes and what opens answers to it."""

    def encapsulate(self, ek: bytes) -> tuple[bytes, bytes]:
        """`(ct, ss)`: KEM_CIPHERTEXT_SIZE bytes for the owner of `ek`, and the 32-byte secret in them.

        Raises:
            RemoteError: `ek` has the wrong size or is not reduced (FIPS 203 7.2).
        """


class MlKem768Key:
    """A decapsulation key, kept inside `cryptography`; its repr shows nothing of it."""

    __slots__ = ("_private",)

    def __init__(self, private: MLKEM768PrivateKey) -> None:
        self._private = private

    def decapsulate(self, ct: bytes) -> bytes:
        try:
            return self._private.decapsulate(ct)
        except ValueError:
            raise RemoteError("malformed ML-KEM-768 ciphertext") from None


class MlKem768:
    """The `Kem` of every real node."""

    def keypair(self) -> tuple[bytes, MlKem768Key]:
        return _pair(MLKEM768PrivateKey.generate())

    def encapsulate(self, ek: bytes) -> tuple[bytes, bytes]:
        try:
            ss, ct = MLKEM768PublicKey.from_public_bytes(ek).encapsulate()
        except ValueError:
            raise RemoteError("malformed ML-KEM-768 encapsulation key") from None
        return ct, ss


def keypair_from_seed(seed: bytes) -> tuple[bytes, MlKem768Key]:
    """The pair that `d | z` (64 bytes) stands for (FIPS 203 7.1): for test vectors and repeatable runs.

    Raises:
        LocalError: the seed is not 64 bytes.
    """
    try:
        return _pair(MLKEM768PrivateKey.from_seed_bytes(seed))
    except ValueError:
        raise LocalError(f"an ML-KEM-768 seed is 64 bytes, not {len(seed)}") from None


def _pair(private: MLKEM768PrivateKey) -> tuple[bytes, MlKem768Key]:
    return private.public_key().public_bytes_raw(), MlKem768Key(private)
