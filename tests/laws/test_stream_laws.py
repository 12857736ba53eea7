"""A stream is a byte pipe, whatever the network between its ends does and in whatever order the ends act."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tests.tunnels.stream.pair import ROOM, WEB, make_mux, pattern
from tunnels.params import INITIAL_CREDIT, INITIAL_STREAM_CREDIT, STREAM_SHARE
from tunnels.stream.events import (
    DataReadable,
    StreamAnswered,
    StreamOpened,
    StreamReset,
    StreamStopped,
)
from tunnels.stream.mux import Limits, Mux
from tunnels.wire.stream_frames import Status

SENDS = pattern(4 * INITIAL_STREAM_CREDIT)
"""What every end sends on every stream: byte n of a stream is byte n of this."""

LIMITS = Limits(window=INITIAL_CREDIT)
HELD = INITIAL_CREDIT + LIMITS.send_buffer
ENDS = st.sampled_from([0, 1])


class Pipe:
    """One direction of a stream, as the two applications know it."""

    def __init__(self) -> None:
        self.written = 0
        self.read = 0
        self.finished = False
        self.given_up = False
        """Reset or stopped by either: what is read is a beginning of what was written, and no more is promised."""
        self.ended = False


class StreamMachine(RuleBasedStateMachine):
    """Both ends may open, write, read, finish, reset and stop; packets arrive in any order, twice, or never."""

    streams: Bundle[int] = Bundle("streams")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ends = (make_mux(originator=True, limits=LIMITS), make_mux(originator=False, limits=LIMITS))
        self.way: tuple[list[bytes], list[bytes]] = ([], [])
        """What is on the way to each end."""
        self.pipes: dict[tuple[int, int], Pipe] = {}
        """By the end that writes, and the stream."""
        self.known: tuple[set[int], set[int]] = (set(), set())
        self.readable: tuple[set[int], set[int]] = (set(), set())

    # --- what the applications do --------------------------------------------------------------

    @rule(target=streams, end=ENDS, size=st.integers(0, STREAM_SHARE))
    def open(self, end: int, size: int) -> int:
        stream_id = self.ends[end].open(WEB, SENDS[:size])
        self.pipes[0, stream_id], self.pipes[1, stream_id] = Pipe(), Pipe()
        self.pipes[end, stream_id].written = size
        self.known[end].add(stream_id)
        self.pump()
        return stream_id

    @rule(end=ENDS, stream_id=streams, size=st.integers(1, 100_000))
    def write(self, end: int, stream_id: int, size: int) -> None:
        pipe = self.pipes[end, stream_id]
        if stream_id in self.known[end] and not pipe.finished and not pipe.given_up:
            pipe.written += self.ends[end].write(stream_id, SENDS[pipe.written : pipe.written + size])
            self.pump()

    @rule(end=ENDS, stream_id=streams, size=st.integers(1, 200_000))
    def read(self, end: int, stream_id: int, size: int) -> None:
        if stream_id in self.known[end]:
            self.take(end, stream_id, size)
            self.pump()

    @rule(end=ENDS, stream_id=streams)
    def finish(self, end: int, stream_id: int) -> None:
        pipe = self.pipes[end, stream_id]
        if stream_id in self.known[end] and not pipe.finished and not pipe.given_up:
            self.ends[end].finish(stream_id)
            pipe.finished = True
            self.pump()

    @rule(end=ENDS, stream_id=consumes(streams), half=st.sampled_from(["reset", "stop", "both"]))
    def give_up(self, end: int, stream_id: int, half: str) -> None:
        mux = self.ends[end]
        if stream_id not in self.known[end]:
            return
        if half != "stop" and not (self.pipes[end, stream_id].finished or self.pipes[end, stream_id].given_up):
            self.pipes[end, stream_id].given_up = True
            mux.reset(stream_id, Status.CANCELLED)
        other = self.pipes[1 - end, stream_id]
        if half != "reset" and not other.given_up and not other.ended:
            other.given_up = True
            mux.stop(stream_id, Status.CANCELLED)
        self.pump()

    # --- what the network does -----------------------------------------------------------------

    @rule(end=ENDS, data=st.data())
    def deliver(self, end: int, data: st.DataObject) -> None:
        if self.way[end]:
            at = data.draw(st.integers(0, min(len(self.way[end]), 8) - 1))
            self.ends[end].receive(self.way[end].pop(at), self.now)
            self.hear(end)
            self.pump()

    @rule(end=ENDS, number=st.integers(2, 60))
    def deliver_many(self, end: int, number: int) -> None:
        for _ in range(min(number, len(self.way[end]))):
            self.ends[end].receive(self.way[end].pop(0), self.now)
            self.hear(end)
        self.pump()

    @rule(end=ENDS, data=st.data())
    def deliver_twice(self, end: int, data: st.DataObject) -> None:
        if self.way[end]:
            at = data.draw(st.integers(0, len(self.way[end]) - 1))
            for _ in range(2):
                self.ends[end].receive(self.way[end][at], self.now)
                self.hear(end)
            self.pump()

    @rule(end=ENDS, data=st.data())
    def lose(self, end: int, data: st.DataObject) -> None:
        if self.way[end]:
            first = data.draw(st.integers(0, len(self.way[end]) - 1))
            number = data.draw(st.integers(1, 20))
            del self.way[end][first : first + number]

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.05, 0.3, 2.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for mux in self.ends:
            mux.handle_timer(self.now)
        self.pump()

    # --- what holds ----------------------------------------------------------------------------

    def pump(self) -> None:
        for end, mux in enumerate(self.ends):
            self.way[1 - end].extend(mux.payloads_to_send(self.now, ROOM))

    def hear(self, end: int) -> None:
        mux: Mux = self.ends[end]
        for event in mux.events():
            match event:
                case StreamOpened(stream_id):
                    assert stream_id not in self.known[end], "opened once"
                    assert stream_id & 1 != end
                    self.known[end].add(stream_id)
                    mux.accept(stream_id)
                case DataReadable(stream_id):
                    self.readable[end].add(stream_id)
                case StreamReset(stream_id):
                    assert self.pipes[1 - end, stream_id].given_up, "nobody gave it up"
                case StreamStopped(stream_id):
                    assert self.pipes[end, stream_id].given_up, "nobody stopped reading"
                case StreamAnswered(_, status):
                    assert status is Status.OK
                case _:
                    pass

    def take(self, end: int, stream_id: int, size: int) -> bool:
        pipe = self.pipes[1 - end, stream_id]
        data = self.ends[end].read(stream_id, size)
        assert data == SENDS[pipe.read : pipe.read + len(data)]
        pipe.read += len(data)
        assert pipe.read <= pipe.written
        if not pipe.given_up and self.ends[end].ended(stream_id):
            assert pipe.finished
            assert pipe.read == pipe.written
            pipe.ended = True
        return bool(data)

    @invariant()
    def memory_is_bounded(self) -> None:
        for mux in self.ends:
            assert mux.held <= HELD

    def teardown(self) -> None:
        """From here on nothing is lost: everything that was not given up arrives, and everything ends."""
        for end, stream_id in [*self.pipes]:
            pipe = self.pipes[end, stream_id]
            if stream_id in self.known[end] and not pipe.finished and not pipe.given_up:
                self.ends[end].finish(stream_id)
                pipe.finished = True
        for _ in range(2000):
            self.pump()
            for end in (0, 1):
                for content in self.way[end]:
                    self.ends[end].receive(content, self.now + 0.01)
                self.way[end].clear()
                self.hear(end)
            for end, stream_id in [*self.pipes]:
                pipe = self.pipes[end, stream_id]
                if stream_id in self.known[end] and not pipe.finished and not pipe.given_up:
                    self.ends[end].finish(stream_id)
                    pipe.finished = True
                while stream_id in self.known[1 - end] and self.take(1 - end, stream_id, 1 << 20):
                    pass
            if not any(mux.streams for mux in self.ends):
                break
            self.now += 0.05
            for mux in self.ends:
                mux.handle_timer(self.now)
        for pipe in self.pipes.values():
            assert pipe.given_up or pipe.read == pipe.written
        assert [mux.streams for mux in self.ends] == [0, 0]
        assert [mux.held for mux in self.ends] == [0, 0]


TestStreams = StreamMachine.TestCase
TestStreams.settings = settings(stateful_step_count=60)
