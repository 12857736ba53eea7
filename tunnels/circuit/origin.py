"""The circuit as its originator sees it (SPEC 5, 6, 7).  Floor 3: sans-IO.

Rule: every change of `State` goes through TRANSITIONS; nothing else assigns it.

The originator chooses every hop, verifies every hop before it counts, and closes on the first broken promise.  Which
circuits should exist, and over which relays, is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tunnels.circuit.core import CircuitClosed, CircuitOpened, DatagramArrived, DatagramRejected, Purpose, Role
from tunnels.crypto.handshake import OriginatorHandshake
from tunnels.crypto.onion import OriginLayers
from tunnels.errors import CircuitClosedError, LocalError, RemoteError
from tunnels.ids import CircuitId, CloseReason, Drop
from tunnels.link.link import Link, LinkState
from tunnels.params import (
    COUNTER_SEND_LIMIT,
    COUNTER_START_LIMIT,
    CREATE_SIZE,
    HANDSHAKE_TIMEOUT,
    MAX_EARLY,
    MAX_HOPS,
    MIN_EARLY,
    PAYLOAD_SIZE,
    PING_INTERVAL,
    PING_TOKEN_SIZE,
    PING_TRIES,
    RETRY_DELAYS,
)
from tunnels.wire.cell import Command
from tunnels.wire.fragments import Reassembler, Whole, parse_payload, split
from tunnels.wire.link_messages import Create
from tunnels.wire.messages import (
    Datagram,
    DropMessage,
    Extend,
    Extended,
    Ping,
    Pong,
    Rejected,
    Truncated,
    decode,
)

if TYPE_CHECKING:
    from tunnels.circuit.core import Core
    from tunnels.link.link import Run
    from tunnels.path.directory import RelayInfo
    from tunnels.timers import Timer
    from tunnels.wire.link_messages import Created
    from tunnels.wire.messages import Message


class State(Enum):
    BUILDING = auto()
    OPEN = auto()
    CLOSED = auto()


class Input(Enum):
    HOP_ADDED = auto()
    LAST_HOP_ADDED = auto()
    EXTENDING = auto()
    ENDED = auto()


TRANSITIONS: Final[Mapping[tuple[State, Input], State]] = MappingProxyType(
    {
        (State.BUILDING, Input.HOP_ADDED): State.BUILDING,
        (State.BUILDING, Input.LAST_HOP_ADDED): State.OPEN,
        (State.BUILDING, Input.ENDED): State.CLOSED,
        (State.OPEN, Input.EXTENDING): State.BUILDING,
        (State.OPEN, Input.ENDED): State.CLOSED,
    }
)


def next_state(state: State, happened: Input) -> State:
    """Where `happened` leads from `state`.

    Raises:
        LocalError: the protocol has no such transition; the circuit is unchanged.
    """
    try:
        return TRANSITIONS[state, happened]
    except KeyError:
        raise LocalError(f"{happened.name} cannot happen to a circuit that is {state.name}") from None


class _Attempt:
    """The hop that is being added: its handshake, and what is sent again until it is answered (SPEC 7.3)."""

    __slots__ = ("began", "deadline", "handshake", "parts", "timer", "tries")

    def __init__(self, handshake: OriginatorHandshake, parts: list[bytes], now: float, deadline: float) -> None:
        self.handshake = handshake
        self.parts = parts
        """Payloads of EXTEND; none for CREATE."""
        self.began = now
        self.deadline = deadline
        self.tries = 0
        self.timer: Timer | None = None


class OriginCircuit:
    """A circuit of ours, over the relays of `path`, first hop first.

    Attributes:
        build_time: seconds from `begin` to OPEN, None until then.
    """

    def __init__(self, core: Core, path: Sequence[RelayInfo], now: float, purpose: Purpose = Purpose.DATA) -> None:
        if not 1 <= len(path) <= MAX_HOPS:
            raise LocalError(f"a circuit has 1 to {MAX_HOPS} hops, not {len(path)}")
        if len({relay.relay_id for relay in path}) != len(path):
            raise LocalError("no relay twice on one circuit")
        address = core.address_of(path[0])
        if address is None:
            raise LocalError("the first relay has no address we can send to")
        self.core: Final = core
        self.purpose: Final = purpose
        self.path: tuple[RelayInfo, ...] = tuple(path)
        self.state = State.BUILDING
        self.closed_because: CloseReason | None = None
        self.culprit: int | None = None
        """Number of the hop that could not be reached or broke the protocol, where that can be told."""
        self.born: Final = now
        self.build_time: float | None = None
        self.used = -inf
        """When a message of the application last crossed it, either way."""
        self.answered = False
        """Whether anything came back for the application."""
        self.heard = now
        """When a backward cell of the last hop last verified: the hops before it could pretend that all is well."""
        self.cells_sent = 0
        self.cells_received = 0
        self.link: Final[Link] = core.links.dial(path[0].link_key, address, now)
        self.back_id: Final = self.link.new_circuit_id(self)
        """Ours, for backward cells."""
        self.out_id = CircuitId(0)
        """The guard's, for forward cells; 0 until CREATED."""
        self._layers = OriginLayers(core.rng)
        self._counter = core.rng.below(COUNTER_START_LIMIT)
        self._early_left = MIN_EARLY + core.rng.below(MAX_EARLY - MIN_EARLY + 1)
        self._reassembler = Reassembler(core.budget)
        self._message_id = core.rng.below(1 << 16)
        self._attempt: _Attempt | None = None
        self._ping_timer: Timer | None = None
        self._pings: dict[bytes, float] = {}
        self.rtt: float | None = None
        """Seconds the newest PING took."""

    def __repr__(self) -> str:
        return f"<circuit of {len(self.path)} hops, {self.state.name.lower()}>"

    @property
    def hops(self) -> int:
        return len(self.path)

    @property
    def hops_built(self) -> int:
        return len(self._layers)

    # --- building ------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Start building.  A circuit that fails at once is closed by the next timer, not inside this call."""
        self._add_hop(now)

    def extend(self, relay: RelayInfo, now: float) -> None:
        """Add one more hop to an open circuit.

        Raises:
            LocalError: it is not open, has MAX_HOPS hops, knows this relay, or has used up its EARLY cells (SPEC 7.4).
        """
        if len(self.path) == MAX_HOPS or any(relay.relay_id == known.relay_id for known in self.path):
            raise LocalError("the circuit is as long as it may be, or has this relay already")
        if self._early_left < len(self._extend_parts(relay, b"")):
            raise LocalError("no EARLY cells are left for EXTEND: build a new circuit")
        self.state = next_state(self.state, Input.EXTENDING)
        self.path += (relay,)
        self._add_hop(now)

    def _add_hop(self, now: float) -> None:
        number = len(self._layers)
        relay = self.path[number]
        core = self.core
        try:
            handshake = OriginatorHandshake(relay.relay_id, relay.onion_key, core.network_id, core.rng, core.kem)
        except RemoteError:
            core.timers.at(now, lambda then: self.close(CloseReason.BAD_HANDSHAKE, then, culprit=number))
            return
        parts = self._extend_parts(relay, handshake.create) if number else []
        waits_for_link = number == 0 and self.link.state is not LinkState.UP
        deadline = now + HANDSHAKE_TIMEOUT * (2 if waits_for_link else 1)
        self._attempt = _Attempt(handshake, parts, now, deadline)
        self._try(now)

    def _extend_parts(self, relay: RelayInfo, create: bytes) -> list[bytes]:
        message = Extend(relay.relay_id, create or bytes(CREATE_SIZE))
        return split(Extend.TYPE, message.encode(), self._next_message_id())

    def _try(self, now: float) -> None:
        """Send CREATE or EXTEND once more, and arrange for the next time."""
        attempt = self._attempt
        if attempt is None:
            return
        number = len(self._layers)
        if now >= attempt.deadline:
            self.close(CloseReason.NO_ANSWER, now, culprit=number)
            return
        if number == 0:
            if attempt.tries == 0 or self.link.state is LinkState.UP:
                self.link.send(Create(self.back_id, attempt.handshake.create))
        elif self._early_left >= len(attempt.parts):
            self._send_parts(number - 1, attempt.parts, now)
        delay = RETRY_DELAYS[min(attempt.tries, len(RETRY_DELAYS) - 1)]
        attempt.tries += 1
        attempt.timer = self.core.timers.at(min(now + delay, attempt.deadline), self._try)

    def _finish_hop(self, created: bytes, now: float) -> None:
        attempt = self._attempt
        if attempt is None:
            self.core.drops[Drop.UNEXPECTED] += 1  # the answer to a repeated request
            return
        try:
            keys, _ = attempt.handshake.finish(created)
        except RemoteError:
            self.core.drops[Drop.BAD_HANDSHAKE] += 1
            self.close(CloseReason.BAD_HANDSHAKE, now, culprit=len(self._layers))
            return
        if attempt.timer is not None:
            attempt.timer.cancel()
        self._attempt = None
        self._layers.add(keys)
        if len(self._layers) < len(self.path):
            self.state = next_state(self.state, Input.HOP_ADDED)
            self._add_hop(now)
            return
        self.state = next_state(self.state, Input.LAST_HOP_ADDED)
        if self.build_time is None:
            self.build_time = now - self.born
        if self._ping_timer is None:
            self._ping_timer = self.core.timers.at(now + PING_INTERVAL, self._keep_asking)
        self.core.events.append(CircuitOpened(self))

    # --- sending -------------------------------------------------------------------------------

    def send(self, message: Message, now: float, hop: int | None = None) -> bool:
        """Send a message to a hop, the last one when none is named.

        Args:
            hop: number from 0.

        Returns:
            Whether there was room; a message without is dropped and counted.

        Raises:
            CircuitClosedError: the circuit is not open.
            LocalError: the message is too long, or there is no such hop.
        """
        if self.state is not State.OPEN:
            reason = self.closed_because.value if self.closed_because else "building"
            raise CircuitClosedError(f"the circuit is not open ({reason}): take one of active_data_circuits()",
                                     reason=reason)  # fmt: skip
        parts = split(message.TYPE, message.encode(), self._next_message_id())
        return self._send_parts(len(self._layers) - 1 if hop is None else hop, parts, now)

    def send_datagram(self, message: Datagram, now: float) -> bool:
        """`send` for the application's own traffic, which keeps the circuit in use."""
        self.used = now
        return self.send(message, now)

    def _next_message_id(self) -> int:
        self._message_id = (self._message_id + 1) & 0xFFFF
        return self._message_id

    def _send_parts(self, hop: int, parts: list[bytes], now: float) -> bool:
        layers, session = self._layers, self.link.current
        place_in_body = layers.payload_place(hop)
        for part in parts:
            train = session.train() if session is not None else None
            if train is None:
                self.core.drops[Drop.LIMIT] += 1
                return False
            command = Command.EARLY if self._early_left > 0 else Command.RELAY
            body = train.place()
            start = body + place_in_body
            train.buffer[start : start + len(part)] = part
            layers.wrap(train.buffer, train.at, body, hop, len(part), command, self._counter)
            train.head(self.out_id, command, self._counter)
            train.count += 1
            self._early_left -= 1
            self._counter += 1
            self.cells_sent += 1
        if self._counter >= COUNTER_SEND_LIMIT:
            self.core.timers.at(now, lambda then: self.close(CloseReason.COUNTER_USED_UP, then))
        return True

    # --- receiving -----------------------------------------------------------------------------

    def on_cell(self, run: Run, command: int, counter: int, body: int, header: int) -> None:
        core = self.core
        if command != Command.RELAY:
            core.drops[Drop.UNEXPECTED] += 1
            self.close(CloseReason.PROTOCOL, run.now, culprit=0)
            return
        peeled = self._layers.peel(run.buffer, run.at, body, counter)
        if isinstance(peeled, Drop):
            core.drops[peeled] += 1
            return
        hop, area = peeled
        if hop == len(self._layers) - 1:
            self.heard = run.now
        self.cells_received += 1
        try:
            piece = parse_payload(run.buffer[area : area + PAYLOAD_SIZE])
            if isinstance(piece, Whole):
                kind, content = piece.type, piece.content
            elif (joined := self._reassembler.add(piece, early=False, now=run.now, source=hop)) is None:
                return
            else:
                kind, content = joined.type, joined.content
            message = decode(kind, content, core.backward_messages)
        except RemoteError:
            core.drops[Drop.MALFORMED] += 1
            return
        core.origin_handlers[type(message)](self, hop, message, run.now)

    def on_created(self, message: Created, now: float) -> None:
        if len(self._layers):
            self.core.drops[Drop.UNEXPECTED] += 1
            return
        self.out_id = message.forward_id
        self.link.outgoing[self.out_id] = self
        self._finish_hop(message.handshake, now)

    def extended(self, hop: int, message: Extended, now: float) -> None:
        if hop != len(self._layers) - 1:
            self.core.drops[Drop.UNEXPECTED] += 1
        else:
            self._finish_hop(message.handshake, now)

    def truncated(self, hop: int, now: float) -> None:
        """Hop number `hop` says that what was behind it is gone."""
        if hop == len(self._layers) - 1 and self._attempt is None:
            self.core.drops[Drop.UNEXPECTED] += 1  # there was nothing behind it
        else:
            self.close(CloseReason.TRUNCATED, now, culprit=hop + 1)

    def ponged(self, token: bytes, now: float) -> None:
        if (asked := self._pings.pop(token, None)) is not None:
            self.rtt = now - asked

    def ping(self, now: float) -> None:
        """Ask the last hop whether it is there."""
        token = self.core.rng.bytes(PING_TOKEN_SIZE)
        self._pings[token] = now
        self.send(Ping(token), now)

    def _keep_asking(self, now: float) -> None:
        if self.state is State.CLOSED:
            return
        if now - self.heard < PING_INTERVAL:
            self._pings.clear()
        elif self.state is State.OPEN:
            if len(self._pings) >= PING_TRIES:
                self.close(CloseReason.NO_ANSWER, now)
                return
            self.ping(now)
        self._ping_timer = self.core.timers.at(now + PING_INTERVAL, self._keep_asking)

    # --- the end -------------------------------------------------------------------------------

    def on_destroy(self, now: float) -> None:
        self.close(CloseReason.DESTROYED, now, culprit=len(self._layers) if self._attempt else None, tell=False)

    def on_link_down(self, now: float) -> None:
        self.close(CloseReason.LINK_FAILED, now, culprit=0, tell=False)

    def close(self, reason: CloseReason, now: float, *, culprit: int | None = None, tell: bool = True) -> None:
        """End the circuit; `tell`: whether the guard has to be told."""
        if self.state is State.CLOSED:
            return
        self.state = next_state(self.state, Input.ENDED)
        self.closed_because, self.culprit = reason, culprit
        for timer in (self._ping_timer, self._attempt.timer if self._attempt else None):
            if timer is not None:
                timer.cancel()
        self._attempt = None
        self.link.forget(self.back_id, self.out_id)
        if tell:
            self.core.destroy(self.link, self.out_id or None, self.back_id, now)
        self._reassembler.close()
        self._layers.wipe()
        self.core.closed[reason] += 1
        self.core.events.append(CircuitClosed(self, reason, culprit))


