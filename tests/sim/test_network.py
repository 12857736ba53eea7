"""The virtual network: what its links promise, what an adversary can do with it, and that only a seed matters."""

import asyncio
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.loop import run, running
from sim.network import (
    BATCH,
    FIRST_EPHEMERAL,
    Counters,
    Datagram,
    Fate,
    Link,
    Pipe,
    VirtualNetwork,
    Where,
    uniform,
    unit,
)
from tunnels.crypto.rng import StreamRng
from tunnels.errors import LocalError
from tunnels.ids import Address, Rng
from tunnels.params import CELL_SIZE

A, B, C = ("192.0.2.1", 1000), ("192.0.2.2", 1000), ("192.0.2.3", 1000)
A6, B6 = ("2001:db8::1", 1000), ("2001:db8::2", 1000)

Arrival = tuple[float, Address, bytes]


class Host:
    """A socket that writes down what it gets."""

    def __init__(self, network: VirtualNetwork, address: Address) -> None:
        self.got: list[Arrival] = []
        self.calls: list[int] = []
        self.socket = network.open(address, self._receive)

    def _receive(self, datagrams: list[bytes], source: Address) -> None:
        self.calls.append(len(datagrams))
        self.got += [(running().time(), source, datagram) for datagram in datagrams]

    @property
    def data(self) -> list[bytes]:
        return [datagram for _, _, datagram in self.got]


def network_of(*links: Link, seed: int = 0) -> VirtualNetwork:
    """Every pair shares `links`; without any, everything arrives at once."""
    topology = (lambda *_: links) if links else (lambda *_: (Pipe(),))
    return VirtualNetwork(running(), StreamRng(bytes([seed]) * 32), topology)


def numbered(number: int, size: int = 4) -> bytes:
    return number.to_bytes(4, "big").ljust(size, b"x")


schedules = st.lists(st.tuples(st.sampled_from((0.0, 0.001)) | st.floats(0.0, 2.0), st.integers(4, 2000)), max_size=60)
"""Pauses before each datagram, and its size."""

steady = st.builds(
    Pipe,
    delay=st.floats(0.0, 1.0),
    loss=st.sampled_from((0.0, 0.3)),
    rate=st.sampled_from((math.inf, 1e4, 1e6)),
    queue=st.integers(0, 20_000),
    mtu=st.sampled_from((math.inf, 1500)),
)
"""Links that reorder and copy nothing."""

wild = st.builds(
    Pipe,
    delay=st.builds(uniform, st.floats(0.0, 0.1), st.floats(0.1, 1.0)),
    loss=st.floats(0.0, 1.0),
    reorder=st.floats(0.0, 1.0),
    hold=st.floats(0.0, 1.0),
    duplicate=st.floats(0.0, 1.0),
    rate=st.sampled_from((math.inf, 1e4)),
    mtu=st.sampled_from((math.inf, 1000)),
)


async def played(network: VirtualNetwork, schedule: list[tuple[float, int]]) -> tuple[list[Arrival], list[Arrival]]:
    """What A sent and what B got."""
    sender, receiver = Host(network, A), Host(network, B)
    sent: list[Arrival] = []
    for number, (pause, size) in enumerate(schedule):
        await asyncio.sleep(pause)
        sent.append((running().time(), B, numbered(number, size)))
        sender.socket.send(sent[-1][2], B)
    await asyncio.sleep(1000)
    assert sender.got == []
    return sent, receiver.got


@given(st.floats(0.0, 1e3), schedules)
def test_a_fixed_delay_is_kept_to_the_last_bit(delay: float, schedule: list[tuple[float, int]]) -> None:
    async def main() -> None:
        sent, got = await played(network_of(Pipe(delay=delay)), schedule)
        assert got == [(when + delay, A, data) for when, _, data in sent]

    run(main())


@given(steady, schedules)
def test_without_jitter_and_copies_nothing_arrives_twice_altered_or_out_of_order(
    pipe: Pipe, schedule: list[tuple[float, int]]
) -> None:
    async def main() -> None:
        sent, got = await played(network_of(pipe), schedule)
        remaining = iter(data for _, _, data in sent)
        assert all(data in remaining for _, _, data in got)

    run(main())


