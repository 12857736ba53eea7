"""Makes link.json: SPEC 4.2 to 4.5 step by step, with every intermediate value that other code may want to compare.

    python -m tests.vectors.make_link

It uses hashlib, hmac and `cryptography` and nothing of ours, so that a mistake in tunnels/ cannot get into the vectors.
The secrets are SHAKE-256 of their names; only the ML-KEM ciphertext, whose randomness `cryptography` draws itself, is
kept from the file that is there.
"""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PATH: Final = Path(__file__).with_name("link.json")

NETWORK_ID: Final = b"tropea"
INITIATOR_INDEX: Final = bytes.fromhex("a1b2c3d4")
RESPONDER_INDEX: Final = bytes.fromhex("01020304")
TIMESTAMP: Final = bytes.fromhex("400000006560c80a 1dcd6500")
"""TAI64N of the Unix time 1700841472.5."""


def named(name: str, size: int = 32) -> bytes:
    return hashlib.shake_256(b"tropea link vector " + name.encode()).digest(size)


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def dh(private: bytes, other: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(other))


def blake(data: bytes) -> bytes:
    return hashlib.blake2s(data).digest()


def mac(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2s(data, key=key, digest_size=16).digest()


def noise_hkdf(ck: bytes, ikm: bytes) -> tuple[bytes, bytes]:
    temp = hmac.new(ck, ikm, hashlib.blake2s).digest()
    first = hmac.new(temp, b"\x01", hashlib.blake2s).digest()
    return first, hmac.new(temp, first + b"\x02", hashlib.blake2s).digest()


def sealed(k: bytes, n: int, h: bytes, text: bytes) -> bytes:
    return ChaCha20Poly1305(k).encrypt(bytes(4) + n.to_bytes(8, "little"), text, h)


def masked(message: bytes, receiver: bytes, salt: bytes) -> bytes:
    key = blake(b"tropea mask 1" + receiver)
    stream = Cipher(algorithms.ChaCha20(key, bytes(4) + salt), None).encryptor().update(bytes(32))
    return bytes(a ^ b for a, b in zip(message, stream, strict=False)) + message[32:]


def datagram(index: bytes, salt: bytes, message: bytes, filler: bytes, receiver: bytes, cookie: bytes) -> bytes:
    made = index + salt + masked(message, receiver, salt) + filler
    made += mac(blake(b"tropea mac1 1" + receiver), made)
    made += mac(cookie, made)
    assert len(made) == 1350
    return made


def make(ct: bytes) -> dict[str, bytes]:
    s_i, s_r, e_i, e_r = (named(name) for name in ("initiator", "responder", "e of initiator", "e of responder"))
    seed = named("ML-KEM seed", 64)
    dk = MLKEM768PrivateKey.from_seed_bytes(seed)
    ek = dk.public_key().public_bytes_raw()
    ss = dk.decapsulate(ct)

    # Noise_IK, message 1: e, es, s, ss
    prologue = b"tropea link 1" + bytes((len(NETWORK_ID),)) + NETWORK_ID + INITIATOR_INDEX
    ck = blake(b"Noise_IK_25519_ChaChaPoly_BLAKE2s")
    h = blake(blake(ck + prologue) + public(s_r))
    h = blake(h + public(e_i))
    ck, k = noise_hkdf(ck, dh(e_i, public(s_r)))
    hidden_s = sealed(k, 0, h, public(s_i))
    h = blake(h + hidden_s)
    ck, k = noise_hkdf(ck, dh(s_i, public(s_r)))
    payload = sealed(k, 0, h, ek + TIMESTAMP)
    h = blake(h + payload)
    m1 = public(e_i) + hidden_s + payload

    # message 2: e, ee, se
    h = blake(h + public(e_r))
    ck, k = noise_hkdf(ck, dh(e_i, public(e_r)))
    ck, k = noise_hkdf(ck, dh(s_i, public(e_r)))
    payload = sealed(k, 0, h, ct + RESPONDER_INDEX)
    h = blake(h + payload)
    m2 = public(e_r) + payload

    k1, k2 = noise_hkdf(ck, b"")
    keys = HKDF(hashes.SHA256(), 128, salt=h, info=b"tropea link keys 1").derive(k1 + k2 + ss)

    salt_1, salt_2 = named("salt of initiation", 12), named("salt of response", 12)
    filler_1, filler_2 = named("filler of initiation", 10), named("filler of response", 162)
    secret = named("cookie secret")
    cookie = mac(secret, b"192.0.2.7\0" + (4711).to_bytes(2))
    return {
        "network_id": NETWORK_ID,
        "initiator_static": s_i,
        "responder_static": s_r,
        "initiator_ephemeral": e_i,
        "responder_ephemeral": e_r,
        "mlkem_seed": seed,
        "initiator_index": INITIATOR_INDEX,
        "responder_index": RESPONDER_INDEX,
        "timestamp": TIMESTAMP,
        "ct": ct,
        "ss": ss,
        "m1": m1,
        "m2": m2,
        "h": h,
        "k1": k1,
        "k2": k2,
        "header_key_i_to_r": keys[:32],
        "seal_key_i_to_r": keys[32:64],
        "header_key_r_to_i": keys[64:96],
        "seal_key_r_to_i": keys[96:],
        "initiation_salt": salt_1,
        "initiation_filler": filler_1,
        "cookie_secret": secret,
        "cookie_of_192.0.2.7_port_4711": cookie,
        "initiation": datagram(INITIATOR_INDEX, salt_1, m1, filler_1, public(s_r), cookie),
        "response_salt": salt_2,
        "response_filler": filler_2,
        "response_without_mac2": datagram(INITIATOR_INDEX, salt_2, m2, filler_2, public(s_i), cookie)[:-16],
    }


def main() -> None:
    if PATH.exists():
        ct = bytes.fromhex(json.loads(PATH.read_text())["ct"])
    else:
        dk = MLKEM768PrivateKey.from_seed_bytes(named("ML-KEM seed", 64))
        _, ct = dk.public_key().encapsulate()
    about = "The link handshake of SPEC 4.2 to 4.5, made here by make_link.py.  Hex."
    values = {"about": about} | {name: value.hex() for name, value in make(ct).items()}
    PATH.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
