"""Discovery: whom a relay serves, whom a client asks and believes, and what strangers cannot make them do."""

from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from sim.loop import run
from sim.network import Fate
from tests.support.finders import RULES, Finder, Finders
from tests.support.relays import described, identity_of, signature_of
from tunnels.circuit.core import Purpose
from tunnels.circuit.origin import OriginCircuit
from tunnels.circuit.relay import RelayCircuit
from tunnels.discovery import Rules
from tunnels.ids import Drop, Rng
from tunnels.params import (
    CLIENT_FETCH_INTERVAL,
    FETCH_SOURCES,
    GOSSIP_INTERVAL,
    MAX_DESCRIPTOR_LIFETIME,
    MAX_REACHING,
    MAX_UNREACHED,
    ONION_KEY_LIFETIME,
    PROBE_TIMEOUT,
    PUBLISH_INTERVAL,
)
from tunnels.path.descriptor import RelayDescriptor
from tunnels.wire.directory_messages import Probe, Reach, Vouched
from tunnels.wire.messages import Message

NOWHERE = ("127.250.0.1", 8000)


class Wall:
    """What a NAT makes of strangers."""

    def carry(self, size: int, now: float, rng: Rng) -> Fate:
        return Fate.LOST


def in_world(story: Callable[[Finders], Awaitable[None]]) -> None:
    async def main() -> None:
        world = Finders(network_id=b"test")
        await story(world)
        world.close()

    run(main())


def settled(world: Finders, number: int = 4) -> list[Finder]:
    """Relays that have known each other for long, and do nothing for a minute."""
    relays = [world.finder(after=GOSSIP_INTERVAL) for _ in range(number)]
    world.acquaint(*relays)
    return relays


def paths_of(node: Finder) -> list[tuple[bytes, ...]]:
    """The relays of every circuit that a node begins from now on, first hop first."""
    begun: list[tuple[bytes, ...]] = []
    create = node.engine.create_circuit

    def watched(path: list, now: float, purpose: Purpose = Purpose.DATA) -> OriginCircuit:  # type: ignore[type-arg]
        begun.append(tuple(hop.relay_id for hop in path))
        return create(path, now, purpose)

    node.engine.__dict__["create_circuit"] = watched
    return begun


# --- introductions -----------------------------------------------------------------------------------


def test_an_introduction_is_the_word_of_who_signed_it_about_himself() -> None:
    async def story(world: Finders) -> None:
        relay, other = world.finder(), world.finder(after=99)
        assert not world.tell(relay, other.described, identity_of("somebody"))
        assert not world.tell(relay, relay.described, relay.identity), "we know ourselves"
        assert world.tell(relay, other.described, other.identity)
        assert world.tell(relay, other.described, other.identity), "again, and it is still a relay"
        assert relay.core.drops == {Drop.UNEXPECTED: 2}

    in_world(story)


@pytest.mark.parametrize(
    "descriptor",
    [
        b"",
        b"\1" * 300,
        described("x", network_id=b"another").encode(),
        described("x", published=1).encode(),
        described("x").encode()[:-1] + b"?",
    ],
)
def test_what_no_relay_of_this_network_signed_lately_is_dropped(descriptor: bytes) -> None:
    async def story(world: Finders) -> None:
        relay, client = world.finder(), world.finder(relay=False)
        for node in (relay, client):
            assert not world.tell(node, descriptor, identity_of("x"))
            assert node.core.drops == {Drop.MALFORMED: 1}
            assert len(node.core.directory) == 0

    in_world(story)


def test_who_was_not_reached_is_in_no_directory_so_no_word_of_his_closes_an_exit_or_makes_him_a_relay() -> None:
    async def story(world: Finders) -> None:
        relay = settled(world)[0]
        for name in range(50):
            victim = described(name, published=int(world.loop.wall()), address=(f"9.9.9.{name + 1}", 53))
            assert world.tell(relay, victim.encode(), victim.identity)
            assert not relay.core.directory.has_host(f"9.9.9.{name + 1}")
            assert not relay.core.directory.is_relay(victim.link_key)

    in_world(story)


