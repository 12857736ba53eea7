"""Which relays exist: what is known of each, by its id (SPEC 7.2).  Floor 3: sans-IO.

Whoever fills the directory vouches for it: today the application's configuration.  Nothing here chooses a path.
"""

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from tunnels.errors import LocalError
from tunnels.exit.policy import ExitPolicy
from tunnels.ids import Address, RelayId
from tunnels.params import RELAY_ID_SIZE, X25519_SIZE


def relay_id_of(public_key: bytes) -> RelayId:
    """The id of the relay with this IPv8 public key (SPEC 5.1)."""
    return RelayId(hashlib.sha256(public_key).digest())


@dataclass(frozen=True, slots=True)
class RelayInfo:
    """What an originator needs to use a relay, and a relay to reach it.

    INVARIANT: at least one address; every address is numeric, in canonical text, with a port.

    Raises:
        ValueError: a field is no such thing; the message names field, value and bound.
    """

    relay_id: RelayId
    link_key: bytes = field(repr=False)
    onion_key: bytes = field(repr=False)
    addresses: tuple[Address, ...]
    exit_policy: ExitPolicy = ExitPolicy.REJECT_ALL

    def __post_init__(self) -> None:
        for name, size in (("relay_id", RELAY_ID_SIZE), ("link_key", X25519_SIZE), ("onion_key", X25519_SIZE)):
            if len(getattr(self, name)) != size:
                raise ValueError(f"{name} has {size} bytes, not {len(getattr(self, name))}")
        if not self.addresses:
            raise ValueError("addresses: a relay has at least one")
        for host, port in self.addresses:
            if str(ipaddress.ip_address(host)) != host:
                raise ValueError(f"addresses: write {ipaddress.ip_address(host)} for {host}")
            if not 1 <= port <= 0xFFFF:
                raise ValueError(f"addresses: a port is 1 to 65535, not {port}")

    @property
    def is_exit(self) -> bool:
        return self.exit_policy != ExitPolicy.REJECT_ALL

    def address_in(self, families: Iterable[int]) -> Address | None:
        """The first address whose IP version is among `families`."""
        return next((a for a in self.addresses if ipaddress.ip_address(a[0]).version in families), None)

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
        addresses = tuple((str(host), int(port)) for host, port in data["addresses"])
        return cls(
            RelayId(bytes.fromhex(data["relay_id"])),
            bytes.fromhex(data["link_key"]),
            bytes.fromhex(data["onion_key"]),
            addresses,
            ExitPolicy.parse(data.get("exit_policy", "reject *:*")),
        )


class Directory:
    """The relays we know.

    INVARIANT: no two relays share an id or a link key.
    """

    def __init__(self, relays: Iterable[RelayInfo] = ()) -> None:
        self._relays: dict[RelayId, RelayInfo] = {}
        self._by_link_key: dict[bytes, RelayId] = {}
        self._addresses: set[str] | None = None
        for relay in relays:
            self.add(relay)

    def add(self, relay: RelayInfo) -> None:
        """Know `relay`; what was known under its id is replaced.

        Raises:
            LocalError: another relay has this link key.
        """
        if self._by_link_key.get(relay.link_key, relay.relay_id) != relay.relay_id:
            raise LocalError("two relays cannot share a link key")
        self.remove(relay.relay_id)
        self._relays[relay.relay_id] = relay
        self._by_link_key[relay.link_key] = relay.relay_id
        self._addresses = None

    def remove(self, relay_id: RelayId) -> None:
        if (old := self._relays.pop(relay_id, None)) is not None:
            del self._by_link_key[old.link_key]
            self._addresses = None

    def get(self, relay_id: RelayId) -> RelayInfo | None:
        return self._relays.get(relay_id)

    def by_link_key(self, link_key: bytes) -> RelayInfo | None:
        """The relay behind a neighbour's static key; None for a client."""
        relay_id = self._by_link_key.get(link_key)
        return self._relays[relay_id] if relay_id is not None else None

    def has_host(self, host: str) -> bool:
        """Whether a relay is at this numeric address, on any port: an exit does not connect there."""
        if self._addresses is None:
            self._addresses = {address for relay in self._relays.values() for address, _ in relay.addresses}
        return host in self._addresses

    def __len__(self) -> int:
        return len(self._relays)

    def __iter__(self) -> Iterator[RelayInfo]:
        return iter(self._relays.values())
