"""Processes that a benchmark starts, asks and ends: each side of a comparison has its own, and its own CPU time.

A process is a fresh interpreter that imports nothing but its part, with the allocator as it starts: what else a process
has loaded shows in the figures (docs/performance.md).
"""

import asyncio
import importlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

Handlers = Mapping[str, Callable[..., Any]]
"""What a process can be asked: plain functions or coroutine functions, by name."""

Part = Callable[..., Awaitable[Handlers]]
"""Sets a process up.  A function of a module, by whose name the process finds it."""

ANSWER_TIME: Final = 120.0
"""Seconds to wait for an answer: a thousand circuits are built in 10 s here."""

_END_TIME: Final = 2.0
"""Seconds a process has to notice that nobody asks any more."""

_ALLOCATOR: Final = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""glibc's own values, made to stay.  Left alone it raises them once a large block was freed, which is a matter of luck
and halves what py-ipv8's endpoint costs (docs/performance.md)."""

_ROOT: Final = Path(__file__).parent.parent


class NoAnswerError(RuntimeError):
    """A process of a benchmark has ended, or does not answer."""


class Process:
    """One part of a benchmark, from `with` to its end.

    Raises:
        NoAnswerError: it did not get ready.
    """

    def __init__(self, part: Part, *arguments: object) -> None:
        self._name = f"{part.__module__}:{part.__qualname__}"
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.processes", str(theirs.fileno()), self._name],
                cwd=_ROOT, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, env={**os.environ, **_ALLOCATOR},
            )  # fmt: skip
        self._connection = Connection(ours.detach())
        self._connection.send(arguments)

    def __enter__(self) -> Self:
        try:
            self.answer()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        self._connection.close()
        try:
            self._process.wait(_END_TIME)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, name: str, *arguments: object) -> Any:
        """Ask, and wait for the answer.

        Raises:
            NoAnswerError: there is none.
        """
        self.say(name, *arguments)
        return self.answer()

    def say(self, name: str, *arguments: object) -> None:
        """Ask; `answer` gives what it says, in the order of asking."""
        with suppress(BrokenPipeError):  # `answer` will tell
            self._connection.send((name, arguments))

    def answer(self) -> Any:
        try:
            if self._connection.poll(ANSWER_TIME):
                return self._connection.recv()
        except (EOFError, ConnectionError):
            pass
        raise NoAnswerError(f"{self._name} does not answer")


async def _serve(part: Part, asker: Connection) -> None:
    readable = asyncio.Event()
    handlers: dict[str, Callable[..., Any]] = {"cpu": time.process_time, **await part(*asker.recv())}
    asyncio.get_running_loop().add_reader(asker.fileno(), readable.set)
    asker.send(None)
    while True:
        await readable.wait()
        readable.clear()
        while asker.poll():
            name, arguments = asker.recv()
            answer = handlers[name](*arguments)
            asker.send(await answer if asyncio.iscoroutine(answer) else answer)


def _main(number: str, name: str) -> None:
    module, _, function = name.partition(":")
    part: Part = getattr(importlib.import_module(module), function)
    with suppress(EOFError, ConnectionError, KeyboardInterrupt):  # nobody asks any more
        asyncio.run(_serve(part, Connection(int(number))))
    os._exit(0)  # threads that an endpoint started have no say


if __name__ == "__main__":
    _main(*sys.argv[1:])
