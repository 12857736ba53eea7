"""A process of the demo: orders come in on stdin, reports go out on stdout, one JSON object a line.

It ends when stdin ends.  So nothing is left running, even when the launcher is killed.
"""

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

Order = dict[str, Any]
"""What the launcher wants; `kind` says what that is."""


class StepError(Exception):
    """What was ordered cannot be done; the text is for the person who watches."""


class Launcher:
    """Whoever started us."""

    def __init__(self, lines: asyncio.StreamReader) -> None:
        self._lines: Final = lines
        self._orders: Final[asyncio.Queue[Order]] = asyncio.Queue()

    def report(self, kind: str, **facts: object) -> None:
        print(json.dumps({"kind": kind, **facts}), flush=True)

    async def order(self) -> Order:
        return await self._orders.get()

    async def orders(self) -> AsyncIterator[Order]:
        while True:
            yield await self.order()

    async def listen(self) -> None:
        """Take orders in until the launcher is gone."""
        while line := await self._lines.readline():
            self._orders.put_nowait(json.loads(line))


class _Reporting(logging.Handler):
    """Warnings of the library are shown to the person who watches."""

    def __init__(self, launcher: Launcher) -> None:
        super().__init__(logging.WARNING)
        self._launcher = launcher

    def emit(self, record: logging.LogRecord) -> None:
        text, error = record.getMessage(), record.exc_info[1] if record.exc_info else None
        self._launcher.report("warning", text=f"{text}: {error!r}" if error else text)


def run(main: Callable[[Launcher], Coroutine[Any, Any, None]]) -> None:
    """Run `main` until it returns, SIGTERM comes or the launcher is gone."""
    with contextlib.suppress(asyncio.CancelledError, BrokenPipeError):
        asyncio.run(_run(main))


async def _run(main: Callable[[Launcher], Coroutine[Any, Any, None]]) -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    launcher = Launcher(lines)
    logging.basicConfig(handlers=[_Reporting(launcher)])
    work = asyncio.ensure_future(main(launcher))
    loop.add_signal_handler(signal.SIGTERM, work.cancel)
    listening = asyncio.create_task(launcher.listen())
    listening.add_done_callback(lambda _: work.cancel())
    try:
        await work
    except StepError as error:
        launcher.report("failed", reason=str(error))
    finally:
        listening.cancel()
