"""The second hops that circuits of onion services keep to (Tor prop 333, vanguards-lite).  Floor 3: sans-IO, clock and
dice come in.

Who can make a service build circuits sees its guard as soon as a relay of his is drawn next to it.  So the place next
to the guard is given to a few relays for days: he has to wait for one of them to be his, and cannot tell when that is,
because each has a lifetime of its own.
"""

from collections.abc import Mapping
from typing import Final, Self

from tunnels.ids import RelayId, Rng
from tunnels.params import NO_PATH_RETRY, SECOND_GUARD_LIFETIME, SECOND_GUARDS
from tunnels.path import saved
from tunnels.path.guards import UNRESTRICTED, Candidate, LivedClock, NoGuard, Restrictions
from tunnels.path.weights import draw

KIND: Final = "second guards"


class SecondGuards:
    """INVARIANT: at most SECOND_GUARDS, drawn from different networks."""

    def __init__(self) -> None:
        self._clock = LivedClock()
        self._kept: dict[RelayId, float] = {}  # until when, in seconds lived
        self._known: Mapping[RelayId, Candidate] = {}

    @property
    def kept(self) -> tuple[RelayId, ...]:
        return tuple(self._kept)

    def relays_changed(self, known: Mapping[RelayId, Candidate], now: float, rng: Rng) -> None:
        """These relays exist now: those that are gone or had their time are replaced.

        Nothing at all is no news, as for `Guards`.
        """
        lived = self._clock.look(now)
        if not known:
            return
        self._known = dict(known)
        self._kept = {relay_id: until for relay_id, until in self._kept.items() if relay_id in known and lived < until}
        taken = {network for relay_id in self._kept for network in known[relay_id].networks}
        left = [r for r, c in known.items() if r not in self._kept and c.weight > 0]
        while len(self._kept) < SECOND_GUARDS:
            left = [relay_id for relay_id in left if not taken & known[relay_id].networks]
            if not left:
                return
            relay_id = left.pop(draw([known[relay_id].weight for relay_id in left], rng))
            self._kept[relay_id] = lived + _lifetime(rng)
            taken |= known[relay_id].networks

    def choose(self, now: float, rng: Rng, restrictions: Restrictions = UNRESTRICTED) -> RelayId | NoGuard:
        """The second hop of a circuit, each as likely.

        Args:
            restrictions: what its other hops rule out, the guard among them.
        """
        self.relays_changed(self._known, now, rng)
        fitting = [
            relay_id
            for relay_id in self._kept
            if relay_id in self._known
            and relay_id not in restrictions.relays
            and not restrictions.networks & self._known[relay_id].networks
        ]
        if fitting:
            return fitting[rng.below(len(fitting))]
        if not self._known:
            return NoGuard("no relays are known yet", NO_PATH_RETRY)
        return NoGuard(f"none of the {len(self._kept)} second guards may be used for this circuit", NO_PATH_RETRY)

    def to_bytes(self) -> bytes:
        return saved.dump(KIND, {
            "lived": self._clock.lived,
            "looked": self._clock.looked,
            "kept": [{"id": relay_id.hex(), "until": until} for relay_id, until in self._kept.items()],
        })  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The second guards that `to_bytes` wrote.

        Raises:
            StateError: this is something else.
        """
        fields, guards = saved.parse(data, KIND), cls()
        guards._clock = LivedClock(fields.positive("lived"), fields.number_or_none("looked"))
        for entry in fields.objects("kept", SECOND_GUARDS):
            until = entry.number("until")
            if until > guards._clock.lived + SECOND_GUARD_LIFETIME[1]:
                raise entry.fail("until", "is later than any could be")
            guards._kept[entry.relay("id")] = until
        return guards


def _lifetime(rng: Rng) -> float:
    """The larger of two uniform draws: few end early, and none is sure to last."""
    shortest, longest = SECOND_GUARD_LIFETIME
    return shortest + max(rng.below(int(longest - shortest) + 1) for _ in range(2))
