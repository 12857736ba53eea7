"""SPEC 1 with whole communities on real sockets: ours and a foreign one share every endpoint an app may have, circuits
cross IPv4 and IPv6, and whatever a stranger sends to the port is dropped and counted.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing
from functools import partial
from itertools import count
from typing import Any, Final

import pytest
from ipv8.community import Community, CommunitySettings
from ipv8.keyvault.crypto import default_eccrypto
from ipv8.messaging.anonymization.endpoint import TunnelEndpoint
from ipv8.messaging.interfaces.dispatcher.endpoint import DispatcherEndpoint
from ipv8.messaging.interfaces.endpoint import Endpoint
from ipv8.messaging.interfaces.statistics_endpoint import StatisticsEndpoint
from ipv8.messaging.interfaces.udp.endpoint import Address as IPv8Address
from ipv8.messaging.interfaces.udp.endpoint import UDPEndpoint, UDPv4Address, UDPv6Address, UDPv6Endpoint
from ipv8.peer import Peer
from ipv8.peerdiscovery.network import Network
from ipv8.util import maybe_coroutine
from ipv8_rust_tunnels import Endpoint as RustEndpoint

from tests.tunnels.endpoint.loopback import PATIENCE, descriptors, run, udp, until
from tests.tunnels.exit.test_udp import Echo
from tunnels.circuit.origin import OriginCircuit
from tunnels.community import TunnelCommunity
from tunnels.endpoint.batched import BatchedEndpoint
from tunnels.errors import EndpointError
from tunnels.ids import Address, Drop
from tunnels.params import CELL_SIZE
from tunnels.settings import TunnelSettings

Make = Callable[[str], Endpoint]

IPV6: Final = "::1"


def dispatcher(ip: str) -> DispatcherEndpoint:
    return DispatcherEndpoint(["UDPIPv4", "UDPIPv6"], UDPIPv4={"ip": ip}, UDPIPv6={"ip": IPV6})


ENDPOINTS: Final[dict[str, Make]] = {
    "UDPEndpoint": lambda ip: UDPEndpoint(ip=ip),
    "dispatcher": dispatcher,
    "statistics": lambda ip: StatisticsEndpoint(UDPEndpoint(ip=ip)),
    "statistics of a dispatcher": lambda ip: StatisticsEndpoint(dispatcher(ip)),
    "anonymised": lambda ip: TunnelEndpoint(UDPEndpoint(ip=ip)),
    "batched": lambda ip: BatchedEndpoint((ip, 0)),
    "batched without trains": lambda ip: BatchedEndpoint((ip, 0), batching=False),
    "statistics of batched": lambda ip: StatisticsEndpoint(BatchedEndpoint((ip, 0))),
}

DEAF: Final = {"statistics of a dispatcher"}
"""Where py-ipv8 3.2 lets a stock community hear nothing, whether ours is there or not."""


class Foreign(Community):
    """An application's own overlay: answers what it hears."""

    community_id = b"a stock community..."

    def __init__(self, settings: CommunitySettings) -> None:
        super().__init__(settings)
        self.heard: list[bytes] = []
        self.add_message_handler(1, self._on_question)
        self.add_message_handler(2, self._on_answer)

    def ask(self, address: IPv8Address, text: bytes) -> None:
        self.endpoint.send(address, self.get_prefix() + b"\x01" + text)

    def _on_question(self, source: IPv8Address, data: bytes) -> None:
        self.endpoint.send(source, self.get_prefix() + b"\x02" + data[23:])

    def _on_answer(self, source: IPv8Address, data: bytes) -> None:
        self.heard.append(data[23:])


class Site:
    """A process in miniature: one endpoint, ours and a foreign community on it."""

    def __init__(self, endpoint: Endpoint, tunnels: TunnelCommunity, foreign: Foreign) -> None:
        self.endpoint, self.tunnels, self.foreign = endpoint, tunnels, foreign

    @property
    def addresses(self) -> tuple[Address, ...]:
        return addresses_of(self.endpoint)

    @property
    def ipv8_address(self) -> IPv8Address:
        host, port = self.addresses[0]
        return UDPv6Address(host, port) if ":" in host else UDPv4Address(host, port)


def addresses_of(endpoint: Endpoint) -> tuple[Address, ...]:
    """Where it is bound, IPv4 first."""
    below = endpoint
    while isinstance(below, StatisticsEndpoint | TunnelEndpoint):
        below = below.endpoint
    if isinstance(below, BatchedEndpoint):
        return below.addresses
    sockets = below.interfaces.values() if isinstance(below, DispatcherEndpoint) else [below]
    return tuple(each.get_address()[:2] for each in sockets)


