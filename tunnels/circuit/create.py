"""CREATE at a relay: the queue in front of the handshake, and the handshake (SPEC 7.1, 7.7).  Floor 3: sans-IO.

A CREATE costs about 0.25 ms and a cell 4 us, so CREATEs wait until `work` is called, a few between two looks at the
socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tunnels.circuit.core import Role
from tunnels.circuit.extend import turn_of
from tunnels.circuit.relay import RelayCircuit
from tunnels.crypto.handshake import answer_create
from tunnels.errors import RemoteError
from tunnels.fair import FairQueue
from tunnels.ids import CloseReason, Drop
from tunnels.link.link import Link
from tunnels.params import RELAY_SHARES
from tunnels.wire.cell import Command
from tunnels.wire.link_messages import Create, Created, Destroy, LinkMessage

if TYPE_CHECKING:
    from collections.abc import Hashable

    from tunnels.circuit.core import Core
    from tunnels.ids import CircuitId
    from tunnels.link.link import Run
    from tunnels.link.links import Handler


class _Waiting:
    """A CREATE in the queue, and the end of its circuit meanwhile: who gives it up takes it out."""

    def __init__(self, creates: Creates, turn: Hashable, link: Link, message: Create) -> None:
        self.turn: Final = turn
        self.link: Final = link
        self.message: Final = message
        self._creates: Final = creates
        link.outgoing[message.circuit_id] = self

    def leave(self) -> None:
        self.link.forget(0, self.message.circuit_id)

    def on_cell(self, run: Run, command: int, counter: int, body: int, header: int) -> None:
        """Never: it has no id of ours."""

    def on_created(self, message: Created, now: float) -> None:
        """Never, likewise."""

    def on_destroy(self, now: float) -> None:
        self._creates.give_up(self)

    def on_link_down(self, now: float) -> None:
        self._creates.give_up(self)


class Creates:
    """The CREATEs that wait at a node."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._queue: FairQueue[_Waiting] = FairQueue()

    def __len__(self) -> int:
        return len(self._queue)

    def on_create(self, link: Link, message: LinkMessage, now: float) -> None:
        assert isinstance(message, Create)
        core = self._core
        live = link.outgoing.get(message.circuit_id)
        if isinstance(live, _Waiting):
            return  # repeated while it waits: one answer will do
        if live is not None:
            if not isinstance(live, RelayCircuit) or not live.answer_again(message.handshake, now):
                core.drops[Drop.UNEXPECTED] += 1
            return
        if core.relay_id is None or core.onion_keys is None:
            core.drops[Drop.REFUSED] += 1
            link.send(Destroy(message.circuit_id, None))
            return
        waiting = _Waiting(self, turn_of(core, link), link, message)
        for refused in self._queue.add(waiting.turn, waiting):
            core.drops[Drop.QUEUE_FULL] += 1
            refused.leave()
            refused.link.send(Destroy(refused.message.circuit_id, None))

    def work(self, now: float) -> bool:
        """Answer one CREATE; False when none waits."""
        waiting = self._queue.pop()
        if waiting is None:
            return False
        waiting.leave()
        self._answer(waiting.link, waiting.message, now)
        return True

    def give_up(self, waiting: _Waiting) -> None:
        """Nobody wants an answer any more.

        Else a relay whose circuits ask and give up by turns had more waiting here than SPEC 7.7 lets it.
        """
        self._queue.discard(waiting.turn, waiting)
        waiting.leave()

    def _answer(self, link: Link, message: Create, now: float) -> None:
        core = self._core
        assert core.relay_id is not None
        assert core.onion_keys is not None
        whose = _place_of(core, link, message.circuit_id)
        if core.joined.full_for(whose):
            core.closed[CloseReason.MAX_JOINED_CIRCUITS] += 1
            link.send(Destroy(message.circuit_id, None))
            return
        try:
            created, keys, _ = answer_create(
                message.handshake, relay_id=core.relay_id, keys=core.onion_keys.accepted(core.epoch + now),
                network_id=core.network_id, rng=core.rng, kem=core.kem,
            )  # fmt: skip
        except RemoteError:
            core.drops[Drop.BAD_HANDSHAKE] += 1
            link.send(Destroy(message.circuit_id, None))
            return
        circuit = RelayCircuit(core, link, message.circuit_id, keys, now)
        core.join(circuit, whose, now)
        circuit.answer(message.handshake, Created(message.circuit_id, circuit.forward_id, created), now)


def _place_of(core: Core, link: Link, circuit_id: CircuitId) -> Hashable:
    """Whose place among the joined circuits a new one takes.

    A client's prefix is one party, and a relay is RELAY_SHARES: it stands for all its clients, and is fair to them.
    """
    turn = turn_of(core, link)
    return (turn, circuit_id % RELAY_SHARES) if turn == link.remote else turn


def _handler(core: Core) -> Handler:
    return core.creates.on_create


ROLE: Final = Role("create", commands={Command.CREATE: _handler})
