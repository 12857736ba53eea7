"""SPEC 12 as a reader sees it: whole sets over real circuits, lossy ones, and from directories that lie."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from sim.loop import run
from tests.adversarial.attacker import joined
from tests.support import relays
from tests.support.nodes import World
from tests.support.plugin import Figure
from tests.support.relays import contents, described, set_of
from tests.tunnels.circuit.directories import ALL_DIFFER, Liar, Reader, fresh, ids, page_of, served
from tunnels.errors import LocalError, RemoteError
from tunnels.ids import CloseReason, Drop, RelayId
from tunnels.params import CELL_SIZE, FETCH_RETRY, FETCH_TIMEOUT, FETCH_TRIES
from tunnels.path.descriptor import RelayDescriptor
from tunnels.path.descriptors import DescriptorSet
from tunnels.wire.directory_messages import BucketsRequest, Descriptors
from tunnels.wire.messages import Message

# --- Honest directories ----------------------------------------------------------------------------


@pytest.mark.parametrize("hops", [1, 3])
@pytest.mark.parametrize("count", [50, 500])
def test_a_first_fetch_takes_everything_and_the_next_takes_next_to_nothing(
    hops: int, count: int, figure: Figure
) -> None:
    async def main() -> None:
        world = World(delay=0.03)
        source = set_of(*fresh(count))
        path = [*(world.relay() for _ in range(hops - 1)), served(world, source)]
        reader = Reader(world)
        circuit = await reader.node.build(path)
        for turn, news in (("first fetch", count), ("repeat with nothing new", 0)):
            before = circuit.cells_received, circuit.cells_sent
            fetched = await reader.fetch(circuit)
            assert fetched.source == path[-1].info.relay_id
            assert (fetched.relays, fetched.news) == (ids(source), news)
            received, sent = circuit.cells_received - before[0], circuit.cells_sent - before[1]
            name = f"directory of {count} over {hops} hops, {turn}"
            figure(f"{name}: cells received", received, f"({received * CELL_SIZE / 1000:.0f} kB)")
            figure(f"{name}: cells sent", sent, f"({reader.took:.2f} s at 30 ms a link)")
        assert contents(reader.known) == contents(source)
        assert not reader.drops
        world.close()

    run(main())


def test_only_buckets_that_differ_are_fetched_and_both_versions_of_a_relay_end_as_the_newer() -> None:
    async def main() -> None:
        world = World()
        common, mine, theirs = fresh(200), fresh(20, "mine "), fresh(20, "theirs ")
        old, new = (
            described("moved", published=common[0].published),
            described("moved", published=1 + common[0].published),
        )
        source = set_of(*common, *theirs, old)
        reader = Reader(world, set_of(*common, *mine, new))
        circuit = await reader.node.build([served(world, source)])
        fetched = await reader.fetch(circuit)
        assert fetched.relays == ids(source)
        assert fetched.news == len(theirs)
        assert contents(reader.known) == contents(set_of(*common, *mine, *theirs, new))
        world.close()

    run(main())


@pytest.mark.parametrize("seed", range(4))
def test_a_fetch_of_many_pages_gets_through_where_less_than_half_of_them_arrive_whole(seed: int) -> None:
    """2 % loss on each of three links: the 14 cells of a page and its request all arrive with probability 0.4.  Nine
    pages in four tries each would come through with probability 0.3 if a try did not complete the one before.
    """

    async def main() -> None:
        world = World(loss=0.02, seed=seed)
        source = set_of(*fresh(500))
        reader = Reader(world)
        fetched = await reader.fetch_over([world.relay(), world.relay(), served(world, source)])
        assert fetched.relays == ids(source)
        assert contents(reader.known) == contents(source)
        world.close()

    run(main())


def test_two_fetches_on_two_circuits_do_not_disturb_each_other() -> None:
    async def main() -> None:
        world = World()
        one, other = set_of(*fresh(100, "a ")), set_of(*fresh(100, "b "))
        reader = Reader(world)
        circuits = [await reader.node.build([served(world, known)]) for known in (one, other)]
        fetched = await asyncio.gather(*map(reader.begin, circuits))
        assert [each.relays for each in fetched] == [ids(one), ids(other)]
        assert len(reader.known) == 200
        world.close()

    run(main())


def test_a_circuit_has_one_fetch_at_a_time() -> None:
    async def main() -> None:
        world = World()
        source = set_of(*fresh(5))
        reader = Reader(world)
        circuit = await reader.node.build([served(world, source)])
        first = reader.begin(circuit)
        with pytest.raises(LocalError):
            reader.begin(circuit)
        assert (await first).relays == ids(source)
        world.close()

    run(main())


def test_what_expired_or_is_ahead_of_our_clock_is_passed_over_and_spoils_nothing() -> None:
    async def main() -> None:
        world = World()
        good = fresh(30)
        now = good[0].published
        poison = [
            described("expired", published=now - 100, lifetime=100),
            described("from the future", published=now + 700),
            described("for ever", published=now, lifetime=10**6),
        ]
        source = set_of(*good, *poison)
        reader = Reader(world)
        fetched = await reader.fetch_over([served(world, source)])
        assert fetched.relays == ids(good)
        assert contents(reader.known) == contents(set_of(*good))
        world.close()

    run(main())


def test_what_there_is_no_room_for_is_neither_verified_nor_shown() -> None:
    verified = []

    def counting(identity: bytes, message: bytes, signature: bytes) -> bool:
        verified.append(identity)
        return relays.verify(identity, message, signature)

    async def main() -> None:
        world = World()
        sybils = [
            described(f"sybil {n}", published=fresh(1)[0].published, address=(f"66.66.{n // 200}.{n % 200 + 1}", 1))
            for n in range(300)
        ]
        reader = Reader(world, DescriptorSet(limit=20), counting)
        circuit = await reader.node.build([served(world, set_of(*sybils))])
        for _ in range(3):
            fetched = await reader.fetch(circuit)
            assert fetched.relays == ids(reader.known)
        assert len(reader.known) == len(verified) == 20
        world.close()

    run(main())


# --- Silence -----------------------------------------------------------------------------------------


def test_a_directory_that_is_silent_is_asked_four_times_and_given_up() -> None:
    async def main() -> None:
        world = World()
        liar = Liar(world, lambda _: None)
        reader = Reader(world)
        fetched = await reader.fetch_over([liar.node])
        assert (fetched.relays, fetched.news) == (None, 0)
        assert len(liar.asked) == FETCH_TRIES
        assert reader.took == pytest.approx(FETCH_TRIES * FETCH_RETRY, abs=0.1)
        liar.digests = lambda: None
        assert (await reader.fetch_over([liar.node])).relays is None
        world.close()

    run(main())


def test_a_relay_that_is_no_directory_is_given_up_too() -> None:
    async def main() -> None:
        world = World()
        reader = Reader(world)
        assert (await reader.fetch_over([world.relay()])).relays is None
        world.close()

    run(main())


def test_a_fetch_ends_soon_after_its_circuit_and_can_begin_on_another() -> None:
    async def main() -> None:
        world = World()
        source = set_of(*fresh(5))
        directory, reader = served(world, source), Reader(world)
        circuit = await reader.node.build([directory])
        ended = reader.begin(circuit)
        circuit.close(CloseReason.REQUESTED, reader.node.driver.now())
        fetched = await asyncio.wait_for(ended, FETCH_RETRY + 1)
        assert fetched.relays is None
        assert (await reader.fetch(circuit)).relays is None, "begun on a closed circuit it ends at once"
        assert (await reader.fetch_over([directory])).relays == ids(source)
        world.close()

    run(main())


# --- Lies ----------------------------------------------------------------------------------------------


def refused(page: Callable[[BucketsRequest], Message | None], *, requests: int | None = 1) -> Reader:
    """A reader that met a directory with these pages, and believes nothing of it."""
    kept: list[Reader] = []

    async def main() -> None:
        world = World()
        liar, reader = Liar(world, page), Reader(world)
        fetched = await asyncio.wait_for(reader.fetch_over([liar.node]), FETCH_TIMEOUT + 20)
        assert fetched.relays is None
        assert requests is None or len(liar.asked) == requests
        kept.append(reader)
        world.close()

    run(main())
    return kept[0]


def test_a_page_out_of_order_ends_the_fetch() -> None:
    def page(request: BucketsRequest) -> Message:
        a, b = fresh(2)
        return page_of(request, b, a)

    assert refused(page).drops[Drop.MALFORMED] == 1


def test_a_relay_that_comes_twice_ends_the_fetch() -> None:
    assert refused(lambda request: page_of(request, *fresh(1) * 2)).drops[Drop.MALFORMED] == 1


def test_empty_pages_without_end_end_with_the_first() -> None:
    anywhere = RelayId(b"\1" * 32)
    assert refused(lambda request: page_of(request, following=anywhere)).drops[Drop.MALFORMED] == 1


def test_an_empty_page_that_leads_to_itself_is_not_asked_for_again() -> None:
    first = described("any", published=0)

    def page(request: BucketsRequest) -> Message:
        known = fresh(1)[0]
        assert known.relay_id != first.relay_id
        if request.after == known.relay_id:
            return page_of(request, following=known.relay_id)
        return page_of(request, known, following=known.relay_id)

    assert refused(page, requests=2).drops[Drop.MALFORMED] == 1


@pytest.mark.parametrize("step", [-1, 1])
def test_a_page_that_leads_elsewhere_than_to_its_end_ends_the_fetch(step: int) -> None:
    def page(request: BucketsRequest) -> Message:
        a, b, c, d = fresh(4)
        return page_of(request, b, c, following=(a, b, c, d)[2 + step].relay_id)

    assert refused(page).drops[Drop.MALFORMED] == 1


def test_a_page_of_buckets_we_did_not_ask_for_ends_the_fetch() -> None:
    async def main() -> None:
        world = World()
        common = fresh(400)
        stranger = next(d for d in fresh(50, "stranger ") if d.relay_id[0] != common[0].relay_id[0])
        reader = Reader(world, set_of(*common[1:]))
        liar = Liar(world, lambda request: page_of(request, stranger))
        liar.digests = lambda: served_digests(set_of(*common))
        fetched = await reader.fetch_over([liar.node])
        assert [request.wanted for request in liar.asked] == [frozenset({common[0].relay_id[0]})]
        assert fetched.relays is None
        assert stranger.relay_id not in reader.known
        world.close()

    def served_digests(known: DescriptorSet) -> Message:
        return type(ALL_DIFFER)(known.digests())

    run(main())


def forged() -> RelayDescriptor:
    return replace(fresh(1, "victim ")[0], bandwidth=1)


def of_another_network() -> RelayDescriptor:
    return described(1, published=fresh(1)[0].published, network_id=b"another")


def unsigned() -> RelayDescriptor:
    return replace(fresh(1)[0], signature=b"x")


@pytest.mark.parametrize("make", [forged, of_another_network, unsigned])
def test_one_descriptor_that_no_relay_of_ours_signed_ends_the_fetch(make: Callable[[], RelayDescriptor]) -> None:
    reader = refused(lambda request: page_of(request, make()))
    assert len(reader.known) == 0
    assert reader.drops[Drop.MALFORMED] == 1


def test_a_forged_older_descriptor_of_a_relay_we_know_is_not_taken_for_a_true_one() -> None:
    async def main() -> None:
        world = World()
        true = fresh(1)[0]
        reader = Reader(world, set_of(true))
        liar = Liar(world, lambda request: page_of(request, replace(true, published=true.published - 10)))
        assert (await reader.fetch_over([liar.node])).relays is None
        assert contents(reader.known) == {true.encode()}
        world.close()

    run(main())


def test_garbage_in_place_of_a_descriptor_ends_the_fetch() -> None:
    def page(request: BucketsRequest) -> Message:
        return Descriptors(request.after, RelayId(bytes(32)), (b"garbage",))

    assert refused(page).drops[Drop.MALFORMED] == 1


def test_what_a_liar_showed_before_its_first_lie_is_kept_but_its_view_does_not_count() -> None:
    async def main() -> None:
        world = World()
        true = fresh(2)
        liar = Liar(world, lambda request: page_of(request, true[0], replace(true[1], bandwidth=5)))
        reader = Reader(world)
        fetched = await reader.fetch_over([liar.node])
        assert (fetched.relays, fetched.news) == (None, 1)
        assert contents(reader.known) == {true[0].encode()}
        world.close()

    run(main())


def test_a_page_for_another_question_is_no_answer_and_the_question_is_asked_again() -> None:
    async def main() -> None:
        world = World()
        source = fresh(3)
        wrong = iter([RelayId(b"\7" * 32), source[0].relay_id])

        def page(request: BucketsRequest) -> Message:
            if (after := next(wrong, None)) is not None:
                return replace(page_of(request, forged()), after=after)
            return page_of(request, *source)

        liar, reader = Liar(world, page), Reader(world)
        fetched = await reader.fetch_over([liar.node])
        assert len(liar.asked) == 3
        assert fetched.relays == ids(source)
        world.close()

    run(main())


def test_a_trickle_of_one_descriptor_a_page_ends_when_the_time_is_up() -> None:
    """Every page is an answer, just before the reader gives up, and brings the ids up: it would take days."""

    async def main() -> None:
        world = World()
        supply = fresh(3000)
        answered: set[RelayId] = set()

        def page(request: BucketsRequest) -> Message | None:
            if request.after not in answered:
                answered.add(request.after)
                return None
            following = next(each for each in supply if each.relay_id > request.after)
            return page_of(request, following, following=following.relay_id)

        liar, reader = Liar(world, page), Reader(world)
        fetched = await asyncio.wait_for(reader.fetch_over([liar.node]), FETCH_TIMEOUT + 20)
        assert fetched.relays is None
        assert FETCH_TIMEOUT <= reader.took <= FETCH_TIMEOUT + FETCH_RETRY + 1
        world.close()

    run(main())


def test_digests_that_say_a_bucket_is_empty_or_equal_show_no_more_than_we_have() -> None:
    async def main() -> None:
        world = World()
        mine = fresh(20)
        for digests in (set_of(*mine).digests(), DescriptorSet().digests()):
            liar = Liar(world, lambda _: None)
            liar.digests = lambda digests=digests: type(ALL_DIFFER)(digests)  # type: ignore[misc]
            fetched = await Reader(world, set_of(*mine)).fetch_over([liar.node])
            assert fetched.relays == (ids(mine) if any(map(any, digests)) else frozenset())
            assert not liar.asked
        world.close()

    run(main())


def test_a_middle_hop_cannot_answer_for_the_last_one() -> None:
    async def main() -> None:
        world = World()
        guard, middle, silent = world.relay(), world.relay(), Liar(world, lambda _: None)
        silent.digests = lambda: None
        reader = Reader(world)
        circuit = await reader.node.build([guard, middle, silent.node])
        ended = reader.begin(circuit)
        for hop in (guard, middle):
            for message in (ALL_DIFFER, page_of(BucketsRequest(frozenset()), *fresh(3))):
                joined(hop).send(message, hop.driver.now())
                hop.driver.wake()
                await world.sleep(0.5)
        assert reader.drops[Drop.UNEXPECTED] == 4
        assert (await ended).relays is None
        assert len(reader.known) == 0
        world.close()

    run(main())


def test_answers_that_nobody_asked_for_change_nothing() -> None:
    async def main() -> None:
        world = World()
        directory, reader = world.relay(), Reader(world)
        await reader.node.build([directory])
        for message in (ALL_DIFFER, page_of(BucketsRequest(frozenset()), *fresh(3))):
            joined(directory).send(message, directory.driver.now())
        directory.driver.wake()
        await world.sleep(1)
        assert reader.drops[Drop.UNEXPECTED] == 2
        assert len(reader.known) == 0
        world.close()

    run(main())


def test_a_descriptor_from_elsewhere_is_kept_when_it_is_news_and_refused_when_it_is_false() -> None:
    async def main() -> None:
        world = World()
        reader = Reader(world)
        new = fresh(1)[0]
        old = described(0, published=new.published - 5)
        now = reader.node.driver.now()
        assert old.relay_id == new.relay_id
        assert reader.fetcher.take(old.encode(), now) == old
        assert reader.fetcher.take(new.encode(), now) == new
        assert reader.fetcher.take(new.encode(), now) is None
        assert reader.fetcher.take(old.encode(), now) is None
        for data in (b"", forged().encode(), described(1, published=0).encode()):
            with pytest.raises(RemoteError):
                reader.fetcher.take(data, now)
        assert contents(reader.known) == {new.encode()}
        world.close()

    run(main())
