"""Relay descriptors: what a relay says of itself, signed (SPEC 11).  Floor 3: bytes in, values out.

Signatures are IPv8's, of whatever kind the identity key is; who can check them is passed in (`Verify`), so that nothing
here knows py-ipv8.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntFlag
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Self

from tunnels.errors import LocalError, RemoteError
from tunnels.exit.policy import ExitPolicy, PortSummary
from tunnels.ids import Address, RelayId
from tunnels.params import (
    DESCRIPTOR_AHEAD,
    MAX_ADDRESSES,
    MAX_DESCRIPTOR_LIFETIME,
    MAX_DESCRIPTOR_SIZE,
    MAX_FAMILY,
    MAX_PORT,
    RELAY_ID_SIZE,
    VERSION,
    X25519_SIZE,
)
from tunnels.path.directory import RelayInfo, check_address, relay_id_of
from tunnels.wire.destination import Kind
from tunnels.wire.reader import Reader

Sign = Callable[[bytes], bytes]
"""The signature of a message, by the relay's IPv8 key."""

Verify = Callable[[bytes, bytes, bytes], bool]
"""verify(identity, message, signature): whether the owner of the IPv8 public key `identity` signed `message`.  Never
raises."""

_LABEL: Final = b"tropea relay descriptor 1"


class Capability(IntFlag):
    """What a relay does for others besides passing cells on."""

    EXIT = 1
    DIRECTORY = 2
    HOLDER = 4


