"""Everything on all links during whole lives of nodes, for whoever reads along.

Handshakes with and without cookies, circuits of one to six hops, datagrams of all sizes, pings, failed builds, a relay
that dies, a client that moves, renewed sessions, closes.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import pytest

from sim.network import Datagram
from tests.support.nodes import Node, RelayNode, World
from tunnels.circuit.origin import OriginCircuit
from tunnels.crypto.kem import DecapsulationKey
from tunnels.crypto.rng import StreamRng
from tunnels.ids import CloseReason, RelayId
from tunnels.link import links as links_module
from tunnels.params import KEM_CIPHERTEXT_SIZE, KEM_PUBLIC_SIZE, UNDER_LOAD_INITIATIONS
from tunnels.path.directory import RelayInfo

DESTINATION: Final = "198.51.100.77"
HOST: Final = "where-the-client-goes.example"
SENT: Final = b"what the client says, over and over. "


class _Key:
    def __init__(self, ek: bytes) -> None:
        self._ek = ek

    def decapsulate(self, ct: bytes) -> bytes:
        return hashlib.sha256(self._ek + ct).digest()


class DrawnKem:
    """Looks like ML-KEM-768 on the wire, repeats itself from a seed, and protects nothing: no secret is tested here."""

    def __init__(self, rng: StreamRng) -> None:
        self._rng = rng
        self.made: list[bytes] = []

    def keypair(self) -> tuple[bytes, DecapsulationKey]:
        self.made.append(self._rng.bytes(KEM_PUBLIC_SIZE))
        return self.made[-1], _Key(self.made[-1])

    def encapsulate(self, ek: bytes) -> tuple[bytes, bytes]:
        self.made.append(self._rng.bytes(KEM_CIPHERTEXT_SIZE))
        return self.made[-1], _Key(ek).decapsulate(self.made[-1])


@dataclass(frozen=True, slots=True)
class Capture:
    """What was seen, and the nodes it was seen of."""

    datagrams: list[Datagram]
    world: World
    relays: list[RelayNode]
    clients: list[Node]
    circuits: list[OriginCircuit]
    kem: DrawnKem


async def whole_lives(monkeypatch: pytest.MonkeyPatch, look: Callable[[World], None] = lambda world: None) -> Capture:
    """Live, and let `look` see the nodes again and again, so that what comes and goes is noticed."""
    monkeypatch.setattr(links_module, "REKEY_AFTER_TIME", 30.0)
    world = World(seed=45, network_id=b"a network id to look for")
    kem = DrawnKem(world.rng())
    seen: list[Datagram] = []
    world.network.tap(seen.append)
    relays = [world.relay(exits=True, exit_single_hop=True, kem=kem, turn=0.02) for _ in range(6)]
    clients = [world.client(kem=kem) for _ in range(2)]
    circuits: list[OriginCircuit] = []

    async def pass_time(seconds: float) -> None:
        for _ in range(10):
            await world.sleep(seconds / 10)
            look(world)

    for hops, client in ((1, clients[0]), (6, clients[0]), (3, clients[1])):
        circuits.append(await client.build(relays[-hops:]))
        await pass_time(1)
    for size in (0, 1, 100, 1208, 1209, 5000):
        for client, circuit in zip((clients[0], clients[0], clients[1]), circuits, strict=True):
            client.send(circuit, (SENT * 140)[:size], DESTINATION)
            client.send(circuit, (SENT * 140)[:size], HOST)
        await pass_time(1)
    nowhere = RelayInfo(RelayId(b"n" * 32), relays[0].info.onion_key, relays[1].info.onion_key, (("127.99.0.1", 1),))
    for path in ([nowhere], [relays[0].info, nowhere]):
        clients[1].start(path)
    crowd = [world.client(kem=kem) for _ in range(UNDER_LOAD_INITIATIONS + 8)]
    for each in crowd:
        each.start([relays[1]])
    await pass_time(4)
    for each in crowd:
        each.close()
    await pass_time(8)
    world.network.move(clients[0].address, ("127.77.0.1", 7777))
    await pass_time(60)
    world.network.unplug(relays[4].address)
    await pass_time(30)
    circuits[0].close(CloseReason.REQUESTED, clients[0].driver.now())
    clients[0].driver.wake()
    await pass_time(5)
    world.close()
    await pass_time(1)
    return Capture(seen, world, relays, clients, circuits, kem)


def windows(data: bytes, size: int) -> Iterable[bytes]:
    return (data[at : at + size] for at in range(len(data) - size + 1))
