"""Makes descriptor.json: a relay descriptor and its signature, byte by byte (SPEC 11.1).

    python -m tests.vectors.make_descriptor

Every field is put down by hand, in the order the specification draws it.  The identity is a curve25519 key of IPv8:
"LibNaCLPK:", an X25519 public key that plays no part here, an Ed25519 public key.  `cryptography` makes keys and
signature; nothing of ours and nothing of py-ipv8 is imported.  The secrets are SHAKE-256 of their names.
"""

import json
from hashlib import sha256, shake_256
from pathlib import Path
from typing import Final, TypedDict

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

PATH: Final = Path(__file__).with_name("descriptor.json")


class Vector(TypedDict):
    """Byte strings are in hex; `signed` is what the signature is made over."""

    name: str
    network_id: str
    private_key: str
    capabilities: int
    published: int
    lifetime: int
    bandwidth: int
    link_key: str
    onion_key: str
    identity: str
    relay_id: str
    addresses: list[tuple[str, int]]
    ports4: str
    ports6: str
    family: list[str]
    signed: str
    signature: str
    hex: str


def secret(name: str, size: int = 32) -> bytes:
    return shake_256(b"tropea descriptor vector " + name.encode()).digest(size)


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def vector(name: str, network_id: bytes, capabilities: int, addresses: dict[tuple[str, int], bytes],
           ports4: str, ports6: str, family: list[bytes]) -> Vector:  # fmt: skip
    """
    Args:
        addresses: each with its bytes.
    """
    curve, signing = X25519PrivateKey.from_private_bytes(secret("x")), Ed25519PrivateKey.from_private_bytes(secret("s"))
    identity = b"LibNaCLPK:" + curve.public_key().public_bytes_raw() + signing.public_key().public_bytes_raw()
    link_key, onion_key = secret("link key"), secret("onion key")
    body = b"".join([
        bytes([1]),
        capabilities.to_bytes(2, "big"),
        (1_700_000_000).to_bytes(8, "big"),
        (86_400).to_bytes(4, "big"),
        (12_500).to_bytes(4, "big"),
        link_key,
        onion_key,
        sized(identity),
        bytes([len(addresses)]),
        *addresses.values(),
        sized(ports4.encode("ascii")),
        sized(ports6.encode("ascii")),
        bytes([len(family)]),
        *family,
    ])  # fmt: skip
    signed = b"tropea relay descriptor 1" + bytes([len(network_id)]) + network_id + body
    signature = signing.sign(signed)
    return {
        "name": name,
        "network_id": network_id.hex(),
        "private_key": (b"LibNaCLSK:" + secret("x") + secret("s")).hex(),
        "capabilities": capabilities,
        "published": 1_700_000_000,
        "lifetime": 86_400,
        "bandwidth": 12_500,
        "link_key": link_key.hex(),
        "onion_key": onion_key.hex(),
        "identity": identity.hex(),
        "relay_id": sha256(identity).hexdigest(),
        "addresses": list(addresses),
        "ports4": ports4,
        "ports6": ports6,
        "family": [member.hex() for member in family],
        "signed": signed.hex(),
        "signature": signature.hex(),
        "hex": (body + sized(signature)).hex(),
    }


def vectors() -> list[Vector]:
    ipv4 = {("192.0.2.1", 8090): bytes([4, 192, 0, 2, 1, 0x1F, 0x9A])}
    ipv6 = {("2001:db8::1", 443): bytes([6, 0x20, 0x01, 0x0D, 0xB8, *bytes(11), 1, 0x01, 0xBB])}
    four = {(f"192.0.2.{n}", 65535): bytes([4, 192, 0, 2, n, 0xFF, 0xFF]) for n in range(1, 5)}
    nothing = "reject 1-65535"
    return [
        vector("a relay that only passes cells on", b"tropea", 0, ipv4, nothing, nothing, []),
        vector("everything at once", b"n" * 32, 7, {**ipv6, **ipv4}, "accept 53,443", "reject 1-1023",
               [secret("a member"), secret("another")]),
        vector("all bounds", b"t", 3, four, "accept 1-65535", nothing, [secret(f"member {n}") for n in range(16)]),
        vector("capabilities that are not known yet", b"tropea", 0xFFFA, ipv4, nothing, nothing, []),
    ]  # fmt: skip


def text() -> str:
    """What belongs into the file."""
    return json.dumps(vectors(), indent=1) + "\n"


def load() -> list[Vector]:
    """What is in the file."""
    found: list[Vector] = json.loads(PATH.read_text())
    return found


if __name__ == "__main__":
    PATH.write_text(text())
