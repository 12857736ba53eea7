"""An IPv8 endpoint on sockets of our own, which carries cells in batches (SPEC 1).  Floor 5.

What starts with 0x00 goes to IPv8's listeners, cells go to the attached receiver.  Neither sees the other's.

Bound to several addresses of one family, an endpoint answers a sender from the socket that heard it; to everybody else
it sends from the first.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Final

from ipv8.messaging.interfaces.endpoint import Endpoint, EndpointClosedException
from ipv8.messaging.interfaces.udp.endpoint import Address as IPv8Address
from ipv8.messaging.interfaces.udp.endpoint import UDPv4Address, UDPv6Address

from tunnels.endpoint.face import Counters, Receive, check_cells, family_of
from tunnels.endpoint.udp import BatchedSocket, OpenSocket
from tunnels.errors import EndpointError, LocalError
from tunnels.ids import Address, Drop
from tunnels.params import CELL_SIZE, HEARD_ON, SOCKET_RECEIVE_BUFFER

logger = logging.getLogger(__name__)

ADDRESS_TYPE: Final = {socket.AF_INET: UDPv4Address, socket.AF_INET6: UDPv6Address}
"""What IPv8 calls an address of a family; peers keep one address of each type."""

INTERFACE_NAME: Final = {socket.AF_INET: "UDPIPv4", socket.AF_INET6: "UDPIPv6"}
"""What IPv8's dispatcher calls a socket of a family."""


def udp_socket(family: socket.AddressFamily) -> socket.socket:
    return socket.socket(family, socket.SOCK_DGRAM)


