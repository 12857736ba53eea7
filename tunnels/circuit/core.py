"""What every circuit of a node shares: links, timers, dice, tables, and the list of what happened.  Floor 3: sans-IO.

Roles are tables (`Role`): which commands and messages a node understands is what it was given, so onion services add
theirs without this package knowing that they exist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from tunnels.circuit.limits import RelayLimits, overdue
from tunnels.crypto.kem import Kem
from tunnels.crypto.onion_keys import OnionKeys
from tunnels.errors import LocalError
from tunnels.fair import FairTable
from tunnels.ids import Address, CircuitId, CloseReason, Drop, RelayId, Rng
from tunnels.link.link import Link, LinkState
from tunnels.link.outbox import Train
from tunnels.params import DESTROY_DELAYS, MAX_REPEATED_DESTROYS, REAP_INTERVAL
from tunnels.path.directory import Directory, RelayInfo
from tunnels.timers import Timer, Timers
from tunnels.wire.destination import Destination
from tunnels.wire.fragments import NodeBudget
from tunnels.wire.link_messages import Destroy
from tunnels.wire.messages import Message, RejectReason, table

if TYPE_CHECKING:
    from tunnels.circuit.create import Creates
    from tunnels.circuit.extend import Lane
    from tunnels.circuit.origin import OriginCircuit
    from tunnels.circuit.relay import RelayCircuit
    from tunnels.link.links import Handler, Links
    from tunnels.wire.cell import Command

RelayHandler = Callable[["RelayCircuit", Any, bool, float], None]
"""What a hop does with a message: (circuit, message, whether all its cells were EARLY, now)."""

OriginHandler = Callable[["OriginCircuit", int, Any, float], None]
"""What an originator does with a message: (circuit, number of the hop that wrote it, message, now)."""


class Purpose(Enum):
    """What a circuit of ours is for: circuits of one purpose are never used for another."""

    DATA = "data"
    DIRECTORY = "directory"


@dataclass(frozen=True, slots=True)
class Role:
    """A part a node can play, as tables."""

    name: str
    commands: Mapping[Command, Callable[[Core], Handler]] = field(default_factory=dict)
    relay: Mapping[type[Message], RelayHandler] = field(default_factory=dict)
    origin: Mapping[type[Message], OriginHandler] = field(default_factory=dict)


# --- Events: what the world above is told ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class CircuitOpened:
    circuit: OriginCircuit


@dataclass(frozen=True, slots=True)
class CircuitClosed:
    """`culprit`: number of the hop (from 0) that could not be reached or broke the protocol; the pair before and at it
    shares the blame.
    """

    circuit: OriginCircuit
    reason: CloseReason
    culprit: int | None


@dataclass(frozen=True, slots=True)
class DatagramArrived:
    circuit: OriginCircuit
    origin: Destination
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class DatagramRejected:
    circuit: OriginCircuit
    destination: Destination
    reason: RejectReason


@dataclass(frozen=True, slots=True)
class ExitDatagram:
    """An originator wants this sent from here."""

    circuit: RelayCircuit
    destination: Destination
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RelayCircuitClosed:
    circuit: RelayCircuit
    reason: CloseReason


Event = CircuitOpened | CircuitClosed | DatagramArrived | DatagramRejected | ExitDatagram | RelayCircuitClosed


class Core:
    """The shared part.  `links` and `creates` are set by the engine, which builds all three."""

    links: Links
    creates: Creates

    def __init__(self, *, network_id: bytes, rng: Rng, kem: Kem, timers: Timers, directory: Directory,
                 relay_id: RelayId | None, onion_keys: OnionKeys | None, limits: RelayLimits, families: Collection[int],
                 epoch: float, roles: Iterable[Role]) -> None:  # fmt: skip
        self.network_id: Final = network_id
        self.rng: Final = rng
        self.kem: Final = kem
        self.timers: Final = timers
        self.directory: Final = directory
        self.relay_id: Final = relay_id
        """Our own id, None when we are no relay."""
        self.onion_keys: Final = onion_keys
        self.limits = limits
        self.families = families
        """IP versions we can send to."""
        self.epoch: Final = epoch
        """Wall clock minus `now`, seconds."""
        self.drops: Final[Counter[Drop]] = Counter()
        self.closed: Final[Counter[CloseReason]] = Counter()
        """Circuits that ended here, ours and others', by reason."""
        self.events: list[Event] = []
        self.budget: Final = NodeBudget()
        self.scratch: Final = Train()
        """Where a cell is opened that does not go on."""
        self.lanes: dict[bytes, Lane] = {}
        """EXTENDs by the link key of the next hop; a lane per relay of the directory at most."""
        self.joined: Final[FairTable[RelayCircuit]] = FairTable(limits.max_joined_circuits)
        """Circuits of others that cross us."""
        self._reaper: Timer | None = None
        self._repeating = 0
        """DESTROYs that will be said again."""
        self._cells_of_ended = 0
        roles = list(roles)
        self.relay_handlers: Final = _merged(role.relay for role in roles)
        self.origin_handlers: Final = _merged(role.origin for role in roles)
        self.forward_messages: Final = table(*self.relay_handlers)
        self.backward_messages: Final = table(*self.origin_handlers)
        self.commands: Final = _merged(role.commands for role in roles)

    def address_of(self, relay: RelayInfo) -> Address | None:
        """Where we can send to `relay`; None when nowhere, or only at an address we must not dial (SPEC 7.2)."""
        return relay.address_in(self.families, private=self.limits.private_addresses)

    def join(self, circuit: RelayCircuit, whose: Hashable, now: float) -> None:
        """Take a circuit of somebody else in, and look after it from time to time.

        Args:
            whose: that of `joined`, which is not full for it.
        """
        if self._reaper is None:
            self._reaper = self.timers.at(now + REAP_INTERVAL, self._reap)
        leaves = self.joined.add(whose, circuit)
        if leaves is not None:
            leaves.close(CloseReason.MAX_JOINED_CIRCUITS, now)

    def leave(self, circuit: RelayCircuit) -> None:
        """A circuit of somebody else has ended."""
        self.joined.discard(circuit)
        self._cells_of_ended += circuit.cells

    @property
    def cells_relayed(self) -> int:
        """Cells of others' circuits passed on or handled here, both ways."""
        return self._cells_of_ended + sum(circuit.cells for circuit in self.joined)

    def _reap(self, now: float) -> None:
        for circuit in list(self.joined):
            if reason := overdue(self.limits, idle=now - circuit.used, cells=circuit.cells):
                circuit.close(reason, now)
            else:
                circuit.forget_answers(now)
        self._reaper = self.timers.at(now + REAP_INTERVAL, self._reap) if len(self.joined) else None

    def destroy(self, link: Link, circuit_id: CircuitId | None, sender_id: CircuitId | None, now: float) -> None:
        """Say DESTROY, and say it again later: the cell may be lost (SPEC 7.5).

        In a flood of circuits that end the rest is said once.  Who did not hear it finds out when it sends a cell.
        """
        message = Destroy(circuit_id, sender_id)
        link.send(message)
        if self._repeating == MAX_REPEATED_DESTROYS:
            return
        self._repeating += 1

        def again(_now: float) -> None:
            if link.state is LinkState.UP:
                link.send(message)

        def for_the_last_time(then: float) -> None:
            again(then)
            self._repeating -= 1

        *delays, last = DESTROY_DELAYS
        for delay in delays:
            self.timers.at(now + delay, again)
        self.timers.at(now + last, for_the_last_time)


def _merged(tables: Iterable[Mapping[Any, Any]]) -> Mapping[Any, Any]:
    merged: dict[Any, Any] = {}
    for each in tables:
        if both := merged.keys() & each.keys():
            raise LocalError(f"two roles want {sorted(str(key) for key in both)}")
        merged |= each
    return MappingProxyType(merged)