@given(st.lists(wild | steady, min_size=1, max_size=3), schedules, st.integers(0, 255))
def test_every_datagram_is_accounted_for(pipes: list[Pipe], schedule: list[tuple[float, int]], seed: int) -> None:
    async def main() -> None:
        network = network_of(*pipes, seed=seed)
        sent, got = await played(network, schedule)
        counters = network.counters(A, B)
        assert counters.sent == len(sent)
        assert counters.delivered == len(got)
        assert counters.sent + counters.duplicated == counters.delivered + counters.drops.total()
        assert counters.sent_bytes == sum(len(data) + 28 for _, _, data in sent)
        assert counters.delivered_bytes == sum(len(data) + 28 for _, _, data in got)
        assert network.totals() == counters
        assert {data for _, _, data in got} <= {data for _, _, data in sent}

    run(main())


@given(st.floats(1e3, 1e7), st.integers(0, 100_000), schedules)
def test_no_more_than_the_rate_comes_out_and_no_more_than_the_queue_waits(
    rate: float, queue: int, schedule: list[tuple[float, int]]
) -> None:
    async def main() -> None:
        network = network_of(Pipe(rate=rate, queue=queue, delay=0.5))
        sent, got = await played(network, schedule)
        when_sent = {data[:4]: when for when, _, data in sent}
        for begin in range(len(got)):
            first = when_sent[got[begin][2][:4]]
            out = 0
            for when, _, data in got[begin:]:
                out += len(data) + 28
                assert out <= rate * (when - 0.5 - first) * (1 + 1e-9) + 1e-3
        for when, _, data in got:
            size = len(data) + 28
            assert when - 0.5 - when_sent[data[:4]] <= max(queue, size) / rate + 1e-6

    run(main())


def test_a_full_queue_drops_the_newest_and_the_link_stays_busy() -> None:
    async def main() -> None:
        network = network_of(Pipe(rate=1000, queue=1000))
        sent, got = await played(network, [(0.0, 72)] * 100)
        assert [data for _, _, data in got] == [data for _, _, data in sent[:10]]
        assert [when for when, _, _ in got] == pytest.approx([0.1 * n for n in range(1, 11)])
        assert network.counters(A, B).drops == Counter({Fate.QUEUE_FULL: 90})

    run(main())


def test_an_overloaded_link_delivers_its_rate() -> None:
    async def main() -> None:
        network = network_of(Pipe(rate=1e5, queue=10_000))
        _, got = await played(network, [(0.001, 272)] * 30_000)
        assert sum(len(data) + 28 for _, _, data in got) / 30.0 == pytest.approx(1e5, rel=0.01)

    run(main())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("probability", [0.001, 0.02, 0.5, 0.97])
@pytest.mark.parametrize("kind", ["loss", "duplicate", "reorder"])
def test_accidents_happen_as_often_as_they_should_within_four_sigma(kind: str, probability: float, seed: int) -> None:
    number = 10_000

    async def main() -> None:
        accidents: dict[str, Any] = {kind: probability}
        network = network_of(Pipe(hold=1.0, **accidents), seed=seed)
        sender, receiver = Host(network, A), Host(network, B)
        for i in range(number):
            sender.socket.send(numbered(i), B)
        await asyncio.sleep(10)
        counters = network.counters(A, B)
        late = sum(when == 1.0 for when, _, _ in receiver.got)
        happened = {"loss": counters.drops[Fate.LOST], "duplicate": counters.duplicated, "reorder": late}[kind]
        sigma = math.sqrt(number * probability * (1 - probability))
        assert abs(happened - number * probability) <= 4 * sigma

    run(main())


