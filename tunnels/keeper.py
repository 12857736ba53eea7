"""Keeps the circuits that an application wants (SPEC 7): does what the pool plans, over paths that the rules allow.
Floor 4: sans-IO.

Owns what a pool has to remember from one look to the next: which hop counts are wanted, how builds of each went lately,
and which relays failed.  What should exist is `path.pool`'s decision, over which relays `path.select`'s.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

from tunnels.circuit.origin import State
from tunnels.ids import CloseReason
from tunnels.params import AVOID_TIME, BUILD_BACKOFF, CELL_SIZE, MAX_BLAMED_PAIRS, MAX_BUILDING, PROVEN_AGE
from tunnels.path.bias import Attempt
from tunnels.path.pool import Build, PooledCircuit, for_new_traffic, plan
from tunnels.path.select import NoPathError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tunnels.circuit.origin import OriginCircuit
    from tunnels.engine import Engine
    from tunnels.ids import RelayId
    from tunnels.path.chooser import PathChooser
    from tunnels.path.directory import RelayInfo
    from tunnels.path.pool import PoolLimits

_OUR_WISH: Final = frozenset({
    CloseReason.REQUESTED, CloseReason.SHUTDOWN, CloseReason.MAX_TIME, CloseReason.MAX_TIME_INACTIVE,
    CloseReason.MAX_TRAFFIC,
})  # fmt: skip
"""A circuit that ends so has not failed."""


@dataclass(slots=True)
class _Record:
    """How builds of one hop count went lately.

    Attributes:
        failures: rounds in a row; circuits that were under way together fail together, and count once.
        failed: seconds, when the last round did.
        build_from: seconds before which nothing is built.
        waiting: what became of the wishes whose builds failed: the next builds have to keep their exits.
        no_path, failure: what a person should know, as long as it holds.
    """

    failures: int = 0
    failed: float = -inf
    build_from: float = -inf
    waiting: deque[Attempt] = field(default_factory=deque)
    no_path: str = ""
    failure: str = ""

    @property
    def reason(self) -> str:
        return self.no_path or self.failure


@dataclass(slots=True)
class _Use:
    """What a circuit is for, and what was told of its use.

    Attributes:
        attempt: the wish it was begun for, with the failures before it.
        tried: seconds since when it carries something, None before.
        worked: whether its last hop was heard after that.
    """

    attempt: Attempt
    tried: float | None = None
    worked: bool = False
    slow: bool = False
    """Whether it took longer to build than most do: it is built to the end to learn how long, and not used."""


class RelaySource(Protocol):
    """Whoever knows relays, such as `discovery.Discovery`."""

    def usable(self, now: float) -> Sequence[RelayInfo]:
        """Those that circuits may use."""

    def first_seen(self) -> Mapping[RelayId, float]:
        """Since when each is known, in wall seconds; one that is not in it was always known."""

    def trouble(self, now: float) -> str:
        """Why there are none, for people; empty when there are."""


class PoolKeeper:
    def __init__(self, engine: Engine, source: RelaySource, limits: PoolLimits, chooser: PathChooser) -> None:
        self._engine: Final = engine
        self._source: Final = source
        self._limits: Final = limits
        self._chooser: Final = chooser
        self._wanted: dict[int, _Record] = {}
        self._circuits: dict[OriginCircuit, _Use] = {}
        """Those begun here that are not closed; the engine may have others, for other purposes."""
        self._avoid: dict[RelayId, float] = {}
        self._doubts: dict[RelayId, frozenset[RelayId]] = {}
        """Who said, since it last worked, that an exit could not be reached."""

    @property
    def guards(self) -> tuple[RelayId, ...]:
        """Those that circuits begin at, best first."""
        return self._chooser.guards.primary

    def want(self, hops: int) -> None:
        """Keep circuits of `hops` hops ready from now on."""
        self._wanted.setdefault(hops, _Record())

    def wants(self, hops: int | None) -> bool:
        """Whether circuits of `hops` hops, or any, are to be kept ready."""
        return bool(self._wanted) if hops is None else hops in self._wanted

    def tend(self, now: float) -> None:
        """Do what the pool plans, and keep what was learned.  Whoever wants no circuits meets no guards either."""
        if not self._wanted:
            return
        self._chooser.relays_changed(self._source.usable(now), self._source.first_seen(), self._wall(now))
        self._note_use(now)
        self._note_slow(now)
        circuits = self._pooled()
        for circuit in circuits:
            if circuit.opened is not None and now - circuit.opened >= PROVEN_AGE:
                record = self._wanted[circuit.hops]
                record.failures, record.failure = 0, ""
        build_from = {hops: record.build_from for hops, record in self._wanted.items()}
        for action in plan(circuits, self._wanted, self._limits, build_from, now=now):
            if isinstance(action, Build):
                self._build(action.hops, now)
            else:
                action.key.close(action.reason, now)
        self._chooser.save()

    def _wall(self, now: float) -> float:
        return self._engine.core.epoch + now

    def _note_use(self, now: float) -> None:
        """Tell which circuits were asked to carry something, and which of them were there.

        Any word of the last hop will do, such as that it got our PING: what an application sends need not be answered.
        """
        for circuit, use in self._circuits.items():
            if use.tried is None and circuit.used > -inf:
                use.tried = now
                self._chooser.used(circuit.path, worked=False)
            if use.tried is not None and not use.worked and (circuit.answered or circuit.heard > use.tried):
                use.worked = True
                self._chooser.used(circuit.path, worked=True)

    def _note_slow(self, now: float) -> None:
        """Give up what takes too long to build."""
        times = self._chooser.times
        for circuit, use in list(self._circuits.items()):
            if circuit.state is not State.BUILDING or circuit.build_time is not None:
                continue
            age = now - circuit.born
            if age > times.timeout(circuit.hops) and not use.slow and circuit.hops_built:
                use.slow = True
                times.timed_out()
                self._keep_exit(circuit, use.attempt.failed(circuit.path[-1].relay_id))
            if use.slow and age > times.give_up(circuit.hops):
                times.given_up()
                circuit.close(CloseReason.TIMEOUT, now)

    def opened(self, circuit: OriginCircuit, now: float) -> None:
        """A circuit can be used."""
        use = self._circuits.get(circuit)
        if use is None:
            return
        if circuit.build_time is not None:
            self._chooser.times.built(circuit.hops, circuit.build_time)
        if use.slow:
            circuit.close(CloseReason.TIMEOUT, now)
        else:
            self._doubts.pop(circuit.path[-1].relay_id, None)
            self._chooser.opened(circuit.path, self._wall(now))

    def ended(self, circuit: OriginCircuit, reason: CloseReason, culprit: int | None, now: float) -> None:
        """Learn from the end of a circuit; its successor is built by the next `tend`."""
        if culprit == 0:
            self._avoid[circuit.path[0].relay_id] = now + AVOID_TIME
        use = self._circuits.pop(circuit, None)
        if use is None or reason in _OUR_WISH:
            return
        opened = None if use.slow else _opened(circuit)
        self._chooser.ended(
            circuit.path, reason, culprit, self._wall(now), answered=circuit.hops_built > 0, built=opened is not None,
            worked=use.worked,
        )  # fmt: skip
        # Who kills circuits may do so when they are open: until one has carried something, its exit is kept.
        if not use.worked and not use.slow and circuit.hops > 1:
            self._keep_exit(circuit, self._after(circuit, use.attempt, reason, culprit, now))
        if opened is not None and now - opened >= PROVEN_AGE:
            return
        record = self._wanted[circuit.hops]
        where = "" if culprit is None else f" at hop {culprit + 1} of {circuit.hops}"
        record.failure = f"the last circuit ended: {reason.value}{where}"
        if circuit.born >= record.failed:
            record.failures += 1
            record.failed = now
            record.build_from = now + BUILD_BACKOFF[min(record.failures, len(BUILD_BACKOFF)) - 1]

    def _after(self, circuit: OriginCircuit, attempt: Attempt, reason: CloseReason, culprit: int | None, now: float
               ) -> Attempt:  # fmt: skip
        """What becomes of a wish whose circuit failed."""
        last = circuit.path[-1].relay_id
        if self._avoid.get(last, -inf) > now:
            return Attempt()  # given up while this one was under way
        if reason is not CloseReason.TRUNCATED or culprit != circuit.hops - 1:
            return attempt.failed(last)
        doubted = Attempt(last, attempt.failures, self._doubts.get(last, frozenset()))
        attempt = doubted.refused(last, circuit.path[-2].relay_id)
        if attempt.exit is not None:
            self._doubts[last] = attempt.witnesses
            return attempt
        self._avoid[last] = now + AVOID_TIME
        self._doubts.pop(last, None)
        for record in self._wanted.values():
            record.waiting = deque(each for each in record.waiting if each.exit != last)
        return attempt

    def _keep_exit(self, circuit: OriginCircuit, attempt: Attempt) -> None:
        """Have the next build end where the failed one should have.  An exit that was given up is free again."""
        waiting = self._wanted[circuit.hops].waiting
        if attempt.exit is not None:
            waiting.append(attempt)
        while len(waiting) > self._limits.max_circuits + MAX_BUILDING:
            waiting.popleft()

    def open_circuits(self, hops: int | None, now: float) -> list[OriginCircuit]:
        """Those of one hop count, or of all, best for new traffic first."""
        pooled = for_new_traffic(self._pooled(), self._limits, now)
        wall = self._wall(now)
        return [
            each.key for each in pooled if hops in (None, each.hops) and not self._chooser.waits(each.key.path, wall)
        ]

    def why_not_ready(self, hops: int | None, now: float) -> str:
        """A sentence for people on why no circuit of `hops` hops, or of any wanted number, is open."""
        records = self._wanted if hops is None else {hops: self._wanted[hops]} if hops in self._wanted else {}
        if not records:
            return f"call build_tunnels({hops or 3}) first"
        building = sum(c.state is State.BUILDING and c.hops in records for c in self._circuits)
        reason = next((record.reason for record in records.values() if record.reason), "")
        if building:
            return f"{building} circuits are being built" + (f"; {reason}" if reason else "")
        wait = max(0.0, min(record.build_from for record in records.values()) - now)
        return f"{reason or 'no circuit is open'}; the next try is in {wait:.0f} s"

    def _pooled(self) -> list[PooledCircuit[OriginCircuit]]:
        return [
            PooledCircuit(
                circuit,
                circuit.hops,
                _opened(circuit),
                circuit.used,
                (circuit.cells_sent + circuit.cells_received) * CELL_SIZE,
            )
            for circuit, use in self._circuits.items()
            if circuit.state is not State.CLOSED and not use.slow
        ]

    def _build(self, hops: int, now: float) -> None:
        self._avoid = {relay: until for relay, until in self._avoid.items() if until > now}
        if len(self._doubts) > MAX_BLAMED_PAIRS:
            self._doubts.clear()
        record = self._wanted[hops]
        attempt = record.waiting[0] if record.waiting else Attempt()
        try:
            path = self._chooser.choose(hops, self._wall(now), attempt=attempt, avoid=self._avoid)
        except NoPathError as error:
            record.no_path = self._source.trouble(now) or str(error)
            record.build_from = now + error.retry_after
            return
        record.no_path = ""
        if record.waiting:
            record.waiting.popleft()
        self._circuits[self._engine.create_circuit(path, now)] = _Use(attempt)


def _opened(circuit: OriginCircuit) -> float | None:
    return None if circuit.build_time is None else circuit.born + circuit.build_time
