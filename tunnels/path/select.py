"""Which relays a circuit uses.  Floor 3: sans-IO, the dice come in.

The last hop is drawn first, because exits are the scarce ones, then hop by hop towards us.  Every relay that may stand
in a place, given those behind it, is as likely as its weight, times how well it got on with the one behind it.  A
reason that a person can act on goes with every refusal.

For a circuit with a guard the order is Tor's: `choose_exit`, then `Guards.choose` under `restrictions` of that exit,
then `choose_path` between the two.  So the guard decides nothing about exits, and exits seen over time do not tell the
guard.
"""

import ipaddress
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from types import MappingProxyType
from typing import Final, Literal

from tunnels.errors import TransientError
from tunnels.exit.policy import ExitPolicy, PortSummary
from tunnels.ids import RelayId, Rng
from tunnels.params import NO_PATH_RETRY, PATH_DRAWS
from tunnels.path.directory import RelayInfo
from tunnels.path.guards import Restrictions
from tunnels.path.weights import STEPS, draw

Kin = Mapping[RelayId, frozenset[RelayId]]
"""Relay -> relays of the same owner, both ways (`kin_of`)."""

BlameFactor = Callable[[RelayId | None, RelayId], float]
"""Of a relay (None: whoever) in front of another: what its chance is multiplied with, above 0 and up to 1."""

_NO_KIN: Final[Kin] = MappingProxyType({})

_QUICK_DRAWS: Final = 32
"""Draws of anybody, fit or not, before those that fit are counted out: most draws fit, and counting is linear."""


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


def kin_of(declared: Mapping[RelayId, Iterable[RelayId]]) -> Kin:
    """Who belongs together, of what each relay declares: a family counts only when both members name each other.

    Who names a stranger gains nothing and keeps nobody from being used.
    """
    named = {relay_id: frozenset(others) for relay_id, others in declared.items()}
    found = {
        relay_id: frozenset(other for other in others if other != relay_id and relay_id in named.get(other, ()))
        for relay_id, others in named.items()
    }
    return {relay_id: others for relay_id, others in found.items() if others}


@dataclass(frozen=True, slots=True)
class Target:
    """What an exit has to let out.

    Attributes:
        version: of IP; None where a host name leaves it open.
    """

    port: int
    version: Literal[4, 6] | None = None


@lru_cache(maxsize=4096)
def _summary(policy: ExitPolicy, version: Literal[4, 6]) -> PortSummary:
    return policy.summary(version)


def exits_to(relay: RelayInfo, target: Target) -> bool:
    """Whether nearly every address of the target's kind can be reached through `relay`, going by its policy."""
    versions: tuple[Literal[4, 6], ...] = (4, 6) if target.version is None else (target.version,)
    return relay.is_exit and any(_summary(relay.exit_policy, version).allows(target.port) for version in versions)


def restrictions(exit: RelayInfo, rules: Rules, kin: Kin = _NO_KIN) -> Restrictions:  # noqa: A002 (the protocol's word)
    """What an exit rules out as the guard of its circuit."""
    networks = networks_of(exit) if rules.distinct_networks else frozenset[str]()
    return Restrictions(frozenset({exit.relay_id}) | kin.get(exit.relay_id, frozenset()), networks)


def _no_blame(before: RelayId | None, at: RelayId) -> float:
    return 1.0


def choose_exit(relays: Iterable[RelayInfo], rng: Rng, rules: Rules, *, target: Target | None = None,
                weights: Mapping[RelayId, float] | None = None, blame: BlameFactor = _no_blame,
                avoid: Collection[RelayId] = ()) -> RelayInfo:  # fmt: skip
    """An exit for a circuit whose other hops are chosen later.

    Args:
        target: what it has to let out; None: anything.
        weights, blame, avoid: as in `choose_path`.

    Raises:
        NoPathError: there is none; the text says why.
    """
    known = [relay for relay in relays if relay.relay_id not in rules.never]
    may = [relay for relay in known if _dials(relay.families, relay, rules) and _exits(relay, target)]
    for exits in ([relay for relay in may if relay.relay_id not in avoid], may):
        chances = [_weight(relay, weights) * blame(None, relay.relay_id) for relay in exits]
        if any(chances):
            return exits[draw(chances, rng)]
    raise NoPathError(
        f"no exit: {_reason(known, 1, rules, _Ends(exits=True, target=target))}", retry_after=NO_PATH_RETRY
    )


