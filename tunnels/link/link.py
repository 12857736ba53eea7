"""One neighbour: its address, its sessions, and the circuits that cross (SPEC 4.5 to 4.8).  Floor 3: sans-IO.

A link knows which session to use and which circuit end stands behind an id.  Handshakes, indices and addresses of other
neighbours belong to `links`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final, Protocol

from tunnels.crypto.x25519 import KeyPair
from tunnels.errors import LocalError
from tunnels.ids import Address, CircuitId, Rng
from tunnels.link.session import Session
from tunnels.params import MAX_LINK_BACKLOG
from tunnels.timers import Timer
from tunnels.wire.cell import Command
from tunnels.wire.link_messages import Created, LinkMessage


class Run:
    """Cells of one session as they came in: what a circuit end needs to work in place.

    Attributes:
        buffer: the received cells, writable; at: its address.
        headers: the plain header blocks; headers_at: their address.
        now: seconds.
    """

    __slots__ = ("at", "buffer", "headers", "headers_at", "now", "view")

    def __init__(self, headers: bytearray, headers_at: int) -> None:
        self.headers: Final = headers
        self.headers_at: Final = headers_at
        self.view: Final = memoryview(headers)
        self.buffer: bytearray | memoryview = bytearray()
        self.at = 0
        self.now = 0.0


class CircuitEnd(Protocol):
    """What stands behind a circuit id on a link."""

    def on_cell(self, run: Run, command: int, counter: int, body: int, header: int) -> None:
        """A RELAY or EARLY cell: its body is at `run.buffer[body]`, its plain header at `run.headers[header]`."""

    def on_created(self, message: Created, now: float) -> None:
        """CREATED for the id this end chose."""

    def on_destroy(self, now: float) -> None:
        """The neighbour on this link has closed the circuit."""

    def on_link_down(self, now: float) -> None:
        """The link is gone; nothing can be sent on it."""


class LinkState(Enum):
    CONNECTING = "connecting"
    UP = "up"
    DOWN = "down"


@dataclass(slots=True)
class Move:
    """A neighbour that seems to be somewhere else, and what it was asked (SPEC 4.7).

    Attributes:
        address: where cells of its came from.
        token, old_token: of the PATH_CHALLENGE to that address, and of the one to the link's own.
        asked: seconds.
        answered: whether the right answer came from `address`.
        refuted: whether what was asked at the link's own address was answered.
    """

    address: Address
    token: bytes = field(repr=False)
    old_token: bytes = field(repr=False)
    asked: float
    answered: bool = False
    refuted: bool = False


class Link:
    """A neighbour.

    INVARIANT: `state` is UP exactly while `current` is a session.
    """

    def __init__(self, remote: bytes, address: Address, static: KeyPair, now: float, rng: Rng,
                 dirty: Callable[[Session], None], epoch: float) -> None:  # fmt: skip
        self.remote: Final = remote
        """The neighbour's static key: a relay's link key, or a client's throw-away one."""
        self.address = address
        self.static: Final = static
        """Our own static towards this neighbour."""
        self.epoch: Final = epoch
        """Wall clock minus `now`, in seconds, as this neighbour sees it in timestamps."""
        self.state = LinkState.CONNECTING
        self.dirty: Final = dirty
        """Called by a session that has its first cell to send."""
        self.current: Session | None = None
        self.previous: Session | None = None
        self.previous_until = 0.0
        self.pending: list[Session] = []
        """Sessions we answered and no cell has confirmed."""
        self.circuits: dict[int, CircuitEnd] = {}
        """By the id we chose: the neighbour's cells carry it."""
        self.outgoing: dict[int, CircuitEnd] = {}
        """By the id the neighbour chose: our cells carry it."""
        self.heard = now
        self.used = now
        """When there last was a circuit."""
        self.probes = 0
        self.move: Move | None = None
        """The newest."""
        self.cookie: tuple[bytes, float] | None = None
        self.rekey_from = 0.0
        """Age of the current session at which we renew it (SPEC 4.5), drawn when it became current."""
        self.lost_notice = 0.0
        """When we may tell the neighbour again that it uses a circuit we do not have."""
        self.timer: Timer | None = None
        self._backlog: list[tuple[Command, bytes]] = []
        self._rng = rng

    def new_circuit_id(self, end: CircuitEnd) -> CircuitId:
        """Choose an id for cells that the neighbour will send to `end`."""
        while True:
            if (number := self._rng.below(1 << 32)) and number not in self.circuits:
                self.circuits[number] = end
                return CircuitId(number)

    def forget(self, ours: int, theirs: int) -> None:
        """The circuit with these two ids does not use this link any more; 0 stands for none."""
        self.circuits.pop(ours, None)
        self.outgoing.pop(theirs, None)

    def send(self, message: LinkMessage) -> bool:
        """Queue a sealed command; while the link is shaking hands it waits.

        Returns:
            Whether there was room.
        """
        text = message.encode()
        if self.current is not None:
            return self.current.seal(message.COMMAND, text, self._rng)
        if self.state is LinkState.DOWN or len(self._backlog) >= MAX_LINK_BACKLOG:
            return False
        self._backlog.append((message.COMMAND, text))
        return True

    def use(self, session: Session, now: float, rekey_from: float) -> None:
        """Make `session` the one we send on; the one before stays readable until `prove` is followed by its time."""
        if session.link is not self:
            raise LocalError("that session belongs to another link")
        self.previous, self.previous_until = self.current, inf
        self.current = session
        self.rekey_from = rekey_from
        self.state = LinkState.UP
        self.heard, self.probes = now, 0
        backlog, self._backlog = self._backlog, []
        for command, text in backlog:
            session.seal(command, text, self._rng)

    def prove(self, previous_until: float) -> None:
        """A cell came on `current`: the neighbour has it too, and what still comes on `previous` was under way."""
        if self.current is not None and not self.current.proven:
            self.current.proven = True
            self.previous_until = previous_until

    def down(self) -> list[CircuitEnd]:
        """Drop everything.

        Returns:
            The circuit ends that have to be told.
        """
        self.state = LinkState.DOWN
        self.current = self.previous = None
        self._backlog.clear()
        ends = list(dict.fromkeys([*self.circuits.values(), *self.outgoing.values()]))
        self.circuits.clear()
        self.outgoing.clear()
        return ends
