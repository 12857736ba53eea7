"""Host names at an exit: what is never asked for, what is remembered, and for how long."""

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import dns.resolver
import dnslib
import dnslib.server
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.loop import run
from tunnels.errors import LocalError
from tunnels.exit.dns import Answer, BusyError, DnsQuery, DnsResolver, UnresolvedError, parse_host, system_nameservers
from tunnels.exit.policy import IPAddress
from tunnels.ids import Address
from tunnels.params import DNS_MAX_TTL, DNS_MIN_TTL, DNS_NEGATIVE_TTL, DNS_TIMEOUT

PUBLIC = IPv4Address("9.9.9.9")
PUBLIC6 = IPv6Address("2620:fe::fe")

LOOPBACK_SPELLINGS = (
    "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0x7f.0.0.1", "017700000001", "0177.0.0.1", "0177.1",
    "127.0.0.01", "127.0.0.1.", "127.1.", "0x7F000001", "0X7f000001", "127.0.0.0x1", "127.0x0.1", "00.0.0.0", "0",
    "0x", "1", "127.0.0.1 ", " 127.0.0.1", "127.0.0.1\n", "127.0.0.1%lo", "[::1]", "::1%lo", "::ffff:127.1",
    "::ffff:0x7f.0.0.1", "0::0::1", "4294967297", "127.0.0.256", "1.127.0.0.1", "\uff11\uff12\uff17.0.0.1",
    "127\u30020.0.1", "example.1", "example.0x7f", "http://127.0.0.1", "user@example.com", "a..b", ".", "",
    ".example", "-" * 64, "a" * 254, "ex\0ample", "ex ample.com",
)  # fmt: skip
"""Neither addresses nor names: most are 127.0.0.1 to inet_aton, to a browser, or to some resolver."""

SPECIAL_NAMES = (
    "localhost", "LOCALHOST.", "a.localhost", "printer.local", "x.onion", "x.ONION", "x.alt",
    "metadata.google.internal", "a.home.arpa", "a.invalid",
)  # fmt: skip


@pytest.mark.parametrize("host", [*LOOPBACK_SPELLINGS, *SPECIAL_NAMES])
def test_what_is_neither_an_address_nor_a_dns_name_is_refused_and_never_asked_for(host: str) -> None:
    query = Table()

    async def main() -> None:
        with pytest.raises(UnresolvedError):
            await DnsResolver(query).resolve(host)

    with pytest.raises(UnresolvedError) as caught:
        parse_host(host)
    assert len(host) < 4 or host not in str(caught.value), "what a user visits must not end up in a log"
    run(main())
    assert not query.asked


@given(
    st.text("0123456789abcdefxX.", max_size=20)
    | st.from_regex(r"(0[xX]?)?[0-9a-f]{1,11}(\.(0[xX]?)?[0-9a-f]{1,11}){0,3}")
)
def test_no_text_that_inet_aton_takes_becomes_a_host_name(host: str) -> None:
    try:
        packed = socket.inet_aton(host)
    except (OSError, ValueError):
        return
    try:
        parsed = parse_host(host)
    except UnresolvedError:
        return
    assert parsed == IPv4Address(packed)
    assert host == str(parsed)


@pytest.mark.parametrize(
    ("host", "parsed"),
    [
        ("127.0.0.1", IPv4Address("127.0.0.1")),
        ("::1", IPv6Address("::1")),
        ("0:0:0:0:0:0:0:1", IPv6Address("::1")),
        ("2620:FE::fe", PUBLIC6),
        ("::ffff:127.0.0.1", IPv6Address("::ffff:127.0.0.1")),
        ("Example.COM.", "example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_sip._udp.example", "_sip._udp.example"),
        ("printer", "printer"),
        ("notonion", "notonion"),
        ("0x7f.example", "0x7f.example"),
    ],
)
def test_addresses_and_names_have_one_form(host: str, parsed: IPAddress | str) -> None:
    assert parse_host(host) == parsed


# --- On a virtual clock ---------------------------------------------------------------------------


@dataclass
class Table:
    """A Query from a table.  INVARIANT: `asked` counts questions for IPv4."""

    answers: dict[tuple[str, int], Answer | Exception] = field(default_factory=dict)
    delay: dict[int, float] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    now: int = 0
    most: int = 0

    async def __call__(self, name: str, version: int) -> Answer:
        self.asked[name] += version == 4
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.delay.get(version, 0.1))
        finally:
            self.now -= 1
        answer = self.answers.get((name, version), Answer((), 0))
        if isinstance(answer, Exception):
            raise answer
        return answer


def only(address: IPAddress, ttl: float = 600) -> dict[tuple[str, int], Answer | Exception]:
    return {("a.example", address.version): Answer((address,), ttl)}


