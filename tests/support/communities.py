"""Whole communities on the virtual network, with an outside that exits can reach, for tests of what applications see.

async def main() -> None:
    world = Communities()
    await world.relays(4, exits=2)
    client = await world.client()
    client.build_tunnels(3)
    await world.until(lambda: client.active_data_circuits(3))
    ...
    await world.close()
"""

import asyncio
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ipv8.keyvault.crypto import default_eccrypto
from ipv8.peer import Peer
from ipv8.peerdiscovery.network import Network

from sim.endpoint import VirtualEndpoint
from sim.loop import running
from sim.network import Pipe, VirtualNetwork
from tunnels.community import TunnelCommunity
from tunnels.crypto.rng import StreamRng
from tunnels.exit.dns import UnresolvedError
from tunnels.exit.policy import IPAddress
from tunnels.exit.udp import Receive
from tunnels.ids import Address
from tunnels.path.directory import RelayInfo
from tunnels.settings import TunnelSettings
from tunnels.surroundings import Surroundings

PATIENCE: Final = 120.0
"""Virtual seconds after which what a test waits for will never come."""


@dataclass
class Outside:
    """The world behind the exits: every address answers with what it was sent, reversed, after 10 ms."""

    names: dict[str, str] = field(default_factory=lambda: {"echo.example": "9.9.9.9"})
    heard: list[tuple[Address, bytes]] = field(default_factory=list)
    open: int = 0

    def port(self, source: str, receive: Receive) -> "OutsidePort":
        self.open += 1
        return OutsidePort(self, receive)

    async def resolve(self, name: str) -> list[IPAddress]:
        await asyncio.sleep(0.05)
        if name not in self.names:
            raise UnresolvedError("no such host", retry_after=60)
        return [ipaddress.ip_address(self.names[name])]


@dataclass
class OutsidePort:
    outside: Outside
    receive: Receive
    closed: bool = False

    def send(self, data: bytes, receiver: Address) -> None:
        self.outside.heard.append((receiver, data))
        running().call_later(0.01, self._answer, data[::-1], receiver)

    def _answer(self, data: bytes, sender: Address) -> None:
        if not self.closed:
            self.receive(data, sender)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.outside.open -= 1


class Communities:
    """Communities at 127.N.0.1 on one virtual network; all relays know all relays, and clients those made before."""

    def __init__(self, *, delay: float = 0.01, loss: float = 0.0, seed: int = 0) -> None:
        self._rng = StreamRng(seed.to_bytes(32))
        self.network = VirtualNetwork(running(), self.rng(), lambda _from, _to: [Pipe(delay=delay, loss=loss)])
        self.outside = Outside()
        self.all: list[TunnelCommunity] = []
        self.complaints: list[dict[str, Any]] = []
        running().set_exception_handler(lambda _, context: self.complaints.append(context))

    def rng(self) -> StreamRng:
        return StreamRng(self._rng.bytes(32))

    @property
    def infos(self) -> list[RelayInfo]:
        return [community.relay_info for community in self.all if community.relay_info is not None]

    async def relay(self, policy: str = "", **fields: Any) -> TunnelCommunity:
        """One more relay; an exit when it has a policy."""
        address = self._address()
        relay = await self.community(
            address,
            **{
                "relay_addresses": (address,),
                "become_exitnode": bool(policy),
                "exit_policy": policy or "reject *:*",
                **fields,
            },
        )
        for one in self.all:
            for info in self.infos:
                if one.relay_info is not None and one.community_id == relay.community_id:
                    one.add_relay(info)
        return relay

    async def relays(self, number: int, *, exits: int, **fields: Any) -> list[TunnelCommunity]:
        """`number` relays, the last `exits` of which let everything out."""
        return [await self.relay("accept *:*" if number - n <= exits else "", **fields) for n in range(number)]

    async def client(self, **fields: Any) -> TunnelCommunity:
        return await self.community(self._address(), **{"relays": self.infos, **fields})

    async def newcomer(
        self, *bootstrap: Address, relay: bool = False, policy: str = "", **fields: Any
    ) -> TunnelCommunity:
        """Somebody who knows these addresses, and nobody else."""
        address = self._address()
        role = {"relay_addresses": (address,), "become_exitnode": bool(policy), "exit_policy": policy or "reject *:*"}
        return await self.community(
            address,
            **{"bootstrap": bootstrap, "min_relay_age": 0.0, "guard_min_age": 0.0, **(role if relay else {}), **fields},
        )

    async def community(self, *binds: Address, key: str = "curve25519", **fields: Any) -> TunnelCommunity:
        endpoint = VirtualEndpoint(self.network, *binds)
        around = Surroundings(rng=self.rng(), wall=running().wall, open_port=self.outside.port, resolver=self.outside)
        settings = TunnelSettings(
            my_peer=Peer(default_eccrypto.generate_key(key), binds[0]), endpoint=endpoint, network=Network(),
            **{"private_addresses": True, "surroundings": around, **fields},
        )  # fmt: skip
        community = TunnelCommunity(settings)
        await endpoint.open()
        self.all.append(community)
        return community

    def _address(self) -> Address:
        return f"127.{len(self.all) + 1}.0.1", 8000

    def at(self, info: RelayInfo) -> TunnelCommunity:
        return next(community for community in self.all if community.relay_id == info.relay_id)

    def endpoint(self, community: TunnelCommunity) -> VirtualEndpoint:
        assert isinstance(community.endpoint, VirtualEndpoint)
        return community.endpoint

    def vanish(self, info: RelayInfo) -> None:
        """Nothing is heard of a relay any more, not even a farewell."""
        self.network.unplug(info.addresses[0])

    async def until(self, condition: Callable[[], object], patience: float = PATIENCE) -> None:
        """Let virtual time pass until `condition` holds."""
        async with asyncio.timeout(patience):
            while not condition():  # noqa: ASYNC110 (any condition, most of them about what no event tells)
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Unload everything; nothing may be left of it, and nothing may have been raised into the loop."""
        for community in self.all:
            await community.unload()
            community.endpoint.close()
        assert self.outside.open == 0
        assert self.complaints == []
