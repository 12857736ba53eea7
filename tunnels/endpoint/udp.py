"""One UDP socket, read and written in trains of cells (SPEC 1).  Floor 5.  Knows no IPv8: it hands out ranges of bytes.

HOT PATH.  Everything a node sends or receives goes through here.

  cost    0.6 us of CPU for a cell in and out, in trains of 48; 6.5 us in single datagrams; 12.4 us through py-ipv8's
          UDPEndpoint (python -m bench endpoint: 1.1 million cells/s back and forth, 17 to 25 times theirs).  A lone
          cell: 5 us to send, 2.3 us to receive
  copies  none while the kernel takes what is sent; cells are read into one buffer and handed out as a view of it, but
          for cells of one sender that came between those of others (0.2 us; a run of its own would cost 2 us more)
  batch   one read is up to 48 cells (UDP_GRO), one send too (UDP_SEGMENT).  Cells of one sender that one wake-up
          brings are put together to one run, in their order, so that whoever handles them still handles many
  bounds  WAKE_DATAGRAMS a wake-up, SEND_QUEUE_SIZE and SEND_QUEUE_AGE while the kernel takes nothing

Where the two options do not exist (they are Linux's) the same code makes one call for each datagram.
"""

import asyncio
import errno
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from tunnels.endpoint.face import Counters
from tunnels.endpoint.split import Kind, all_cells, split
from tunnels.ids import Address, Drop
from tunnels.params import (
    BATCH_CELLS,
    CELL_SIZE,
    IPV8_WEIGHT,
    NO_BUFFERS_PAUSE,
    SEND_QUEUE_AGE,
    SEND_QUEUE_SIZE,
    SINGLE_SEND_TIME,
    SINGLE_SENDERS,
    SOCKET_RECEIVE_BUFFER,
    SOCKET_SEND_BUFFER,
    WAKE_DATAGRAMS,
)

OpenSocket = Callable[[socket.AddressFamily], socket.socket]
"""Makes an unbound UDP socket."""

_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
# linux/udp.h; the socket module does not name them.

_TRAIN_SIZE: Final = BATCH_CELLS * CELL_SIZE
_SEGMENTS: Final = [(_SOL_UDP, _UDP_SEGMENT, CELL_SIZE.to_bytes(2, sys.byteorder))]
_NOTE_SPACE: Final = socket.CMSG_SPACE(4)

_READ_SIZE: Final = 1 << 16
"""Room for one read: no UDP datagram or train is larger."""

_BUFFER_SIZE: Final = WAKE_DATAGRAMS * CELL_SIZE + 2 * _READ_SIZE
"""All that one wake-up takes, and the read that goes beyond it."""

_LAST_READ: Final = _BUFFER_SIZE - _READ_SIZE

_LONG_RUN: Final = _TRAIN_SIZE // 2
"""Bytes of a run that is handed out at once, while it is in the processor's cache."""

_NO_TRAIN: Final = frozenset({errno.EMSGSIZE, errno.EINVAL, errno.EIO, errno.EOPNOTSUPP})
"""What Linux says when a train cannot go this way: path MTU too small (EMSGSIZE, before 6.14 EINVAL), a device that
cannot fill in checksums (EIO)."""


class _Waiting(NamedTuple):
    data: memoryview
    unit: int
    """Bytes of one datagram."""
    receiver: Address
    born: float


