"""A circuit of somebody else that crosses this node (SPEC 6, 7).  Floor 3: sans-IO.

HOT PATH.  `RelayCircuit.on_cell` passes a forward cell on, `Onward.on_cell` a backward one: one libsodium call, one
header block and no object each.

  cost    3.5 us a forward cell in a train, all checks on, from the receive buffer to the sealed header; 4.4 us with the
          kernel; 10 us for single cells of 1 000 circuits and 64 neighbours (python -m bench relay)

A relay knows two neighbours, one layer, and what is addressed to it.  It never chooses: the originator names each hop.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from tunnels.circuit.core import RelayCircuitClosed, Role
from tunnels.crypto.onion import FOR_YOU, PASS_ON, RelayLayer
from tunnels.errors import RemoteError
from tunnels.ids import CircuitId, CloseReason, Drop
from tunnels.params import (
    ANSWER_LIFETIME,
    BATCH_CELLS,
    BODY_OFFSET,
    CELL_SIZE,
    COUNTER_LIMIT,
    COUNTER_SEND_LIMIT,
    HEADER_SIZE,
    MAX_EARLY,
    PAYLOAD_SIZE,
    REJECTED_INTERVAL,
)
from tunnels.wire.cell import COUNTER_SHIFT, HEADER, NONCE_OFFSET, ZEROS, Command
from tunnels.wire.fragments import Reassembler, Whole, parse_payload, split
from tunnels.wire.link_messages import Created
from tunnels.wire.messages import DropMessage, Ping, Pong, Truncate, Truncated, decode

if TYPE_CHECKING:
    from tunnels.circuit.core import Core
    from tunnels.circuit.extend import Extension
    from tunnels.crypto.handshake import HopKeys
    from tunnels.link.link import Link, Run
    from tunnels.link.outbox import Train
    from tunnels.wire.messages import Message

_RELAY: Final = int(Command.RELAY)
_EARLY: Final = int(Command.EARLY)
_put_header: Final = HEADER.pack_into
"""What `Train.head` does, without the call and the address."""
_COUNTER: Final = NONCE_OFFSET + 1
"""Where the six counter bytes stand in a header block (SPEC 2.1)."""


class RelayCircuit:
    """The end on the link towards the originator, and the owner of everything this hop knows of the circuit."""

    def __init__(self, core: Core, link: Link, back_id: CircuitId, keys: HopKeys, now: float) -> None:
        self.core: Final = core
        self.link: Final = link
        self.back_id: Final = back_id
        """The previous hop's id, for backward cells."""
        self.forward_id: Final = link.new_circuit_id(self)
        """Ours, for forward cells."""
        link.outgoing[back_id] = self
        self.layer: Final = RelayLayer(keys, core.rng)
        self.onward: Onward | None = None
        """The way to the next hop, None when we are the last."""
        self.extension: Extension | None = None
        """The newest EXTEND, under way or answered lately."""
        self.born: Final = now
        self.used = now
        self.cells = 0
        """Cells passed on or handled, both ways."""
        self.early = 0
        self.closed = False
        self._reassembler = Reassembler(core.budget)
        self._message_id = 0
        self._created: tuple[bytes, Created, float] | None = None
        self._reject_from = now

    @property
    def only_hop(self) -> bool:
        """Whether the neighbour is no relay we know: then it is the originator, and we are its only hop."""
        return not self.core.directory.is_relay(self.link.remote)

    # --- CREATE ------------------------------------------------------------------------------

    def answer(self, create: bytes, created: Created, now: float) -> None:
        """Send CREATED, and keep it for a repeated CREATE (SPEC 7.1)."""
        self._created = (hashlib.sha256(create).digest(), created, now)
        self.link.send(created)

    def answer_again(self, create: bytes, now: float) -> bool:
        """Whether `create` is the one that was answered lately; then the answer was sent again."""
        if self._created is None or now - self._created[2] > ANSWER_LIFETIME:
            self._created = None
            return False
        if hashlib.sha256(create).digest() != self._created[0]:
            return False
        self.link.send(self._created[1])
        return True

    def forget_answers(self, now: float) -> None:
        """Drop what was kept for repeated requests and is not good for them any more: 5 kB."""
        if self._created is not None and now - self._created[2] > ANSWER_LIFETIME:
            self._created = None
        if self.extension is not None and self.extension.over(now):
            self.extension = None

    # --- cells -------------------------------------------------------------------------------

    def on_cell(self, run: Run, command: int, counter: int, body: int, header: int) -> None:
        onward = self.onward
        train: Train | None
        if onward is None:
            train = self.core.scratch
        elif (session := onward.link.current) is None:
            train = None
        elif (train := session.room) is None or train.count == BATCH_CELLS:
            train = session.train()
        if train is None:
            self.core.drops[Drop.LIMIT] += 1
            return
        place = train.count * CELL_SIZE + BODY_OFFSET
        layer = self.layer
        result = layer.open_forward(
            run.at + body, run.headers_at + header + NONCE_OFFSET, counter, train.buffer, train.at, place
        )
        if result == PASS_ON and onward is not None:
            if command == _EARLY:
                self.early += 1
                if self.early > MAX_EARLY:
                    self.core.drops[Drop.TOO_MANY_EARLY] += 1
                    self.close(CloseReason.PROTOCOL, run.now)
                    return
            counter += layer.offset
            if counter >= COUNTER_LIMIT:
                self.core.drops[Drop.BAD_COUNTER] += 1
                return
            _put_header(
                train.headers, train.count * HEADER_SIZE, onward.out_id, command, counter << COUNTER_SHIFT, ZEROS
            )
            train.count += 1
            self.cells += 1
            self.used = run.now
        elif result == FOR_YOU:
            self.cells += 1
            self.used = run.now
            self._deliver(bytes(train.buffer[place : place + PAYLOAD_SIZE]), command == _EARLY, run.now)
        elif isinstance(result, Drop):
            self.core.drops[result] += 1
        elif result == PASS_ON:
            self.core.drops[Drop.UNEXPECTED] += 1
        else:
            self.core.drops[Drop.MALFORMED] += 1
            self.close(CloseReason.PROTOCOL, run.now)

    def _deliver(self, payload: bytes, early: bool, now: float) -> None:  # noqa: FBT001 (as the cell came)
        core = self.core
        try:
            piece = parse_payload(payload)
            if isinstance(piece, Whole):
                kind, content, all_early = piece.type, piece.content, early
            elif (joined := self._reassembler.add(piece, early=early, now=now)) is None:
                return
            else:
                kind, content, all_early = joined
            message = decode(kind, content, core.forward_messages)
        except RemoteError:
            core.drops[Drop.MALFORMED] += 1
            return
        core.relay_handlers[type(message)](self, message, all_early, now)

    def new_message_id(self) -> int:
        """For a message that may be sent more than once."""
        self._message_id = (self._message_id + 1) & 0xFFFF
        return self._message_id

    def send(self, message: Message, now: float, message_id: int | None = None) -> bool:
        """Write a message to the originator.

        Args:
            message_id: that of an earlier try with the same content, whose fragments complete each other (SPEC 8.2); a
                new one when None.

        Returns:
            Whether there was room; a message without is dropped and counted.
        """
        session, layer = self.link.current, self.layer
        number = self.new_message_id() if message_id is None else message_id
        for part in split(message.TYPE, message.encode(), number):
            train = session.train() if session is not None else None
            if train is None:
                self.core.drops[Drop.LIMIT] += 1
                return False
            nonce = train.head(self.back_id, _RELAY, self.take_counter(now))
            layer.write_backward(part, train.buffer, train.at, train.place(), nonce)
            train.count += 1
            self.cells += 1
        return True

    def may_reject(self, now: float) -> bool:
        """Whether a REJECTED may be sent: one in REJECTED_INTERVAL seconds (SPEC 8.5)."""
        if now < self._reject_from:
            return False
        self._reject_from = now + REJECTED_INTERVAL
        return True

    def take_counter(self, now: float) -> int:
        """The counter of the next backward cell."""
        counter = self.layer.backward_counter
        self.layer.backward_counter = counter + 1
        if counter >= COUNTER_SEND_LIMIT:
            self.core.timers.at(now, lambda then: self.close(CloseReason.COUNTER_USED_UP, then))
        return counter

    # --- the end -----------------------------------------------------------------------------

    def on_created(self, message: Created, now: float) -> None:
        self.core.drops[Drop.UNEXPECTED] += 1

    def on_destroy(self, now: float) -> None:
        self.close(CloseReason.DESTROYED, now, tell_back=False)

    def on_link_down(self, now: float) -> None:
        self.close(CloseReason.LINK_FAILED, now, tell_back=False)

    def cut_off(self, now: float, *, tell: bool) -> None:
        """Forget what is behind us; `tell`: whether the next hop has to be told."""
        if (extension := self.extension) is not None:
            self.extension = None
            extension.cancel(now, tell=tell)
        if (onward := self.onward) is not None:
            self.onward = None
            onward.forget(now, tell=tell)

    def truncated(self, now: float, *, tell: bool) -> None:
        """The part behind us is lost: say so to the originator (SPEC 7.5)."""
        self.cut_off(now, tell=tell)
        self.send(Truncated(), now)

    def close(self, reason: CloseReason, now: float, *, tell_back: bool = True) -> None:
        if self.closed:
            return
        self.closed = True
        self.cut_off(now, tell=True)
        self.link.forget(self.forward_id, self.back_id)
        if tell_back:
            self.core.destroy(self.link, self.back_id, self.forward_id, now)
        self._reassembler.close()
        self.layer.wipe()
        self.core.leave(self)
        self.core.closed[reason] += 1
        self.core.events.append(RelayCircuitClosed(self, reason))