def on_extended(circuit: OriginCircuit, hop: int, message: Extended, now: float) -> None:
    circuit.extended(hop, message, now)


def on_truncated(circuit: OriginCircuit, hop: int, _message: Truncated, now: float) -> None:
    circuit.truncated(hop, now)


def on_pong(circuit: OriginCircuit, _hop: int, message: Pong, now: float) -> None:
    circuit.ponged(message.token, now)


def on_datagram(circuit: OriginCircuit, hop: int, message: Datagram, now: float) -> None:
    if hop != circuit.hops - 1:
        circuit.core.drops[Drop.UNEXPECTED] += 1  # only the exit that we use has datagrams for us
        return
    circuit.used, circuit.answered = now, True
    circuit.core.events.append(DatagramArrived(circuit, message.destination, message.data))


def on_rejected(circuit: OriginCircuit, hop: int, message: Rejected, now: float) -> None:
    if hop != circuit.hops - 1:
        circuit.core.drops[Drop.UNEXPECTED] += 1
        return
    circuit.core.events.append(DatagramRejected(circuit, message.destination, message.reason))


def on_drop(_circuit: OriginCircuit, _hop: int, _message: DropMessage, _now: float) -> None:
    """Cover traffic ends here."""


ROLE: Final = Role(
    "origin",
    origin={
        Extended: on_extended,
        Truncated: on_truncated,
        Pong: on_pong,
        Datagram: on_datagram,
        Rejected: on_rejected,
        DropMessage: on_drop,
    },
)
