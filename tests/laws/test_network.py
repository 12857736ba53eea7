"""A whole network finds itself from one address, and what that costs, with 1 % of all datagrams lost."""

import asyncio
from collections import Counter
from itertools import pairwise

from sim.loop import run
from sim.network import Datagram, VirtualNetwork
from tests.support.communities import Communities
from tests.support.finders import Finders
from tests.support.plugin import Figure, Size
from tunnels.community import TunnelCommunity
from tunnels.params import CELL_SIZE, GOSSIP_INTERVAL, PUBLISH_INTERVAL

LOSS = 0.01
HOUR = 3600
HEADERS = 28
"""Bytes of IPv4 and UDP."""

READY_WITHIN = 90.0
"""Virtual seconds from nothing to every client's circuits, with all nodes starting at once."""


class Meter:
    """Bytes on the wire by kind, from now on."""

    def __init__(self, network: VirtualNetwork) -> None:
        self.sent: Counter[str] = Counter()
        network.tap(self._note)

    def _note(self, datagram: Datagram) -> None:
        is_cell = len(datagram.data) == CELL_SIZE and datagram.data[0]
        self.sent["cells" if is_cell else "introductions"] += len(datagram.data) + HEADERS


async def network(world: Communities, nodes: int, relays: int) -> tuple[list[TunnelCommunity], list[TunnelCommunity]]:
    """Relays and clients; every third relay is an exit, and all but the first know the address of the first."""
    first = await world.newcomer(relay=True, policy="accept *:*")
    address = first.settings.relay_addresses[0]
    others = [
        await world.newcomer(address, relay=True, policy="" if number % 3 else "accept *:*")
        for number in range(1, relays)
    ]
    return [first, *others], [await world.newcomer(address) for _ in range(nodes - relays)]


def test_all_clients_are_ready_within_a_stated_time(size: Size, figure: Figure) -> None:
    async def main() -> None:
        nodes, relays = size(small=(40, 25), long=(200, 125))
        world = Communities(loss=LOSS)
        _, clients = await network(world, nodes, relays)
        for client in clients:
            client.build_tunnels(3)
        loop = asyncio.get_running_loop()
        started, ready_at = loop.time(), dict[TunnelCommunity, float]()

        def all_ready() -> bool:
            for client in clients:
                if client.tunnels_ready(3) >= 1.0:
                    ready_at.setdefault(client, loop.time() - started)
            return len(ready_at) == len(clients)

        await world.until(all_ready, READY_WITHIN)
        times = sorted(ready_at.values())
        figure(
            f"{nodes} nodes from one address: half of the clients ready after", times[len(times) // 2], "s (virtual)"
        )
        figure(f"{nodes} nodes from one address: all clients ready after", times[-1], "s (virtual)")
        await world.close()

    run(main())


def test_every_relay_knows_every_relay_soon_after(size: Size, figure: Figure) -> None:
    async def main() -> None:
        relays = size(small=20, long=125)
        world = Communities(loss=LOSS)
        everybody, _ = await network(world, relays, relays)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await world.until(
            lambda: all(len(relay.discovery.known) == relays for relay in everybody), 10 * GOSSIP_INTERVAL
        )
        figure(f"{relays} relays from one address: each knows all after", loop.time() - started, "s (virtual)")
        await world.close()

    run(main())


def test_what_finding_each_other_costs_a_node_is_stated(size: Size, figure: Figure) -> None:
    """Nobody builds circuits for data here: all cells are directory, vouching, and the links for both."""

    async def main() -> None:
        nodes, relays = size(small=(40, 25), long=(200, 125))
        minutes = size(small=10, long=60)
        world = Communities(loss=LOSS)
        await network(world, nodes, relays)
        meter = Meter(world.network)
        await asyncio.sleep(180)
        start, meter.sent = meter.sent, Counter()
        await asyncio.sleep(60 * minutes)
        for kind in ("cells", "introductions"):
            figure(f"{nodes} nodes, first 3 minutes: {kind} sent a node", start[kind] / nodes / 1000, "kB")
            figure(
                f"{nodes} nodes, afterwards: {kind} sent a node and hour",
                meter.sent[kind] / nodes / minutes * 60 / 1e3,
                "kB",
            )
        assert start.total() / nodes < 2_000_000
        assert meter.sent.total() / nodes / minutes * 60 < 2_500_000
        await world.close()

    run(main())


def test_directory_traffic_hardly_grows_with_the_network(size: Size, figure: Figure) -> None:
    """A round costs its handshakes and 2 kB of digests: only renewed descriptors are more where there are more."""
    found = {}

    async def measure(relays: int, seconds: float) -> float:
        world = Finders(loss=LOSS)
        nodes = [world.finder(after=GOSSIP_INTERVAL * number / relays) for number in range(relays)]
        world.acquaint(*nodes)
        for number, node in enumerate(nodes):
            discovery = node.discovery
            discovery.rounds = 99
            # In a network that runs, the renewals of all relays are spread over the hours between two of one.
            discovery._publish_from = world.loop.wall() + PUBLISH_INTERVAL * number / relays  # noqa: SLF001
        await world.sleep(4 * GOSSIP_INTERVAL)
        before = world.network.totals().sent_bytes
        await world.sleep(seconds)
        sent = world.network.totals().sent_bytes - before
        world.close()
        return sent / relays * HOUR / seconds

    seconds = size(small=300.0, long=1800.0)
    for relays in size(small=(25, 50, 100), long=(50, 100, 200, 500)):
        found[relays] = run(measure(relays, seconds))
        figure(f"directory traffic among {relays} relays: sent a relay and hour", found[relays] / 1000, "kB")
    for smaller, larger in pairwise(found):
        assert found[larger] < found[smaller] * (1 + 0.2 * larger / smaller / 2)
    assert max(found.values()) < 2_000_000
