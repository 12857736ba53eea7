"""What an application may set, checked once (SPEC 1, 7, 8.5).  Floor 5: IPv8 sets attributes, so the outside is
mutable.

`TunnelSettings` is what IPv8's loader makes and fills; `freeze` turns it into a `Settings` that nobody changes, or says
which field is wrong, what it is, and what it may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from ipv8.community import CommunitySettings

from tunnels.circuit.limits import RelayLimits
from tunnels.crypto.onion_keys import OnionKeys
from tunnels.crypto.x25519 import KeyPair
from tunnels.exit.policy import ExitPolicy
from tunnels.ids import Address, RelayId, Rng
from tunnels.params import GUARD_MIN_AGE, MAX_FAMILY, MAX_NETWORK_ID, RELAY_ID_SIZE, X25519_SIZE
from tunnels.path.directory import RelayInfo, check_address
from tunnels.path.pool import PoolLimits
from tunnels.store import MemoryStore, Store
from tunnels.surroundings import Surroundings

_KEYS_NAME: Final = "relay-keys"
"""In the store: private link key, then the onion keys."""


@dataclass(frozen=True, slots=True)
class RelayKeys:
    """A relay's own keys: its link key and its onion keys.  Never printed."""

    link: KeyPair
    onion: OnionKeys

    @classmethod
    def generate(cls, wall: float, rng: Rng) -> RelayKeys:
        """Those of a relay that starts for the first time; `wall`: seconds since the epoch."""
        return cls(KeyPair.generate(rng), OnionKeys.generate(wall, rng))

    @classmethod
    def kept_in(cls, store: Store, wall: float, rng: Rng) -> RelayKeys:
        """Those of a relay that was here before, or new ones, kept from now on.

        Raises:
            LocalError: what is stored cannot be used; nothing was changed.
        """
        if (saved := store.load(_KEYS_NAME)) is not None:
            return cls(KeyPair(saved[:X25519_SIZE]), OnionKeys.from_bytes(saved[X25519_SIZE:], rng))
        keys = cls.generate(wall, rng)
        keys.keep_in(store)
        return keys

    def keep_in(self, store: Store) -> None:
        store.save(_KEYS_NAME, self.link.private_bytes() + self.onion.to_bytes())

    def __repr__(self) -> str:
        return "RelayKeys()"


class TunnelSettings(CommunitySettings):
    """Set what you like before the community is made; it is validated and copied there.

    Circuits of our own
        min_circuits, max_circuits: how many are kept open for each hop count; those past max_time or max_traffic that
            are still in use do not count, and are as many again at most.
        max_time: seconds from its opening after which a circuit takes nothing new; its successor is built before.
        max_time_inactive: seconds without use after which a circuit above min_circuits is closed, and without a cell
            after which one of somebody else's is.
        max_traffic: bytes after which a circuit is closed, ours once its successor is open.
        bootstrap: (host, port) pairs of nodes to meet first; any relay serves.  Nothing is contacted by default.
        relays: those we may use besides the ones found, as `RelayInfo` or as the dictionaries `RelayInfo.to_dict`
            makes.
        min_relays: relays below which no circuits are built from what was found.
        min_relay_age: seconds a found relay must have been known before it is used.
        min_sources: directory sources that must have shown it.
        distinct_networks: False lets two hops share a /16; for test networks, and said aloud at start.

    Relaying for others
        relay_addresses: (host, port) pairs at which others reach us; a node without any is no relay.
        max_joined_circuits: circuits of others at one time.
        bandwidth: KiB/s we claim to forward.
        family: relay ids of the same owner, in hex: no circuit uses two of a family where each names the other.
        relay_keys: when None, those in the store, or new ones that are stored there.
        private_addresses: relays at private and loopback addresses may be dialled; for test networks.

    Exiting for others
        become_exitnode: whether traffic may leave here; then exit_policy says which.
        exit_policy: in Tor's syntax, first match wins, what nothing matches is rejected.
        exit_private: private destinations may be accepted by the policy; for test networks.
        exit_single_hop: also for circuits on which we are the only hop: that makes an open proxy of this node.
        nameservers: (address, port) pairs that resolve host names; those of this machine when None.

    network_id: two networks with different ids never mix.
    store: what has to outlive the process: guards, counts, relay keys; `tunnels.store.FileStore(directory)` keeps it on
        disk. None forgets it at exit: then each start meets new guards, which is bad for anonymity.
    guard_min_age: seconds a relay must have been known before it becomes a guard, unless we know the network no longer.
    surroundings: what a simulator replaces: dice, wall clock, the outside of an exit.
    """

    min_circuits: int = 2
    max_circuits: int = 8
    max_joined_circuits: int = 100
    max_time: float = 600.0
    max_time_inactive: float = 120.0
    max_traffic: int = 10 << 30
    become_exitnode: bool = False
    exit_policy: str | Iterable[str] = "reject *:*"
    exit_private: bool = False
    exit_single_hop: bool = False
    nameservers: tuple[Address, ...] | None = None
    network_id: str = "tropea"
    bootstrap: Iterable[Address] = ()
    relays: Iterable[RelayInfo | dict[str, Any]] = ()
    min_relays: int = 3
    min_relay_age: float = 3600.0
    min_sources: int = 2
    bandwidth: int = 1024
    family: Iterable[str] = ()
    relay_addresses: Iterable[Address] = ()
    relay_keys: RelayKeys | None = None
    private_addresses: bool = False
    distinct_networks: bool = True
    store: Store | None = None
    guard_min_age: float = GUARD_MIN_AGE
    surroundings: Surroundings | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """A checked copy: fields as in TunnelSettings."""

    pool: PoolLimits
    limits: RelayLimits
    exit_policy: ExitPolicy
    exit_private: bool
    nameservers: tuple[Address, ...] | None
    network_id: bytes
    bootstrap: tuple[Address, ...]
    relays: tuple[RelayInfo, ...]
    min_relays: int
    min_relay_age: float
    min_sources: int
    bandwidth: int
    family: tuple[RelayId, ...]
    relay_addresses: tuple[Address, ...]
    relay_keys: RelayKeys | None
    distinct_networks: bool
    store: Store
    guard_min_age: float
    surroundings: Surroundings = field(repr=False)

    @property
    def is_relay(self) -> bool:
        return bool(self.relay_addresses)


