"""The UDP side of an exit: who is reached, who may answer, what is bounded; on a virtual clock and on loopback."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.loop import run
from tests.tunnels.exit.test_dns import LOOPBACK_SPELLINGS, SPECIAL_NAMES, serve
from tunnels.errors import LocalError
from tunnels.exit.dns import BusyError, DnsQuery, DnsResolver, UnresolvedError
from tunnels.exit.policy import ExitPolicy, IPAddress
from tunnels.exit.udp import Receive, SocketPort, UdpExit, UdpLimits
from tunnels.ids import Address, Drop
from tunnels.params import EXIT_IDLE, EXIT_PIN, EXIT_QUEUE_OVERHEAD, REJECTED_INTERVAL
from tunnels.wire.messages import RejectReason

ACCEPT_ALL = ExitPolicy.parse("accept *:*")
PUBLIC, OTHER, LOOPBACK = IPv4Address("9.9.9.9"), IPv4Address("8.8.8.8"), IPv4Address("127.0.0.1")
PUBLIC6 = IPv6Address("2620:fe::fe")


# --- An outside that is a list, and names from a table ---------------------------------------------


@dataclass
class FakePort:
    outside: "Outside"
    source: str
    receive: Receive
    open: bool = True

    def send(self, data: bytes, receiver: Address) -> None:
        assert self.open
        if receiver[0] in self.outside.unreachable:
            raise OSError
        self.outside.sent.append((self, receiver, data))

    def close(self) -> None:
        assert self.open
        self.open = False


@dataclass
class Outside:
    ports: list[FakePort] = field(default_factory=list)
    sent: list[tuple[FakePort, Address, bytes]] = field(default_factory=list)
    unreachable: set[str] = field(default_factory=set)
    descriptors: int = 10**6

    def __call__(self, source: str, receive: Receive) -> FakePort:
        if sum(port.open for port in self.ports) >= self.descriptors:
            raise OSError
        self.ports.append(FakePort(self, source, receive))
        return self.ports[-1]

    @property
    def receivers(self) -> list[Address]:
        return [receiver for _, receiver, _ in self.sent]


@dataclass
class Names:
    """A Resolver that gives the next list of addresses each time a name is asked for; the last one stays."""

    table: dict[str, list[list[IPAddress]]] = field(default_factory=dict)
    delay: float = 0.1
    error: Exception | None = None
    asked: list[str] = field(default_factory=list)

    async def resolve(self, name: str) -> list[IPAddress]:
        self.asked.append(name)
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        answers = self.table.get(name)
        if not answers:
            raise UnresolvedError("no such host", retry_after=1)
        return answers.pop(0) if len(answers) > 1 else answers[0]


@dataclass
class Bench:
    """A UdpExit and everything around it, written down."""

    policy: ExitPolicy = ACCEPT_ALL
    names: Names = field(default_factory=Names)
    outside: Outside = field(default_factory=Outside)
    own: set[IPAddress] = field(default_factory=set)
    private: bool = False
    limits: UdpLimits = field(default_factory=UdpLimits)
    datagrams: list[tuple[Hashable, Address, bytes]] = field(default_factory=list)
    rejected: list[tuple[Hashable, str, int, RejectReason]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.exit = UdpExit(
            policy=self.policy,
            resolver=self.names,
            refused=lambda address: address in self.own,
            private=self.private,
            on_datagram=lambda *each: self.datagrams.append(each),
            on_rejected=lambda *each: self.rejected.append(each),
            limits=self.limits,
            open_port=self.outside,
        )

    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        """Run on a virtual clock and close; nothing may stay open, queued or running."""

        async def whole() -> None:
            await main()
            await self.exit.aclose()
            assert self.exit.circuits == self.exit.queued == 0
            assert not [port for port in self.outside.ports if port.open]

        run(whole())


def send(bench: Bench, host: str, port: int = 53, data: bytes = b"x", *, circuit: Hashable = 1) -> None:
    bench.exit.send(circuit, host, port, data)


# --- Where it goes ---------------------------------------------------------------------------------


def test_the_default_policy_sends_nothing_opens_nothing_and_asks_for_no_name() -> None:
    bench = Bench(policy=ExitPolicy.REJECT_ALL)

    async def main() -> None:
        for host in ("9.9.9.9", "2620:fe::fe", "a.example"):
            send(bench, host, circuit=host)
        await asyncio.sleep(10)

    bench.run(main)
    assert not bench.outside.ports
    assert not bench.names.asked
    assert {reason for *_, reason in bench.rejected} == {RejectReason.EXIT_POLICY}
    assert len(bench.rejected) == 3


def test_each_circuit_has_a_port_of_its_own_for_each_ip_version_and_all_destinations() -> None:
    bench = Bench()

    async def main() -> None:
        for circuit in (1, 2):
            for host in ("9.9.9.9", "8.8.8.8", "2620:fe::fe", "2620:fe::9"):
                send(bench, host, circuit=circuit)

    bench.run(main)
    assert [port.source for port in bench.outside.ports] == ["0.0.0.0", "::", "0.0.0.0", "::"]
    assert len({(id(port), receiver) for port, receiver, _ in bench.outside.sent}) == bench.exit.sent == 8


@pytest.mark.parametrize("host", [*LOOPBACK_SPELLINGS, *SPECIAL_NAMES])
@pytest.mark.parametrize("private", [False, True])
def test_a_refused_spelling_reaches_neither_the_resolver_nor_the_network(host: str, *, private: bool) -> None:
    bench = Bench(private=private)

    async def main() -> None:
        send(bench, host)
        await asyncio.sleep(1)

    bench.run(main)
    assert not bench.names.asked
    assert not bench.outside.ports
    assert bench.rejected == [(1, host, 53, RejectReason.NO_SUCH_HOST)]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "fd00:ec2::254", "::1", "fe80::1", "::ffff:127.0.0.1", "::127.0.0.1",
     "64:ff9b::10.0.0.1", "2002:7f00:1::1", "2001:0:808:808::80ff:fffe", "0.0.0.0", "224.0.0.251", "ff02::fb", "::",
     "255.255.255.255", "198.51.100.7"],
)  # fmt: skip
def test_refused_addresses_are_refused_plainly_and_behind_a_name(address: str) -> None:
    bench = Bench(names=Names({"a.example": [[ip_address(address)]]}))

    async def main() -> None:
        send(bench, address, circuit=1)
        send(bench, "a.example", circuit=2)
        await asyncio.sleep(1)

    bench.run(main)
    assert not bench.outside.ports
    assert [reason for *_, reason in bench.rejected] == [RejectReason.EXIT_POLICY] * 2


def test_own_and_relay_addresses_are_refused_plainly_behind_a_name_and_in_6to4() -> None:
    bench = Bench(names=Names({"a.example": [[PUBLIC]]}), own={PUBLIC, LOOPBACK}, private=True)

    async def main() -> None:
        for circuit, host in enumerate(("9.9.9.9", "a.example", "2002:909:909::1", "127.0.0.1", "64:ff9b::9.9.9.9")):
            send(bench, host, circuit=circuit)
        await asyncio.sleep(1)

    bench.run(main)
    assert not bench.outside.ports
    assert len(bench.rejected) == 5


def test_a_relay_that_becomes_known_is_refused_from_then_on() -> None:
    bench = Bench(names=Names({"a.example": [[PUBLIC]]}))

    async def main() -> None:
        send(bench, "a.example")
        await asyncio.sleep(1)
        bench.own.add(PUBLIC)
        send(bench, "a.example")

    bench.run(main)
    assert bench.exit.sent == 1
    assert bench.rejected == [(1, "a.example", 53, RejectReason.EXIT_POLICY)]


def test_a_name_that_is_rebound_reaches_only_the_address_that_was_checked() -> None:
    bench = Bench(names=Names({"a.example": [[PUBLIC], [LOOPBACK]]}))

    async def main() -> None:
        send(bench, "a.example")
        await asyncio.sleep(1)
        send(bench, "a.example")  # within the pin: the address that was checked
        await asyncio.sleep(EXIT_PIN)
        send(bench, "a.example")  # the second answer
        await asyncio.sleep(1)

    bench.run(main)
    assert bench.outside.receivers == [("9.9.9.9", 53)] * 2
    assert bench.names.asked == ["a.example"] * 2
    assert bench.rejected == [(1, "a.example", 53, RejectReason.EXIT_POLICY)]


def test_of_several_addresses_the_first_that_is_allowed_and_reachable_is_used() -> None:
    bench = Bench(names=Names({"a.example": [[LOOPBACK, OTHER, PUBLIC6, PUBLIC]]}))
    bench.outside.unreachable = {"8.8.8.8", "2620:fe::fe"}

    async def main() -> None:
        send(bench, "a.example")
        await asyncio.sleep(1)

    bench.run(main)
    assert bench.outside.receivers == [("9.9.9.9", 53)]


def test_datagrams_to_a_name_keep_their_order_and_their_ports() -> None:
    bench = Bench(names=Names({"a.example": [[PUBLIC]]}))

    async def main() -> None:
        for i in range(9):
            send(bench, "A.example.", 1000 + i, bytes([i]))
        await asyncio.sleep(1)

    bench.run(main)
    assert [(receiver[1], data) for _, receiver, data in bench.outside.sent] == [
        (1000 + i, bytes([i])) for i in range(9)
    ]
    assert bench.names.asked == ["a.example"]


def test_a_network_error_is_counted_and_never_raised() -> None:
    bench = Bench()
    bench.outside.unreachable = {"9.9.9.9"}

    async def main() -> None:
        send(bench, "9.9.9.9")

    bench.run(main)
    assert bench.exit.drops == {Drop.SEND_FAILED: 1}


def test_an_exit_without_descriptors_left_goes_on() -> None:
    bench = Bench()
    bench.outside.descriptors = 1

    async def main() -> None:
        for circuit in range(3):
            send(bench, "9.9.9.9", circuit=circuit)
        bench.exit.close(0)
        send(bench, "9.9.9.9", circuit=1)

    bench.run(main)
    assert bench.exit.sent == 2
    assert bench.exit.drops == {Drop.SEND_FAILED: 2}


garbage_hosts = st.text(max_size=20) | st.text("0123456789abcdefx.:%[]", max_size=20) | st.just("a" * 300)


@given(st.lists(st.tuples(garbage_hosts, st.integers(-1, 70000), st.binary(max_size=3)), max_size=20))
def test_garbage_destinations_are_counted_and_never_raised(datagrams: list[tuple[str, int, bytes]]) -> None:
    bench = Bench()

    async def main() -> None:
        for host, port, data in datagrams:
            send(bench, host, port, data)
        await asyncio.sleep(20)

    bench.run(main)
    assert bench.exit.sent + bench.exit.drops.total() == len(datagrams)
    assert all(0 < port < 65536 for _, port in bench.outside.receivers)


# --- What comes back -------------------------------------------------------------------------------


def test_only_addresses_the_circuit_has_written_to_may_answer_from_any_port() -> None:
    bench = Bench()

    async def main() -> None:
        send(bench, "9.9.9.9", circuit=1)
        send(bench, "8.8.8.8", circuit=2)
        first, second = bench.outside.ports
        first.receive(b"answer", ("9.9.9.9", 53))
        first.receive(b"other port", ("9.9.9.9", 54))
        first.receive(b"stranger", ("1.1.1.1", 53))
        first.receive(b"friend of another circuit", ("8.8.8.8", 53))
        second.receive(b"answer", ("8.8.8.8", 53))

    bench.run(main)
    assert bench.datagrams == [
        (1, ("9.9.9.9", 53), b"answer"),
        (1, ("9.9.9.9", 54), b"other port"),
        (2, ("8.8.8.8", 53), b"answer"),
    ]
    assert bench.exit.drops == {Drop.UNSOLICITED: 2}
    assert bench.exit.received == 3


def test_an_address_that_was_refused_or_unreachable_may_not_answer() -> None:
    bench = Bench(own={OTHER})
    bench.outside.unreachable = {"1.1.1.1"}

    async def main() -> None:
        for host in ("9.9.9.9", "8.8.8.8", "1.1.1.1"):
            send(bench, host)
        for host in ("8.8.8.8", "1.1.1.1"):
            bench.outside.ports[0].receive(b"x", (host, 53))

    bench.run(main)
    assert not bench.datagrams


def test_an_address_may_answer_for_as_long_as_a_nat_would_let_it() -> None:
    bench = Bench()

    async def main() -> None:
        send(bench, "9.9.9.9")
        await asyncio.sleep(EXIT_IDLE - 1)
        send(bench, "8.8.8.8")  # keeps the circuit, not the other address
        bench.outside.ports[0].receive(b"in time", ("9.9.9.9", 53))
        await asyncio.sleep(2)
        assert bench.outside.ports[0].open
        bench.outside.ports[0].receive(b"too late", ("9.9.9.9", 53))

    bench.run(main)
    assert [data for *_, data in bench.datagrams] == [b"in time"]


def test_addresses_that_may_answer_are_bounded_and_the_oldest_goes_first() -> None:
    bench = Bench(limits=UdpLimits(peers=2))

    async def main() -> None:
        for host in ("9.9.9.1", "9.9.9.2", "9.9.9.1", "9.9.9.3"):
            send(bench, host)
        for host in ("9.9.9.1", "9.9.9.2", "9.9.9.3"):
            bench.outside.ports[0].receive(b"x", (host, 53))

    bench.run(main)
    assert [origin[0] for _, origin, _ in bench.datagrams] == ["9.9.9.1", "9.9.9.3"]


# --- Ends ------------------------------------------------------------------------------------------


def test_a_circuit_that_sends_nothing_loses_its_ports_whatever_it_hears() -> None:
    bench = Bench()

    async def main() -> None:
        send(bench, "9.9.9.9", circuit=1)
        await asyncio.sleep(EXIT_IDLE / 2)
        send(bench, "9.9.9.9", circuit=2)
        bench.outside.ports[0].receive(b"x", ("9.9.9.9", 53))
        await asyncio.sleep(EXIT_IDLE / 2 + 1)
        assert [port.open for port in bench.outside.ports] == [False, True]
        assert bench.exit.circuits == 1
        bench.outside.ports[0].receive(b"late", ("9.9.9.9", 53))
        send(bench, "9.9.9.9", circuit=1)
        assert len(bench.outside.ports) == 3
        await asyncio.sleep(EXIT_IDLE + 1)
        assert bench.exit.circuits == 0

    bench.run(main)
    assert [data for *_, data in bench.datagrams] == [b"x"]


def test_closing_a_circuit_closes_its_ports_and_what_waits_is_never_sent() -> None:
    bench = Bench(names=Names({"a.example": [[PUBLIC]]}))

    async def main() -> None:
        send(bench, "9.9.9.9")
        send(bench, "a.example")
        assert bench.exit.queued
        bench.exit.close(1)
        bench.exit.close(1)
        assert bench.exit.queued == bench.exit.circuits == 0
        assert not bench.outside.ports[0].open
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1, "nobody looks for the name any more"
        await asyncio.sleep(1)

    bench.run(main)
    assert bench.outside.receivers == [("9.9.9.9", 53)]


def test_a_circuit_closed_and_opened_again_gets_nothing_from_before() -> None:
    bench = Bench(names=Names({"a.example": [[PUBLIC]]}))

    async def main() -> None:
        send(bench, "a.example", data=b"before")
        await asyncio.sleep(0.05)
        bench.exit.close(1)
        send(bench, "8.8.8.8", data=b"after")
        await asyncio.sleep(1)
        bench.outside.ports[0].receive(b"x", ("9.9.9.9", 53))

    bench.run(main)
    assert [data for *_, data in bench.outside.sent] == [b"after"]
    assert not bench.datagrams


def test_a_closed_exit_sends_nothing() -> None:
    bench = Bench()

    async def main() -> None:
        await bench.exit.aclose()
        with pytest.raises(LocalError, match="closed"):
            send(bench, "9.9.9.9")

    bench.run(main)
    assert not bench.outside.ports


# --- Floods ----------------------------------------------------------------------------------------


def test_one_circuit_is_held_to_its_rate_both_ways() -> None:
    bench = Bench(limits=UdpLimits(rate=100))

    async def main() -> None:
        for _ in range(1000):
            send(bench, "9.9.9.9")
        for _ in range(1000):
            bench.outside.ports[0].receive(b"x", ("9.9.9.9", 53))
        assert (bench.exit.sent, bench.exit.received) == (20, 20)  # the burst
        for _ in range(1000):
            await asyncio.sleep(0.001)
            send(bench, "9.9.9.9")
        assert 118 <= bench.exit.sent <= 121

    bench.run(main)


def test_all_circuits_together_are_held_to_the_total_rate_and_one_over_its_own_takes_nothing_from_others() -> None:
    bench = Bench(limits=UdpLimits(rate=100, total_rate=200))

    async def main() -> None:
        for _ in range(1000):
            send(bench, "9.9.9.9", circuit="flood")
        assert bench.exit.sent == 20
        send(bench, "8.8.8.8", circuit="honest")
        assert bench.outside.receivers[-1] == ("8.8.8.8", 53)
        for circuit in range(1000):
            send(bench, "8.8.8.8", circuit=circuit)
            for port in bench.outside.ports[:1]:
                port.receive(b"x", ("9.9.9.9", 53))
        assert bench.exit.sent == 40
        assert bench.exit.received == 20

    bench.run(main)


def test_circuits_with_ports_are_bounded() -> None:
    bench = Bench(limits=UdpLimits(circuits=5))

    async def main() -> None:
        for circuit in range(50):
            send(bench, "9.9.9.9", circuit=circuit)
        assert bench.exit.circuits == len(bench.outside.ports) == 5
        bench.exit.close(0)
        send(bench, "9.9.9.9", circuit=99)
        assert bench.exit.circuits == 5

    bench.run(main)
    assert bench.exit.drops == {Drop.LIMIT: 45}
    assert len(bench.rejected) == 5, "what is remembered of rejections is bounded too"


@pytest.mark.parametrize("size", [0, 1000])
def test_bytes_waiting_for_names_are_bounded_for_a_circuit_and_in_total(size: int) -> None:
    bench = Bench(limits=UdpLimits(queue=5000, total_queue=12000), names=Names(delay=3))
    most = 0

    async def main() -> None:
        nonlocal most
        for circuit in range(5):
            for i in range(100):
                send(bench, f"{i % 3}.example", data=bytes(size), circuit=circuit)
                most = max(most, bench.exit.queued)
            if circuit == 0:
                assert 5000 - size - EXIT_QUEUE_OVERHEAD < bench.exit.queued <= 5000
        assert 12000 - size - EXIT_QUEUE_OVERHEAD < most <= 12000
        await asyncio.sleep(4)
        assert bench.exit.queued == 0

    bench.run(main)


def test_names_looked_for_at_one_time_are_bounded_for_a_circuit_and_in_total() -> None:
    bench = Bench(limits=UdpLimits(names=3, total_names=7), names=Names(delay=3))

    async def main() -> None:
        for circuit in range(5):
            for i in range(10):
                send(bench, f"{i}.{circuit}.example", circuit=circuit)
        await asyncio.sleep(0)
        assert bench.names.asked[:4] == ["0.0.example", "1.0.example", "2.0.example", "0.1.example"]
        assert len(bench.names.asked) == 7
        await asyncio.sleep(4)
        send(bench, "again.example")
        await asyncio.sleep(0)
        assert len(bench.names.asked) == 8

    bench.run(main)


def test_pins_are_bounded() -> None:
    bench = Bench(limits=UdpLimits(pins=2), names=Names({f"{i}.example": [[PUBLIC]] for i in range(3)}))

    async def main() -> None:
        for name in ("0.example", "1.example", "2.example", "2.example", "0.example"):
            send(bench, name)
            await asyncio.sleep(1)

    bench.run(main)
    assert bench.names.asked == ["0.example", "1.example", "2.example", "0.example"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnresolvedError("no", retry_after=1), RejectReason.NO_SUCH_HOST),
        (BusyError("busy", retry_after=1), RejectReason.LIMIT),
    ],
)
def test_a_name_that_cannot_be_resolved_is_answered_with_the_reason(error: Exception, reason: RejectReason) -> None:
    bench = Bench(names=Names(error=error))

    async def main() -> None:
        send(bench, "a.example")
        await asyncio.sleep(1)

    bench.run(main)
    assert bench.rejected == [(1, "a.example", 53, reason)]


def test_a_resolver_that_never_answers_holds_nothing_for_ever() -> None:
    bench = Bench(names=Names(delay=1e9))

    async def main() -> None:
        send(bench, "a.example")
        await asyncio.sleep(11)
        assert bench.exit.queued == 0

    bench.run(main)
    assert bench.rejected == [(1, "a.example", 53, RejectReason.NO_SUCH_HOST)]


def test_a_circuit_hears_of_rejections_at_most_once_a_second() -> None:
    bench = Bench(policy=ExitPolicy.REJECT_ALL)

    async def main() -> None:
        for _ in range(35):
            send(bench, "9.9.9.9", circuit=1)
            send(bench, "9.9.9.9", circuit=2)
            await asyncio.sleep(REJECTED_INTERVAL / 10)

    bench.run(main)
    assert [circuit for circuit, *_ in bench.rejected] == [1, 2] * 4
    assert bench.exit.drops == {Drop.EXIT_POLICY: 70}


def test_a_callback_may_close_the_circuit() -> None:
    bench = Bench(names=Names({"a.example": [[LOOPBACK]]}))
    bench.exit._on_rejected = lambda circuit, *_: bench.exit.close(circuit)  # noqa: SLF001

    async def main() -> None:
        for _ in range(3):
            send(bench, "a.example")
        await asyncio.sleep(1)
        assert bench.exit.circuits == 0

    bench.run(main)


@pytest.mark.parametrize("limit", ["circuits", "idle", "rate", "queue", "total_names", "peers"])
def test_a_limit_is_above_zero(limit: str) -> None:
    with pytest.raises(ValueError, match=f"{limit} is 0"):
        UdpLimits(**{limit: 0})


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "wrong"),
    [("::1", "::", "source_ipv4"), ("0.0.0.0", "127.0.0.1", "source_ipv6"), ("exit.example", "::", "source_ipv4")],
)
def test_a_source_address_is_an_address_of_its_version(ipv4: str, ipv6: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        UdpExit(
            policy=ACCEPT_ALL,
            resolver=Names(),
            refused=lambda _: False,
            private=False,
            on_datagram=lambda *_: None,
            on_rejected=lambda *_: None,
            source_ipv4=ipv4,
            source_ipv6=ipv6,
        )


# --- On loopback -----------------------------------------------------------------------------------


class Echo:
    """Sends back what it gets, and notes from whom.  asyncio's own transport would not send an empty datagram."""

    def __init__(self, host: str) -> None:
        self.seen: list[tuple[bytes, Address]] = []
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((host, 0))
        self.port: int = self.socket.getsockname()[1]
        asyncio.get_running_loop().add_reader(self.socket, self.read)

    def read(self) -> None:
        data, sender = self.socket.recvfrom(65535)
        self.seen.append((data, sender[:2]))
        self.socket.sendto(data, sender)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()


