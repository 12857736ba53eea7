"""Time and a port for an Engine.  Floor 5.  Nothing here decides anything."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from tunnels.circuit.core import Event
from tunnels.endpoint.face import CellPort
from tunnels.engine import Engine
from tunnels.ids import Address


class Driver:
    """Runs one engine on the running loop, over one port.

    Args:
        on_event: told what happened, after everything that was to be sent is on its way.
        turn: seconds between two turns of public-key work; 0 in production, more where a simulation models a slow
            processor.
    """

    def __init__(self, engine: Engine, port: CellPort, on_event: Callable[[Event], None], turn: float = 0.0) -> None:
        self.engine: Final = engine
        self._port = port
        self._on_event = on_event
        self._turn = turn
        self._loop = asyncio.get_running_loop()
        self._soon: asyncio.Handle | None = None
        self._later: asyncio.TimerHandle | None = None
        self._work: asyncio.TimerHandle | None = None
        self._waiting: deque[Event] = deque()
        self.closed = False
        port.attach(self._receive)

    def now(self) -> float:
        return self._loop.time()

    def wake(self) -> None:
        """Something was asked of the engine: see to it in this turn of the loop."""
        if self._soon is None and not self.closed:
            self._soon = self._loop.call_soon(self._run)

    def close(self) -> None:
        """Say goodbye to every neighbour, and let go of the port."""
        if self.closed:
            return
        now = self.now()
        self.engine.close(now)
        self._flush()
        self._dispatch()
        self.closed = True
        self.engine.forget(now)
        self._port.detach()
        for handle in (self._soon, self._later, self._work):
            if handle is not None:
                handle.cancel()

    def _receive(self, cells: bytearray | memoryview, sender: Address) -> None:
        self.engine.receive(cells, sender, self._loop.time())
        self.wake()

    def _run(self) -> None:
        self._soon = None
        now = self._loop.time()
        engine = self.engine
        if (due := engine.next_timer()) is not None and due <= now:
            engine.handle_timer(now)
        if self._work is None and engine.work(now):
            self._work = self._loop.call_later(self._turn, self._go_on)
        self._flush()
        try:
            self._dispatch()
        finally:
            # Whoever is told may raise: that is for the loop to report, and costs neither a timer nor another event.
            if self._waiting:
                self.wake()
            self._arrange()

    def _go_on(self) -> None:
        self._work = None
        self.wake()

    def _flush(self) -> None:
        send = self._port.send_cells
        for cells, receiver in self.engine.datagrams_to_send():
            send(cells, receiver)

    def _dispatch(self) -> None:
        self._waiting += self.engine.events()
        while self._waiting:
            self._on_event(self._waiting.popleft())

    def _arrange(self) -> None:
        if self.closed:
            return
        due = self.engine.next_timer()
        if self._later is not None:
            if due is not None and self._later.when() == due:
                return
            self._later.cancel()
            self._later = None
        if due is not None:
            self._later = self._loop.call_at(due, self._on_time)

    def _on_time(self) -> None:
        self._later = None
        self.wake()
