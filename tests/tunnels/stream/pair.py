"""Two ends of one circuit's streams, with a network in between that a test controls packet by packet."""

import heapq
from collections.abc import Callable, Iterator
from itertools import count

from tunnels.crypto.rng import StreamRng
from tunnels.ids import Rng
from tunnels.params import ACK_DELAY, MAX_PACKET
from tunnels.stream.bbr import Bbr
from tunnels.stream.events import DataReadable, Event, StreamOpened
from tunnels.stream.mux import Limits, Mux
from tunnels.wire.destination import Destination
from tunnels.wire.stream_frames import Frame, decode_packet, encode, packet_head

WEB = Destination("192.0.2.1", 80)
ROOM = 1000


def make_rng(seed: int = 1) -> StreamRng:
    return StreamRng(seed.to_bytes(32))


def make_mux(*, originator: bool, rng: Rng | None = None, limits: Limits | None = None) -> Mux:
    rng = rng or make_rng(7 if originator else 8)
    return Mux(originator=originator, congestion=Bbr(rng), rng=rng, now=0.0, culprit=2, limits=limits)


class Pair:
    """An originator and a far end, joined by a path of `delay` seconds each way.

    Args:
        fate: the delays at which the n-th packet of a direction arrives: none loses it, two make it two.
    """

    def __init__(
        self,
        fate: Callable[[Mux, int], Iterator[float]] | None = None,
        *,
        delay: float = 0.02,
        limits: Limits | None = None,
    ) -> None:
        self.near = make_mux(originator=True, limits=limits)
        self.far = make_mux(originator=False, limits=limits)
        self.now = 0.0
        self.delay = delay
        self.sent = {self.near: 0, self.far: 0}
        self.seen: dict[Mux, list[Event]] = {self.near: [], self.far: []}
        self.read: dict[tuple[Mux, int], bytearray] = {}
        self.reads = True
        self._fate = fate or self._arrives
        self._way: list[tuple[float, int, Mux, bytes]] = []
        self._order = count()

    def _arrives(self, sender: Mux, number: int) -> Iterator[float]:
        yield self.delay

    def other(self, mux: Mux) -> Mux:
        return self.far if mux is self.near else self.near

    def flush(self) -> None:
        """What may go now goes."""
        for mux in (self.near, self.far):
            for content in mux.payloads_to_send(self.now, ROOM):
                assert len(content) <= MAX_PACKET
                for delay in self._fate(mux, self.sent[mux]):
                    heapq.heappush(self._way, (self.now + delay, next(self._order), self.other(mux), content))
                self.sent[mux] += 1

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass; streams of the near end are accepted, and read while `reads`."""
        end = self.now + seconds
        while not until():
            self._serve()
            self.flush()
            moments = [mux.next_timer() for mux in (self.near, self.far)]
            due = [moment for moment in (*moments, self._way[0][0] if self._way else None) if moment is not None]
            if not due or min(due) > end:
                self.now = end
                return
            self.now = max(self.now, min(due))
            while self._way and self._way[0][0] <= self.now:
                _, _, mux, content = heapq.heappop(self._way)
                mux.receive(content, self.now)
            for mux in (self.near, self.far):
                mux.handle_timer(self.now)

    def _serve(self) -> None:
        for mux in (self.near, self.far):
            happened = mux.events()
            self.seen[mux] += happened
            for event in happened:
                if isinstance(event, StreamOpened) and mux is self.far:
                    mux.accept(event.stream_id)
                if isinstance(event, DataReadable) and self.reads:
                    self.drain(mux, event.stream_id)

    def drain(self, mux: Mux, stream_id: int) -> None:
        got = self.read.setdefault((mux, stream_id), bytearray())
        while data := mux.read(stream_id, 65536):
            got += data

    def happened(self, mux: Mux, kind: type[Event]) -> list[Event]:
        self.seen[mux] += mux.events()
        return [event for event in self.seen[mux] if isinstance(event, kind)]

    def tell(self, mux: Mux, number: int, *frames: Frame) -> None:
        """A packet that the other end never made."""
        mux.receive(packet_head(number) + b"".join(map(encode, frames)), self.now)


def frames_of(contents: list[bytes]) -> list[Frame]:
    return [frame for content in contents for frame in decode_packet(content)[1]]


def pattern(size: int, start: int = 0) -> bytes:
    """Bytes that are found out when they stand in the wrong place."""
    cycle = bytes((7 * at + at // 251) & 0xFF for at in range(start, start + min(size, 65521)))
    return (cycle * (size // max(len(cycle), 1) + 1))[:size]


SOON = ACK_DELAY * 2
