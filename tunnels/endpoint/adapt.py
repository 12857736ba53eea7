"""Cells over the endpoint an app already gave to IPv8 (SPEC 1).  Floor 5.

IPv8 tells its datagrams apart by a 22-byte prefix that starts with 0x00.  On its own endpoints a listener *without* a
prefix sees every datagram, so a plain listener takes the cells and no community notices: they see their prefix only.
Wrappers, which count or redirect what has a prefix, are taken off; cells pass below them.
"""

import asyncio
from collections.abc import Mapping
from socket import AddressFamily
from typing import Final, cast

from ipv8.messaging.anonymization.crypto import CryptoEndpoint
from ipv8.messaging.anonymization.endpoint import TunnelEndpoint
from ipv8.messaging.interfaces.dispatcher.endpoint import DispatcherEndpoint
from ipv8.messaging.interfaces.endpoint import Endpoint, EndpointListener
from ipv8.messaging.interfaces.statistics_endpoint import StatisticsEndpoint
from ipv8.messaging.interfaces.udp.endpoint import Address as IPv8Address
from ipv8.messaging.interfaces.udp.endpoint import UDPEndpoint

from tunnels.endpoint.batched import ADDRESS_TYPE, INTERFACE_NAME
from tunnels.endpoint.face import CellPort, Counters, Receive, check_cells, family_of
from tunnels.errors import EndpointError, LocalError
from tunnels.ids import Address, Drop
from tunnels.params import CELL_SIZE, SEND_QUEUE_SIZE

_FAMILY_OF_INTERFACE: Final = {name: family for family, name in INTERFACE_NAME.items()}

_VERSION: Final = {AddressFamily.AF_INET: 4, AddressFamily.AF_INET6: 6}

_OWN_PORT: Final = (
    "give tropea a port of its own: endpoint = BatchedEndpoint(('0.0.0.0', 8091)) from tunnels.endpoint.batched, "
    "await endpoint.open(), and pass it as the endpoint of the tunnel community's settings"
)


def ipv8_address(address: Address) -> IPv8Address:
    """A numeric address as IPv8 wants it."""
    family = family_of(address[0])
    if family is None:
        raise LocalError("not a numeric address")
    return ADDRESS_TYPE[family](*address)


def unwrapped(endpoint: Endpoint) -> Endpoint:
    """The endpoint below all of IPv8's wrappers.

    A community of ours that has StatisticsEndpoint above it should listen here too (`remove_listener(self)`, then
    `add_prefix_listener(self, prefix)`): py-ipv8 3.2 lets only the first community on a StatisticsEndpoint hear
    anything, and none when a DispatcherEndpoint is below.
    """
    while isinstance(endpoint, StatisticsEndpoint | TunnelEndpoint):
        endpoint = endpoint.endpoint
    return endpoint


def cell_port(endpoint: Endpoint) -> CellPort:
    """The port for cells on the socket(s) of `endpoint`, open or not yet.

    Raises:
        EndpointError: it does not show us datagrams without an IPv8 prefix, or we cannot tell whether it does.
    """
    below = unwrapped(endpoint)
    name = f"{type(below).__module__}.{type(below).__qualname__}"
    if isinstance(below, CryptoEndpoint):
        raise EndpointError(f"{name} hands out datagrams with an IPv8 prefix only and would swallow cells; {_OWN_PORT}")
    if isinstance(below, CellPort):
        return below
    if isinstance(below, DispatcherEndpoint):
        return DispatchedPort(below)
    if isinstance(below, UDPEndpoint):
        return ListeningPort(below)
    raise EndpointError(f"{name} is not an endpoint that is known to carry cells; {_OWN_PORT}")


def families_of(endpoint: Endpoint) -> frozenset[int]:
    """The IP versions of the socket(s) of `endpoint`, open or not yet, which `cell_port` accepted."""
    below = unwrapped(endpoint)
    interfaces = getattr(below, "interfaces", None)  # DispatcherEndpoint's, and of our own endpoints
    if interfaces is None:
        return frozenset({_VERSION[cast("UDPEndpoint", below).SOCKET_FAMILY]})
    return frozenset(_VERSION[_FAMILY_OF_INTERFACE[name]] for name in interfaces if name in _FAMILY_OF_INTERFACE)