def test_thousands_that_introduce_themselves_take_a_bounded_place_and_leave_one_for_every_network() -> None:
    async def story(world: Finders) -> None:
        checked = 0

        def counting(identity: bytes, text: bytes, signature: bytes) -> bool:
            nonlocal checked
            checked += 1
            return signature == signature_of(identity, text)

        client, honest = world.finder(relay=False, verify=counting, after=999), world.finder(after=999)
        wall = int(world.loop.wall())
        for name in range(3000):
            sybil = described(name, published=wall, address=(f"6.6.{name >> 8}.{name & 255 or 1}", 8000))
            world.tell(client, sybil.encode(), sybil.identity)
        world.introduce(honest, client)
        waiting = client.discovery._introduced  # noqa: SLF001 (the bound itself)
        assert len(waiting) == MAX_UNREACHED
        assert honest.relay_id in waiting
        assert checked == MAX_UNREACHED + 1, "no signature is checked for whom there is no room"

    in_world(story)


def test_the_newer_of_two_introductions_counts_and_an_expired_one_is_forgotten() -> None:
    async def story(world: Finders) -> None:
        client = world.finder(relay=False, after=MAX_DESCRIPTOR_LIFETIME + 10.0)
        wall = int(world.loop.wall())
        old, new = described(1, published=wall - 100), described(1, published=wall)
        for one in (old, new, old):
            world.tell(client, one.encode(), one.identity)
        waiting = client.discovery._introduced  # noqa: SLF001
        assert list(waiting.values()) == [new]
        await world.sleep(MAX_DESCRIPTOR_LIFETIME + 20)
        assert not waiting

    in_world(story)


# --- reachability (SPEC 11.3) ------------------------------------------------------------------------


def test_a_newcomer_is_served_once_a_third_relay_has_reached_it() -> None:
    async def story(world: Finders) -> None:
        relays, newcomer = settled(world), world.finder(after=999)
        asked = paths_of(relays[0])
        world.introduce(newcomer, relays[0])
        await world.sleep(GOSSIP_INTERVAL + 1)
        assert relays[0].knows(newcomer)
        assert {path[0] for path in asked} <= {relay.relay_id for relay in relays[1:]}
        assert world.network.counters(relays[0].address, newcomer.address).sent == 0

    in_world(story)


def test_with_nobody_to_ask_the_first_relay_tries_itself() -> None:
    async def story(world: Finders) -> None:
        first, newcomer = world.finder(), world.finder(after=999)
        begun = paths_of(first)
        world.introduce(newcomer, first)
        await world.sleep(1)
        assert first.knows(newcomer)
        assert all(path == (newcomer.relay_id,) for path in begun)

    in_world(story)


@pytest.mark.parametrize("number", [1, 4])
def test_a_relay_whose_address_leads_nowhere_is_not_served_and_not_asked_for_again_and_again(number: int) -> None:
    async def story(world: Finders) -> None:
        relays = settled(world, number)
        liar = world.finder(says=[NOWHERE], after=999)
        world.introduce(liar, relays[0])
        await world.sleep(GOSSIP_INTERVAL + 2 * PROBE_TIMEOUT)
        assert not any(relay.knows(liar) for relay in relays)
        assert not relays[0].discovery._introduced  # noqa: SLF001
        before = world.network.totals().sent
        await world.sleep(1)
        assert world.network.totals().sent - before < 50

    in_world(story)


def test_a_relay_behind_a_nat_that_lets_answers_in_is_not_served() -> None:
    async def story(world: Finders) -> None:
        relays = settled(world)
        hidden = world.finder(after=999)
        for relay in relays[1:]:
            world.network.set_route(relay.address, hidden.address, Wall())
        await hidden.build([RelayDescriptor.decode(relays[0].described).info])
        world.introduce(hidden, relays[0])
        await world.sleep(GOSSIP_INTERVAL + PROBE_TIMEOUT)
        assert not any(relay.knows(hidden) for relay in relays)

    in_world(story)


