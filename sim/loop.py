"""An asyncio loop on which waiting takes no time: the clock jumps to the next timer.  Floor 5.

For programs that wait with asyncio only.  Threads, sockets, pipes and processes do not move this clock, so all of them
are refused with an error; host names are resolved by `VirtualLoop.resolver` or not at all.

The same program does the same things in the same order: timers of one instant fire in the order in which they were
set, and a task hashes to its number and not to its place in memory, so that a set of tasks (TaskGroup, asyncio.wait)
has one order.  A set of bare futures has not.
"""

import asyncio
import heapq
import ipaddress
import math
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from pathlib import PurePath
from typing import Any, Final, NoReturn, TypeVar, TypeVarTuple

from tunnels.errors import LocalError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH: Final = 1_767_225_600.0
"""Unix time at which a virtual loop starts unless told otherwise: 2026-01-01 00:00:00 UTC."""

MAX_TURNS: Final = 1_000_000
"""Turns at one instant after which a program counts as spinning: seconds of real time and no virtual one."""

_MANY_CANCELLED: Final = 128
"""Cancelled timers worth sweeping; below it they leave when their time comes."""

_NAMED_TASKS: Final = 8
"""Waiting tasks a deadlock names; the rest is a number."""


class DeadlockError(LocalError):
    """No timer is set and nothing is ready: what the program waits for can never happen."""


class SpinningError(LocalError):
    """The program runs on and on without letting time pass."""


class LeakedTasksError(LocalError):
    """The main coroutine returned while tasks it started were still alive.  They have been cancelled.

    Attributes:
        tasks: one description for each, oldest first.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(f"{len(tasks)} tasks outlived the program: {_some(tasks)}")
        self.tasks = tuple(tasks)


def _refuse(what: str) -> NoReturn:
    raise LocalError(f"{what} does not work on a virtual clock: only timers, tasks and the virtual network do")


def _refused(what: str) -> Any:
    def refuse(*_: object, **__: object) -> NoReturn:
        _refuse(what)

    return refuse


class _Task(asyncio.Task[Any]):
    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> None:
        self.number = number  # first: the parent's constructor already puts the task into a set
        super().__init__(coro, **kwargs)

    def __hash__(self) -> int:
        return self.number


class _Timers(selectors.BaseSelector):
    """The clock, in the place where asyncio waits: `select` jumps instead of waiting.

    INVARIANT: `now` never goes back.
    """

    def __init__(self, now: float) -> None:
        self.now = now
        self.ready: deque[asyncio.Handle] = deque()
        self.cancelled = 0
        self._heap: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._set = 0
        self._turns = 0
        self._wake_up: dict[int, selectors.SelectorKey] = {}

    def add(self, timer: asyncio.TimerHandle) -> None:
        self._set += 1
        heapq.heappush(self._heap, (timer.when(), self._set, timer))

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        heap = self._heap
        if timeout is None:
            while heap and heap[0][2].cancelled():
                heapq.heappop(heap)
                self.cancelled -= 1
            if not heap or heap[0][0] == math.inf:
                raise DeadlockError(f"deadlock at {self.now:.6f} s: nothing can ever run again; {_waiting()}")
            if heap[0][0] > self.now:
                self.now, self._turns = heap[0][0], 0
        self._turns += 1
        if self._turns > MAX_TURNS:
            self._turns = 0  # what follows is the clean-up, and has turns of its own
            raise SpinningError(f"{MAX_TURNS} turns at {self.now:.6f} s and time stands still; {_waiting()}")
        now, ready = self.now, self.ready
        while heap and heap[0][0] <= now:
            ready.append(heapq.heappop(heap)[2])
        return []

    def sweep(self) -> None:
        """Forget cancelled timers once they are the greater part: most timeouts are long and never needed."""
        if self.cancelled > _MANY_CANCELLED and self.cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if not entry[2].cancelled()]
            heapq.heapify(self._heap)
            self.cancelled = 0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self._wake_up:
            _refuse("waiting for a file or socket")
        fd = fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
        # The first to come is asyncio's own wake-up pipe, which nothing here writes to.
        self._wake_up[fd] = key = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._wake_up.pop(fileobj if isinstance(fileobj, int) else int(fileobj.fileno()))

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._wake_up


class VirtualLoop(asyncio.SelectorEventLoop):
    """
    Args:
        start: virtual seconds `time()` begins with.
        epoch: Unix time at that moment.

    Attributes:
        epoch: may be set while running, to step the wall clock as an operator or NTP would.
        resolver: addresses of a host name, empty when there is none; without it a name is an error.
    """

    _ready: deque[asyncio.Handle]

    def __init__(self, start: float = 0.0, epoch: float = EPOCH) -> None:
        self._timers = _Timers(start)
        self._start = start
        self._thread = threading.get_ident()
        self._tasks_made = 0
        self.epoch = epoch
        self.resolver: Callable[[str], Sequence[str]] | None = None
        super().__init__(self._timers)
        # Due timers go where asyncio keeps what runs next: only there one can still be cancelled before its turn.
        self._timers.ready = self._ready
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        """Virtual seconds."""
        return self._timers.now

    def wall(self) -> float:
        """Virtual Unix time."""
        return self.epoch + (self._timers.now - self._start)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> asyncio.Future[Any]:
        self._tasks_made += 1
        return _Task(self._tasks_made, coro, loop=loop, **kwargs)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        if math.isnan(when):
            raise LocalError("a timer needs a time, not NaN")
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers.add(timer)
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._timers.cancelled += 1
        self._timers.sweep()

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if threading.get_ident() != self._thread:
            _refuse("a call from another thread")
        return self.call_soon(callback, *args, context=context)

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host or ""
        number = int(port or 0)
        kind = socket.SocketKind(type or socket.SOCK_DGRAM)
        protocol = proto or {socket.SOCK_DGRAM: socket.IPPROTO_UDP, socket.SOCK_STREAM: socket.IPPROTO_TCP}.get(kind, 0)
        found: list[Any] = []
        for text in self._addresses(name):
            address = ipaddress.ip_address(text)
            if address.version == 4 and family in (0, socket.AF_INET):
                found.append((socket.AF_INET, kind, protocol, "", (str(address), number)))
            if address.version == 6 and family in (0, socket.AF_INET6):
                found.append((socket.AF_INET6, kind, protocol, "", (str(address), number, 0, 0)))
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    def _addresses(self, name: str) -> Sequence[str]:
        try:
            return (str(ipaddress.ip_address(name)),)
        except ValueError:
            if self.resolver is None:
                raise LocalError("a virtual loop without a resolver was asked for a host name") from None
            return self.resolver(name)

    run_in_executor = _refused("run_in_executor, a thread,")
    getnameinfo = _refused("getnameinfo")
    add_reader = _refused("add_reader")
    add_writer = _refused("add_writer")
    add_signal_handler = _refused("add_signal_handler")
    create_connection = _refused("create_connection")
    create_server = _refused("create_server")
    create_datagram_endpoint = _refused("create_datagram_endpoint")
    create_unix_connection = _refused("create_unix_connection")
    create_unix_server = _refused("create_unix_server")
    connect_accepted_socket = _refused("connect_accepted_socket")
    connect_read_pipe = _refused("connect_read_pipe")
    connect_write_pipe = _refused("connect_write_pipe")
    subprocess_exec = _refused("subprocess_exec")
    subprocess_shell = _refused("subprocess_shell")
    sendfile = _refused("sendfile")
    sock_accept = _refused("sock_accept")
    sock_connect = _refused("sock_connect")
    sock_recv = _refused("sock_recv")
    sock_recv_into = _refused("sock_recv_into")
    sock_recvfrom = _refused("sock_recvfrom")
    sock_recvfrom_into = _refused("sock_recvfrom_into")
    sock_sendall = _refused("sock_sendall")
    sock_sendfile = _refused("sock_sendfile")
    sock_sendto = _refused("sock_sendto")


def running() -> VirtualLoop:
    """The virtual loop this code runs on.

    Raises:
        LocalError: it runs on another kind of loop.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise LocalError(f"a {type(loop).__name__} is no virtual loop")
    return loop