_IPV8_FIELDS: Final = frozenset({"my_peer", "endpoint", "network", "community_id", "max_peers", "anonymize"})


def freeze(settings: TunnelSettings) -> Settings:
    """A copy of `settings` that is known to be right.

    Raises:
        ValueError: a field is not, or is unknown; the text names field, value and bound.
    """
    _known_fields(settings)
    pool = PoolLimits(
        min_circuits=_whole(settings, "min_circuits", 1),
        max_circuits=_whole(settings, "max_circuits", 1),
        max_time=_number(settings, "max_time", 1),
        max_time_inactive=_number(settings, "max_time_inactive", 1),
        max_traffic=_whole(settings, "max_traffic", 1),
    )
    if pool.min_circuits > pool.max_circuits:
        raise ValueError(f"min_circuits is {pool.min_circuits}; it must not exceed max_circuits, {pool.max_circuits}")
    exits = _flag(settings, "become_exitnode")
    policy = _exit_policy(settings, exits=exits)
    name = _checked(settings, "network_id", _is_network_id, f"text of 1 to {MAX_NETWORK_ID} bytes")
    keys = _checked(settings, "relay_keys", lambda v: v is None or isinstance(v, RelayKeys), "a RelayKeys or None")
    store = _checked(settings, "store", lambda v: v is None or isinstance(v, Store), "a Store or None")
    surroundings = _checked(
        settings, "surroundings", lambda v: v is None or isinstance(v, Surroundings), "a Surroundings or None"
    )
    addresses = _addresses(settings, "relay_addresses")
    if exits and not addresses:
        raise ValueError(
            "become_exitnode is True, but relay_addresses is empty; name the addresses at which others reach this node"
        )
    return Settings(
        pool=pool,
        limits=RelayLimits(
            max_joined_circuits=_whole(settings, "max_joined_circuits", 0),
            max_time_inactive=pool.max_time_inactive,
            max_traffic=pool.max_traffic,
            exits=exits,
            exit_single_hop=_flag(settings, "exit_single_hop"),
            private_addresses=_flag(settings, "private_addresses"),
        ),
        exit_policy=policy,
        exit_private=_flag(settings, "exit_private"),
        nameservers=None if settings.nameservers is None else _addresses(settings, "nameservers"),
        network_id=name.encode(),
        bootstrap=_addresses(settings, "bootstrap"),
        relays=_relays(settings),
        min_relays=_whole(settings, "min_relays", 1),
        min_relay_age=_number(settings, "min_relay_age", 0),
        min_sources=_whole(settings, "min_sources", 1),
        bandwidth=_whole(settings, "bandwidth", 0),
        family=_family(settings),
        relay_addresses=addresses,
        relay_keys=keys,
        distinct_networks=_flag(settings, "distinct_networks"),
        store=MemoryStore() if store is None else store,
        guard_min_age=_number(settings, "guard_min_age", 0),
        surroundings=surroundings or Surroundings(),
    )


