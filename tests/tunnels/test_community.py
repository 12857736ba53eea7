"""The facade on the virtual network: what an application may do, and what it is told."""

import asyncio
import logging
import re
from typing import Any

import pytest
from ipv8.configuration import ConfigBuilder, Strategy, WalkerDefinition
from ipv8_service import IPv8

from sim.endpoint import VirtualEndpoint
from sim.loop import run
from tests.support.communities import Communities
from tunnels.circuit.origin import OriginCircuit, State
from tunnels.community import NetworkStatus, TunnelCommunity, community_id_for, short_name
from tunnels.errors import CircuitClosedError, EndpointError, LocalError
from tunnels.ids import Address, CloseReason
from tunnels.params import BUILD_BACKOFF, MAX_DATAGRAM_SIZE
from tunnels.path.directory import RelayInfo
from tunnels.path.guards import Guards
from tunnels.settings import TunnelSettings
from tunnels.store import MemoryStore

ECHO: Address = ("9.9.9.9", 53)


async def ready(world: Communities, hops: int = 3, **fields: Any) -> tuple[TunnelCommunity, OriginCircuit]:
    """A client with a circuit over five relays, two of them exits."""
    await world.relays(5, exits=2, **({"exit_single_hop": True} if hops == 1 else {}))
    client = await world.client(**fields)
    client.build_tunnels(hops)
    await world.until(lambda: client.active_data_circuits(hops))
    return client, client.active_data_circuits(hops)[0]


class Inbox:
    """Everything a client is told, in order."""

    def __init__(self, client: TunnelCommunity) -> None:
        self.data: list[tuple[OriginCircuit, Address, bytes]] = []
        self.rejected: list[tuple[OriginCircuit, Address, str]] = []
        self.closed: list[tuple[OriginCircuit, CloseReason]] = []
        self.opened: list[OriginCircuit] = []
        client.on_data(lambda *told: self.data.append(told))
        client.on_rejected(lambda *told: self.rejected.append(told))
        client.on_circuit_closed(lambda *told: self.closed.append(told))
        client.on_circuit_opened(self.opened.append)


# --- Circuits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hops", range(1, 6))
def test_build_tunnels_keeps_circuits_of_that_many_hops_and_no_others(hops: int) -> None:
    async def main() -> None:
        world = Communities()
        client, _ = await ready(world, hops)
        await world.until(lambda: client.tunnels_ready(hops) == 1.0)
        assert [circuit.hops for circuit in client.active_data_circuits()] == [hops, hops]
        assert client.tunnels_ready() == 1.0
        assert client.why_not_ready() == client.why_not_ready(hops) == ""
        for circuit in client.active_data_circuits():
            assert circuit.path[-1].is_exit
            assert len({hop.relay_id for hop in circuit.path}) == hops
        await world.close()

    run(main())


def test_hop_counts_are_kept_apart_and_counted_together_where_none_is_named() -> None:
    async def main() -> None:
        world = Communities()
        client, _ = await ready(world, 3, min_circuits=1)
        client.build_tunnels(2)
        client.build_tunnels(2)
        assert client.tunnels_ready(2) == 0.0
        await world.until(lambda: client.tunnels_ready(2))
        assert (client.tunnels_ready(3), client.tunnels_ready(2), client.tunnels_ready(4)) == (1.0, 1.0, 0.0)
        assert client.tunnels_ready() == 2.0
        assert sorted(circuit.hops for circuit in client.active_data_circuits()) == [2, 3]
        assert client.why_not_ready(4) == "call build_tunnels(4) first"
        await world.close()

    run(main())


def test_tunnels_ready_is_not_capped_because_one_circuit_more_than_is_used_is_ready() -> None:
    async def main() -> None:
        world = Communities()
        client, circuit = await ready(world, min_circuits=1)
        client.tunnel_data(circuit, ECHO, "data", b"in use")
        await world.until(lambda: client.tunnels_ready(3) == 2.0)
        await asyncio.sleep(60)
        assert client.tunnels_ready(3) == 2.0
        await world.until(lambda: client.tunnels_ready(3) == 1.0)
        assert client.active_data_circuits() == [circuit]
        await world.close()

    run(main())


