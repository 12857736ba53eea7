"""A virtual UDP network: sockets, the links between them, and what an adversary sees and forges.  Floor 5.

    Socket.send -> route: link, link, ... -> Socket's receiver
                   each link: now or later, once, twice or never

Knows addresses, sizes and time; never looks into a datagram.  All chance comes from one Rng, all time from one loop, so
a seed gives the same arrivals whatever the process, its hash seed and its operating system's randomness are.

HOT PATH.  Every datagram of every simulated node passes `Socket.send_many` and `VirtualNetwork._arrive`.

  cost    1.4 us a datagram in bursts of 48, 5 us alone, 13 us alone and each at an instant of its own, the
          receivers' answers included, over 2000 nodes (tests/sim/test_figures.py)
  copies  none: a datagram is one bytes object from sender to receiver
  batch   what arrives at one instant shares one timer, and from one source (up to BATCH) one call of the receiver
"""

import ipaddress
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Protocol

from sim.loop import VirtualLoop
from tunnels.errors import LocalError
from tunnels.ids import Address, Rng

HEADERS: Final = {4: 28, 6: 48}
"""IP version -> bytes of IP and UDP header, which links see and receivers do not (RFC 791, RFC 8200, RFC 768)."""

BATCH: Final = 48
"""Datagrams handed over in one call; what one UDP_GRO read of cells gives."""

FIRST_EPHEMERAL: Final = 49152
"""Where ports are looked for when port 0 is asked for (RFC 6335 6)."""

DEFAULT_QUEUE: Final = 65536
"""Bytes waiting for a link of limited rate: 50 ms at 10 Mbit/s."""


class Fate(Enum):
    """Why a datagram did not come out of a link."""

    LOST = auto()
    QUEUE_FULL = auto()
    TOO_BIG = auto()
    UNREACHABLE = auto()
    """Nobody listens at the destination, it is unplugged, or it speaks the other IP version."""


class Link(Protocol):
    """Anything that takes datagrams in one direction: a cable, a queue, a NAT's mood, an adversary.

    One object may stand in many routes (the uplink of a host) or in one.
    """

    def carry(self, size: int, now: float, rng: Rng) -> tuple[float, ...] | Fate:
        """When the datagram that enters now comes out, once for each copy, none earlier than `now`; or why it does not.

        Args:
            size: bytes with IP and UDP headers.
        """


Delay = Callable[[Rng], float]
"""Draws the seconds one datagram is under way."""

Topology = Callable[[Address, Address], Sequence[Link]]
"""The links from a source to a destination, in order; asked when the two first speak.  Each is entered when the one
before it was left, so a link that many routes share sees their datagrams in the order in which they really come."""

Receiver = Callable[[list[bytes], Address], None]
"""Takes 1 to BATCH datagrams that arrived at one instant from one source, in order; the list is the taker's."""


def unit(rng: Rng) -> float:
    """Uniform in [0, 1), every multiple of 2^-53 equally likely."""
    return (int.from_bytes(rng.bytes(7)) >> 3) * 2.0**-53


def uniform(low: float, high: float) -> Delay:
    """A delay between `low` and `high` seconds, which reorders whatever is sent faster than `high - low`."""
    return lambda rng: low + (high - low) * unit(rng)


def _happens(probability: float, rng: Rng) -> bool:
    """Draws nothing for what never happens, so that an option left out does not shift the chances of the others."""
    return probability > 0.0 and unit(rng) < probability


