# ruff: noqa: SLF001 (what is remembered is nobody else's business)
"""Walks: whom a node asks for introductions, whom it remembers, and what strangers cannot do to either."""

import asyncio
from collections.abc import Awaitable, Callable

from ipv8.keyvault.crypto import default_eccrypto
from ipv8.peer import Peer

from sim.loop import run
from sim.network import Datagram
from tests.support.communities import Communities
from tunnels.community import TunnelCommunity
from tunnels.endpoint.adapt import ipv8_address
from tunnels.ids import Address, Drop
from tunnels.params import ASK_TIMEOUT, CELL_SIZE, MAX_INTRODUCED_ADDRESSES, MAX_PEERS, WALK_INTERVAL_FED

IPV8_PEERS = 30
"""Peers at which IPv8 answers nobody any more, if it is let."""


def in_world(story: Callable[[Communities], Awaitable[None]]) -> None:
    async def main() -> None:
        world = Communities()
        await story(world)
        await world.close()

    run(main())


def address_of(community: TunnelCommunity) -> Address:
    return community.settings.relay_addresses[0]


def asked_by(world: Communities, node: TunnelCommunity) -> list[Address]:
    """Whom a node sends IPv8 messages from now on."""
    [own] = world.endpoint(node)._binds.values()
    sent: list[Address] = []

    def note(datagram: Datagram) -> None:
        if datagram.source == own and not (len(datagram.data) == CELL_SIZE and datagram.data[0]):
            sent.append(datagram.destination)

    world.network.tap(note)
    return sent


async def three(world: Communities) -> tuple[TunnelCommunity, TunnelCommunity, TunnelCommunity]:
    first = await world.newcomer(relay=True)
    return first, *[await world.newcomer(address_of(first), relay=True) for _ in range(2)]  # type: ignore[return-value]


def test_nobody_is_contacted_who_was_not_configured_or_introduced() -> None:
    async def story(world: Communities) -> None:
        alone, relay = await world.newcomer(), await world.newcomer(relay=True)
        sent = asked_by(world, alone), asked_by(world, relay)
        await asyncio.sleep(600)
        assert sent == ([], [])

    in_world(story)


def test_a_client_that_knows_its_sources_asks_nobody_any_more() -> None:
    async def story(world: Communities) -> None:
        relays = await three(world)
        client = await world.newcomer(address_of(relays[0]))
        sent = asked_by(world, client)
        await asyncio.sleep(60)
        assert sent
        before = len(sent)
        await asyncio.sleep(600)
        assert len(sent) == before

    in_world(story)


def test_a_relay_that_knows_enough_asks_now_and_then_so_that_newcomers_are_noticed() -> None:
    async def story(world: Communities) -> None:
        relays = [*await three(world)]
        relays += [await world.newcomer(address_of(relays[0]), relay=True) for _ in range(3)]
        await asyncio.sleep(60)
        sent = asked_by(world, relays[-1])
        own = [one for one in sent if one == address_of(relays[0])]
        await asyncio.sleep(600)
        assert len(own) <= 600 / WALK_INTERVAL_FED + 1
        assert sent

    in_world(story)


def test_a_client_is_remembered_and_introduced_by_nobody() -> None:
    async def story(world: Communities) -> None:
        relays = await three(world)
        clients = [await world.newcomer(address_of(relays[0])) for _ in range(3)]
        await asyncio.sleep(120)
        theirs = {client.my_peer.mid for client in clients}
        for node in (*relays, *clients):
            assert not theirs & {peer.mid for peer in node.get_peers()}
        addresses = {(f"127.{number}.0.1", 8000) for number in (4, 5, 6)}
        for node in (*relays, *clients):
            assert not addresses & {tuple(address) for address in node.network._all_addresses}

    in_world(story)


def test_a_relay_answers_however_many_it_has_met() -> None:
    async def story(world: Communities) -> None:
        first = await world.newcomer(relay=True)
        for _ in range(IPV8_PEERS + 10):
            await world.newcomer(address_of(first), relay=True)
        await world.until(lambda: all(len(node.get_peers()) for node in world.all))
        await asyncio.sleep(10)
        late = await world.newcomer(address_of(first))
        await world.until(lambda: late.discovery.known)

    in_world(story)