def test_a_third_relay_that_the_newcomer_has_spoken_to_cannot_tell_and_another_is_asked() -> None:
    async def story(world: Finders) -> None:
        relays, hidden = settled(world, 5), world.finder(after=999)
        for relay in relays[2:]:
            world.network.set_route(relay.address, hidden.address, Wall())
        for spoken_to in relays[:2]:
            await hidden.build([RelayDescriptor.decode(spoken_to.described).info])
        world.introduce(hidden, relays[0])
        await world.sleep(GOSSIP_INTERVAL + 2 * PROBE_TIMEOUT)
        assert not any(relay.knows(hidden) for relay in relays), "the word of the one it spoke to would have been wrong"

    in_world(story)


def test_where_nobody_can_tell_a_link_from_the_claimed_address_will_do() -> None:
    async def story(world: Finders) -> None:
        relays, newcomer = settled(world, 3), world.finder(after=999)
        for relay in relays:
            await newcomer.build([RelayDescriptor.decode(relay.described).info])
        world.introduce(newcomer, relays[0])
        await world.sleep(GOSSIP_INTERVAL + 10)
        assert relays[0].knows(newcomer)

    in_world(story)


async def probe(world: Finders, asker: Finder, third: Finder, about: Finder) -> list[Vouched]:
    """What a relay answers to a PROBE of `asker`, whatever that is."""
    heard: list[Vouched] = []
    send = third.engine.send_backward

    def watched(joined: RelayCircuit, message: Message, now: float) -> bool:
        if isinstance(message, Vouched):
            heard.append(message)
        return send(joined, message, now)

    third.engine.__dict__["send_backward"] = watched
    circuit = asker.engine.create_circuit(
        [RelayDescriptor.decode(third.described).info], asker.driver.now(), Purpose.DIRECTORY
    )
    asker.driver.wake()
    await world.sleep(0.5)
    for _ in range(3):
        circuit.send(Probe(about.described), asker.driver.now())
    asker.driver.wake()
    await world.sleep(2)
    return heard


@pytest.mark.parametrize("relay", [True, False])
def test_a_probe_of_a_client_or_of_an_unknown_relay_makes_nobody_dial(relay: bool) -> None:  # noqa: FBT001
    async def story(world: Finders) -> None:
        relays = settled(world)
        asker, about = world.finder(relay=relay, after=999), world.finder(after=999)
        heard = await probe(world, asker, relays[0], about)
        assert [message.reach for message in heard] == [Reach.CANNOT_TELL]
        assert world.network.counters(relays[0].address, about.address).sent == 0

    in_world(story)


def test_a_probe_of_a_relay_is_obeyed_once_a_second() -> None:
    async def story(world: Finders) -> None:
        relays = settled(world)
        about = world.finder(after=999)
        heard = await probe(world, relays[1], relays[0], about)
        assert [message.reach for message in heard] == [Reach.REACHED]
        assert relays[0].core.drops[Drop.REFUSED] == 2
        assert not relays[0].knows(about), "vouching is not serving"

    in_world(story)


def test_a_word_that_nobody_asked_for_is_dropped() -> None:
    async def story(world: Finders) -> None:
        relays, liar = settled(world), world.finder(says=[NOWHERE], after=999)
        circuit = relays[0].engine.create_circuit(
            [RelayDescriptor.decode(relays[1].described).info], relays[0].driver.now(), Purpose.DIRECTORY
        )
        relays[0].driver.wake()
        await world.sleep(0.5)
        [joined] = relays[1].core.joined
        world.tell(relays[0], liar.described, liar.identity)
        relays[1].engine.send_backward(joined, Vouched(Reach.REACHED, liar.relay_id), relays[1].driver.now())
        relays[1].driver.wake()
        await world.sleep(0.5)
        assert relays[0].core.drops[Drop.UNEXPECTED] == 1
        assert not relays[0].knows(liar)
        assert circuit not in relays[0].engine.circuits

    in_world(story)


