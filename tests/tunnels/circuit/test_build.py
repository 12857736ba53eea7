"""SPEC 7: circuits of every length are built, carry datagrams both ways, and end everywhere when they end."""

import pytest

from sim.loop import run
from tests.support.nodes import World
from tunnels.circuit.origin import State
from tunnels.ids import CloseReason


@pytest.mark.parametrize("hops", range(1, 7))
def test_a_circuit_of_any_length_carries_datagrams_of_any_size_both_ways(hops: int) -> None:
    async def main() -> None:
        world = World()
        relays = [world.relay(exits=True, exit_single_hop=True) for _ in range(hops)]
        client = world.client()
        circuit = await client.build(relays)
        sent = [bytes(max(n - 1, 0)) + b"x" * (n > 0) for n in (0, 1, 100, 1200, 1201, 5000)]
        for data in sent:
            client.send(circuit, data)
            await world.sleep(1)
        assert client.received() == [data[::-1] for data in sent]
        assert not any(node.core.drops for node in world.nodes)
        world.close()

    run(main())


def test_closing_at_the_originator_ends_the_circuit_at_every_hop() -> None:
    async def main() -> None:
        world = World()
        relays = [world.relay() for _ in range(3)]
        client = world.client()
        circuit = await client.build(relays)
        assert [len(relay.core.joined) for relay in relays] == [1, 1, 1]
        circuit.close(CloseReason.REQUESTED, client.driver.now())
        client.driver.wake()
        await world.sleep(5)
        assert circuit.state is State.CLOSED
        assert [len(relay.core.joined) for relay in relays] == [0, 0, 0]
        assert not any(link.circuits or link.outgoing for node in world.nodes for link in node.core.links)
        world.close()

    run(main())
