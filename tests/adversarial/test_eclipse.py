"""A liar where a client begins: he hands out relays of his own.  It is reported, and none of them is used.

Discovery alone on the virtual network, with as many Sybils as somebody can describe; and whole communities.
"""

import asyncio
from collections.abc import Awaitable, Callable
from statistics import median
from time import perf_counter
from typing import Final

import pytest
from ipv8.keyvault.crypto import default_eccrypto
from ipv8.peer import Peer

from sim.loop import run
from tests.support.communities import Communities
from tests.support.finders import RULES, Finder, Finders
from tests.support.plugin import Figure, Size
from tests.support.relays import described
from tunnels.circuit import directory_fetch
from tunnels.circuit.origin import OriginCircuit
from tunnels.discovery import Rules
from tunnels.endpoint.adapt import ipv8_address
from tunnels.identity import sign_with, verify
from tunnels.ids import Address, RelayId
from tunnels.params import CHECKS_PER_TURN, FETCH_SOURCES, MAX_PEERS, MAX_UNREACHED
from tunnels.path import views as views_module
from tunnels.path.descriptor import RelayDescriptor
from tunnels.path.descriptors import DescriptorSet

GULLIBLE: Final = Rules(min_relays=3, min_age=0.0, min_sources=1, distinct_networks=False)
SYBILS: Final = 60
PATIENCE: Final = 120.0
"""Virtual seconds the liar is given."""


def in_world(story: Callable[[Finders], Awaitable[None]]) -> None:
    async def main() -> None:
        world = Finders(network_id=b"test")
        await story(world)
        world.close()

    run(main())


def honest(world: Finders, number: int = 8) -> list[Finder]:
    relays = [world.finder(after=9e6) for _ in range(number)]
    world.acquaint(*relays)
    return relays


def sybils(world: Finders, addresses: list[Address], invented: int = SYBILS) -> tuple[list[Finder], set[RelayId]]:
    """Relays at these addresses, each of which shows the others, and some more that nobody can reach; and their ids."""
    nodes = [world.finder(address=address, after=9e6) for address in addresses]
    world.acquaint(*nodes)
    wall = int(world.loop.wall())
    made_up = [
        described(f"sybil {n}", published=wall, address=(f"66.{n % 250}.{n // 250}.1", 1)) for n in range(invented)
    ]
    for node in nodes:
        for descriptor in made_up:
            node.discovery.known.add(descriptor)
    return nodes, {node.relay_id for node in nodes} | {descriptor.relay_id for descriptor in made_up}


def used(client: Finder) -> set[RelayId]:
    return {relay.relay_id for relay in client.discovery.usable(client.driver.now())}


def trouble(client: Finder) -> str:
    return client.discovery.trouble(client.driver.now())


async def watched(world: Finders, client: Finder) -> set[RelayId]:
    """All relays that a client would have used at any time."""
    ever: set[RelayId] = set()
    for _ in range(int(PATIENCE)):
        await world.sleep(1)
        ever |= used(client)
    return ever


@pytest.mark.parametrize("rules", [RULES, GULLIBLE])
def test_sybils_of_one_network_are_one_source_which_is_reported_and_not_used(rules: Rules) -> None:
    async def story(world: Finders) -> None:
        addresses = [(f"127.66.{n}.1", 8000) for n in range(6)]
        liars, theirs = sybils(world, addresses)
        client = world.finder(relay=False, rules=rules, bootstrap=addresses[:1])
        world.introduce(liars[0], client)
        ever = await watched(world, client)
        if rules is GULLIBLE:
            assert ever == theirs, "with the defence off the client is his"
        else:
            assert ever == set()
            assert trouble(client) == "1 of 2 directory sources have answered"

    in_world(story)


def two_bootstraps(story: Callable[[Finders, Finder, set[RelayId], set[RelayId]], Awaitable[None]],
                   rules: Rules = RULES) -> None:  # fmt: skip
    """A client that begins at a liar with relays in twelve networks, and at one of eight honest relays."""

    async def main(world: Finders) -> None:
        relays = honest(world)
        liars, theirs = sybils(world, [(f"127.{100 + n}.0.1", 8000) for n in range(12)])
        client = world.finder(relay=False, rules=rules, bootstrap=[liars[0].address, relays[0].address])
        world.introduce(liars[0], client)
        await world.sleep(0.05)  # the liar is the faster one
        world.introduce(relays[0], client)
        await story(world, client, theirs, {relay.relay_id for relay in relays})

    in_world(main)


