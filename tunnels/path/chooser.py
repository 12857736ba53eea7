"""Everything that decides over which relays a circuit goes, in one place.  Floor 3: sans-IO; clock and dice come in.

Guards say who comes first, weights who is likely, path bias which guard is out, blame which pairs are avoided,
build times how long to wait.  Here
they are asked in the right order and told what came of it.  Which circuits should exist is not decided here.  All times
are wall seconds, because guards outlive the process.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tunnels.ids import CloseReason
from tunnels.params import GUARD_OFFLINE_RETRY, GUARD_PRIMARIES, SHARES_LIFETIME
from tunnels.path.bias import Attempt, Blame, PathBias
from tunnels.path.guards import Candidate, Guards, NoGuard
from tunnels.path.select import NoPathError, choose_path, kin_of, networks_of, restrictions
from tunnels.path.timeouts import BuildTimes
from tunnels.path.weights import Claim, Measured, share

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tunnels.ids import RelayId, Rng
    from tunnels.path.directory import RelayInfo
    from tunnels.path.guards import Restrictions
    from tunnels.path.select import BlameFactor, Kin, Rules, Target
    from tunnels.store import Store

_GUARDS: Final = "guards"
_BIAS: Final = "path-bias"
_TIMES: Final = "build-times"
"""Names in the store."""

_GUARD_FAILS: Final = frozenset({CloseReason.LINK_FAILED, CloseReason.NO_ANSWER, CloseReason.REFUSED})


class PathChooser:
    """
    Args:
        store: where guards and their counts outlive the process.
        guard_min_age: seconds a relay must have been known before it becomes a guard.

    Raises:
        StateError, StoreError: what is stored cannot be used; nothing was changed.  Forgetting guards would mean new
            guards, which is
            what an attacker wants, so a person has to decide.
    """

    def __init__(self, rules: Rules, rng: Rng, store: Store, guard_min_age: float) -> None:
        self._rules: Final = rules
        self._rng: Final = rng
        self._store: Final = store
        saved = store.load(_GUARDS)
        self.guards: Final = Guards(guard_min_age) if saved is None else Guards.from_bytes(saved, guard_min_age)
        counted = store.load(_BIAS)
        self.bias: Final = PathBias() if counted is None else PathBias.from_bytes(counted)
        timed = store.load(_TIMES)
        self.times: Final = BuildTimes() if timed is None else BuildTimes.from_bytes(timed)
        self.blame: Final = Blame()
        self.measured: Final = Measured()
        self._relays: tuple[RelayInfo, ...] = ()
        self._kin: Kin = {}
        self._weights: Mapping[RelayId, float] = {}
        self._weighed = -SHARES_LIFETIME
        self._saved = {_GUARDS: saved, _BIAS: counted, _TIMES: timed}
        self._retried = -GUARD_OFFLINE_RETRY

    def relays_changed(self, relays: Sequence[RelayInfo], first_seen: Mapping[RelayId, float], now: float) -> None:
        """These relays can be used now, and no others.

        Args:
            first_seen: wall seconds; a relay that is not in it was always known.
        """
        stale = now - self._weighed >= SHARES_LIFETIME
        if tuple(relays) == self._relays and not stale:
            return
        self._relays = tuple(relays)
        self._weighed = now
        distinct = self._rules.distinct_networks
        networks = {relay.relay_id: networks_of(relay) if distinct else frozenset[str]() for relay in relays}
        claims = [Claim(relay.relay_id, relay.bandwidth, networks[relay.relay_id]) for relay in relays]
        self._weights = share(claims, self.measured.rates(now)).by_relay if claims else {}
        self._kin = kin_of({relay.relay_id: relay.family for relay in relays})
        rules = self._rules
        candidates = {
            relay.relay_id: Candidate(
                first_seen.get(relay.relay_id, 0.0),
                networks[relay.relay_id],
                self._weights.get(relay.relay_id, 0.0),
                usable=relay.relay_id not in rules.never
                and relay.address_in(rules.families, private=rules.private) is not None,
            )
            for relay in relays
        }
        self.guards.relays_changed(candidates, now, self._rng)

    def choose(self, hops: int, now: float, *, attempt: Attempt, target: Target | None = None,
               avoid: Collection[RelayId] = ()) -> tuple[RelayInfo, ...]:  # fmt: skip
        """A path for a circuit for data, first hop first.  A circuit of one hop has an exit and no guard.

        Raises:
            NoPathError: there is none; the text says why.
        """
        blame = self._factor(now)
        # Without a guard first: whether there is any path at all, and if not, why not.
        path = choose_path(self._relays, hops, self._rng, self._rules, exits=True, target=target, avoid=avoid,
                           keep_exit=attempt.exit if hops > 1 else None, kin=self._kin, weights=self._weights,
                           blame=blame)  # fmt: skip
        if hops == 1:
            return path
        last = path[-1]
        ruled_out = restrictions(last, self._rules, self._kin)
        failure: NoPathError | None = None
        for _ in range(GUARD_PRIMARIES):
            guard = self._guard(ruled_out, now)
            if isinstance(guard, NoGuard):
                raise NoPathError(f"0 of {hops} hops: {guard.reason}", retry_after=guard.retry_after)
            try:
                return choose_path(
                    self._relays, hops, self._rng, self._rules, exits=True, target=target, avoid=avoid, guard=guard,
                    keep_exit=last.relay_id, kin=self._kin, weights=self._weights, blame=blame,
                )  # fmt: skip
            except NoPathError as error:
                # No path leads from this guard to that exit, such as for want of IPv6: the next one is asked.
                failure = error
                ruled_out = replace(ruled_out, relays=ruled_out.relays | {guard})
        assert failure is not None
        raise failure

    def _guard(self, ruled_out: Restrictions, now: float) -> RelayId | NoGuard:
        guard = self.guards.choose(now, self._rng, ruled_out)
        if isinstance(guard, NoGuard) and abs(now - self._retried) >= GUARD_OFFLINE_RETRY:
            self._retried = now
            self.guards.retry_now()
            guard = self.guards.choose(now, self._rng, ruled_out)
        return guard

    def opened(self, path: Sequence[RelayInfo], now: float) -> None:
        """A circuit over `path` was built."""
        ids = [relay.relay_id for relay in path]
        self.blame.worked(ids, now)
        if len(ids) > 1:
            self.bias.begun(ids[0])
            self.bias.built(ids[0])
            confirmed = self.guards.confirmed
            self.guards.succeeded(ids[0], now, self._rng)
            if self.guards.confirmed != confirmed:
                self.save()  # at once: who is killed now must not come back to an order in which this one is not first

    def ended(self, path: Sequence[RelayInfo], reason: CloseReason, culprit: int | None, now: float, *, answered: bool,
              built: bool, worked: bool) -> None:  # fmt: skip
        """A circuit over `path` failed.

        Args:
            culprit: number of the hop that could not be reached or broke the protocol.
            answered: whether the guard had answered.
            built: whether it had been open.
            worked: whether it had carried something.
        """
        ids = [relay.relay_id for relay in path]
        if len(ids) == 1:
            return
        if culprit is not None and culprit > 0:
            self.blame.failed(ids[culprit - 1], ids[culprit], now)
        if culprit == 0 and reason in _GUARD_FAILS:
            self.guards.failed(ids[0], now, self._rng)
        elif built and not worked:
            self.bias.collapsed(ids[0])
        elif answered and not built:
            # Whatever it looked like: a guard that kills chooses how.
            self.bias.begun(ids[0])
        self.guards.exclude(self.bias.out())

    def used(self, path: Sequence[RelayInfo], *, worked: bool) -> None:
        """A circuit was asked to carry something, for the first time; or an answer came back, for the first time."""
        if len(path) > 1:
            (self.bias.use_worked if worked else self.bias.use_tried)(path[0].relay_id)
            self.guards.exclude(self.bias.out())

    def waits(self, path: Sequence[RelayInfo], now: float) -> bool:
        """Whether an open circuit has to wait, because a better guard may answer yet."""
        if len(path) == 1:
            return False
        return self.guards.waits(path[0].relay_id, now, restrictions(path[-1], self._rules, self._kin))

    def save(self) -> None:
        """Store what has changed."""
        self.bias.keep(self.guards.sampled)
        states = {_GUARDS: self.guards.to_bytes(), _BIAS: self.bias.to_bytes(), _TIMES: self.times.to_bytes()}
        for name, state in states.items():
            if state != self._saved[name]:
                self._store.save(name, state)
                self._saved[name] = state

    def _factor(self, now: float) -> BlameFactor:
        return lambda before, at: self.blame.factor(before, at, now)
