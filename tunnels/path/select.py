"""Which relays a circuit uses.  Floor 3: sans-IO, the dice come in.

Every relay that may stand in a place is as likely as any other.  No relay twice, no two hops in one network (/16 of
IPv4, /32 of IPv6), the last hop an exit where one is needed.  A reason that a person can act on goes with every
refusal.
"""

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from tunnels.errors import TransientError
from tunnels.ids import RelayId, Rng
from tunnels.params import NO_PATH_RETRY
from tunnels.path.directory import RelayInfo


class NoPathError(TransientError):
    """The relays known now do not make a path.  More may be known later."""


@dataclass(frozen=True, slots=True)
class Rules:
    """
    Attributes:
        distinct_networks: False lets hops share a network: for test networks only.
        never: relays that are not used, oneself among them.
    """

    distinct_networks: bool = True
    never: frozenset[RelayId] = frozenset()


@lru_cache(maxsize=65536)
def network_of(host: str) -> str:
    """The network whose relays count as one: whoever owns one address of it easily owns others."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    bits = 16 if address.version == 4 else 32
    return str(ipaddress.ip_network((address, bits), strict=False))


def networks_of(relay: RelayInfo) -> frozenset[str]:
    return frozenset(network_of(host) for host, _ in relay.addresses)


def choose_path(relays: Iterable[RelayInfo], hops: int, rng: Rng, rules: Rules, *, exits: bool,
                avoid: Collection[RelayId] = ()) -> tuple[RelayInfo, ...]:  # fmt: skip
    """A path of `hops` relays, first hop first.

    Args:
        relays: those we can send to, and relays behind them; the first hop must be one we can send to.
        exits: whether the last hop has to be an exit.
        avoid: relays that failed lately: used only where there is no other choice.

    Raises:
        NoPathError: there is none; the text says how many hops could be filled, and why not all.
    """
    known = [relay for relay in relays if relay.relay_id not in rules.never]
    usable = [relay for relay in known if relay.relay_id not in avoid]
    for candidates in (usable, known):
        if path := _fill(candidates, hops, rng, rules, exits=exits):
            return path
    raise NoPathError(_reason(known, hops, rules, exits=exits), retry_after=NO_PATH_RETRY)


def _fill(
    candidates: list[RelayInfo], hops: int, rng: Rng, rules: Rules, *, exits: bool
) -> tuple[RelayInfo, ...] | None:
    """A path out of `candidates`.  The last hop is chosen first: exits are the scarce ones."""
    path: list[RelayInfo] = []
    left = list(candidates)
    for place in range(hops, 0, -1):
        fitting = [relay for relay in left if relay.is_exit] if exits and place == hops else left
        if not fitting:
            return None
        chosen = fitting[rng.below(len(fitting))]
        path.append(chosen)
        taken = networks_of(chosen)
        left = [
            relay
            for relay in left
            if relay is not chosen and not (rules.distinct_networks and taken & networks_of(relay))
        ]
    return tuple(reversed(path))


def _reason(known: list[RelayInfo], hops: int, rules: Rules, *, exits: bool) -> str:
    if not known:
        return f"0 of {hops} hops: no relays are known"
    if exits and not any(relay.is_exit for relay in known):
        return f"0 of {hops} hops: none of the {len(known)} known relays is an exit"
    networks = sorted({network for relay in known for network in networks_of(relay)})
    if rules.distinct_networks and len(networks) < hops:
        filled = min(len(networks), hops)
        return f"{filled} of {hops} hops: all {len(known)} known relays are in {', '.join(networks)}"
    return f"{min(len(known), hops)} of {hops} hops: {len(known)} relays known"
