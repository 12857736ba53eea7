"""EXTEND at a relay: opening the way to the next hop (SPEC 7.2, 7.7).  Floor 3: sans-IO.

Each next hop has a lane: at most MAX_OPEN_CREATES unanswered CREATEs towards it, and behind them a queue that is fair
by the neighbour the circuit came from.  So a flood of EXTENDs through honest relays waits here, in its own place,
instead of at its target.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from tunnels.circuit.core import Role
from tunnels.circuit.relay import Onward, RelayCircuit
from tunnels.fair import FairQueue
from tunnels.ids import Drop
from tunnels.link.link import Link, LinkState
from tunnels.link.responder import prefix_of
from tunnels.params import ANSWER_LIFETIME, EXTEND_TIMEOUT, MAX_OPEN_CREATES
from tunnels.wire.link_messages import Create, Created
from tunnels.wire.messages import Extend, Extended

if TYPE_CHECKING:
    from collections.abc import Hashable

    from tunnels.circuit.core import Core


def turn_of(core: Core, link: Link) -> Hashable:
    """Whose turn a request over `link` takes: a relay's own, a client's source prefix (SPEC 7.7)."""
    return link.remote if core.directory.is_relay(link.remote) else prefix_of(link.address[0])


class Lane:
    """CREATEs towards one next hop.  A node keeps those lanes in which something goes on."""

    def __init__(self) -> None:
        self.open = 0
        """Unanswered."""
        self.waiting: Final[FairQueue[Extension]] = FairQueue()

    def pump(self) -> None:
        while self.open < MAX_OPEN_CREATES and (extension := self.waiting.pop()) is not None:
            if not extension.ended:
                self.open += 1
                extension.send_create()


class Extension:
    """One EXTEND, from its arrival until ANSWER_LIFETIME after its answer."""

    def __init__(
        self, circuit: RelayCircuit, message: Extend, digest: bytes, link: Link, lane: Lane, now: float
    ) -> None:
        core = circuit.core
        self.turn: Final = turn_of(core, circuit.link)
        self.digest: Final = digest
        self.ended = False
        """Cancelled or failed: nothing may be sent for it any more."""
        self._circuit: Final = circuit
        self._handshake: Final = message.handshake
        self._onward: Final = Onward(circuit, link)
        self._lane: Final = lane
        self._sent = False
        self._answer: Extended | None = None
        self._until = 0.0
        self._timer = core.timers.at(now + EXTEND_TIMEOUT, self._failed)

    @property
    def under_way(self) -> bool:
        return self._answer is None

    def send_create(self) -> None:
        self._sent = True
        self._onward.link.send(Create(self._onward.in_id, self._handshake))

    def again(self, now: float) -> bool:
        """The originator repeated its EXTEND.

        Returns:
            Whether the answer is still ours to give.
        """
        if self._answer is not None:
            if now > self._until:
                return False
            self._circuit.send(self._answer, now)
        elif self._sent and self._onward.link.state is LinkState.UP:
            self.send_create()
        return True

    def on_created(self, onward: Onward, message: Created, now: float) -> None:
        circuit = self._circuit
        if onward is not self._onward or self._answer is not None:
            if onward is not self._onward:
                circuit.core.drops[Drop.UNEXPECTED] += 1
            return  # the answer to a CREATE we repeated
        onward.out_id = message.forward_id
        onward.link.outgoing[onward.out_id] = onward
        circuit.onward = onward
        self._answer, self._until = Extended(message.handshake), now + ANSWER_LIFETIME
        self._timer.cancel()
        self._leave_lane()
        circuit.send(self._answer, now)

    def cancel(self, now: float, *, tell: bool) -> None:
        """The circuit gives up what is under way; what was answered is the circuit's own business.

        Args:
            tell: whether a next hop that was asked has to hear of it.
        """
        if self.ended:
            return
        self.ended = True
        self._timer.cancel()
        if self._answer is None:
            self._onward.forget(now, tell=tell and self._sent)
            self._leave_lane()

    def refuse(self, now: float) -> None:
        """There is no room, or no answer came."""
        if not self.ended:  # a queue may still hold what its circuit gave up: that circuit is closed, or has another
            self._circuit.truncated(now, tell=True)

    def _failed(self, now: float) -> None:
        self._circuit.core.drops[Drop.REFUSED] += 1
        self.refuse(now)

    def over(self, now: float) -> bool:
        """Whether it is of no use any more."""
        return self._answer is not None and now > self._until

    def _leave_lane(self) -> None:
        lane, lanes = self._lane, self._circuit.core.lanes
        if self._sent:
            lane.open -= 1
            lane.pump()
        else:
            lane.waiting.discard(self.turn, self)
        if not lane.open and not len(lane.waiting) and lanes.get(self._onward.link.remote) is lane:
            del lanes[self._onward.link.remote]


def on_extend(circuit: RelayCircuit, message: Extend, early: bool, now: float) -> None:  # noqa: FBT001
    core = circuit.core
    if not early:
        core.drops[Drop.NOT_EARLY] += 1
        return
    digest = hashlib.sha256(message.encode()).digest()
    known = circuit.extension
    if known is not None and known.digest == digest and known.again(now):
        return
    if circuit.onward is not None or (known is not None and known.under_way):
        core.drops[Drop.UNEXPECTED] += 1
        return
    link = _link_to(circuit, message, now)
    if link is None:
        core.drops[Drop.REFUSED] += 1
        circuit.truncated(now, tell=False)
        return
    lane = core.lanes.setdefault(link.remote, Lane())
    circuit.extension = Extension(circuit, message, digest, link, lane, now)
    for refused in lane.waiting.add(circuit.extension.turn, circuit.extension):
        core.drops[Drop.QUEUE_FULL] += 1
        refused.refuse(now)
    lane.pump()


def _link_to(circuit: RelayCircuit, message: Extend, now: float) -> Link | None:
    """The link to the relay that `message` names, unless it is one we must not dial (SPEC 7.2)."""
    core = circuit.core
    relay = core.directory.get(message.relay_id)
    # By link key too: a relay may describe itself with somebody else's, even with ours.
    never = {circuit.link.remote, circuit.link.static.public}
    if relay is None or relay.relay_id == core.relay_id or relay.link_key in never:
        return None
    address = core.address_of(relay)
    return core.links.dial(relay.link_key, address, now) if address is not None else None


ROLE: Final = Role("extend", relay={Extend: on_extend})
