"""The driver gives an engine time and a port, and neither forgets nor repeats what happens."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sim.loop import run, running
from tunnels.crypto.rng import StreamRng
from tunnels.driver import Driver
from tunnels.endpoint.face import Receive
from tunnels.engine import Engine
from tunnels.errors import LocalError
from tunnels.ids import Address
from tunnels.params import CELL_SIZE
from tunnels.path.directory import Directory


class Port:
    """A CellPort that writes down."""

    def __init__(self) -> None:
        self.receive: Receive | None = None
        self.sent: list[tuple[bytes, Address]] = []

    def attach(self, receive: Receive) -> None:
        if self.receive is not None:
            raise LocalError("taken")
        self.receive = receive

    def detach(self) -> None:
        self.receive = None

    def send_cells(self, cells: bytearray | memoryview | bytes, receiver: Address) -> None:
        self.sent.append((bytes(cells), receiver))


class Scripted(Engine):
    """An engine that does what the test says and writes down when it was asked."""

    def __init__(self) -> None:
        super().__init__(network_id=b"t", rng=StreamRng(bytes(32)), now=0.0, epoch=0.0, directory=Directory())
        self.log: list[tuple[str, float]] = []
        self.due: list[float] = []
        self.outbox: list[tuple[bytes, Address]] = []
        self.happened: list[Any] = []
        self.work_left = 0

    def receive(self, cells: bytearray | memoryview, sender: Address, now: float) -> None:
        self.log.append(("receive", now))

    def datagrams_to_send(self) -> list[tuple[memoryview | bytes, Address]]:
        out, self.outbox = self.outbox, []
        return [*out]

    def work(self, now: float) -> bool:
        if self.work_left:
            self.work_left -= 1
            self.log.append(("work", now))
        return self.work_left > 0

    def next_timer(self) -> float | None:
        return min(self.due, default=None)

    def handle_timer(self, now: float) -> None:
        self.log.append(("timer", now))
        self.due = [due for due in self.due if due > now]

    def events(self) -> list[Any]:
        happened, self.happened = self.happened, []
        return happened


def scenario(main: Callable[[Scripted, Port, list[Any]], Any], turn: float = 0.0) -> None:
    async def whole() -> None:
        engine, port, told = Scripted(), Port(), list[Any]()
        engine.driver = Driver(engine, port, told.append, turn)  # type: ignore[attr-defined]
        await main(engine, port, told)
        engine.driver.close()  # type: ignore[attr-defined]
        assert port.receive is None

    run(whole())


def test_what_arrives_is_handed_on_and_answered_in_the_next_turn() -> None:
    async def main(engine: Scripted, port: Port, told: list[Any]) -> None:
        assert port.receive is not None
        await asyncio.sleep(3)
        port.receive(bytearray(CELL_SIZE), ("192.0.2.1", 1))
        assert engine.log == [("receive", 3.0)]
        engine.outbox = [(b"a", ("192.0.2.1", 1)), (b"b", ("192.0.2.2", 1))]
        engine.happened = ["first", "second"]
        assert port.sent == told == []
        await asyncio.sleep(0)
        assert port.sent == [(b"a", ("192.0.2.1", 1)), (b"b", ("192.0.2.2", 1))]
        assert told == ["first", "second"]

    scenario(main)


def test_timers_fire_when_they_are_due_also_when_they_move() -> None:
    async def main(engine: Scripted, port: Port, told: list[Any]) -> None:
        engine.due = [7.0]
        engine.driver.wake()  # type: ignore[attr-defined]
        await asyncio.sleep(1)
        engine.due = [2.0, 7.0, 9.5]
        engine.driver.wake()  # type: ignore[attr-defined]
        await asyncio.sleep(20)
        assert engine.log == [("timer", 2.0), ("timer", 7.0), ("timer", 9.5)]

    scenario(main)


@pytest.mark.parametrize("turn", [0.0, 0.25])
def test_public_key_work_leaves_the_socket_a_turn_between(turn: float) -> None:
    async def main(engine: Scripted, port: Port, told: list[Any]) -> None:
        engine.work_left = 3
        engine.driver.wake()  # type: ignore[attr-defined]
        order: list[int] = []
        for number in range(10):
            running().call_soon(order.append, number)
            await asyncio.sleep(0)
        await asyncio.sleep(5)
        assert engine.log == [("work", 0.0), ("work", turn), ("work", 2 * turn)]

    scenario(main, turn)


def test_an_event_handler_that_raises_is_reported_and_costs_neither_events_nor_timers() -> None:
    async def whole() -> None:
        reports: list[Any] = []
        running().set_exception_handler(lambda _, context: reports.append(context["exception"]))
        engine, port, told = Scripted(), Port(), list[Any]()

        def on_event(event: Any) -> None:
            told.append(event)
            if event == "bad":
                raise ZeroDivisionError

        driver = Driver(engine, port, on_event)
        engine.happened, engine.due = ["bad", "good", "bad", "last"], [4.0]
        driver.wake()
        await asyncio.sleep(10)
        assert told == ["bad", "good", "bad", "last"]
        assert [type(report) for report in reports] == [ZeroDivisionError] * 2
        assert engine.log == [("timer", 4.0)]
        driver.close()

    run(whole())


def test_an_event_handler_may_close_the_driver() -> None:
    async def whole() -> None:
        engine, port, told = Scripted(), Port(), list[Any]()

        def on_event(event: Any) -> None:
            told.append(event)
            driver.close()

        driver = Driver(engine, port, on_event)
        engine.happened, engine.due = ["first", "second"], [4.0]
        driver.wake()
        await asyncio.sleep(10)
        assert told == ["first", "second"]
        assert engine.log == []
        assert port.receive is None

    run(whole())


def test_after_close_nothing_is_received_sent_or_scheduled() -> None:
    async def main(engine: Scripted, port: Port, told: list[Any]) -> None:
        engine.due, engine.work_left = [5.0], 2
        driver: Driver = engine.driver  # type: ignore[attr-defined]
        driver.wake()
        await asyncio.sleep(0)
        receive = port.receive
        assert receive is not None
        engine.outbox, engine.happened = [(b"farewell", ("192.0.2.1", 1))], ["farewell"]
        driver.close()
        assert driver.closed
        assert (port.sent, told) == ([(b"farewell", ("192.0.2.1", 1))], ["farewell"])
        engine.log.clear()
        engine.outbox = [(b"late", ("192.0.2.1", 1))]
        driver.wake()
        driver.close()
        await asyncio.sleep(20)
        assert engine.log == []
        assert len(port.sent) == 1

    scenario(main)


def test_a_port_that_is_taken_is_an_error_and_stays_with_its_owner() -> None:
    async def main(engine: Scripted, port: Port, told: list[Any]) -> None:
        owner = port.receive
        with pytest.raises(LocalError):
            Driver(Scripted(), port, told.append)
        assert port.receive is owner

    scenario(main)