@pytest.mark.parametrize("hops", [0, 7, -1, "3", 2.0, True, None])
def test_a_wrong_number_of_hops_is_a_value_error_and_changes_nothing(hops: Any) -> None:
    async def main() -> None:
        world = Communities()
        client = await world.client()
        with pytest.raises(ValueError, match=r"^hops is .*; it must be 1 to 6$"):
            client.build_tunnels(hops)
        assert client.why_not_ready() == "call build_tunnels(3) first"
        await world.close()

    run(main())


def test_before_build_tunnels_and_without_relays_nothing_is_ready_and_the_reason_can_be_read() -> None:
    async def main() -> None:
        world = Communities()
        client = await world.client()
        assert client.tunnels_ready() == client.tunnels_ready(3) == 0.0
        assert client.why_not_ready() == client.why_not_ready(3) == "call build_tunnels(3) first"
        client.build_tunnels(3)
        assert client.tunnels_ready() == 0.0
        assert client.why_not_ready().startswith(
            "no relay has answered yet: set bootstrap to the address of one; the next try is in"
        )
        await world.relays(2, exits=1)
        for info in world.infos:
            client.add_relay(info)
        await asyncio.sleep(6)
        assert client.why_not_ready().startswith("0 of 3 hops: only 2 relays are known")
        client.add_relay((await world.relay()).relay_info)  # type: ignore[arg-type]
        await world.until(client.tunnels_ready)
        assert client.why_not_ready() == ""
        await world.close()

    run(main())


def test_a_guard_is_stored_before_the_application_hears_of_its_first_circuit() -> None:
    async def main() -> None:
        world = Communities()
        await world.relays(6, exits=2)
        store = MemoryStore()
        client = await world.client(store=store)
        kept: list[bool] = []
        met: set[RelayInfo] = set()

        def look(circuit: OriginCircuit) -> None:
            guards = Guards.from_bytes(store.load("guards") or b"")
            kept.append(circuit.path[0].relay_id in guards.confirmed)
            met.add(circuit.path[0])

        client.on_circuit_opened(look)
        client.build_tunnels(3)
        await client.wait_for_circuit(3)
        world.vanish(client.active_data_circuits(3)[0].path[0])
        await world.until(lambda: len(met) > 1)
        assert all(kept)
        await world.close()

    run(main())


def test_who_waits_for_a_circuit_gets_the_best_one_as_soon_as_it_is_open() -> None:
    async def main() -> None:
        world = Communities()
        await world.relays(5, exits=2)
        client = await world.client()
        client.build_tunnels(2)
        client.build_tunnels(3)
        circuit = await client.wait_for_circuit(3)
        assert (
            circuit.build_time == asyncio.get_running_loop().time() - circuit.born
        )  # in the moment in which it opened
        assert circuit is client.active_data_circuits(3)[0]
        assert await client.wait_for_circuit() is client.active_data_circuits()[0]
        await world.close()

    run(main())


def test_who_waits_for_a_circuit_that_never_comes_is_told_why() -> None:
    async def main() -> None:
        world = Communities()
        client = await world.client()
        with pytest.raises(LocalError, match=re.escape("call build_tunnels(3) first")):
            await client.wait_for_circuit()
        client.build_tunnels(3)
        with pytest.raises(LocalError, match=re.escape("call build_tunnels(2) first")):
            await client.wait_for_circuit(2)
        waiting = asyncio.ensure_future(client.wait_for_circuit(3))
        await asyncio.sleep(10)
        assert not waiting.done()
        await client.unload()
        with pytest.raises(LocalError, match="unloaded"):
            await waiting
        await world.close()

    run(main())


def test_circuits_of_one_hop_come_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = Communities()
        client = await world.client()
        client.build_tunnels(3)
        assert "anonymous" not in caplog.text
        client.build_tunnels(1)
        assert "not anonymous" in caplog.text
        await world.close()

    run(main())


