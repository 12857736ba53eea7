"""The tunnels as an IPv8 overlay: what applications call.  Floor 5.

    community.build_tunnels(3)
    community.on_data(lambda circuit, origin, payload: ...)
    community.tunnel_data(community.active_data_circuits()[0], ("192.0.2.1", 53), "data", query)

A facade: it passes calls to the engine and events to callbacks, and performs what the pool plans.  Nothing here reads
the network or knows a key.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ipv8.community import Community

from tunnels.circuit import exit as circuit_exit
from tunnels.circuit.core import (
    CircuitClosed,
    CircuitOpened,
    DatagramArrived,
    DatagramRejected,
    ExitDatagram,
    RelayCircuitClosed,
)
from tunnels.circuit.origin import OriginCircuit, State
from tunnels.circuit.relay import RelayCircuit
from tunnels.crypto.rng import SystemRng
from tunnels.driver import Driver
from tunnels.endpoint.adapt import cell_port
from tunnels.engine import Engine
from tunnels.errors import LocalError
from tunnels.exit.dns import DnsQuery, DnsResolver, system_nameservers
from tunnels.exit.udp import UdpExit
from tunnels.ids import Address, CloseReason, Drop, RelayId
from tunnels.params import AVOID_TIME, BUILD_BACKOFF, CELL_SIZE, MAX_HOPS, POOL_INTERVAL
from tunnels.path.directory import Directory, RelayInfo, relay_id_of
from tunnels.path.pool import Build, PooledCircuit, plan
from tunnels.path.select import NoPathError, Rules, choose_path
from tunnels.settings import RelayKeys, Settings, TunnelSettings, freeze
from tunnels.wire.destination import Destination
from tunnels.wire.messages import Datagram, RejectReason

if TYPE_CHECKING:
    from tunnels.circuit.core import Event
    from tunnels.ids import Rng

DataCallback = Callable[[OriginCircuit, Address, bytes], None]
"""callback(circuit, origin, payload): a datagram came back; origin is (host, port)."""

RejectedCallback = Callable[[OriginCircuit, Address, str], None]
"""callback(circuit, destination, reason): the exit did not send a datagram."""

OpenedCallback = Callable[[OriginCircuit], None]
"""callback(circuit): one of our circuits can be used."""

ClosedCallback = Callable[[OriginCircuit, CloseReason], None]
"""callback(circuit, reason): one of our circuits ended; circuit.culprit says whose fault it was, if that is known."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a node did since it started, in numbers that name nobody.

    Attributes:
        circuits: ours that are open now.
        joined_circuits: of others, that cross this node now.
        cells_relayed: cells of others' circuits, passed on or handled here, both ways.
        closed: circuits that ended, ours and others', by reason.
        drops: cells and messages that were dropped, by reason.
    """

    circuits: int
    joined_circuits: int
    cells_relayed: int
    closed: Mapping[CloseReason, int]
    drops: Mapping[Drop, int]


def community_id_for(network_id: bytes) -> bytes:
    """IPv8's name for the overlay of one network: two networks do not even see each other's introductions."""
    return hashlib.sha1(b"tropea tunnels 1" + network_id, usedforsecurity=False).digest()


class TunnelCommunity(Community):
    """
    Args:
        settings: validated and copied: what is changed in it afterwards has no effect.

    Raises:
        ValueError: a setting is wrong; the text names field, value and bound.
        EndpointError: the endpoint cannot carry cells; the text says what to configure.
    """

    settings_class = TunnelSettings
    community_id = b""
    """Follows from the network id, so every instance sets its own."""

    def __init__(self, settings: TunnelSettings) -> None:
        self.settings: Final[Settings] = freeze(settings)
        port = cell_port(settings.endpoint)
        self.community_id = community_id_for(self.settings.network_id)
        super().__init__(settings)
        self.logger = logging.getLogger("tropea.tunnels")
        self._rng: Rng = SystemRng()
        loop = asyncio.get_running_loop()
        wall, now = time.time(), loop.time()
        self.relay_keys: RelayKeys | None = None
        self.relay_id: RelayId | None = None
        if self.settings.is_relay:
            given = self.settings.relay_keys
            self.relay_keys = RelayKeys.generate(wall, self._rng) if given is None else given
            self.relay_id = relay_id_of(settings.my_peer.public_key.key_to_bin())
        self.directory: Final = Directory(self.settings.relays)
        self.engine: Final = Engine(
            network_id=self.settings.network_id, rng=self._rng, now=now, epoch=wall - now, directory=self.directory,
            link_key=self.relay_keys.link if self.relay_keys else None, relay_id=self.relay_id,
            onion_keys=self.relay_keys.onion if self.relay_keys else None, limits=self.settings.limits,
        )  # fmt: skip
        self._driver: Final = Driver(self.engine, port, self._on_event)
        self._exit = self._make_exit() if self.settings.limits.exits else None
        self._wanted: dict[int, None] = {}
        self._no_path: dict[int, str] = {}
        self._failures: dict[int, int] = {}
        self._build_from: dict[int, float] = {}
        self._avoid: dict[RelayId, float] = {}
        self._data_callbacks: list[DataCallback] = []
        self._rejected_callbacks: list[RejectedCallback] = []
        self._opened_callbacks: list[OpenedCallback] = []
        self._closed_callbacks: list[ClosedCallback] = []
        self._handlers: Final[dict[type[Event], Callable[..., None]]] = {
            CircuitOpened: self._on_opened,
            CircuitClosed: self._on_closed,
            DatagramArrived: self._on_datagram,
            DatagramRejected: self._on_rejected,
            ExitDatagram: self._on_exit_datagram,
            RelayCircuitClosed: self._on_relay_circuit_closed,
        }
        self.register_task("pool", self._tend, interval=POOL_INTERVAL, delay=0)
        if not self.settings.distinct_networks:
            self.logger.warning("distinct_networks is off: two hops may share a network, for test networks only")

    # --- what applications call -----------------------------------------------------------------

    def build_tunnels(self, hops: int) -> None:
        """Keep circuits of `hops` hops ready, from now on.  Circuits of one hop are not anonymous.

        Raises:
            ValueError: not 1 to MAX_HOPS.
        """
        if type(hops) is not int or not 1 <= hops <= MAX_HOPS:
            raise ValueError(f"hops is {hops!r}; it must be 1 to {MAX_HOPS}")
        if hops == 1:
            self.logger.warning("circuits of one hop are not anonymous: the relay sees both ends")
        self._wanted[hops] = None
        self._tend()

    def active_data_circuits(self, hops: int | None = None) -> list[OriginCircuit]:
        """Open circuits, those that take new traffic longest first; of one hop count, or of all."""
        found = [c for c in self.engine.circuits if c.state is State.OPEN and hops in (None, c.hops)]
        return sorted(found, key=lambda circuit: -circuit.born)

    def tunnels_ready(self, hops: int | None = None) -> float:
        """Open circuits divided by min_circuits; not capped at 1.0.  0.0 before build_tunnels: see `why_not_ready`."""
        return len(self.active_data_circuits(hops)) / self.settings.pool.min_circuits

    def why_not_ready(self, hops: int | None = None) -> str:
        """A sentence for people, empty when there is a circuit."""
        if self.active_data_circuits(hops):
            return ""
        if not self._wanted or (hops is not None and hops not in self._wanted):
            return f"call build_tunnels({hops or 3}) first"
        reasons = [reason for number, reason in self._no_path.items() if hops in (None, number)]
        if reasons:
            return reasons[0]
        building = [c for c in self.engine.circuits if c.state is State.BUILDING and hops in (None, c.hops)]
        return f"{len(building)} circuits are being built" if building else "waiting before the next attempt"

    def tunnel_data(
        self, circuit: OriginCircuit, destination: Address, message_type: str, payload: str | bytes
    ) -> bool:
        """Send a datagram to `destination` from the exit of `circuit`.  Unreliable, as UDP is.

        Args:
            destination: (host, port); host is a numeric address or a name that the exit resolves.
            message_type: "data".
            payload: text is encoded as UTF-8.

        Returns:
            Whether there was room to queue it.

        Raises:
            CircuitClosedError: the circuit is not open: take one of active_data_circuits().
            ValueError: a destination that is none, another message type, or too much data.
        """
        if message_type != "data":
            raise ValueError(f'message_type is {message_type!r}; it must be "data"')
        host, port = destination
        if not host:
            raise ValueError("destination has an empty host; name a numeric address or a host name")
        data = payload.encode() if isinstance(payload, str) else bytes(payload)
        try:
            message = Datagram(Destination(host, port), data)
            message.encode()
        except LocalError as error:
            raise ValueError(str(error)) from None
        sent = circuit.send_datagram(message, self._driver.now())
        self._driver.wake()
        return sent

    def on_data(self, callback: DataCallback) -> None:
        """Call `callback(circuit, origin, payload)` for every datagram that comes back."""
        self._data_callbacks.append(callback)

    def on_rejected(self, callback: RejectedCallback) -> None:
        """Call `callback(circuit, destination, reason)` when an exit says that it did not send a datagram."""
        self._rejected_callbacks.append(callback)

    def on_circuit_opened(self, callback: OpenedCallback) -> None:
        """Call `callback(circuit)` when a circuit of ours can be used."""
        self._opened_callbacks.append(callback)

    def on_circuit_closed(self, callback: ClosedCallback) -> None:
        """Call `callback(circuit, reason)` when a circuit of ours ends."""
        self._closed_callbacks.append(callback)

    def remove_circuit(self, circuit: OriginCircuit) -> None:
        """Close a circuit of ours; the pool builds another when it needs one."""
        circuit.close(CloseReason.REQUESTED, self._driver.now())
        self._driver.wake()

    def statistics(self) -> Statistics:
        """What this node did since it started; good at the moment it is asked for."""
        core = self.engine.core
        return Statistics(
            circuits=len(self.active_data_circuits()), joined_circuits=len(core.joined),
            cells_relayed=core.cells_relayed, closed=dict(core.closed), drops=dict(core.drops),
        )  # fmt: skip

    @property
    def relay_info(self) -> RelayInfo | None:
        """What others need to know of us, for their `relays` setting; None when we are no relay."""
        if self.relay_keys is None or self.relay_id is None:
            return None
        return RelayInfo(
            self.relay_id, self.relay_keys.link.public, self.relay_keys.onion.public,
            self.settings.relay_addresses, self.settings.exit_policy,
        )  # fmt: skip

    async def unload(self) -> None:
        """Say goodbye to neighbours, close sockets, stop."""
        self._driver.close()
        if self._exit is not None:
            await self._exit.aclose()
            await self._resolver.aclose()
        await super().unload()

    # --- the pool ----------------------------------------------------------------------------------

    def _tend(self) -> None:
        """Do what the pool plans."""
        now = self._driver.now()
        circuits = [
            PooledCircuit(c, c.hops, c.state is State.OPEN, c.born, c.used,
                          (c.cells_sent + c.cells_received) * CELL_SIZE)
            for c in self.engine.circuits
        ]  # fmt: skip
        for action in plan(circuits, self._wanted, self.settings.pool, self._build_from, now=now):
            if isinstance(action, Build):
                self._build(action.hops, now)
            else:
                action.key.close(action.reason, now)
        if self.relay_keys is not None:
            self.relay_keys.onion.rotate(self.engine.core.epoch + now)
        self._driver.wake()

    def _build(self, hops: int, now: float) -> None:
        self._avoid = {relay: until for relay, until in self._avoid.items() if until > now}
        never = frozenset({self.relay_id}) if self.relay_id is not None else frozenset()
        rules = Rules(distinct_networks=self.settings.distinct_networks, never=never)
        reachable = [relay for relay in self.directory if self.engine.core.address_of(relay) is not None]
        try:
            path = choose_path(reachable, hops, self._rng, rules, exits=True, avoid=self._avoid)
        except NoPathError as error:
            self._no_path[hops] = str(error)
            self._build_from[hops] = now + error.retry_after
            return
        self._no_path.pop(hops, None)
        self.engine.create_circuit(path, now)

    # --- events ------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        self._handlers[type(event)](event)

    def _on_opened(self, event: CircuitOpened) -> None:
        self._failures.pop(event.circuit.hops, None)
        self._build_from.pop(event.circuit.hops, None)
        for callback in self._opened_callbacks:
            self._call(callback, event.circuit)

    def _on_closed(self, event: CircuitClosed) -> None:
        circuit, now = event.circuit, self._driver.now()
        if circuit.build_time is None and event.reason is not CloseReason.SHUTDOWN:
            failures = self._failures[circuit.hops] = self._failures.get(circuit.hops, 0) + 1
            self._build_from[circuit.hops] = now + BUILD_BACKOFF[min(failures, len(BUILD_BACKOFF)) - 1]
        if event.culprit is not None:
            self._avoid[circuit.path[event.culprit].relay_id] = now + AVOID_TIME
        self.logger.debug("a circuit of %d hops ended: %s", circuit.hops, event.reason.value)
        for callback in self._closed_callbacks:
            self._call(callback, circuit, event.reason)
        if event.reason is not CloseReason.SHUTDOWN:
            asyncio.get_running_loop().call_soon(self._tend_if_alive)

    def _tend_if_alive(self) -> None:
        if not self._shutdown:
            self._tend()

    def _on_datagram(self, event: DatagramArrived) -> None:
        origin = (event.origin.host, event.origin.port)
        for callback in self._data_callbacks:
            self._call(callback, event.circuit, origin, event.data)

    def _on_rejected(self, event: DatagramRejected) -> None:
        destination = (event.destination.host, event.destination.port)
        for callback in self._rejected_callbacks:
            self._call(callback, event.circuit, destination, event.reason.name.lower().replace("_", " "))

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:
            # An application's mistake must not stop its own circuits, nor those of others that cross this node.
            self.logger.exception("a callback of the application failed")

    # --- exit --------------------------------------------------------------------------------------

    def _make_exit(self) -> UdpExit:
        self._resolver = DnsResolver(DnsQuery(self.settings.nameservers or system_nameservers()))
        return UdpExit(
            policy=self.settings.exit_policy,
            resolver=self._resolver,
            refused=self._is_known,
            private=self.settings.exit_private,
            on_datagram=self._from_outside,
            on_rejected=self._refused,
        )

    def _is_known(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Whether `address` is ours or a known relay's: an exit does not connect to the network it is part of."""
        host = str(address)
        return self.directory.has_host(host) or any(host == own for own, _ in self.settings.relay_addresses)

    def _on_exit_datagram(self, event: ExitDatagram) -> None:
        if self._exit is not None:
            self._exit.send(event.circuit, event.destination.host, event.destination.port, event.data)

    def _from_outside(self, circuit: Hashable, origin: Address, data: bytes) -> None:
        assert isinstance(circuit, RelayCircuit)
        self.engine.send_backward(circuit, Datagram(Destination(*origin), data), self._driver.now())
        self._driver.wake()

    def _refused(self, circuit: Hashable, host: str, port: int, reason: RejectReason) -> None:
        assert isinstance(circuit, RelayCircuit)
        if not circuit.closed:
            circuit_exit.reject(circuit, reason, Destination(host, port), self._driver.now())
            self._driver.wake()

    def _on_relay_circuit_closed(self, event: RelayCircuitClosed) -> None:
        if self._exit is not None:
            self._exit.close(event.circuit)