@pytest.mark.parametrize(("ttl", "kept"), [(0, DNS_MIN_TTL), (1, DNS_MIN_TTL), (600, 600), (2**31, DNS_MAX_TTL)])
def test_a_name_is_remembered_for_its_ttl_within_bounds(ttl: float, kept: float) -> None:
    query = Table(only(PUBLIC, ttl))

    async def main() -> None:
        resolver = DnsResolver(query)
        assert await resolver.resolve("a.example") == [PUBLIC]
        await asyncio.sleep(kept - 0.5)
        assert await resolver.resolve("A.Example.") == [PUBLIC]
        assert query.asked["a.example"] == 1
        await asyncio.sleep(1)
        await resolver.resolve("a.example")
        assert query.asked["a.example"] == 2

    run(main())


def test_a_name_that_does_not_exist_is_remembered_for_a_while() -> None:
    query = Table()

    async def main() -> None:
        resolver = DnsResolver(query)
        for _ in range(3):
            with pytest.raises(UnresolvedError, match="no such host"):
                await resolver.resolve("a.example")
        assert query.asked["a.example"] == 1
        await asyncio.sleep(DNS_NEGATIVE_TTL)
        with pytest.raises(UnresolvedError):
            await resolver.resolve("a.example")
        assert query.asked["a.example"] == 2

    run(main())


def test_both_ip_versions_are_asked_for_and_ipv4_comes_first() -> None:
    query = Table(only(PUBLIC) | only(PUBLIC6))
    assert run(DnsResolver(query).resolve("a.example")) == [PUBLIC, PUBLIC6]


@pytest.mark.parametrize("version", [4, 6])
def test_silence_about_one_ip_version_does_not_cost_the_other(version: int) -> None:
    address = PUBLIC6 if version == 4 else PUBLIC
    query = Table(only(address), delay={version: 1e6})
    assert run(DnsResolver(query).resolve("a.example")) == [address]


def test_a_failure_is_not_remembered() -> None:
    query = Table({("a.example", 4): UnresolvedError("servfail", retry_after=1)})

    async def main() -> None:
        resolver = DnsResolver(query)
        for _ in range(2):
            with pytest.raises(UnresolvedError, match="servfail"):
                await resolver.resolve("a.example")
        assert query.asked["a.example"] == 2

    run(main())


def test_name_servers_that_are_silent_cost_the_timeout_and_no_more() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(UnresolvedError, match="in time"):
            await DnsResolver(Table(delay={4: 1e6, 6: 1e6})).resolve("a.example")
        assert loop.time() - began == pytest.approx(DNS_TIMEOUT)

    run(main())


def test_those_who_ask_for_one_name_share_one_lookup_and_one_who_leaves_does_not_end_it() -> None:
    query = Table(only(PUBLIC))

    async def main() -> None:
        resolver = DnsResolver(query)
        tasks = [asyncio.create_task(resolver.resolve("a.example")) for _ in range(100)]
        await asyncio.sleep(0.05)
        tasks[0].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError)
        assert done[1:] == [[PUBLIC]] * 99
        assert query.asked["a.example"] == 1

    run(main())


def test_lookups_at_one_time_are_bounded_and_those_beyond_fail_at_once() -> None:
    query = Table()

    async def main() -> None:
        resolver = DnsResolver(query, lookups=8)
        tasks = [asyncio.create_task(resolver.resolve(f"{i}.example")) for i in range(100)]
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(each, BusyError) for each in done) == 92
        assert query.most == 16  # two questions each
        with pytest.raises(UnresolvedError, match="no such host"):
            await resolver.resolve("again.example")

    run(main())


def test_what_is_remembered_is_bounded_and_the_least_used_goes_first() -> None:
    query = Table()

    async def ask(resolver: DnsResolver, name: str) -> None:
        with pytest.raises(UnresolvedError):
            await resolver.resolve(name)

    async def main() -> None:
        resolver = DnsResolver(query, cache=3)
        for name in ("a", "b", "c", "a", "d"):
            await ask(resolver, name)
        query.asked.clear()
        await ask(resolver, "a")
        assert not query.asked
        await ask(resolver, "b")
        assert query.asked["b"] == 1

    run(main())


def test_a_name_has_a_bounded_number_of_addresses() -> None:
    many = tuple(IPv4Address(int(PUBLIC) + i) for i in range(1000))
    addresses = run(DnsResolver(Table({("a.example", 4): Answer(many * 2, 600)})).resolve("a.example"))
    assert addresses == list(many[:16])


def test_closing_ends_lookups() -> None:
    async def main() -> None:
        resolver = DnsResolver(Table(delay={4: 1e6, 6: 1e6}))
        waiting = asyncio.create_task(resolver.resolve("a.example"))
        await asyncio.sleep(0.1)
        await resolver.aclose()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(main())


# --- Against a real DNS server ---------------------------------------------------------------------


MAX_UDP = 1232
"""Bytes of an answer by UDP; a longer one is cut short."""


