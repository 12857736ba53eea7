"""Which relays a client begins its circuits with, for months.  Floor 3: sans-IO, clock and dice come in.

Tor's guard-spec, whose words are used: *sampled* guards are those we may ever use, in the order they were drawn;
*confirmed* ones have carried a circuit of ours, in that order; *primary* ones are the first few of these, and the first
of them that answers is used.  What differs:

* A relay may become a guard when it has been known for some days, or as long as we know the network.
* Only GUARD_NEW_PER_MONTH relays see us as their client for the first time in a month.  Beyond that there is no guard,
  and a reason: whoever blocks guards until one of his own is reached must not succeed by patience.
* Ages are counted in seconds lived through (`LivedClock`): a clock that is set wrong and right again replaces no guard.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from math import inf
from typing import Final, Self

from tunnels.errors import LocalError
from tunnels.ids import RelayId, Rng
from tunnels.params import (
    DAY,
    GUARD_CONFIRMED_LIFETIME,
    GUARD_CONNECT_TIMEOUT,
    GUARD_FIRST_VIEW,
    GUARD_LIFETIME,
    GUARD_MAX_SAMPLE,
    GUARD_MAX_STEP,
    GUARD_MIN_AGE,
    GUARD_MONTH,
    GUARD_NEW_PER_MONTH,
    GUARD_OFFLINE,
    GUARD_PRIMARIES,
    GUARD_PRIMARY_RETRY,
    GUARD_RETRY,
    GUARD_SAMPLE,
    GUARD_SAMPLE_SHARE,
    GUARD_UNLISTED_LIFETIME,
    NO_PATH_RETRY,
)
from tunnels.path import saved
from tunnels.path.weights import draw

KIND: Final = "guards"


@dataclass(frozen=True, slots=True)
class Candidate:
    """What guards have to know of a relay that exists.

    Attributes:
        first_seen: wall seconds.
        networks: those it has an address in; empty where networks do not matter.
        weight: how often it is drawn, beside others.
        usable: False while our configuration rules it out, such as for want of IPv6.
    """

    first_seen: float
    networks: frozenset[str] = frozenset()
    weight: float = 1.0
    usable: bool = True


@dataclass(frozen=True, slots=True)
class Restrictions:
    """What the rest of one circuit rules out: its exit, that one's family and networks."""

    relays: frozenset[RelayId] = frozenset()
    networks: frozenset[str] = frozenset()


UNRESTRICTED: Final = Restrictions()


@dataclass(frozen=True, slots=True)
class NoGuard:
    """Why there is none, for a person to read, and the seconds after which asking again may help."""

    reason: str
    retry_after: float


class Reachable(Enum):
    YES = auto()
    NO = auto()
    MAYBE = auto()


class LivedClock:
    """Wall time without its jumps: it stands while the clock goes back, and moves GUARD_MAX_STEP at most between two
    looks.
    """

    def __init__(self, lived: float = 0.0, looked: float | None = None) -> None:
        self.lived, self.looked = lived, looked

    def look(self, now: float) -> float:
        """Seconds lived through; `now`: wall seconds."""
        if self.looked is not None:
            self.lived += min(max(0.0, now - self.looked), GUARD_MAX_STEP)
        self.looked = now
        return self.lived


@dataclass(slots=True)
class _Guard:
    """A sampled guard.  Times are seconds lived.

    Attributes:
        unlisted: since when nobody lists it.
        met: when it was first tried.
        reachable and what follows: not saved.
    """

    relay_id: RelayId
    added: float
    unlisted: float | None = None
    met: float | None = None
    confirmed: float | None = None
    reachable: Reachable = Reachable.MAYBE
    pending: float | None = None
    retry_delay: float = 0.0
    retry_at: float = 0.0


