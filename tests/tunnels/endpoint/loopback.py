"""What the tests of the endpoints share: cells to send, ears to hear them with, sockets that misbehave on demand."""

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from ipv8.messaging.interfaces.endpoint import Endpoint, EndpointListener
from ipv8.messaging.interfaces.udp.endpoint import Address as IPv8Address

from tunnels.endpoint.face import CellPort
from tunnels.ids import Address
from tunnels.params import CELL_SIZE

PATIENCE: Final = 20.0
"""Seconds after which a test that waits has failed; nothing waits that long otherwise."""


def cell(number: int) -> bytes:
    """A cell that tells its number."""
    return (number % 255 + 1).to_bytes(1, "big") + number.to_bytes(CELL_SIZE - 1, "big")


def cells(first: int, number: int) -> bytes:
    return b"".join(cell(first + i) for i in range(number))


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 (any condition, most of them about what no event tells)
            await asyncio.sleep(0)


async def settled(receive: "Ear") -> None:
    """Let the loop turn until everything that is in the sockets must have been read: 50 turns without news."""
    turns, known = 0, -1
    while turns < 50:
        turns, known = (turns + 1, known) if known == len(receive.log) else (0, len(receive.log))
        await asyncio.sleep(0)


class Ear:
    """Remembers what it is given: runs of cells as a port hands them out, messages as IPv8 does, in one order."""

    def __init__(self) -> None:
        self.log: list[tuple[str, bytes, Any]] = []

    def hear_cells(self, run: bytearray | memoryview, sender: Address) -> None:
        self.log.append(("cells", bytes(run), sender))

    @property
    def runs(self) -> list[tuple[bytes, Address]]:
        return [(data, sender) for kind, data, sender in self.log if kind == "cells"]

    @property
    def messages(self) -> list[tuple[bytes, Any]]:
        return [(data, sender) for kind, data, sender in self.log if kind == "message"]

    @property
    def heard(self) -> bytes:
        """All cells, in order."""
        return b"".join(data for data, _ in self.runs)

    async def hears(self, number: int) -> None:
        await until(lambda: len(self.heard) >= number * CELL_SIZE)

    def on(self, port: CellPort) -> "Ear":
        port.attach(self.hear_cells)
        return self


class MessageEar(EndpointListener):
    """Writes what IPv8 hands out into the log of an Ear."""

    def __init__(self, endpoint: Endpoint, ear: Ear) -> None:
        super().__init__(endpoint)
        self._ear = ear
        endpoint.add_listener(self)

    def on_packet(self, packet: tuple[IPv8Address, bytes]) -> None:
        self._ear.log.append(("message", packet[1], packet[0]))


class Rascal(socket.socket):
    """A real socket that fails with `failures[call]`, for as long as that is there.

    `calls` lists what was tried: (call, bytes, receiver).
    """

    def __init__(self, family: socket.AddressFamily) -> None:
        super().__init__(family, socket.SOCK_DGRAM)
        self.failures: dict[str, int] = {}
        self.calls: list[tuple[str, int, Address]] = []
        self.options: Callable[[int, int, Any], None] = lambda level, option, value: None

    def _may_fail(self, call: str) -> None:
        if code := self.failures.get(call):
            raise OSError(code, os.strerror(code))

    def sendto(self, data: Any, *args: Any) -> int:
        self.calls.append(("sendto", len(data), args[-1]))
        self._may_fail("sendto")
        return super().sendto(data, *args)

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
        self.calls.append(("sendmsg", sum(map(len, buffers)), address))
        self._may_fail("sendmsg")
        return super().sendmsg(buffers, ancdata, flags, address)

    def recvmsg_into(self, *args: Any) -> Any:
        if code := self.failures.pop("recvmsg_into", 0):
            raise OSError(code, os.strerror(code))
        return super().recvmsg_into(*args)

    def setsockopt(self, level: int, option: int, value: Any, *_: Any) -> None:
        self.options(level, option, value)
        super().setsockopt(level, option, value)

    def tried(self, call: str) -> list[int]:
        return [size for name, size, _ in self.calls if name == call]


class Rascals:
    """Opens sockets that misbehave, and remembers them."""

    def __init__(self, options: Callable[[int, int, Any], None] = lambda level, option, value: None) -> None:
        self.made: list[Rascal] = []
        self._options = options

    def __call__(self, family: socket.AddressFamily) -> Rascal:
        rascal = Rascal(family)
        rascal.options = self._options
        self.made.append(rascal)
        return rascal


def without_trains(level: int, option: int, value: Any) -> None:
    """The answer of a system that knows neither UDP_SEGMENT nor UDP_GRO."""
    if level == 17:
        raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))


def train(sock: socket.socket, data: bytes, segment: int, receiver: Address) -> None:
    """Send what Linux sends as one datagram for each `segment` bytes and joins again at the receiver."""
    sock.sendmsg([data], [(17, 103, segment.to_bytes(2, sys.byteorder))], 0, receiver)


def udp(ip: str = "127.7.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((ip, 0))
    return sock


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """On a loop of its own.  An exception that only the loop would have logged fails the test."""

    async def main() -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await scenario()
        assert not complaints

    asyncio.run(main())