class ListeningPort(EndpointListener):  # also a tunnels.endpoint.face.CellPort
    """Cells over IPv8's UDPEndpoint or UDPv6Endpoint.

    One datagram a wake-up and a call of `sendto` for each cell: `python -m bench endpoint` shows what a node that owns
    its port saves.
    """

    def __init__(self, endpoint: UDPEndpoint) -> None:
        super().__init__(endpoint)
        self._udp: Final = endpoint
        self._family: Final = endpoint.SOCKET_FAMILY
        self._receive: Receive | None = None
        self.counters: Final = Counters()

    def attach(self, receive: Receive) -> None:
        if self._receive is not None:
            raise LocalError("this port already has a receiver of cells")
        self._receive = receive
        self._udp.add_listener(self)

    def detach(self) -> None:
        self._receive = None
        self._udp.remove_listener(self)

    def on_packet(self, packet: tuple[IPv8Address, bytes]) -> None:
        sender, datagram = packet
        if datagram[:1] == b"\x00":
            return
        if len(datagram) != CELL_SIZE:
            self.counters.drops[Drop.WRONG_SIZE] += 1
        elif self._receive is not None:
            self.counters.cells_in += 1
            self._receive(bytearray(datagram), (sender[0], sender[1]))

    def send_cells(self, cells: bytearray | memoryview | bytes, receiver: Address) -> None:
        check_cells(len(cells))
        if family_of(receiver[0]) is not self._family or not 0 < receiver[1] < 1 << 16 or not self._udp.is_open():
            self.counters.drops[Drop.NO_SOCKET] += len(cells) // CELL_SIZE
            return
        address = ADDRESS_TYPE[self._family](*receiver)
        view = memoryview(cells)
        for at in range(0, len(view), CELL_SIZE):
            if self._waiting() > SEND_QUEUE_SIZE - CELL_SIZE:
                self.counters.drops[Drop.QUEUE_FULL] += (len(view) - at) // CELL_SIZE
                return
            self._udp.send(address, bytes(view[at : at + CELL_SIZE]))
            self.counters.cells_out += 1

    def _waiting(self) -> int:
        """Bytes asyncio keeps while the kernel takes nothing; it has no bound of its own."""
        transport = self._udp._transport  # noqa: SLF001 (IPv8 has no question for this)
        return cast("asyncio.WriteTransport", transport).get_write_buffer_size() if transport else 0


class DispatchedPort:
    """Cells over IPv8's DispatcherEndpoint: each address family through the endpoint below that serves it.

    Raises:
        EndpointError: there is none, or one of them cannot carry cells (an app may have put its own class there).
    """

    def __init__(self, dispatcher: DispatcherEndpoint) -> None:
        self.ports: Final[Mapping[AddressFamily, CellPort]] = {
            _FAMILY_OF_INTERFACE[name]: cell_port(below)
            for name, below in dispatcher.interfaces.items()
            if name in _FAMILY_OF_INTERFACE
        }
        self.counters: Final = Counters()
        """Of cells that found no port; the ports count the rest."""
        if not self.ports:
            raise EndpointError(f"a DispatcherEndpoint without UDPIPv4 or UDPIPv6 carries nothing; {_OWN_PORT}")

    def attach(self, receive: Receive) -> None:
        attached: list[CellPort] = []
        try:
            for port in self.ports.values():
                port.attach(receive)
                attached.append(port)
        except LocalError:
            for port in attached:
                port.detach()
            raise

    def detach(self) -> None:
        for port in self.ports.values():
            port.detach()

    def send_cells(self, cells: bytearray | memoryview | bytes, receiver: Address) -> None:
        family = family_of(receiver[0])
        port = self.ports.get(family) if family is not None else None
        if port is None:
            check_cells(len(cells))
            self.counters.drops[Drop.NO_SOCKET] += len(cells) // CELL_SIZE
        else:
            port.send_cells(cells, receiver)
