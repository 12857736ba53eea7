"""Host names at an exit: from text to addresses (SPEC 8.5).  Floor 5: asyncio, and dnspython for DNS itself.

An exit asks name servers and nothing else: no /etc/hosts, no search domains, no mDNS, no getaddrinfo, all of which know
names of the machine and its neighbourhood that are nobody's business.  Whether an address may be sent to is not decided
here: the caller checks each address it got and sends to that very address, so that a name cannot change in between.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Protocol

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.rdatatype
import dns.resolver

from tunnels.errors import LocalError, TransientError
from tunnels.exit.policy import IPAddress
from tunnels.ids import Address
from tunnels.params import (
    DNS_ADDRESSES,
    DNS_CACHE,
    DNS_LOOKUPS,
    DNS_MAX_TTL,
    DNS_MIN_TTL,
    DNS_NEGATIVE_TTL,
    DNS_TIMEOUT,
    DNS_TRY,
    MAX_PORT,
)
from tunnels.wire.destination import Destination, Kind

_EDNS_PAYLOAD: Final = 1232
"""Bytes of an answer by UDP (DNS flag day 2020): no fragments; longer ones are asked for again by TCP."""

_NEVER_ASKED: Final = frozenset({"onion", "alt", "local", "localhost", "invalid", "internal", "home.arpa"})
"""Not in DNS (RFC 7686, 9476, 6762, 6761, 8375): asking tells somebody, and only a local answer can come."""


class UnresolvedError(TransientError):
    """The host name has no address that could be found.  The message does not repeat it: it may be logged."""


class BusyError(UnresolvedError):
    """Too many names are being looked for at this moment."""


class Resolver(Protocol):
    """What an exit resolves with: `DnsResolver`, or a table in the simulator."""

    async def resolve(self, name: str) -> list[IPAddress]:
        """At least one address, best first.

        Args:
            name: as `parse_host` gives it; never an address in any spelling.

        Raises:
            UnresolvedError: there is none.  Nothing else.
        """


class Query(Protocol):
    """One question to the name servers."""

    async def __call__(self, name: str, version: int) -> "Answer":
        """The IPv4 (version 4) or IPv6 (version 6) addresses of `name`; none when there is no such name.

        Raises:
            UnresolvedError: no name server gave a usable answer.
        """


@dataclass(frozen=True, slots=True)
class Answer:
    """Addresses and how many seconds they hold."""

    addresses: tuple[IPAddress, ...]
    ttl: float


def parse_host(host: str) -> IPAddress | str:
    """The address `host` spells, or the host name it is: lower case, no dot at the end.

    An address is a dotted quad or RFC 4291 text.  Everything else that ends in a number (127.1, 0177.0.0.1, 0x7f000001,
    2130706433) is neither address nor name, because inet_aton and many resolvers take it for an address that nobody
    has checked.

    Raises:
        UnresolvedError: neither, or a name that is not looked for in DNS.
    """
    try:
        destination = Destination(host, 1)
    except LocalError as error:
        raise UnresolvedError(str(error), retry_after=DNS_NEGATIVE_TTL) from None
    if destination.kind is not Kind.NAME:
        return ip_address(destination.host)
    name = destination.host.lower().removesuffix(".")
    if any(f".{name}".endswith(f".{suffix}") for suffix in _NEVER_ASKED):
        raise UnresolvedError("a special name, which is not in DNS", retry_after=DNS_NEGATIVE_TTL)
    return name


def system_nameservers() -> tuple[Address, ...]:
    """The name servers this machine is configured with; nothing else of its configuration is used.

    Raises:
        LocalError: there are none.
    """
    try:
        servers = dns.resolver.Resolver(configure=True).nameservers
    except dns.exception.DNSException:
        servers = []
    found = tuple((server, 53) for server in servers if isinstance(server, str) and "://" not in server)
    if not found:
        raise LocalError("this machine names no DNS server; set nameservers, for example to 9.9.9.9")
    return found


class DnsQuery:
    """Questions asked with dnspython: a random source port and id each, answers matched to them, TCP when cut short."""

    def __init__(self, nameservers: Sequence[Address]) -> None:
        """
        Args:
            nameservers: in the order in which they are tried.

        Raises:
            ValueError: none, or one that is not a numeric address and a port.
        """
        if not nameservers:
            raise ValueError("nameservers is empty; an exit needs at least one, such as ('9.9.9.9', 53)")
        self._resolver = dns.asyncresolver.Resolver(configure=False)
        self._resolver.nameservers = [dns.nameserver.Do53Nameserver(*_nameserver(server)) for server in nameservers]
        self._resolver.timeout, self._resolver.lifetime = DNS_TRY, DNS_TIMEOUT
        self._resolver.use_edns(0, 0, _EDNS_PAYLOAD)

    async def __call__(self, name: str, version: int) -> Answer:
        kind = dns.rdatatype.A if version == 4 else dns.rdatatype.AAAA
        try:
            found = await self._resolver.resolve(f"{name}.", kind, search=False, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN:
            return Answer((), DNS_NEGATIVE_TTL)
        except dns.exception.DNSException as error:
            # Only the kind of error: dnspython's texts repeat the name.
            raise UnresolvedError(f"no answer from DNS ({type(error).__name__})", retry_after=DNS_TIMEOUT) from None
        records = found.rrset or ()
        return Answer(tuple(ip_address(record.address) for record in records), found.chaining_result.minimum_ttl)


class DnsResolver:
    """Addresses of host names, remembered for DNS_MIN_TTL to DNS_MAX_TTL seconds of the loop's time.

    INVARIANT: at most `lookups` names are being asked for; at most `cache` are remembered.  Who asks for a name that is
    being looked for waits with the others; beyond `lookups` nobody waits.
    """

    def __init__(self, query: Query, *, cache: int = DNS_CACHE, lookups: int = DNS_LOOKUPS) -> None:
        self._query = query
        self._max_cache, self._max_lookups = cache, lookups
        self._cache: OrderedDict[str, tuple[float, tuple[IPAddress, ...]]] = OrderedDict()
        self._lookups: dict[str, asyncio.Task[tuple[IPAddress, ...]]] = {}

    async def resolve(self, name: str) -> list[IPAddress]:
        """As in `Resolver`, and text that spells an address is that address."""
        host = parse_host(name)
        if not isinstance(host, str):
            return [host]
        addresses = self._remembered(host)
        if addresses is None:
            addresses = await asyncio.shield(
                self._lookup(host)
            )  # others may wait for the same: one who leaves ends nothing
        if not addresses:
            raise UnresolvedError("no such host", retry_after=DNS_NEGATIVE_TTL)
        return list(addresses)

    async def aclose(self) -> None:
        """End all lookups; those who wait for one get CancelledError."""
        tasks = list(self._lookups.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _remembered(self, name: str) -> tuple[IPAddress, ...] | None:
        entry = self._cache.get(name)
        if entry is None:
            return None
        if entry[0] <= asyncio.get_running_loop().time():
            del self._cache[name]
            return None
        self._cache.move_to_end(name)
        return entry[1]

    def _lookup(self, name: str) -> asyncio.Task[tuple[IPAddress, ...]]:
        task = self._lookups.get(name)
        if task is None:
            if len(self._lookups) >= self._max_lookups:
                raise BusyError("too many names are being looked for", retry_after=DNS_TIMEOUT)
            task = self._lookups[name] = asyncio.create_task(self._ask(name))
            task.add_done_callback(lambda done: self._ended(name, done))
        return task

    def _ended(self, name: str, task: asyncio.Task[tuple[IPAddress, ...]]) -> None:
        del self._lookups[name]
        if not task.cancelled():
            task.exception()  # taken note of: everybody who waited may have left

    async def _ask(self, name: str) -> tuple[IPAddress, ...]:
        both = await asyncio.gather(self._in_time(name, 4), self._in_time(name, 6), return_exceptions=True)
        answers = [answer for answer in both if isinstance(answer, Answer)]
        addresses = tuple(dict.fromkeys(a for answer in answers for a in answer.addresses))[:DNS_ADDRESSES]
        failed = [answer for answer in both if isinstance(answer, BaseException)]
        if failed and not addresses:
            raise failed[0]
        now = asyncio.get_running_loop().time()
        if addresses:
            ttl = min(answer.ttl for answer in answers if answer.addresses)
            self._remember(name, addresses, now + min(max(ttl, DNS_MIN_TTL), DNS_MAX_TTL))
        else:
            self._remember(name, (), now + DNS_NEGATIVE_TTL)
        return addresses

    async def _in_time(self, name: str, version: int) -> Answer:
        # Each for itself: a name server that is silent about IPv6 must not cost the IPv4 answer.
        try:
            async with asyncio.timeout(DNS_TIMEOUT):
                return await self._query(name, version)
        except TimeoutError:
            raise UnresolvedError("no answer from DNS in time", retry_after=DNS_TIMEOUT) from None

    def _remember(self, name: str, addresses: tuple[IPAddress, ...], until: float) -> None:
        self._cache[name] = (until, addresses)
        self._cache.move_to_end(name)
        if len(self._cache) > self._max_cache:
            self._cache.popitem(last=False)


def _nameserver(server: Address) -> Address:
    host, port = server
    try:
        address = ip_address(host)
    except ValueError:
        raise ValueError(
            f"nameservers: {host!r} is no address; a name server is named by number, such as 9.9.9.9"
        ) from None
    if not 1 <= port <= MAX_PORT:
        raise ValueError(f"nameservers: port {port} of {host} is not 1 to {MAX_PORT}")
    return str(address), port