def test_what_is_certain_always_happens_and_what_is_impossible_never() -> None:
    async def main(certain: float) -> list[bytes]:
        _, got = await played(network_of(Pipe(duplicate=certain)), [(0.1, 10)] * 200)
        return [data for _, _, data in got]

    assert set(Counter(run(main(1.0))).values()) == {2}
    assert set(Counter(run(main(0.0))).values()) == {1}

    async def lost() -> list[Arrival]:
        return (await played(network_of(Pipe(loss=1.0)), [(0.1, 10)] * 200))[1]

    assert run(lost()) == []


def test_a_random_delay_stays_in_its_bounds_and_reorders() -> None:
    async def main() -> None:
        sent, got = await played(network_of(Pipe(delay=uniform(0.1, 0.2))), [(0.001, 10)] * 500)
        when_sent = {data: when for when, _, data in sent}
        took = [when - when_sent[data] for when, _, data in got]
        assert 0.1 <= min(took) < 0.11
        assert 0.19 < max(took) <= 0.2 + 1e-9
        assert sorted(data for _, _, data in got) == [data for _, _, data in sent] != [data for _, _, data in got]

    run(main())


@given(st.integers(0, 255))
def test_unit_is_below_one(byte: int) -> None:
    class Constant:
        def bytes(self, size: int) -> bytes:
            return bytes([byte]) * size

        def below(self, limit: int) -> int:
            raise AssertionError(limit)

    assert 0.0 <= unit(Constant()) < 1.0


@pytest.mark.parametrize(("source", "destination", "largest"), [(A, B, 1372), (A6, B6, 1352)])
def test_the_mtu_counts_the_headers(source: Address, destination: Address, largest: int) -> None:
    async def main() -> None:
        network = network_of(Pipe(mtu=1400))
        sender, receiver = Host(network, source), Host(network, destination)
        for size in (CELL_SIZE, largest, largest + 1, 9000):
            sender.socket.send(bytes(size), destination)
        await asyncio.sleep(1)
        assert [len(data) for data in receiver.data] == [CELL_SIZE, largest]
        assert network.counters(source, destination).drops == Counter({Fate.TOO_BIG: 2})

    run(main())


def test_links_of_a_route_are_entered_when_the_one_before_is_left() -> None:
    class Noting:
        def __init__(self, delay: float) -> None:
            self.delay = delay
            self.entered: list[float] = []

        def carry(self, size: int, now: float, rng: Rng) -> tuple[float, ...]:
            self.entered.append(now)
            return (now + self.delay,)

    async def main() -> None:
        links = Noting(1.0), Noting(0.25), Noting(4.0)
        sent, got = await played(network_of(*links), [(0.5, 10)] * 3)
        assert [link.entered for link in links] == [[0.5, 1.0, 1.5], [1.5, 2.0, 2.5], [1.75, 2.25, 2.75]]
        assert [when for when, _, _ in got] == [when + 5.25 for when, _, _ in sent]

    run(main())


def test_datagrams_that_leave_different_links_at_one_instant_go_on_where_each_of_them_is() -> None:
    async def main() -> None:
        network = network_of(Pipe(delay=1.0), Pipe(delay=1.0))
        sent, got = await played(network, [(0.0, 4), (1.0, 4), (1.0, 4)])
        assert got == [(when + 2.0, A, data) for when, _, data in sent]
        a, b = network.open(C, lambda *_: None), Host(network, ("192.0.2.4", 1))
        start = running().time()
        network.set_route(C, b.socket.address, Pipe(delay=2.0), Pipe(delay=1.0))
        a.send(b"old route", b.socket.address)
        await asyncio.sleep(1)
        network.set_route(C, b.socket.address, Pipe(delay=1.0), Pipe(delay=5.0))
        a.send(b"new route", b.socket.address)
        await asyncio.sleep(9)
        assert b.got == [(start + 3.0, C, b"old route"), (start + 7.0, C, b"new route")]

    run(main())


