"""What a socket does when the kernel, the path or the system does not play along (SPEC 1)."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, Self

import pytest

from tests.support.prerequisites import not_run
from tests.tunnels.endpoint.loopback import (
    Ear,
    MessageEar,
    Rascal,
    Rascals,
    cell,
    cells,
    run,
    settled,
    until,
    without_trains,
)
from tunnels.endpoint.batched import BatchedEndpoint
from tunnels.ids import Address, Drop
from tunnels.params import BATCH_CELLS, CELL_SIZE, SOCKET_RECEIVE_BUFFER

TRAIN: Final = BATCH_CELLS * CELL_SIZE


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing grows too old on a busy machine, unless a test is about that."""
    monkeypatch.setattr("tunnels.endpoint.udp.SEND_QUEUE_AGE", 1e6)


class Pair:
    """A sender on a misbehaving socket and the ear of a receiver."""

    def __init__(self) -> None:
        self._rascals = Rascals()
        self.sender = BatchedEndpoint(("127.1.0.1", 0), open_socket=self._rascals)
        self.receiver = BatchedEndpoint(("127.2.0.1", 0))
        self.ear = Ear().on(self.receiver)
        MessageEar(self.receiver, self.ear)

    async def __aenter__(self) -> Self:
        await self.sender.open()
        await self.receiver.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sender.close()
        self.receiver.close()

    @property
    def rascal(self) -> Rascal:
        return self._rascals.made[0]

    @property
    def there(self) -> Address:
        return self.receiver.addresses[0]


# --- a path on which trains do not fit


@pytest.mark.parametrize("code", [errno.EMSGSIZE, errno.EINVAL, errno.EIO, errno.EOPNOTSUPP])
def test_a_receiver_that_trains_do_not_reach_gets_single_cells_and_no_further_train(code: int) -> None:
    async def scenario() -> None:
        async with Pair() as pair:
            pair.rascal.failures["sendmsg"] = code
            pair.sender.send_cells(cells(0, 100), pair.there)
            pair.sender.send_cells(cells(100, 20), pair.there)
            await pair.ear.hears(120)
            assert pair.ear.heard == cells(0, 120)
            assert pair.rascal.tried("sendmsg") == [TRAIN]
            assert pair.rascal.tried("sendto") == [CELL_SIZE] * 120
            assert pair.sender.counters.errors == {errno.errorcode[code]: 1}
            assert not pair.sender.counters.drops

    run(scenario)


def test_other_receivers_still_get_trains() -> None:
    async def scenario() -> None:
        async with Pair() as pair, Pair() as other:
            pair.rascal.failures["sendmsg"] = errno.EMSGSIZE
            pair.sender.send_cells(cells(0, 3), pair.there)
            pair.rascal.failures.clear()
            pair.sender.send_cells(cells(0, 3), other.there)
            pair.sender.send_cells(cells(3, 3), pair.there)
            assert [(size, to) for call, size, to in pair.rascal.calls if call == "sendmsg"] == [
                (3 * CELL_SIZE, pair.there),
                (3 * CELL_SIZE, other.there),
            ]
            await pair.ear.hears(6)
            await other.ear.hears(3)

    run(scenario)


def test_a_train_is_tried_again_after_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnels.endpoint.udp.SINGLE_SEND_TIME", 0.0)

    async def scenario() -> None:
        async with Pair() as pair:
            pair.rascal.failures["sendmsg"] = errno.EMSGSIZE
            pair.sender.send_cells(cells(0, 3), pair.there)
            pair.rascal.failures.clear()
            pair.sender.send_cells(cells(3, 3), pair.there)
            pair.sender.send_cells(cells(6, 3), pair.there)
            await pair.ear.hears(9)
            assert pair.ear.heard == cells(0, 9)
            assert len(pair.rascal.tried("sendmsg")) == 3

    run(scenario)


def test_the_memory_of_such_receivers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnels.endpoint.udp.SINGLE_SENDERS", 2)

    async def scenario() -> None:
        async with Pair() as one, Pair() as two, Pair() as three:
            rascal = one.rascal
            rascal.failures["sendmsg"] = errno.EMSGSIZE
            for pair in (one, two, three):
                one.sender.send_cells(cells(0, 2), pair.there)
            rascal.calls.clear()
            for pair in (three, two, one):
                one.sender.send_cells(cells(0, 2), pair.there)
            assert [to for call, _, to in rascal.calls if call == "sendmsg"] == [one.there]

    run(scenario)