def choose_path(relays: Iterable[RelayInfo], hops: int, rng: Rng, rules: Rules, *, exits: bool,
                avoid: Collection[RelayId] = (), target: Target | None = None, guard: RelayId | None = None,
                keep_exit: RelayId | None = None, kin: Kin = _NO_KIN,
                weights: Mapping[RelayId, float] | None = None, blame: BlameFactor = _no_blame,
                ) -> tuple[RelayInfo, ...]:  # fmt: skip
    """A path of `hops` relays, first hop first: no relay twice, no two in one network (/16 of IPv4, /32 of IPv6) or
    family, each at an address that the one before it can dial.

    Args:
        exits: whether the last hop has to be an exit.
        avoid: relays that failed lately: used only where there is no other choice.
        target: what the last hop has to let out; None: anything.
        guard: the first hop; it stands nowhere else.
        keep_exit: the last hop, as that of the build that failed; another is drawn when it is gone or lets the target
            out no more, which nobody on the path can bring about.
        weights: how often each is drawn, beside others; who is not in it is not drawn.  All alike when None.

    Raises:
        NoPathError: there is none, or none was found in a bounded search (PATH_DRAWS); the text says why.
    """
    known = [relay for relay in relays if relay.relay_id not in rules.never]
    by_id = {relay.relay_id: relay for relay in known if relay.relay_id in (guard, keep_exit)}
    if guard is not None and guard not in by_id:
        raise NoPathError(f"0 of {hops} hops: the guard is not among the relays known now", retry_after=NO_PATH_RETRY)
    kept = by_id.get(keep_exit) if keep_exit is not None else None
    if kept is not None and (exits or target is not None) and not _exits(kept, target):
        kept = None
    ends = _Ends(exits or target is not None, target, by_id.get(guard) if guard is not None else None, kept)
    # Guard and kept exit are decided: that something failed with one of them lately is accounted for elsewhere.
    fixed = {relay.relay_id for relay in (ends.guard, ends.exit) if relay is not None}
    drawn = [relay for relay in known if _weight(relay, weights) > 0 or relay.relay_id in fixed]
    for candidates in ([relay for relay in drawn if relay.relay_id not in avoid or relay.relay_id in fixed], drawn):
        if _hopeless(candidates, hops, rules):
            continue
        if path := _Search(rng, rules, candidates, ends, kin, weights, blame).fill(hops, ()):
            return path
    raise NoPathError(f"0 of {hops} hops: {_reason(known, hops, rules, ends)}", retry_after=NO_PATH_RETRY)


@dataclass(frozen=True, slots=True)
class _Ends:
    """What is asked of the last hop and decided of both ends."""

    exits: bool
    target: Target | None = None
    guard: RelayInfo | None = None
    exit: RelayInfo | None = None


def _exits(relay: RelayInfo, target: Target | None) -> bool:
    return relay.is_exit if target is None else exits_to(relay, target)


def _weight(relay: RelayInfo, weights: Mapping[RelayId, float] | None) -> float:
    return 1.0 if weights is None else weights.get(relay.relay_id, 0.0)


def _hopeless(candidates: list[RelayInfo], hops: int, rules: Rules) -> bool:
    """Whether no search is needed to see that there is no path."""
    if len(candidates) < hops:
        return True
    networks: set[str] = set()
    for relay in candidates if rules.distinct_networks else ():
        networks |= networks_of(relay)
        if len(networks) >= hops:
            return False
    return rules.distinct_networks


