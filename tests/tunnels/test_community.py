"""The facade on the virtual network: what applications are told of circuits, and what a node says of itself."""

import asyncio

from ipv8.keyvault.crypto import default_eccrypto
from ipv8.peer import Peer
from ipv8.peerdiscovery.network import Network

from sim.endpoint import VirtualEndpoint
from sim.loop import run, running
from sim.network import Pipe, VirtualNetwork
from tunnels.circuit.origin import OriginCircuit
from tunnels.community import TunnelCommunity
from tunnels.crypto.rng import StreamRng
from tunnels.ids import Address, CloseReason
from tunnels.path.directory import RelayInfo
from tunnels.settings import TunnelSettings


class Overlay:
    """Communities at 127.N.0.1 on one virtual network."""

    def __init__(self) -> None:
        loop = running()
        self.network = VirtualNetwork(loop, StreamRng(bytes(32)), lambda _source, _destination: [Pipe(delay=0.01)])
        self.relays: list[TunnelCommunity] = []
        self._made: list[tuple[TunnelCommunity, VirtualEndpoint]] = []

    async def relay(self, policy: str = "") -> TunnelCommunity:
        address = (f"127.{len(self.relays) + 1}.0.1", 8000)
        relay = await self._community(
            address, relay_addresses=(address,), become_exitnode=bool(policy), exit_policy=policy or "reject *:*",
            nameservers=(),
        )  # fmt: skip
        self.relays.append(relay)
        return relay

    async def client(self, **fields: object) -> TunnelCommunity:
        infos = [info for relay in self.relays if (info := relay.relay_info) is not None]
        for relay in self.relays:
            for info in infos:
                relay.directory.add(info)
        return await self._community(("127.99.0.1", 8000), relays=infos, **fields)

    async def _community(self, address: Address, **fields: object) -> TunnelCommunity:
        endpoint = VirtualEndpoint(self.network, address)
        peer = Peer(default_eccrypto.generate_key("curve25519"), address)
        community = TunnelCommunity(
            TunnelSettings(my_peer=peer, endpoint=endpoint, network=Network(), private_addresses=True, **fields)
        )
        await endpoint.open()
        self._made.append((community, endpoint))
        return community

    def vanish(self, relay: RelayInfo) -> None:
        """Nothing is heard of `relay` any more, not even a farewell."""
        self._made[self.relays.index(next(r for r in self.relays if r.relay_id == relay.relay_id))][1].close()

    async def close(self) -> None:
        for community, endpoint in self._made:
            await community.unload()
            endpoint.close()


async def three_hops(overlay: Overlay) -> None:
    for policy in ("", "", "accept *:53, reject *:*"):
        await overlay.relay(policy)


def test_an_application_is_told_of_every_circuit_that_opens_and_ends() -> None:
    async def main() -> None:
        overlay = Overlay()
        await three_hops(overlay)
        client = await overlay.client(min_circuits=1)
        told: list[tuple[str, OriginCircuit]] = []
        client.on_circuit_opened(lambda circuit: told.append(("opened", circuit)))
        client.on_circuit_closed(lambda circuit, reason: told.append((reason.value, circuit)))
        client.build_tunnels(3)
        await asyncio.sleep(2)
        [first] = client.active_data_circuits(3)
        assert told == [("opened", first)]
        client.remove_circuit(first)
        await asyncio.sleep(2)
        [second] = client.active_data_circuits(3)
        assert told == [("opened", first), ("requested", first), ("opened", second)]
        await overlay.close()

    run(main())


def test_a_circuit_that_lost_a_relay_says_which() -> None:
    async def main() -> None:
        overlay = Overlay()
        await three_hops(overlay)
        client = await overlay.client(min_circuits=1)
        client.build_tunnels(3)
        await asyncio.sleep(2)
        [circuit] = client.active_data_circuits(3)
        ended: list[CloseReason] = []
        client.on_circuit_closed(lambda closed, reason: ended.append(reason) if closed is circuit else None)
        middle = circuit.path[1]
        overlay.vanish(middle)
        await asyncio.sleep(30)
        assert ended == [CloseReason.TRUNCATED]
        assert circuit.culprit is not None
        assert circuit.path[circuit.culprit] == middle
        await overlay.close()

    run(main())


def test_statistics_count_the_cells_of_others_and_keep_them_when_their_circuit_ends() -> None:
    async def main() -> None:
        overlay = Overlay()
        await three_hops(overlay)
        client = await overlay.client(min_circuits=1, max_circuits=1)
        assert [relay.statistics().cells_relayed for relay in overlay.relays] == [0, 0, 0]
        client.build_tunnels(3)
        await asyncio.sleep(2)
        [circuit] = client.active_data_circuits(3)
        before = [relay.statistics() for relay in overlay.relays]
        assert [each.joined_circuits for each in before] == [1, 1, 1]
        for _ in range(10):
            assert client.tunnel_data(circuit, ("127.53.0.1", 99), "data", b"no exit lets this out")
        await asyncio.sleep(1)
        during = [relay.statistics().cells_relayed for relay in overlay.relays]
        assert all(now - then.cells_relayed >= 10 for now, then in zip(during, before, strict=True))
        assert client.statistics().circuits == 1
        assert client.statistics().cells_relayed == 0
        await client.unload()
        await asyncio.sleep(5)
        after = [relay.statistics() for relay in overlay.relays]
        assert [each.joined_circuits for each in after] == [0, 0, 0]
        assert all(now.cells_relayed >= then for now, then in zip(after, during, strict=True))
        assert all(sum(each.closed.values()) == 1 for each in after)
        await overlay.close()

    run(main())