def _known_fields(settings: TunnelSettings) -> None:
    known = set(_IPV8_FIELDS)
    for owner in type(settings).__mro__:
        known |= set(getattr(owner, "__annotations__", {}))  # a subclass may add settings of its own
    for name in vars(settings):
        if name not in known and not hasattr(type(settings), name):
            ours = ", ".join(sorted(TunnelSettings.__annotations__))
            raise ValueError(f"{name} is not a tunnel setting; there are {ours}")


def _checked(settings: TunnelSettings, name: str, fits: Callable[[Any], bool], bound: str) -> Any:
    value = getattr(settings, name)
    if not fits(value):
        raise ValueError(f"{name} is {value!r}; it must be {bound}")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_network_id(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value.encode(errors="surrogatepass")) <= MAX_NETWORK_ID


def _whole(settings: TunnelSettings, name: str, least: int) -> int:
    value = _checked(settings, name, lambda v: _is_number(v) and math.isfinite(v) and v == int(v) and v >= least,
                     f"a whole number, at least {least}")  # fmt: skip
    return int(value)


def _number(settings: TunnelSettings, name: str, least: float) -> float:
    return float(_checked(settings, name, lambda v: _is_number(v) and v >= least, f"a number, at least {least}"))


def _flag(settings: TunnelSettings, name: str) -> bool:
    return bool(_checked(settings, name, lambda v: isinstance(v, bool), "True or False"))


def _exit_policy(settings: TunnelSettings, *, exits: bool) -> ExitPolicy:
    given = settings.exit_policy
    try:
        policy = ExitPolicy.parse(given)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"exit_policy is {given!r}; it must be rules in Tor's syntax: {error}") from None
    if exits and policy == ExitPolicy.REJECT_ALL:
        raise ValueError(
            f"become_exitnode is True, but exit_policy is {given!r}; "
            'say what may leave, for example "accept *:53, accept *:443, reject *:*"'
        )
    return policy if exits else ExitPolicy.REJECT_ALL


def _each(settings: TunnelSettings, name: str, bound: str) -> list[Any]:
    """The entries of a list."""
    value = getattr(settings, name)
    if isinstance(value, str | bytes | dict) or not isinstance(value, Iterable):
        raise ValueError(f"{name} is {value!r}; it must be a list of {bound}")  # noqa: TRY004 (settings: ValueError)
    return list(value)


def _addresses(settings: TunnelSettings, name: str) -> tuple[Address, ...]:
    found = []
    for entry in _each(settings, name, "(numeric address, port) pairs"):
        address = tuple(entry) if isinstance(entry, list) else entry
        try:
            check_address(address)
        except ValueError as error:
            raise ValueError(f"{name} has {entry!r}: {error}") from None
        found.append(address)
    return tuple(dict.fromkeys(found))


def _family(settings: TunnelSettings) -> tuple[RelayId, ...]:
    members = []
    for entry in _each(settings, "family", "relay ids in hex"):
        try:
            member = bytes.fromhex(entry)
        except (ValueError, TypeError):
            member = b""
        if len(member) != RELAY_ID_SIZE:
            raise ValueError(f"family has {entry!r}; it must be a relay id of {2 * RELAY_ID_SIZE} hex digits")
        members.append(RelayId(member))
    if len(members) > MAX_FAMILY:
        raise ValueError(f"family has {len(members)} members; it must have {MAX_FAMILY} at most")
    return tuple(members)


def _relays(settings: TunnelSettings) -> tuple[RelayInfo, ...]:
    found: dict[bytes, RelayInfo] = {}
    owners: dict[bytes, int] = {}
    for number, entry in enumerate(_each(settings, "relays", "RelayInfo or dictionaries")):
        if not isinstance(entry, RelayInfo | dict):
            raise ValueError(f"relays[{number}] is {entry!r}; it must be a RelayInfo or a dictionary")  # noqa: TRY004
        try:
            relay = entry if isinstance(entry, RelayInfo) else RelayInfo.from_dict(entry)
        except ValueError as error:
            raise ValueError(f"relays[{number}]: {error}") from None
        if found.setdefault(relay.relay_id, relay) != relay:
            raise ValueError(f"relays[{number}]: another relay in the list has its relay_id and differs")
        first = owners.setdefault(relay.link_key, number)
        if len(found) != len(owners):
            raise ValueError(f"relays[{number}]: relays[{first}] has the same link_key; it must be one relay's only")
    return tuple(found.values())