def test_a_downlink_that_two_senders_share_serves_in_the_order_of_arrival() -> None:
    async def main() -> None:
        downlink = Pipe(rate=1000)
        far, near = Pipe(delay=1.0), Pipe(delay=0.1)
        network = VirtualNetwork(
            running(), StreamRng(bytes(32)), lambda source, _: ({A: far, C: near}[source], downlink)
        )
        a, c, receiver = Host(network, A), Host(network, C), Host(network, B)
        a.socket.send(bytes(72), B)
        c.socket.send(bytes(72), B)
        await asyncio.sleep(0.95)
        c.socket.send(bytes(72), B)
        await asyncio.sleep(5)
        assert [source for _, source, _ in receiver.got] == [C, A, C]
        assert [when for when, _, _ in receiver.got] == pytest.approx([0.2, 1.1, 1.2])

    run(main())


def test_a_link_may_be_any_object_that_carries() -> None:
    class EveryThird:
        count = 0

        def carry(self, size: int, now: float, rng: Rng) -> tuple[float, ...] | Fate:
            self.count += 1
            return (now,) if self.count % 3 else Fate.LOST

    async def main() -> None:
        _, got = await played(network_of(EveryThird()), [(0.1, 4)] * 7)
        assert [data for _, _, data in got] == [numbered(n) for n in (0, 1, 3, 4, 6)]

    run(main())


@pytest.mark.parametrize("arrival", [-1.0, math.nan])
def test_no_link_sends_into_the_past(arrival: float) -> None:
    class Wrong:
        def carry(self, size: int, now: float, rng: Rng) -> tuple[float, ...]:
            return (arrival,)

    async def main() -> None:
        await played(network_of(Wrong()), [(0.1, 4)])

    with pytest.raises(LocalError, match="before it came in"):
        run(main())


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": -0.1},
        {"loss": 1.1},
        {"loss": math.nan},
        {"duplicate": 2.0},
        {"reorder": -1.0},
        {"delay": -1.0},
        {"delay": math.inf},
        {"hold": math.nan},
        {"rate": 0.0},
        {"rate": math.nan},
        {"queue": -1},
        {"mtu": 0},
    ],
)
def test_an_impossible_pipe_is_our_own_fault(wrong: dict[str, Any]) -> None:
    with pytest.raises(LocalError, match=next(iter(wrong))):
        Pipe(**wrong)


def test_what_comes_at_one_instant_shares_one_timer_and_comes_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop, timers = running(), 0
        call_at = loop.call_at

        def counted(*args: Any, **kwargs: Any) -> asyncio.TimerHandle:
            nonlocal timers
            timers += 1
            return call_at(*args, **kwargs)

        network = network_of(Pipe(delay=0.1))
        sender, receiver = Host(network, A), Host(network, B)
        monkeypatch.setattr(loop, "call_at", counted)
        sender.socket.send_many([numbered(n) for n in range(2 * BATCH + 5)], B)
        assert timers == 1
        monkeypatch.undo()
        await asyncio.sleep(1)
        assert receiver.calls == [BATCH, BATCH, 5]
        assert receiver.data == [numbered(n) for n in range(2 * BATCH + 5)]

    run(main())


def test_an_empty_datagram_is_a_datagram() -> None:
    async def main() -> None:
        network = network_of()
        sender, receiver = Host(network, A), Host(network, B)
        sender.socket.send(b"", B)
        await asyncio.sleep(1)
        assert receiver.data == [b""]

    run(main())


def test_a_receiver_that_raises_costs_its_neighbours_nothing() -> None:
    async def main() -> None:
        loop, errors = running(), list[BaseException]()
        loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
        network = network_of(Pipe(delay=1.0))

        def broken(datagrams: list[bytes], source: Address) -> None:
            raise ZeroDivisionError

        network.open(C, broken)
        sender, receiver = Host(network, A), Host(network, B)
        for number in range(3):
            sender.socket.send(numbered(number), C)
            sender.socket.send(numbered(number), B)
        await asyncio.sleep(1)
        await asyncio.sleep(0.5)
        assert [type(error) for error in errors] == [ZeroDivisionError] * 3
        assert receiver.got == [(1.0, A, numbered(number)) for number in range(3)]

    run(main())


