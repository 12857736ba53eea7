"""The processes of the demo, as the launcher sees them: orders in, reports out, and none of them outlives it.

Three things end them: `Crew.stop`, the launcher's own end (their stdin ends with it), and SIGKILL for one that hears
neither.
"""

import asyncio
import contextlib
import json
import signal
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ROOT: Final = Path(__file__).parents[2]
"""Where the packages are."""

GRACE: Final = 5.0
"""Seconds for farewells, before SIGKILL."""

STEP_TIME: Final = 60.0
"""Seconds of silence after which a step has failed, also on a machine that is very busy."""

LONGEST_LINE: Final = 1 << 20
"""Bytes of one report."""


class DemoError(Exception):
    """A step failed; the text says which, and why."""


class Child:
    """A process, and both of its pipes."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name: Final = name
        self.process: Final = process
        self.may_end = False
        self.complaints: Final[deque[str]] = deque(maxlen=20)
        """The last lines of its stderr."""

    def tell(self, kind: str, **facts: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"kind": kind, **facts}).encode() + b"\n")

    def kill(self) -> None:
        """End it as a power failure would."""
        self.may_end = True
        self.process.kill()


@dataclass(frozen=True, slots=True)
class Report:
    """What a process says; `facts` by its kind."""

    child: Child
    kind: str
    facts: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]


class Crew:
    """All processes; they are stopped when the `async with` block is left, however it is left."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._inbox: asyncio.Queue[Report] = asyncio.Queue()
        self._readers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        traceback: TracebackType | None) -> None:  # fmt: skip
        await self.stop()

    async def start(self, name: str, module: str, **facts: object) -> Child:
        """Start a process, and tell it `facts`.  It hears no Ctrl-C: who stops it is the launcher."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, cwd=ROOT, start_new_session=True, limit=LONGEST_LINE,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        child = Child(name, process)
        self._children.append(child)
        self._readers.add(asyncio.create_task(self._read(child)))
        child.tell("start", **facts)
        return child

    async def report(self) -> Report:
        """What any of the processes says next.

        Raises:
            DemoError: a process failed, or ended before its time, or nobody said anything for STEP_TIME.
        """
        while True:
            try:
                async with asyncio.timeout(STEP_TIME):
                    report = await self._inbox.get()
            except TimeoutError:
                raise DemoError(f"no process said anything for {STEP_TIME:.0f} s") from None
            if report.kind == "failed":
                raise DemoError(f"{report.child.name}: {report['reason']}")
            if report.kind != "ended":
                return report
            if not report.child.may_end:
                raise DemoError("\n".join([f"{report.child.name} {report['how']}", *report.child.complaints]))

    async def stop(self) -> None:
        """Ask all to end, and end those that do not."""
        running = [child for child in self._children if child.process.returncode is None]
        for child in running:
            child.may_end = True
            with contextlib.suppress(ProcessLookupError):
                child.process.terminate()
        try:
            async with asyncio.timeout(GRACE):
                await asyncio.gather(*(child.process.wait() for child in running))
        except TimeoutError:
            for child in running:
                with contextlib.suppress(ProcessLookupError):
                    child.process.kill()
        await asyncio.gather(*self._readers)

    async def _read(self, child: Child) -> None:
        assert child.process.stdout is not None
        assert child.process.stderr is not None
        complaining = asyncio.create_task(_keep(child.process.stderr, child.complaints))
        while line := await child.process.stdout.readline():
            facts = json.loads(line)
            self._inbox.put_nowait(Report(child, facts.pop("kind"), facts))
        await complaining
        self._inbox.put_nowait(Report(child, "ended", {"how": _how(await child.process.wait())}))


async def _keep(lines: asyncio.StreamReader, kept: deque[str]) -> None:
    while line := await lines.readline():
        kept.append(line.decode(errors="replace").rstrip())


def _how(code: int) -> str:
    return f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
