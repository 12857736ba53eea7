"""The virtual clock: ordinary asyncio programs, in no time and always in the same order."""

import asyncio
import math
import socket
import threading
import weakref
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipv8.taskmanager import TaskManager

from sim import loop as loop_module
from sim.loop import (
    EPOCH,
    DeadlockError,
    LeakedTasksError,
    SpinningError,
    VirtualLoop,
    forgive,
    run,
    running,
)
from tunnels.errors import LocalError

times = st.floats(0.0, 1e9, allow_nan=False)


def test_a_year_of_waiting_takes_no_time_and_ends_on_the_second() -> None:
    async def main() -> float:
        await asyncio.sleep(365 * 86400.0)
        return running().time()

    assert run(main()) == 365 * 86400.0


@given(times, st.lists(st.sampled_from((0.0, 0.1, 0.3, 1.0)) | st.floats(0.0, 1e6), max_size=30))
def test_timers_fire_at_their_very_time_and_those_of_one_time_in_the_order_they_were_set(
    start: float, delays: list[float]
) -> None:
    fired: list[tuple[float, int]] = []

    async def main() -> None:
        loop = running()

        def fire(when: float, number: int) -> None:
            fired.append((loop.time() - when, number))

        due = [start + delay for delay in delays]
        for number, when in enumerate(due):
            loop.call_at(when, fire, when, number)
        await asyncio.sleep(2e6)
        assert [number for _, number in fired] == sorted(range(len(due)), key=due.__getitem__)

    run(main(), start=start)
    assert all(late == 0.0 for late, _ in fired)


@given(st.lists(st.floats(-5.0, 5.0), max_size=30))
def test_the_clock_never_goes_back(delays: list[float]) -> None:
    seen: list[float] = []

    async def main() -> None:
        loop = running()
        for delay in delays:
            loop.call_later(delay, lambda: seen.append(loop.time()))
        await asyncio.sleep(10)

    run(main())
    assert seen == sorted(seen)
    assert len(seen) == len(delays)


def test_a_timer_can_be_cancelled_until_its_very_turn() -> None:
    fired: list[str] = []

    async def main() -> None:
        loop = running()
        timers: list[asyncio.TimerHandle] = []

        def cancel_the_late() -> None:
            timers[1].cancel()

        loop.call_at(2.0, cancel_the_late)
        timers.append(loop.call_at(1.0, fired.append, "cancelled long before"))
        timers.append(loop.call_at(2.0, fired.append, "cancelled in the same instant"))
        timers[0].cancel()
        await asyncio.sleep(3)

    run(main())
    assert fired == []


def test_cancelled_timers_are_forgotten_before_their_time() -> None:
    async def main() -> int:
        loop = running()
        alive = 0
        timers: list[weakref.ref[asyncio.TimerHandle]] = []
        for _ in range(10_000):
            timer = loop.call_later(3600.0, print)
            timers.append(weakref.ref(timer))
            timer.cancel()
            del timer
            alive = max(alive, sum(one() is not None for one in timers[-1000:]))
        return alive

    assert run(main()) < 300


@pytest.mark.parametrize("when", [math.nan])
def test_a_time_that_is_none_is_refused(when: float) -> None:
    async def main() -> None:
        running().call_at(when, print)

    with pytest.raises(LocalError, match="NaN"):
        run(main())


def test_a_program_with_timeouts_queues_locks_and_groups_runs_unchanged() -> None:
    log: list[tuple[float, str]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def note(what: str) -> None:
            log.append((loop.time(), what))

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        note("timeout")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(100), 2)
        note("wait_for")
        queue: asyncio.Queue[int] = asyncio.Queue(1)

        async def produce() -> None:
            for number in range(3):
                await asyncio.sleep(1)
                await queue.put(number)

        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            for _ in range(3):
                note(f"got {await queue.get()}")

        async def fail() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(1000))
                await asyncio.sleep(1)
                raise ValueError

        with pytest.raises(ExceptionGroup):
            await fail()
        note("group")
        done, pending = await asyncio.wait(
            [asyncio.create_task(asyncio.sleep(seconds)) for seconds in (1, 2, 50)], timeout=10
        )
        note(f"{len(done)} of {len(done) + len(pending)}")
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    run(main())
    assert log == [
        (5, "timeout"), (7, "wait_for"), (8, "got 0"), (9, "got 1"), (10, "got 2"), (11, "group"), (21, "2 of 3"),
    ]  # fmt: skip


