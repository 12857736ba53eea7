"""Flows that share one bottleneck, on a virtual clock (SPEC 13.5).  Floor 5.

A path here is what a congestion controller sees of a circuit: a queue of so many cells in front of a line of so many
cells a second, a delay, and losses at random before the queue.  ACKs go back over a line without a queue.  The senders
are `Recovery` and a controller, the receivers `Received`: the production code without streams, so that a run of a
minute takes seconds.  Whole networks are sim/network's business.
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf

from tunnels.ids import Rng
from tunnels.params import CELL_SIZE
from tunnels.stream.acks import Received, ack_delay
from tunnels.stream.congestion import Congestion
from tunnels.stream.recovery import Recovery
from tunnels.wire.stream_frames import Ack


@dataclass(frozen=True, slots=True)
class Path:
    """A bottleneck and what lies around it.

    Attributes:
        mbit: bit rate of the line in Mbit/s, of whole cells.
        rtt: seconds of a round trip that meets no queue.
        buffer: seconds of the line's rate that may wait; at least 4 cells.
        loss: probability that a cell is lost before it reaches the queue, on the way back as well.
    """

    mbit: float
    rtt: float
    buffer: float
    loss: float = 0.0

    @property
    def rate(self) -> float:
        """Cells a second."""
        return self.mbit * 1e6 / 8 / CELL_SIZE


@dataclass(slots=True)
class Measured:
    """What a flow got, from `begin` on."""

    arrived: int = 0
    sent: int = 0
    dropped: int = 0
    delays: list[float] = field(default_factory=list)
    """Seconds each cell waited in the queue."""


class _Nothing:
    def acked(self, start: int, end: int, fin: bool, /) -> None:  # noqa: FBT001 (as in Carried)
        pass

    def lost(self, start: int, end: int, fin: bool, /) -> None:  # noqa: FBT001
        pass


_RECORD = ((_Nothing(), 0, 0, False),)


class _Flow:
    """A sender that always has something to send, and its receiver."""

    def __init__(self, congestion: Congestion, rng: Rng) -> None:
        self.recovery = Recovery(congestion, rng)
        self.received = Received()
        self.measured = Measured()
        self.wake = inf
        self.ack_wake = inf


class Bottleneck:
    """Runs flows over `path`.

    Args:
        rng: for losses, and for what the senders draw.
        begin: seconds after which measuring begins.
    """

    def __init__(self, path: Path, rng: Rng, *, begin: float = 0.0) -> None:
        self._path, self._rng, self._begin = path, rng, begin
        self._service = 1 / path.rate
        self._limit = max(int(path.buffer * path.rate), 4)
        self._threshold = int(path.loss * (1 << 32))
        self._departures: deque[float] = deque()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self._flows: list[_Flow] = []
        self.delays: list[float] = []

    def add(self, congestion: Congestion, start: float = 0.0) -> None:
        flow = _Flow(congestion, self._rng)
        self._flows.append(flow)
        self._at(start, lambda now: self._send(flow, now))

    def run(self, until: float) -> Sequence[Measured]:
        while self._events and self._events[0][0] <= until:
            when, _, callback = heapq.heappop(self._events)
            callback(when)
        return [flow.measured for flow in self._flows]

    def _at(self, when: float, callback: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), callback))

    def _lost(self) -> bool:
        return self._threshold > 0 and int.from_bytes(self._rng.bytes(4)) < self._threshold

    def _send(self, flow: _Flow, now: float) -> None:
        recovery, measuring = flow.recovery, now >= self._begin
        if (timer := recovery.next_timer()) is not None and timer <= now:
            recovery.handle_timer(now)
        while allowed := recovery.allowance(now):
            for _ in range(allowed):
                number = recovery.next_number()
                recovery.on_sent(number, _RECORD, now)
                if measuring:
                    flow.measured.sent += 1
                if not self._lost():
                    self._enqueue(flow, number, now)
        timer = recovery.next_timer()
        wake = inf if timer is None else timer
        if not recovery.window_full:
            wake = min(wake, recovery.pacing_time())
        if wake < inf:
            wake = max(wake, now + 1e-6)
            if not now < flow.wake <= wake:
                flow.wake = wake
                self._at(wake, lambda at: self._woken(flow, at))

    def _woken(self, flow: _Flow, now: float) -> None:
        if flow.wake <= now:
            flow.wake = inf
            self._send(flow, now)

    def _enqueue(self, flow: _Flow, number: int, now: float) -> None:
        departures = self._departures
        while departures and departures[0] <= now:
            departures.popleft()
        if len(departures) >= self._limit:
            if now >= self._begin:
                flow.measured.dropped += 1
            return
        begins = departures[-1] if departures else now
        departures.append(begins + self._service)
        if now >= self._begin:
            flow.measured.delays.append(begins - now)
        arrives = begins + self._service + self._path.rtt / 2
        self._at(arrives, lambda at: self._arrive(flow, number, at))

    def _arrive(self, flow: _Flow, number: int, now: float) -> None:
        received = flow.received
        if now >= self._begin:
            flow.measured.arrived += 1
        received.received(number, now, ack_delay(flow.recovery.rtt.smoothed_rtt), asks=True)
        self._owe(flow, now)

    def _owe(self, flow: _Flow, now: float) -> None:
        due = flow.received.due
        if due <= now:
            ack = flow.received.ack(now)
            flow.received.told()
            if not self._lost():
                self._at(now + self._path.rtt / 2, lambda at: self._acknowledge(flow, ack, at))
        elif due < inf and not now < flow.ack_wake <= due:
            flow.ack_wake = due
            self._at(due, lambda at: self._owe_later(flow, at))

    def _owe_later(self, flow: _Flow, now: float) -> None:
        flow.ack_wake = inf
        self._owe(flow, now)

    def _acknowledge(self, flow: _Flow, ack: Ack, now: float) -> None:
        flow.recovery.on_ack(ack.ranges, ack.delay, now)
        self._send(flow, now)
