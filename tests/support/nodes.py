"""Whole nodes on the virtual network, for tests that need more than one: engines, drivers and addresses, nothing else.

async def main() -> None:
    world = World(delay=0.1, loss=0.02)
    relays = [world.relay(exits=True) for _ in range(3)]
    client = world.client()
    circuit = await client.build(relays)
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from sim.loop import VirtualLoop
from sim.network import Pipe, VirtualNetwork
from tunnels.circuit.core import (
    CircuitClosed,
    CircuitOpened,
    DatagramArrived,
    Event,
    ExitDatagram,
    Role,
)
from tunnels.circuit.limits import RelayLimits
from tunnels.circuit.origin import OriginCircuit
from tunnels.crypto.kem import Kem
from tunnels.crypto.onion_keys import OnionKeys
from tunnels.crypto.rng import StreamRng
from tunnels.crypto.x25519 import KeyPair
from tunnels.driver import Driver
from tunnels.endpoint.face import Receive
from tunnels.engine import Engine
from tunnels.exit.policy import ExitPolicy
from tunnels.ids import Address, RelayId
from tunnels.params import CELL_SIZE
from tunnels.path.directory import Directory, RelayInfo, relay_id_of
from tunnels.timers import Timers
from tunnels.wire.destination import Destination
from tunnels.wire.messages import Datagram

ACCEPT_ALL: Final = ExitPolicy.parse("accept *:*")


class Port:
    """A CellPort on a virtual socket."""

    def __init__(self, network: VirtualNetwork, address: Address) -> None:
        self._receive: Receive | None = None
        self.socket = network.open(address, self._on_datagrams)

    def attach(self, receive: Receive) -> None:
        self._receive = receive

    def detach(self) -> None:
        self._receive = None

    def send_cells(self, cells: bytearray | memoryview | bytes, receiver: Address) -> None:
        data = bytes(cells)
        self.socket.send_many([data[at : at + CELL_SIZE] for at in range(0, len(data), CELL_SIZE)], receiver)

    def _on_datagrams(self, datagrams: list[bytes], sender: Address) -> None:
        if self._receive is not None:
            self._receive(bytearray(b"".join(datagrams)), sender)


class Node:
    """An engine on the virtual network.

    Attributes:
        happened: every event, oldest first.
        on_exit: what an exit does with a datagram; the default sends it back reversed.
    """

    def __init__(self, world: "World", address: Address, engine: Engine, turn: float) -> None:
        self.world = world
        self.address = address
        self.engine = engine
        self.port = Port(world.network, address)
        self.happened: list[Event] = []
        self.on_exit: Callable[[ExitDatagram], None] = self.echo
        self.driver = Driver(engine, self.port, self._on_event, turn)
        self._waiters: dict[OriginCircuit, asyncio.Future[OriginCircuit]] = {}

    @property
    def core(self) -> Any:
        return self.engine.core

    def _on_event(self, event: Event) -> None:
        self.happened.append(event)
        if isinstance(event, ExitDatagram):
            self.on_exit(event)
        elif isinstance(event, CircuitOpened | CircuitClosed):
            waiter = self._waiters.pop(event.circuit, None)
            if waiter is not None and not waiter.done():
                if isinstance(event, CircuitOpened):
                    waiter.set_result(event.circuit)
                else:
                    waiter.set_exception(ConnectionError(f"{event.reason.value} at hop {event.culprit}"))

    def echo(self, event: ExitDatagram) -> None:
        self.engine.send_backward(event.circuit, Datagram(event.destination, event.data[::-1]), self.driver.now())
        self.driver.wake()

    def start(self, path: "Sequence[RelayNode | RelayInfo]") -> OriginCircuit:
        """Begin a circuit and return at once."""
        infos = [hop.info if isinstance(hop, RelayNode) else hop for hop in path]
        circuit = self.engine.create_circuit(infos, self.driver.now())
        self.driver.wake()
        return circuit

    async def build(self, path: "Sequence[RelayNode | RelayInfo]") -> OriginCircuit:
        """An open circuit.

        Raises:
            ConnectionError: it was closed instead.
        """
        return await self.opened(self.start(path))

    def opened(self, circuit: OriginCircuit) -> asyncio.Future[OriginCircuit]:
        future: asyncio.Future[OriginCircuit] = asyncio.get_running_loop().create_future()
        self._waiters[circuit] = future
        return future

    def send(self, circuit: OriginCircuit, data: bytes, host: str = "192.0.2.1", port: int = 53) -> bool:
        sent = self.engine.send_datagram(circuit, Destination(host, port), data, self.driver.now())
        self.driver.wake()
        return sent

    def received(self, circuit: OriginCircuit | None = None) -> list[bytes]:
        """Data of the datagrams that came back, oldest first."""
        return [
            event.data
            for event in self.happened
            if isinstance(event, DatagramArrived) and circuit in (None, event.circuit)
        ]

    def close(self) -> None:
        self.driver.close()
        self.port.socket.close()


class RelayNode(Node):
    def __init__(self, world: "World", address: Address, engine: Engine, turn: float, info: RelayInfo) -> None:
        super().__init__(world, address, engine, turn)
        self.info = info


class World:
    """Nodes at 127.N.0.1 on one virtual network; everything follows from `seed`.

    Args:
        delay, loss: of every pair of nodes, one way.
    """

    def __init__(self, *, delay: float = 0.01, loss: float = 0.0, seed: int = 0, network_id: bytes = b"test") -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop), "run this under sim.loop.run"
        self.loop = loop
        self.network_id = network_id
        self.directory = Directory()
        self.nodes: list[Node] = []
        self._rng = StreamRng(seed.to_bytes(32))
        self.network = VirtualNetwork(loop, self.rng(), lambda _source, _destination: [Pipe(delay=delay, loss=loss)])

    def rng(self) -> StreamRng:
        return StreamRng(self._rng.bytes(32))

    def address(self) -> Address:
        return f"127.{len(self.nodes) + 1}.0.1", 8000

    def relay(self, *, exits: bool = False, max_joined_circuits: int = 10_000, turn: float = 0.0,
              address: Address | None = None, exit_single_hop: bool = False, kem: Kem | None = None,
              extra_roles: Iterable[Role] = ()) -> RelayNode:  # fmt: skip
        """A relay that every node of this world knows."""
        rng, address = self.rng(), address or self.address()
        link_key = KeyPair.generate(rng)
        onion_keys = OnionKeys.generate(self.loop.wall(), rng)
        relay_id: RelayId = relay_id_of(rng.bytes(32))
        policy = ACCEPT_ALL if exits else ExitPolicy.REJECT_ALL
        info = RelayInfo(relay_id, link_key.public, onion_keys.public, (address,), policy)
        limits = RelayLimits(max_joined_circuits=max_joined_circuits, exits=exits, private_addresses=True,
                             exit_single_hop=exit_single_hop)  # fmt: skip
        engine = Engine(network_id=self.network_id, rng=rng, now=self.loop.time(), epoch=self.epoch, kem=kem,
                        directory=self.directory, link_key=link_key, relay_id=relay_id, onion_keys=onion_keys,
                        limits=limits, extra_roles=extra_roles)  # fmt: skip
        node = RelayNode(self, address, engine, turn, info)
        self.directory.add(info)
        self.nodes.append(node)
        return node

    def client(self, address: Address | None = None, kem: Kem | None = None,
               extra_roles: Iterable[Role] = (), timers: Timers | None = None) -> Node:  # fmt: skip
        """A node with circuits of its own only."""
        address = address or self.address()
        engine = Engine(network_id=self.network_id, rng=self.rng(), now=self.loop.time(), epoch=self.epoch, kem=kem,
                        directory=self.directory, limits=RelayLimits(private_addresses=True),
                        extra_roles=extra_roles, timers=timers)  # fmt: skip
        node = Node(self, address, engine, 0.0)
        self.nodes.append(node)
        return node

    async def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(seconds)

    @property
    def epoch(self) -> float:
        return self.loop.wall() - self.loop.time()

    def close(self) -> None:
        for node in self.nodes:
            node.close()
