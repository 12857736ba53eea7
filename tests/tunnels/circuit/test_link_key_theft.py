"""SPEC 7.2: a descriptor can name somebody else's link key.  Its owner stays within reach all the same."""

import dataclasses

from sim.loop import run
from tests.support.nodes import World
from tunnels.path.directory import relay_id_of


def test_a_relay_whose_link_key_a_thief_claims_first_is_still_reached() -> None:
    async def main() -> None:
        world = World()
        first, victim, client = world.relay(), world.relay(exits=True), world.client()
        nowhere = ("127.200.0.1", 9)
        thief = dataclasses.replace(victim.info, relay_id=relay_id_of(b"thief"), addresses=(nowhere,))
        world.directory.remove(victim.info.relay_id)
        world.directory.add(thief)
        world.directory.add(victim.info)
        stolen = client.start([first, thief])
        await world.sleep(1)  # the first hop is looking for the thief, under the victim's key
        circuit = await client.build([first, victim])
        client.send(circuit, b"there")
        await world.sleep(1)
        assert client.received() == [b"ereht"]
        await world.sleep(30)
        assert stolen.closed_because is not None
        world.close()

    run(main())