@contextmanager
def no_descriptor_stays_open() -> Iterator[None]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@dataclass
class Real:
    """A UdpExit on real sockets, and a queue of what comes back."""

    policy: ExitPolicy = ACCEPT_ALL
    private: bool = True
    resolver: Names | DnsResolver = field(default_factory=Names)
    own: set[IPAddress] = field(default_factory=set)
    sources: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.answers: asyncio.Queue[tuple[Hashable, Address, bytes]] = asyncio.Queue()
        self.rejected: asyncio.Queue[RejectReason] = asyncio.Queue()
        self.exit = UdpExit(
            policy=self.policy,
            resolver=self.resolver,
            refused=lambda address: address in self.own,
            private=self.private,
            on_datagram=lambda *each: self.answers.put_nowait(each),
            on_rejected=lambda circuit, host, port, reason: self.rejected.put_nowait(reason),
            source_ipv4=self.sources.get("4", "0.0.0.0"),
            source_ipv6=self.sources.get("6", "::"),
        )

    async def answer(self) -> tuple[Hashable, Address, bytes]:
        return await asyncio.wait_for(self.answers.get(), 20)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


LOOPBACKS = [
    "127.0.0.1",
    pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no ::1 on this machine")),
]


@pytest.mark.parametrize("host", LOOPBACKS)
def test_datagrams_of_every_size_come_back_from_where_they_were_sent(host: str) -> None:
    async def main() -> None:
        server = Echo(host)
        port = server.port
        real = Real()
        for data in (b"", b"x", os.urandom(1200), os.urandom(9000)):
            real.exit.send("circuit", host, port, data)
            assert await real.answer() == ("circuit", (host, port), data)
        assert len({sender for _, sender in server.seen}) == 1
        real.exit.send("other", host, port, b"x")
        await real.answer()
        assert len({sender for _, sender in server.seen}) == 2
        await real.exit.aclose()
        server.close()

    asyncio.run(main())


