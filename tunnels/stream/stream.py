"""The two halves of a stream: bytes to send and bytes that came (SPEC 13.2 to 13.4).  Floor 3: sans-IO.

Neither half knows packets, other streams or the circuit's credit: the mux asks the sender for the next piece, the
sender is told what became of each, and the receiver is given pieces in whatever order they come.

HOT PATH.  Bulk data touches one piece at a time: a slice of a bytearray out, an append in.  What is done with stays in
front until it is as much as what is not: appending to a bytearray whose front was cut off copies all of it (CPython),
and so each byte is copied once and not for every write.  Whatever is out of order costs more, and is bounded by
MAX_GAPS.
"""

from enum import Enum, auto
from typing import Final, NamedTuple

from tunnels.errors import LocalError, RemoteError
from tunnels.params import INITIAL_STREAM_CREDIT, MAX_STREAM_SIZE
from tunnels.stream.rangeset import RangeSet
from tunnels.wire.stream_frames import Status

_SLACK: Final = 1 << 16
"""Bytes in front of a buffer that are not worth a copy."""


class Piece(NamedTuple):
    """What goes into one STREAM frame."""

    start: int
    data: bytes | bytearray
    fin: bool


class SendState(Enum):
    """RFC 9000 3.1, without the states that only differ in what was sent."""

    OPEN = auto()
    FINISHING = auto()
    """Everything is written; not everything has arrived."""
    RESET = auto()
    DONE = auto()
    """All of it, or the RESET, was acknowledged."""


class SendHalf:
    """Bytes from the application to the far end.

    INVARIANT: `_buffer` holds offsets `_start` to `_end`; what lies below `_base` was acknowledged, in one piece from
    the beginning, and is no more than _SLACK or than what lies above. `_again` (lost, to be sent once more) and
    `_arrived` lie between `_base` and `_next` and never overlap.
    """

    __slots__ = (
        "_again",
        "_arrived",
        "_base",
        "_buffer",
        "_end",
        "_fin_again",
        "_fin_arrived",
        "_fin_sent",
        "_next",
        "_start",
        "limit",
        "state",
    )

    def __init__(self) -> None:
        self.state = SendState.OPEN
        self.limit = INITIAL_STREAM_CREDIT
        """The offset the far end lets us send up to."""
        self._buffer = bytearray()
        self._start = self._base = self._next = self._end = 0
        self._arrived = RangeSet()
        self._again = RangeSet()
        self._fin_sent = self._fin_again = self._fin_arrived = False

    @property
    def held(self) -> int:
        """Bytes that wait to be sent or acknowledged."""
        return self._end - self._base

    @property
    def sent(self) -> int:
        """The offset behind the highest byte that was sent: the final size of a reset."""
        return self._next

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take all of `data`: the mux has seen to it that there is room.

        Raises:
            LocalError: this half is finished or reset, or ends beyond what a stream can hold.
        """
        if self.state is not SendState.OPEN:
            raise LocalError("nothing can be written to a stream that is finished")
        if self._end + len(data) > MAX_STREAM_SIZE:
            raise LocalError("a stream cannot be longer")
        self._buffer += data
        self._end += len(data)

    def finish(self) -> None:
        if self.state is SendState.OPEN:
            self.state = SendState.FINISHING

    def reset(self) -> int:
        """Forget what is not sent, and say no more.

        Returns:
            The final size, for the RESET.
        """
        self.state = SendState.RESET
        self._buffer = bytearray()
        self._start = self._base = self._end = self._next
        self._arrived, self._again = RangeSet(), RangeSet()
        return self._next

    def reset_arrived(self) -> None:
        self.state = SendState.DONE

    def ready(self) -> bool:
        """Whether `piece` has something that the stream's own credit allows."""
        if self._again or self._fin_again or self._next < min(self._end, self.limit):
            return True
        return self.state is SendState.FINISHING and not self._fin_sent and self._next == self._end

    def resends(self) -> bool:
        """Whether the next piece was sent before, and so costs the circuit no credit."""
        return bool(self._again) or self._fin_again

    def piece(self, room: int, credit: int) -> Piece | None:
        """The next at most `room` bytes, lost ones first; at most `credit` of them new."""
        if self._again:
            start, end = self._again.first
            if end - start > room:
                end = start + room
            self._again.remove(start, end)
        else:
            start = self._next
            end = min(start + min(room, credit), self._end, self.limit)
            end = max(end, start)
            self._next = end
        fin = self.state is SendState.FINISHING and end == self._end and (not self._fin_sent or self._fin_again)
        if start == end and not fin:
            return None
        if fin:
            self._fin_sent, self._fin_again = True, False
        base = self._start
        return Piece(start, self._buffer[start - base : end - base], fin)

    def acked(self, start: int, end: int, fin: bool, /) -> None:  # noqa: FBT001 (as in Carried)
        if self.state is SendState.RESET or self.state is SendState.DONE:
            return
        if start <= self._base and not self._arrived and not self._again:  # almost always: in order, nothing lost
            if end > self._base:
                self._base = end
                if (done := end - self._start) >= _SLACK and 2 * done >= len(self._buffer):
                    del self._buffer[:done]
                    self._start = end
        elif end > max(start, self._base):  # not for a fin alone, which carries nothing
            self._again.remove(start, end)
            self._arrived.add(max(start, self._base), end)
            first, behind = self._arrived.first
            if first == self._base:
                self._arrived.remove_first()
                del self._buffer[: behind - self._start]
                self._start = self._base = behind
        if fin:
            self._fin_arrived, self._fin_again = True, False
        if self._fin_arrived and self._base == self._end:
            self.state = SendState.DONE

    def lost(self, start: int, end: int, fin: bool, /) -> None:  # noqa: FBT001
        if self.state is SendState.RESET or self.state is SendState.DONE:
            return
        if end > self._base:
            self._again.add(max(start, self._base), end)
            for first, behind in list(self._arrived.within(start, end)):
                self._again.remove(first, behind)
        if fin and not self._fin_arrived:
            self._fin_again = True