def test_an_unplugged_node_neither_hears_nor_is_heard_until_it_is_plugged_in_again() -> None:
    async def main() -> None:
        network = network_of(Pipe(delay=1.0))
        a, b = Host(network, A), Host(network, B)
        a.socket.send(b"on its way before", B)
        b.socket.send(b"sent before", A)
        network.unplug(B)
        await asyncio.sleep(2)
        a.socket.send(b"to the dead", B)
        b.socket.send(b"from the dead", A)
        await asyncio.sleep(2)
        network.plug(B)
        a.socket.send(b"again", B)
        b.socket.send(b"and back", A)
        await asyncio.sleep(2)
        assert (a.data, b.data) == ([b"sent before", b"and back"], [b"again"])
        assert network.counters(A, B).drops == Counter({Fate.UNREACHABLE: 2})
        assert network.counters(B, A).sent == 2

    run(main())


def test_after_a_rebinding_traffic_comes_from_the_new_address_and_the_old_leads_nowhere() -> None:
    new = ("198.51.100.9", 4321)

    async def main() -> None:
        network = network_of(Pipe(delay=1.0))
        a, b = Host(network, A), Host(network, B)
        b.socket.send(b"in flight to the old", A)
        a.socket.send(b"before", B)
        network.move(A, new)
        a.socket.send(b"after", B)
        await asyncio.sleep(2)
        b.socket.send(b"to the old", A)
        b.socket.send(b"to the new", new)
        await asyncio.sleep(2)
        assert [(source, data) for _, source, data in b.got] == [(A, b"before"), (new, b"after")]
        assert a.data == [b"to the new"]
        assert a.socket.address == A
        Host(network, A)
        a.socket.close()
        Host(network, new)

    run(main())


def test_nobody_is_moved_onto_somebody_or_from_nowhere() -> None:
    async def main() -> None:
        network = network_of()
        Host(network, A)
        Host(network, B)
        for old, new, complaint in ((A, B, "in use"), (C, ("192.0.2.9", 1), "nobody")):
            with pytest.raises(LocalError, match=complaint):
                network.move(old, new)
        for act in (network.unplug, network.plug):
            with pytest.raises(LocalError, match="nobody"):
                act(C)

    run(main())


def test_a_tap_at_the_sender_sees_what_is_lost_and_one_at_the_receiver_does_not() -> None:
    async def main() -> None:
        network = network_of(Pipe(delay=1.0, loss=0.5, duplicate=0.5))
        at_sender, at_receiver = list[Datagram](), list[Datagram]()
        untap = network.tap(at_sender.append)
        network.tap(at_receiver.append, Where.RECEIVER)
        sent, got = await played(network, [(0.1, 10)] * 100)
        assert at_sender == [Datagram(when, A, B, data) for when, _, data in sent]
        assert at_receiver == [Datagram(when, A, B, data) for when, _, data in got]
        assert len(got) != len(sent)
        untap()
        network.open(C, lambda *_: None).send(b"unseen", B)
        assert len(at_sender) == 100

    run(main())


def test_a_forged_datagram_arrives_when_and_from_where_the_forger_wants() -> None:
    async def main() -> None:
        network = network_of(Pipe(loss=1.0))
        a, b = Host(network, A), Host(network, B)
        seen: list[Datagram] = []
        network.tap(seen.append)
        network.inject(b"second", ("203.0.113.5", 0), B, after=0.5)
        network.inject(b"first", A, B)
        network.inject(b"nobody there", A, C)
        await asyncio.sleep(1)
        assert b.got == [(0.0, A, b"first"), (0.5, ("203.0.113.5", 0), b"second")]
        assert (a.got, seen, network.totals()) == ([], [], Counters())

    run(main())


def test_a_capture_can_be_replayed_although_the_wire_is_dead() -> None:
    async def main() -> None:
        network = network_of(Pipe(loss=1.0))
        a, b = Host(network, A), Host(network, B)
        network.tap(lambda seen: network.inject(seen.data[::-1], seen.source, seen.destination, after=2.0))
        a.socket.send(b"abc", B)
        await asyncio.sleep(3)
        assert b.got == [(2.0, A, b"cba")]

    run(main())


