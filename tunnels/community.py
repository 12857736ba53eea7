"""The tunnels as an IPv8 overlay: what applications call.  Floor 5.

    community.build_tunnels(3)
    community.on_data(lambda circuit, origin, payload: ...)
    community.tunnel_data(community.active_data_circuits()[0], ("192.0.2.1", 53), "data", query)

A facade: it checks what applications say, passes it on, and calls them back.  It builds the parts of a node: the engine
and its driver, the keeper of its circuits, and at an exit the gateway.  Nothing here reads the network or knows a key.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import inspect
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from ipv8.community import Community
from ipv8.messaging.interfaces.udp.endpoint import Address as IPv8Address

from tunnels.circuit.core import (
    CircuitClosed,
    CircuitOpened,
    DatagramArrived,
    DatagramRejected,
    ExitDatagram,
    Purpose,
    RelayCircuitClosed,
)
from tunnels.circuit.origin import OriginCircuit
from tunnels.discovery import Discovery, Own
from tunnels.discovery import Rules as DiscoveryRules
from tunnels.driver import Driver
from tunnels.endpoint.adapt import cell_port, families_of, unwrapped
from tunnels.engine import Engine
from tunnels.errors import CircuitClosedError, EndpointError, LocalError
from tunnels.exit.gateway import ExitGateway
from tunnels.identity import sign_with, verify
from tunnels.ids import Address, CloseReason, Drop, RelayId
from tunnels.keeper import PoolKeeper
from tunnels.params import MAX_HOPS, POOL_INTERVAL, WALK_INTERVAL
from tunnels.path.chooser import PathChooser
from tunnels.path.descriptor import Capability
from tunnels.path.directory import Directory, RelayInfo, relay_id_of
from tunnels.path.select import Rules
from tunnels.settings import RelayKeys, Settings, TunnelSettings, freeze
from tunnels.timers import Timers
from tunnels.walker import Walker
from tunnels.wire.destination import Destination
from tunnels.wire.messages import Datagram

if TYPE_CHECKING:
    from ipv8.keyvault.keys import PrivateKey
    from ipv8.peer import Peer

    from tunnels.circuit.core import Event
    from tunnels.endpoint.face import CellPort

logger: Final = logging.getLogger("tropea.tunnels")

DataCallback = Callable[[OriginCircuit, Address, bytes], None]
"""callback(circuit, origin, payload): a datagram came back; origin is (host, port)."""

RejectedCallback = Callable[[OriginCircuit, Address, str], None]
"""callback(circuit, destination, reason): the exit did not send a datagram."""

OpenedCallback = Callable[[OriginCircuit], None]
"""callback(circuit): one of our circuits can be used."""

ClosedCallback = Callable[[OriginCircuit, CloseReason], None]
"""callback(circuit, reason): one of our circuits ended; circuit.culprit says whose fault it was, if that is known."""

AnyCallback = TypeVar("AnyCallback", bound=Callable[..., None])


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


@dataclass(frozen=True, slots=True)
class NetworkStatus:
    """What a node knows of its network.  Relays are named as `short_name` does.

    Attributes:
        relays_known: other relays whose descriptors we hold, and the configured ones.
        relays_usable: those of them that circuits may use now.
        sources: the directory sources whose sets of relays count.
        guards: where circuits of two and more hops begin, if any are wanted; best first.
        trouble: why no circuits can be built, for people; empty when they can.
    """

    relays_known: int
    relays_usable: int
    sources: tuple[str, ...]
    guards: tuple[str, ...]
    trouble: str


def short_name(relay_id: bytes) -> str:
    """What people call a relay: the first eight hex digits of its id."""
    return relay_id.hex()[:8]


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
        surroundings = self.settings.surroundings
        wall, now = surroundings.wall(), asyncio.get_running_loop().time()
        self.relay_keys: RelayKeys | None = None
        self.relay_id: RelayId | None = None
        if self.settings.is_relay:
            self.relay_keys = self.settings.relay_keys or RelayKeys.kept_in(self.settings.store, wall, surroundings.rng)
            self.relay_id = relay_id_of(settings.my_peer.public_key.key_to_bin())
        families = families_of(settings.endpoint)
        timers = Timers()
        self.discovery: Final = Discovery(
            network_id=self.settings.network_id, verify=verify, own=self._own(settings),
            configured=self.settings.relays, timers=timers, epoch=wall - now, bootstrap=self.settings.bootstrap,
            rules=DiscoveryRules(self.settings.min_relays, self.settings.min_relay_age, self.settings.min_sources,
                                 self.settings.distinct_networks),
        )  # fmt: skip
        self.directory: Final = Directory(self.settings.relays)
        self.engine: Final = Engine(
            network_id=self.settings.network_id, rng=surroundings.rng, kem=surroundings.kem, now=now, epoch=wall - now,
            directory=self.directory, link_key=self.relay_keys.link if self.relay_keys else None,
            relay_id=self.relay_id, onion_keys=self.relay_keys.onion if self.relay_keys else None,
            limits=self.settings.limits, families=families, timers=timers, extra_roles=self.discovery.roles(),
        )  # fmt: skip
        rules = Rules(
            distinct_networks=self.settings.distinct_networks, families=families,
            never=frozenset({self.relay_id} if self.relay_id else ()), private=self.settings.limits.private_addresses,
        )  # fmt: skip
        chooser = PathChooser(rules, surroundings.rng, self.settings.store, self.settings.guard_min_age)
        self._keeper: Final = PoolKeeper(self.engine, self.discovery, self.settings.pool, chooser)
        self._data_callbacks: list[DataCallback] = []
        self._rejected_callbacks: list[RejectedCallback] = []
        self._opened_callbacks: list[OpenedCallback] = []
        self._closed_callbacks: list[ClosedCallback] = []
        self._looked: Final = asyncio.Event()
        """Set for a moment, whenever circuits may have become ready."""
        self._handlers: Final[dict[type[Event], Callable[..., None]]] = {
            CircuitOpened: self._on_opened,
            CircuitClosed: self._on_closed,
            DatagramArrived: self._on_datagram,
            DatagramRejected: self._on_rejected,
        }
        self._driver: Final = self._drive(port)
        try:
            self._exit: Final = ExitGateway(self._driver, self.settings) if self.settings.limits.exits else None
            self._join(settings)
        except BaseException:
            self._driver.close()  # else the endpoint stays taken
            raise
        if self._exit is not None:
            self._handlers[ExitDatagram] = self._exit.on_exit_datagram
            self._handlers[RelayCircuitClosed] = self._exit.on_relay_circuit_closed
        self.logger = _Demoted(logger, self.engine.core.drops)  # type: ignore[assignment]  # IPv8 calls methods only
        self._walker: Final = Walker(self, self.discovery, self.settings.bootstrap, surroundings.rng)
        self.discovery.begin(self.engine, now)
        self.register_task("walk", self._walk, interval=WALK_INTERVAL, delay=0)
        self.register_task("pool", self._tend, interval=POOL_INTERVAL, delay=0)
        if not self.settings.distinct_networks:
            logger.warning("distinct_networks is off: two hops may share a network, for test networks only")

    def _drive(self, port: CellPort) -> Driver:
        try:
            return Driver(self.engine, port, self._on_event)
        except LocalError as error:
            raise EndpointError(f"{error}: give each tunnel community an endpoint of its own") from None

    def _join(self, settings: TunnelSettings) -> None:
        """Become an overlay of IPv8: listen below its wrappers, of which py-ipv8 3.2's StatisticsEndpoint lets only the
        first community hear, and send through them.
        """
        below = copy.copy(settings)
        below.endpoint = unwrapped(settings.endpoint)
        super().__init__(below)
        self.endpoint = settings.endpoint
        self.max_peers = -1  # IPv8 would answer nobody any more at 30: whom to remember is the walker's business

    # --- what applications call -----------------------------------------------------------------

    def build_tunnels(self, hops: int) -> None:
        """Keep circuits of `hops` hops ready, from now on.  Circuits of one hop are not anonymous.

        Raises:
            ValueError: not 1 to MAX_HOPS.
            LocalError: the community was unloaded.
        """
        if type(hops) is not int or not 1 <= hops <= MAX_HOPS:
            raise ValueError(f"hops is {hops!r}; it must be 1 to {MAX_HOPS}")
        if self._driver.closed:
            raise LocalError("the community was unloaded")
        if hops == 1:
            logger.warning("circuits of one hop are not anonymous: the relay sees both ends")
        self._keeper.want(hops)
        self._tend()

    def add_relay(self, relay: RelayInfo) -> None:
        """Believe in one more relay, as in those of the `relays` setting; what was known under its id is replaced."""
        self.discovery.believe(relay)

    def active_data_circuits(self, hops: int | None = None) -> list[OriginCircuit]:
        """Open circuits of one hop count, or of all, best for new traffic first: the one that opened first and is not
        about to expire.
        """
        return self._keeper.open_circuits(hops, self._driver.now())

    async def wait_for_circuit(self, hops: int | None = None) -> OriginCircuit:
        """The best circuit for new traffic, as soon as there is one; `why_not_ready` says what it waits for.

        Raises:
            LocalError: the community was unloaded, or `build_tunnels` was not called: there will be none.
        """
        while not (circuits := self.active_data_circuits(hops)):
            if self._driver.closed:
                raise LocalError("the community was unloaded")
            if not self._keeper.wants(hops):
                raise LocalError(self.why_not_ready(hops))
            await self._looked.wait()
        return circuits[0]

    def tunnels_ready(self, hops: int | None = None) -> float:
        """Open circuits divided by min_circuits; not capped at 1.0.  0.0 before build_tunnels: see `why_not_ready`."""
        return len(self.active_data_circuits(hops)) / self.settings.pool.min_circuits

    def why_not_ready(self, hops: int | None = None) -> str:
        """A sentence for people, empty when there is a circuit."""
        return "" if self.active_data_circuits(hops) else self._keeper.why_not_ready(hops, self._driver.now())

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
            ValueError: a destination that is none, another message type, or a payload that is none or too long.
        """
        if message_type != "data":
            raise ValueError(f'message_type is {message_type!r}; it must be "data"')
        if circuit.core is not self.engine.core:
            raise ValueError("circuit is another community's; take one of active_data_circuits()")
        message = Datagram(_destination(destination), _payload(payload))
        try:
            sent = circuit.send_datagram(message, self._driver.now())
        except CircuitClosedError:
            raise
        except LocalError as error:
            raise ValueError(f"payload: {error}") from None
        self._driver.wake()
        return sent

    def on_data(self, callback: DataCallback) -> None:
        """Call `callback(circuit, origin, payload)` for every datagram that comes back."""
        self._data_callbacks.append(_plain(callback))

    def on_rejected(self, callback: RejectedCallback) -> None:
        """Call `callback(circuit, destination, reason)` when an exit says that it did not send a datagram."""
        self._rejected_callbacks.append(_plain(callback))

    def on_circuit_opened(self, callback: OpenedCallback) -> None:
        """Call `callback(circuit)` when a circuit of ours can be used."""
        self._opened_callbacks.append(_plain(callback))

    def on_circuit_closed(self, callback: ClosedCallback) -> None:
        """Call `callback(circuit, reason)` when a circuit of ours ends."""
        self._closed_callbacks.append(_plain(callback))

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

    def network_status(self) -> NetworkStatus:
        """What this node knows of others; good at the moment it is asked for."""
        now, discovery = self._driver.now(), self.discovery
        return NetworkStatus(
            relays_known=discovery.relays_known(), relays_usable=len(discovery.usable(now)),
            sources=tuple(map(short_name, discovery.views.sources)),
            guards=tuple(map(short_name, self._keeper.guards)), trouble=discovery.trouble(now),
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
        """Say goodbye to neighbours, close sockets, stop.  Circuits end with CloseReason.SHUTDOWN."""
        self._driver.close()
        self._pulse()
        if self._exit is not None:
            await self._exit.aclose()
        self.endpoint = unwrapped(self.endpoint)
        await super().unload()

    # --- what happens ------------------------------------------------------------------------------

    def _tend(self) -> None:
        if self._driver.closed:
            return
        now = self._driver.now()
        self._keeper.tend(now)
        self._pulse()
        keys = self.relay_keys
        if keys is not None and keys.onion.rotate(self.engine.core.epoch + now) and self.settings.relay_keys is None:
            keys.keep_in(self.settings.store)
        self._driver.wake()

    def _pulse(self) -> None:
        """Let everybody who waits for a circuit look again."""
        self._looked.set()
        self._looked.clear()

    def _own(self, settings: TunnelSettings) -> Own | None:
        """What our introductions say of us; None when we are no relay."""
        if self.relay_keys is None:
            return None
        ours = self.settings
        capabilities = Capability.DIRECTORY | (Capability.EXIT if ours.limits.exits else Capability(0))
        key = cast("PrivateKey", settings.my_peer.key)
        return Own(
            settings.my_peer.public_key.key_to_bin(), sign_with(key), self.relay_keys.link.public, ours.exit_policy,
            capabilities, ours.relay_addresses, ours.bandwidth, ours.family,
        )  # fmt: skip

    def _walk(self) -> None:
        if not self._driver.closed:
            self._walker.step(self._driver.now())
            self._driver.wake()

    # --- IPv8's introductions (SPEC 12.2) -----------------------------------------------------------

    def create_introduction_request(self, socket_address: Any, extra_bytes: bytes = b"", *args: Any,
                                    **kwargs: Any) -> bytes:  # fmt: skip
        self._walker.asked(socket_address, self._driver.now())
        return super().create_introduction_request(socket_address, extra_bytes or self._describe(), *args, **kwargs)

    def create_introduction_response(self, lan_socket_address: Any, socket_address: Any, identifier: int,
                                     introduction: Peer | None = None, extra_bytes: bytes = b"", *args: Any,
                                     **kwargs: Any) -> bytes:  # fmt: skip
        return super().create_introduction_response(
            lan_socket_address, socket_address, identifier, introduction, extra_bytes or self._describe(), *args,
            **kwargs,
        )  # fmt: skip

    def introduction_request_callback(self, peer: Peer, dist: Any, payload: Any) -> None:
        # Whom a client begins with is not for strangers to say: it listens to whom it asked.
        self._introduced(peer, payload.extra_bytes if self.discovery.is_relay else b"")

    def on_introduction_response(self, peer: Peer, dist: Any, payload: Any) -> None:
        if self._walker.answered(peer.address):
            super().on_introduction_response(peer, dist, payload)
        else:
            self.engine.core.drops[Drop.UNEXPECTED] += 1

    def introduction_response_callback(self, peer: Peer, dist: Any, payload: Any) -> None:
        self._introduced(peer, payload.extra_bytes)

    def _describe(self) -> bytes:
        return self.discovery.own_descriptor(self._driver.now()) or b""

    def _introduced(self, peer: Peer, descriptor: bytes) -> None:
        if self._driver.closed:
            return
        identity = peer.public_key.key_to_bin()
        relay = bool(descriptor) and self.discovery.introduced(descriptor, identity, self._driver.now())
        self._walker.met(peer, relay=relay)
        self._driver.wake()

    def _on_event(self, event: Event) -> None:
        self.discovery.on_event(event, self._driver.now())
        if (handler := self._handlers.get(type(event))) is not None:
            handler(event)

    def on_packet(self, packet: tuple[IPv8Address, bytes], warn_unknown: bool = True) -> None:  # noqa: FBT001, FBT002
        if len(packet[1]) > len(self._prefix):
            super().on_packet(packet, warn_unknown)
        else:  # py-ipv8 3.2 reads the byte behind the prefix before it looks whether there is one
            self.engine.core.drops[Drop.WRONG_SIZE] += 1

    def _on_opened(self, event: CircuitOpened) -> None:
        if event.circuit.purpose is not Purpose.DATA:
            return
        self._keeper.opened(event.circuit, self._driver.now())
        self._pulse()
        for callback in tuple(self._opened_callbacks):
            self._call(callback, event.circuit)

    def _on_closed(self, event: CircuitClosed) -> None:
        if event.circuit.purpose is not Purpose.DATA:
            return
        self._keeper.ended(event.circuit, event.reason, event.culprit, self._driver.now())
        logger.debug("a circuit of %d hops ended: %s", event.circuit.hops, event.reason.value)
        for callback in tuple(self._closed_callbacks):
            self._call(callback, event.circuit, event.reason)
        asyncio.get_running_loop().call_soon(self._tend)

    def _on_datagram(self, event: DatagramArrived) -> None:
        origin = (event.origin.host, event.origin.port)
        for callback in tuple(self._data_callbacks):
            self._call(callback, event.circuit, origin, event.data)

    def _on_rejected(self, event: DatagramRejected) -> None:
        destination = (event.destination.host, event.destination.port)
        for callback in tuple(self._rejected_callbacks):
            self._call(callback, event.circuit, destination, event.reason.name.lower().replace("_", " "))

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:
            # An application's mistake must not stop its own circuits, nor those of others that cross this node.
            logger.exception("a callback of the application failed")


class _Demoted(logging.LoggerAdapter[logging.Logger]):
    """What IPv8 has to say of messages: counted, and logged for debugging only.

    It warns of every malformed datagram, with the address it came from: a stranger would choose how much is logged.
    """

    def __init__(self, logger: logging.Logger, drops: Counter[Drop]) -> None:
        super().__init__(logger, {})
        self._drops: Final = drops

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if level > logging.DEBUG:
            self._drops[Drop.MALFORMED] += 1
        super().log(min(level, logging.DEBUG), msg, *args, **kwargs)


def _destination(address: object) -> Destination:
    """
    Raises:
        ValueError: there is none in `address`.  The text does not repeat it: it may be logged.
    """
    if not isinstance(address, tuple | list) or len(address) != 2:
        raise ValueError("destination must be a pair of host and port")
    host, port = address
    if not isinstance(host, str) or not host:
        raise ValueError("destination has an empty host; name a numeric address or a host name")
    if type(port) is not int:
        raise ValueError(f"destination: a port is a whole number, not a {type(port).__name__}")
    try:
        return Destination(host, port)
    except LocalError as error:
        raise ValueError(f"destination: {error}") from None


def _payload(payload: object) -> bytes:
    if isinstance(payload, str):
        return payload.encode()
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    raise ValueError(f"payload is a {type(payload).__name__}; it must be text or bytes")


def _plain(callback: AnyCallback) -> AnyCallback:
    """
    Raises:
        ValueError: `callback` is a coroutine function, which nobody would await.
    """
    if inspect.iscoroutinefunction(callback):
        raise ValueError(f"a callback is a plain function, not {callback!r}; it may start a task")
    return callback
