"""Fetching the set of relay descriptors over a circuit (SPEC 12).  Floor 3: sans-IO.

Relays compare sets with it, clients fill theirs.  A source is believed in nothing but what relays have signed; what it
shows and what it leaves out is reported to whoever weighs sources (`path.views`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tunnels.circuit.core import Role
from tunnels.circuit.origin import OriginCircuit, State
from tunnels.errors import LocalError, RemoteError
from tunnels.ids import Drop, RelayId
from tunnels.params import CHECK_PAUSE, CHECKS_PER_TURN, FETCH_RETRY, FETCH_TIMEOUT, FETCH_TRIES
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
        relays: all that it shows and that is valid by our clock, None when it did not answer to the end or gave what no
            relay has signed.
        news: how many descriptors we did not have.
    """

    source: RelayId
    relays: frozenset[RelayId] | None
    news: int


Done = Callable[[Fetched, float], None]


class _Page:
    """One answer that is being read.

    Attributes:
        following: where the next page begins.
        descriptors: those that were not looked at yet.
        checks: signatures that were checked in this turn.
    """

    __slots__ = ("checks", "descriptors", "following")

    def __init__(self, following: RelayId, descriptors: deque[RelayDescriptor]) -> None:
        self.following: Final = following
        self.descriptors: Final = descriptors
        self.checks = 0


class _Fetch:
    """One conversation with one source.

    INVARIANT: until it is done, exactly one request is unanswered or its answer is being read.
    """

    def __init__(self, circuit: OriginCircuit, now: float, done: Done) -> None:
        self.circuit: Final = circuit
        self.hop: Final = circuit.hops - 1
        self.source: Final = circuit.path[-1].relay_id
        self.deadline: Final = now + FETCH_TIMEOUT
        self.done: Final = done
        self.request: DigestRequest | BucketsRequest = DigestRequest()
        self.tries = 0
        self.timer: Timer | None = None
        self.shown: set[RelayId] = set()
        self.news = 0
        self.page: _Page | None = None


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
        """Compare sets with the last hop of an open circuit and take what differs; `done` is called once.

        Raises:
            LocalError: this circuit has a fetch under way.
        """
        if circuit in self._fetches:
            raise LocalError("one fetch a circuit")
        fetch = self._fetches[circuit] = _Fetch(circuit, now, done)
        self._ask(fetch, now)

    def take(self, data: bytes, now: float) -> RelayDescriptor | None:
        """Keep one descriptor, wherever it comes from.

        Returns:
            The descriptor, None when nothing is wrong with it but it is no news, or we have no room for it.

        Raises:
            RemoteError: malformed, not valid now, or not signed by its relay.
        """
        descriptor = RelayDescriptor.decode(data)
        return descriptor if self._keep(descriptor, now) else None

    def _keep(self, descriptor: RelayDescriptor, now: float) -> bool:
        if self._is_settled(descriptor):
            return False
        descriptor.check(self._network_id, self._epoch + now, self._verify)
        return self._known.add(descriptor)

    def _is_settled(self, descriptor: RelayDescriptor) -> bool:
        """A signature costs up to 3 ms: not spent on what we have, nor on what there is no room for."""
        known = self._known.get(descriptor.relay_id)
        return (known is not None and known.digest == descriptor.digest) or not self._known.has_room_for(descriptor)

    def _ask(self, fetch: _Fetch, now: float) -> None:
        if fetch.circuit.state is not State.OPEN or fetch.tries == FETCH_TRIES or now >= fetch.deadline:
            self._end(fetch, now, complete=False)
            return
        fetch.tries += 1
        fetch.circuit.send(fetch.request, now, fetch.hop)
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
        if fetch is None or hop != fetch.hop:
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
        if not isinstance(request, BucketsRequest) or message.after != request.after or fetch.page is not None:
            return  # the answer to a request that we repeated
        try:
            fetch.page = _Page(message.following, _in_order(message, request.wanted))
        except RemoteError:
            self._give_up(fetch, now)
            return
        self._read_on(fetch, now)

    def _read_on(self, fetch: _Fetch, now: float) -> None:
        """Check a few descriptors of the page, the others in later turns: a whole page may take a tenth of a second."""
        page, request = fetch.page, fetch.request
        assert page is not None
        assert isinstance(request, BucketsRequest)
        if fetch.timer is not None:
            fetch.timer.cancel()
        try:
            while page.descriptors and page.checks < CHECKS_PER_TURN:
                self._take(fetch, page, page.descriptors.popleft(), now)
        except RemoteError:
            self._give_up(fetch, now)
            return
        if page.descriptors:
            page.checks = 0
            fetch.timer = self._timers.at(now + CHECK_PAUSE, lambda then: self._read_on(fetch, then))
            return
        fetch.page = None
        if page.following == NO_RELAY:
            self._end(fetch, now, complete=True)
        else:
            self._ask_next(fetch, BucketsRequest(request.wanted, page.following), now)

    def _take(self, fetch: _Fetch, page: _Page, descriptor: RelayDescriptor, now: float) -> None:
        """
        Raises:
            RemoteError: it is not signed.
        """
        # Clocks differ: what expires just now, or seems to come from the future, is not the source's fault.  Else one
        # relay that publishes such a descriptor would break every fetch from everybody.
        if not descriptor.valid_at(self._epoch + now):
            return
        page.checks += not self._is_settled(descriptor)
        fetch.news += self._keep(descriptor, now)
        if descriptor.relay_id in self._known:
            fetch.shown.add(descriptor.relay_id)

    def _give_up(self, fetch: _Fetch, now: float) -> None:
        self._dropped(Drop.MALFORMED)
        self._end(fetch, now, complete=False)


def _in_order(message: Descriptors, wanted: frozenset[int]) -> deque[RelayDescriptor]:
    """What a page holds.  Every page brings the ids up: a source cannot keep us reading in circles.

    Raises:
        RemoteError: it is not the page we asked for, or holds what is no descriptor.
    """
    last = message.after
    found: deque[RelayDescriptor] = deque()
    for data in message.descriptors:
        descriptor = RelayDescriptor.decode(data)
        if descriptor.relay_id <= last or descriptor.relay_id[0] not in wanted:
            raise RemoteError("a page that is not in order")
        last = descriptor.relay_id
        found.append(descriptor)
    if message.following != NO_RELAY and (message.following != last or not found):
        raise RemoteError("a page that leads nowhere")
    return found
