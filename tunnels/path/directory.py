"""Which relays exist: what is known of each, by its id (SPEC 7.2).  Floor 3: sans-IO.

Whoever fills the directory vouches for it: today the application's configuration.  Nothing here chooses a path.
"""

import hashlib
import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

from tunnels.exit.policy import ExitPolicy
from tunnels.ids import Address, RelayId
from tunnels.params import MAX_PORT, RELAY_ID_SIZE, X25519_SIZE


def relay_id_of(public_key: bytes) -> RelayId:
    """The id of the relay with this IPv8 public key (SPEC 5.1)."""
    return RelayId(hashlib.sha256(public_key).digest())


@dataclass(frozen=True, slots=True)
class RelayInfo:
    """What an originator needs to use a relay, and a relay to reach it.

    INVARIANT: at least one address; every address is one host's, numeric, in canonical text, with a port.

    Raises:
        ValueError: a field is no such thing; the message names field, value and bound.
    """

    relay_id: RelayId
    link_key: bytes = field(repr=False)
    onion_key: bytes = field(repr=False)
    addresses: tuple[Address, ...]
    exit_policy: ExitPolicy = ExitPolicy.REJECT_ALL
    bandwidth: int = 0
    """KiB/s it claims to forward; 0: unknown."""
    family: frozenset[RelayId] = frozenset()
    """Relays it says belong to the same owner; counts where both say so."""

    def __post_init__(self) -> None:
        for name, size in (("relay_id", RELAY_ID_SIZE), ("link_key", X25519_SIZE), ("onion_key", X25519_SIZE)):
            value: object = getattr(self, name)
            if not isinstance(value, bytes) or len(value) != size:
                got = f"{len(value)}" if isinstance(value, bytes) else f"a {type(value).__name__}"
                raise ValueError(f"{name} has {size} bytes, not {got}")
        if not self.addresses:
            raise ValueError("addresses: a relay has at least one")
        for address in self.addresses:
            try:
                check_address(address)
            except ValueError as error:
                raise ValueError(f"addresses: {error}") from None

    @property
    def is_exit(self) -> bool:
        return self.exit_policy != ExitPolicy.REJECT_ALL

    @property
    def families(self) -> frozenset[int]:
        """IP versions at which it can be reached."""
        return frozenset(_kind_of(host)[0] for host, _ in self.addresses)

    def address_in(self, families: Collection[int], *, private: bool) -> Address | None:
        """The first address that may be dialled: its IP version is among `families`, and it is public unless `private`
        allows others.
        """
        for address in self.addresses:
            version, public = _kind_of(address[0])
            if version in families and (private or public):
                return address
        return None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: keys in hex, addresses as [host, port], the exit policy as text."""
        return {
            "relay_id": self.relay_id.hex(),
            "link_key": self.link_key.hex(),
            "onion_key": self.onion_key.hex(),
            "addresses": [list(address) for address in self.addresses],
            "exit_policy": str(self.exit_policy),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `to_dict` gave.

        Raises:
            ValueError: a field is missing, unknown or malformed; the message names it.
        """
        known = {"relay_id", "link_key", "onion_key", "addresses", "exit_policy"}
        if unknown := sorted(data.keys() - known):
            raise ValueError(f"{unknown[0]} is not a field of a relay; there are {', '.join(sorted(known))}")
        if missing := sorted(known - {"exit_policy"} - data.keys()):
            raise ValueError(f"{missing[0]} is missing")
        policy = data.get("exit_policy", "reject *:*")
        if not isinstance(policy, str):
            raise ValueError(f"exit_policy is text, not a {type(policy).__name__}")  # noqa: TRY004
        return cls(
            RelayId(_unhex(data, "relay_id")),
            _unhex(data, "link_key"),
            _unhex(data, "onion_key"),
            tuple(_pairs(data["addresses"])),
            ExitPolicy.parse(policy),
        )


def check_address(address: object) -> None:
    """
    Raises:
        ValueError: `address` is no address at which one host can be reached; the text says what would be right.
    """
    if not isinstance(address, tuple) or len(address) != 2:
        raise ValueError(f"{address!r} is no pair of numeric address and port, such as ('192.0.2.1', 8090)")
    host, port = address
    if type(port) is not int or not 1 <= port <= MAX_PORT:
        raise ValueError(f"a port is 1 to {MAX_PORT}, not {port!r}")
    try:
        ip = ipaddress.ip_address(host) if isinstance(host, str) else None
    except ValueError:
        ip = None
    if ip is None:
        raise ValueError(f"{host!r} is no numeric address, such as 192.0.2.1 or 2001:db8::1")
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped is not None or ip.scope_id is not None):
        raise ValueError(f"{host} has an IPv4 address or a zone inside; write a plain address")
    if ip.is_unspecified or ip.is_multicast:
        raise ValueError(f"{host} is no address of one host")
    if str(ip) != host:
        raise ValueError(f"write {ip} for {host}")


@lru_cache(maxsize=65536)
def _kind_of(host: str) -> tuple[int, bool]:
    """IP version, and whether it is public."""
    ip = ipaddress.ip_address(host)
    return ip.version, ip.is_global


def _unhex(data: Mapping[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(data[name])
    except (TypeError, ValueError):
        raise ValueError(f"{name} is text of hexadecimal digits") from None


def _pairs(addresses: object) -> Iterator[Address]:
    if not isinstance(addresses, list | tuple):
        raise ValueError(f"addresses is a list of [host, port] pairs, not a {type(addresses).__name__}")  # noqa: TRY004
    for pair in addresses:
        yield tuple(pair) if isinstance(pair, list) else pair


class Directory:
    """The relays we know.

    A descriptor does not prove that its relay has the link key it names, so several may name one: whoever dials learns
        the truth, because the circuit handshake binds the relay id.  Refusing the second would let a thief hide his
        victim.
    """

    def __init__(self, relays: Iterable[RelayInfo] = ()) -> None:
        self._relays: dict[RelayId, RelayInfo] = {}
        self._by_link_key: dict[bytes, set[RelayId]] = {}
        self._addresses: set[str] | None = None
        for relay in relays:
            self.add(relay)

    def add(self, relay: RelayInfo) -> None:
        """Know `relay`; what was known under its id is replaced."""
        self.remove(relay.relay_id)
        self._relays[relay.relay_id] = relay
        self._by_link_key.setdefault(relay.link_key, set()).add(relay.relay_id)
        self._addresses = None

    def remove(self, relay_id: RelayId) -> None:
        if (old := self._relays.pop(relay_id, None)) is not None:
            owners = self._by_link_key[old.link_key]
            owners.discard(relay_id)
            if not owners:
                del self._by_link_key[old.link_key]
            self._addresses = None

    def get(self, relay_id: RelayId) -> RelayInfo | None:
        return self._relays.get(relay_id)

    def is_relay(self, link_key: bytes) -> bool:
        """Whether a neighbour with this static key says that it is a relay; a client does not."""
        return link_key in self._by_link_key

    def has_host(self, host: str) -> bool:
        """Whether a relay is at this numeric address, on any port: an exit does not connect there."""
        if self._addresses is None:
            self._addresses = {address for relay in self._relays.values() for address, _ in relay.addresses}
        return host in self._addresses

    def __len__(self) -> int:
        return len(self._relays)

    def __iter__(self) -> Iterator[RelayInfo]:
        return iter(self._relays.values())