def test_the_task_manager_of_ipv8_keeps_virtual_time() -> None:
    async def main() -> tuple[list[float], list[float]]:
        loop, ticks, late = running(), list[float](), list[float]()
        manager = TaskManager()
        manager.register_task("tick", lambda: ticks.append(loop.time()), interval=600)
        manager.register_task("late", lambda: late.append(loop.time()), delay=1000)
        await asyncio.sleep(3600.5)
        await manager.shutdown_task_manager()
        return ticks, late

    assert run(main()) == ([600, 1200, 1800, 2400, 3000, 3600], [1000])


def test_a_set_of_tasks_has_the_order_in_which_they_were_made() -> None:
    async def main() -> list[str]:
        # Padding between them keeps their places in memory from being in order by luck.
        tasks, padding = set[asyncio.Task[None]](), list[bytearray]()
        for number in range(7):
            tasks.add(asyncio.create_task(asyncio.sleep(1), name=str(number)))
            padding.append(bytearray(number * 16))
        done, _ = await asyncio.wait(tasks)
        return [task.get_name() for task in done]

    assert run(main()) == list("0123456")


def test_a_deadlock_is_an_error_that_says_when_who_and_where() -> None:
    async def wait_for_godot() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.sleep(12.5)
        godot = asyncio.create_task(wait_for_godot(), name="estragon")
        await godot

    with pytest.raises(DeadlockError, match=r"deadlock at 12\.5.*main at test_loop\.py:\d+.*estragon.*wait_for_godot"):
        run(main())


def test_waiting_for_the_end_of_time_is_a_deadlock() -> None:
    with pytest.raises(DeadlockError):
        run(asyncio.sleep(math.inf))


def test_a_deadlock_still_lets_tasks_clean_up_in_their_own_time() -> None:
    cleaned: list[float] = []

    async def worker() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(7)
            cleaned.append(running().time())

    async def main() -> None:
        worker_task = asyncio.create_task(worker())
        await asyncio.Event().wait()
        await worker_task

    with pytest.raises(DeadlockError):
        run(main())
    assert cleaned == [7.0]


def test_a_deadlock_names_some_and_counts_the_rest() -> None:
    async def main() -> None:
        await asyncio.gather(*(asyncio.Event().wait() for _ in range(100)))

    with pytest.raises(DeadlockError, match="and 93 more") as caught:
        run(main())
    assert len(str(caught.value)) < 1000


def test_a_program_that_never_lets_time_pass_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "MAX_TURNS", 1000)

    async def main() -> None:
        while True:  # noqa: ASYNC110 (the very mistake)
            await asyncio.sleep(0)

    with pytest.raises(SpinningError, match="main at"):
        run(main())


def test_turns_at_many_instants_are_no_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "MAX_TURNS", 1000)

    async def main() -> None:
        for _ in range(2000):
            await asyncio.sleep(0.001)

    run(main())


def test_tasks_that_outlive_the_program_are_cancelled_and_reported() -> None:
    ended: list[str] = []

    async def stray(name: str) -> None:
        try:
            await asyncio.sleep(math.inf)
        finally:
            ended.append(name)

    async def main() -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(stray(name), name=name) for name in ("a", "b", "c")]
        await asyncio.sleep(1)
        return tasks

    with pytest.raises(LeakedTasksError, match="3 tasks") as caught:
        run(main())
    assert [task.split(" ")[0] for task in caught.value.tasks] == ended == ["a", "b", "c"]
    reported: list[str] = []
    tasks = run(main(), on_leak=reported.extend)
    assert len(reported) == 3
    assert all(task.cancelled() for task in tasks)
    assert len(run(main(), on_leak=forgive)) == 3