class BatchedEndpoint(Endpoint):  # also a tunnels.endpoint.face.CellPort
    """Give it to IPv8 as `endpoint_override`, or as the endpoint of a community's settings.

    Args:
        binds: numeric addresses, IPv4 or IPv6, at least one; port 0 lets the system choose.  Exactly these are bound:
            unlike UDPEndpoint nothing searches for another free port, because a relay descriptor names this one.
        batching: False makes one call for each datagram even where trains are possible.
        open_socket: where sockets come from.

    Raises:
        LocalError: no address, or one that is not numeric.
    """

    def __init__(
        self,
        *binds: Address,
        batching: bool = True,
        open_socket: OpenSocket = udp_socket,
    ) -> None:
        super().__init__()
        if not binds:
            raise LocalError("an endpoint needs an address to bind, such as ('0.0.0.0', 8090)")
        self._binds = [(bind, _family(bind)) for bind in binds]
        self._batching, self._open_socket = batching, open_socket
        self._sockets: list[BatchedSocket] = []
        self._by_family: dict[socket.AddressFamily, list[BatchedSocket]] = {}
        self._heard_on: dict[Address, BatchedSocket] = {}
        self._receive: Receive | None = None
        self.counters: Final = Counters()
        self.bytes_up = 0
        """Bytes of cells and messages handed to the sockets, as UDPEndpoint counts."""
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
        sock = self._socket_to(receiver)
        if sock is None:
            self.counters.drops[Drop.NO_SOCKET] += len(cells) // CELL_SIZE
            return
        self.bytes_up += len(cells)
        sock.send_cells(memoryview(cells), receiver)

    # --- Endpoint

    def send(self, socket_address: IPv8Address, packet: bytes) -> None:
        """Send one IPv8 message.  A host that is not numeric never reaches the resolver: it is dropped and counted.

        Raises:
            EndpointClosedException: as UDPEndpoint does.
        """
        self.assert_open()
        sock = self._socket_to(socket_address)
        if sock is None:
            self.counters.drops[Drop.NO_SOCKET] += 1
            return
        self.bytes_up += len(packet)
        sock.send_message(packet, socket_address)

    async def open(self) -> bool:
        """Bind every address.  True, also when open already.

        Raises:
            EndpointError: one of them cannot be bound, or this event loop cannot watch sockets.  None stays open.
        """
        if self._sockets:
            return True
        opened: list[BatchedSocket] = []
        try:
            for bind, family in self._binds:
                opened.append(self._bind(bind, family))
        except EndpointError:
            for sock in opened:
                sock.close()
            raise
        self._sockets = opened
        for sock, (_, family) in zip(opened, self._binds, strict=True):
            self._by_family.setdefault(family, []).append(sock)
        granted = min(sock.granted for sock in opened)
        if granted < SOCKET_RECEIVE_BUFFER:
            logger.info(
                "the system grants a receive buffer of %d bytes, not %d: raise net.core.rmem_max on a busy relay",
                granted,
                SOCKET_RECEIVE_BUFFER,
            )
        return True

    def _bind(self, bind: Address, family: socket.AddressFamily) -> BatchedSocket:
        try:
            sock = BatchedSocket(
                bind,
                family,
                on_cells=self._on_cells,
                on_message=self._on_message,
                counters=self.counters,
                open_socket=self._open_socket,
                batching=self._batching,
            )
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "unknown")
            raise EndpointError(f"cannot bind {bind[0]} port {bind[1]}: {error.strerror} ({name})") from error
        except NotImplementedError as error:
            raise EndpointError(
                "this event loop cannot watch sockets: run asyncio's SelectorEventLoop, or use IPv8's UDPEndpoint",
            ) from error
        return sock

    def close(self) -> None:
        """Release sockets, buffers, timers and what waits to be sent.  Who listens stays so for the next open."""
        for sock in self._sockets:
            sock.close()
        self._sockets = []
        self._by_family.clear()
        self._heard_on.clear()

    def is_open(self) -> bool:
        return bool(self._sockets)

    def assert_open(self) -> None:
        if not self._sockets:
            raise EndpointClosedException(self)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where we are bound, in the order of the arguments; empty when closed."""
        return tuple(sock.address for sock in self._sockets)

    @property
    def queued(self) -> int:
        """Bytes that wait for the kernel, over all sockets."""
        return sum(sock.queued for sock in self._sockets)

    @property
    def interfaces(self) -> dict[str, Endpoint]:
        """As DispatcherEndpoint's: IPv8 looks here which kinds of address we can speak to."""
        return {INTERFACE_NAME[family]: self for _, family in self._binds}

    def get_address(self) -> IPv8Address:
        """The first address, IPv4 before IPv6 as with DispatcherEndpoint."""
        self.assert_open()
        family = min(self._by_family)
        return ADDRESS_TYPE[family](*self._by_family[family][0].address)

    def reset_byte_counters(self) -> None:
        self.bytes_up = self.bytes_down = 0

    # --- between the sockets and whoever listens

    def _socket_to(self, receiver: Address) -> BatchedSocket | None:
        """The socket to send from: 0.3 us, once for each call of `send_cells`."""
        family = family_of(receiver[0]) if 0 < receiver[1] < 1 << 16 else None
        sockets = self._by_family.get(family) if family is not None else None
        if not sockets:
            return None
        return self._heard_on.get(receiver, sockets[0]) if len(sockets) > 1 else sockets[0]

    def _heard(self, sock: BatchedSocket, sender: Address) -> None:
        """Remember to answer `sender` from `sock`, when that is not what `_socket_to` does anyway."""
        first = self._by_family[sock.family][0]
        if self._heard_on.get(sender, first) is sock:
            return
        self._heard_on.pop(sender, None)
        if sock is not first:
            if len(self._heard_on) >= HEARD_ON:
                del self._heard_on[next(iter(self._heard_on))]
            self._heard_on[sender] = sock

    def _on_cells(self, sock: BatchedSocket, cells: memoryview, sender: Address) -> None:
        number = len(cells) // CELL_SIZE
        self.counters.cells_in += number
        self.bytes_down += len(cells)
        if len(self._sockets) > 1:
            self._heard(sock, sender)
        if self._receive is None:
            self.counters.drops[Drop.NO_RECEIVER] += number
        else:
            self._shielded(self._receive, cells, sender)

    def _on_message(self, sock: BatchedSocket, message: bytes, sender: Address) -> None:
        self.counters.messages_in += 1
        self.bytes_down += len(message)
        if len(self._sockets) > 1:
            self._heard(sock, sender)
        self._shielded(self.notify_listeners, (ADDRESS_TYPE[sock.family](*sender), message))

    def _shielded(self, callback: Callable[..., None], *args: object) -> None:
        """A bug behind one datagram must not cost the other datagrams of its train; the loop reports it as ever."""
        try:
            callback(*args)
        except Exception as error:  # noqa: BLE001 (the outermost frame of what arrives)
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a listener of the endpoint failed", "exception": error},
            )


def _family(bind: Address) -> socket.AddressFamily:
    family = family_of(bind[0])
    if family is None:
        raise LocalError(f"not a numeric address: {bind[0]!r}")
    return family
