"""Finding relays: whom to ask, when, and whom to believe (SPEC 11, 12).  Floor 4: sans-IO.

A relay keeps the whole set: it compares with a random other one, and has newcomers reached by a third before it serves
them.  A client asks a few relays in different networks and uses what enough of them show.  How introductions travel is
the community's business; circuits are the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from tunnels.circuit.core import CircuitClosed, CircuitOpened, Purpose, Role
from tunnels.circuit.directory_fetch import Fetched, Fetcher
from tunnels.circuit.directory_service import DirectoryService
from tunnels.errors import LocalError, RemoteError
from tunnels.fair import FairTable
from tunnels.ids import CloseReason, Drop
from tunnels.link.link import LinkState
from tunnels.params import (
    CLIENT_FETCH_INTERVAL,
    DISCOVERY_INTERVAL,
    FETCH_SOURCES,
    GOSSIP_INTERVAL,
    GOSSIP_JITTER,
    MAX_DESCRIPTOR_LIFETIME,
    MAX_PROBES,
    MAX_REACHING,
    MAX_UNREACHED,
    NEWS_SHARE,
    PROBE_INTERVAL,
    PROBE_PAUSE,
    PROBE_TIMEOUT,
    PUBLISH_INTERVAL,
    PUBLISH_JITTER,
    TROUBLED_FETCH_INTERVAL,
)
from tunnels.path.descriptor import Capability, RelayDescriptor, Sign, Verify
from tunnels.path.descriptors import DescriptorSet
from tunnels.path.select import NoPathError, choose_path, network_of, networks_of
from tunnels.path.select import Rules as PathRules
from tunnels.path.views import Views
from tunnels.wire.directory_messages import Probe, Reach, Vouched

if TYPE_CHECKING:
    from tunnels.circuit.core import Event
    from tunnels.circuit.origin import OriginCircuit
    from tunnels.circuit.relay import RelayCircuit
    from tunnels.engine import Engine
    from tunnels.exit.policy import ExitPolicy
    from tunnels.ids import Address, RelayId
    from tunnels.link.link import Link
    from tunnels.path.directory import RelayInfo
    from tunnels.timers import Timers


@dataclass(frozen=True, slots=True)
class Own:
    """What a relay says of itself; `sign` is its IPv8 key's."""

    identity: bytes
    sign: Sign
    link_key: bytes
    exit_policy: ExitPolicy
    capabilities: Capability
    addresses: tuple[Address, ...]
    bandwidth: int
    family: tuple[RelayId, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """
    Attributes:
        min_relays: relays below which a client says that it knows too few.
        min_age: seconds a relay must have been known before a client uses it.
        min_sources: directory sources that must have shown it.
        distinct_networks: whether sources must be in different networks.
    """

    min_relays: int
    min_age: float
    min_sources: int
    distinct_networks: bool


@dataclass(slots=True)
class _Probing:
    """A newcomer that is being reached.

    Attributes:
        until: seconds after which we begin anew.
        asked: third relays that were asked so far.
    """

    until: float
    asked: set[RelayId] = field(default_factory=set)


class Discovery:
    """What a node knows of relays, and how it comes to know more.

    Args:
        own: what we say of ourselves; None for a node that is no relay.
        configured: relays that are believed without asking anybody.
        bootstrap: addresses to begin at; a relay that is there is asked before others.
        verify: whether a descriptor is signed by its relay.
    """

    _engine: Engine

    def __init__(self, *, network_id: bytes, verify: Verify, rules: Rules, own: Own | None,
                 configured: Sequence[RelayInfo], timers: Timers, epoch: float,
                 bootstrap: Collection[Address] = ()) -> None:  # fmt: skip
        self.known: Final = DescriptorSet()
        self.views: Final = Views(rules.min_sources)
        self._network_id = network_id
        self._timers = timers
        self._epoch = epoch
        self._configured = {relay.relay_id: relay for relay in configured}
        self._verify = verify
        self._fetcher = Fetcher(self.known, network_id, verify, timers, epoch, self._drop)
        self._rules = rules
        self._own = own
        self._bootstrap = frozenset(bootstrap)
        self._rooted: set[RelayId] = set()
        """Sources that were reached at an address in `bootstrap`."""
        self._service = DirectoryService(self.known)
        self._descriptor: RelayDescriptor | None = None
        self._publish_from = 0.0
        self._introduced: dict[RelayId, RelayDescriptor] = {}
        """Relays that introduced themselves: to begin with, and (at a relay) to have reached."""
        self._waiting: FairTable[RelayId] = FairTable(MAX_UNREACHED)
        """Places in `_introduced`, by network: thousands of one network do not keep the others out."""
        self._asking: dict[OriginCircuit, Callable[[OriginCircuit, float], None]] = {}
        """Directory circuits that are being built, and what to do with each when it is open."""
        self._probes: dict[RelayId, _Probing] = {}
        self._thirds: dict[RelayId, float] = {}
        """Third relays that would refuse another PROBE until then."""
        self._obeyed: dict[Link, float] = {}
        """When a PROBE that came over a link was last obeyed."""
        self._asked: dict[RelayId, float] = {}
        self._fetching: dict[OriginCircuit, RelayInfo] = {}
        """Sources, by the circuits over which they are asked."""
        self.rounds = 0
        """Fetches that came to an end."""
        self._interval = DISCOVERY_INTERVAL
        """Seconds between the last round and the next."""
        self._news = 0.0
        """Descriptors that the last of them brought, or half of those before."""

    def roles(self) -> tuple[Role, ...]:
        """What the engine has to know for us."""
        if self._own is None:
            return (self._fetcher.role,)
        vouching = Role("vouching", relay={Probe: self._on_probe}, origin={Vouched: self._on_vouched})
        return (self._fetcher.role, self._service.role, vouching)

    def begin(self, engine: Engine, now: float) -> None:
        """Start looking: `engine` was made with our `roles`."""
        self._engine = engine
        self._timers.at(now, self._round)

    def _drop(self, reason: Drop) -> None:
        self._engine.core.drops[reason] += 1

    # --- what others ask -----------------------------------------------------------------------------

    def own_descriptor(self, now: float) -> bytes | None:
        """What our introductions carry; None when we are no relay."""
        if self._own is None:
            return None
        core = self._engine.core
        wall = self._epoch + now
        keys = core.onion_keys
        assert keys is not None
        stale = self._descriptor is None or wall >= self._publish_from or self._descriptor.onion_key != keys.public
        if stale:
            self._descriptor = self._describe(wall)
            self._publish_from = wall + PUBLISH_INTERVAL * (1 - self._share() * PUBLISH_JITTER)
            if self._descriptor.relay_id in self.known:
                self.known.add(self._descriptor)
        assert self._descriptor is not None
        return self._descriptor.encode()

    def introduced(self, data: bytes, identity: bytes, now: float) -> bool:
        """A neighbour described itself in an IPv8 introduction.

        Args:
            identity: the public key that signed the introduction: nobody introduces others.

        Returns:
            Whether it is a relay.
        """
        core = self._engine.core
        try:
            descriptor = RelayDescriptor.decode(data)
            relay_id = descriptor.relay_id
            known = self.known.get(relay_id) or self._introduced.get(relay_id)
            if descriptor.identity != identity or relay_id == core.relay_id:
                core.drops[Drop.UNEXPECTED] += 1
                return False
            if known is not None and not descriptor.newer_than(known):
                return True
            network = network_of(descriptor.addresses[0][0])
            if known is None and self._waiting.full_for(network):
                core.drops[Drop.LIMIT] += 1
                return True
            descriptor.check(self._network_id, self._epoch + now, self._verify)
        except RemoteError:
            core.drops[Drop.MALFORMED] += 1
            return False
        if relay_id in self.known:
            if self.known.add(descriptor):  # reached before; a new address is tried by whoever dials it
                self._use(descriptor)
            return True
        self._forget_introduced(relay_id)
        if (leaves := self._waiting.add(network, relay_id)) is not None:
            self._forget_introduced(leaves)
        self._introduced[relay_id] = descriptor
        return True

    def _forget_introduced(self, relay_id: RelayId) -> None:
        self._waiting.discard(relay_id)
        self._introduced.pop(relay_id, None)

    def believe(self, relay: RelayInfo) -> None:
        """Use `relay` from now on, without asking anybody."""
        self._engine.core.directory.add(relay)
        self._configured[relay.relay_id] = relay

    def usable(self, now: float) -> list[RelayInfo]:
        """The relays that circuits for data may use: the configured ones, and all that a relay serves or what a
        client's sources agree on.
        """
        found = {relay.relay_id: relay for relay in self._found(now)}
        return list((found | self._configured).values())

    def _found(self, now: float) -> list[RelayInfo]:
        if self._own is not None:
            return [descriptor.info for descriptor in self.known if descriptor.relay_id != self._engine.core.relay_id]
        if self._trouble(now):
            return []
        agreed = self.views.agreed(min_age=self._rules.min_age, now=self._epoch + now)
        return [descriptor.info for descriptor in self.known if descriptor.relay_id in agreed]

    def first_seen(self) -> Mapping[RelayId, float]:
        """Since when each found relay is known, in wall seconds; the configured ones are not in it."""
        seen = {d.relay_id: self.views.first_seen(d.relay_id) for d in self.known if d.relay_id not in self._configured}
        return {relay_id: first for relay_id, first in seen.items() if first is not None}

    def relays_known(self) -> int:
        """Other relays whose descriptors we hold, and the configured ones."""
        found = {descriptor.relay_id for descriptor in self.known} | self._configured.keys()
        return len(found - {self._engine.core.relay_id})

    def trouble(self, now: float) -> str:
        """Why there is nobody to build circuits over, empty when there is."""
        return "" if self._configured else self._trouble(now)

    def _trouble(self, now: float) -> str:
        if self._own is not None:
            return "" if len(self.known) else "no other relay is known yet: set bootstrap to the address of one"
        if not len(self.known) and not self._introduced:
            return "no relay has answered yet: set bootstrap to the address of one"
        wall = self._epoch + now
        return self.views.trouble(min_relays=self._rules.min_relays, min_age=self._rules.min_age, now=wall)

    @property
    def is_relay(self) -> bool:
        return self._own is not None

    def hungry(self, now: float) -> bool:
        """Whether more introductions are wanted: a client stops when it knows enough sources."""
        if self._own is not None:
            return len(self.known) <= FETCH_SOURCES
        return len(self._introduced) + len(self._asked) < FETCH_SOURCES or bool(self.trouble(now))

    def on_event(self, event: Event, now: float) -> None:
        """A circuit of ours with the purpose DIRECTORY opened or closed."""
        if isinstance(event, CircuitOpened) and (then := self._asking.pop(event.circuit, None)) is not None:
            then(event.circuit, now)
        elif isinstance(event, CircuitClosed):
            self._asking.pop(event.circuit, None)
            self._fetching.pop(event.circuit, None)

    # --- rounds --------------------------------------------------------------------------------------

    def _round(self, now: float) -> None:
        core = self._engine.core
        wall = self._epoch + now
        gone = self.known.expire(wall)
        self.views.forget(gone)
        for relay_id in gone:
            core.directory.remove(relay_id)
        for relay_id in [relay_id for relay_id, descriptor in self._introduced.items() if descriptor.expires <= wall]:
            self._forget_introduced(relay_id)
        self.own_descriptor(now)
        hurry = self._compare(now) if self._own is not None else self._ask_sources(now)
        # One round without news is no sign that there is none: in a network that starts, others learn at the same time.
        self._interval = DISCOVERY_INTERVAL if hurry else min(2 * self._interval, GOSSIP_INTERVAL)
        self._timers.at(now + self._interval * (1 - self._share() * GOSSIP_JITTER), self._round)

    def _compare(self, now: float) -> bool:
        """A relay's round; whether the next should come soon."""
        self._reach_newcomers(now)
        others = [d for d in self.known if d.relay_id != self._engine.core.relay_id]
        if others:
            self._fetch(others[self._engine.core.rng.below(len(others))], now)
        return not others or self.rounds < FETCH_SOURCES or self._news > NEWS_SHARE * len(self.known)

    def _ask_sources(self, now: float) -> bool:
        """A client's round; whether the next should come soon."""
        wall = self._epoch + now
        candidates = [*self._introduced.values(), *(d for d in self.known if Capability.DIRECTORY in d.capabilities)]
        in_trouble = bool(self._trouble(now))
        lasts = TROUBLED_FETCH_INTERVAL if in_trouble else CLIENT_FETCH_INTERVAL
        fresh = {source for source, asked in self._asked.items() if wall - asked < lasts}
        asked = [d.info for d in candidates if d.relay_id in fresh]
        taken = {network for source in (*asked, *self._fetching.values()) for network in networks_of(source)}
        missing = FETCH_SOURCES - len(fresh) - len(self._fetching)
        busy = fresh | self._being_asked()
        self._shuffle(candidates)
        roots = [descriptor for descriptor in candidates if self._is_root(descriptor.info)]
        for descriptor in roots:
            if descriptor.relay_id not in busy and self._fetch(descriptor, now):
                taken |= networks_of(descriptor.info)
                missing -= 1
        for descriptor in candidates:
            networks = networks_of(descriptor.info)
            if missing <= 0:
                break
            if (
                descriptor in roots
                or descriptor.relay_id in busy
                or (self._rules.distinct_networks and networks & taken)
            ):
                continue
            taken |= networks
            missing -= self._fetch(descriptor, now)
        return in_trouble or len(fresh) < FETCH_SOURCES

    def _is_root(self, source: RelayInfo) -> bool:
        """Whether we dial it at an address that the application has named."""
        return self._engine.core.address_of(source) in self._bootstrap

    def _being_asked(self) -> set[RelayId]:
        return {source.relay_id for source in self._fetching.values()}

    def _fetch(self, descriptor: RelayDescriptor, now: float) -> bool:
        source = descriptor.info
        if source.relay_id in self._being_asked():
            return False
        circuit = self._open(self._way_to(source, now), now, self._begin_fetch)
        if circuit is None:
            return False
        self._fetching[circuit] = source
        return True

    def _begin_fetch(self, circuit: OriginCircuit, now: float) -> None:
        self._fetcher.fetch(circuit, now, lambda fetched, then: self._done(circuit, fetched, then))

    def _way_to(self, source: RelayInfo, now: float) -> tuple[RelayInfo, ...]:
        """One hop for a relay, whose neighbours are known anyway, and for a client that knows no more; else three.

        One hop also to a node at a bootstrap address that was not reached there yet: we have spoken to that address in
        clear, and only so we know that the node is the one that was meant.
        """
        if self._own is not None or (self._is_root(source) and source.relay_id not in self._rooted):
            return (source,)
        core = self._engine.core
        rules = PathRules(
            distinct_networks=self._rules.distinct_networks, families=frozenset(core.families),
            never=frozenset({source.relay_id}), private=core.limits.private_addresses,
        )  # fmt: skip
        taken = networks_of(source) if self._rules.distinct_networks else frozenset()
        others = [relay for relay in self.usable(now) if not networks_of(relay) & taken]
        try:
            return (*choose_path(others, 2, core.rng, rules, exits=False), source)
        except NoPathError:
            return (source,)

    def _done(self, circuit: OriginCircuit, fetched: Fetched, now: float) -> None:
        core = self._engine.core
        source = self._fetching.pop(circuit, None)
        circuit.close(CloseReason.REQUESTED, now)
        if fetched.relays is None or source is None:
            return
        self.rounds += 1
        self._news = max(fetched.news, self._news / 2)
        wall = self._epoch + now
        self._asked[fetched.source] = wall
        networks = networks_of(source) if self._rules.distinct_networks else frozenset[str]()
        if circuit.hops == 1 and self._is_root(source):
            self._rooted.add(fetched.source)
        self.views.show(fetched.source, fetched.relays, wall, networks=networks, rooted=fetched.source in self._rooted)
        for relay_id in fetched.relays:
            self._forget_introduced(relay_id)
            descriptor = self.known.get(relay_id)
            if descriptor is not None and relay_id != core.relay_id:
                self._use(descriptor)

    def _use(self, descriptor: RelayDescriptor) -> None:
        """Let circuits and EXTENDs find a relay."""
        try:
            self._engine.core.directory.add(descriptor.info)
        except (LocalError, ValueError):
            self._engine.core.drops[Drop.MALFORMED] += 1

    def _open(self, path: tuple[RelayInfo, ...], now: float, then: Callable[[OriginCircuit, float], None]
              ) -> OriginCircuit | None:  # fmt: skip
        """Build a circuit to a directory, and go on with it when it is open; None when it cannot even begin."""
        try:
            circuit = self._engine.create_circuit(path, now, Purpose.DIRECTORY)
        except LocalError:
            return None
        self._asking[circuit] = then
        return circuit

    # --- newcomers (SPEC 11.3) ------------------------------------------------------------------------

    def _reach_newcomers(self, now: float) -> None:
        """Have every relay that introduced itself reached."""
        for relay_id, probe in list(self._probes.items()):
            if now >= probe.until or relay_id not in self._introduced:
                del self._probes[relay_id]
        for relay_id in list(self._introduced):
            if len(self._probes) == MAX_REACHING:
                break
            if relay_id not in self._probes:
                self._probes[relay_id] = _Probing(now + PROBE_TIMEOUT)
                self._reach(relay_id, now)

    def _reach(self, relay_id: RelayId, now: float) -> None:
        """Ask a third relay, one that was not asked yet, or try ourselves when there is none."""
        probe, descriptor = self._probes[relay_id], self._introduced[relay_id]
        passed_over = {relay_id, self._engine.core.relay_id, *probe.asked}
        thirds = [d for d in self.known if d.relay_id not in passed_over]
        if thirds and len(probe.asked) < MAX_PROBES:
            self._thirds = {third: until for third, until in self._thirds.items() if until > now}
            thirds = [d for d in thirds if d.relay_id not in self._thirds]
            if not thirds:  # all of them would refuse: one second is not over
                self._timers.at(min(self._thirds.values()), lambda then: self._reach_again(relay_id, then))
                return
        else:
            self._try(descriptor, now, lambda reach, then: self._reached(relay_id, reach, then), alone=True)
            return
        third = thirds[self._engine.core.rng.below(len(thirds))]
        probe.asked.add(third.relay_id)
        self._thirds[third.relay_id] = now + PROBE_PAUSE
        self._open((third.info,), now, partial(self._send_probe, Probe(descriptor.encode())))

    def _reach_again(self, relay_id: RelayId, now: float) -> None:
        if relay_id in self._probes and relay_id in self._introduced:
            self._reach(relay_id, now)

    def _send_probe(self, message: Probe, circuit: OriginCircuit, now: float) -> None:
        circuit.send(message, now)
        self._timers.at(now + PROBE_TIMEOUT, lambda then: circuit.close(CloseReason.NO_ANSWER, then))

    def _on_vouched(self, circuit: OriginCircuit, hop: int, message: Vouched, now: float) -> None:
        probe = self._probes.get(message.relay_id)
        if probe is None or hop or circuit.path[0].relay_id not in probe.asked:
            self._drop(Drop.UNEXPECTED)
        else:
            self._reached(message.relay_id, message.reach, now)
        circuit.close(CloseReason.REQUESTED, now)

    def _reached(self, relay_id: RelayId, reach: Reach, now: float) -> None:
        descriptor = self._introduced.get(relay_id)
        if descriptor is None or relay_id not in self._probes:
            return  # somebody else served it in the meantime
        if reach is Reach.CANNOT_TELL:
            self._reach(relay_id, now)
            return
        del self._probes[relay_id]
        self._forget_introduced(relay_id)
        if reach is Reach.REACHED and self.known.add(descriptor):
            self._use(descriptor)
        self._timers.at(now, self._reach_newcomers)

    def _on_probe(self, circuit: RelayCircuit, message: Probe, _early: bool, now: float) -> None:  # noqa: FBT001
        core = self._engine.core
        link = circuit.link
        self._obeyed = {known: when for known, when in self._obeyed.items() if now - when < PROBE_INTERVAL}
        if link in self._obeyed:
            self._drop(Drop.REFUSED)
            return
        self._obeyed[link] = now
        try:
            descriptor = RelayDescriptor.decode(message.descriptor)
            descriptor.check(self._network_id, self._epoch + now, self._verify)
        except RemoteError:
            self._drop(Drop.MALFORMED)
            return
        relay_id = descriptor.relay_id
        if not core.directory.is_relay(link.remote):
            self._drop(Drop.REFUSED)
            self._engine.send_backward(circuit, Vouched(Reach.CANNOT_TELL, relay_id), now)
            return
        self._try(
            descriptor, now, lambda reach, then: self._engine.send_backward(circuit, Vouched(reach, relay_id), then),
            alone=False,
        )  # fmt: skip

    def _try(
        self, descriptor: RelayDescriptor, now: float, done: Callable[[Reach, float], object], *, alone: bool
    ) -> None:
        """Open a link to a relay, and say whether it came up.

        Args:
            alone: nobody else can be asked: then a link that came from the claimed address will do.
        """
        core = self._engine.core
        try:
            address = core.address_of(descriptor.info)
            link = core.links.dial(descriptor.link_key, address, now) if address is not None else None
        except (LocalError, ValueError):
            link = None
        deadline = now + PROBE_TIMEOUT / 2

        def look(then: float) -> None:
            if link is None or link.state is LinkState.DOWN or then >= deadline:
                done(Reach.NOT_REACHED, then)
            elif link.current is None:
                self._timers.at(then + DISCOVERY_INTERVAL / 4, look)
            elif link.current.initiator or (alone and link.address == address):
                done(Reach.REACHED, then)
            else:
                done(Reach.NOT_REACHED if alone else Reach.CANNOT_TELL, then)

        self._timers.at(now, look)

    # --- small things -----------------------------------------------------------------------------------

    def _describe(self, wall: float) -> RelayDescriptor:
        own, core = self._own, self._engine.core
        assert own is not None
        assert core.onion_keys is not None
        policy = own.exit_policy
        return RelayDescriptor(
            own.capabilities, int(wall), MAX_DESCRIPTOR_LIFETIME, own.bandwidth, own.link_key, core.onion_keys.public,
            own.identity, own.addresses, policy.summary(4), policy.summary(6), own.family,
        ).signed(self._network_id, own.sign)  # fmt: skip

    def _share(self) -> float:
        return self._engine.core.rng.below(1 << 16) / (1 << 16)

    def _shuffle(self, items: list[RelayDescriptor]) -> None:
        for place in range(len(items) - 1, 0, -1):
            other = self._engine.core.rng.below(place + 1)
            items[place], items[other] = items[other], items[place]
