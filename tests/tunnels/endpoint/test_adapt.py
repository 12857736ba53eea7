"""SPEC 1 on the endpoints apps already have: cells pass, IPv8 is not disturbed, what would swallow cells is refused."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import closing
from itertools import chain
from typing import Any, Final

import pytest
from ipv8.community import Community, CommunitySettings
from ipv8.keyvault.crypto import default_eccrypto
from ipv8.messaging.anonymization.endpoint import TunnelEndpoint
from ipv8.messaging.interfaces.dispatcher.endpoint import DispatcherEndpoint
from ipv8.messaging.interfaces.endpoint import Endpoint
from ipv8.messaging.interfaces.statistics_endpoint import StatisticsEndpoint
from ipv8.messaging.interfaces.udp.endpoint import UDPEndpoint, UDPv4Address, UDPv6Endpoint
from ipv8.peer import Peer
from ipv8.peerdiscovery.network import Network
from ipv8.test.mocking.endpoint import AutoMockEndpoint
from ipv8.util import maybe_coroutine
from ipv8_rust_tunnels import Endpoint as RustEndpoint

from sim.endpoint import VirtualEndpoint
from sim.loop import VirtualLoop
from sim.network import VirtualNetwork
from tests.tunnels.endpoint.loopback import Ear, MessageEar, cell, cells, descriptors, run, settled, udp, until
from tunnels.crypto.rng import SystemRng
from tunnels.endpoint.adapt import DispatchedPort, ListeningPort, cell_port, unwrapped
from tunnels.endpoint.batched import BatchedEndpoint
from tunnels.endpoint.face import CellPort
from tunnels.errors import EndpointError, LocalError
from tunnels.ids import Address, Drop
from tunnels.params import CELL_SIZE, SEND_QUEUE_SIZE

IP: Final = "127.1.0.1"


def dispatcher(*names: str) -> DispatcherEndpoint:
    return DispatcherEndpoint(list(names), UDPIPv4={"ip": IP}, UDPIPv6={"ip": "::1"})


ENDPOINTS: Final[dict[str, Callable[[], Endpoint]]] = {
    "UDPEndpoint": lambda: UDPEndpoint(ip=IP),
    "UDPv6Endpoint": lambda: UDPv6Endpoint(ip="::1"),
    "dispatcher of one": lambda: dispatcher("UDPIPv4"),
    "dispatcher of IPv6": lambda: dispatcher("UDPIPv6"),
    "dispatcher of both": lambda: dispatcher("UDPIPv4", "UDPIPv6"),
    "statistics": lambda: StatisticsEndpoint(UDPEndpoint(ip=IP)),
    "statistics of a dispatcher": lambda: StatisticsEndpoint(dispatcher("UDPIPv4")),
    "anonymised": lambda: TunnelEndpoint(UDPEndpoint(ip=IP)),
    "anonymised statistics": lambda: TunnelEndpoint(StatisticsEndpoint(dispatcher("UDPIPv4", "UDPIPv6"))),
    "statistics of anonymised": lambda: StatisticsEndpoint(TunnelEndpoint(UDPEndpoint(ip=IP))),
    "ours": lambda: BatchedEndpoint((IP, 0)),
    "statistics of ours": lambda: StatisticsEndpoint(BatchedEndpoint((IP, 0))),
    "anonymised ours": lambda: TunnelEndpoint(BatchedEndpoint(("::1", 0))),
}


def where(endpoint: Endpoint) -> Address:
    ip, port = endpoint.get_address()[:2]
    return ip, port


async def closed(*endpoints: Endpoint) -> None:
    for endpoint in endpoints:
        await maybe_coroutine(endpoint.close)
    await asyncio.sleep(0)  # asyncio closes its transports in the next turn


@pytest.mark.parametrize("make", ENDPOINTS.values(), ids=ENDPOINTS)
def test_cells_pass_both_ways_through_every_endpoint_an_app_may_have(make: Callable[[], Endpoint]) -> None:
    async def scenario() -> None:
        before = descriptors()
        app, far = make(), make()
        port, far_port = cell_port(app), cell_port(far)
        assert isinstance(port, CellPort)
        ear, far_ear = Ear().on(port), Ear().on(far_port)
        await app.open()
        await far.open()
        port.send_cells(bytearray(cells(0, 60)), where(far))
        await far_ear.hears(60)
        far_port.send_cells(memoryview(cells(60, 3)), far_ear.runs[0][1])
        await ear.hears(3)
        assert (ear.heard, far_ear.heard) == (cells(60, 3), cells(0, 60))
        assert {(type(source), source) for _, source in ear.runs} == {(tuple, where(far))}
        port.detach()
        far_port.detach()
        await closed(app, far)
        assert descriptors() == before

    run(scenario)


def test_what_is_handed_out_may_be_rewritten_and_no_listener_behind_sees_it() -> None:
    async def scenario() -> None:
        app = UDPEndpoint(ip=IP)
        await app.open()
        ear, later = Ear(), Ear()

        def rewrite(received: bytearray | memoryview, sender: Address) -> None:
            ear.hear_cells(received, sender)
            received[:] = bytes(len(received))

        cell_port(app).attach(rewrite)
        MessageEar(app, later)
        raw = udp()
        raw.sendto(cell(1), where(app))
        await ear.hears(1)
        await until(lambda: later.messages)
        assert later.messages[0][0] == cell(1)
        raw.close()
        await closed(app)

    run(scenario)


def test_only_cells_are_taken_and_garbage_is_counted() -> None:
    async def scenario() -> None:
        app = UDPEndpoint(ip=IP)
        await app.open()
        port = ListeningPort(app)
        ear = Ear().on(port)
        raw = udp()
        garbage = [b"", b"\x01", cell(1)[:-1], cell(1) + b"\x01", cells(1, 2)]
        for datagram in (*garbage, b"\x00", b"\x00" * CELL_SIZE, cell(3)):
            raw.sendto(datagram, where(app))
        await ear.hears(1)
        assert ear.heard == cell(3)
        assert port.counters.drops == {Drop.WRONG_SIZE: len(garbage)}
        raw.close()
        await closed(app)

    run(scenario)


def test_a_port_has_one_receiver_at_a_time_and_none_after_detach() -> None:
    async def scenario() -> None:
        for app in (UDPEndpoint(ip=IP), dispatcher("UDPIPv4", "UDPIPv6")):
            await app.open()
            port = cell_port(app)
            ear = Ear().on(port)
            with pytest.raises(LocalError):
                port.attach(ear.hear_cells)
            port.detach()
            port.detach()
            raw = udp()
            raw.sendto(cell(1), where(app))
            await settled(ear)
            assert not ear.log
            port.attach(ear.hear_cells)
            raw.sendto(cell(2), where(app))
            await ear.hears(1)
            assert ear.heard == cell(2)
            raw.close()
            await closed(app)

    run(scenario)


def test_a_dispatcher_of_which_one_half_is_taken_is_left_as_it_was() -> None:
    app = dispatcher("UDPIPv4", "UDPIPv6")
    port = cell_port(app)
    assert isinstance(port, DispatchedPort)
    four, six = port.ports.values()
    ear = Ear().on(six)
    with pytest.raises(LocalError):
        port.attach(ear.hear_cells)
    four.attach(ear.hear_cells)


@pytest.mark.parametrize(
    ("make", "receiver"),
    [
        (lambda: UDPEndpoint(ip=IP), ("::1", 9)),
        (lambda: UDPEndpoint(ip=IP), ("relay.example", 9)),
        (lambda: UDPEndpoint(ip=IP), ("127.0.0.1", 65536)),
        (lambda: UDPEndpoint(ip=IP), ("127.0.0.1", 0)),
        (lambda: UDPv6Endpoint(ip="::1"), ("127.0.0.1", 9)),
        (lambda: dispatcher("UDPIPv4"), ("::1", 9)),
        (lambda: dispatcher("UDPIPv4", "UDPIPv6"), ("relay.example", 9)),
    ],
)
def test_cells_that_cannot_go_there_are_counted_and_never_raised_or_logged(
    make: Callable[[], Endpoint], receiver: Address, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        app = make()
        await app.open()
        port = cell_port(app)
        assert isinstance(port, ListeningPort | DispatchedPort)
        port.send_cells(cells(0, 3), receiver)
        await closed(app)
        port.send_cells(cells(0, 2), receiver)
        assert port.counters.drops == {Drop.NO_SOCKET: 5}

    run(scenario)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_cells_for_a_closed_endpoint_are_counted_and_never_raised_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        app = UDPEndpoint(ip=IP)
        port = ListeningPort(app)
        port.send_cells(cells(0, 2), ("127.0.0.1", 9))
        await app.open()
        await closed(app)
        port.send_cells(cells(0, 3), ("127.0.0.1", 9))
        assert port.counters.drops == {Drop.NO_SOCKET: 5}

    run(scenario)
    assert not caplog.records


@pytest.mark.parametrize("size", [0, CELL_SIZE - 1, CELL_SIZE + 1])
def test_a_broken_cell_is_our_own_fault(size: int) -> None:
    for app in (UDPEndpoint(ip=IP), dispatcher("UDPIPv4")):
        for receiver in (("127.0.0.1", 9), ("::1", 9)):
            with pytest.raises(LocalError):
                cell_port(app).send_cells(bytes(size), receiver)


def test_asyncios_unbounded_buffer_is_given_a_bound() -> None:
    class Stuck:
        """A transport whose socket takes nothing."""

        def __init__(self) -> None:
            self.kept = 0

        def sendto(self, data: bytes, _: Any) -> None:
            self.kept += len(data)

        def get_write_buffer_size(self) -> int:
            return self.kept

    class StuckEndpoint(UDPEndpoint):
        def get_stuck(self) -> Stuck:
            stuck: Any = Stuck()
            self._transport, self._running = stuck, True
            return stuck  # type: ignore[no-any-return]

    app = StuckEndpoint()
    port = ListeningPort(app)
    stuck = app.get_stuck()
    room = SEND_QUEUE_SIZE // CELL_SIZE
    for _ in range(20):
        port.send_cells(cells(0, 100), ("127.0.0.1", 9))
    assert stuck.kept == room * CELL_SIZE
    assert port.counters.drops == {Drop.QUEUE_FULL: 2000 - room}
    assert port.counters.cells_out == room


def test_what_is_a_cell_port_already_is_taken_as_it_is() -> None:
    with closing(VirtualLoop()) as loop:
        ours, virtual = BatchedEndpoint((IP, 0)), VirtualEndpoint(VirtualNetwork(loop, SystemRng()), (IP, 1))
        assert cell_port(ours) is ours
        assert cell_port(TunnelEndpoint(ours)) is ours
        assert cell_port(virtual) is virtual


# --- IPv8's own communities on the same endpoint


class Neighbour(Community):
    community_id = b"a stock community..."


class OtherNeighbour(Community):
    community_id = b"another community..."


def community(kind: type[Community], endpoint: Endpoint) -> Community:
    peer = Peer(default_eccrypto.generate_key("curve25519"))
    return kind(CommunitySettings(my_peer=peer, endpoint=endpoint, network=Network()))


async def acquainted(near: Community, far: Community) -> None:
    """Both know each other after a walk of `near`."""
    near.walk_to(UDPv4Address(*where(unwrapped(far.endpoint))))
    await until(lambda: near.get_peers() and far.get_peers())


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("UDPEndpoint", (Neighbour, OtherNeighbour)),
        ("dispatcher of both", (Neighbour, OtherNeighbour)),
        ("ours", (Neighbour, OtherNeighbour)),
        ("statistics", (Neighbour,)),  # py-ipv8 3.2 lets no second community hear anything above its statistics
        ("statistics of ours", (Neighbour,)),
        ("anonymised", (Neighbour, OtherNeighbour)),
    ],
)
def test_communities_and_cells_share_an_endpoint_and_do_not_notice_each_other(
    name: str, kinds: tuple[type[Community], ...], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        app, far = ENDPOINTS[name](), ENDPOINTS[name]()
        await app.open()
        await far.open()
        pairs = [(community(kind, app), community(kind, far)) for kind in kinds]
        port, far_port = cell_port(app), cell_port(far)
        ear, far_ear = Ear().on(port), Ear().on(far_port)
        if isinstance(app, StatisticsEndpoint):
            app.enable_community_statistics(pairs[0][0].get_prefix(), True)
        for near, there in pairs:
            port.send_cells(cells(0, 50), where(far))
            await acquainted(near, there)
            far_port.send_cells(cells(0, 50), where(app))
        await ear.hears(50 * len(kinds))
        await far_ear.hears(50 * len(kinds))
        assert ear.heard == far_ear.heard == len(kinds) * cells(0, 50)
        if isinstance(app, StatisticsEndpoint):
            assert app.get_message_received(pairs[0][0].get_prefix(), include_introduction=True) == 1
        port.detach()
        far_port.detach()
        for overlay in chain(*pairs):
            await overlay.unload()
        await closed(app, far)

    with caplog.at_level(logging.INFO):
        run(scenario)
    assert not [record for record in caplog.records if record.name != "tunnels.endpoint.batched"]


def test_below_the_statistics_a_second_community_hears_too() -> None:
    async def scenario() -> None:
        app, far = ENDPOINTS["statistics of a dispatcher"](), ENDPOINTS["statistics of a dispatcher"]()
        await app.open()
        await far.open()
        overlays = [community(kind, endpoint) for kind in (Neighbour, OtherNeighbour) for endpoint in (app, far)]
        for overlay in overlays:
            below = unwrapped(overlay.endpoint)
            below.remove_listener(overlay)
            below.add_prefix_listener(overlay, overlay.get_prefix())
        await acquainted(overlays[0], overlays[1])
        await acquainted(overlays[2], overlays[3])
        for overlay in overlays:
            await overlay.unload()
        await closed(app, far)

    run(scenario)


def test_a_community_that_is_shown_a_cell_ignores_it(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        app = UDPEndpoint(ip=IP)
        await app.open()
        overlay = community(Neighbour, app)
        overlay.on_packet((UDPv4Address("127.0.0.1", 9), cell(1)))
        await overlay.unload()
        await closed(app)

    with caplog.at_level(logging.INFO):
        run(scenario)
    assert not caplog.records


# --- endpoints that would swallow cells


def in_dispatcher(below: Endpoint) -> Endpoint:
    app = dispatcher("UDPIPv4", "UDPIPv6")
    app.interfaces["UDPIPv4"] = below
    return app


@pytest.mark.parametrize("wrap", [lambda below: below, StatisticsEndpoint, TunnelEndpoint, in_dispatcher])
def test_the_rust_endpoint_is_refused_with_what_to_do_instead(wrap: Callable[[Endpoint], Endpoint]) -> None:
    async def scenario() -> None:
        rust = RustEndpoint(0, IP)
        with pytest.raises(EndpointError, match=r"ipv8_rust_tunnels.*prefix.*port of its own.*BatchedEndpoint\(\("):
            cell_port(wrap(rust))
        await rust.shutdown_task_manager()

    run(scenario)


@pytest.mark.parametrize("wrap", [lambda below: below, StatisticsEndpoint, in_dispatcher])
def test_an_unknown_endpoint_is_refused_by_name(wrap: Callable[[Endpoint], Endpoint]) -> None:
    with pytest.raises(EndpointError, match=r"AutoMockEndpoint.*BatchedEndpoint\(\("):
        cell_port(wrap(AutoMockEndpoint()))


def test_a_dispatcher_of_nothing_is_refused() -> None:
    with pytest.raises(EndpointError, match="UDPIPv4"):
        cell_port(dispatcher())
