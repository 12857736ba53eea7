"""Which circuits to build and which to retire: policy only.  Floor 3: sans-IO.

Circuits of one hop count are alike.  A circuit is *fresh* until EXPIRY_LEAD before its max_time; its successor is built
then, and only when the successor is open does the old one go, as soon as nothing uses it or EXPIRY_GRACE has passed.
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
        born: seconds, when it was begun.
        used: seconds, when it last carried something of the application; far in the past when it never did.
        traffic: bytes on the wire, both ways.
    """

    key: Key
    hops: int
    is_open: bool
    born: float
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
    if circuit.traffic > limits.max_traffic:
        return CloseReason.MAX_TRAFFIC
    if now - circuit.born > limits.max_time - min(EXPIRY_LEAD, limits.max_time / 10):
        return CloseReason.MAX_TIME
    return None


def plan(circuits: Iterable[PooledCircuit[Key]], wanted: Iterable[int], limits: PoolLimits,
         failures: Mapping[int, float], *, now: float) -> list[Build | Retire[Key]]:  # fmt: skip
    """The actions that bring the pool to as many fresh circuits of each wanted hop count as it needs.

    That is one more than are in use, so that the next user finds one ready, and between `min_circuits` and
    `max_circuits`. A circuit is in use until max_time_inactive after its last datagram; the others above the need are
    retired as idle.

    Args:
        wanted: hop counts.
        failures: hop count -> seconds until which nothing is built, after failures.

    The caller performs the actions: nothing here sends, sleeps or reads a clock.
    """
    circuits = list(circuits)
    actions: list[Build | Retire[Key]] = []
    for hops in dict.fromkeys(wanted):
        mine = [circuit for circuit in circuits if circuit.hops == hops]
        fresh = [circuit for circuit in mine if worn_out(circuit, limits, now) is None]
        busy = sum(circuit.is_open and now - circuit.used <= limits.max_time_inactive for circuit in fresh)
        need = min(max(busy + 1, limits.min_circuits), limits.max_circuits)
        idle = [circuit for circuit in fresh if circuit.is_open and now - circuit.used > limits.max_time_inactive]
        leaving = sorted(idle, key=lambda circuit: circuit.used)[: max(0, len(fresh) - need)]
        actions += [Retire(circuit.key, CloseReason.MAX_TIME_INACTIVE) for circuit in leaving]
        ready = sum(circuit.is_open for circuit in fresh) - len(leaving)
        for circuit in mine:
            if (reason := worn_out(circuit, limits, now)) and _may_go(circuit, limits, now, replaced=ready > 0):
                actions.append(Retire(circuit.key, reason))
        if now >= failures.get(hops, now):
            building = sum(not circuit.is_open for circuit in fresh)
            missing = min(need - len(fresh), MAX_BUILDING - building)
            actions += [Build(hops)] * max(0, missing)
    return actions


def _may_go(circuit: PooledCircuit[Key], limits: PoolLimits, now: float, *, replaced: bool) -> bool:
    age = now - circuit.born
    if age > limits.max_time + EXPIRY_GRACE:
        return True
    if circuit.traffic > limits.max_traffic:
        return replaced
    return replaced and age > limits.max_time and now - circuit.used > RECENTLY_USED