def forgive(_tasks: Sequence[str]) -> None:
    """For `run`: tasks may outlive the program."""


def complain(tasks: Sequence[str]) -> None:
    """For `run`: tasks may not outlive the program.

    Raises:
        LeakedTasksError: always.
    """
    raise LeakedTasksError(tasks)


def run(
    main: Coroutine[Any, Any, T],
    *,
    start: float = 0.0,
    epoch: float = EPOCH,
    on_leak: Callable[[Sequence[str]], None] = complain,
) -> T:
    """What `main` returns, from a virtual loop of its own that is gone afterwards.

    Args:
        on_leak: told of the tasks that `main` left behind, if any, after they were cancelled and the loop was closed.

    Raises:
        DeadlockError, SpinningError: `main` cannot come to an end.  What it started was cancelled.
    """
    loop = VirtualLoop(start, epoch)
    leaked: list[str] = []
    try:
        result = loop.run_until_complete(main)
        leaked = [_describe(task) for task in _tasks(loop)]
    finally:
        try:
            _cancel(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
    if leaked:
        on_leak(leaked)
    return result


def _cancel(loop: VirtualLoop) -> None:
    tasks = _tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(_settle(tasks))
    for task in tasks:
        if not task.cancelled() and (error := task.exception()):
            loop.call_exception_handler({"message": "error in a cancelled task", "exception": error, "task": task})


async def _settle(tasks: Sequence[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def _tasks(loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
    return sorted(asyncio.all_tasks(loop), key=hash)


def _describe(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    where = f" at {PurePath(frames[0].f_code.co_filename).name}:{frames[0].f_lineno}" if frames else ""
    return f"{task.get_name()} ({getattr(task.get_coro(), '__qualname__', 'a coroutine')}{where})"


def _some(descriptions: Sequence[str]) -> str:
    more = len(descriptions) - _NAMED_TASKS
    return ", ".join(descriptions[:_NAMED_TASKS]) + (f" and {more} more" if more > 0 else "")


def _waiting() -> str:
    return "waiting: " + (_some([_describe(task) for task in _tasks(asyncio.get_running_loop())]) or "no task")