class BatchedSocket:
    """A bound socket on a running loop.

    Args:
        on_cells: gets this socket and what `face.Receive` describes.  Must not raise.
        on_message: gets this socket, a datagram that starts with 0x00, and its sender.  Must not raise.
        batching: False never uses the options, as on a system without them.
    """

    def __init__(
        self,
        bind: Address,
        family: socket.AddressFamily,
        *,
        on_cells: Callable[["BatchedSocket", memoryview, Address], None],
        on_message: Callable[["BatchedSocket", bytes, Address], None],
        counters: Counters,
        open_socket: OpenSocket,
        batching: bool,
    ) -> None:
        self.family: Final = family
        self._loop = asyncio.get_running_loop()
        self._on_cells, self._on_message = on_cells, on_message
        self._counters = counters
        self._buffer = bytearray(_BUFFER_SIZE)
        self._view = memoryview(self._buffer)
        self._joined = memoryview(bytearray(_BUFFER_SIZE))
        """Cells of one sender that came between those of others."""
        self._queue: deque[_Waiting] = deque()
        self._queued = 0
        self._pause: asyncio.TimerHandle | None = None
        self._singles: dict[Address, float] = {}
        self._open = True
        self._socket = open_socket(family)
        try:
            self._configure(family)
            self.gro = batching and _has(self._socket, _UDP_GRO, 1)
            self.gso = batching and _has(self._socket, _UDP_SEGMENT, 0)
            self._socket.bind(bind)
            self.address: Final[Address] = self._socket.getsockname()[:2]
            self._loop.add_reader(self._socket, self._readable)
        except BaseException:
            self._socket.close()
            raise

    def _configure(self, family: socket.AddressFamily) -> None:
        self._socket.setblocking(False)
        _ask(self._socket, socket.SO_RCVBUF, SOCKET_RECEIVE_BUFFER)
        _ask(self._socket, socket.SO_SNDBUF, SOCKET_SEND_BUFFER)
        if family == socket.AF_INET6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)

    @property
    def granted(self) -> int:
        """Bytes of SO_RCVBUF the system gave us; Linux counts headers in and stops at net.core.rmem_max."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    @property
    def queued(self) -> int:
        """Bytes that wait for the kernel, at most SEND_QUEUE_SIZE."""
        return self._queued

    def close(self) -> None:
        """Give everything back.  What waits is not sent."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        if self._pause:
            self._pause.cancel()
        self._socket.close()
        self._queue.clear()
        self._queued = 0
        self._singles.clear()

    # --- in

    def _readable(self) -> None:
        """Take what came, WAKE_DATAGRAMS at most; the loop calls again while there is more."""
        budget = WAKE_DATAGRAMS
        buffer, view, counters = self._buffer, self._view, self._counters
        waiting: dict[Address, list[int]] = {}
        """Cells not handed out, by sender: start and end of each run of them."""
        fill = 0
        while budget > 0 and self._open:
            try:
                size, segment, sender = self._read(view[fill:])
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:  # an answer to something sent earlier, such as ECONNREFUSED
                counters.errors[_name(error)] += 1
                budget -= 1
                continue
            if not all_cells(buffer, fill, size, segment):
                self._hand_out(waiting)
                budget -= self._mixed(fill, size, segment, sender)
                fill = 0
                continue
            budget -= size // CELL_SIZE
            end = fill + size
            runs = waiting.get(sender)
            if runs is None:
                if size >= _LONG_RUN:  # nothing is gained by waiting
                    self._on_cells(self, view[fill:end], sender)
                    continue
                waiting[sender] = [fill, end]
            elif runs[-1] == fill:
                runs[-1] = end
            else:
                runs += (fill, end)
            fill = end
            if fill > _LAST_READ:
                self._hand_out(waiting)
                fill = 0
        self._hand_out(waiting)

    def _hand_out(self, waiting: dict[Address, list[int]]) -> None:
        """Hand out what waits, the cells of each sender together: a run of many costs little more than a run of one."""
        for sender, runs in waiting.items():
            cells = self._view[runs[0] : runs[1]]
            if len(runs) > 2:
                joined = b"".join([self._view[at:end] for at, end in zip(runs[::2], runs[1::2], strict=True)])
                cells = self._joined[: len(joined)]
                cells[:] = joined
            for at in range(0, len(cells), _TRAIN_SIZE):
                if self._open:
                    self._on_cells(self, cells[at : at + _TRAIN_SIZE], sender)
        waiting.clear()

    def _read(self, room: memoryview) -> tuple[int, int, Address]:
        """One read: bytes, bytes of one datagram in it, sender."""
        if self.gro:
            size, notes, _, sender = self._socket.recvmsg_into((room,), _NOTE_SPACE)
            return size, int.from_bytes(notes[0][2], sys.byteorder) if notes else size, sender[:2]
        size, sender = self._socket.recvfrom_into(room)
        return size, size, sender[:2]

    def _mixed(self, start: int, size: int, segment: int, sender: Address) -> int:
        """Hand out a train that is not cells only; returns what it costs of the budget."""
        cost = 0
        for kind, at, end in split(self._buffer, start, size, segment):
            if not self._open:
                break
            if kind is Kind.CELLS:
                cost += (end - at) // CELL_SIZE
                self._on_cells(self, self._view[at:end], sender)
            elif kind is Kind.MESSAGE:
                cost += IPV8_WEIGHT
                self._on_message(self, bytes(self._view[at:end]), sender)
            else:
                cost += 1
                self._counters.drops[Drop.WRONG_SIZE] += 1
        return cost

    # --- out

    def send_cells(self, cells: memoryview, receiver: Address) -> None:
        self._send(cells, CELL_SIZE, receiver)

    def send_message(self, message: bytes, receiver: Address) -> None:
        if message:
            self._send(memoryview(message), len(message), receiver)

    def _send(self, data: memoryview, unit: int, receiver: Address) -> None:
        if not self._queue:  # else it would overtake what waits
            data = data[self._push(data, unit, receiver) :]
        if data:
            self._keep(data, unit, receiver)

    def _push(self, data: memoryview, unit: int, receiver: Address) -> int:
        """Give `data` to the kernel; returns how many bytes are done with, sent or not sendable."""
        at, size, counters = 0, len(data), self._counters
        are_cells = unit == CELL_SIZE and data[0] != 0
        train = self.gso and unit == CELL_SIZE < size and not (self._singles and self._sends_singly(receiver))
        while at < size:
            step = min(_TRAIN_SIZE, size - at) if train else unit
            part = data[at : at + step]
            try:
                if step > unit:
                    self._socket.sendmsg((part,), _SEGMENTS, 0, receiver)
                else:
                    self._socket.sendto(part, receiver)
            except BlockingIOError as error:
                self._wait(error)
                return at
            except OSError as error:
                counters.errors[_name(error)] += 1
                if error.errno == errno.ENOBUFS:
                    self._wait(error)
                    return at
                if step > unit and error.errno in _NO_TRAIN:
                    train = False
                    self._send_singly(receiver)
                    continue
                counters.drops[Drop.SEND_FAILED] += step // unit
            else:
                if are_cells:
                    counters.cells_out += step // unit
                else:
                    counters.messages_out += 1
            at += step
        return size

    def _keep(self, data: memoryview, unit: int, receiver: Address) -> None:
        """Copy whole datagrams into the queue as far as there is room."""
        room = (SEND_QUEUE_SIZE - self._queued) // unit * unit
        if len(data) > room:
            self._counters.drops[Drop.QUEUE_FULL] += (len(data) - room) // unit
            data = data[:room]
        if data:
            self._queue.append(_Waiting(memoryview(bytes(data)), unit, receiver, self._loop.time()))
            self._queued += len(data)

    def _wait(self, error: OSError) -> None:
        """Arrange for `_writable`."""
        if error.errno != errno.ENOBUFS:
            self._loop.add_writer(self._socket, self._writable)
        elif not self._pause:
            self._loop.remove_writer(self._socket)
            self._pause = self._loop.call_later(NO_BUFFERS_PAUSE, self._writable)

    def _writable(self) -> None:
        """Send what waits, WAKE_DATAGRAMS at most."""
        self._pause = None
        budget, oldest = WAKE_DATAGRAMS, self._loop.time() - SEND_QUEUE_AGE
        while self._queue:
            if budget <= 0:
                self._loop.add_writer(self._socket, self._writable)
                return
            data, unit, receiver, born = self._queue[0]
            if born < oldest:
                self._counters.drops[Drop.WAITED_TOO_LONG] += len(data) // unit
                done = len(data)
            else:
                done = self._push(data, unit, receiver)
                budget -= done // unit
            self._queued -= done
            if done < len(data):  # `_push` has arranged for the next time
                self._queue[0] = _Waiting(data[done:], unit, receiver, born)
                return
            self._queue.popleft()
        self._loop.remove_writer(self._socket)

    # --- receivers without trains

    def _sends_singly(self, receiver: Address) -> bool:
        until = self._singles.get(receiver)
        if until is None:
            return False
        if self._loop.time() < until:
            return True
        del self._singles[receiver]
        return False

    def _send_singly(self, receiver: Address) -> None:
        if len(self._singles) >= SINGLE_SENDERS:
            del self._singles[next(iter(self._singles))]
        self._singles[receiver] = self._loop.time() + SINGLE_SEND_TIME


def _has(sock: socket.socket, option: int, value: int) -> bool:
    try:
        sock.setsockopt(_SOL_UDP, option, value)
    except OSError:
        return False
    return hasattr(sock, "recvmsg_into")


def _ask(sock: socket.socket, option: int, size: int) -> None:
    """Ask for a buffer of `size` bytes.  Linux grants what it can; BSD refuses what is too much: ask for half."""
    while size:
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
        except OSError:
            size //= 2
        else:
            return


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "unknown")