def test_a_crowd_of_newcomers_is_reached_a_few_at_a_time() -> None:
    async def story(world: Finders) -> None:
        relays = settled(world, 3)
        crowd = [world.finder(says=[NOWHERE], after=999) for _ in range(40)]
        honest = world.finder(after=999)
        for one in (*crowd, honest):
            world.introduce(one, relays[0])
        for _ in range(300):
            await world.sleep(1)
            assert len(relays[0].discovery._probes) <= MAX_REACHING  # noqa: SLF001
        assert relays[0].knows(honest)
        assert not relays[0].knows(*crowd[:1])

    in_world(story)


def test_without_news_a_relay_compares_less_and_less_often_until_it_does_once_a_minute() -> None:
    async def story(world: Finders) -> None:
        first, second = world.finder(), world.finder(after=1e9)
        world.acquaint(first, second)
        await world.sleep(GOSSIP_INTERVAL)
        assert FETCH_SOURCES + 4 <= first.discovery.rounds <= FETCH_SOURCES + 6
        await world.sleep(GOSSIP_INTERVAL)
        before = first.discovery.rounds
        await world.sleep(20 * GOSSIP_INTERVAL)
        assert 20 <= first.discovery.rounds - before <= 26

    in_world(story)


def test_what_others_learn_while_a_network_starts_is_heard_in_seconds() -> None:
    async def story(world: Finders) -> None:
        first, second, late = world.finder(), world.finder(after=1e9), world.finder(after=1e9)
        world.acquaint(first, second)
        await world.sleep(8)  # it has compared three times and more, and has found nothing
        assert first.discovery.rounds > FETCH_SOURCES
        second.discovery.known.add(RelayDescriptor.decode(late.described))
        await world.sleep(10)
        assert first.knows(late)

    in_world(story)


# --- publishing (SPEC 11.2) --------------------------------------------------------------------------


def published(node: Finder) -> int:
    return RelayDescriptor.decode(node.described).published


def test_a_relay_describes_itself_anew_within_its_interval() -> None:
    async def story(world: Finders) -> None:
        first = world.finder(after=9e6)
        times = [published(first)]
        for _ in range(24):
            await world.sleep(3600)
            if published(first) != times[-1]:
                times.append(published(first))
        assert len(times) >= 3
        assert all(
            PUBLISH_INTERVAL / 2 < later - earlier <= PUBLISH_INTERVAL + 3600 for earlier, later in pairwise(times)
        )

    in_world(story)


def test_a_new_onion_key_is_published_at_once_and_reaches_whoever_builds_over_it() -> None:
    async def story(world: Finders) -> None:
        first, second = settled(world, 2)
        old = RelayDescriptor.decode(first.described).onion_key
        assert first.core.onion_keys.rotate(world.loop.wall() + ONION_KEY_LIFETIME)
        new = RelayDescriptor.decode(first.described)
        assert new.onion_key == first.core.onion_keys.public != old
        await world.sleep(3 * GOSSIP_INTERVAL)
        info = second.core.directory.get(first.relay_id)
        assert info is not None
        assert info.onion_key == new.onion_key

    in_world(story)


def test_a_relay_that_is_gone_is_forgotten_when_its_descriptor_expires() -> None:
    async def story(world: Finders) -> None:
        first, second, gone = settled(world, 3)
        gone.close()
        await world.sleep(MAX_DESCRIPTOR_LIFETIME - 600)
        assert first.knows(gone)
        await world.sleep(900)
        for node in (first, second):
            assert not node.knows(gone)
            assert node.core.directory.get(gone.relay_id) is None

    in_world(story)


# --- clients (SPEC 12.3) -----------------------------------------------------------------------------