def a_peer(number: int, prefix: str = "66.66.66") -> Peer:
    return Peer(default_eccrypto.generate_key("curve25519"), ipv8_address((f"{prefix}.{number % 250 + 1}", 8000)))


def test_who_comes_with_hundreds_of_keys_takes_a_bounded_place_and_not_that_of_others() -> None:
    async def story(world: Communities) -> None:
        relays = await three(world)
        await asyncio.sleep(30)
        node = relays[0]
        honest = {peer.mid for peer in node.get_peers()}
        assert len(honest) == 2
        for number in range(2 * MAX_PEERS):
            peer = a_peer(number)
            node.network.add_verified_peer(peer)
            node.network.discover_services(peer, [node.community_id])
            node._walker.met(peer, relay=True)
        assert len(node.get_peers()) == len(node.network.verified_peers) == MAX_PEERS
        assert honest < {peer.mid for peer in node.get_peers()}
        late = await world.newcomer(address_of(node), relay=True)
        await world.until(lambda: late.my_peer.mid in {peer.mid for peer in node.get_peers()})

    in_world(story)


def test_a_peer_that_another_overlay_of_the_application_knows_stays_there() -> None:
    async def story(world: Communities) -> None:
        node = await world.newcomer(relay=True)
        peer = a_peer(1)
        node.network.add_verified_peer(peer)
        node.network.discover_services(peer, [node.community_id, b"another overlay"])
        node._walker.met(peer, relay=False)
        assert node.get_peers() == []
        assert node.network.get_peers_for_service(b"another overlay") == [peer]

    in_world(story)


async def introduced(relays: tuple[TunnelCommunity, ...], addresses: int) -> None:
    """The first relay hears of that many addresses at which nobody is."""
    await asyncio.sleep(30)
    for number in range(addresses):
        nowhere = ipv8_address((f"127.77.{number >> 8}.{number & 255}", 8000))
        relays[0].network.discover_address(relays[0].get_peers()[0], nowhere, relays[0].community_id)


def test_a_relay_that_is_gone_is_forgotten_and_so_is_an_address_at_which_nobody_answers() -> None:
    async def story(world: Communities) -> None:
        relays = await three(world)
        await introduced(relays, 8)
        gone = relays[2]
        world.network.unplug(address_of(gone))
        await asyncio.sleep(40 * WALK_INTERVAL_FED)
        assert relays[0].get_walkable_addresses() == []
        assert gone.my_peer.mid not in {peer.mid for peer in relays[0].get_peers()}

    in_world(story)


def test_a_liar_that_introduces_thousands_of_addresses_takes_a_bounded_place() -> None:
    async def story(world: Communities) -> None:
        relays = await three(world)
        await introduced(relays, 10 * MAX_INTRODUCED_ADDRESSES)
        await asyncio.sleep(ASK_TIMEOUT)
        assert len(relays[0].get_walkable_addresses()) <= MAX_INTRODUCED_ADDRESSES

    in_world(story)


def test_an_answer_that_nobody_asked_for_introduces_nobody() -> None:
    async def story(world: Communities) -> None:
        relays = await three(world)
        client = await world.newcomer(address_of(relays[0]))
        await asyncio.sleep(60)
        before = dict(client.network._all_addresses)
        [own] = world.endpoint(client)._binds.values()
        liar = await world.newcomer(relay=True)
        for _ in range(20):
            answer = liar.create_introduction_response(own, own, 1, introduction=a_peer(1))
            liar.endpoint.send(own, answer)
        await asyncio.sleep(1)
        assert client.engine.core.drops[Drop.UNEXPECTED] == 20
        assert client.network._all_addresses == before

    in_world(story)


def test_a_client_begins_with_whom_it_asked_and_with_no_relay_that_asks_it() -> None:
    async def story(world: Communities) -> None:
        client = await world.newcomer()
        [own] = world.endpoint(client)._binds.values()
        for _ in range(5):
            pushy = await world.newcomer(relay=True)
            pushy.walk_to(own)
        await asyncio.sleep(30)
        assert client.discovery.trouble(30.0).startswith("no relay has answered yet")
        assert not client.get_peers()

    in_world(story)
