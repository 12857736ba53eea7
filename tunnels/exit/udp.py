"""Datagrams between circuits and the outside (SPEC 8.5).  Floor 5: asyncio and sockets.  Knows nothing of cells.

Each circuit has sockets of its own, one for each IP version, opened when it first sends and closed when it has sent
nothing for a while: two circuits never share a port, and nothing of the overlay's own traffic passes here.  To the
outside a circuit looks like a host behind a NAT (RFC 4787) with endpoint-independent mapping and address-dependent
filtering: one port towards everybody, and only addresses it has written to may write to it, from any port
(docs/decisions.md).

Everything is bounded by `UdpLimits`.  What finds no room is dropped, counted in `drops`, and answered with
`on_rejected` where SPEC 8.5 has a reason for it.
"""

import asyncio
import socket
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Protocol

from tunnels.errors import LocalError
from tunnels.exit.dns import BusyError, Resolver, UnresolvedError, parse_host
from tunnels.exit.policy import ExitPolicy, Gate, IPAddress
from tunnels.ids import Address, Drop
from tunnels.params import (
    DNS_TIMEOUT,
    EXIT_BURST,
    EXIT_CIRCUITS,
    EXIT_IDLE,
    EXIT_NAMES,
    EXIT_PEERS,
    EXIT_PIN,
    EXIT_PINS,
    EXIT_QUEUE,
    EXIT_QUEUE_OVERHEAD,
    EXIT_RATE,
    EXIT_READS,
    EXIT_TOTAL_NAMES,
    EXIT_TOTAL_QUEUE,
    EXIT_TOTAL_RATE,
    MAX_PORT,
    REJECTED_INTERVAL,
)
from tunnels.wire.messages import RejectReason

_BUFFER: Final = 65535
"""Bytes a datagram can have."""

OnDatagram = Callable[[Hashable, Address, bytes], None]
OnRejected = Callable[[Hashable, str, int, RejectReason], None]
Receive = Callable[[bytes, Address], None]


class Port(Protocol):
    """One UDP socket."""

    def send(self, data: bytes, receiver: Address) -> None:
        """Never waits.

        Raises:
            OSError: the network does not take it.
        """

    def close(self) -> None: ...


class OpenPort(Protocol):
    """Where sockets come from: `SocketPort`, or the outside of a simulated network."""

    def __call__(self, source: str, receive: Receive) -> Port:
        """
        Args:
            source: the address to send from; its IP version is the socket's.
            receive: is called with each datagram and its sender.

        Raises:
            OSError: no such address here, or no descriptor left.
        """


class SocketPort:
    """A real socket, read by the running loop."""

    def __init__(self, source: str, receive: Receive) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            if ":" in source:
                # IPv4 has one spelling and one socket.
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._socket.bind((source, 0))
            self._loop.add_reader(self._socket, self._read)
        except BaseException:
            self._socket.close()
            raise

    def send(self, data: bytes, receiver: Address) -> None:
        self._socket.sendto(data, receiver)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def _read(self) -> None:
        for _ in range(EXIT_READS):
            try:
                data, sender = self._socket.recvfrom(_BUFFER)
            except OSError:  # nothing left, an ICMP error about an earlier datagram, or the receiver closed the circuit
                return
            self._receive(data, (sender[0], sender[1]))


@dataclass(frozen=True, slots=True)
class UdpLimits:
    """Bounds of a UdpExit: each for one circuit, `total_*` and `circuits` for all together.

    params.py has the units and reasons.
    """

    circuits: int = EXIT_CIRCUITS
    idle: float = EXIT_IDLE
    peers: int = EXIT_PEERS
    rate: float = EXIT_RATE
    total_rate: float = EXIT_TOTAL_RATE
    queue: int = EXIT_QUEUE
    total_queue: int = EXIT_TOTAL_QUEUE
    names: int = EXIT_NAMES
    total_names: int = EXIT_TOTAL_NAMES
    pins: int = EXIT_PINS

    def __post_init__(self) -> None:
        for bound in fields(self):
            if not getattr(self, bound.name) > 0:
                raise ValueError(f"{bound.name} is {getattr(self, bound.name)}; it must be above 0")


