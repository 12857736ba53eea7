"""Relay descriptors for tests of what is done with them: signed by a hash that anybody could make, but nobody does.

Real keys are slow to make; those who test signatures use tunnels.identity.
"""

from hashlib import sha256
from typing import Final

from tunnels.exit.policy import ExitPolicy
from tunnels.ids import Address
from tunnels.path.descriptor import Capability, RelayDescriptor
from tunnels.path.descriptors import DescriptorSet

NETWORK_ID: Final = b"test"
NOW: Final = 1_700_000_000
"""Wall seconds at which most of them are published."""

HOUR: Final = 3600
NO_PORTS: Final = ExitPolicy.REJECT_ALL.summary(4)


def identity_of(name: int | str, size: int = 74) -> bytes:
    """As long as a curve25519 key of IPv8."""
    return (sha256(f"identity {name}".encode()).digest() * 3)[:size]


def signature_of(identity: bytes, message: bytes) -> bytes:
    return sha256(b"1" + identity + message).digest() + sha256(b"2" + identity + message).digest()


def verify(identity: bytes, message: bytes, signature: bytes) -> bool:
    return signature == signature_of(identity, message)


def described(name: int | str, *, published: int = NOW, lifetime: int = 24 * HOUR, address: Address | None = None,
              network_id: bytes = NETWORK_ID, bandwidth: int = 1000,
              capabilities: Capability = Capability.DIRECTORY) -> RelayDescriptor:  # fmt: skip
    """What the relay called `name` says of itself, signed."""
    identity = identity_of(name)
    number = int.from_bytes(sha256(identity).digest()[:2])
    address = address or (f"11.{number >> 8}.{number & 255}.1", 8000)
    link_key, onion_key = sha256(identity + b"link").digest(), sha256(identity + b"onion").digest()
    unsigned = RelayDescriptor(
        capabilities, published, lifetime, bandwidth, link_key, onion_key, identity, (address,), NO_PORTS, NO_PORTS
    )
    return unsigned.signed(network_id, lambda message: signature_of(identity, message))


def set_of(*descriptors: RelayDescriptor) -> DescriptorSet:
    known = DescriptorSet()
    for descriptor in descriptors:
        known.add(descriptor)
    return known


def contents(known: DescriptorSet) -> frozenset[bytes]:
    return frozenset(descriptor.encode() for descriptor in known)