def test_sybils_of_many_networks_that_contradict_an_honest_bootstrap_are_reported_and_not_used() -> None:
    async def story(world: Finders, client: Finder, theirs: set[RelayId], ours: set[RelayId]) -> None:
        ever = await watched(world, client)
        assert not ever & theirs
        assert trouble(client).startswith("directory sources disagree on ")
        assert len(client.discovery.views) > FETCH_SOURCES, "more and more of his were asked, and did not help him"

    two_bootstraps(story)


def test_without_minimum_sources_and_networks_the_client_is_his() -> None:
    async def story(world: Finders, client: Finder, theirs: set[RelayId], ours: set[RelayId]) -> None:
        assert await watched(world, client) & theirs

    two_bootstraps(story, GULLIBLE)


def test_without_the_voice_of_the_named_a_majority_of_sybils_would_be_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views_module, "ROOT_LIFETIME", 0.0)

    async def story(world: Finders, client: Finder, theirs: set[RelayId], ours: set[RelayId]) -> None:
        assert await watched(world, client) & theirs

    two_bootstraps(story)


def test_one_liar_among_the_honest_holds_nobody_up() -> None:
    async def story(world: Finders) -> None:
        relays = honest(world)
        liars, _ = sybils(world, [("127.66.0.1", 8000)])
        client = world.finder(relay=False, bootstrap=[relays[0].address])
        for one in (liars[0], *relays[:3]):
            world.introduce(one, client)
        ever = await watched(world, client)
        assert ever == {relay.relay_id for relay in relays}
        assert trouble(client) == ""

    in_world(story)


def test_nobody_takes_the_place_of_a_named_source_by_claiming_an_address_in_its_network() -> None:
    async def story(world: Finders) -> None:
        relays = honest(world)
        near = relays[0].address[0].rsplit(".", 1)[0] + ".99"
        liar = world.finder(address=("127.66.0.1", 8000), says=[("127.66.0.1", 8000), (near, 1)], after=9e6)
        client = world.finder(relay=False, bootstrap=[relays[0].address])
        for one in (relays[0], liar):
            world.introduce(one, client)
        await watched(world, client)
        assert relays[0].relay_id in client.discovery.views.sources
        assert liar.relay_id not in client.discovery.views.sources

    in_world(story)


def test_who_only_claims_to_be_at_a_bootstrap_address_has_no_such_voice() -> None:
    async def story(world: Finders) -> None:
        relays = honest(world)
        named = ("127.200.0.1", 8000)
        liar = world.finder(address=("127.66.0.1", 8000), says=[("127.66.0.1", 8000), named], after=9e6)
        thief = world.finder(address=("127.67.0.1", 8000), says=[named], after=9e6)
        client = world.finder(relay=False, bootstrap=[named])
        for one in (liar, thief, *relays[:4]):
            world.introduce(one, client)
        ever = await watched(world, client)
        assert {relay.relay_id for relay in relays} <= ever
        assert trouble(client) == "", "what he shows contradicts nobody that counts"

    in_world(story)


def test_a_whole_client_builds_nothing_over_what_a_liar_hands_out_and_says_why() -> None:
    async def main() -> None:
        world = Communities()
        first = await world.newcomer(relay=True, policy="accept *:*", distinct_networks=False)
        address = first.settings.relay_addresses[0]
        for number in range(5):
            home = (f"127.1.0.{number + 2}", 8000)
            await world.community(
                home, bootstrap=[address], relay_addresses=(home,), become_exitnode=True, exit_policy="accept *:*"
            )
        careful = await world.newcomer(address)
        careless = await world.newcomer(address, min_sources=1, distinct_networks=False)
        opened: list[OriginCircuit] = []
        careful.on_circuit_opened(opened.append)
        for client in (careful, careless):
            client.build_tunnels(3)
        await world.until(lambda: careless.tunnels_ready(3) >= 1.0)
        await asyncio.sleep(PATIENCE)
        assert careful.tunnels_ready(3) == 0.0
        assert "1 of 2 directory sources have answered" in careful.why_not_ready(3)
        assert opened == []
        assert not careful.network_status().guards, "nobody of his has seen us as a client"
        await world.close()

    run(main())


# --- floods of descriptors ----------------------------------------------------------------------------


def test_a_flood_of_signed_descriptors_takes_bounded_room_and_leaves_the_honest_theirs(size: Size) -> None:
    """A source that is listened to shows more relays than fit: the network with the most makes room."""
    number, room = size(small=(2_000, 500), long=(40_000, 20_000))
    known = DescriptorSet(room)
    for name in range(20):
        known.add(described(f"honest {name}"))
    for name in range(number):
        descriptor = described(f"sybil {name}", address=(f"66.66.{name % 250}.1", 1 + name % 60_000))
        if known.has_room_for(descriptor):
            known.add(descriptor)
    assert len(known) == room
    assert all(described(f"honest {name}").relay_id in known for name in range(20))