def test_a_route_can_change_while_datagrams_are_on_the_old_one() -> None:
    async def main() -> None:
        network = network_of(Pipe(delay=1.0), Pipe(delay=1.0))
        a, b = Host(network, A), Host(network, B)
        a.socket.send(b"slow", B)
        await asyncio.sleep(0.5)
        network.set_route(A, B, Pipe(delay=0.1))
        a.socket.send(b"fast", B)
        b.socket.send(b"the other way is as it was", A)
        await asyncio.sleep(5)
        assert [(when, data) for when, _, data in b.got] == [(0.6, b"fast"), (2.0, b"slow")]
        assert a.got[0][0] == 2.5
        with pytest.raises(LocalError, match="at least one"):
            network.set_route(A, B)

    run(main())


def test_an_address_has_one_owner_until_it_is_closed() -> None:
    async def main() -> None:
        network = network_of(Pipe(delay=1.0))
        a, b = Host(network, A), Host(network, B)
        with pytest.raises(LocalError, match="in use"):
            Host(network, B)
        a.socket.send(b"to whom it may concern", B)
        b.socket.close()
        b.socket.close()
        with pytest.raises(LocalError, match="closed"):
            b.socket.send(b"", A)
        heir = Host(network, B)
        await asyncio.sleep(2)
        assert (b.data, heir.data) == ([], [b"to whom it may concern"])

    run(main())


def test_port_zero_is_a_free_port_of_that_host() -> None:
    async def main() -> None:
        network = network_of()
        Host(network, ("192.0.2.1", FIRST_EPHEMERAL + 1))
        opened = [Host(network, (host, 0)).socket.address for host in ("192.0.2.1",) * 3 + ("192.0.2.2",)]
        assert [port - FIRST_EPHEMERAL for _, port in opened] == [0, 2, 3, 0]

    run(main())


@pytest.mark.parametrize("address", [("0.0.0.0", 1), ("::", 1), ("relay.example", 1), ("192.0.2.1", 65536), ("", 0)])
def test_an_address_no_host_can_have_is_refused(address: Address) -> None:
    async def main() -> None:
        network_of().open(address, lambda *_: None)

    with pytest.raises(LocalError):
        run(main())


@pytest.mark.parametrize("destination", [C, B6, ("0.0.0.0", 0)])
def test_where_nobody_listens_or_another_ip_version_is_spoken_nothing_arrives(destination: Address) -> None:
    async def main() -> None:
        network = network_of()
        a = Host(network, A)
        Host(network, B6)
        a.socket.send(b"hello?", destination)
        await asyncio.sleep(1)
        assert network.counters(A, destination).drops == Counter({Fate.UNREACHABLE: 1})

    run(main())


def test_one_ipv6_address_has_many_spellings() -> None:
    async def main() -> None:
        network = network_of()
        a, b = Host(network, A6), Host(network, ("2001:DB8:0:0::2", 1000))
        a.socket.send(b"hello", ("2001:0db8::0002", 1000))
        await asyncio.sleep(1)
        assert b.got == [(0.0, A6, b"hello")]

    run(main())


def test_the_network_is_the_resolver_of_its_loop() -> None:
    async def main() -> None:
        network = network_of()
        network.names["relay.example"] = ("192.0.2.1", "2001:db8::1")
        for name in ("relay.example", "RELAY.example."):
            assert [found[4][0] for found in await running().getaddrinfo(name, 1)] == ["192.0.2.1", "2001:db8::1"]
        with pytest.raises(OSError, match="not known"):
            await running().getaddrinfo("other.example", 1)

    run(main())


def test_a_seed_gives_one_trace_whatever_the_process_hashes_and_the_system_rolls() -> None:
    def trace(seed: int, hash_seed: int) -> str:
        environment = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
        command = [sys.executable, "-m", "tests.sim.trace", str(seed)]
        root = Path(__file__).parents[2]
        done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    traces = [trace(1, hash_seed) for hash_seed in (1, 2, 3)]
    assert len(traces[0]) == 64
    assert len(set(traces)) == 1
    assert trace(2, 1) != traces[0]