NARROW: Final = """
import asyncio, ctypes, errno, fcntl, json, os, socket, struct, sys
unshare = ctypes.CDLL(None).unshare
if unshare(0x40000000) and unshare(0x40000000 | 0x10000000):  # a network of its own, if need be with a user of its own
    print("null")
    sys.exit()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    fcntl.ioctl(sock, 0x8922, struct.pack("16si12x", b"lo", 1300))  # SIOCSIFMTU
    fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x8 | 0x40))  # SIOCSIFFLAGS: up, loopback, running
from tests.tunnels.endpoint.loopback import Ear, cells
from tunnels.endpoint.batched import BatchedEndpoint
async def main():
    said = []
    for ip in sys.argv[1:]:
        sender, receiver = BatchedEndpoint((ip, 0)), BatchedEndpoint((ip, 0))
        await sender.open()
        await receiver.open()
        ear = Ear().on(receiver)
        sender.send_cells(cells(0, 100), receiver.addresses[0])
        await ear.hears(100)
        said.append([ear.heard == cells(0, 100), list(sender.counters.errors.items())])
        sender.close()
        receiver.close()
    print(json.dumps(said))
asyncio.run(main())
"""
"""In a network namespace of its own, on a loopback whose MTU is below a cell."""


def test_cells_cross_a_real_path_that_is_narrower_than_a_cell() -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", NARROW, "127.0.0.1"],
        capture_output=True, text=True, timeout=60, cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if (said := json.loads(done.stdout)) is None:
        not_run("no network namespaces on this machine", "sysctl kernel.unprivileged_userns_clone=1")
    for arrived, errors in said:
        assert arrived
        assert errors in ([["EMSGSIZE", 1]], [["EINVAL", 1]])


# --- a kernel that takes nothing


def test_what_a_full_socket_refuses_waits_and_arrives_whole_and_in_order() -> None:
    async def scenario() -> None:
        async with Pair() as pair:
            pair.sender.send_cells(cells(0, 10), pair.there)
            for call in ("sendto", "sendmsg"):
                pair.rascal.failures[call] = errno.EAGAIN
            memory = bytearray(cells(10, 100))
            pair.sender.send_cells(memory, pair.there)
            memory[:] = bytes(len(memory))
            pair.sender.send(pair.there, b"\x00message")
            pair.sender.send_cells(memoryview(cells(110, 1)), pair.there)
            await pair.ear.hears(10)
            await settled(pair.ear)
            assert pair.ear.heard == cells(0, 10)
            pair.rascal.failures.clear()
            pair.sender.send_cells(cells(111, 1), pair.there)
            await pair.ear.hears(112)
            assert pair.ear.heard == cells(0, 112)
            kinds = [kind for kind, _, _ in pair.ear.log]
            assert kinds.index("message") == len(kinds) - 2
            assert not pair.sender.counters.drops

    run(scenario)


def test_a_train_that_was_taken_in_part_goes_on_where_it_stopped() -> None:
    async def scenario() -> None:
        async with Pair() as pair:
            pair.rascal.failures["sendto"] = errno.EAGAIN
            pair.sender.send_cells(cells(0, 2 * BATCH_CELLS + 1), pair.there)
            assert pair.sender.counters.cells_out == 2 * BATCH_CELLS
            pair.rascal.failures.clear()
            await pair.ear.hears(2 * BATCH_CELLS + 1)
            assert pair.ear.heard == cells(0, 2 * BATCH_CELLS + 1)
            assert pair.rascal.tried("sendmsg") == [TRAIN, TRAIN]

    run(scenario)


def test_the_queue_is_bounded_in_bytes_and_what_finds_no_room_is_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit, room = 100_000, 100_000 // CELL_SIZE
    monkeypatch.setattr("tunnels.endpoint.udp.SEND_QUEUE_SIZE", limit)

    async def scenario() -> None:
        async with Pair() as pair:
            for call in ("sendto", "sendmsg"):
                pair.rascal.failures[call] = errno.EAGAIN
            for first in range(0, 300, 30):
                pair.sender.send_cells(cells(first, 30), pair.there)
                assert pair.sender.queued <= limit
            assert pair.sender.queued == room * CELL_SIZE
            assert pair.sender.counters.drops == {Drop.QUEUE_FULL: 300 - room}
            pair.sender.send(pair.there, b"\x00" * CELL_SIZE)
            assert pair.sender.counters.drops == {Drop.QUEUE_FULL: 300 - room + 1}
            pair.rascal.failures.clear()
            await pair.ear.hears(room)
            await settled(pair.ear)
            assert pair.ear.heard == cells(0, room)
            assert pair.sender.queued == 0

    run(scenario)


def test_what_waited_too_long_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with Pair() as pair:
            for call in ("sendto", "sendmsg"):
                pair.rascal.failures[call] = errno.EAGAIN
            pair.sender.send_cells(cells(0, 60), pair.there)
            monkeypatch.setattr("tunnels.endpoint.udp.SEND_QUEUE_AGE", -1.0)
            pair.rascal.failures.clear()
            await until(lambda: pair.sender.queued == 0)
            pair.sender.send_cells(cells(60, 1), pair.there)
            await pair.ear.hears(1)
            assert pair.ear.heard == cells(60, 1)
            assert pair.sender.counters.drops == {Drop.WAITED_TOO_LONG: 60}

    run(scenario)