class _Bucket:
    """A token bucket that holds EXIT_BURST seconds of its rate, and at least one datagram."""

    __slots__ = ("_rate", "_size", "_then", "_tokens")

    def __init__(self, rate: float, now: float) -> None:
        self._rate, self._size, self._then = rate, max(1.0, rate * EXIT_BURST), now
        self._tokens = self._size

    def refill(self, now: float) -> bool:
        """Whether there is a token."""
        self._tokens = min(self._size, self._tokens + (now - self._then) * self._rate)
        self._then = now
        return self._tokens >= 1.0

    def take(self) -> None:
        self._tokens -= 1.0


@dataclass(slots=True)
class _Waiting:
    """Datagrams for one host name that is being looked for, in order.  INVARIANT: `task` runs."""

    datagrams: list[tuple[int, bytes]]
    task: "asyncio.Task[None]"


@dataclass(slots=True)
class _Circuit:
    """INVARIANT: `queued` is the sum over `waiting` of len(data) + EXIT_QUEUE_OVERHEAD."""

    last_sent: float
    outward: _Bucket
    inward: _Bucket
    ports: dict[int, Port] = field(default_factory=dict)
    peers: OrderedDict[IPAddress, float] = field(default_factory=OrderedDict)
    pins: OrderedDict[str, tuple[float, tuple[IPAddress, ...]]] = field(default_factory=OrderedDict)
    waiting: dict[str, _Waiting] = field(default_factory=dict)
    queued: int = 0