def test_a_client_asks_three_sources_over_one_hop_while_it_knows_no_more_and_over_three_from_then_on() -> None:
    async def story(world: Finders) -> None:
        relays = settled(world, 8)
        client = world.finder(relay=False)
        begun = paths_of(client)
        for relay in relays[:FETCH_SOURCES]:
            world.introduce(relay, client)
        await world.sleep(10)
        assert {relay.relay_id for relay in client.discovery.usable(client.driver.now())} == {
            relay.relay_id for relay in relays
        }
        first = list(begun)
        assert {len(path) for path in first} == {1}
        assert len(first) == FETCH_SOURCES
        await world.sleep(CLIENT_FETCH_INTERVAL + 2 * GOSSIP_INTERVAL)
        later = begun[len(first) :]
        assert len(later) >= FETCH_SOURCES
        assert {len(path) for path in later} == {3}

    in_world(story)


def test_relays_of_one_network_are_one_source_even_where_they_name_another_address_first() -> None:
    async def story(world: Finders) -> None:
        near = [world.finder(address=(f"127.66.0.{n}", 8000), after=999) for n in range(1, 5)]
        false = [
            world.finder(
                address=(f"127.66.1.{n}", 8000), says=[(f"2001:db{n}::1", 1), (f"127.66.1.{n}", 8000)], after=999
            )
            for n in range(1, 5)
        ]
        world.acquaint(*near, *false)
        client = world.finder(relay=False)
        begun = paths_of(client)
        for relay in (*near, *false):
            world.introduce(relay, client)
        await world.sleep(30)
        assert len(begun) >= 1
        assert len(client.discovery.views) <= 1
        assert client.discovery.usable(client.driver.now()) == []
        assert client.discovery.trouble(client.driver.now()) == "1 of 2 directory sources have answered"

    in_world(story)


def test_a_client_uses_a_relay_when_it_is_old_enough_and_shown_by_enough() -> None:
    async def story(world: Finders) -> None:
        relays = settled(world)
        client = world.finder(relay=False, rules=Rules(3, 600.0, 2, distinct_networks=True))
        for relay in relays[:FETCH_SOURCES]:
            world.introduce(relay, client)
        await world.sleep(500)
        assert client.discovery.usable(client.driver.now()) == []
        assert "are known from 2 sources" in client.discovery.trouble(client.driver.now())
        await world.sleep(150)
        assert len(client.discovery.usable(client.driver.now())) == 4

    in_world(story)


def test_a_relay_that_one_source_shows_alone_is_not_used() -> None:
    async def story(world: Finders) -> None:
        relays = settled(world, 8)
        own = described("friend of the liar", published=int(world.loop.wall()), address=("6.6.6.6", 8000))
        relays[0].discovery.known.add(own)
        client = world.finder(relay=False)
        for relay in relays[:FETCH_SOURCES]:
            world.introduce(relay, client)
        await world.sleep(10)
        usable = {relay.relay_id for relay in client.discovery.usable(client.driver.now())}
        assert len(usable) == 8
        assert own.relay_id not in usable

    in_world(story)


def test_a_client_wants_introductions_until_it_knows_its_sources_and_says_what_it_lacks() -> None:
    async def story(world: Finders) -> None:
        relays = settled(world)
        client, lonely = world.finder(relay=False), world.finder()
        assert client.discovery.trouble(0.0).startswith("no relay has answered yet")
        assert lonely.discovery.trouble(0.0).startswith("no other relay is known yet")
        assert client.discovery.hungry(client.driver.now())
        world.introduce(relays[0], client)
        assert client.discovery.hungry(client.driver.now()), "one source is none, but it names others to ask"
        await world.sleep(5)
        assert not client.discovery.hungry(client.driver.now())
        assert lonely.discovery.hungry(lonely.driver.now())
        assert not relays[0].discovery.hungry(relays[0].driver.now())

    in_world(story)


def test_a_configured_relay_is_used_without_asking_anybody() -> None:
    async def story(world: Finders) -> None:
        relays = settled(world)
        infos = [RelayDescriptor.decode(relay.described).info for relay in relays]
        client = world.finder(relay=False, configured=infos, rules=RULES)
        await world.sleep(5)
        assert client.discovery.usable(client.driver.now()) == infos
        assert client.discovery.trouble(client.driver.now()) == ""
        assert client.discovery.first_seen() == {}

    in_world(story)