def test_the_source_address_can_be_chosen() -> None:
    async def main() -> None:
        server = Echo("127.0.0.1")
        port = server.port
        real = Real(sources={"4": "127.7.0.1"})
        real.exit.send(1, "127.0.0.1", port, b"x")
        await real.answer()
        assert server.seen[0][1][0] == "127.7.0.1"
        await real.exit.aclose()
        server.close()

    asyncio.run(main())


def test_closing_and_idling_free_the_descriptors() -> None:
    async def main() -> None:
        server = Echo("127.0.0.1")
        port = server.port
        real = Real()
        with no_descriptor_stays_open():
            for circuit in range(50):
                real.exit.send(circuit, "127.0.0.1", port, b"x")
            for _ in range(50):
                await real.answer()
            for circuit in range(40):
                real.exit.close(circuit)
            await real.exit.aclose()
        server.close()

    asyncio.run(main())


def test_a_source_address_of_another_machine_is_a_counted_failure_and_leaks_nothing() -> None:
    async def main() -> None:
        real = Real(sources={"4": "192.0.2.77"})
        with no_descriptor_stays_open():
            for _ in range(20):
                real.exit.send(1, "127.0.0.1", 9, b"x")
        assert real.exit.drops == {Drop.SEND_FAILED: 20}
        await real.exit.aclose()

    asyncio.run(main())


