"""Signatures by IPv8 keys of every kind (SPEC 11.1).  Floor 5: py-ipv8 does the work; nothing is kept.

cost    parsing 2 to 20 us; verifying 0.2 ms for curve25519, 0.3, 0.8, 1.3 and 2.9 ms for very-low, low, medium and high
"""

from ipv8.keyvault.crypto import default_eccrypto
from ipv8.keyvault.keys import PrivateKey, PublicKey

from tunnels.path.descriptor import Sign


def sign_with(key: PrivateKey) -> Sign:
    """Sign as the owner of `key`, such as the `key` of a community's `my_peer`."""
    return key.signature


def verify(identity: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the owner of the IPv8 public key `identity` signed `message`.  Never raises, whatever the bytes.

    A key has one spelling and a signature one length.  py-ipv8 reads keys with something behind them, which would give
    one key several relay ids.  Its older versions check `signature + message` as a whole: a signature of something
    longer, which the owner meant for something else, would pass for one of the tail.
    """
    try:
        key = default_eccrypto.key_from_public_bin(identity)
        if key.get_signature_length() != len(signature) or not _plainly_spelt(key, identity):
            return False
        return bool(default_eccrypto.is_valid_signature(key, message, signature))
    except Exception:  # noqa: BLE001 (what a malformed key raises depends on the library below py-ipv8)
        return False


def _plainly_spelt(key: PublicKey, identity: bytes) -> bool:
    """Whether `identity` is what the owner of `key` calls it."""
    if key.key_to_bin() != identity:
        return False
    if identity.startswith(b"LibNaCLPK:"):
        return True
    # A point can be written compressed, or with the parity of y besides (X9.62 4.3.6), and libraries keep the form they
    # read.  Plain is 0 unused bits, 4, and two coordinates, which are together as long as a signature.
    point = key.get_signature_length()
    return identity[-point - 2 : -point] == b"\0\4"
