"""Whole nodes that serve and fetch directories, honest and not, for the tests of both."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from sim.loop import running
from tests.support import relays
from tests.support.nodes import Node, RelayNode, World
from tunnels.circuit.core import RelayHandler, Role
from tunnels.circuit.directory_fetch import Fetched, Fetcher
from tunnels.circuit.directory_service import DirectoryService
from tunnels.circuit.origin import OriginCircuit
from tunnels.circuit.relay import RelayCircuit
from tunnels.ids import Drop, RelayId
from tunnels.params import BUCKET_DIGEST_SIZE, BUCKETS
from tunnels.path.descriptor import RelayDescriptor, Verify
from tunnels.path.descriptors import DescriptorSet
from tunnels.timers import Timers
from tunnels.wire.directory_messages import BucketsRequest, Descriptors, DigestRequest, Digests
from tunnels.wire.messages import Message

ALL_DIFFER: Final = Digests((b"\xff" * BUCKET_DIGEST_SIZE,) * BUCKETS)
"""Makes a reader ask for everything."""


def fresh(count: int, prefix: str = "") -> list[RelayDescriptor]:
    """Descriptors published just now, in order of relay id."""
    made = [relays.described(f"{prefix}{n}", published=int(running().wall())) for n in range(count)]
    return sorted(made, key=lambda descriptor: descriptor.relay_id)


def ids(descriptors: Iterable[RelayDescriptor]) -> frozenset[RelayId]:
    return frozenset(descriptor.relay_id for descriptor in descriptors)


def served(world: World, known: DescriptorSet) -> RelayNode:
    """An honest directory."""
    return world.relay(extra_roles=[DirectoryService(known).role])


class Liar:
    """A directory that answers what it likes.

    Attributes:
        digests, page: make the answers; none for None.
        asked: every request for a page, oldest first.
    """

    def __init__(self, world: World, page: Callable[[BucketsRequest], Message | None]) -> None:
        self.digests: Callable[[], Message | None] = lambda: ALL_DIFFER
        self.page = page
        self.asked: list[BucketsRequest] = []
        handlers: dict[type[Message], RelayHandler] = {
            DigestRequest: self._on_digest_request,
            BucketsRequest: self._on_buckets_request,
        }
        self.node = world.relay(extra_roles=[Role("liar", relay=handlers)])

    def _on_digest_request(self, circuit: RelayCircuit, _message: DigestRequest, _early: bool, now: float) -> None:  # noqa: FBT001
        if (answer := self.digests()) is not None:
            circuit.send(answer, now)

    def _on_buckets_request(self, circuit: RelayCircuit, message: BucketsRequest, _early: bool, now: float) -> None:  # noqa: FBT001
        self.asked.append(message)
        if (answer := self.page(message)) is not None:
            circuit.send(answer, now)


def page_of(request: BucketsRequest, *descriptors: RelayDescriptor, following: RelayId | None = None) -> Descriptors:
    """The answer to `request`: these descriptors, and no more unless `following` says so."""
    wires = tuple(descriptor.encode() for descriptor in descriptors)
    return Descriptors(request.after, following or RelayId(bytes(32)), wires)


class Reader:
    """A client that fetches.

    Attributes:
        drops: what its fetcher dropped.
        took: virtual seconds of the newest fetch.
    """

    def __init__(self, world: World, known: DescriptorSet | None = None, verify: Verify = relays.verify) -> None:
        self.known = DescriptorSet() if known is None else known
        self.drops: Counter[Drop] = Counter()
        self.took = 0.0
        timers = Timers()
        self.fetcher = Fetcher(self.known, relays.NETWORK_ID, verify, timers, world.epoch, self._drop)
        self.node: Node = world.client(extra_roles=[self.fetcher.role], timers=timers)

    def _drop(self, reason: Drop) -> None:
        self.drops[reason] += 1

    def begin(self, circuit: OriginCircuit) -> asyncio.Future[Fetched]:
        ended: asyncio.Future[Fetched] = running().create_future()

        def done(fetched: Fetched, _now: float) -> None:
            ended.set_result(fetched)  # raises when it is called twice

        self.fetcher.fetch(circuit, self.node.driver.now(), done)
        self.node.driver.wake()
        return ended

    async def fetch(self, circuit: OriginCircuit) -> Fetched:
        began = self.node.driver.now()
        fetched = await self.begin(circuit)
        self.took = self.node.driver.now() - began
        return fetched

    async def fetch_over(self, path: Sequence[RelayNode]) -> Fetched:
        return await self.fetch(await self.node.build(path))
