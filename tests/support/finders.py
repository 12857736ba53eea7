"""Nodes that find each other's descriptors, without IPv8: engines and Discovery on the virtual network.

async def main() -> None:
    world = Finders()
    first, second = world.relay(), world.relay()
    world.introduce(second, first)
    await world.sleep(3)
    assert second.info.relay_id in first.discovery.known
"""

from collections.abc import Sequence
from typing import Any, Final

from tests.support.nodes import Node, World
from tests.support.relays import identity_of, signature_of, verify
from tunnels.circuit.core import Event
from tunnels.circuit.limits import RelayLimits
from tunnels.crypto.onion_keys import OnionKeys
from tunnels.crypto.x25519 import KeyPair
from tunnels.discovery import Discovery, Own, Rules
from tunnels.engine import Engine
from tunnels.exit.policy import ExitPolicy
from tunnels.ids import Address, RelayId
from tunnels.path.descriptor import Capability, RelayDescriptor, Verify
from tunnels.path.directory import Directory, RelayInfo, relay_id_of
from tunnels.timers import Timers

RULES: Final = Rules(min_relays=3, min_age=0.0, min_sources=2, distinct_networks=True)


class Finder(Node):
    """One of them."""

    def __init__(self, world: World, address: Address, engine: Engine, discovery: Discovery, identity: bytes) -> None:
        self.discovery = discovery
        self.identity = identity
        super().__init__(world, address, engine, 0.0)

    def _on_event(self, event: Event) -> None:
        super()._on_event(event)
        self.happened.clear()  # hours of rounds are many events
        self.discovery.on_event(event, self.driver.now())

    @property
    def relay_id(self) -> RelayId:
        return relay_id_of(self.identity)

    @property
    def described(self) -> bytes:
        described = self.discovery.own_descriptor(self.driver.now())
        assert described is not None
        return described

    def knows(self, *others: "Finder") -> bool:
        return all(other.relay_id in self.discovery.known for other in others)


class Finders(World):
    def finder(self, *, relay: bool = True, address: Address | None = None, rules: Rules = RULES,
               says: Sequence[Address] = (), exits: bool = False, configured: Sequence[RelayInfo] = (),
               verify: Verify = verify, after: float = 0.0, bootstrap: Sequence[Address] = ()) -> Finder:  # fmt: skip
        """A node with a directory of its own.

        Args:
            says: the addresses it claims; its own when empty.
            after: seconds until it looks for others.
        """
        rng, address, now = self.rng(), address or self.address(), self.loop.time()
        identity = identity_of(f"finder {len(self.nodes)}")
        link_key, timers = KeyPair.generate(rng), Timers()
        policy = ExitPolicy.parse("accept *:*") if exits else ExitPolicy.REJECT_ALL
        capabilities = Capability.DIRECTORY | (Capability.EXIT if exits else Capability(0))
        own = Own(identity, lambda text: signature_of(identity, text), link_key.public, policy, capabilities,
                  tuple(says) or (address,), 1024, ())  # fmt: skip
        discovery = Discovery(
            network_id=self.network_id, verify=verify, rules=rules, own=own if relay else None, configured=configured,
            timers=timers, epoch=self.epoch,
            bootstrap=bootstrap,
        )  # fmt: skip
        keys: dict[str, Any] = {}
        if relay:
            onion_keys = OnionKeys.generate(self.loop.wall(), rng)
            keys = {"link_key": link_key, "relay_id": relay_id_of(identity), "onion_keys": onion_keys}
        engine = Engine(
            network_id=self.network_id, rng=rng, now=now, epoch=self.epoch, directory=Directory(configured),
            limits=RelayLimits(max_joined_circuits=10_000, exits=exits, private_addresses=True), timers=timers,
            extra_roles=discovery.roles(), **keys,
        )  # fmt: skip
        node = Finder(self, address, engine, discovery, identity)
        self.nodes.append(node)
        discovery.begin(engine, now + after)
        node.driver.wake()
        return node

    def introduce(self, one: Finder, *others: Finder) -> None:
        """`others` get an IPv8 introduction from `one`."""
        for other in others:
            self.tell(other, one.described, one.identity)

    def tell(self, to: Finder, descriptor: bytes, identity: bytes) -> bool:
        heard = to.discovery.introduced(descriptor, identity, to.driver.now())
        to.driver.wake()
        return heard

    def acquaint(self, *nodes: Finder) -> None:
        """Let these relays know each other already, as if they had been here for long."""
        for one in nodes:
            descriptor = RelayDescriptor.decode(one.described)
            for other in nodes:
                other.discovery.known.add(descriptor)
                if other is not one:
                    other.core.directory.add(descriptor.info)
