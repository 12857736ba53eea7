"""An IPv8 endpoint on the virtual network, with the face for cells of our real one (SPEC 1).  Floor 5.

IPv8 communities and tunnel communities run over it unchanged.  They are kept from asking the operating system which
addresses this machine has, because no two machines have the same.  One place is left: a community made on an endpoint
that is open already asks once, and the answer is thrown away; make it first and open then, as IPv8's own loader does.
"""

import asyncio
import socket
from typing import Final

from ipv8.community import Community
from ipv8.messaging.interfaces.endpoint import Endpoint, EndpointClosedException, EndpointListener
from ipv8.messaging.interfaces.udp.endpoint import Address as IPv8Address
from ipv8.messaging.interfaces.udp.endpoint import UDPv4Address, UDPv6Address
from ipv8.overlay import Overlay

from sim.network import Socket, VirtualNetwork
from tunnels.endpoint.batched import INTERFACE_NAME
from tunnels.endpoint.face import Counters, Receive, check_cells, family_of
from tunnels.errors import LocalError
from tunnels.ids import Address, Drop
from tunnels.params import CELL_SIZE


class VirtualEndpoint(Endpoint):  # also a tunnels.endpoint.face.CellPort
    """
    Without an attached receiver of cells its listeners get every datagram, as from UDPEndpoint.  With one, cells go to
    that receiver alone, IPv8's messages to the listeners, and the rest is dropped and counted.

    Args:
        network: where its sockets are.
        binds: addresses of one virtual host, at most one of each family; port 0 takes a free port.

    Raises:
        LocalError: no address, one that is not numeric, or two of one family.
    """

    def __init__(self, network: VirtualNetwork, *binds: Address) -> None:
        super().__init__()
        self._network = network
        self._binds: dict[socket.AddressFamily, Address] = {}
        for bind in binds:
            family = family_of(bind[0])
            if family is None or family in self._binds:
                raise LocalError(
                    f"a virtual endpoint has one numeric address of a family; {bind[0]!r} is not or is another"
                )
            self._binds[family] = bind
        if not binds:
            raise LocalError("a virtual endpoint needs an address, such as ('192.0.2.1', 8090)")
        self._sockets: dict[socket.AddressFamily, Socket] = {}
        self._receive: Receive | None = None
        self.counters: Final = Counters()
        self.bytes_up = 0
        """Bytes of cells and messages handed to the network, as UDPEndpoint counts."""
        self.bytes_down = 0

    # --- CellPort

    def attach(self, receive: Receive) -> None:
        if self._receive is not None:
            raise LocalError("this endpoint already has a receiver of cells")
        self._receive = receive

    def detach(self) -> None:
        self._receive = None

    def send_cells(self, cells: bytearray | memoryview | bytes, receiver: Address) -> None:
        check_cells(len(cells))
        number = len(cells) // CELL_SIZE
        out = self._socket_to(receiver)
        if out is None:
            self.counters.drops[Drop.NO_SOCKET] += number
            return
        self.bytes_up += len(cells)
        self.counters.cells_out += number
        whole = bytes(cells)
        out.send_many([whole[at : at + CELL_SIZE] for at in range(0, len(whole), CELL_SIZE)], receiver)

    # --- Endpoint

    def send(self, socket_address: IPv8Address, packet: bytes) -> None:
        """Send one datagram.  What is not a numeric address of a family we have is dropped and counted.

        Raises:
            EndpointClosedException: as UDPEndpoint does.
        """
        self.assert_open()
        out = self._socket_to(socket_address)
        if out is None:
            self.counters.drops[Drop.NO_SOCKET] += 1
            return
        self.bytes_up += len(packet)
        self.counters.messages_out += 1
        out.send(bytes(packet), socket_address)

    async def open(self) -> bool:
        """Bind every address.  True, also when open already.

        Raises:
            LocalError: one of them is in use.  None stays open.
        """
        if self._sockets:
            return True
        try:
            for family in sorted(self._binds):
                self._sockets[family] = self._network.open(self._binds[family], self._on_datagrams)
        except LocalError:
            self.close()
            raise
        for listener in (*self._listeners, *(found for several in self._prefix_map.values() for found in several)):
            self._settle(listener)
        return True

    def close(self) -> None:
        """Free the addresses.  Listeners and receiver stay for the next open."""
        for bound in self._sockets.values():
            bound.close()
        self._sockets.clear()

    def is_open(self) -> bool:
        return bool(self._sockets)

    def assert_open(self) -> None:
        if not self._sockets:
            raise EndpointClosedException(self)

    def add_listener(self, listener: EndpointListener) -> None:
        super().add_listener(listener)
        self._settle(listener)

    def add_prefix_listener(self, listener: EndpointListener, prefix: bytes) -> None:
        super().add_prefix_listener(listener, prefix)
        self._settle(listener)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where we are bound, IPv4 before IPv6; empty when closed."""
        return tuple(bound.address for bound in self._sockets.values())

    @property
    def interfaces(self) -> dict[str, Endpoint]:
        """As DispatcherEndpoint's: IPv8 looks here which kinds of address we can speak to."""
        return {INTERFACE_NAME[family]: self for family in sorted(self._binds)}

    def get_address(self) -> IPv8Address:
        """The IPv4 address if there is one, else the IPv6 address: what we are bound to, behind a NAT too."""
        self.assert_open()
        return _for_ipv8(self.addresses[0])

    def reset_byte_counters(self) -> None:
        self.bytes_up = self.bytes_down = 0

    # --- between the sockets and whoever listens

    def _socket_to(self, receiver: IPv8Address) -> Socket | None:
        family = family_of(receiver[0]) if 0 < receiver[1] < 1 << 16 else None
        return self._sockets.get(family) if family is not None else None

    def _settle(self, listener: EndpointListener) -> None:
        """Give `listener` its virtual address, and spare it every guess about the real machine's."""
        # IPv8 has no other way to say these two.
        listener.address_is_lan = _no_lan  # type: ignore[method-assign, assignment]
        if isinstance(listener, Community):
            listener.guess_address = self._address_on  # type: ignore[method-assign]
        if isinstance(listener, Overlay):
            listener.cancel_pending_task("discover_lan_addresses")  # a thread, every ten seconds
        if not self._sockets:
            return
        listener.my_estimated_lan = listener.my_estimated_wan = self.get_address()
        if isinstance(listener, Overlay):
            for address in self.addresses:
                listener.my_peer.address = _for_ipv8(address)

    def _address_on(self, interface: str) -> IPv8Address | None:
        found = [family for family in self._sockets if INTERFACE_NAME[family] == interface]
        return _for_ipv8(self._sockets[found[0]].address) if found else None

    def _on_datagrams(self, datagrams: list[bytes], source: Address) -> None:
        self.bytes_down += sum(map(len, datagrams))
        if self._receive is None:
            self._notify(datagrams, source)
            return
        cells = [datagram for datagram in datagrams if len(datagram) == CELL_SIZE and datagram[0]]
        messages = [datagram for datagram in datagrams if datagram[:1] == b"\0"]
        if wrong := len(datagrams) - len(cells) - len(messages):
            self.counters.drops[Drop.WRONG_SIZE] += wrong
        if not cells:
            self._notify(messages, source)
            return
        if messages:
            # In a turn of their own: a receiver that raises costs no message.
            asyncio.get_running_loop().call_soon(self._notify, messages, source)
        self.counters.cells_in += len(cells)
        self._receive(bytearray().join(cells), source)

    def _notify(self, messages: list[bytes], source: Address) -> None:
        waiting = iter(messages)
        try:
            for message in waiting:
                self.counters.messages_in += 1
                self.notify_listeners((_for_ipv8(source), message))
        finally:
            # A listener that raises is the loop's business to report; the other datagrams have their turn all the same.
            if rest := list(waiting):
                asyncio.get_running_loop().call_soon(self._notify, rest, source)


def _no_lan(_host: str) -> bool:
    """Virtual hosts share no local network: each is where its address says."""
    return False


def _for_ipv8(address: Address) -> IPv8Address:
    return UDPv6Address(*address) if ":" in address[0] else UDPv4Address(*address)
