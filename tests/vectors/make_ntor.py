"""Makes ntor_hybrid.json: SPEC 5 step by step, every intermediate value written down.

    python -m tests.vectors.make_ntor

It uses hashlib, hmac and `cryptography` and nothing of ours, so that a mistake in tunnels/ cannot get into the vectors.
The secrets of a case are SHA-256 of its name and theirs, and all else follows, save the ML-KEM ciphertexts: an
encapsulation draws its own randomness, so they are kept from the file that is there.
"""

import hashlib
import hmac
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

PATH: Final = Path(__file__).with_name("ntor_hybrid.json")

PROTOID: Final = b"tropea ntor x25519 mlkem768 sha256 1"

Values = dict[str, bytes]
"""By the name it has in SPEC 5."""


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    network_id: bytes
    data: bytes
    """From the originator to the relay."""
    answer_data: bytes


CASES: Final = (
    Case("plain", b"tropea", b"", b""),
    Case("data both ways", b"tropea", b"to the relay", b"to the originator"),
    Case("the longest", b"n" * 32, bytes(range(48)), bytes(range(48, 96))),
    Case("the shortest network", b"x", b"\0", b"\xff"),
)


def inputs(case: Case) -> Values:
    """The secrets of a case."""

    def of(name: str) -> bytes:
        return hashlib.sha256(f"{case.name}: {name}".encode()).digest()

    return {
        "network_id": case.network_id,
        "data": case.data,
        "answer_data": case.answer_data,
        "ID": of("ID"),
        "b": of("b"),
        "x": of("x"),
        "y": of("y"),
        "kem_seed": of("d") + of("z"),
    }


def public(scalar: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(scalar).public_key().public_bytes_raw()


def exchange(scalar: bytes, point: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(scalar).exchange(X25519PublicKey.from_public_bytes(point))


def chacha20(key: bytes, data: bytes) -> bytes:
    """Nonce 0 from block 0: `cryptography` takes the block counter and the nonce as one."""
    return Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(data)


def expand(CONTEXT: bytes, prk: bytes, label: bytes, size: int) -> bytes:
    return HKDFExpand(hashes.SHA256(), size, CONTEXT + label).derive(prk)


def padded(data: bytes) -> bytes:
    return bytes([len(data)]) + data + bytes(48 - len(data))


def ephemerals(v: Values) -> None:
    """Steps 1 and 2, as the originator."""
    v["CONTEXT"] = PROTOID + bytes([len(v["network_id"])]) + v["network_id"]
    v["B"], v["X"] = public(v["b"]), public(v["x"])
    v["KEYID"] = hashlib.sha256(v["B"]).digest()[:8]
    v["ek"] = MLKEM768PrivateKey.from_seed_bytes(v["kem_seed"]).public_key().public_bytes_raw()
    v["Bx"] = exchange(v["x"], v["B"])
    v["padded_data"], v["padded_answer"] = padded(v["data"]), padded(v["answer_data"])


def request(v: Values) -> None:
    """Steps 3 to 6, out of Bx, X and ek: whoever has these makes the CREATE that verifies."""
    v["salt"] = hashlib.sha256(v["CONTEXT"] + v["ID"] + v["B"] + v["X"] + v["ek"]).digest()
    v["P1"] = hmac.new(v["salt"], v["Bx"], hashlib.sha256).digest()
    okm = expand(v["CONTEXT"], v["P1"], b":extra", 64)
    v["K_extra"], v["K_mac"] = okm[:32], okm[32:]
    v["extra"] = chacha20(v["K_extra"], v["padded_data"])
    authenticated = v["CONTEXT"] + v["ID"] + v["B"] + v["X"] + v["ek"] + v["extra"]
    v["MAC"] = hmac.new(v["K_mac"], authenticated, hashlib.sha256).digest()
    v["CREATE"] = b"\x01" + v["KEYID"] + v["X"] + v["ek"] + v["extra"] + v["MAC"]


def response(v: Values) -> None:
    """Steps 8 to 12, out of Xy, Xb, ss, ct and Y: whoever has these makes the CREATED that verifies."""
    seen = (v["CONTEXT"], v["ID"], v["B"], v["X"], v["ek"], v["extra"], v["MAC"], v["Y"], v["ct"])
    v["T"] = hashlib.sha256(b"".join(seen)).digest()
    v["P2"] = hmac.new(v["T"], v["Xy"] + v["Xb"] + v["ss"], hashlib.sha256).digest()
    okm = expand(v["CONTEXT"], v["P2"], b":keys", 232)
    v["K_answer"], v["K_auth"], v["KEYS"] = okm[:32], okm[32:64], okm[64:]
    v["answer"] = chacha20(v["K_answer"], v["padded_answer"])
    v["AUTH"] = hmac.new(v["K_auth"], v["CONTEXT"] + b"relay" + v["T"] + v["answer"], hashlib.sha256).digest()
    v["CREATED"] = v["Y"] + v["ct"] + v["answer"] + v["AUTH"]


def outcome(v: Values) -> None:
    """SPEC 5.3."""
    for number, name in enumerate(("forward", "backward", "seal", "filler", "exporter")):
        v[name] = v["KEYS"][32 * number : 32 * number + 32]
    v["counter_offset"] = (int.from_bytes(v["KEYS"][160:]) % 2**40).to_bytes(8)


def vector(case: Case, ct: bytes | None) -> Values:
    """The whole handshake; `ct` is made when there is none."""
    v = inputs(case)
    ephemerals(v)
    request(v)
    v["ct"] = ct or MLKEM768PublicKey.from_public_bytes(v["ek"]).encapsulate()[1]
    v["ss"] = MLKEM768PrivateKey.from_seed_bytes(v["kem_seed"]).decapsulate(v["ct"])
    v["Y"] = public(v["y"])
    v["Xy"], v["Xb"] = exchange(v["y"], v["X"]), exchange(v["b"], v["X"])
    response(v)
    outcome(v)
    return v


def load() -> dict[str, Values]:
    """What is in the file, by the name of the case."""
    if not PATH.exists():
        return {}
    cases: Mapping[str, Mapping[str, str]] = json.loads(PATH.read_text())
    return {case: {name: bytes.fromhex(value) for name, value in values.items()} for case, values in cases.items()}


def text() -> str:
    """What belongs into the file."""
    old = load()
    made = {case.name: vector(case, old.get(case.name, {}).get("ct")) for case in CASES}
    return json.dumps({n: {k: v.hex() for k, v in values.items()} for n, values in made.items()}, indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text())
    sys.stdout.write(f"{PATH.name}: {len(CASES)} cases\n")