class UdpExit:
    """The UDP side of an exit, for all its circuits.

    Attributes:
        sent, received: datagrams that went out and that came in and were handed on.
        drops: why others were not.
    """

    def __init__(
        self,
        *,
        policy: ExitPolicy,
        resolver: Resolver,
        refused: Callable[[IPAddress], bool],
        private: bool,
        on_datagram: OnDatagram,
        on_rejected: OnRejected,
        limits: UdpLimits | None = None,
        source_ipv4: str = "0.0.0.0",  # noqa: S104 (the address the route has)
        source_ipv6: str = "::",
        open_port: OpenPort = SocketPort,
    ) -> None:
        """
        Args:
            refused: whether an address is this node's own or a known relay's; asked for every datagram.
            private: the setting `exit_private`, see `policy.always_refused`.
            on_datagram: circuit key, origin and data of a datagram from the outside.
            on_rejected: circuit key, host and port as given to `send`, and why; for one circuit at most once in
                REJECTED_INTERVAL.

        Raises:
            ValueError: a source address is not one, or of the wrong IP version.
        """
        self._sources = {4: _source(source_ipv4, 4), 6: _source(source_ipv6, 6)}
        self._gate = Gate(policy, refused, private)
        self._policy, self._resolver = policy, resolver
        self._on_datagram, self._on_rejected = on_datagram, on_rejected
        self._limits = limits or UdpLimits()
        self._open_port = open_port
        self._open_ports: dict[int, bool] = {}
        self._circuits: OrderedDict[Hashable, _Circuit] = OrderedDict()  # the one that sent longest ago first
        self._rejected: OrderedDict[Hashable, float] = OrderedDict()  # when each was last told, oldest first
        self._outward: _Bucket | None = None
        self._inward: _Bucket | None = None
        self._queued = 0
        self._names = 0
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self.sent = 0
        self.received = 0
        self.drops: Counter[Drop] = Counter()

    @property
    def circuits(self) -> int:
        """Circuits that have sent something in the last `idle` seconds."""
        return len(self._circuits)

    @property
    def queued(self) -> int:
        """Bytes waiting for host names, overhead included."""
        return self._queued

    def send(self, circuit_key: Hashable, host: str, port: int, data: bytes) -> None:
        """Send `data`, now or when `host` is resolved.  Never waits; what goes wrong is counted.

        Raises:
            LocalError: this exit is closed.
        """
        if self._closed:
            raise LocalError("this exit is closed")
        now = asyncio.get_running_loop().time()
        if not self._port_is_open(port):  # no name is asked for in vain, and REJECT_ALL asks for none
            self._reject(circuit_key, host, port, RejectReason.EXIT_POLICY, Drop.EXIT_POLICY)
            return
        try:
            target = parse_host(host)
        except UnresolvedError:
            self._reject(circuit_key, host, port, RejectReason.NO_SUCH_HOST, Drop.MALFORMED)
            return
        if not isinstance(target, str) and not self._gate.allows(target, port):
            self._reject(circuit_key, host, port, RejectReason.EXIT_POLICY, Drop.EXIT_POLICY)
            return
        circuit = self._circuit(circuit_key, now)
        if circuit is None or not self._take_outward(circuit, now):
            self._reject(circuit_key, host, port, RejectReason.LIMIT, Drop.LIMIT)
            return
        circuit.last_sent = now
        self._circuits.move_to_end(circuit_key)
        if not isinstance(target, str):
            self._send_to_first(circuit_key, circuit, host, (target,), port, data)
        elif target not in circuit.waiting and (pin := circuit.pins.get(target)) and pin[0] > now:
            self._send_to_first(circuit_key, circuit, host, pin[1], port, data)
        else:
            self._wait(circuit_key, circuit, host, target, port, data)

    def close(self, circuit_key: Hashable) -> None:
        """Close the sockets of a circuit and forget what waits in it.  A circuit that is not here is no error."""
        self._rejected.pop(circuit_key, None)
        self._forget(circuit_key)

    async def aclose(self) -> None:
        """Close everything, for good."""
        self._closed = True
        tasks = [waiting.task for circuit in self._circuits.values() for waiting in circuit.waiting.values()]
        for circuit_key in list(self._circuits):
            self._forget(circuit_key)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- Outward ------------------------------------------------------------------------------------

    def _port_is_open(self, port: int) -> bool:
        if not 0 < port <= MAX_PORT:
            return False
        if port not in self._open_ports:
            self._open_ports[port] = self._policy.allows_port_somewhere(port)
        return self._open_ports[port]

    def _circuit(self, circuit_key: Hashable, now: float) -> _Circuit | None:
        circuit = self._circuits.get(circuit_key)
        if circuit is None and len(self._circuits) < self._limits.circuits:
            circuit = _Circuit(now, _Bucket(self._limits.rate, now), _Bucket(self._limits.rate, now))
            self._circuits[circuit_key] = circuit
            if self._sweeper is None:
                self._sweeper = asyncio.get_running_loop().call_later(self._limits.idle, self._sweep)
        return circuit

    def _take_outward(self, circuit: _Circuit, now: float) -> bool:
        if self._outward is None:
            self._outward = _Bucket(self._limits.total_rate, now)
        return _take(circuit.outward, self._outward, now)

    def _wait(self, circuit_key: Hashable, circuit: _Circuit, host: str, name: str, port: int, data: bytes) -> None:
        cost = len(data) + EXIT_QUEUE_OVERHEAD
        waiting = circuit.waiting.get(name)
        room = circuit.queued + cost <= self._limits.queue and self._queued + cost <= self._limits.total_queue
        if waiting is None:
            room = room and len(circuit.waiting) < self._limits.names and self._names < self._limits.total_names
        if not room:
            self._reject(circuit_key, host, port, RejectReason.LIMIT, Drop.LIMIT)
            return
        if waiting is None:
            self._names += 1
            task = asyncio.create_task(self._resolve(circuit_key, circuit, host, name))
            waiting = circuit.waiting[name] = _Waiting([], task)
        waiting.datagrams.append((port, data))
        circuit.queued += cost
        self._queued += cost

    async def _resolve(self, circuit_key: Hashable, circuit: _Circuit, host: str, name: str) -> None:
        addresses: tuple[IPAddress, ...] = ()
        reason = RejectReason.NO_SUCH_HOST
        try:
            async with asyncio.timeout(2 * DNS_TIMEOUT):  # a resolver that keeps its promise needs half of it
                addresses = tuple(await self._resolver.resolve(name))
        except BusyError:
            reason = RejectReason.LIMIT
        except (UnresolvedError, TimeoutError):
            pass
        finally:
            # In every case, an error in the resolver too: what waited here must not count for ever.
            waiting = self._end_waiting(circuit, name)
        if waiting is None:
            return  # closed meanwhile
        if addresses:
            circuit.pins[name] = (asyncio.get_running_loop().time() + EXIT_PIN, addresses)
            circuit.pins.move_to_end(name)
            if len(circuit.pins) > self._limits.pins:
                circuit.pins.popitem(last=False)
        for port, data in waiting.datagrams:
            if self._circuits.get(circuit_key) is not circuit:
                return  # on_rejected closed it
            if addresses:
                self._send_to_first(circuit_key, circuit, host, addresses, port, data)
            else:
                drop = Drop.LIMIT if reason is RejectReason.LIMIT else Drop.NO_SUCH_HOST
                self._reject(circuit_key, host, port, reason, drop)

    def _end_waiting(self, circuit: _Circuit, name: str) -> _Waiting | None:
        waiting = circuit.waiting.pop(name, None)
        if waiting is not None:
            self._names -= 1
            cost = sum(len(data) + EXIT_QUEUE_OVERHEAD for _, data in waiting.datagrams)
            circuit.queued -= cost
            self._queued -= cost
        return waiting

    def _send_to_first(
        self,
        circuit_key: Hashable,
        circuit: _Circuit,
        host: str,
        addresses: tuple[IPAddress, ...],
        port: int,
        data: bytes,
    ) -> None:
        """Send to the first address that is allowed and that the network takes: the address checked is the one used."""
        allowed = [address for address in addresses if self._gate.allows(address, port)]
        if not allowed:
            self._reject(circuit_key, host, port, RejectReason.EXIT_POLICY, Drop.EXIT_POLICY)
            return
        for address in allowed:
            try:
                self._port(circuit_key, circuit, address.version).send(data, (str(address), port))
            except OSError:
                continue
            circuit.peers[address] = circuit.last_sent
            circuit.peers.move_to_end(address)
            if len(circuit.peers) > self._limits.peers:
                circuit.peers.popitem(last=False)
            self.sent += 1
            return
        self.drops[Drop.SEND_FAILED] += 1

    def _port(self, circuit_key: Hashable, circuit: _Circuit, version: int) -> Port:
        port = circuit.ports.get(version)
        if port is None:
            source = self._sources[version]
            port = self._open_port(source, lambda data, sender: self._received(circuit_key, circuit, data, sender))
            circuit.ports[version] = port
        return port

    # --- Inward -------------------------------------------------------------------------------------

    def _received(self, circuit_key: Hashable, circuit: _Circuit, data: bytes, sender: Address) -> None:
        if self._circuits.get(circuit_key) is not circuit:
            return
        now = asyncio.get_running_loop().time()
        origin = ip_address(sender[0])
        last_sent = circuit.peers.get(origin)
        if last_sent is None or now - last_sent > self._limits.idle:
            self.drops[Drop.UNSOLICITED] += 1
            return
        if self._inward is None:
            self._inward = _Bucket(self._limits.total_rate, now)
        if not _take(circuit.inward, self._inward, now):
            self.drops[Drop.LIMIT] += 1
            return
        self.received += 1
        self._on_datagram(circuit_key, (str(origin), sender[1]), data)

    # --- Ends ---------------------------------------------------------------------------------------

    def _reject(self, circuit_key: Hashable, host: str, port: int, reason: RejectReason, drop: Drop) -> None:
        self.drops[drop] += 1
        now = asyncio.get_running_loop().time()
        while self._rejected and now - next(iter(self._rejected.values())) >= REJECTED_INTERVAL:
            self._rejected.popitem(last=False)
        if circuit_key in self._rejected or len(self._rejected) >= self._limits.circuits:
            return
        self._rejected[circuit_key] = now
        self._on_rejected(circuit_key, host, port, reason)

    def _sweep(self) -> None:
        """Close what has been idle; runs again when the next circuit can be."""
        loop = asyncio.get_running_loop()
        self._sweeper = None
        while self._circuits:
            circuit_key, circuit = next(iter(self._circuits.items()))
            due = circuit.last_sent + self._limits.idle
            if due > loop.time():
                self._sweeper = loop.call_at(due, self._sweep)
                return
            self._forget(circuit_key)

    def _forget(self, circuit_key: Hashable) -> None:
        circuit = self._circuits.pop(circuit_key, None)
        if circuit is None:
            return
        for name, waiting in list(circuit.waiting.items()):
            self._end_waiting(circuit, name)
            waiting.task.cancel()
        for port in circuit.ports.values():
            port.close()


def _take(one: _Bucket, total: _Bucket, now: float) -> bool:
    """A token of both or of neither: a circuit over its own rate takes nothing from the others."""
    if not one.refill(now) or not total.refill(now):
        return False
    one.take()
    total.take()
    return True


def _source(text: str, version: int) -> str:
    try:
        return str((IPv4Address if version == 4 else IPv6Address)(text))
    except ValueError:
        raise ValueError(
            f"source_ipv{version} is {text!r}; it must be an IPv{version} address of this machine"
        ) from None