def test_the_programs_own_error_is_not_hidden_by_its_leaks() -> None:
    async def main() -> None:
        main.stray = asyncio.create_task(asyncio.sleep(1))  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run(main())


async def _executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, print)


async def _open_connection() -> None:
    await asyncio.open_connection("127.0.0.1", 1)


async def _datagram_endpoint() -> None:
    await asyncio.get_running_loop().create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))


async def _server() -> None:
    await asyncio.start_server(print, "127.0.0.1", 0)


async def _reader() -> None:
    asyncio.get_running_loop().add_reader(0, print)


async def _recv() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setblocking(False)
        await asyncio.get_running_loop().sock_recv(udp, 1)


async def _process() -> None:
    await asyncio.create_subprocess_exec("true")


async def _signal() -> None:
    asyncio.get_running_loop().add_signal_handler(2, print)


@pytest.mark.parametrize(
    "forbidden",
    [
        _executor,
        _open_connection,
        _datagram_endpoint,
        _server,
        _reader,
        _recv,
        _process,
        _signal,
        lambda: asyncio.to_thread(print),
    ],
)
def test_what_does_not_wait_on_this_clock_is_refused_with_the_reason(forbidden: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await forbidden()

    with pytest.raises(LocalError, match="virtual clock"):
        run(main())


def test_calls_from_other_threads_are_refused_and_from_our_own_are_not() -> None:
    called: list[str] = []
    refused: list[LocalError] = []

    async def main() -> None:
        loop = running()

        def elsewhere() -> None:
            try:
                loop.call_soon_threadsafe(called.append, "theirs")
            except LocalError as error:
                refused.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        loop.call_soon_threadsafe(called.append, "ours")
        await asyncio.sleep(1)

    run(main())
    assert called == ["ours"]
    assert len(refused) == 1


def test_names_are_resolved_by_the_resolver_or_not_at_all() -> None:
    names = {"both.example": ("192.0.2.1", "2001:db8::1")}

    async def main() -> None:
        loop = running()
        assert (await loop.getaddrinfo("192.0.2.7", 53))[0][4] == ("192.0.2.7", 53)
        assert (await loop.getaddrinfo("2001:DB8:0::7", 53))[0][4] == ("2001:db8::7", 53, 0, 0)
        with pytest.raises(LocalError, match="resolver"):
            await loop.getaddrinfo("both.example", 53)
        loop.resolver = lambda name: names.get(name, ())
        found = await loop.getaddrinfo("both.example", 53, type=socket.SOCK_STREAM)
        assert [(family, kind, address[0]) for family, kind, _, _, address in found] == [
            (socket.AF_INET, socket.SOCK_STREAM, "192.0.2.1"),
            (socket.AF_INET6, socket.SOCK_STREAM, "2001:db8::1"),
        ]
        assert len(await loop.getaddrinfo("both.example", 53, family=socket.AF_INET6)) == 1
        for missing in ("nowhere.example", None):
            with pytest.raises(socket.gaierror):
                await loop.getaddrinfo(missing, 53)

    run(main())


def test_the_wall_clock_follows_and_can_be_stepped() -> None:
    async def main() -> None:
        loop = running()
        assert (loop.time(), loop.wall()) == (100.0, EPOCH)
        await asyncio.sleep(10)
        assert (loop.time(), loop.wall()) == (110.0, EPOCH + 10)
        loop.epoch -= 3600
        assert (loop.time(), loop.wall()) == (110.0, EPOCH + 10 - 3600)

    run(main(), start=100.0)


def test_other_loops_are_told_apart() -> None:
    async def main() -> VirtualLoop:
        return running()

    with pytest.raises(LocalError, match="no virtual loop"):
        asyncio.run(main())


def test_a_finished_loop_takes_no_timers() -> None:
    loop = VirtualLoop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_later(1, print)