def test_a_datagram_larger_than_udp_can_carry_is_counted() -> None:
    async def main() -> None:
        real = Real()
        real.exit.send(1, "127.0.0.1", 9, bytes(65535))
        assert real.exit.drops == {Drop.SEND_FAILED: 1}
        await real.exit.aclose()

    asyncio.run(main())


def test_a_receiver_that_closes_the_circuit_while_datagrams_wait_is_served() -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            got: list[bytes] = []

            def receive(data: bytes, sender: Address) -> None:
                got.append(data)
                port.close()

            port = SocketPort("127.0.0.1", receive)
            port.send(b"hello", peer.getsockname())
            _, address = peer.recvfrom(10)
            for _ in range(5):
                peer.sendto(b"x", address)
            await asyncio.sleep(0.01)
            port.close()
            assert got == [b"x"]

    asyncio.run(main())


def test_names_come_from_a_real_server_and_a_private_answer_is_refused() -> None:
    async def main(at: Address) -> None:
        server = Echo("127.0.0.1")
        port = server.port
        resolver = DnsResolver(DnsQuery([at]))
        lenient, strict = Real(resolver=resolver), Real(resolver=resolver, private=False)
        lenient.exit.send(1, "inside.example", port, b"x")
        assert await lenient.answer() == (1, ("127.0.0.1", port), b"x")
        strict.exit.send(1, "inside.example", port, b"y")
        assert await asyncio.wait_for(strict.rejected.get(), 20) is RejectReason.EXIT_POLICY
        strict.exit.send(2, "nobody.example", port, b"y")
        assert await asyncio.wait_for(strict.rejected.get(), 20) is RejectReason.NO_SUCH_HOST
        assert [data for data, _ in server.seen] == [b"x"]
        await lenient.exit.aclose()
        await strict.exit.aclose()
        await resolver.aclose()
        server.close()

    with serve("inside.example. 1 IN A 127.0.0.1") as (_, at):
        asyncio.run(main(at))
