"""What an application may set, checked once (SPEC 1, 7, 8.5).  Floor 5: IPv8 sets attributes, so the outside is
mutable.

`TunnelSettings` is what IPv8's loader makes and fills; `freeze` turns it into a `Settings` that nobody changes, or says
which field is wrong, what it is, and what it may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from ipv8.community import CommunitySettings

from tunnels.circuit.limits import RelayLimits
from tunnels.crypto.onion_keys import OnionKeys
from tunnels.crypto.x25519 import KeyPair
from tunnels.exit.policy import ExitPolicy
from tunnels.ids import Address, Rng
from tunnels.params import MAX_NETWORK_ID
from tunnels.path.directory import RelayInfo
from tunnels.path.pool import PoolLimits


@dataclass(frozen=True, slots=True)
class RelayKeys:
    """A relay's own keys: its link key and its onion keys.  Never printed."""

    link: KeyPair
    onion: OnionKeys

    @classmethod
    def generate(cls, wall: float, rng: Rng) -> RelayKeys:
        """Those of a relay that starts for the first time; `wall`: seconds since the epoch."""
        return cls(KeyPair.generate(rng), OnionKeys.generate(wall, rng))

    def __repr__(self) -> str:
        return "RelayKeys()"


class TunnelSettings(CommunitySettings):
    """Set what you like before the community is made; it is validated and copied there.

    Circuits of our own
        min_circuits, max_circuits: how many are kept open for each hop count.
        max_time: seconds after which a circuit takes nothing new; its successor is built before.
        max_time_inactive: seconds without use after which a circuit above min_circuits is closed, and without a cell
            after which one of somebody else's is.
        max_traffic: bytes after which a circuit is closed, ours once its successor is open.
        relays: those we may use, as `RelayInfo` or as the dictionaries `RelayInfo.to_dict` makes.
        distinct_networks: False lets two hops share a /16; for test networks, and said aloud at start.

    Relaying for others
        relay_addresses: (host, port) pairs at which others reach us; a node without any is no relay.
        max_joined_circuits: circuits of others at one time.
        relay_keys: to keep across restarts; made fresh when None.
        private_addresses: relays at private and loopback addresses may be dialled; for test networks.

    Exiting for others
        become_exitnode: whether traffic may leave here; then exit_policy says which.
        exit_policy: in Tor's syntax, first match wins, what nothing matches is rejected.
        exit_private: private destinations may be accepted by the policy; for test networks.
        exit_single_hop: also for circuits on which we are the only hop: that makes an open proxy of this node.
        nameservers: (address, port) pairs that resolve host names; those of this machine when None.

    network_id: two networks with different ids never mix.
    """

    min_circuits: int = 2
    max_circuits: int = 8
    max_joined_circuits: int = 100
    max_time: float = 600.0
    max_time_inactive: float = 120.0
    max_traffic: int = 10 << 30
    become_exitnode: bool = False
    exit_policy: str = "reject *:*"
    exit_private: bool = False
    exit_single_hop: bool = False
    nameservers: tuple[Address, ...] | None = None
    network_id: str = "tropea"
    relays: Iterable[RelayInfo | dict[str, Any]] = ()
    relay_addresses: Iterable[Address] = ()
    relay_keys: RelayKeys | None = None
    private_addresses: bool = False
    distinct_networks: bool = True


@dataclass(frozen=True, slots=True)
class Settings:
    """A checked copy: fields as in TunnelSettings."""

    pool: PoolLimits
    limits: RelayLimits
    exit_policy: ExitPolicy
    exit_private: bool
    nameservers: tuple[Address, ...] | None
    network_id: bytes
    relays: tuple[RelayInfo, ...]
    relay_addresses: tuple[Address, ...]
    relay_keys: RelayKeys | None
    distinct_networks: bool

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
    name = _checked(settings, "network_id", lambda v: isinstance(v, str) and 1 <= len(v.encode()) <= MAX_NETWORK_ID,
                    f"text of 1 to {MAX_NETWORK_ID} bytes")  # fmt: skip
    keys = _checked(settings, "relay_keys", lambda v: v is None or isinstance(v, RelayKeys), "a RelayKeys or None")
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
        relays=tuple(_relays(settings)),
        relay_addresses=addresses,
        relay_keys=keys,
        distinct_networks=_flag(settings, "distinct_networks"),
    )


def _known_fields(settings: TunnelSettings) -> None:
    known = set(TunnelSettings.__annotations__) | _IPV8_FIELDS
    for owner in type(settings).__mro__:
        known |= set(getattr(owner, "__annotations__", {}))  # a subclass may add settings of its own
    for name in vars(settings):
        if name not in known:
            ours = ", ".join(sorted(TunnelSettings.__annotations__))
            raise ValueError(f"{name} is not a tunnel setting; there are {ours}")


def _checked(settings: TunnelSettings, name: str, fits: Callable[[Any], bool], bound: str) -> Any:
    value = getattr(settings, name)
    if not fits(value):
        raise ValueError(f"{name} is {value!r}; it must be {bound}")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value  # noqa: PLR0124 (not NaN)


def _whole(settings: TunnelSettings, name: str, least: int) -> int:
    value = _checked(settings, name, lambda v: _is_number(v) and v == int(v) and v >= least,
                     f"a whole number, at least {least}")  # fmt: skip
    return int(value)


def _number(settings: TunnelSettings, name: str, least: float) -> float:
    return float(_checked(settings, name, lambda v: _is_number(v) and v >= least, f"a number, at least {least}"))


def _flag(settings: TunnelSettings, name: str) -> bool:
    return bool(_checked(settings, name, lambda v: isinstance(v, bool), "True or False"))


def _exit_policy(settings: TunnelSettings, *, exits: bool) -> ExitPolicy:
    try:
        policy = ExitPolicy.parse(settings.exit_policy)
    except ValueError as error:
        raise ValueError(f"exit_policy: {error}") from None
    if exits and policy == ExitPolicy.REJECT_ALL:
        raise ValueError(
            f"become_exitnode is True, but exit_policy is {settings.exit_policy!r}; "
            'say what may leave, for example "accept *:53, accept *:443, reject *:*"'
        )
    return policy if exits else ExitPolicy.REJECT_ALL


def _addresses(settings: TunnelSettings, name: str) -> tuple[Address, ...]:
    found = []
    for entry in getattr(settings, name):
        try:
            host, port = entry
            found.append((str(ip_address(host)), int(port)))
            fits = 1 <= int(port) <= 0xFFFF
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(
                f"{name} has {entry!r}; it must be a pair of numeric address and port, such as ('192.0.2.1', 8090)"
            )
    return tuple(found)


def _relays(settings: TunnelSettings) -> Iterable[RelayInfo]:
    for number, relay in enumerate(settings.relays):
        try:
            yield relay if isinstance(relay, RelayInfo) else RelayInfo.from_dict(relay)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"relays[{number}]: {error}") from None