class Guards:
    """
    INVARIANT: confirmed and primary guards are sampled ones; at most GUARD_MAX_SAMPLE are sampled, GUARD_PRIMARIES
    primary, and GUARD_NEW_PER_MONTH were met in GUARD_MONTH.

    Args:
        min_age: seconds a relay has been known before it is drawn.
    """

    def __init__(self, min_age: float = GUARD_MIN_AGE) -> None:
        self.min_age = min_age
        self._clock = LivedClock()
        self._born: float | None = None
        self._online = -inf
        self._sampled: dict[RelayId, _Guard] = {}
        self._confirmed: list[RelayId] = []
        self._primary: list[RelayId] = []
        self._met: list[float] = []
        self._known: Mapping[RelayId, Candidate] = {}
        self._excluded: frozenset[RelayId] = frozenset()

    @property
    def sampled(self) -> tuple[RelayId, ...]:
        return tuple(self._sampled)

    @property
    def confirmed(self) -> tuple[RelayId, ...]:
        return tuple(self._confirmed)

    @property
    def primary(self) -> tuple[RelayId, ...]:
        return tuple(self._primary)

    def reachable(self, relay_id: RelayId) -> Reachable | None:
        """None of a relay that is no guard."""
        guard = self._sampled.get(relay_id)
        return guard.reachable if guard is not None else None

    # --- The world changes -------------------------------------------------------------------------

    def relays_changed(self, known: Mapping[RelayId, Candidate], now: float, rng: Rng) -> None:
        """These relays exist now, and no others.

        Nothing at all is not news but the want of news: a client that knows no relays yet keeps its guards.
        """
        lived = self._clock.look(now)
        if not known:
            return
        self._born = now if self._born is None else min(self._born, now)
        self._known = dict(known)
        for guard in self._sampled.values():
            if guard.relay_id in known:
                guard.unlisted = None
            elif guard.unlisted is None:
                guard.unlisted = _somewhat_before(lived, GUARD_UNLISTED_LIFETIME / 5, rng)
        self._remove(guard.relay_id for guard in list(self._sampled.values()) if _expired(guard, lived))
        self._refill(now, lived, rng)

    def exclude(self, relays: Collection[RelayId]) -> None:
        """Use none of these until told otherwise: what path bias has found out."""
        self._excluded = frozenset(relays)
        self._choose_primary()

    def retry_now(self) -> None:
        """Try all again that did not answer: we came to another network."""
        self._mark_maybe(self._sampled)

    # --- Circuits ------------------------------------------------------------------------------------

    def choose(self, now: float, rng: Rng, restrictions: Restrictions = UNRESTRICTED) -> RelayId | NoGuard:
        """The guard to begin a circuit with.  The caller tells `succeeded` or `failed` what came of it."""
        lived = self._clock.look(now)
        self._mark_maybe(
            guard.relay_id
            for guard in self._sampled.values()
            if guard.reachable is Reachable.NO and guard.retry_at <= lived
        )
        self._refill(now, lived, rng)
        fitting = [guard for guard in self._in_order() if self._fits(guard.relay_id, restrictions)]
        usable = [
            g for g in fitting if g.reachable is not Reachable.NO and (g.met is not None or self._may_meet(lived))
        ]
        if not usable:
            return self._no_guard(fitting, lived)
        first = usable[0]
        if first.relay_id not in self._primary:
            # One circuit through each is enough to see whether it answers; a confirmed one goes before all others.
            alike = [guard for guard in usable if (guard.confirmed is None) == (first.confirmed is None)]
            first = next((guard for guard in alike if guard.pending is None), first)
            first.pending = lived
        if first.met is None:
            first.met = lived
            self._met.append(lived)
        return first.relay_id

    def waits(self, relay_id: RelayId, now: float, restrictions: Restrictions = UNRESTRICTED) -> bool:
        """Whether an open circuit through `relay_id` has to wait, because a better guard may answer yet.

        Args:
            restrictions: those it was chosen under.
        """
        lived = self._clock.look(now)
        if relay_id in self._primary:
            return False
        for guard in self._in_order():
            if guard.relay_id == relay_id:
                return False
            if self._fits(guard.relay_id, restrictions) and (guard.met is not None or self._may_meet(lived)):
                if guard.relay_id in self._primary and guard.reachable is not Reachable.NO:
                    return True
                if guard.reachable is Reachable.YES:
                    return True
                if guard.pending is not None and lived - guard.pending < GUARD_CONNECT_TIMEOUT:
                    return True
        return False

    def succeeded(self, relay_id: RelayId, now: float, rng: Rng) -> None:
        """A circuit through it was built: it is confirmed, for as long as it is sampled."""
        lived = self._clock.look(now)
        guard = self._sampled.get(relay_id)
        if guard is None:
            return
        guard.reachable, guard.pending, guard.retry_delay = Reachable.YES, None, 0.0
        if relay_id not in self._primary and lived - self._online > GUARD_OFFLINE:
            # Nothing worked for a while, so that the primary guards did not says nothing about them.
            self._mark_maybe(self._primary)
        self._online = lived
        if guard.confirmed is None:
            guard.confirmed = _somewhat_before(lived, GUARD_LIFETIME / 10, rng)
            self._confirmed.append(relay_id)
            self._choose_primary()

    def failed(self, relay_id: RelayId, now: float, rng: Rng) -> None:
        """It did not answer.  It is tried again after a random time that grows while it stays so (Tor prop 336)."""
        lived = self._clock.look(now)
        guard = self._sampled.get(relay_id)
        if guard is None:
            return
        shortest, longest = GUARD_PRIMARY_RETRY if relay_id in self._primary else GUARD_RETRY
        spread = max(0.0, 3 * guard.retry_delay - shortest)
        guard.retry_delay = min(longest, shortest + rng.below(int(spread) + 1))
        guard.reachable, guard.pending, guard.retry_at = Reachable.NO, None, lived + guard.retry_delay

    # --- Inside ------------------------------------------------------------------------------------

    def _in_order(self) -> Iterator[_Guard]:
        """All, best first."""
        for relay_id in dict.fromkeys((*self._primary, *self._confirmed, *self._sampled)):
            yield self._sampled[relay_id]

    def _filtered(self, relay_id: RelayId) -> bool:
        candidate = self._known.get(relay_id)
        return candidate is not None and candidate.usable and relay_id not in self._excluded

    def _fits(self, relay_id: RelayId, restrictions: Restrictions) -> bool:
        return (
            self._filtered(relay_id)
            and relay_id not in restrictions.relays
            and not restrictions.networks & self._known[relay_id].networks
        )

    def _may_meet(self, lived: float) -> bool:
        self._met = [when for when in self._met if lived - when < GUARD_MONTH]
        return len(self._met) < GUARD_NEW_PER_MONTH

    def _mark_maybe(self, relays: Iterable[RelayId]) -> None:
        for relay_id in relays:
            if self._sampled[relay_id].reachable is Reachable.NO:
                self._sampled[relay_id].reachable = Reachable.MAYBE

    def _remove(self, relays: Iterable[RelayId]) -> None:
        for relay_id in relays:
            del self._sampled[relay_id]
            self._confirmed = [other for other in self._confirmed if other != relay_id]
            self._primary = [other for other in self._primary if other != relay_id]

    def _eligible(self, candidate: Candidate, now: float) -> bool:
        always_there = self._born is not None and candidate.first_seen <= self._born + GUARD_FIRST_VIEW
        return always_there or now - candidate.first_seen >= self.min_age

    def _refill(self, now: float, lived: float, rng: Rng) -> None:
        """Draw more into the sample while it has too few that may work, and choose the primary ones anew."""
        missing = GUARD_SAMPLE - sum(
            self._filtered(relay_id) and guard.reachable is not Reachable.NO
            for relay_id, guard in self._sampled.items()
        )
        if missing > 0 and len(self._sampled) < GUARD_MAX_SAMPLE:
            eligible = {relay_id: c for relay_id, c in self._known.items() if self._eligible(c, now)}
            most = max(GUARD_SAMPLE, min(GUARD_MAX_SAMPLE, int(GUARD_SAMPLE_SHARE * len(eligible))))
            self._draw(eligible, missing, most, lived, rng)
        self._choose_primary()

    def _draw(self, eligible: Mapping[RelayId, Candidate], missing: int, most: int, lived: float, rng: Rng) -> None:
        taken = {network for relay_id in self._sampled if relay_id in self._known
                 for network in self._known[relay_id].networks}  # fmt: skip
        left = [relay_id for relay_id, c in eligible.items() if relay_id not in self._sampled and c.weight > 0]
        while missing > 0 and len(self._sampled) < most:
            left = [relay_id for relay_id in left if not taken & eligible[relay_id].networks]
            if not left:
                return
            relay_id = left.pop(draw([eligible[relay_id].weight for relay_id in left], rng))
            self._sampled[relay_id] = _Guard(relay_id, _somewhat_before(lived, GUARD_LIFETIME / 10, rng))
            taken |= eligible[relay_id].networks
            # What our configuration rules out is sampled all the same: the sample must not tell how we were configured.
            missing -= self._filtered(relay_id)

    def _choose_primary(self) -> None:
        """The first confirmed ones; then those that were primary before, then others in the order they were drawn."""
        if self._known:
            order = dict.fromkeys((*self._confirmed, *self._primary, *self._sampled))
            self._primary = [relay_id for relay_id in order if self._filtered(relay_id)][:GUARD_PRIMARIES]

    def _no_guard(self, fitting: list[_Guard], lived: float) -> NoGuard:
        if not self._known:
            return NoGuard("no relays are known yet", NO_PATH_RETRY)
        if not any(self._filtered(relay_id) for relay_id in self._sampled):
            days = f"known for {self.min_age / DAY:g} days"
            none = f"none of our {len(self._sampled)} guards is there, and no other" if self._sampled else "no"
            return NoGuard(f"{none} relay that we can use has been {days}", NO_PATH_RETRY)
        if not fitting:
            return NoGuard(f"none of the {len(self._sampled)} guards may be used for this circuit", NO_PATH_RETRY)
        met = [guard for guard in fitting if guard.met is not None]
        wait = min((guard.retry_at - lived for guard in met), default=inf)
        reason = f"none of {len(met)} guards answers" if met else "no guard that we had may be used"
        if not self._may_meet(lived):
            month = GUARD_MONTH / DAY
            wait = min(wait, min(self._met) + GUARD_MONTH - lived)
            reason += f", and no more than {GUARD_NEW_PER_MONTH} new ones are tried in {month:g} days"
        return NoGuard(f"{reason}; next try in {max(wait, 1.0):.0f} s", max(wait, 1.0))

    # --- Saved state ---------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """What has to outlive the process: all but what answered lately."""
        return saved.dump(KIND, {
            "lived": self._clock.lived,
            "looked": self._clock.looked,
            "born": self._born,
            "met": self._met,
            "confirmed": [relay_id.hex() for relay_id in self._confirmed],
            "primary": [relay_id.hex() for relay_id in self._primary],
            "sampled": [
                {
                    "id": guard.relay_id.hex(),
                    "added": guard.added,
                    "unlisted": guard.unlisted,
                    "met": guard.met,
                    "confirmed": guard.confirmed,
                }
                for guard in self._sampled.values()
            ],
        })  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes, min_age: float = GUARD_MIN_AGE) -> Self:
        """The guards that `to_bytes` wrote.

        Raises:
            StateError: this is something else.  Keep it: forgotten guards are new guards.
        """
        fields = saved.parse(data, KIND)
        guards = cls(min_age)
        guards._clock = LivedClock(fields.positive("lived"), fields.number_or_none("looked"))
        guards._born = fields.number_or_none("born")
        guards._met = fields.numbers("met", GUARD_NEW_PER_MONTH)
        for entry in fields.objects("sampled", GUARD_MAX_SAMPLE):
            relay_id = entry.relay("id")
            if relay_id in guards._sampled:
                raise fields.fail("sampled", "names a relay twice")
            guards._sampled[relay_id] = _Guard(
                relay_id,
                entry.number("added"),
                entry.number_or_none("unlisted"),
                entry.number_or_none("met"),
                entry.number_or_none("confirmed"),
            )
        guards._confirmed = fields.relays("confirmed", GUARD_MAX_SAMPLE)
        guards._primary = fields.relays("primary", GUARD_PRIMARIES)
        dated = {guard.relay_id for guard in guards._sampled.values() if guard.confirmed is not None}
        if set(guards._confirmed) != dated or not set(guards._primary) <= guards._sampled.keys():
            raise fields.fail("confirmed or primary", "does not go with sampled")
        times = [(guard.added, guard.unlisted, guard.met, guard.confirmed) for guard in guards._sampled.values()]
        if any(
            when is not None and when > guards._clock.lived for when in (*guards._met, *(t for ts in times for t in ts))
        ):
            raise fields.fail("lived", "is before something that happened")
        return guards


def _expired(guard: _Guard, lived: float) -> bool:
    if guard.unlisted is not None and lived - guard.unlisted > GUARD_UNLISTED_LIFETIME:
        return True
    fresh = guard.confirmed is not None and lived - guard.confirmed <= GUARD_CONFIRMED_LIFETIME
    return lived - guard.added > GUARD_LIFETIME and not fresh


def _somewhat_before(lived: float, spread: float, rng: Rng) -> float:
    """A time up to `spread` seconds ago, so that saved state does not tell when we were here."""
    if spread < 1:
        raise LocalError("a spread has at least a second")
    return lived - rng.below(int(spread))
