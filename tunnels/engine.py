"""One node, without sockets and without a clock: cells in, cells out (SPEC 1).  Floor 4.

The engine dispatches; it never decides.  It builds the parts, passes time and cells to them, and collects what is to be
sent and what happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tunnels.circuit import create, exit, extend, origin, relay  # noqa: A004 (the role is called so)
from tunnels.circuit.core import CircuitClosed, Core, Event, Purpose, Role
from tunnels.circuit.create import Creates
from tunnels.circuit.limits import RelayLimits
from tunnels.circuit.origin import OriginCircuit
from tunnels.circuit.relay import RelayCircuit
from tunnels.crypto.kem import Kem, MlKem768
from tunnels.errors import LocalError
from tunnels.ids import Address, CloseReason, RelayId, Rng
from tunnels.link.links import Links
from tunnels.params import HANDSHAKES_PER_TURN, MAX_NETWORK_ID
from tunnels.path.directory import Directory
from tunnels.timers import Timers
from tunnels.wire.messages import Datagram

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from tunnels.crypto.onion_keys import OnionKeys
    from tunnels.crypto.x25519 import KeyPair
    from tunnels.path.directory import RelayInfo
    from tunnels.wire.destination import Destination
    from tunnels.wire.messages import Message

ORIGIN_ROLES: Final[tuple[Role, ...]] = (origin.ROLE,)
"""What a node needs that only has circuits of its own."""

RELAY_ROLES: Final[tuple[Role, ...]] = (create.ROLE, extend.ROLE, relay.ROLE, exit.ROLE)
"""What a relay needs."""


class Engine:
    """A node.

    Args:
        directory: the relays it knows; the caller may change it later.
        link_key, relay_id, onion_keys: all three for a relay, none for a node that only has circuits of its own.
        families: IP versions it can send to.
        epoch: wall clock minus `now`, seconds.
        timers: where everything of this node makes its appointments; its own when None.
        extra_roles: what others add, as tables.
    """

    def __init__(self, *, network_id: bytes, rng: Rng, now: float, epoch: float, directory: Directory,
                 link_key: KeyPair | None = None, relay_id: RelayId | None = None, onion_keys: OnionKeys | None = None,
                 limits: RelayLimits | None = None, families: Collection[int] = (4, 6), kem: Kem | None = None,
                 timers: Timers | None = None, extra_roles: Iterable[Role] = ()) -> None:  # fmt: skip
        if not 1 <= len(network_id) <= MAX_NETWORK_ID:
            raise LocalError(f"a network id has 1 to {MAX_NETWORK_ID} bytes, not {len(network_id)}")
        if len({link_key is None, relay_id is None, onion_keys is None}) != 1:
            raise LocalError("a relay has a link key, a relay id and onion keys; another node has none of them")
        is_relay = link_key is not None
        self._timers = timers if timers is not None else Timers()
        self.core: Final = Core(
            network_id=network_id, rng=rng, kem=kem or MlKem768(), timers=self._timers, directory=directory,
            relay_id=relay_id, onion_keys=onion_keys, limits=limits or RelayLimits(), families=families, epoch=epoch,
            roles=[*ORIGIN_ROLES, *(RELAY_ROLES if is_relay else ()), *extra_roles],
        )  # fmt: skip
        self.core.creates = Creates(self.core)
        self.core.links = Links(
            static=link_key, network_id=network_id, rng=rng, kem=self.core.kem, timers=self._timers, now=now,
            epoch=epoch, handlers={command: make(self.core) for command, make in self.core.commands.items()},
            drops=self.core.drops,
        )  # fmt: skip
        self.circuits: dict[OriginCircuit, None] = {}
        """Our own circuits that are not closed."""

    # --- the world calls ------------------------------------------------------------------------

    def receive(self, cells: bytearray | memoryview, sender: Address, now: float) -> None:
        """Take n * CELL_SIZE bytes that came from one sender; they are rewritten in place.  Never raises on what is in
        them.
        """
        self.core.links.receive(cells, sender, now)

    def datagrams_to_send(self) -> Iterable[tuple[memoryview | bytes, Address]]:
        """What is to be sent now: n * CELL_SIZE bytes for one receiver at a time, good until the next is asked for."""
        return self.core.links.drain()

    def work(self, now: float) -> bool:
        """Do a few of the public-key operations that wait (SPEC 4.8, 7.7).

        Returns:
            Whether more wait: then call again after a look at the socket.
        """
        links, creates = self.core.links, self.core.creates
        for _ in range(HANDSHAKES_PER_TURN // 2):
            if not links.work(now) | creates.work(now):
                break
        return bool(links.waiting or len(creates))

    def next_timer(self) -> float | None:
        return self._timers.next()

    def handle_timer(self, now: float) -> None:
        self._timers.run(now)

    def events(self) -> list[Event]:
        """What happened since the last call, oldest first."""
        events, self.core.events = self.core.events, []
        for event in events:
            if isinstance(event, CircuitClosed):
                self.circuits.pop(event.circuit, None)
        return events

    # --- the application calls ------------------------------------------------------------------

    def create_circuit(self, path: Sequence[RelayInfo], now: float, purpose: Purpose = Purpose.DATA) -> OriginCircuit:
        """Start building a circuit over `path`, first hop first.

        Raises:
            LocalError: the path is empty, too long, has a relay twice, or begins where we cannot send.
        """
        circuit = OriginCircuit(self.core, path, now, purpose)
        self.circuits[circuit] = None
        circuit.begin(now)
        return circuit

    def send_datagram(self, circuit: OriginCircuit, destination: Destination, data: bytes, now: float) -> bool:
        """Send `data` to `destination` from the circuit's last hop.

        Returns:
            Whether there was room; without, the datagram is dropped, as UDP does.

        Raises:
            CircuitClosedError: the circuit is not open.
            LocalError: too long.
        """
        return circuit.send_datagram(Datagram(destination, data), now)

    def send_backward(self, circuit: RelayCircuit, message: Message, now: float) -> bool:
        """Send a message from this hop to the originator; False when the circuit is closed or there is no room."""
        return not circuit.closed and circuit.send(message, now)

    def close(self, now: float) -> None:
        """End all circuits.  Drain what is to be sent afterwards, then `forget`."""
        for circuit in list(self.circuits):
            circuit.close(CloseReason.SHUTDOWN, now)
        for joined in list(self.core.joined):
            joined.close(CloseReason.SHUTDOWN, now)

    def forget(self, now: float) -> None:
        """Drop all links and their keys."""
        self.core.links.close_all(now)
