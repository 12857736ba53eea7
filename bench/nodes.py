"""Nodes of ours in processes of their own, as an application would run them: engine, driver and a port on loopback."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from tunnels.circuit.core import CircuitClosed, CircuitOpened, Event
from tunnels.circuit.limits import RelayLimits
from tunnels.circuit.origin import OriginCircuit
from tunnels.crypto.onion_keys import OnionKeys
from tunnels.crypto.rng import SystemRng
from tunnels.crypto.x25519 import KeyPair
from tunnels.driver import Driver
from tunnels.endpoint.face import CellPort
from tunnels.engine import Engine
from tunnels.ids import Address
from tunnels.params import KEY_SIZE
from tunnels.path.directory import Directory, RelayInfo, relay_id_of

_NETWORK: Final = b"bench"

_LIMITS: Final = RelayLimits(max_joined_circuits=1 << 14, max_traffic=1 << 50, private_addresses=True)


def _ignore(_event: Event) -> None:
    pass


def relay(address: Address, port: CellPort, known: Sequence[RelayInfo]) -> tuple[RelayInfo, Driver]:
    """A relay at `address` that can extend circuits to those it knows."""
    rng, now, wall = SystemRng(), asyncio.get_running_loop().time(), time.time()
    link_key, onion_keys = KeyPair.generate(rng), OnionKeys.generate(wall, rng)
    info = RelayInfo(relay_id_of(rng.bytes(KEY_SIZE)), link_key.public, onion_keys.public, (address,))
    directory = Directory()
    for other in known:
        directory.add(other)
    engine = Engine(network_id=_NETWORK, rng=rng, now=now, epoch=wall - now, directory=directory, link_key=link_key,
                    relay_id=info.relay_id, onion_keys=onion_keys, limits=_LIMITS)  # fmt: skip
    return info, Driver(engine, port, _ignore)


class Client:
    """A node with circuits of its own only."""

    def __init__(self, port: CellPort) -> None:
        now = asyncio.get_running_loop().time()
        self.engine: Final = Engine(network_id=_NETWORK, rng=SystemRng(), now=now, epoch=time.time() - now,
                                    directory=Directory(), limits=_LIMITS)  # fmt: skip
        self._waiting: dict[OriginCircuit, asyncio.Future[OriginCircuit]] = {}
        self.driver: Final = Driver(self.engine, port, self._on_event)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, CircuitOpened | CircuitClosed) and (future := self._waiting.pop(event.circuit, None)):
            if isinstance(event, CircuitOpened):
                future.set_result(event.circuit)
            else:
                future.set_exception(ConnectionError(event.reason.value))

    async def build(self, path: Sequence[RelayInfo]) -> OriginCircuit:
        """An open circuit.

        Raises:
            ConnectionError: it was closed instead.
        """
        circuit = self.engine.create_circuit(path, self.driver.now())
        opened: asyncio.Future[OriginCircuit] = asyncio.get_running_loop().create_future()
        self._waiting[circuit] = opened
        self.driver.wake()
        return await opened