class Credit:
    """What the far end may send, in bytes: grows as the application reads (RFC 9000 4.1).

    INVARIANT: at most `_window` bytes lie between what was read and `limit`, and `_window` is at most its maximum.
    """

    __slots__ = ("_consumed", "_maximum", "_renewed", "_window", "limit")

    def __init__(self, initial: int, maximum: int, now: float) -> None:
        self.limit = initial
        self._window = initial
        self._maximum = max(initial, maximum)
        self._consumed = 0
        self._renewed = now

    def consume(self, size: int, now: float, rtt: float) -> bool:
        """`size` bytes were read, or thrown away.

        Args:
            rtt: seconds: who reads half a window within two round trips held the sender up.

        Returns:
            Whether there is a new limit to tell.
        """
        self._consumed += size
        if 2 * (self.limit - self._consumed) > self._window:
            return False
        if now - self._renewed < 2 * rtt:
            self._window = min(2 * self._window, self._maximum)
        self._renewed = now
        if self._consumed + self._window <= self.limit:
            return False
        self.limit = min(self._consumed + self._window, MAX_STREAM_SIZE)
        return True


class ReceiveHalf:
    """Bytes from the far end to the application.

    INVARIANT: `_buffer` holds offsets from `_start` on, those below `_read` were read; all up to `end` have arrived,
    behind it those in `_later`, and what lies between is zeros.  Nothing lies at or behind the limit of `credit`, nor
    at or behind `final_size`.
    """

    __slots__ = (
        "_buffer",
        "_end_read",
        "_later",
        "_read",
        "_start",
        "credit",
        "end",
        "final_size",
        "highest",
        "reset_status",
        "stopped",
    )

    def __init__(self, maximum: int, now: float) -> None:
        self.credit = Credit(INITIAL_STREAM_CREDIT, maximum, now)
        self.end = 0
        self.highest = 0
        """Behind the highest byte that was sent to us: what the circuit's credit is charged for."""
        self.final_size: int | None = None
        self.reset_status: Status | None = None
        self.stopped = False
        self._end_read = False
        self._buffer = bytearray()
        self._start = self._read = 0
        self._later = RangeSet()

    @property
    def gaps(self) -> int:
        return len(self._later)

    @property
    def held(self) -> int:
        """Bytes of memory."""
        return len(self._buffer)

    @property
    def readable(self) -> int:
        return self.end - self._read

    @property
    def ended(self) -> bool:
        """Everything up to the fin was read."""
        return self._read == self.final_size

    @property
    def done(self) -> bool:
        """Nothing more can come, and the end, or the reset, is known to the application."""
        if self.stopped:
            return self.final_size is not None
        return self._end_read or self.reset_status is not None

    def receive(self, start: int, data: bytes, fin: bool) -> int:  # noqa: FBT001 (it is a field of the frame)
        """Take the data of a STREAM frame.

        Returns:
            Bytes by which `highest` grew.

        Raises:
            RemoteError: no credit for it, it contradicts the final size, or it differs from what came before.
        """
        behind = start + len(data)
        if behind > self.credit.limit:
            raise RemoteError("data beyond the credit of its stream")
        if fin:
            self._set_final_size(behind)
        if self.final_size is not None and behind > self.final_size:
            raise RemoteError("data beyond the end of its stream")
        new = behind - self.highest
        if new > 0:
            self.highest = behind
        else:
            new = 0
        if self.stopped or self.reset_status is not None:
            self._start = self._read = self.end = self.highest
            return new
        if start == self.end and not self._later:  # almost always
            self._buffer += data
            self.end = behind
        elif data:
            self._place(start, behind, data)
        return new

    def _place(self, start: int, behind: int, data: bytes) -> None:
        if start < self._read:  # read and gone: what is left of it cannot be compared
            if behind <= self._read:
                return
            data = data[self._read - start :]
            start = self._read
        at = start - self._start
        for first, last in self._arrived_within(start, behind):
            if self._buffer[first - self._start : last - self._start] != data[first - start : last - start]:
                raise RemoteError("data that differs from what came before")
        missing = at - len(self._buffer)
        if missing > 0:
            self._buffer += bytes(missing)
        self._buffer[at : at + len(data)] = data
        if start <= self.end:
            self.end = max(self.end, behind)
            while self._later and self._later.first[0] <= self.end:
                self.end = max(self.end, self._later.remove_first()[1])
        else:
            self._later.add(start, behind)

    def _arrived_within(self, start: int, behind: int) -> list[tuple[int, int]]:
        found = list(self._later.within(start, behind))
        if start < self.end:
            found.append((start, min(self.end, behind)))
        return found

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none when there are none."""
        size = min(size, self.end - self._read)
        done = self._read - self._start
        data = bytes(memoryview(self._buffer)[done : done + size])
        self._read += size
        done += size
        if done == len(self._buffer):
            self._buffer, self._start = bytearray(), self._read
        elif done >= _SLACK and 2 * done >= len(self._buffer):
            del self._buffer[:done]
            self._start = self._read
        self._end_read = self._read == self.final_size
        return data

    def stop(self) -> int:
        """Read no more: what is here is thrown away, and what comes is counted only.

        Returns:
            Bytes that were here.
        """
        waiting = self.highest - self._read
        self.stopped = True
        self._forget()
        return waiting

    def reset(self, status: Status, final_size: int) -> tuple[int, int]:
        """The far end gave its half up.

        Returns:
            Bytes by which `highest` grew, and bytes that nobody will read any more.

        Raises:
            RemoteError: it contradicts what came before.
        """
        self._set_final_size(final_size)
        if final_size > self.credit.limit:
            raise RemoteError("a final size beyond the credit of its stream")
        if self.reset_status is not None or self._end_read:
            return 0, 0
        new = final_size - self.highest
        unread = final_size - self._read
        self.highest = final_size
        self.reset_status = status
        self._forget()
        return new, unread

    def _forget(self) -> None:
        self._buffer = bytearray()
        self._later = RangeSet()
        self._start = self._read = self.end = self.highest

    def _set_final_size(self, size: int) -> None:
        if self.final_size is not None and self.final_size != size:
            raise RemoteError("two final sizes of one stream")
        if size < self.highest:
            raise RemoteError("a final size below what was sent")
        self.final_size = size