class Sites:
    """Sites on loopback, and what an exit reaches: an echo at an address that is no relay's."""

    def __init__(self) -> None:
        self.all: list[Site] = []
        self.echo = Echo("127.99.0.1")
        self.inbox: list[bytes] = []

    async def site(self, endpoint: Endpoint, *, first: str = "ours", relay: bool = False, exits: bool = False,
                   **fields: Any) -> Site:  # fmt: skip
        """
        Args:
            first: which of the two communities is made first.
        """
        await endpoint.open()
        peer = Peer(default_eccrypto.generate_key("curve25519"))
        foreign: Foreign | None = None
        if first == "foreign":
            foreign = self._foreign(endpoint)
        tunnels = TunnelCommunity(
            TunnelSettings(
                my_peer=peer, endpoint=endpoint, network=Network(), private_addresses=True, distinct_networks=False,
                relay_addresses=addresses_of(endpoint) if relay else (), become_exitnode=exits, exit_private=True,
                exit_policy="accept *:*" if exits else "reject *:*", **fields,
            )
        )  # fmt: skip
        site = Site(endpoint, tunnels, foreign or self._foreign(endpoint))
        self.all.append(site)
        for one in self.all:
            for info in [each.tunnels.relay_info for each in self.all]:
                if info is not None:
                    one.tunnels.add_relay(info)
        return site

    def _foreign(self, endpoint: Endpoint) -> Foreign:
        peer = Peer(default_eccrypto.generate_key("curve25519"))
        return Foreign(CommunitySettings(my_peer=peer, endpoint=endpoint, network=Network()))

    async def circuit(self, client: Site, hops: int) -> OriginCircuit:
        client.tunnels.on_data(lambda circuit, origin, payload: self.inbox.append(payload))
        client.tunnels.build_tunnels(hops)
        await until(lambda: client.tunnels.active_data_circuits(hops))
        return client.tunnels.active_data_circuits(hops)[0]

    async def question(self, client: Site, hops: int, payload: bytes) -> None:
        """Send until the echo is back: a datagram may be lost on a loaded machine, and a circuit may be replaced."""
        async with asyncio.timeout(PATIENCE):
            while payload not in self.inbox:
                for circuit in client.tunnels.active_data_circuits(hops)[:1]:
                    client.tunnels.tunnel_data(circuit, ("127.99.0.1", self.echo.port), "data", payload)
                again = asyncio.get_running_loop().time() + 1.0
                await until(lambda: payload in self.inbox or asyncio.get_running_loop().time() >= again)  # noqa: B023

    async def close(self) -> None:
        for site in self.all:
            await site.tunnels.unload()
            await site.foreign.unload()
            await maybe_coroutine(site.endpoint.close)
        self.echo.close()
        await asyncio.sleep(0)


async def both_ways(sites: Sites, client: Site, hops: int, payloads: Iterable[bytes]) -> None:
    for payload in payloads:
        await sites.question(client, hops, payload)
        assert payload in [data for data, _ in sites.echo.seen]


def scenario(main: Callable[[Sites], Awaitable[None]]) -> None:
    """On a loop that fails the test for what is raised into it; no descriptor may stay open."""

    async def whole() -> None:
        sites = Sites()
        try:
            await main(sites)
        finally:
            await sites.close()

    before = descriptors()
    run(whole)
    assert descriptors() == before


@pytest.mark.parametrize("first", ["ours", "foreign"])
@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_circuit_and_a_foreign_community_share_every_endpoint(name: str, first: str) -> None:
    async def main(sites: Sites) -> None:
        make = ENDPOINTS[name]
        relays = [await sites.site(make(f"127.{n}.0.1"), relay=True, exits=n == 2, first=first) for n in (1, 2)]
        client = await sites.site(make("127.3.0.1"), first=first)
        if isinstance(client.endpoint, StatisticsEndpoint):
            for overlay in (client.tunnels, client.foreign):
                client.endpoint.enable_community_statistics(overlay.get_prefix(), True)
        await sites.circuit(client, 2)
        for number in range(20):
            text = number.to_bytes(2)
            client.foreign.ask(relays[number % 2].ipv8_address, text)
            await sites.question(client, 2, text * (1 + number * 30))
            if name not in DEAF:
                await until(partial(client.foreign.heard.__contains__, text))
        # IPv8's own messages of our overlay get through as well.
        for relay in relays:
            client.tunnels.walk_to(relay.ipv8_address)
        await until(lambda: len(client.tunnels.get_peers()) == 2)
        if isinstance(client.endpoint, StatisticsEndpoint):
            prefix = client.tunnels.get_prefix()
            assert client.endpoint.get_message_sent(prefix, include_introduction=True) == 2
            if name not in DEAF:
                assert client.endpoint.get_message_received(prefix, include_introduction=True) == 2
                assert client.endpoint.get_message_received(client.foreign.get_prefix()) == 20
        if isinstance(client.endpoint, UDPEndpoint):
            assert client.endpoint.bytes_up > 20 * CELL_SIZE

    scenario(main)