def test_a_system_out_of_buffers_is_left_alone_for_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnels.endpoint.udp.NO_BUFFERS_PAUSE", 3600.0)

    async def scenario() -> None:
        async with Pair() as pair:
            pair.rascal.failures["sendmsg"] = errno.ENOBUFS
            pair.sender.send_cells(cells(0, 40), pair.there)
            pair.sender.send_cells(cells(40, 40), pair.there)
            await settled(pair.ear)
            assert pair.rascal.tried("sendmsg") == [40 * CELL_SIZE]
            assert pair.sender.queued == 80 * CELL_SIZE

    run(scenario)


def test_after_the_pause_it_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnels.endpoint.udp.NO_BUFFERS_PAUSE", 0.0)

    async def scenario() -> None:
        async with Pair() as pair:
            pair.rascal.failures["sendmsg"] = errno.ENOBUFS
            pair.sender.send_cells(cells(0, 40), pair.there)
            await until(lambda: len(pair.rascal.calls) > 3)
            pair.rascal.failures.clear()
            await pair.ear.hears(40)
            assert pair.ear.heard == cells(0, 40)
            assert not pair.sender.counters.drops

    run(scenario)


def test_closing_forgets_what_waits_and_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnels.endpoint.udp.NO_BUFFERS_PAUSE", 0.0)

    async def scenario() -> None:
        async with Pair() as pair:
            pair.rascal.failures["sendmsg"] = errno.ENOBUFS
            pair.sender.send_cells(cells(0, 40), pair.there)
            tried = len(pair.rascal.calls)
            pair.sender.close()
            assert pair.sender.queued == 0
            await settled(pair.ear)
            assert len(pair.rascal.calls) == tried

    run(scenario)


# --- errors that mean nothing


@pytest.mark.parametrize("code", [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPERM])
def test_what_the_network_says_is_counted_and_never_raised(code: int) -> None:
    async def scenario() -> None:
        async with Pair() as pair:
            for call in ("sendto", "sendmsg"):
                pair.rascal.failures[call] = code
            pair.sender.send_cells(cells(0, BATCH_CELLS + 1), pair.there)
            pair.sender.send(pair.there, b"\x00")
            pair.rascal.failures.clear()
            assert pair.sender.counters.drops == {Drop.SEND_FAILED: BATCH_CELLS + 2}
            pair.sender.send_cells(cells(0, 2), pair.there)
            await pair.ear.hears(2)
            assert pair.sender.counters.errors == {errno.errorcode[code]: 3}

    run(scenario)


@pytest.mark.parametrize("code", [errno.ECONNREFUSED, errno.EINTR])
def test_an_error_met_while_reading_does_not_keep_cells_from_their_receiver(code: int) -> None:
    async def scenario() -> None:
        async with Pair() as pair:
            ear = Ear().on(pair.sender)
            pair.rascal.failures["recvmsg_into"] = code
            pair.receiver.send_cells(cells(0, 2), pair.sender.addresses[0])
            await ear.hears(2)
            assert pair.sender.counters.errors == ({} if code == errno.EINTR else {"ECONNREFUSED": 1})

    run(scenario)


# --- other systems


def test_a_system_without_trains_is_noticed_when_the_socket_opens() -> None:
    async def scenario() -> None:
        rascals = Rascals(without_trains)
        endpoint = BatchedEndpoint(("127.1.0.1", 0), open_socket=rascals)
        other = BatchedEndpoint(("127.2.0.1", 0))
        await endpoint.open()
        await other.open()
        ear, echo = Ear().on(endpoint), Ear().on(other)
        other.send_cells(cells(0, 100), endpoint.addresses[0])
        endpoint.send_cells(cells(0, 100), other.addresses[0])
        await ear.hears(100)
        await echo.hears(100)
        assert ear.heard == echo.heard == cells(0, 100)
        assert rascals.made[0].tried("sendto") == [CELL_SIZE] * 100
        assert not rascals.made[0].tried("sendmsg")
        assert not endpoint.counters.errors
        endpoint.close()
        other.close()

    run(scenario)


def test_a_system_that_refuses_large_buffers_is_asked_for_less() -> None:
    asked: list[int] = []

    def stingy(level: int, option: int, value: Any) -> None:
        if isinstance(value, int) and value > 100_000:
            asked.append(value)
            raise OSError(errno.ENOBUFS, "no")

    async def scenario() -> None:
        endpoint = BatchedEndpoint(("127.1.0.1", 0), open_socket=Rascals(stingy))
        await endpoint.open()
        endpoint.close()

    run(scenario)
    assert asked[:3] == [SOCKET_RECEIVE_BUFFER, SOCKET_RECEIVE_BUFFER // 2, SOCKET_RECEIVE_BUFFER // 4]


def test_an_empty_message_is_not_sent() -> None:
    async def scenario() -> None:
        async with Pair() as pair:
            pair.sender.send(pair.there, b"")
            pair.sender.send_cells(cell(0), pair.there)
            await pair.ear.hears(1)
            assert pair.rascal.tried("sendto") == [CELL_SIZE]
            assert not pair.receiver.counters.drops

    run(scenario)
