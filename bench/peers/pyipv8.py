"""Nodes of py-ipv8's own tunnels, with its Python endpoint or with ipv8-rust-tunnels below.

For the load on a relay its circuits are put into its tables with session keys that the sender of the cells knows too:
what a relay does with a cell is the same, and a thousand circuits are there at once.
"""

import asyncio
import os
import secrets
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ipv8.keyvault.crypto import default_eccrypto
from ipv8.messaging.anonymization.community import TunnelCommunity, TunnelSettings
from ipv8.messaging.anonymization.tunnel import BACKWARD, FORWARD, PEER_FLAG_RELAY, Hop, RelayRoute
from ipv8.messaging.interfaces.udp.endpoint import UDPEndpoint, UDPv4Address
from ipv8.peer import Peer
from ipv8.peerdiscovery.network import Network
from ipv8_rust_tunnels import Endpoint as RustEndpoint
from ipv8_rust_tunnels import generate_session_keys

from bench.processes import Handlers
from bench.rate import rate
from bench.traffic import Load, blast, udp
from tunnels.ids import Address

PAYLOAD: Final = 1024
"""Bytes of application data in a cell, as in its own speed test."""

_MESSAGE: Final = 1 + 7 + 7 + PAYLOAD
"""A DATA message: its number, destination and origin, and the data."""

_CELL_HEAD: Final = struct.Struct("!BI??")
"""Message 0, circuit id, not in clear, not early."""

_SECRET: Final = 64
_RUST_THREADS: Final = 2
_FOREVER: Final = 1 << 60


class Kind(Enum):
    PYTHON = "py-ipv8, Python endpoint"
    RUST = "py-ipv8, ipv8-rust-tunnels"


@dataclass(frozen=True, slots=True)
class Route:
    """A circuit across a relay."""

    back: Address
    back_id: int
    onward: Address
    onward_id: int
    secret: bytes


def routes(ins: Sequence[Address], outs: Sequence[Address], circuits: int) -> list[Route]:
    """`circuits` circuits, every neighbour in to every neighbour out in turn."""
    return [
        Route(
            ins[number % len(ins)], 1 + 2 * number,
            outs[(number + number // len(ins)) % len(outs)], 2 + 2 * number,
            secrets.token_bytes(_SECRET),
        )
        for number in range(circuits)
    ]  # fmt: skip


async def community(kind: Kind, address: Address) -> TunnelCommunity:
    """A node at `address`."""
    host, port = address
    endpoint: Any
    if kind is Kind.RUST:
        endpoint = RustEndpoint(port, host, worker_threads=_RUST_THREADS)
        endpoint.open()
        while not endpoint.is_open():  # noqa: ASYNC110 (it says so in no other way)
            await asyncio.sleep(0.01)
    else:
        endpoint = UDPEndpoint(port=port, ip=host)
        await endpoint.open()
    peer = Peer(default_eccrypto.generate_key("curve25519"), UDPv4Address(host, port))
    settings = TunnelSettings(my_peer=peer, endpoint=endpoint, network=Network())
    settings.peer_flags = {PEER_FLAG_RELAY}
    settings.min_circuits = settings.max_circuits = 0
    settings.max_joined_circuits = 1 << 14
    settings.remove_tunnel_delay = 0
    settings.max_traffic = settings.max_time = settings.max_time_inactive = _FOREVER
    node = TunnelCommunity(settings)
    node.my_estimated_wan = node.my_estimated_lan = UDPv4Address(host, port)
    return node


async def relay(kind: Kind, address: Address, crossing: Sequence[Route]) -> Handlers:
    """A process: a relay with circuits across it."""
    node = await community(kind, address)
    key = default_eccrypto.generate_key("curve25519").pub()
    for route in crossing:
        keys = generate_session_keys(route.secret)
        node.relay_from_to[route.onward_id] = RelayRoute(
            route.back_id, Hop(Peer(key, UDPv4Address(*route.back)), keys), BACKWARD
        )
        node.relay_from_to[route.back_id] = RelayRoute(
            route.onward_id, Hop(Peer(key, UDPv4Address(*route.onward)), keys), FORWARD
        )
    return {}


def cell(prefix: bytes, route: Route) -> bytes:
    """A cell of two layers, of which the relay takes one off."""
    message = os.urandom(_MESSAGE)
    for keys in (generate_session_keys(secrets.token_bytes(_SECRET)), generate_session_keys(route.secret)):
        message = keys.encrypt_str(message, FORWARD)
    return prefix + _CELL_HEAD.pack(0, route.back_id, False, False) + message


CELL_SIZE: Final = len(cell(b"\x00\x02" + TunnelCommunity.community_id, Route(("", 0), 0, ("", 0), 0, bytes(_SECRET))))


async def sender(relay_at: Address, crossing: Sequence[Route], train: int) -> Handlers:
    """A process: one cell of each circuit, sent again and again (it has no replay window that would mind)."""
    prefix = b"\x00\x02" + TunnelCommunity.community_id
    sockets = {address: udp(address) for address in {route.back for route in crossing}}
    cells = [(sockets[route.back], cell(prefix, route)) for route in crossing]

    def send(rate: float, seconds: float) -> float:
        if train > 1:
            parts = [(sock, one * train) for sock, one in cells]
        else:
            parts = cells * max(1, int(rate * seconds) // len(cells))
            secrets.SystemRandom().shuffle(parts)
        return blast(Load(CELL_SIZE, relay_at, parts), rate, seconds)

    return {"prepare": lambda _rate, _seconds: None, "blast": send}


# --- Building circuits -------------------------------------------------------------------------

_PATIENCE: Final = 10.0
"""Seconds until meeting everybody is given up."""

_WALK: Final = 0.05

_STUCK: Final = 1.0
"""Seconds after which a circuit does not get any further: others take a fiftieth of that."""

_TRIES: Final = 30


async def hop(kind: Kind, address: Address, others: Sequence[Address]) -> Handlers:
    """A process: a node that lets circuits through and builds them, once it has met the others."""
    node = await community(kind, address)
    node.settings.max_circuits = 1 << 14

    async def meet() -> None:
        async with asyncio.timeout(_PATIENCE):
            while len(node.candidates) < len(others):
                for other in others:
                    node.walk_to(UDPv4Address(*other))
                await asyncio.sleep(_WALK)

    async def build(hops: int) -> float:
        """Seconds until a circuit of `hops` hops is open; it is removed again.

        A hop proposes four others to extend to.  When all of them are in the circuit already it gets no further: such
        a circuit does not count, and another one is tried.
        """
        for _ in range(_TRIES):
            began = time.perf_counter()
            circuit = node.create_circuit(hops, required_exit=secrets.choice(list(node.candidates)))
            if circuit is None:
                break
            done, _ = await asyncio.wait([circuit.ready], timeout=_STUCK)
            took = time.perf_counter() - began
            if circuit.circuit_id in node.circuits:
                await node.remove_circuit(circuit.circuit_id, remove_now=True, destroy=1)
            if done and circuit.ready.result():
                return took
        raise RuntimeError(f"py-ipv8 builds no circuit of {hops} hops")

    return {"meet": meet, "build": build, "rate": lambda hops, number: rate(build, hops, number)}
