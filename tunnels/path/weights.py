"""How often each relay is used: its share of the whole.  Floor 3: sans-IO, the dice come in.

A relay's claim is only ever a bound from above.  What circuits of our own measured counts, brought to the scale of the
claims by the two medians, and who was not measured yet is taken for a typical relay: so a claim of a hundred times the
truth is worth what the truth is worth.

Shares are the weights, filled up like water: all rise together until a relay or a network meets its cap and stays
there.
"""

from bisect import bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import accumulate
from math import fsum, inf
from statistics import median
from typing import Final, Self

from tunnels.errors import LocalError
from tunnels.ids import RelayId, Rng
from tunnels.params import (
    MAX_MEASURED,
    MAX_NETWORK_SHARE,
    MAX_RELAY_SHARE,
    MEASURED_GAIN,
    MEASURED_LIFETIME,
    MEASURED_RELAYS,
    MEASURED_SAMPLES,
    SHARE_ROOM,
)
from tunnels.path import saved

STEPS: Final = 1 << 52
"""A draw is one of this many equally likely fractions; times a weight, the largest is still below the weight."""


def draw(weights: Sequence[float], rng: Rng) -> int:
    """The index of a weight, each as likely as it is large.

    Raises:
        LocalError: nothing has any weight.
    """
    sums = list(accumulate(weights))
    if not sums or not sums[-1] > 0:
        raise LocalError("nothing to draw from")
    return bisect_right(sums, sums[-1] * (rng.below(STEPS) / STEPS))


@dataclass(frozen=True, slots=True)
class Claim:
    """What is known of a relay from others.

    Attributes:
        bandwidth: what it claims to forward, in any unit that is the same for all; 0 counts as 1.
        networks: those it has an address in; empty where networks do not matter.
    """

    relay_id: RelayId
    bandwidth: float
    networks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Shares:
    """INVARIANT: they sum to 1; no relay has more than `relay_cap` and no network more than `network_cap`."""

    by_relay: Mapping[RelayId, float]
    relay_cap: float
    network_cap: float


def weigh(claims: Iterable[Claim], measured: Mapping[RelayId, float]) -> dict[RelayId, float]:
    """The weight of each relay, in the unit of the claims: min(claim, measured), and min(claim, median) without.

    Args:
        measured: as `Measured.rates` gives it, in any unit.
    """
    claimed = {claim.relay_id: max(claim.bandwidth, 1.0) for claim in claims}
    if not claimed:
        return {}
    rates = {relay_id: rate for relay_id, rate in measured.items() if relay_id in claimed and rate > 0}
    if len(rates) < MEASURED_RELAYS:
        typical = median(claimed.values())
        return {relay_id: min(claim, typical) for relay_id, claim in claimed.items()}
    scale = median(claimed[relay_id] for relay_id in rates) / median(rates.values())
    weights = {relay_id: min(claimed[relay_id], rate * scale) for relay_id, rate in rates.items()}
    typical = median(weights.values())
    return {relay_id: weights.get(relay_id, min(claim, typical)) for relay_id, claim in claimed.items()}


def share(claims: Iterable[Claim], measured: Mapping[RelayId, float]) -> Shares:
    """The share of the whole that each relay gets.  0.2 s for 20 000 relays (tests/tunnels/path/test_weights.py)."""
    claims = sorted(claims, key=lambda claim: claim.relay_id)  # the order of sums must not depend on who told us first
    return fill(weigh(claims, measured), {claim.relay_id: claim.networks for claim in claims})


def caps(relays: int, networks: int) -> tuple[float, float]:
    """How much of the whole one relay and one network may have, if the relays are spread well."""
    relay_cap = max(MAX_RELAY_SHARE, SHARE_ROOM / relays) if relays else 1.0
    network_cap = max(MAX_NETWORK_SHARE, SHARE_ROOM / networks) if networks else 1.0
    return min(relay_cap, 1.0), min(network_cap, 1.0)