@dataclass(slots=True, kw_only=True)
class Pipe:
    """One direction of an ordinary link: a queue, a rate, a delay, accidents.

    Attributes:
        delay: seconds, or how to draw them.
        loss: probability that a datagram, having used up its share of the rate, does not arrive.
        reorder: probability that one is held back for `hold` seconds more.
        duplicate: probability that a second copy arrives, with a delay of its own.
        rate: bytes/s, IP and UDP headers included.
        queue: bytes that may wait or be on their way out; what finds no room is dropped.  An idle link takes anything.
        mtu: bytes with headers of the largest datagram.
    """

    delay: float | Delay = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    hold: float = 0.0
    duplicate: float = 0.0
    rate: float = math.inf
    queue: int = DEFAULT_QUEUE
    mtu: float = math.inf
    _free_at: float = field(default=-math.inf, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("loss", "reorder", "duplicate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise LocalError(f"{name} is a probability, not {getattr(self, name)}")
        for name, value in (("delay", self.delay), ("hold", self.hold)):
            if not callable(value) and not 0.0 <= value < math.inf:
                raise LocalError(f"{name} is a number of seconds from 0, not {value}")
        if not self.rate > 0.0 or self.queue < 0 or not self.mtu > 0.0:
            raise LocalError(f"no datagram fits rate {self.rate}, queue {self.queue}, mtu {self.mtu}")

    def carry(self, size: int, now: float, rng: Rng) -> tuple[float, ...] | Fate:
        if size > self.mtu:
            return Fate.TOO_BIG
        out = now
        if self.rate < math.inf:
            if self._free_at > now:
                if (self._free_at - now) * self.rate + size > self.queue:
                    return Fate.QUEUE_FULL
                out = self._free_at
            self._free_at = out = out + size / self.rate
        if _happens(self.loss, rng):
            return Fate.LOST
        arrival = out + self._drawn(rng)
        if _happens(self.reorder, rng):
            arrival += self.hold
        if _happens(self.duplicate, rng):
            return arrival, out + self._drawn(rng)
        return (arrival,)

    def _drawn(self, rng: Rng) -> float:
        return self.delay(rng) if callable(self.delay) else self.delay


def perfect(_source: Address, _destination: Address) -> Sequence[Link]:
    """The topology in which everything arrives at once."""
    return (Pipe(),)


@dataclass(slots=True)
class Counters:
    """What happened between one source and one destination, in datagrams, and in bytes with headers.

    INVARIANT: sent + duplicated = delivered + the sum of drops + what is under way.
    """

    sent: int = 0
    sent_bytes: int = 0
    duplicated: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    drops: Counter[Fate] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Datagram:
    """What a tap sees."""

    time: float
    source: Address
    destination: Address
    data: bytes = field(repr=False)


Tap = Callable[[Datagram], None]


class Where(Enum):
    """At which end of the links a tap sits."""

    SENDER = auto()
    RECEIVER = auto()


class _Pair:
    __slots__ = ("counters", "destination", "headers", "route", "source")

    def __init__(self, source: Address, destination: Address, route: Sequence[Link]) -> None:
        self.source, self.destination, self.route = source, destination, route
        self.counters = Counters()
        self.headers = HEADERS[_version(destination)]


class _Run:
    """Datagrams of one pair that leave one link at one instant; `hop` links of `route` are behind them."""

    __slots__ = ("datagrams", "hop", "pair", "route")

    def __init__(self, pair: _Pair, route: Sequence[Link], hop: int, datagram: bytes) -> None:
        self.pair, self.route, self.hop, self.datagrams = pair, route, hop, [datagram]


class _Nowhere:
    def carry(self, size: int, now: float, rng: Rng) -> Fate:
        return Fate.UNREACHABLE


_NOWHERE: Final[Sequence[Link]] = (_Nowhere(),)


class Socket:
    """One UDP socket of a virtual host.

    Attributes:
        address: what it is bound to, and what its owner believes.
        seen_as: what others see; differs from `address` after `VirtualNetwork.move`, which alone sets it.
        plugged: whether anything gets in or out; set by `unplug` and `plug` alone.
        closed: set by `close` alone.
    """

    def __init__(self, network: "VirtualNetwork", address: Address, receive: Receiver) -> None:
        self.address = self.seen_as = address
        self.receive = receive
        self.plugged = True
        self.closed = False
        self.pairs: dict[Address, _Pair] = {}
        self._network = network

    def send(self, datagram: bytes, destination: Address) -> None:
        self.send_many((datagram,), destination)

    def send_many(self, datagrams: Iterable[bytes], destination: Address) -> None:
        """
        Raises:
            LocalError: the socket is closed, or `destination` is not a numeric address and a port.
        """
        if self.closed:
            raise LocalError("a closed socket cannot send")
        if not self.plugged:
            return
        pair = self.pairs.get(destination)
        if pair is None:
            pair = self.pairs[destination] = self._network.pair(self.seen_as, canonical(destination))
        self._network.transmit(pair, datagrams)

    def close(self) -> None:
        """Free the address.  What is under way to it will not find it; what it sent still arrives."""
        if not self.closed:
            self.closed = True
            self._network.forget(self)


class VirtualNetwork:
    """
    Args:
        loop: whose time it is; its host names are resolved here from now on.
        rng: the only source of chance.
        topology: the links of every pair that `set_route` says nothing about.

    Attributes:
        names: host name, in lower case -> its addresses; what loop.getaddrinfo answers.
    """

    def __init__(self, loop: VirtualLoop, rng: Rng, topology: Topology = perfect) -> None:
        self.names: dict[str, tuple[str, ...]] = {}
        self._loop = loop
        self._rng = rng
        self._topology = topology
        self._sockets: dict[Address, Socket] = {}
        self._next_port: dict[str, int] = {}
        self._pairs: dict[tuple[Address, Address], _Pair] = {}
        self._due: dict[float, list[_Run]] = {}
        self._taps: dict[Where, list[Tap]] = {where: [] for where in Where}
        loop.resolver = self.resolve

    # --- What nodes do -----------------------------------------------------------------------

    def open(self, address: Address, receive: Receiver) -> Socket:
        """A socket bound to `address`; port 0 takes a free one.  Any address belongs to whoever opens it first.

        Raises:
            LocalError: the address is in use, or not one a single host can have.
        """
        host, port = canonical(address)
        if ipaddress.ip_address(host).is_unspecified:
            raise LocalError(f"{host} is no address: a virtual socket says which of its host's it is bound to")
        if port == 0:
            port = self._free_port(host)
        if (host, port) in self._sockets:
            raise LocalError(f"{(host, port)} is in use")
        socket = self._sockets[host, port] = Socket(self, (host, port), receive)
        return socket

    def resolve(self, host: str) -> Sequence[str]:
        """Numeric addresses of a host name, none when nobody has it."""
        return self.names.get(host.lower().removesuffix("."), ())

    # --- What the experiment does --------------------------------------------------------------

    def set_route(self, source: Address, destination: Address, *links: Link) -> None:
        """From now on datagrams that leave `source` for `destination` take `links`; those under way stay on theirs."""
        if not links:
            raise LocalError("a route has at least one link")
        self.pair(canonical(source), canonical(destination)).route = links

    def unplug(self, address: Address) -> None:
        """What the socket seen as `address` sends and what reaches it vanishes, until `plug`.  It notices nothing."""
        self._socket(address).plugged = False

    def plug(self, address: Address) -> None:
        self._socket(address).plugged = True

    def move(self, old: Address, new: Address) -> None:
        """Rebind a NAT: the socket seen as `old` is from now on seen as `new`, and `old` leads nowhere.

        Raises:
            LocalError: nobody is at `old`, or somebody is at `new`.
        """
        socket, seen_as = self._socket(old), canonical(new)
        if seen_as in self._sockets:
            raise LocalError(f"{seen_as} is in use")
        del self._sockets[socket.seen_as]
        self._sockets[seen_as] = socket
        socket.seen_as = seen_as
        socket.pairs.clear()

    def counters(self, source: Address, destination: Address) -> Counters:
        """The live counters of a pair, by the addresses others see."""
        return self.pair(canonical(source), canonical(destination)).counters

    def totals(self) -> Counters:
        """The sum over all pairs, as of now."""
        total = Counters()
        for pair in self._pairs.values():
            one = pair.counters
            total.sent += one.sent
            total.sent_bytes += one.sent_bytes
            total.duplicated += one.duplicated
            total.delivered += one.delivered
            total.delivered_bytes += one.delivered_bytes
            total.drops += one.drops
        return total

    # --- What an adversary does ------------------------------------------------------------------

    def tap(self, tap: Tap, where: Where = Where.SENDER) -> Callable[[], None]:
        """Show `tap` every datagram that is sent (before any link drops it) or that arrives; what it returns ends that.

        Forged datagrams are seen where they arrive.
        """
        self._taps[where].append(tap)
        return lambda: self._taps[where].remove(tap)

    def inject(self, datagram: bytes, source: Address, destination: Address, *, after: float = 0.0) -> None:
        """Put `datagram` down at `destination` in `after` seconds, as if it came from `source`.

        It takes no link, is nobody's in the counters and needs no socket at `source`.
        """
        forged = _Pair(canonical(source), canonical(destination), ())
        self._schedule(self._loop.time() + after, forged, (), 0, datagram)

    # --- What Socket needs -------------------------------------------------------------------------

    def pair(self, source: Address, destination: Address) -> _Pair:
        """Both addresses canonical."""
        pair = self._pairs.get((source, destination))
        if pair is None:
            route = self._topology(source, destination) if _version(source) == _version(destination) else _NOWHERE
            if not route:
                raise LocalError("a route has at least one link")
            pair = self._pairs[source, destination] = _Pair(source, destination, route)
        return pair

    def transmit(self, pair: _Pair, datagrams: Iterable[bytes]) -> None:
        taps = self._taps[Where.SENDER]
        if taps:
            datagrams = tuple(datagrams)
            self._show(taps, pair, datagrams)
        counters, headers = pair.counters, pair.headers
        for datagram in datagrams:
            counters.sent += 1
            counters.sent_bytes += len(datagram) + headers
            self._enter(pair, pair.route, 0, datagram)

    def forget(self, socket: Socket) -> None:
        del self._sockets[socket.seen_as]

    # --- On the way ----------------------------------------------------------------------------------

    def _enter(self, pair: _Pair, route: Sequence[Link], hop: int, datagram: bytes) -> None:
        fate = route[hop].carry(len(datagram) + pair.headers, self._loop.time(), self._rng)
        if isinstance(fate, Fate):
            pair.counters.drops[fate] += 1
            return
        pair.counters.duplicated += len(fate) - 1
        for when in fate:
            self._schedule(when, pair, route, hop + 1, datagram)

    def _schedule(self, when: float, pair: _Pair, route: Sequence[Link], hop: int, datagram: bytes) -> None:
        runs = self._due.get(when)
        if runs is None:
            if not when >= self._loop.time():
                raise LocalError(f"a link let a datagram out at {when}, before it came in")
            self._due[when] = [_Run(pair, route, hop, datagram)]
            self._loop.call_at(when, self._deliver, when)
            return
        last = runs[-1]
        if last.pair is pair and last.hop == hop and last.route is route and len(last.datagrams) < BATCH:
            last.datagrams.append(datagram)
        else:
            runs.append(_Run(pair, route, hop, datagram))

    def _deliver(self, when: float) -> None:
        self._hand_over(self._due.pop(when))

    def _hand_over(self, runs: Iterable[_Run]) -> None:
        waiting = iter(runs)
        try:
            for run in waiting:
                self._arrive(run)
        finally:
            # A receiver that raises is the loop's business to report, and not its neighbours' loss.
            if rest := list(waiting):
                self._loop.call_soon(self._hand_over, rest)

    def _arrive(self, run: _Run) -> None:
        pair, datagrams = run.pair, run.datagrams
        if run.hop < len(run.route):
            for datagram in datagrams:
                self._enter(pair, run.route, run.hop, datagram)
            return
        counters = pair.counters
        socket = self._sockets.get(pair.destination)
        if socket is None or not socket.plugged:
            counters.drops[Fate.UNREACHABLE] += len(datagrams)
            return
        counters.delivered += len(datagrams)
        counters.delivered_bytes += sum(map(len, datagrams)) + pair.headers * len(datagrams)
        if taps := self._taps[Where.RECEIVER]:
            self._show(taps, pair, datagrams)
        socket.receive(datagrams, pair.source)

    def _show(self, taps: Sequence[Tap], pair: _Pair, datagrams: Iterable[bytes]) -> None:
        now = self._loop.time()
        for data in datagrams:
            seen = Datagram(now, pair.source, pair.destination, data)
            for tap in tuple(taps):
                tap(seen)

    def _socket(self, address: Address) -> Socket:
        try:
            return self._sockets[canonical(address)]
        except KeyError:
            raise LocalError(f"nobody is at {address}") from None

    def _free_port(self, host: str) -> int:
        start = self._next_port.get(host, FIRST_EPHEMERAL)
        for port in itertools.chain(range(start, 65536), range(FIRST_EPHEMERAL, start)):
            if (host, port) not in self._sockets:
                self._next_port[host] = port + 1
                return port
        raise LocalError(f"{host} has no free port left")


def canonical(address: Address) -> Address:
    """The one spelling of `address` the network knows.

    Raises:
        LocalError: it is not a numeric address and a port.
    """
    try:
        host = str(ipaddress.ip_address(address[0]))
    except ValueError:
        raise LocalError(f"a datagram goes to a numeric address, not {address[0]!r}") from None
    if not 0 <= address[1] <= 65535:
        raise LocalError(f"{address[1]} is no port")
    return host, address[1]


def _version(address: Address) -> int:
    return 6 if ":" in address[0] else 4