def test_a_relay_uses_others_and_never_itself() -> None:
    async def main() -> None:
        world = Communities()
        relays = await world.relays(4, exits=2)
        relays[-1].build_tunnels(3)
        await world.until(lambda: relays[-1].tunnels_ready() >= 1.0)
        for circuit in relays[-1].active_data_circuits():
            assert relays[-1].relay_info not in circuit.path
        await world.close()

    run(main())


def test_in_one_network_no_circuit_is_built_until_that_is_allowed_aloud(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = Communities()
        for n in range(3):
            await world.relay("accept *:*", relay_addresses=((f"127.{n + 1}.0.1", 8000),))
        infos = [
            type(info)(info.relay_id, info.link_key, info.onion_key, ((f"127.0.0.{n + 1}", 8000),), info.exit_policy)
            for n, info in enumerate(world.infos)
        ]
        strict, loose = await world.client(relays=infos), await world.client(relays=infos, distinct_networks=False)
        assert caplog.text.count("distinct_networks is off") == 1
        for client in (strict, loose):
            client.build_tunnels(3)
        assert strict.why_not_ready().startswith("0 of 3 hops: all 3 known relays are in 127.0.0.0/16")
        assert loose.why_not_ready() == "2 circuits are being built"
        await world.close()

    run(main())


# --- Datagrams ----------------------------------------------------------------------------------


def test_text_and_bytes_of_every_size_go_out_at_the_exit_and_answers_come_back_with_their_origin() -> None:
    async def main() -> None:
        world = Communities()
        client, circuit = await ready(world)
        inbox = Inbox(client)
        sent: list[Any] = [
            b"",
            "",
            b"x",
            "grüß",
            bytearray(b"array"),
            memoryview(b"view"),
            bytes(1200),
            bytes(9000),
        ]
        for payload in sent:
            assert client.tunnel_data(circuit, ECHO, "data", payload) is True
        await world.until(lambda: len(inbox.data) == len(sent))
        expected = [each.encode() if isinstance(each, str) else bytes(each) for each in sent]
        assert sorted(world.outside.heard) == sorted((ECHO, each) for each in expected)
        assert sorted(data for _, _, data in inbox.data) == sorted(each[::-1] for each in expected)
        assert {(told, origin) for told, origin, _ in inbox.data} == {(circuit, ECHO)}
        await world.close()

    run(main())


def test_the_exit_resolves_host_names() -> None:
    async def main() -> None:
        world = Communities()
        client, circuit = await ready(world)
        inbox = Inbox(client)
        client.tunnel_data(circuit, ("echo.example", 53), "data", b"hello")
        await world.until(lambda: inbox.data)
        assert world.outside.heard == [(ECHO, b"hello")]
        assert inbox.data == [(circuit, ECHO, b"olleh")]
        await world.close()

    run(main())


def test_a_circuit_of_one_hop_carries_data_through_exits_that_allow_it_and_is_refused_by_others() -> None:
    async def main() -> None:
        world = Communities()
        client, circuit = await ready(world, 1)
        inbox = Inbox(client)
        client.tunnel_data(circuit, ECHO, "data", b"one")
        await world.until(lambda: inbox.data)
        await world.close()
        world = Communities()
        await world.relay("accept *:*")
        client = await world.client()
        inbox = Inbox(client)
        client.build_tunnels(1)
        await world.until(lambda: client.active_data_circuits(1))
        client.tunnel_data(client.active_data_circuits(1)[0], ECHO, "data", b"two")
        await world.until(lambda: inbox.rejected)
        assert [reason for _, _, reason in inbox.rejected] == ["not an exit"]
        assert world.outside.heard == []
        await world.close()

    run(main())


BAD_CALLS: list[tuple[Any, str, Any, str]] = [
    (ECHO, "Data", b"x", "message_type is 'Data'; it must be \"data\""),
    (ECHO, "", b"x", "message_type is ''"),
    (ECHO, "ping", b"x", "message_type is 'ping'"),
    (("", 53), "data", b"x", "destination has an empty host"),
    ((None, 53), "data", b"x", "destination has an empty host"),
    (("9.9.9.9", 0), "data", b"x", "destination: a port is 1 to 65535, not 0"),
    (("9.9.9.9", 65536), "data", b"x", "destination: a port is 1 to 65535"),
    (("9.9.9.9", "53"), "data", b"x", "destination: a port is a whole number"),
    (("9.9.9.9", True), "data", b"x", "destination: a port is a whole number"),
    (("127.1", 53), "data", b"x", "destination: an IPv4 address is four decimal numbers"),
    (("grüß.example", 53), "data", b"x", "destination: a host name is ASCII"),
    (("two words", 53), "data", b"x", "destination: a host name is"),
    (("fe80::1%eth0", 53), "data", b"x", "destination: "),
    (("9.9.9.9",), "data", b"x", "destination must be a pair of host and port"),
    ("9.9.9.9:53", "data", b"x", "destination must be a pair"),
    (None, "data", b"x", "destination must be a pair"),
    (ECHO, "data", 10**12, "payload is a int; it must be text or bytes"),
    (ECHO, "data", None, "payload is a NoneType"),
    (ECHO, "data", [1, 2], "payload is a list"),
    (ECHO, "data", bytes(MAX_DATAGRAM_SIZE), "payload: "),
    (ECHO, "data", "\ud800", "utf-8"),
]


def test_a_call_that_makes_no_sense_is_a_value_error_that_says_why_and_sends_nothing() -> None:
    async def main() -> None:
        world = Communities()
        client, circuit = await ready(world)
        sent = circuit.cells_sent
        for destination, kind, payload, text in BAD_CALLS:
            with pytest.raises(ValueError, match=re.escape(text)):
                client.tunnel_data(circuit, destination, kind, payload)
        assert circuit.cells_sent == sent
        await world.close()

    run(main())


def test_an_error_does_not_repeat_where_the_user_goes() -> None:
    async def main() -> None:
        world = Communities()
        client, circuit = await ready(world)
        with pytest.raises(ValueError, match="destination") as caught:
            client.tunnel_data(circuit, ("secret place", 53), "data", b"x")
        assert "secret" not in str(caught.value)
        await world.close()

    run(main())


def test_a_circuit_that_is_not_open_is_a_typed_error_with_its_reason() -> None:
    async def main() -> None:
        world = Communities()
        client, circuit = await ready(world, min_circuits=1)
        client.remove_circuit(circuit)
        with pytest.raises(CircuitClosedError, match="active_data_circuits") as caught:
            client.tunnel_data(circuit, ECHO, "data", b"x")
        assert caught.value.reason == "requested"
        client.remove_circuit(circuit)
        await world.until(lambda: circuit not in client.engine.circuits and client.engine.circuits)
        [building] = client.engine.circuits
        assert building.state is State.BUILDING
        with pytest.raises(CircuitClosedError) as caught:
            client.tunnel_data(building, ECHO, "data", b"x")
        assert caught.value.reason == "building"
        await world.until(client.active_data_circuits)
        await world.close()

    run(main())


def test_a_circuit_of_another_community_is_refused() -> None:
    async def main() -> None:
        world = Communities()
        _, circuit = await ready(world)
        other = await world.client()
        with pytest.raises(ValueError, match="another community's"):
            other.tunnel_data(circuit, ECHO, "data", b"x")
        await world.close()

    run(main())


# --- What an application is told ------------------------------------------------------------------


def test_an_application_is_told_of_every_circuit_that_opens_and_ends() -> None:
    async def main() -> None:
        world = Communities()
        await world.relays(3, exits=1)
        client = await world.client(min_circuits=1)
        inbox = Inbox(client)
        client.build_tunnels(3)
        await world.until(lambda: inbox.opened)
        [first] = client.active_data_circuits(3)
        client.remove_circuit(first)
        await world.until(lambda: len(inbox.opened) == 2)
        [second] = client.active_data_circuits(3)
        assert inbox.opened == [first, second]
        assert inbox.closed == [(first, CloseReason.REQUESTED)]
        await world.close()
        assert inbox.closed[1:] == [(second, CloseReason.SHUTDOWN)]

    run(main())


@pytest.mark.parametrize(
    ("policy", "destination", "reason"),
    [
        ("accept *:53, reject *:*", ("9.9.9.9", 54), "exit policy"),
        ("accept *:*", ("10.0.0.1", 53), "exit policy"),
        ("accept *:*", ("127.1.0.1", 8000), "exit policy"),
        ("accept *:*", ("no.example", 53), "no such host"),
    ],
)
def test_an_application_is_told_why_its_exit_did_not_send(policy: str, destination: Address, reason: str) -> None:
    async def main() -> None:
        world = Communities()
        await world.relays(2, exits=0)
        await world.relay(policy)
        client = await world.client()
        inbox = Inbox(client)
        client.build_tunnels(3)
        await world.until(client.active_data_circuits)
        circuit = client.active_data_circuits()[0]
        client.tunnel_data(circuit, destination, "data", b"x")
        await world.until(lambda: inbox.rejected)
        assert inbox.rejected == [(circuit, destination, reason)]
        assert (world.outside.heard, inbox.data) == ([], [])
        await world.close()

    run(main())


def test_a_callback_that_raises_costs_nobody_anything(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = Communities()
        await world.relays(4, exits=1)
        client = await world.client()

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        for register in (client.on_data, client.on_rejected, client.on_circuit_opened, client.on_circuit_closed):
            register(broken)
        inbox = Inbox(client)
        client.build_tunnels(3)
        await world.until(lambda: len(inbox.opened) == 2)
        circuit = inbox.opened[0]
        client.tunnel_data(circuit, ECHO, "data", b"abc")
        client.tunnel_data(circuit, ("10.0.0.1", 53), "data", b"abc")
        await world.until(lambda: inbox.data and inbox.rejected)
        client.remove_circuit(circuit)
        await world.until(lambda: len(inbox.opened) == 3)
        assert inbox.closed == [(circuit, CloseReason.REQUESTED)]
        assert sum("ZeroDivisionError" in str(record.exc_info) for record in caplog.records) == 6
        await world.close()

    with caplog.at_level(logging.ERROR, "tropea"):
        run(main())


def test_a_coroutine_function_as_callback_is_refused_because_nobody_would_await_it() -> None:
    async def callback(*_: object) -> None: ...

    async def main() -> None:
        world = Communities()
        client = await world.client()
        for register in (client.on_data, client.on_rejected, client.on_circuit_opened, client.on_circuit_closed):
            with pytest.raises(ValueError, match="a callback is a plain function"):
                register(callback)  # type: ignore[arg-type]
        await world.close()

    run(main())


def test_the_network_status_tells_what_a_node_knows_before_it_knows_anybody_and_afterwards() -> None:
    async def main() -> None:
        world = Communities()
        here = ("127.1.0.1", 8000)
        relays = []
        for number in range(1, 7):
            address = (f"127.{number}.0.1", 8000)
            relays.append(await world.community(
                address, relay_addresses=(address,), bootstrap=[here][: number - 1], become_exitnode=True,
                exit_policy="accept *:*",
            ))  # fmt: skip
        await world.until(lambda: all(relay.network_status().relays_known == 5 for relay in relays))
        client = await world.community(("127.9.0.1", 8000), bootstrap=[here], min_relay_age=0.0)
        trouble = "no relay has answered yet: set bootstrap to the address of one"
        assert client.network_status() == NetworkStatus(0, 0, (), (), trouble)
        client.build_tunnels(3)
        circuit = await client.wait_for_circuit(3)
        status = client.network_status()
        names = {short_name(relay.relay_id or b"") for relay in relays}
        assert (status.relays_known, status.relays_usable, status.trouble) == (6, 6, "")
        assert len(status.sources) >= 2
        assert {*status.sources, *status.guards} <= names
        assert short_name(circuit.path[0].relay_id) == status.guards[0]
        assert (relays[0].network_status().relays_usable, relays[0].network_status().trouble) == (5, "")
        await world.close()

    run(main())


def test_configured_relays_count_as_known_without_any_source() -> None:
    async def main() -> None:
        world = Communities()
        client, _ = await ready(world)
        status = client.network_status()
        assert (status.relays_known, status.relays_usable, status.sources, status.trouble) == (5, 5, (), "")
        await world.close()

    run(main())


def test_statistics_count_the_cells_of_others_and_keep_them_when_their_circuit_ends() -> None:
    async def main() -> None:
        world = Communities()
        relays = await world.relays(3, exits=1)
        client = await world.client(min_circuits=1, max_circuits=1)
        assert [relay.statistics().cells_relayed for relay in relays] == [0, 0, 0]
        client.build_tunnels(3)
        await world.until(client.active_data_circuits)
        [circuit] = client.active_data_circuits(3)
        before = [relay.statistics() for relay in relays]
        assert [each.joined_circuits for each in before] == [1, 1, 1]
        for _ in range(10):
            assert client.tunnel_data(circuit, ECHO, "data", b"ten of these")
        await asyncio.sleep(1)
        during = [relay.statistics().cells_relayed for relay in relays]
        assert all(now - then.cells_relayed >= 20 for now, then in zip(during, before, strict=True))
        assert (client.statistics().circuits, client.statistics().cells_relayed) == (1, 0)
        await client.unload()
        await asyncio.sleep(5)
        after = [relay.statistics() for relay in relays]
        assert [each.joined_circuits for each in after] == [0, 0, 0]
        assert all(now.cells_relayed >= then for now, then in zip(after, during, strict=True))
        assert all(sum(each.closed.values()) == 1 for each in after)
        await world.close()

    run(main())


# --- Failure and repair -----------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_circuit_that_loses_a_relay_is_replaced_without_it_and_says_which(place: int) -> None:
    async def main() -> None:
        world = Communities()
        client, circuit = await ready(world, min_circuits=1)
        inbox = Inbox(client)
        dead = circuit.path[place]
        world.vanish(dead)
        await world.until(lambda: client.active_data_circuits(3) and circuit.state is State.CLOSED)
        [successor] = client.active_data_circuits(3)
        assert dead not in successor.path
        assert circuit.culprit == place
        client.tunnel_data(successor, ECHO, "data", b"abc")
        await world.until(lambda: inbox.data)
        await world.close()

    run(main())


def test_while_every_relay_is_gone_tries_are_spaced_and_when_they_are_back_so_are_the_circuits() -> None:
    async def main() -> None:
        world = Communities()
        client, _ = await ready(world, min_circuits=2)
        await asyncio.sleep(20)
        inbox = Inbox(client)
        for info in world.infos:
            world.vanish(info)
        await world.until(lambda: not client.active_data_circuits())
        await asyncio.sleep(3600)
        # Guards that do not answer are tried all together once a minute, two circuits at a time.
        assert 3600 / 60 * 0.5 <= len(inbox.closed) / 2 <= 3600 / 20 + len(BUILD_BACKOFF)
        assert "guard" in client.why_not_ready() or "hop 1 of 3" in client.why_not_ready()
        for info in world.infos:
            world.network.plug(info.addresses[0])
        await world.until(lambda: client.tunnels_ready() == 1.0)
        await world.close()

    run(main())


def test_relays_that_end_every_circuit_soon_after_it_opened_are_not_asked_in_a_tight_loop() -> None:
    async def main() -> None:
        world = Communities()
        await world.relays(4, exits=2, max_time_inactive=1.0)
        client = await world.client()
        inbox = Inbox(client)
        client.build_tunnels(3)
        await asyncio.sleep(1800)
        assert 1800 / 60 <= len(inbox.opened) <= 2 * 1800 / BUILD_BACKOFF[-2]
        await world.close()

    run(main())


def test_circuits_are_replaced_before_their_time_is_up_so_that_the_application_never_notices() -> None:
    async def main() -> None:
        world = Communities()
        client, first = await ready(world, min_circuits=1, max_time=60.0)
        inbox = Inbox(client)
        for second in range(600):
            await asyncio.sleep(1)
            assert client.tunnels_ready(3) >= 1.0
            client.tunnel_data(client.active_data_circuits(3)[0], ECHO, "data", second.to_bytes(2))
        await asyncio.sleep(1)
        assert len(inbox.data) == 600
        assert first.state is State.CLOSED
        assert {reason for _, reason in inbox.closed} == {CloseReason.MAX_TIME}
        # One in use and one ready, for ten minutes, each for 54 seconds.
        assert len(inbox.opened) <= 2 * 600 / 54 + 2
        await world.close()

    run(main())


def test_a_circuit_over_max_traffic_is_replaced_and_closed() -> None:
    async def main() -> None:
        world = Communities()
        client, first = await ready(world, min_circuits=1, max_traffic=50_000)
        inbox = Inbox(client)
        for _ in range(40):
            client.tunnel_data(first, ECHO, "data", bytes(1000))
        assert first.state is State.OPEN
        await world.until(lambda: first.state is State.CLOSED)
        assert inbox.closed == [(first, CloseReason.MAX_TRAFFIC)]
        assert client.tunnels_ready(3) >= 1.0
        await world.close()

    run(main())


# --- Beginning and end ------------------------------------------------------------------------------


def test_unload_leaves_no_task_no_link_no_socket_and_may_be_called_twice() -> None:
    async def main() -> None:
        world = Communities()
        client, circuit = await ready(world)
        inbox = Inbox(client)
        client.tunnel_data(circuit, ECHO, "data", b"abc")
        await world.until(lambda: inbox.data)
        assert world.outside.open == 1
        for community in world.all:
            await community.unload()
            await community.unload()
            assert not list(community.engine.core.links)
            assert not community.engine.circuits
            assert not community.engine.core.joined
            world.endpoint(community).attach(lambda *_: None)  # nobody holds it any more
        assert world.outside.open == 0
        assert {reason for _, reason in inbox.closed} == {CloseReason.SHUTDOWN}
        sent = [world.endpoint(community).counters.cells_out for community in world.all]
        with pytest.raises(CircuitClosedError) as caught:
            client.tunnel_data(circuit, ECHO, "data", b"x")
        assert caught.value.reason == "shutdown"
        with pytest.raises(LocalError, match="unloaded"):
            client.build_tunnels(3)
        await asyncio.sleep(600)
        assert [world.endpoint(community).counters.cells_out for community in world.all] == sent
        assert client.tunnels_ready() == 0.0
        await world.close()

    run(main())


def test_a_relay_that_is_unloaded_says_goodbye_and_circuits_move_at_once() -> None:
    async def main() -> None:
        world = Communities()
        client, circuit = await ready(world, min_circuits=1)
        await asyncio.sleep(15)
        await world.at(circuit.path[1]).unload()
        await asyncio.sleep(0.5)
        assert circuit.state is State.CLOSED
        await world.until(client.active_data_circuits, patience=15)  # one more try may ask for the relay that left
        await world.close()

    run(main())


def test_a_community_that_cannot_be_made_leaves_the_endpoint_as_it_was() -> None:
    async def main() -> None:
        world = Communities()
        client = await world.client()
        endpoint = client.endpoint
        before = (list(endpoint._listeners), dict(endpoint._prefix_map))  # noqa: SLF001 (IPv8 has no question for this)
        with pytest.raises(EndpointError, match="give each tunnel community an endpoint of its own"):
            TunnelCommunity(TunnelSettings(my_peer=client.my_peer, endpoint=endpoint, network=client.network))
        with pytest.raises(ValueError, match="min_circuits"):
            TunnelCommunity(
                TunnelSettings(my_peer=client.my_peer, endpoint=endpoint, network=client.network, min_circuits=0)
            )
        assert (endpoint._listeners, endpoint._prefix_map) == before  # noqa: SLF001
        free = VirtualEndpoint(world.network, ("127.200.0.1", 1))
        with pytest.raises(ValueError, match="nameserver"):
            TunnelCommunity(
                TunnelSettings(
                    my_peer=client.my_peer, endpoint=free, network=client.network, exit_policy="accept *:*",
                    become_exitnode=True, relay_addresses=[("127.200.0.1", 1)], nameservers=["x"],
                )
            )  # fmt: skip
        free.attach(lambda *_: None)
        await world.close()

    run(main())


# --- Networks, keys, IPv8 ---------------------------------------------------------------------------


def test_two_networks_on_one_wire_neither_introduce_nor_serve_each_other() -> None:
    async def main() -> None:
        world = Communities()
        await world.relays(3, exits=1)
        ours = world.infos
        client = await world.client()
        stranger = await world.client(network_id="another", relays=ours, min_circuits=1)
        assert client.community_id == community_id_for(b"tropea") != stranger.community_id
        for one in (client, stranger):
            for relay in world.all[:3]:
                one.walk_to(relay.endpoint.get_address())
            one.build_tunnels(3)
        await world.until(lambda: client.tunnels_ready() == 1.0)
        await asyncio.sleep(60)
        assert {peer.mid for peer in client.get_peers()} == {relay.my_peer.mid for relay in world.all[:3]}
        assert stranger.get_peers() == []
        assert stranger.tunnels_ready() == 0.0
        assert all(relay.statistics().joined_circuits == 2 for relay in world.all[:3])
        await world.close()

    run(main())


@pytest.mark.parametrize("key", ["very-low", "low", "medium", "high", "curve25519"])
def test_ipv8_keys_of_every_kind_make_relays_and_clients(key: str) -> None:
    async def main() -> None:
        world = Communities()
        await world.relays(3, exits=1, key=key)
        client = await world.client(key=key)
        client.build_tunnels(3)
        await world.until(lambda: client.tunnels_ready() == 1.0)
        await world.close()

    run(main())


class Subclass(TunnelCommunity):
    """What an application may do to us."""


@pytest.mark.parametrize("kind", [TunnelCommunity, Subclass])
def test_ipv8s_loader_makes_our_class_under_a_name_of_its_own_and_its_settings_arrive(
    kind: type[TunnelCommunity],
) -> None:
    async def main() -> None:
        builder = ConfigBuilder().clear_keys().clear_overlays()
        builder.config["interfaces"] = [{"interface": "UDPIPv4", "ip": "127.1.0.1", "port": 0}]
        builder.add_ephemeral_key("key").set_log_level("ERROR")
        builder.add_overlay(
            "TropeaTunnelCommunity", "key", [WalkerDefinition(Strategy.RandomWalk, 10, {"timeout": 3.0})], [],
            {"min_circuits": 1, "network_id": "loaded"}, [("build_tunnels", 2)],
        )  # fmt: skip
        ipv8 = IPv8(builder.finalize(), extra_communities={"TropeaTunnelCommunity": kind})
        await ipv8.start()
        [loaded] = ipv8.overlays
        assert type(loaded) is kind
        assert isinstance(loaded, TunnelCommunity)
        assert TunnelCommunity.__module__ == "tunnels.community"
        assert (loaded.settings.pool.min_circuits, loaded.settings.network_id) == (1, b"loaded")
        assert loaded.why_not_ready().startswith("no relay has answered yet: set bootstrap")
        await ipv8.stop()

    asyncio.run(main())


def test_a_wrong_setting_in_ipv8s_configuration_is_named() -> None:
    async def main() -> None:
        builder = ConfigBuilder().clear_keys().clear_overlays().add_ephemeral_key("key").set_log_level("ERROR")
        builder.add_overlay("TropeaTunnelCommunity", "key", [], [], {"max_circuit": 1}, [])
        with pytest.raises(ValueError, match="max_circuit is not a tunnel setting"):
            IPv8(builder.finalize(), extra_communities={"TropeaTunnelCommunity": TunnelCommunity})

    asyncio.run(main())
