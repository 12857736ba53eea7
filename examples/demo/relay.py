"""A relay of the demo: what it takes to run one."""

from ipv8.keyvault.crypto import default_eccrypto
from ipv8.peer import Peer
from ipv8.peerdiscovery.network import Network

from examples.demo.child import Launcher, run
from tunnels.community import TunnelCommunity
from tunnels.endpoint.batched import BatchedEndpoint
from tunnels.settings import TunnelSettings


async def main(launcher: Launcher) -> None:
    start = await launcher.order()
    endpoint = BatchedEndpoint((start["host"], 0))
    await endpoint.open()
    relay = TunnelCommunity(
        TunnelSettings(
            my_peer=Peer(default_eccrypto.generate_key("curve25519")),
            endpoint=endpoint,
            network=Network(),
            bootstrap=[tuple(address) for address in start["bootstrap"]],  # one address is enough, and any relay serves
            relay_addresses=endpoint.addresses,
            become_exitnode=start["exit_policy"] is not None,
            exit_policy=start["exit_policy"] or "reject *:*",
            exit_single_hop=True,  # so that the demo can show a circuit of one hop; no relay for strangers sets this
            exit_private=True,  # the DNS server is on this machine
            private_addresses=True,  # and so are the other relays
        )
    )
    try:
        assert relay.relay_info is not None
        launcher.report("relay", info=relay.relay_info.to_dict())
        async for order in launcher.orders():
            if order["kind"] == "whom":
                launcher.report("knows", relays=relay.network_status().relays_known)
            else:
                numbers = relay.statistics()
                launcher.report("account", circuits=numbers.joined_circuits, cells=numbers.cells_relayed)
    finally:
        await relay.unload()
        endpoint.close()


if __name__ == "__main__":
    run(main)
