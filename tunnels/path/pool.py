"""Which circuits to build and which to retire: policy only.  Floor 3: sans-IO.

Circuits of one hop count are alike.  A circuit is *fresh* from its begin until EXPIRY_LEAD before its max_time, counted
from when it opened; its successor is built then.  The old one goes when enough open ones are there without it, as soon
as nothing uses it or EXPIRY_GRACE has passed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from tunnels.ids import CloseReason
from tunnels.params import EXPIRY_GRACE, EXPIRY_LEAD, MAX_BUILDING, RECENTLY_USED

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class PooledCircuit(Generic[Key]):
    """What the pool has to know of a circuit.

    Attributes:
        key: whatever names it to the caller.
        opened: seconds, when it could first be used; None while it is being built.
        used: seconds, when it last carried something of the application; far in the past when it never did.
        traffic: bytes on the wire, both ways.
    """

    key: Key
    hops: int
    opened: float | None
    used: float
    traffic: int


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """The fields of TunnelSettings that govern the pool."""

    min_circuits: int
    max_circuits: int
    max_time: float
    max_time_inactive: float
    max_traffic: int


@dataclass(frozen=True, slots=True)
class Build:
    hops: int


@dataclass(frozen=True, slots=True)
class Retire(Generic[Key]):
    key: Key
    reason: CloseReason


def worn_out(circuit: PooledCircuit[Key], limits: PoolLimits, now: float) -> CloseReason | None:
    """Why a successor is needed, None while the circuit is fresh."""
    if circuit.opened is None:
        return None  # building has a deadline of its own
    if circuit.traffic > limits.max_traffic:
        return CloseReason.MAX_TRAFFIC
    if now - circuit.opened > limits.max_time - min(EXPIRY_LEAD, limits.max_time / 10):
        return CloseReason.MAX_TIME
    return None


def for_new_traffic(circuits: Iterable[PooledCircuit[Key]], limits: PoolLimits, now: float) -> list[PooledCircuit[Key]]:
    """The open ones, best first: fresh before worn out, and of the fresh the one that opened first.

    So whoever always takes the first stays with one circuit for as long as it is fresh.  Were the newest first, each
    use would move to the circuit just built, which then needs one beside it: with one user the pool never came to rest.
    """
    ready = [(circuit.opened, circuit) for circuit in circuits if circuit.opened is not None]
    fresh = sorted((pair for pair in ready if worn_out(pair[1], limits, now) is None), key=lambda pair: pair[0])
    old = sorted((pair for pair in ready if worn_out(pair[1], limits, now)), key=lambda pair: -pair[0])
    return [circuit for _, circuit in (*fresh, *old)]


def plan(circuits: Iterable[PooledCircuit[Key]], wanted: Iterable[int], limits: PoolLimits,
         build_from: Mapping[int, float], *, now: float) -> list[Build | Retire[Key]]:  # fmt: skip
    """The actions that bring the pool to as many fresh circuits of each wanted hop count as it needs.

    That is one more than are in use, so that the next user finds one ready, and between `min_circuits` and
    `max_circuits`. A circuit is in use until max_time_inactive after its last datagram; the others above the need are
    retired as idle.

    Args:
        wanted: hop counts.
        build_from: hop count -> seconds before which nothing is built, after failures.

    The caller performs the actions: nothing here sends, sleeps or reads a clock.
    """
    circuits = list(circuits)
    actions: list[Build | Retire[Key]] = []
    for hops in dict.fromkeys(wanted):
        mine = [circuit for circuit in circuits if circuit.hops == hops]
        fresh = [circuit for circuit in mine if worn_out(circuit, limits, now) is None]
        old = [circuit for circuit in mine if worn_out(circuit, limits, now) is not None]
        ready = [circuit for circuit in fresh if circuit.opened is not None]
        idle = [circuit for circuit in ready if now - circuit.used > limits.max_time_inactive]
        need = min(max(len(ready) - len(idle) + 1, limits.min_circuits), limits.max_circuits)
        leaving = sorted(idle, key=lambda circuit: circuit.used)[: max(0, len(ready) - need)]
        actions += [Retire(circuit.key, CloseReason.MAX_TIME_INACTIVE) for circuit in leaving]
        actions += _worn_out_that_go(old, len(ready) - len(leaving), limits, now)
        if now >= build_from.get(hops, now):
            building = len(fresh) - len(ready)
            actions += [Build(hops)] * max(0, min(need - len(fresh), MAX_BUILDING - building))
    return actions


def _worn_out_that_go(
    old: list[PooledCircuit[Key]], ready: int, limits: PoolLimits, now: float
) -> Iterable[Retire[Key]]:
    """The oldest first.

    Args:
        ready: fresh circuits that are open.
    """
    left = len(old)
    for circuit in sorted(old, key=lambda circuit: circuit.opened or 0.0):
        replaced = ready > 0 and ready + left > limits.min_circuits
        age = now - (circuit.opened or 0.0)
        reason = worn_out(circuit, limits, now) or CloseReason.MAX_TIME
        if (
            age > limits.max_time + EXPIRY_GRACE
            or left > limits.max_circuits
            or (replaced and reason is CloseReason.MAX_TRAFFIC)
            or (replaced and age > limits.max_time and now - circuit.used > RECENTLY_USED)
        ):
            left -= 1
            yield Retire(circuit.key, reason)