@pytest.mark.parametrize("key", ["curve25519", "high"])
def test_a_page_full_of_signatures_does_not_hold_the_node_up(
    figure: Figure, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """37 signatures of the slowest kind were 107 ms in one turn."""
    turns: list[list[float]] = [[]]

    def timed(identity: bytes, text: bytes, signature: bytes) -> bool:
        start = perf_counter()
        valid = verify(identity, text, signature)
        turns[-1].append(perf_counter() - start)
        return valid

    read_on = directory_fetch.Fetcher._read_on  # noqa: SLF001

    def turn(self: directory_fetch.Fetcher, fetch: directory_fetch._Fetch, now: float) -> None:
        turns.append([])
        read_on(self, fetch, now)

    monkeypatch.setattr(directory_fetch.Fetcher, "_read_on", turn)

    async def story(world: Finders) -> None:
        source = world.finder(after=9e6)
        wall = int(world.loop.wall())
        for number in range(37):
            owner = default_eccrypto.generate_key(key)
            plain = described(number, published=wall)
            signed = RelayDescriptor(
                plain.capabilities, wall, plain.lifetime, 1, plain.link_key, plain.onion_key,
                owner.pub().key_to_bin(), plain.addresses, plain.ports4, plain.ports6,
            ).signed(world.network_id, sign_with(owner))  # fmt: skip
            source.discovery.known.add(signed)
        client = world.finder(relay=False, verify=timed)
        client.discovery._introduced[source.relay_id] = RelayDescriptor.decode(source.described)  # noqa: SLF001
        await world.sleep(20)
        assert len(client.discovery.known) >= 37
        assert max(map(len, turns)) <= CHECKS_PER_TURN
        worst = CHECKS_PER_TURN * median(spent for turn in turns for spent in turn)
        figure(f"a page of 37 descriptors with {key} keys: longest turn", worst * 1000, "ms")

    in_world(story)


def test_honest_clients_are_ready_while_relays_are_flooded_with_descriptors(size: Size, figure: Figure) -> None:
    """A hundred introductions a second at every relay, each signed by a key of its own, each leading nowhere."""

    async def main() -> None:
        world = Communities()
        first = await world.newcomer(relay=True, policy="accept *:*")
        address = first.settings.relay_addresses[0]
        relays = [first, *[await world.newcomer(address, relay=True, policy="accept *:*") for _ in range(4)]]
        wall = int(first.engine.core.epoch + asyncio.get_running_loop().time())
        crowd: list[tuple[Peer, bytes]] = []
        for number in range(size(small=400, long=6_000)):
            owner = default_eccrypto.generate_key("curve25519")
            home = (f"127.{60 + number % 100}.{number % 250}.{1 + number // 250}", 8000)
            plain = described(number, published=wall, address=home)
            signed = RelayDescriptor(
                plain.capabilities, wall, plain.lifetime, 1, plain.link_key, plain.onion_key,
                owner.pub().key_to_bin(), plain.addresses, plain.ports4, plain.ports6,
            ).signed(b"tropea", sign_with(owner))  # fmt: skip
            crowd.append((Peer(owner.pub(), ipv8_address(home)), signed.encode()))

        spent: list[float] = []

        async def flood() -> None:
            for at in range(0, len(crowd), 10):
                for relay in relays:
                    start = perf_counter()
                    for peer, descriptor in crowd[at : at + 10]:
                        relay._introduced(peer, descriptor)  # noqa: SLF001 (as IPv8 does, the signature of which is its own affair)
                    spent.append((perf_counter() - start) / 10)
                await asyncio.sleep(0.1)

        flooding = asyncio.create_task(flood())
        client = await world.newcomer(address)
        client.build_tunnels(3)
        started = asyncio.get_running_loop().time()
        await world.until(lambda: client.tunnels_ready(3) >= 1.0)
        figure("client ready under a flood of descriptors", asyncio.get_running_loop().time() - started, "s (virtual)")
        await flooding
        figure("CPU for one introduction of a flood", median(spent) * 1e6, "us")
        theirs = {peer.public_key.key_to_bin() for peer, _ in crowd}
        for relay in relays:
            assert len(relay.discovery._introduced) <= MAX_UNREACHED  # noqa: SLF001
            assert len(relay.directory) <= len(relays) - 1
            assert len(relay.get_peers()) <= MAX_PEERS
        await asyncio.sleep(30)
        late = await world.newcomer(address, relay=True)
        await world.until(lambda: late.relay_id in first.discovery.known, 600)
        assert not any(descriptor.identity in theirs for relay in relays for descriptor in relay.discovery.known)
        await world.close()

    run(main())