@dataclass(frozen=True)
class RelayDescriptor:
    """One relay's own words.

    Attributes:
        published, lifetime: wall seconds.
        bandwidth: KiB/s it claims to forward.
        identity: its IPv8 public key.
        ports4, ports6: to which ports it lets traffic out, per IP version.
        family: relays of the same owner; counts only where both name each other.
        signature: of `signed_bytes`.
    """

    capabilities: Capability
    published: int
    lifetime: int
    bandwidth: int
    link_key: bytes = field(repr=False)
    onion_key: bytes = field(repr=False)
    identity: bytes = field(repr=False)
    addresses: tuple[Address, ...]
    ports4: PortSummary
    ports6: PortSummary
    family: tuple[RelayId, ...] = ()
    signature: bytes = field(default=b"", repr=False)

    @cached_property
    def relay_id(self) -> RelayId:
        return relay_id_of(self.identity)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the whole descriptor."""
        return hashlib.sha256(self.encode()).digest()

    @property
    def expires(self) -> int:
        """Wall seconds."""
        return self.published + self.lifetime

    @cached_property
    def info(self) -> RelayInfo:
        """What an originator needs of it.  Total for whatever `decode` made: a hostile descriptor that got into the set
        must not stop the reader of the whole set.

        Raises:
            ValueError: a field that was put in by hand is none that a relay can have.
        """
        rules = [*_rules(self.ports4, 4), *_rules(self.ports6, 6)] if Capability.EXIT in self.capabilities else []
        return RelayInfo(
            self.relay_id, self.link_key, self.onion_key, self.addresses, ExitPolicy.parse(rules),
            self.bandwidth, frozenset(self.family),
        )  # fmt: skip

    def encode(self) -> bytes:
        """The bytes that are passed on.

        Raises:
            LocalError: a field does not fit, or there is no signature.
        """
        if not self.signature:
            raise LocalError("a descriptor is passed on signed or not at all")
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        encoded = self._body + len(self.signature).to_bytes(2) + self.signature
        if len(encoded) > MAX_DESCRIPTOR_SIZE:
            raise LocalError(f"a descriptor has at most {MAX_DESCRIPTOR_SIZE} bytes, not {len(encoded)}")
        return encoded

    @cached_property
    def _body(self) -> bytes:
        if not 1 <= len(self.addresses) <= MAX_ADDRESSES or len(self.family) > MAX_FAMILY:
            raise LocalError(f"a relay has 1 to {MAX_ADDRESSES} addresses and at most {MAX_FAMILY} family members")
        if {len(self.link_key), len(self.onion_key)} != {X25519_SIZE} or {*map(len, self.family)} - {RELAY_ID_SIZE}:
            raise LocalError("a key or a family member of another size than it has")
        try:
            return self._joined()
        except (OverflowError, ValueError) as error:
            raise LocalError(f"a field that does not fit: {error}") from None

    def _joined(self) -> bytes:
        head = (
            VERSION.to_bytes(1),
            int(self.capabilities).to_bytes(2),
            self.published.to_bytes(8),
            self.lifetime.to_bytes(4),
            min(self.bandwidth, 0xFFFFFFFF).to_bytes(4),
            self.link_key,
            self.onion_key,
            len(self.identity).to_bytes(2) + self.identity,
            len(self.addresses).to_bytes(1),
        )
        policies = (str(ports).encode() for ports in (self.ports4, self.ports6))
        tail = (*(len(text).to_bytes(2) + text for text in policies), len(self.family).to_bytes(1), *self.family)
        return b"".join((*head, *map(_address_bytes, self.addresses), *tail))

    def signed_bytes(self, network_id: bytes) -> bytes:
        """What the signature is made over."""
        return b"".join((_LABEL, len(network_id).to_bytes(1), network_id, self._body))

    def signed(self, network_id: bytes, sign: Sign) -> Self:
        """The same descriptor with its signature."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return type(self)(**fields | {"signature": sign(self.signed_bytes(network_id))})

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Self:
        """The descriptor in `data`, its signature not yet verified.

        Raises:
            RemoteError: malformed, in any way.  Never anything else.
        """
        if len(data) > MAX_DESCRIPTOR_SIZE:
            raise RemoteError(f"a descriptor has at most {MAX_DESCRIPTOR_SIZE} bytes, not {len(data)}")
        reader = Reader(data)
        if (version := reader.u8()) != VERSION:
            raise RemoteError(f"descriptor of version {version}")
        capabilities = Capability(reader.u16() & (Capability.EXIT | Capability.DIRECTORY | Capability.HOLDER))
        published, lifetime, bandwidth = int.from_bytes(reader.take(8)), reader.u32(), reader.u32()
        link_key, onion_key = reader.take(X25519_SIZE), reader.take(X25519_SIZE)
        identity = reader.take(reader.u16())
        count = reader.u8()
        if not 1 <= count <= MAX_ADDRESSES:
            raise RemoteError(f"{count} addresses")
        addresses = tuple(_read_address(reader) for _ in range(count))
        ports4, ports6 = _read_ports(reader), _read_ports(reader)
        members = reader.u8()
        if members > MAX_FAMILY:
            raise RemoteError(f"{members} family members")
        family = tuple(RelayId(reader.take(RELAY_ID_SIZE)) for _ in range(members))
        signature = reader.take(reader.u16())
        reader.end()
        if not identity or not signature:
            raise RemoteError("a descriptor without identity or signature")
        descriptor = cls(
            capabilities, published, lifetime, bandwidth, link_key, onion_key, identity, addresses, ports4, ports6,
            family, signature,
        )  # fmt: skip
        # Decoding loses unknown capability bits, and nobody changes a descriptor: the bytes are kept as they came.
        vars(descriptor).update(_encoded=bytes(data), _body=bytes(data[: len(data) - 2 - len(signature)]))
        return descriptor

    def valid_at(self, now: float) -> bool:
        """Whether the time is right, by a clock that shows `now` (wall seconds)."""
        return (
            self.lifetime <= MAX_DESCRIPTOR_LIFETIME and self.published <= now + DESCRIPTOR_AHEAD and now < self.expires
        )

    def check(self, network_id: bytes, now: float, verify: Verify) -> None:
        """Insist on SPEC 11.2.

        Args:
            now: wall seconds.

        Raises:
            RemoteError: not of our network, not signed by `identity`, from the future, or expired.
        """
        if not self.valid_at(now):
            raise RemoteError("a descriptor that is not valid now")
        if not verify(self.identity, self.signed_bytes(network_id), self.signature):
            raise RemoteError("a descriptor that its relay did not sign")

    def newer_than(self, other: "RelayDescriptor") -> bool:
        """Whether this one counts, of two of one identity (SPEC 11.2): the same order at every node."""
        return (self.published, other.digest) > (other.published, self.digest)


def _address_bytes(address: Address) -> bytes:
    host, port = address
    packed = ip_address(host).packed
    return bytes([Kind.IPV4 if len(packed) == 4 else Kind.IPV6]) + packed + port.to_bytes(2)


def _read_address(reader: Reader) -> Address:
    match reader.u8():
        case Kind.IPV4:
            host = str(IPv4Address(reader.take(4)))
        case Kind.IPV6:
            host = str(IPv6Address(reader.take(16)))
        case other:
            raise RemoteError(f"unknown kind {other} of address")
    address = host, reader.u16()
    try:
        check_address(address)
    except ValueError as error:
        raise RemoteError(f"an address that no relay has: {error}") from None
    return address


def _read_ports(reader: Reader) -> PortSummary:
    try:
        return PortSummary.parse(reader.take(reader.u16()).decode("ascii"))
    except ValueError:
        raise RemoteError("a malformed policy summary") from None


def _rules(ports: PortSummary, version: int) -> list[str]:
    """An exit policy that allows what `ports` says; nothing when it allows nothing."""
    if not ports.accept and ports.ranges == ((1, MAX_PORT),):
        return []
    word = "accept" if ports.accept else "reject"
    rules = [f"{word} *{version}:{first}-{last}" for first, last in ports.ranges]
    return rules if ports.accept else [*rules, f"accept *{version}:*"]
