"""One end of a circuit's streams: payloads in, payloads out (SPEC 13).  Floor 3: sans-IO.

Knows neither cells nor circuits nor sockets: whoever owns it puts each payload into a STREAMS message, and hands the
content of each that comes to `receive`.  After every call that may have left something to say, and the application's
are such, it asks `payloads_to_send` and `next_timer`.  A mux that raised RemoteError is of no more use: its circuit is
to be closed.

    payloads -> Received (seen before? owe an ACK) -> handlers by frame -> streams -> events
    streams, controls -> packets -> Recovery (how many, when, again?) -> payloads

What it does not decide: who may open what (`accept`, `refuse`), and how fast it goes (`Congestion`).

HOT PATH.  Bulk data is one packet, one frame, one slice at a time.

  cost    7.8 us to send a full packet and take its share of an ACK, 4.9 us to receive and read one
          (tests/tunnels/stream/test_cost.py; 8.4 and 6.3 us where 2 % are lost)
  memory  bounded by the credit given and the send buffers, whatever the far end does: see `held`
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

from tunnels.errors import LocalError, RemoteError, TransientError
from tunnels.ids import Rng
from tunnels.params import (
    INITIAL_CREDIT,
    INITIAL_STREAMS,
    MAX_GAPS,
    MAX_PACKET,
    MAX_QUERIES,
    MAX_STREAM_ID,
    MAX_WINDOW,
    SEND_BUFFER,
    STREAM_SHARE,
    TOTAL_GAPS,
    TOTAL_SEND_BUFFER,
)
from tunnels.stream.acks import Received, ack_delay
from tunnels.stream.congestion import Congestion
from tunnels.stream.events import (
    DataReadable,
    Event,
    ResolveAnswered,
    ResolveAsked,
    StreamAnswered,
    StreamFinished,
    StreamOpened,
    StreamReset,
    StreamStopped,
    WriteReady,
)
from tunnels.stream.rangeset import RangeSet
from tunnels.stream.recovery import Record, Recovery
from tunnels.stream.stream import Credit, ReceiveHalf, SendHalf, SendState
from tunnels.wire.destination import Destination
from tunnels.wire.stream_frames import (
    PACKET_HEAD_SIZE,
    STREAM_HEAD_SIZE,
    Ack,
    Answered,
    Data,
    FarEnd,
    Frame,
    MaxData,
    MaxStreamData,
    MaxStreams,
    Open,
    OpenFlags,
    Ping,
    Reset,
    Resolve,
    Resolved,
    Status,
    Stop,
    decode_packet,
    encode,
    packet_head,
    stream_head,
)

_ROOM: Final = MAX_PACKET - PACKET_HEAD_SIZE
_MIN_PIECE: Final = STREAM_HEAD_SIZE + 64
"""Room below which a packet is not filled up with the beginning of a piece."""

_MAX_STREAMS: Final = (MAX_STREAM_ID + 1) // 2
"""Of one end."""

_PING: Final = encode(Ping())


@dataclass(frozen=True, slots=True)
class Limits:
    """What an end of a circuit allows, in bytes.

    Attributes:
        window: receive credit, of a stream and of all, where the reader keeps up.
        send_buffer: what all streams may hold for sending, where the path is fast.
    """

    window: int = MAX_WINDOW
    send_buffer: int = 2 * MAX_WINDOW


class _Control:
    """A frame that is sent until it arrives; a newer one replaces it."""

    __slots__ = ("_arrived", "_frame", "_mux", "_on_arrival", "_queued", "_version", "stream")

    def __init__(
        self, mux: "Mux", stream: "_Stream | None" = None, on_arrival: Callable[[], None] | None = None
    ) -> None:
        self._mux = mux
        self._on_arrival = on_arrival
        self._frame = b""
        self._version = 0
        self._queued = False
        self._arrived = True
        self.stream = stream
        """Whose data is to share the packet."""

    def say(self, frame: Frame) -> None:
        self._frame = encode(frame)
        self._version += 1
        self._arrived = False
        self._queue()

    def withdraw(self) -> None:
        """It does not matter any more."""
        self._arrived = True

    def size(self) -> int:
        return 0 if self._arrived else len(self._frame)

    def take(self) -> tuple[bytes, Record]:
        self._queued = False
        return self._frame, (self, self._version, 0, False)

    def skip(self) -> None:
        self._queued = False

    def _queue(self) -> None:
        if not self._queued:
            self._queued = True
            self._mux.controls.append(self)

    def acked(self, start: int, end: int, fin: bool, /) -> None:  # noqa: FBT001 (as in Carried)
        if start == self._version and not self._arrived:
            self._arrived = True
            if self._on_arrival is not None:
                self._on_arrival()

    def lost(self, start: int, end: int, fin: bool, /) -> None:  # noqa: FBT001
        if start == self._version and not self._arrived:
            self._queue()


class _Stream:
    """What the mux keeps of a stream besides its halves."""

    __slots__ = (
        "answer",
        "blocked",
        "credit",
        "known",
        "mux",
        "opening",
        "queued",
        "receive",
        "refused",
        "reset",
        "reset_told",
        "send",
        "stop",
        "stop_told",
        "stream_id",
        "told",
        "wants_room",
    )

    def __init__(self, mux: "Mux", stream_id: int, window: int, now: float) -> None:
        self.mux = mux
        self.stream_id = stream_id
        self.send = SendHalf()
        self.receive = ReceiveHalf(window, now)
        self.opening: Open | None = None
        self.answer: Answered | None = None
        self.known = False
        """Its OPEN, or the answer to it, is here: the application may hear of what happens to it."""
        self.queued = False
        self.blocked = False
        self.told = False
        self.reset_told = False
        self.stop_told: Status | None = None
        self.refused = False
        self.wants_room = False
        self.credit: _Control | None = None
        self.reset: _Control | None = None
        self.stop: _Control | None = None

    def acked(self, start: int, end: int, fin: bool, /) -> None:  # noqa: FBT001 (as in Carried)
        send = self.send
        before = send.held
        send.acked(start, end, fin)
        self.mux.released(self, before - send.held)

    def lost(self, start: int, end: int, fin: bool, /) -> None:  # noqa: FBT001
        self.send.lost(start, end, fin)
        self.mux.activate(self)

    def reset_arrived(self) -> None:
        self.send.reset_arrived()
        self.mux.finish_if_done(self)


class Mux:
    """The streams of one circuit, seen from one end.

    Args:
        originator: whether this end made the circuit (or, of a joined one, is the client): its stream ids are even.
        congestion: how fast; one for each mux.
        culprit: index of the hop at the far end, for RemoteError; None when it is no hop of ours.

    INVARIANT: a stream stands in `_active` exactly once while it is `queued`, and in `_blocked` while only the
    circuit's credit holds it up.
    """

    def __init__(
        self,
        *,
        originator: bool,
        congestion: Congestion,
        rng: Rng,
        now: float,
        culprit: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.recovery = Recovery(congestion, rng)
        self.controls: deque[_Control] = deque()
        self.repeated_packets = 0
        self.refused_packets = 0
        self._parity = 0 if originator else 1
        self._culprit = culprit
        self._limits = limits or Limits()
        self._received = Received()
        self._ack_delay = ack_delay(self.recovery.rtt.smoothed_rtt)
        self._events: list[Event] = []
        self._now = now

        self._streams: dict[int, _Stream] = {}
        self._next_own = 0
        self._own_allowed = INITIAL_STREAMS
        self._far_allowed = INITIAL_STREAMS
        self._far_finished = RangeSet()
        self._far_finished_count = 0
        self._streams_control = _Control(self)

        self._active: deque[_Stream] = deque()
        self._blocked: dict[_Stream, None] = {}
        self._credit_left = INITIAL_CREDIT
        self._credit_limit = INITIAL_CREDIT
        self._send_held = 0
        self._credit = Credit(INITIAL_CREDIT, self._limits.window, now)
        self._credit_control = _Control(self)
        self._charged = 0
        self._gaps = 0

        self._queries: dict[int, _Control] = {}
        self._next_query = 0
        self._asked: dict[int, None] = {}
        self._answered = RangeSet()
        self._answered_count = 0

        self._handlers: dict[type, Callable[..., None]] = {
            Ack: self._on_ack,
            Ping: self._on_ping,
            Open: self._on_open,
            Answered: self._on_answered,
            Data: self._on_data,
            Reset: self._on_reset,
            Stop: self._on_stop,
            MaxData: self._on_max_data,
            MaxStreamData: self._on_max_stream_data,
            MaxStreams: self._on_max_streams,
            Resolve: self._on_resolve,
            Resolved: self._on_resolved,
        }

    # --- the face ----------------------------------------------------------------------------

    def receive(self, content: bytes, now: float) -> None:
        """Take the content of a STREAMS message.

        Raises:
            RemoteError: the far end broke a rule (SPEC 13.8).
        """
        try:
            self._receive(content, now)
        except RemoteError as broken:
            raise RemoteError(str(broken), culprit=self._culprit) from None

    def payloads_to_send(self, now: float, room: int) -> list[bytes]:
        """Contents of STREAMS messages that may go now, at most `room` of them."""
        self._now = now
        out: list[bytes] = []
        recovery = self.recovery
        waits = self._received.waiting
        allowed = min(room, recovery.allowance(now)) if self._has_something() else 0
        while allowed > 0 and (packet := self._packet(now, acks=waits and not out)) is not None:
            out.append(packet)
            allowed -= 1
            if not allowed:
                allowed = min(room - len(out), recovery.allowance(now)) if self._has_something() else 0
        if not self._has_something():
            recovery.app_limited()
        if len(out) < room and self._received.due <= now:
            out.append(self._ack_only(now))
        return out

    def next_timer(self) -> float | None:
        """When to call `handle_timer` and `payloads_to_send`; None when it is for others to act."""
        when = self._received.due
        recovery = self.recovery
        if (timer := recovery.next_timer()) is not None and timer < when:
            when = timer
        if (self.controls or self._active) and not recovery.window_full:
            when = min(when, recovery.pacing_time())
        return None if when == inf else when

    def handle_timer(self, now: float) -> None:
        self._now = now
        self.recovery.handle_timer(now)

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        happened, self._events = self._events, []
        return happened

    @property
    def held(self) -> int:
        """Bytes of data in memory, both directions; at most the window and the send buffers of `Limits`."""
        return self._send_held + sum(stream.receive.held for stream in self._streams.values())

    @property
    def streams(self) -> int:
        """Streams that are not finished."""
        return len(self._streams)

    # --- streams, for the application ----------------------------------------------------------

    def open(
        self,
        destination: Destination | FarEnd,
        data: bytes = b"",
        flags: OpenFlags = OpenFlags(0),  # noqa: B008
    ) -> int:
        """Begin a stream.

        Args:
            data: what to send at once: as much as fits goes in the cell of the OPEN.  At most STREAM_SHARE bytes.

        Returns:
            Its id.

        Raises:
            LocalError: too much data.
            TransientError: the far end has granted no more streams yet.
        """
        if len(data) > STREAM_SHARE:
            raise LocalError(f"at most {STREAM_SHARE} bytes go with an open, not {len(data)}")
        if self._next_own >= self._own_allowed:
            raise TransientError("the far end takes no more streams now", retry_after=1.0)
        stream_id = 2 * self._next_own + self._parity
        self._next_own += 1
        stream = self._streams[stream_id] = self._new_stream(stream_id)
        opening = _Control(self, stream)
        opening.say(Open(stream_id, flags, destination))
        if data:
            self._write(stream, data)
        return stream_id

    def accept(self, stream_id: int, address: Destination | None = None) -> None:
        """Say that a stream of the far end is connected, to `address` if it may know."""
        stream = self._of_far(stream_id)
        stream.answer = Answered(stream_id, Status.OK, address)
        _Control(self, stream).say(stream.answer)
        self.finish_if_done(stream)

    def refuse(self, stream_id: int, status: Status) -> None:
        """Say that a stream of the far end will not be; it is over at both ends.

        Raises:
            LocalError: it is not a stream of the far end that waits for an answer, or `status` is OK.
        """
        stream = self._of_far(stream_id)
        if status is Status.OK or stream.send.sent or stream.send.held:
            raise LocalError("a stream that carried something is reset, not refused")
        stream.answer = Answered(stream_id, status, None)
        stream.refused = True
        stream.send.reset()
        _Control(self, None, stream.reset_arrived).say(stream.answer)
        self._stop_reading(stream)
        self.finish_if_done(stream)

    def write(self, stream_id: int, data: bytes | bytearray | memoryview) -> int:
        """Send what fits into the buffers.

        Returns:
            Bytes taken.  When they are fewer than `data`, WriteReady follows.

        Raises:
            LocalError: no such stream, or it was finished or reset.
        """
        stream = self._stream(stream_id)
        window = self._two_windows()
        room = min(max(SEND_BUFFER, window) - stream.send.held, max(TOTAL_SEND_BUFFER, window) - self._send_held)
        room = min(room, self._limits.send_buffer - self._send_held)
        room = max(room, STREAM_SHARE - stream.send.held, 0)
        if len(data) > room:
            stream.wants_room = True
            data = memoryview(data)[:room]
        return self._write(stream, data)

    def read(self, stream_id: int, size: int) -> bytes:
        """At most `size` bytes that came, in order; none of a finished stream.  The far end gets credit for as many."""
        if stream_id not in self._streams and self._is_over(stream_id):
            return b""
        stream = self._stream(stream_id)
        data = stream.receive.read(size)
        if not stream.receive.readable:
            stream.told = False
        if data:
            self._consumed(stream, len(data))
        self.finish_if_done(stream)
        return data

    def ended(self, stream_id: int) -> bool:
        """Whether everything up to the far end's fin was read.  A finished stream has ended."""
        stream = self._streams.get(stream_id)
        return self._is_over(stream_id) if stream is None else stream.receive.ended

    def finish(self, stream_id: int) -> None:
        """Send no more than is written: the far end reads it all, then the end (TCP's FIN)."""
        stream = self._stream(stream_id)
        stream.send.finish()
        self.activate(stream)

    def reset(self, stream_id: int, status: Status = Status.CANCELLED) -> None:
        """Send no more, and give up what was not sent (half of TCP's RST; `stop` is the other)."""
        stream = self._stream(stream_id)
        if stream.send.state is SendState.DONE or stream.send.state is SendState.RESET:
            return
        self._send_held -= stream.send.held
        final_size = stream.send.reset()
        self._blocked.pop(stream, None)
        stream.reset = _Control(self, None, stream.reset_arrived)
        stream.reset.say(Reset(stream_id, status, final_size))

    def stop(self, stream_id: int, status: Status = Status.CANCELLED) -> None:
        """Read no more: what comes is thrown away, and the far end is asked to reset."""
        stream = self._stream(stream_id)
        if stream.receive.stopped or stream.receive.done:
            return
        if stream.receive.final_size is None:
            stream.stop = _Control(self)
            stream.stop.say(Stop(stream_id, status))
        self._stop_reading(stream)
        self.finish_if_done(stream)

    def resolve(self, host: str) -> int:
        """Ask for the addresses of a name, or for the names of an address.

        Returns:
            The number its ResolveAnswered will have.

        Raises:
            LocalError: `host` is neither.
            TransientError: MAX_QUERIES wait for an answer.
        """
        if len(self._queries) >= MAX_QUERIES:
            raise TransientError("too many questions wait for an answer", retry_after=1.0)
        question, query = _Control(self), self._next_query
        question.say(Resolve(query, host))
        self._next_query += 1
        self._queries[query] = question
        return query

    def answer(self, query: int, status: Status, ttl: int = 0, hosts: tuple[str, ...] = ()) -> None:
        """Answer a ResolveAsked.

        Raises:
            LocalError: nobody asked, or the answer does not fit.
        """
        if query not in self._asked:
            raise LocalError("nobody waits for this answer")
        _Control(self).say(Resolved(query, status, ttl, hosts))
        del self._asked[query]
        self._answered.add(query, query + 1)
        self._answered_count += 1

    # --- packets out ---------------------------------------------------------------------------

    def _has_something(self) -> bool:
        return bool(self._active or self.controls or self.recovery.probes)

    def _packet(self, now: float, *, acks: bool) -> bytes | None:
        """The next packet that asks for an ACK, None when there is nothing for one."""
        parts: list[bytes | bytearray] = [b""]
        records: list[Record] = []
        room = _ROOM
        if acks:
            parts.append(encode(self._received.ack(now)))
            room -= len(parts[-1])
        while self.controls:
            control = self.controls[0]
            size = control.size()
            if size > room:
                break
            self.controls.popleft()
            if not size:
                control.skip()
                continue
            frame, record = control.take()
            parts.append(frame)
            records.append(record)
            room -= size
            if control.stream is not None and room >= _MIN_PIECE:
                room = self._take_piece(control.stream, room, parts, records)
        active = self._active
        while active and room >= _MIN_PIECE:
            stream = active[0]
            room = self._take_piece(stream, room, parts, records)
            if stream.send.ready() and (self._credit_left or stream.send.resends()):
                active.rotate(-1)
                continue
            active.popleft()
            stream.queued = False
            if stream.send.ready():
                self._blocked[stream] = None
        if not records:
            if not self.recovery.probes:
                return None
            parts.append(_PING)
        if acks:
            self._received.told()
        number = self.recovery.next_number()
        parts[0] = packet_head(number)
        self.recovery.on_sent(number, records, now)
        return b"".join(parts)

    def _take_piece(self, stream: _Stream, room: int, parts: list[bytes | bytearray], records: list[Record]) -> int:
        """Put the stream's next piece, if it has one, into the packet.

        Returns:
            The room that is left.
        """
        send = stream.send
        before = send.sent
        piece = send.piece(room - STREAM_HEAD_SIZE, self._credit_left)
        if piece is None:
            return room
        start, data, fin = piece
        self._credit_left -= send.sent - before
        size = len(data)
        parts.append(stream_head(stream.stream_id, start, size, fin=fin))
        parts.append(data)
        records.append((stream, start, start + size, fin))
        return room - STREAM_HEAD_SIZE - size

    def _ack_only(self, now: float) -> bytes:
        content = packet_head(self.recovery.next_number()) + encode(self._received.ack(now))
        self._received.told()
        return content

    def activate(self, stream: _Stream) -> None:
        """The stream may have something to send."""
        if not stream.queued and stream.send.ready():
            stream.queued = True
            self._active.append(stream)

    def released(self, stream: _Stream, size: int) -> None:
        """`size` bytes of what the stream sent have arrived in order."""
        self._send_held -= size
        if stream.wants_room and size and 2 * stream.send.held <= max(SEND_BUFFER, self._two_windows()):
            stream.wants_room = False
            self._events.append(WriteReady(stream.stream_id))
        if stream.send.state is SendState.DONE:
            self.finish_if_done(stream)

    def _two_windows(self) -> int:
        """Bytes that keep the path full while the application is asked for more."""
        return 2 * self.recovery.congestion.window * MAX_PACKET

    def _write(self, stream: _Stream, data: bytes | bytearray | memoryview) -> int:
        stream.send.write(data)
        self._send_held += len(data)
        if not stream.queued and stream not in self._blocked:
            self.activate(stream)
        return len(data)

    # --- packets in ----------------------------------------------------------------------------

    def _receive(self, content: bytes, now: float) -> None:
        self._now = now
        number, frames = decode_packet(content)
        if self._received.seen(number):
            self.repeated_packets += 1
            return
        asks = False
        try:
            for frame in frames:
                kind = type(frame)
                self._handlers[kind](frame, now)
                if kind is not Ack:
                    asks = True
        except TransientError:  # no room for it: not acknowledged, it comes again, and by then there is
            self.refused_packets += 1
            return
        self._received.received(number, now, self._ack_delay, asks=asks)

    def _on_ack(self, frame: Ack, now: float) -> None:
        self.recovery.on_ack(frame.ranges, frame.delay, now)
        self._ack_delay = ack_delay(self.recovery.rtt.smoothed_rtt)

    def _on_ping(self, frame: Ping, now: float) -> None:
        pass

    def _on_data(self, frame: Data, now: float) -> None:
        stream_id, offset, data, fin = frame
        stream = self._streams.get(stream_id) or self._incoming(stream_id)
        if stream is None:
            return
        receive = stream.receive
        gaps = receive.gaps
        if offset > receive.end and (gaps >= MAX_GAPS or self._gaps >= TOTAL_GAPS):
            raise TransientError("too many gaps", retry_after=0.0)
        new = receive.receive(offset, data, fin)
        if receive.gaps != gaps:
            self._gaps += receive.gaps - gaps
        self._charge(new)
        if receive.stopped:
            self._consumed_by_circuit(new)
            self.finish_if_done(stream)
        elif not stream.told:
            self._tell(stream)

    def _on_open(self, frame: Open, now: float) -> None:
        if frame.stream_id & 1 == self._parity:
            raise RemoteError("an OPEN with an id of ours")
        stream = self._incoming(frame.stream_id)
        if stream is None:
            return
        if stream.opening is not None:
            if stream.opening != frame:
                raise RemoteError("two OPENs of one stream")
            return
        stream.opening, stream.known = frame, True
        self._events.append(StreamOpened(frame.stream_id, frame.destination, frame.flags))
        self._tell(stream)

    def _on_answered(self, frame: Answered, now: float) -> None:
        if frame.stream_id & 1 != self._parity:
            raise RemoteError("a STATUS for a stream of its sender")
        stream = self._incoming(frame.stream_id)
        if stream is None:
            return
        if stream.answer is not None:
            if stream.answer != frame:
                raise RemoteError("two answers to one OPEN")
            return
        stream.answer, stream.known = frame, True
        if frame.status is not Status.OK:
            self._reset_by_far(stream, frame.status, 0)
            stream.reset_told = True
            self.reset(frame.stream_id, frame.status)
        self._events.append(StreamAnswered(*frame))
        self._tell(stream)

    def _on_reset(self, frame: Reset, now: float) -> None:
        stream = self._incoming(frame.stream_id)
        if stream is not None:
            self._reset_by_far(stream, frame.status, frame.final_size)
            self._tell(stream)

    def _on_stop(self, frame: Stop, now: float) -> None:
        stream = self._incoming(frame.stream_id)
        if stream is not None and stream.send.state in {SendState.OPEN, SendState.FINISHING}:
            stream.stop_told = frame.status
            self.reset(frame.stream_id, frame.status)
            self._tell(stream)

    def _on_max_data(self, frame: MaxData, now: float) -> None:
        if frame.limit > self._credit_limit:
            self._credit_left += frame.limit - self._credit_limit
            self._credit_limit = frame.limit
            blocked, self._blocked = self._blocked, {}
            for stream in blocked:
                self.activate(stream)

    def _on_max_stream_data(self, frame: MaxStreamData, now: float) -> None:
        stream = self._incoming(frame.stream_id)
        if stream is not None and frame.limit > stream.send.limit:
            stream.send.limit = frame.limit
            if stream not in self._blocked:
                self.activate(stream)

    def _on_max_streams(self, frame: MaxStreams, now: float) -> None:
        if frame.number > _MAX_STREAMS:
            raise RemoteError("more streams than there are ids")
        self._own_allowed = max(self._own_allowed, frame.number)

    def _on_resolve(self, frame: Resolve, now: float) -> None:
        query = frame.query
        if query in self._answered or query in self._asked:
            return
        if query >= self._answered_count + MAX_QUERIES:
            raise RemoteError("more questions than may wait")
        self._asked[query] = None
        self._events.append(ResolveAsked(query, frame.host))

    def _on_resolved(self, frame: Resolved, now: float) -> None:
        if frame.query >= self._next_query:
            raise RemoteError("an answer to what was never asked")
        question = self._queries.pop(frame.query, None)
        if question is not None:
            question.withdraw()
            self._events.append(ResolveAnswered(*frame))

    # --- streams, inside -----------------------------------------------------------------------

    def _new_stream(self, stream_id: int) -> _Stream:
        return _Stream(self, stream_id, self._limits.window, self._now)

    def _stream(self, stream_id: int) -> _Stream:
        try:
            return self._streams[stream_id]
        except KeyError:
            raise LocalError("no such stream, or it is finished") from None

    def _is_over(self, stream_id: int) -> bool:
        """Whether a stream that is not in the table was there once."""
        number = stream_id >> 1
        return number < self._next_own if stream_id & 1 == self._parity else number in self._far_finished

    def _of_far(self, stream_id: int) -> _Stream:
        stream = self._stream(stream_id)
        if stream_id & 1 == self._parity or stream.opening is None or stream.answer is not None:
            raise LocalError("not a stream of the far end that waits for an answer")
        return stream

    def _incoming(self, stream_id: int) -> _Stream | None:
        """The stream a frame names; None when it is over.

        Raises:
            RemoteError: it is none that we opened, nor one that the far end may open.
        """
        stream = self._streams.get(stream_id)
        if stream is not None:
            return stream
        number = stream_id >> 1
        if stream_id & 1 == self._parity:
            if number >= self._next_own:
                raise RemoteError("a frame for a stream that was never opened")
            return None
        if number >= self._far_allowed:
            raise RemoteError("more streams than were granted")
        if number in self._far_finished:
            return None
        stream = self._streams[stream_id] = self._new_stream(stream_id)
        return stream

    def _tell(self, stream: _Stream) -> None:
        """Tell the application of what it does not know yet: nothing while it has not heard of the stream."""
        if not stream.known:
            return
        receive = stream.receive
        if stream.stop_told is not None:
            self._events.append(StreamStopped(stream.stream_id, stream.stop_told))
            stream.stop_told = None
        if receive.reset_status is not None:
            if not stream.reset_told:
                stream.reset_told = True
                if not receive.stopped:
                    self._events.append(StreamReset(stream.stream_id, receive.reset_status))
            self.finish_if_done(stream)
        elif not stream.told and not receive.stopped and (receive.readable or receive.ended):
            stream.told = True
            self._events.append(DataReadable(stream.stream_id))

    def _charge(self, new: int) -> None:
        """The far end used up that much of the circuit's credit."""
        self._charged += new
        if self._charged > self._credit.limit:
            raise RemoteError("data beyond the credit of the circuit")

    def _consumed(self, stream: _Stream, size: int) -> None:
        receive = stream.receive
        if receive.credit.consume(size, self._now, self.recovery.rtt.smoothed_rtt) and receive.final_size is None:
            if stream.credit is None:
                stream.credit = _Control(self)
            stream.credit.say(MaxStreamData(stream.stream_id, receive.credit.limit))
        self._consumed_by_circuit(size)

    def _consumed_by_circuit(self, size: int) -> None:
        if size and self._credit.consume(size, self._now, self.recovery.rtt.smoothed_rtt):
            self._credit_control.say(MaxData(self._credit.limit))

    def _stop_reading(self, stream: _Stream) -> None:
        self._gaps -= stream.receive.gaps
        self._withdraw_credit(stream)
        self._consumed_by_circuit(stream.receive.stop())

    def _reset_by_far(self, stream: _Stream, status: Status, final_size: int) -> None:
        gaps = stream.receive.gaps
        new, unread = stream.receive.reset(status, final_size)
        self._gaps -= gaps - stream.receive.gaps
        self._charge(new)
        self._consumed_by_circuit(unread)
        if stream.stop is not None:
            stream.stop.withdraw()
        self._withdraw_credit(stream)

    def _withdraw_credit(self, stream: _Stream) -> None:
        if stream.credit is not None:
            stream.credit.withdraw()

    def finish_if_done(self, stream: _Stream) -> None:
        """Forget a stream of which nothing is to come, to go or to be read."""
        if stream.send.state is not SendState.DONE or not stream.receive.done:
            return
        if not stream.known or (stream.opening is not None and stream.answer is None):
            return  # somebody is still to be told, or to answer: the id must mean something until then
        if self._streams.pop(stream.stream_id, None) is None:
            return
        self._withdraw_credit(stream)
        if stream.stop is not None:
            stream.stop.withdraw()
        self._events.append(StreamFinished(stream.stream_id))
        if stream.stream_id & 1 != self._parity:
            number = stream.stream_id >> 1
            self._far_finished.add(number, number + 1)
            self._far_finished_count += 1
            allowed = min(self._far_finished_count + INITIAL_STREAMS, _MAX_STREAMS)
            if allowed - self._far_allowed >= INITIAL_STREAMS // 8:
                self._far_allowed = allowed
                self._streams_control.say(MaxStreams(allowed))
