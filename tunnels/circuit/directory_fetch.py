"""Fetching the set of relay descriptors over a circuit (SPEC 12).  Floor 3: sans-IO.

Relays compare sets with it, clients fill theirs.  A source is believed in nothing but what relays have signed; what it
shows and what it leaves out is reported to whoever weighs sources (`path.views`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tunnels.circuit.core import Role
from tunnels.circuit.origin import OriginCircuit, State
from tunnels.errors import RemoteError
from tunnels.ids import Drop, RelayId
from tunnels.params import FETCH_RETRY, FETCH_TRIES, MAX_RELAYS
from tunnels.path.descriptor import RelayDescriptor, Verify
from tunnels.wire.directory_messages import (
    NO_RELAY,
    BucketsRequest,
    Descriptors,
    DigestRequest,
    Digests,
)

if TYPE_CHECKING:
    from tunnels.path.descriptors import DescriptorSet
    from tunnels.timers import Timer, Timers


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of a fetch.

    Attributes:
        source: who was asked: the last hop of the circuit.
        relays: all that it shows, None when it did not answer to the end or gave what no relay has signed.
        news: how many descriptors we did not have.
    """

    source: RelayId
    relays: frozenset[RelayId] | None
    news: int


Done = Callable[[Fetched, float], None]


class _Fetch:
    """One conversation with one source.  INVARIANT: exactly one request is unanswered until it is done."""

    def __init__(self, circuit: OriginCircuit, done: Done) -> None:
        self.circuit: Final = circuit
        self.source: Final = circuit.path[-1].relay_id
        self.done: Final = done
        self.request: DigestRequest | BucketsRequest = DigestRequest()
        self.tries = 0
        self.timer: Timer | None = None
        self.shown: set[RelayId] = set()
        self.news = 0


class Fetcher:
    """All fetches of a node.

    Args:
        known: filled with what is valid and new.
        verify: whether a descriptor is signed by its relay.
        epoch: wall clock minus `now`, seconds.
        dropped: told why a message was dropped.
    """

    def __init__(self, known: DescriptorSet, network_id: bytes, verify: Verify, timers: Timers, epoch: float,
                 dropped: Callable[[Drop], None]) -> None:  # fmt: skip
        self._known = known
        self._network_id = network_id
        self._verify = verify
        self._timers = timers
        self._epoch = epoch
        self._dropped = dropped
        self._fetches: dict[OriginCircuit, _Fetch] = {}
        self.role: Final = Role("directory fetch", origin={Digests: self._on_digests, Descriptors: self._on_page})

    def fetch(self, circuit: OriginCircuit, now: float, done: Done) -> None:
        """Compare sets with the last hop of an open circuit and take what differs; `done` is called once."""
        fetch = self._fetches[circuit] = _Fetch(circuit, done)
        self._ask(fetch, now)

    def take(self, data: bytes, now: float) -> RelayDescriptor | None:
        """Keep one descriptor, wherever it comes from.

        Returns:
            The descriptor, None when nothing is wrong with it but it is no news.

        Raises:
            RemoteError: malformed, not valid now, or not signed by its relay.
        """
        descriptor = RelayDescriptor.decode(data)
        known = self._known.get(descriptor.relay_id)
        if known is not None and not descriptor.newer_than(known):
            return None
        descriptor.check(self._network_id, self._epoch + now, self._verify)
        return descriptor if self._known.add(descriptor) else None

    def _ask(self, fetch: _Fetch, now: float) -> None:
        if fetch.circuit.state is not State.OPEN or fetch.tries == FETCH_TRIES:
            self._end(fetch, now, complete=False)
            return
        fetch.tries += 1
        fetch.circuit.send(fetch.request, now)
        if fetch.timer is not None:
            fetch.timer.cancel()
        fetch.timer = self._timers.at(now + FETCH_RETRY, lambda then: self._ask(fetch, then))

    def _ask_next(self, fetch: _Fetch, request: BucketsRequest, now: float) -> None:
        fetch.request, fetch.tries = request, 0
        self._ask(fetch, now)

    def _end(self, fetch: _Fetch, now: float, *, complete: bool) -> None:
        if fetch.timer is not None:
            fetch.timer.cancel()
        del self._fetches[fetch.circuit]
        fetch.done(Fetched(fetch.source, frozenset(fetch.shown) if complete else None, fetch.news), now)

    def _of(self, circuit: OriginCircuit, hop: int) -> _Fetch | None:
        """The fetch that a message of this hop can belong to."""
        fetch = self._fetches.get(circuit)
        if fetch is None or hop != circuit.hops - 1:
            self._dropped(Drop.UNEXPECTED)
            return None
        return fetch

    def _on_digests(self, circuit: OriginCircuit, hop: int, message: Digests, now: float) -> None:
        fetch = self._of(circuit, hop)
        if fetch is None or not isinstance(fetch.request, DigestRequest):
            return
        differing = self._known.differing(message.digests)
        for number in frozenset(range(len(message.digests))) - differing:
            fetch.shown.update(self._known.bucket(number))
        wanted = frozenset(number for number in differing if any(message.digests[number]))
        if wanted:
            self._ask_next(fetch, BucketsRequest(wanted), now)
        else:
            self._end(fetch, now, complete=True)

    def _on_page(self, circuit: OriginCircuit, hop: int, message: Descriptors, now: float) -> None:
        fetch = self._of(circuit, hop)
        if fetch is None:
            return
        request = fetch.request
        if not isinstance(request, BucketsRequest) or message.after != request.after:
            return  # the answer to a request that we repeated
        try:
            last = self._take_page(fetch, message, now)
        except RemoteError:
            self._dropped(Drop.MALFORMED)
            self._end(fetch, now, complete=False)
            return
        if message.following == NO_RELAY:
            self._end(fetch, now, complete=True)
        elif message.following != last or len(fetch.shown) > MAX_RELAYS:
            self._dropped(Drop.MALFORMED)
            self._end(fetch, now, complete=False)
        else:
            self._ask_next(fetch, BucketsRequest(request.wanted, last), now)

    def _take_page(self, fetch: _Fetch, message: Descriptors, now: float) -> RelayId:
        """Keep what a page holds.

        Returns:
            The last relay on it: ids only go up, so that a source cannot keep us reading for ever.
        """
        last = message.after
        for data in message.descriptors:
            relay_id = RelayDescriptor.decode(data).relay_id
            if relay_id <= last:
                raise RemoteError("a page that is not in order")
            last = relay_id
            fetch.news += self.take(data, now) is not None
            fetch.shown.add(relay_id)
        return last