def fill(weights: Mapping[RelayId, float], networks: Mapping[RelayId, frozenset[str]]) -> Shares:
    """`weights` under the caps.

    A relay with addresses in several networks counts in each of them.  Where the relays are crowded in few networks, so
    that the caps cannot be kept, both are raised by the one factor that is needed.

    Args:
        weights: all above 0.
    """
    if not weights:
        return Shares({}, 1.0, 1.0)
    members: dict[str, list[RelayId]] = defaultdict(list)
    for relay_id in weights:
        for network in networks.get(relay_id, ()):
            members[network].append(relay_id)
    relay_cap, network_cap = caps(len(weights), len(members))
    fixed = _saturate(weights, members, relay_cap, network_cap)
    total = fsum(fixed.values())
    if len(fixed) < len(weights):
        level = (1.0 - total) / fsum(weight for relay_id, weight in weights.items() if relay_id not in fixed)
        found = {relay_id: fixed.get(relay_id, min(weight * level, relay_cap)) for relay_id, weight in weights.items()}
        return Shares(found, relay_cap, network_cap)
    # Everybody is at a cap.  The same filling under caps that are `1 / total` times as high ends at 1.
    found = {relay_id: min(fixed[relay_id], relay_cap) / total for relay_id in weights}
    return Shares(found, relay_cap / total, network_cap / total)


def _saturate(
    weights: Mapping[RelayId, float], members: Mapping[str, list[RelayId]], relay_cap: float, network_cap: float
) -> dict[RelayId, float]:
    """The shares of those that meet a cap before the sum of all is 1, or of all when it never is."""
    fixed: dict[RelayId, float] = {}
    given, left = 0.0, fsum(weights.values())

    def network_level(network: str) -> float:
        rising = fsum(weights[relay_id] for relay_id in members[network] if relay_id not in fixed)
        settled = fsum(fixed.get(relay_id, 0.0) for relay_id in members[network])
        return max(0.0, network_cap - settled) / rising if rising else inf

    # (the level at which a cap is met, whose).  A network's level only rises while its members settle: what is popped
    # is looked at again and put back when it is not due yet.
    due: list[tuple[float, str, RelayId]] = [(network_level(network), network, RelayId(b"")) for network in members]
    due += [(relay_cap / weight, "", relay_id) for relay_id, weight in weights.items()]
    heapify(due)
    while due and len(fixed) < len(weights):
        level, network, relay_id = heappop(due)
        if given + level * left >= 1.0 and len(fixed) < len(weights):
            return fixed
        if network:
            if (later := network_level(network)) > level:
                if later < inf:
                    heappush(due, (later, network, relay_id))
                continue
            settling = [member for member in members[network] if member not in fixed]
        else:
            settling = [relay_id] if relay_id not in fixed else []
        for settled in settling:
            fixed[settled] = min(weights[settled] * level, relay_cap)
            given += fixed[settled]
            left -= weights[settled]
    return fixed


class Measured:
    """What circuits of our own carried, by relay: a moving mean of bytes a second.

    A circuit is as fast as its slowest relay, so each of its relays gets the whole rate: over many circuits a slow
    relay meets fast ones and stays slow, and a fast one meets few slow ones.
    """

    def __init__(self) -> None:
        self._rates: OrderedDict[RelayId, tuple[float, int, float]] = OrderedDict()  # mean, samples, last measured

    def note(self, path: Iterable[RelayId], rate: float, now: float) -> None:
        """A circuit over `path` carried `rate` bytes a second while there was enough to carry.

        Args:
            now: wall seconds.
        """
        for relay_id in path:
            mean, samples, _ = self._rates.pop(relay_id, (0.0, 0, now))
            samples += 1
            mean += (rate - mean) * max(MEASURED_GAIN, 1 / samples)
            self._rates[relay_id] = (mean, samples, now)
        while len(self._rates) > MAX_MEASURED:
            self._rates.popitem(last=False)

    def rates(self, now: float) -> dict[RelayId, float]:
        """The rate of every relay that was measured often enough and not too long ago."""
        return {
            relay_id: mean
            for relay_id, (mean, samples, last) in self._rates.items()
            if samples >= MEASURED_SAMPLES and now - last <= MEASURED_LIFETIME
        }

    def to_bytes(self) -> bytes:
        relays = [
            {"id": relay_id.hex(), "rate": round(mean, 1), "samples": min(samples, 1000), "last": round(last)}
            for relay_id, (mean, samples, last) in self._rates.items()
        ]
        return saved.dump("measurements", {"relays": relays})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """
        Raises:
            StateError: `to_bytes` did not write this.
        """
        measured = cls()
        for relay in saved.parse(data, "measurements").objects("relays", MAX_MEASURED):
            relay_id, samples = relay.relay("id"), relay.count("samples", 1000)
            measured._rates[relay_id] = (relay.positive("rate"), samples, relay.number("last"))
        return measured
