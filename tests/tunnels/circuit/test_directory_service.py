"""SPEC 12.1 as a directory sees it: honest readers, and floods."""

import asyncio
import gc
from typing import Any

import pytest

from sim.loop import run
from tests.support.nodes import World
from tests.support.relays import described, set_of
from tests.tunnels.circuit.directories import Reader, fresh, ids
from tunnels.circuit.directory_service import DirectoryService
from tunnels.ids import Drop
from tunnels.params import BUCKETS, MAX_PAGE_SIZE, SERVE_BURST, SERVE_RATE
from tunnels.path.descriptors import DescriptorSet
from tunnels.wire.directory_messages import NO_RELAY, BucketsRequest, Descriptors, DigestRequest, Digests
from tunnels.wire.messages import Message

EVERYTHING = BucketsRequest(frozenset(range(BUCKETS)))


def test_a_flood_of_requests_is_answered_at_the_rate_of_one_circuit_and_no_faster() -> None:
    async def main() -> None:
        world = World()
        service = DirectoryService(set_of(*fresh(100)))
        directory, reader = world.relay(extra_roles=[service.role]), Reader(world)
        circuit = await reader.node.build([directory])
        seconds, each = 5, 200
        for _ in range(seconds):
            for _ in range(each):
                circuit.send(EVERYTHING, reader.node.driver.now())
            reader.node.driver.wake()
            await world.sleep(1)
        allowed = SERVE_BURST + seconds * SERVE_RATE
        assert SERVE_BURST <= service.answers <= allowed
        assert directory.core.drops[Drop.LIMIT] == seconds * each - service.answers
        assert circuit.cells_received <= allowed * 14
        world.close()

    run(main())


def test_a_flood_on_one_circuit_does_not_keep_a_reader_on_another_from_being_served() -> None:
    async def main() -> None:
        world = World()
        source = set_of(*fresh(200))
        directory = world.relay(extra_roles=[DirectoryService(source).role])
        flooder, reader = Reader(world), Reader(world)
        flood = await flooder.node.build([directory])

        async def pour() -> None:
            while True:
                for _ in range(100):
                    flood.send(EVERYTHING, flooder.node.driver.now())
                flooder.node.driver.wake()
                await world.sleep(0.1)

        pouring = asyncio.create_task(pour())
        fetched = await reader.fetch_over([directory])
        assert fetched.relays == ids(source)
        assert reader.took < 1
        pouring.cancel()
        world.close()

    run(main())


def test_a_reader_who_was_too_fast_goes_on_when_he_has_waited() -> None:
    async def main() -> None:
        world = World()
        source = set_of(*fresh(300))
        directory, reader = world.relay(extra_roles=[DirectoryService(source).role]), Reader(world)
        circuit = await reader.node.build([directory])
        for _ in range(100):
            circuit.send(DigestRequest(), reader.node.driver.now())
        fetched = await reader.fetch(circuit)
        assert fetched.relays == ids(source)
        world.close()

    run(main())


class Recorder:
    """A circuit, as far as a directory knows one."""

    def __init__(self) -> None:
        self.sent: list[tuple[Message, int | None]] = []
        self.drops = dict.fromkeys(Drop, 0)
        self.core = self
        self._ids = 0

    def new_message_id(self) -> int:
        self._ids += 1
        return self._ids

    def send(self, message: Message, _now: float, message_id: int | None = None) -> bool:
        self.sent.append((message, message_id))
        return True


def ask(service: DirectoryService, circuit: Any, message: Message, now: float = 0) -> None:
    service.role.relay[type(message)](circuit, message, False, now)


def test_the_same_answer_again_keeps_its_message_id_and_another_one_does_not() -> None:
    known = set_of(*(described(n) for n in range(100)))
    service, circuit = DirectoryService(known), Recorder()
    after = BucketsRequest(EVERYTHING.wanted, known.page(range(BUCKETS), NO_RELAY).following)
    assert after.after != NO_RELAY
    for request in (DigestRequest(), DigestRequest(), EVERYTHING, EVERYTHING, after, after):
        ask(service, circuit, request)
    known.add(described("newcomer"))
    for request in (DigestRequest(), EVERYTHING, after):
        ask(service, circuit, request)
    numbers = [number for _, number in circuit.sent]
    assert numbers == [1, 1, 2, 2, 3, 3, 4, 5, 6]


def test_two_circuits_do_not_share_message_ids_or_tokens() -> None:
    service, one, other = DirectoryService(DescriptorSet()), Recorder(), Recorder()
    for _ in range(100):
        ask(service, one, DigestRequest())
    ask(service, other, DigestRequest())
    assert len(one.sent) == SERVE_BURST
    assert len(other.sent) == 1


def test_what_was_not_used_does_not_add_up_beyond_the_burst() -> None:
    service, circuit = DirectoryService(DescriptorSet()), Recorder()
    ask(service, circuit, DigestRequest())
    for _ in range(100):
        ask(service, circuit, DigestRequest(), 3600)
    assert len(circuit.sent) == 1 + SERVE_BURST


def test_a_circuit_that_is_gone_is_not_remembered() -> None:
    service = DirectoryService(DescriptorSet())
    for _ in range(10):
        ask(service, Recorder(), DigestRequest())
    gc.collect()
    assert not service._readers  # noqa: SLF001 (memory is what is tested)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (DigestRequest(), Digests(DescriptorSet().digests())),
        (EVERYTHING, Descriptors(NO_RELAY, NO_RELAY, ())),
        (BucketsRequest(frozenset()), Descriptors(NO_RELAY, NO_RELAY, ())),
    ],
)
def test_an_empty_directory_says_so(request_: Message, answer: Message) -> None:
    circuit = Recorder()
    ask(DirectoryService(DescriptorSet()), circuit, request_)
    assert [message for message, _ in circuit.sent] == [answer]


def test_no_request_makes_an_answer_beyond_its_bound() -> None:
    known = set_of(*(described(n) for n in range(500)))
    for number in range(0, BUCKETS, 16):
        for wanted in ({number}, range(number, BUCKETS), range(BUCKETS)):
            request = BucketsRequest(frozenset(wanted))
            circuit = Recorder()
            ask(DirectoryService(known), circuit, request)
            [(message, _)] = circuit.sent
            assert len(message.encode()) <= MAX_PAGE_SIZE
