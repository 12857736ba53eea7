"""Which relays a circuit uses.  Floor 3: sans-IO, the dice come in.

The last hop is drawn first, because exits are the scarce ones, then hop by hop towards us.  Every relay that may stand
in a place, given those behind it, is as likely as any other.  A reason that a person can act on goes with every
refusal.
"""

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from tunnels.errors import TransientError
from tunnels.ids import RelayId, Rng
from tunnels.params import NO_PATH_RETRY, PATH_DRAWS
from tunnels.path.directory import RelayInfo


class NoPathError(TransientError):
    """The relays known now do not make a path.  More may be known later."""


@dataclass(frozen=True, slots=True)
class Rules:
    """
    Attributes:
        distinct_networks: False lets hops share a network: for test networks only.
        never: relays that are not used, oneself among them.
        families: IP versions at which we can reach a first hop.
        private: whether relays at addresses that are not public can be reached, by us and by each other.
    """

    distinct_networks: bool = True
    never: frozenset[RelayId] = frozenset()
    families: frozenset[int] = frozenset({4, 6})
    private: bool = False


@lru_cache(maxsize=65536)
def network_of(host: str) -> str:
    """The network whose relays count as one: whoever owns one address of it easily owns others."""
    address = ipaddress.ip_address(host)
    bits = 16 if address.version == 4 else 32
    return str(ipaddress.ip_network((address, bits), strict=False))


def networks_of(relay: RelayInfo) -> frozenset[str]:
    return frozenset(network_of(host) for host, _ in relay.addresses)


def choose_path(relays: Iterable[RelayInfo], hops: int, rng: Rng, rules: Rules, *, exits: bool,
                avoid: Collection[RelayId] = ()) -> tuple[RelayInfo, ...]:  # fmt: skip
    """A path of `hops` relays, first hop first: no relay twice, no two in one network (/16 of IPv4, /32 of IPv6), each
    at an address that the one before it can dial.

    Args:
        exits: whether the last hop has to be an exit.
        avoid: relays that failed lately: used only where there is no other choice.

    Raises:
        NoPathError: there is none, or none was found in a bounded search (PATH_DRAWS); the text says why.
    """
    known = [relay for relay in relays if relay.relay_id not in rules.never]
    usable = [relay for relay in known if relay.relay_id not in avoid]
    for candidates in (usable, known):
        if _hopeless(candidates, hops, rules):
            continue
        if path := _Search(rng, rules, candidates).fill(hops, (), exits=exits):
            return path
    raise NoPathError(f"0 of {hops} hops: {_reason(known, hops, rules, exits=exits)}", retry_after=NO_PATH_RETRY)


def _hopeless(candidates: list[RelayInfo], hops: int, rules: Rules) -> bool:
    """Whether no search is needed to see that there is no path."""
    if len(candidates) < hops:
        return True
    return rules.distinct_networks and len({network for relay in candidates for network in networks_of(relay)}) < hops


class _Search:
    """Draws relays, and takes back a choice that leads nowhere: one relay in two networks, or at IPv6 addresses only,
    may leave no room for the rest.
    """

    def __init__(self, rng: Rng, rules: Rules, candidates: list[RelayInfo]) -> None:
        self._rng, self._rules, self._candidates = rng, rules, candidates
        self._draws = PATH_DRAWS + 4 * len(candidates)

    def fill(self, hops: int, behind: tuple[RelayInfo, ...], *, exits: bool) -> tuple[RelayInfo, ...] | None:
        """`behind` with `hops` relays in front of it."""
        if hops == 0:
            return behind
        left = list(self._candidates)
        while left and self._draws > 0:
            self._draws -= 1
            at = self._rng.below(len(left))
            drawn, left[at] = left[at], left[-1]
            left.pop()
            if (
                (drawn.is_exit or not exits)
                and self._fits(drawn, behind, first=hops == 1)
                and (path := self.fill(hops - 1, (drawn, *behind), exits=False))
            ):
                return path
        return None

    def _fits(self, relay: RelayInfo, behind: tuple[RelayInfo, ...], *, first: bool) -> bool:
        rules = self._rules
        if first and not _dials(rules.families, relay, rules):
            return False
        if behind and not _dials(relay.families, behind[0], rules):
            return False
        if rules.distinct_networks:
            mine = networks_of(relay)
            return all(mine.isdisjoint(networks_of(other)) for other in behind)
        return all(relay.relay_id != other.relay_id for other in behind)


def _dials(families: Collection[int], relay: RelayInfo, rules: Rules) -> bool:
    return relay.address_in(families, private=rules.private) is not None


def _reason(known: list[RelayInfo], hops: int, rules: Rules, *, exits: bool) -> str:
    if not known:
        return "no relays are known"
    usable = [relay for relay in known if _dials(relay.families, relay, rules)]
    relays = f"{len(usable)} known relays"
    if not usable:
        return f"all {len(known)} known relays are at private addresses, and private_addresses is off"
    if exits and not any(relay.is_exit for relay in usable):
        return f"none of the {relays} is an exit"
    firsts = [relay for relay in usable if relay.is_exit] if exits and hops == 1 else usable
    if not any(_dials(rules.families, relay, rules) for relay in firsts):
        ours = " and ".join(f"IPv{version}" for version in sorted(rules.families)) or "no IP version"
        return f"none of the {len(firsts)} relays to begin with has an address we can send to: we have {ours}"
    networks = sorted({network for relay in usable for network in networks_of(relay)})
    if rules.distinct_networks and len(networks) < min(hops, len(usable)):
        return f"all {relays} are in {', '.join(networks)}"
    if len(usable) < hops:
        return f"only {len(usable)} relays are known"
    return f"no {hops} of the {relays} go together (networks, IP versions)"