class _Search:
    """Draws relays, and takes back a choice that leads nowhere: one relay in two networks, or at IPv6 addresses only,
    may leave no room for the rest.
    """

    def __init__(self, rng: Rng, rules: Rules, candidates: Sequence[RelayInfo], ends: _Ends, kin: Kin,
                 weights: Mapping[RelayId, float] | None, blame: BlameFactor) -> None:  # fmt: skip
        self._rng, self._rules, self._candidates, self._ends = rng, rules, candidates, ends
        self._kin, self._blame = kin, blame
        self._weights = [_weight(relay, weights) for relay in candidates]
        self._sums = list(accumulate(self._weights))
        self._draws = PATH_DRAWS + 4 * len(candidates)

    def fill(self, hops: int, behind: tuple[RelayInfo, ...]) -> tuple[RelayInfo, ...] | None:
        """`behind` with `hops` relays in front of it."""
        if hops == 0:
            return behind
        place = _Place(self, behind, first=hops == 1)
        while self._draws > 0 and (drawn := place.draw()) is not None:
            self._draws -= 1
            if path := self.fill(hops - 1, (drawn, *behind)):
                return path
        return None

    def decided(self, behind: tuple[RelayInfo, ...], *, first: bool) -> RelayInfo | None:
        """Who stands in a place that leaves no choice."""
        if not behind and self._ends.exit is not None:
            return self._ends.exit
        return self._ends.guard if first else None

    def fits(self, relay: RelayInfo, behind: tuple[RelayInfo, ...], *, first: bool) -> bool:
        rules, ends = self._rules, self._ends
        if not behind and ends.exits and not _exits(relay, ends.target):
            return False
        if first and (
            (ends.guard is not None and relay.relay_id != ends.guard.relay_id)
            or not _dials(rules.families, relay, rules)
        ):
            return False
        if behind and not _dials(relay.families, behind[0], rules):
            return False
        # The guard comes last and is decided already: nobody may stand in its way.
        others = behind if first or ends.guard is None else (*behind, ends.guard)
        return not any(self._together(relay, other) for other in others)

    def _together(self, one: RelayInfo, other: RelayInfo) -> bool:
        """Whether two relays count as one."""
        if one.relay_id == other.relay_id or other.relay_id in self._kin.get(one.relay_id, ()):
            return True
        return self._rules.distinct_networks and not networks_of(one).isdisjoint(networks_of(other))

    def quick(self) -> int:
        """Anybody, by weight; the index among the candidates."""
        return bisect_right(self._sums, self._sums[-1] * (self._rng.below(STEPS) / STEPS))

    def chance(self, index: int, behind: tuple[RelayInfo, ...]) -> float:
        """What the weight is multiplied with."""
        relay_id = self._candidates[index].relay_id
        return self._blame(relay_id, behind[0].relay_id) if behind else self._blame(None, relay_id)

    def accepts(self, chance: float) -> bool:
        return chance >= 1.0 or self._rng.below(STEPS) < chance * STEPS

    def one_of(self, left: list[int], behind: tuple[RelayInfo, ...]) -> int | None:
        """One that is left, by weight and chance; its place in `left`."""
        chances = [self._weights[index] * self.chance(index, behind) for index in left]
        return draw(chances, self._rng) if any(chances) else None

    def __getitem__(self, index: int) -> RelayInfo:
        return self._candidates[index]

    def __len__(self) -> int:
        return len(self._candidates)

    def has_weights(self) -> bool:
        return bool(self._sums) and self._sums[-1] > 0


class _Place:
    """One hop that is being chosen, given those behind it: gives each relay that fits once at most."""

    def __init__(self, search: _Search, behind: tuple[RelayInfo, ...], *, first: bool) -> None:
        self._search, self._behind, self._first = search, behind, first
        self._gone: set[int] = set()
        self._left: list[int] | None = None
        self._decided = search.decided(behind, first=first)

    def draw(self) -> RelayInfo | None:
        if self._decided is not None:
            decided, self._decided, self._left = self._decided, None, []
            return decided if self._search.fits(decided, self._behind, first=self._first) else None
        if self._left is None:
            for _ in range(_QUICK_DRAWS if self._search.has_weights() else 0):
                index = self._search.quick()
                if index in self._gone:
                    continue
                if not self._search.fits(self._search[index], self._behind, first=self._first):
                    self._gone.add(index)
                elif self._search.accepts(self._search.chance(index, self._behind)):
                    self._gone.add(index)
                    return self._search[index]
            self._left = [
                index
                for index in range(len(self._search))
                if index not in self._gone and self._search.fits(self._search[index], self._behind, first=self._first)
            ]
        place = self._search.one_of(self._left, self._behind)
        return self._search[self._left.pop(place)] if place is not None else None


def _dials(families: Collection[int], relay: RelayInfo, rules: Rules) -> bool:
    return relay.address_in(families, private=rules.private) is not None


def _reason(known: list[RelayInfo], hops: int, rules: Rules, ends: _Ends) -> str:
    exits = ends.exits
    if not known:
        return "no relays are known"
    usable = [relay for relay in known if _dials(relay.families, relay, rules)]
    relays = f"{len(usable)} known relays"
    if not usable:
        return f"all {len(known)} known relays are at private addresses, and private_addresses is off"
    if exits and not any(relay.is_exit for relay in usable):
        return f"none of the {relays} is an exit"
    if ends.target is not None and not any(exits_to(relay, ends.target) for relay in usable):
        version = f" over IPv{ends.target.version}" if ends.target.version is not None else ""
        return f"no exit among the {relays} lets port {ends.target.port} out{version}"
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