def test_a_circuit_over_ipv6_alone() -> None:
    async def main(sites: Sites) -> None:
        for n in range(3):
            await sites.site(UDPv6Endpoint(ip=IPV6), relay=True, exits=n == 2)
        client = await sites.site(UDPv6Endpoint(ip=IPV6))
        circuit = await sites.circuit(client, 3)
        assert {host for hop in circuit.path for host, _ in hop.addresses} == {IPV6}
        await both_ways(sites, client, 3, [b"over IPv6", bytes(1200), bytes(5000)])

    scenario(main)


def test_a_circuit_crosses_from_ipv4_to_ipv6_at_a_relay_that_has_both() -> None:
    async def main(sites: Sites) -> None:
        four = await sites.site(UDPEndpoint(ip="127.1.0.1"), relay=True)
        both = await sites.site(dispatcher("127.2.0.1"), relay=True)
        six = await sites.site(BatchedEndpoint((IPV6, 0)), relay=True, exits=True)
        client = await sites.site(UDPEndpoint(ip="127.3.0.1"))
        circuit = await sites.circuit(client, 3)
        assert circuit.path == tuple(site.tunnels.relay_info for site in (four, both, six))
        await both_ways(sites, client, 3, [b"over both", bytes(1200), bytes(5000)])

    scenario(main)


@pytest.mark.parametrize("wrap", [lambda below: below, StatisticsEndpoint, TunnelEndpoint])
def test_the_rust_endpoint_is_refused_with_what_to_do_instead_and_left_as_it_was(
    wrap: Callable[[Endpoint], Endpoint],
) -> None:
    async def main() -> None:
        rust = RustEndpoint(0, "127.1.0.1")
        peer = Peer(default_eccrypto.generate_key("curve25519"))
        with pytest.raises(EndpointError, match=r"ipv8_rust_tunnels.*BatchedEndpoint\(\("):
            TunnelCommunity(TunnelSettings(my_peer=peer, endpoint=wrap(rust), network=Network()))
        foreign = Foreign(CommunitySettings(my_peer=peer, endpoint=rust, network=Network()))
        await foreign.unload()
        await rust.shutdown_task_manager()

    run(main)


def rubbish(overlay: TunnelCommunity) -> list[bytes]:
    """What a stranger may send: every size there is an edge at, random, all alike, and dressed as something of ours."""
    edges = {0, 1, 4, 20, 21, 22, 23, 24, 63, 1200, CELL_SIZE - 1, CELL_SIZE, CELL_SIZE + 1, 2 * CELL_SIZE, 9000, 65507}
    sizes = sorted(edges | set(range(0, 1500, 37)))
    found = [os.urandom(size) for size in sizes]
    found += [bytes([fill]) * size for size in sizes for fill in (0, 1, 255)]
    prefix = overlay.get_prefix()
    found += [(prefix + os.urandom(2000))[:size] for size in sizes if size <= 2000]
    return found + [prefix + bytes([kind]) + os.urandom(rest) for kind in range(256) for rest in (0, 120)]


@pytest.mark.parametrize("name", ["UDPEndpoint", "dispatcher", "batched", "batched without trains"])
def test_whatever_a_stranger_sends_is_dropped_and_counted_and_circuits_go_on(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(sites: Sites) -> None:
        make = ENDPOINTS[name]
        relays = [await sites.site(make(f"127.{n}.0.1"), relay=True, exits=n == 2) for n in (1, 2)]
        client = await sites.site(make("127.3.0.1"))
        circuit = await sites.circuit(client, 2)
        turn = count()
        with closing(udp("127.66.0.1")) as stranger:
            for site in (*relays, client):
                before, sent = drops(site), rubbish(site.tunnels)
                for number, datagram in enumerate(sent):
                    stranger.sendto(datagram, site.addresses[0])
                    if number % 20 == 0:  # so that no receive buffer overflows
                        await sites.question(client, 2, next(turn).to_bytes(4))
                # What has the size of a cell names no session, or is no handshake; what has the prefix is no message.
                await until(partial(more, site, before, Drop.UNKNOWN_INDEX, Drop.BAD_MAC1))
                await until(partial(more, site, before, Drop.WRONG_SIZE))
                await until(partial(more, site, before, Drop.MALFORMED))
        assert circuit in client.tunnels.active_data_circuits()

    scenario(main)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG and not is_the_warning(record)] == []


def is_the_warning(record: logging.LogRecord) -> bool:
    return record.getMessage().startswith("distinct_networks is off")


def drops(site: Site) -> dict[Drop, int]:
    return dict(site.tunnels.statistics().drops)


def more(site: Site, before: dict[Drop, int], *reasons: Drop) -> bool:
    """Whether more was dropped than before, for one of these reasons."""
    return any(drops(site).get(reason, 0) > before.get(reason, 0) for reason in reasons)