class Zone(dnslib.server.BaseResolver):  # type: ignore[misc]
    """Answers from text records and notes what it was asked."""

    def __init__(self, records: str) -> None:
        self.records = dnslib.RR.fromZone(records)
        self.asked: list[tuple[str, str, str]] = []

    def resolve(self, request: Any, handler: Any) -> Any:
        reply = request.reply()
        name, kind = str(request.q.qname), dnslib.QTYPE[request.q.qtype]
        self.asked.append((name, kind, handler.protocol))
        if name == "broken.example.":
            reply.header.rcode = dnslib.RCODE.SERVFAIL
            return reply
        for record in self.records:
            if str(record.rname) == name and dnslib.QTYPE[record.rtype] in (kind, "CNAME"):
                reply.add_answer(record)
                if dnslib.QTYPE[record.rtype] == "CNAME":
                    for target in self.records:
                        if target.rname == record.rdata.label and dnslib.QTYPE[target.rtype] == kind:
                            reply.add_answer(target)
        if not reply.rr and not any(str(record.rname) == name for record in self.records):
            reply.header.rcode = dnslib.RCODE.NXDOMAIN
        if handler.protocol == "udp" and len(reply.pack()) > MAX_UDP:
            reply = request.reply()
            reply.header.tc = 1
        return reply


@contextmanager
def serve(records: str) -> Iterator[tuple[Zone, Address]]:
    zone = Zone(records)
    logger = dnslib.server.DNSLogger(logf=lambda _: None)
    tcp = dnslib.server.DNSServer(zone, port=0, address="127.0.0.1", tcp=True, logger=logger)
    port = tcp.server.server_address[1]
    udp = dnslib.server.DNSServer(zone, port=port, address="127.0.0.1", logger=logger)
    for server in (tcp, udp):
        server.start_thread()
    try:
        yield zone, ("127.0.0.1", port)
    finally:
        for server in (tcp, udp):
            server.stop()
            server.server.server_close()
            server.thread.join()


def test_a_real_server_is_asked_for_both_versions_and_followed_through_aliases() -> None:
    with serve(
        "a.example. 600 IN A 9.9.9.9\na.example. 600 IN AAAA 2620:fe::fe\nb.example. 600 IN CNAME a.example."
    ) as (_, at):
        resolver = DnsResolver(DnsQuery([at]))
        assert asyncio.run(resolver.resolve("b.example")) == [PUBLIC, PUBLIC6]


def test_an_answer_too_long_for_a_datagram_comes_by_tcp() -> None:
    records = "\n".join(f"a.example. 600 IN A 9.9.{i}.9" for i in range(200))
    with serve(records) as (zone, at):
        answer = asyncio.run(DnsQuery([at])("a.example", 4))
    assert len(answer.addresses) == 200
    assert answer.ttl == 600
    assert ("a.example.", "A", "tcp") in zone.asked


def test_no_such_name_and_a_server_that_fails_are_told_apart() -> None:
    async def main(at: Address) -> None:
        assert await DnsQuery([at])("c.example", 4) == Answer((), DNS_NEGATIVE_TTL)
        with pytest.raises(UnresolvedError, match="no answer from DNS") as caught:
            await DnsQuery([at])("broken.example", 4)
        assert "broken" not in str(caught.value)

    with serve("a.example. 600 IN A 9.9.9.9") as (_, at):
        asyncio.run(main(at))


def test_the_next_server_is_asked_when_one_fails() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        dead = closed.getsockname()
    with serve("a.example. 600 IN A 9.9.9.9") as (_, good):
        answer = asyncio.run(DnsQuery([dead, good])("a.example", 4))
    assert answer.addresses == (PUBLIC,)


def test_neither_hosts_nor_search_domains_are_consulted(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("asked this machine")

    with serve("printer.lan. 600 IN A 9.9.9.9") as (zone, at):
        resolver = DnsResolver(DnsQuery([at]))
        monkeypatch.setattr(socket, "getaddrinfo", forbidden)
        monkeypatch.setattr(socket, "gethostbyname", forbidden)
        for name in ("printer", socket.gethostname().split(".")[0] or "me", "ip6-loopback"):
            with pytest.raises(UnresolvedError):
                asyncio.run(resolver.resolve(name))
    assert all(name.count(".") == 1 for name, _, _ in zone.asked)
    assert ("printer.", "A", "udp") in zone.asked


@pytest.mark.parametrize(
    ("servers", "error"),
    [
        ([], "empty"),
        ([("dns.example", 53)], "no address"),
        ([("9.9.9.9", 0)], "port 0"),
        ([("9.9.9", 53)], "no address"),
    ],
)
def test_name_servers_are_numeric_addresses(servers: list[Address], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        DnsQuery(servers)


def test_the_machines_name_servers_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Configured:
        nameservers = ("9.9.9.9", "2620:fe::fe", "https://dns.example/")

    monkeypatch.setattr(dns.resolver, "Resolver", lambda configure: Configured)
    assert system_nameservers() == (("9.9.9.9", 53), ("2620:fe::fe", 53))


def test_a_machine_without_name_servers_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(configure: bool) -> None:  # noqa: FBT001
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(dns.resolver, "Resolver", none)
    with pytest.raises(LocalError, match="set nameservers"):
        system_nameservers()
