"""Cells in bulk over loopback: sockets that send them at a rate and sockets that count them.

Both ends cost little, so that what is between them is what is measured: trains are sent with UDP_SEGMENT and received
with UDP_GRO, and who counts reads one byte of what came and the size of the rest.  All of that is Linux's.
"""

import asyncio
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tunnels.endpoint.face import Receive
from tunnels.ids import Address
from tunnels.params import BATCH_CELLS, CELL_SIZE

_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_BUFFER: Final = 4 << 20
_READS: Final = 64
_NAP: Final = 0.0002
"""Seconds to sleep when ahead of the rate: 64 cells at the highest rate."""

LATE: Final = 1.5
"""Times its length that a blast may take on a busy machine: links whose other end counts do not live for ever."""

QUIET: Final = 0.25
"""Seconds without a cell after which counting ends."""

PATIENCE: Final = 5.0
"""Seconds to wait for the first cell."""


def udp(address: Address) -> socket.socket:
    """A bound socket that takes trains."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
    sock.bind(address)
    return sock


class Port:  # a tunnels.endpoint.face.CellPort
    """The smallest port for cells: what a node needs to shake hands, on a socket that can be counted at."""

    def __init__(self, address: Address) -> None:
        self.socket = udp(address)
        self._receive: Receive | None = None
        self._view = memoryview(bytearray(1 << 16))
        asyncio.get_running_loop().add_reader(self.socket, self._readable)

    def attach(self, receive: Receive) -> None:
        self._receive = receive

    def detach(self) -> None:
        self._receive = None

    def send_cells(self, cells: bytearray | memoryview | bytes, receiver: Address) -> None:
        view = memoryview(cells)
        for at in range(0, len(view), BATCH_CELLS * CELL_SIZE):
            send_train(self.socket, view[at : at + BATCH_CELLS * CELL_SIZE], CELL_SIZE, receiver)

    def _readable(self) -> None:
        try:
            size, sender = self.socket.recvfrom_into(self._view)
        except BlockingIOError:  # counted or drained meanwhile
            return
        if self._receive is not None and size % CELL_SIZE == 0:
            self._receive(self._view[:size], sender)


def send_train(sock: socket.socket, train: bytes | memoryview, unit: int, receiver: Address) -> bool:
    """Whether the kernel took `train`, datagrams of `unit` bytes."""
    try:
        sock.sendmsg((train,), [(_SOL_UDP, _UDP_SEGMENT, struct.pack("@H", unit))], 0, receiver)
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Load:
    """Datagrams of `unit` bytes, several in one train or each alone: (socket, bytes) in the order they are sent."""

    unit: int
    receiver: Address
    parts: Sequence[tuple[socket.socket, bytes]]


def blast(load: Load, rate: float, seconds: float) -> float:
    """Send the parts of `load`, over and over when they are too few for `seconds`, at `rate` datagrams a second.

    Returns:
        Datagrams a second that were offered.
    """
    clock, receiver, unit = time.perf_counter, load.receiver, load.unit
    total, sent = int(rate * seconds), 0
    start = clock()
    end = start + LATE * seconds
    while sent < total and clock() < end:
        for sock, part in load.parts:
            if sent >= total or clock() > end:
                break
            while sent > (clock() - start) * rate:
                time.sleep(_NAP)
            if len(part) > unit:
                send_train(sock, part, unit, receiver)
                sent += len(part) // unit
            else:
                with suppress(BlockingIOError):
                    sock.sendto(part, receiver)
                sent += 1
    return sent / (clock() - start)


@dataclass(frozen=True, slots=True)
class Counted:
    bytes: int
    seconds: float
    """From the first to the last."""


def drain(sockets: Sequence[socket.socket]) -> None:
    """Throw away what waits."""
    scrap = bytearray(1)
    for sock in sockets:
        try:
            while True:
                sock.recv_into(scrap)
        except BlockingIOError:
            pass


def count(sockets: Sequence[socket.socket]) -> Counted:
    """What arrives, until nothing does."""
    clock, scrap, flag = time.perf_counter, bytearray(1), socket.MSG_TRUNC
    receive = {sock.fileno(): sock.recv_into for sock in sockets}
    total, first, last = 0, 0.0, 0.0
    with select.epoll() as poll:
        for number in receive:
            poll.register(number, select.EPOLLIN)
        while ready := poll.poll(QUIET if total else PATIENCE):
            first = first or clock()
            for number, _ in ready:
                read = receive[number]
                try:
                    for _ in range(_READS):
                        total += read(scrap, 1, flag)
                except BlockingIOError:
                    pass
            last = clock()
    return Counted(total, last - first)
