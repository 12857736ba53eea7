"""IPv8's own loader, on real sockets of this machine, makes our class and fills its settings."""

import asyncio
from typing import Any

import pytest
from ipv8.configuration import ConfigBuilder
from ipv8_service import IPv8

from tests.tunnels.endpoint.loopback import run, until
from tunnels.community import TunnelCommunity, short_name
from tunnels.endpoint.batched import BatchedEndpoint
from tunnels.errors import LocalError
from tunnels.loading import OVERLAY, THROWAWAY_KEY, add_tunnels, tropea_communities, tunnels_of


def configured(ip: str = "127.1.0.1", port: int = 0) -> ConfigBuilder:
    """An IPv8 of an app, with nothing in it."""
    builder = ConfigBuilder().clear_keys().clear_overlays().set_log_level("ERROR")
    builder.config["interfaces"] = [{"interface": "UDPIPv4", "ip": ip, "port": port}]
    return builder


def loaded(builder: ConfigBuilder, **others: Any) -> IPv8:
    return IPv8(builder.finalize(), extra_communities=tropea_communities(), **others)


@pytest.fixture
def free_port() -> int:
    """Of 127.1.0.1."""

    async def main() -> int:
        endpoint = BatchedEndpoint(("127.1.0.1", 0))
        await endpoint.open()
        [(_, port)] = endpoint.addresses
        endpoint.close()
        return port

    return asyncio.run(main())


def test_ipv8_loads_our_class_with_its_settings_and_unloads_it_cleanly() -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        ipv8 = loaded(add_tunnels(configured(), hops=2, min_circuits=1, max_circuits=5, network_id="loaded"))
        await ipv8.start()
        [ours] = ipv8.overlays
        assert type(ours) is TunnelCommunity
        assert (type(ours).__module__, type(ours).__name__) == ("tunnels.community", "TunnelCommunity")
        assert tunnels_of(ipv8) is ours
        settings = ours.settings
        assert (settings.pool.min_circuits, settings.pool.max_circuits) == (1, 5)
        assert settings.network_id == b"loaded"
        assert ours.why_not_ready(2).startswith("no relay has answered yet")
        await ipv8.stop()
        assert not ours.get_tasks()
        assert not ipv8.endpoint.is_open()
        assert asyncio.all_tasks() == before

    run(main)


def test_under_ipv8s_own_name_it_would_be_ipv8s_own_class() -> None:
    """Why ours has another one."""

    async def main() -> None:
        builder = configured().add_ephemeral_key("key").add_overlay("TunnelCommunity", "key", [], [], {}, [])
        ipv8 = IPv8(builder.finalize(), extra_communities={"TunnelCommunity": TunnelCommunity})
        [theirs] = ipv8.overlays
        assert type(theirs).__module__ == "ipv8.messaging.anonymization.community"
        await ipv8.stop()

    run(main)


def test_no_name_is_one_that_ipv8_gives_to_a_class_of_its_own() -> None:
    async def main() -> None:
        for name in tropea_communities():
            builder = configured().add_ephemeral_key("key").add_overlay(name, "key", [], [], {}, [])
            with pytest.raises(RuntimeError, match="no associated Community"):
                IPv8(builder.finalize())

    run(main)


def test_a_client_has_a_new_key_at_each_start_and_a_relay_the_one_it_names() -> None:
    async def main() -> None:
        one, other = loaded(add_tunnels(configured())), loaded(add_tunnels(configured()))
        assert one.keys[THROWAWAY_KEY] != other.keys[THROWAWAY_KEY]
        relay = loaded(
            add_tunnels(configured().add_ephemeral_key("mine"), key_alias="mine", relay_addresses=[("127.1.0.1", 8090)])
        )
        assert relay.overlays[0].my_peer == relay.keys["mine"]
        assert list(relay.keys) == ["mine"]
        for ipv8 in (one, other, relay):
            await ipv8.stop()

    run(main)


def test_a_relay_without_a_key_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="key_alias must name a key"):
        add_tunnels(configured(), relay_addresses=[("127.1.0.1", 8090)])


def test_what_the_app_configured_stays_and_ours_asks_ipv8_for_no_walker_and_no_bootstrapper() -> None:
    builder = add_tunnels(
        configured().add_ephemeral_key("app").add_overlay("DiscoveryCommunity", "app", [], [], {}, [])
    )
    theirs, ours = builder.finalize()["overlays"]
    assert theirs["class"] == "DiscoveryCommunity"
    assert ours == {
        "class": OVERLAY, "key": THROWAWAY_KEY, "walkers": [], "bootstrappers": [], "initialize": {}, "on_start": [],
    }  # fmt: skip


def test_who_asks_for_tunnels_that_were_not_configured_is_told_so() -> None:
    async def main() -> None:
        ipv8 = loaded(configured())
        with pytest.raises(LocalError, match="call add_tunnels"):
            tunnels_of(ipv8)

    run(main)


def test_a_wrong_setting_is_named() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="max_circuit is not a tunnel setting"):
            loaded(add_tunnels(configured(), max_circuit=1))

    run(main)


def test_one_that_is_loaded_long_before_ipv8_opens_its_endpoint_finds_its_bootstrap_address(free_port: int) -> None:
    async def main() -> None:
        here = ("127.1.0.1", free_port)
        relay = loaded(
            add_tunnels(
                configured(*here).add_ephemeral_key("mine"), key_alias="mine", relay_addresses=[here],
                private_addresses=True,
            )
        )  # fmt: skip
        await relay.start()
        client = loaded(add_tunnels(configured("127.2.0.1"), bootstrap=[here], private_addresses=True))
        ours, theirs = tunnels_of(client), tunnels_of(relay)
        assert theirs.relay_id is not None
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # its first look round comes, and finds the endpoint closed
        await client.start()
        await until(lambda: len(ours.network_status().sources))
        assert ours.network_status().sources == (short_name(theirs.relay_id),)
        for ipv8 in (client, relay):
            await ipv8.stop()

    run(main)