class Onward:
    """The end on the link towards the next hop."""

    def __init__(self, circuit: RelayCircuit, link: Link) -> None:
        self.circuit: Final = circuit
        self.link: Final = link
        self.in_id: Final = link.new_circuit_id(self)
        """Ours, for backward cells."""
        self.out_id = CircuitId(0)
        """The next hop's, for forward cells; 0 until CREATED."""

    def on_cell(self, run: Run, command: int, counter: int, body: int, header: int) -> None:
        circuit = self.circuit
        core = circuit.core
        if command != _RELAY:
            core.drops[Drop.UNEXPECTED] += 1
            circuit.close(CloseReason.PROTOCOL, run.now)
            return
        session = circuit.link.current
        train = session.train() if session is not None else None
        if train is None or counter >= COUNTER_LIMIT or circuit.onward is not self:
            core.drops[Drop.LIMIT if train is None else Drop.UNEXPECTED] += 1
            return
        start = header + _COUNTER
        nonce = train.head(circuit.back_id, _RELAY, circuit.take_counter(run.now))
        circuit.layer.pass_backward(
            run.buffer, run.at, body, run.headers[start : start + 6], train.at + train.place(), nonce
        )
        train.count += 1
        circuit.cells += 1
        circuit.used = run.now

    def on_created(self, message: Created, now: float) -> None:
        if self.circuit.extension is None:
            self.circuit.core.drops[Drop.UNEXPECTED] += 1
        else:
            self.circuit.extension.on_created(self, message, now)

    def on_destroy(self, now: float) -> None:
        self.circuit.truncated(now, tell=False)

    def on_link_down(self, now: float) -> None:
        self.circuit.truncated(now, tell=False)

    def forget(self, now: float, *, tell: bool) -> None:
        self.link.forget(self.in_id, self.out_id)
        if tell:
            self.circuit.core.destroy(self.link, self.out_id or None, self.in_id, now)


def on_truncate(circuit: RelayCircuit, _message: Truncate, _early: bool, now: float) -> None:  # noqa: FBT001
    circuit.truncated(now, tell=True)


def on_ping(circuit: RelayCircuit, message: Ping, _early: bool, now: float) -> None:  # noqa: FBT001
    circuit.send(Pong(message.token), now)


def on_drop(_circuit: RelayCircuit, _message: DropMessage, _early: bool, _now: float) -> None:  # noqa: FBT001
    """Cover traffic ends here."""


ROLE: Final = Role("relay", relay={Truncate: on_truncate, Ping: on_ping, DropMessage: on_drop})
