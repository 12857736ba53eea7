"""The virtual endpoint (SPEC 1): stock IPv8 runs over it, and cells pass as through the real one."""

import asyncio
from collections import Counter

import pytest
from ipv8.community import Community, CommunitySettings
from ipv8.keyvault.crypto import default_eccrypto
from ipv8.messaging.interfaces.endpoint import EndpointClosedException, EndpointListener
from ipv8.messaging.interfaces.udp.endpoint import Address as IPv8Address
from ipv8.messaging.interfaces.udp.endpoint import UDPv4Address, UDPv6Address
from ipv8.peer import Peer
from ipv8.peerdiscovery.network import Network

from sim.endpoint import VirtualEndpoint
from sim.loop import run, running
from sim.network import Pipe, VirtualNetwork
from tunnels.crypto.rng import StreamRng
from tunnels.endpoint.face import CellPort
from tunnels.errors import LocalError
from tunnels.ids import Address, Drop
from tunnels.params import BATCH_CELLS, CELL_SIZE

A, B, C = ("192.0.2.1", 8090), ("192.0.2.2", 8090), ("192.0.2.3", 8090)
A6, B6 = ("2001:db8::1", 8090), ("2001:db8::2", 8090)


def delayed(seconds: float = 0.0) -> VirtualNetwork:
    return VirtualNetwork(running(), StreamRng(bytes(32)), lambda *_: (Pipe(delay=seconds),))


def cell(number: int) -> bytes:
    return bytes([number % 255 + 1]) * CELL_SIZE


class Listener(EndpointListener):
    def __init__(self, endpoint: VirtualEndpoint) -> None:
        super().__init__(endpoint)
        self.got: list[tuple[IPv8Address, bytes]] = []
        endpoint.add_listener(self)

    def on_packet(self, packet: tuple[IPv8Address, bytes]) -> None:
        self.got.append(packet)


class Cells:
    """A receiver that uses its right to write into what it is given."""

    def __init__(self) -> None:
        self.got: list[tuple[int, Address]] = []
        self.bytes = b""

    def __call__(self, cells: bytearray | memoryview, sender: Address) -> None:
        self.got.append((len(cells) // CELL_SIZE, sender))
        self.bytes += cells
        cells[:] = bytes(len(cells))


async def opened(network: VirtualNetwork, *binds: Address) -> VirtualEndpoint:
    endpoint = VirtualEndpoint(network, *binds)
    assert await endpoint.open()
    return endpoint


class Chat(Community):
    community_id = b"tropea virtual test!"

    def __init__(self, settings: CommunitySettings) -> None:
        super().__init__(settings)
        self.heard: list[tuple[float, IPv8Address, bytes]] = []
        self.add_message_handler(1, self._on_chat)

    def say(self, peer: Peer, text: bytes) -> None:
        self.endpoint.send(peer.address, self.get_prefix() + b"\x01" + text)

    def _on_chat(self, source: IPv8Address, data: bytes) -> None:
        self.heard.append((running().time(), source, data[23:]))


def chat(endpoint: VirtualEndpoint) -> Chat:
    peer = Peer(default_eccrypto.generate_key("curve25519"))
    return Chat(CommunitySettings(my_peer=peer, endpoint=endpoint, network=Network()))


@pytest.mark.parametrize("binds", [(A, B, C), (A6, B6, ("2001:db8::3", 8090))], ids=["IPv4", "IPv6"])
def test_stock_communities_introduce_each_other_and_talk(binds: tuple[Address, ...]) -> None:
    async def main() -> None:
        errors: list[str] = []
        running().set_exception_handler(lambda _, context: errors.append(repr(context)))
        network = delayed(0.25)
        endpoints = [VirtualEndpoint(network, bind) for bind in binds]
        ann, bob, cid = chats = [chat(endpoint) for endpoint in endpoints]
        for endpoint in endpoints:
            await endpoint.open()
        # Ann and Cid know Bob only.
        ann.walk_to(bob.endpoint.get_address())
        cid.walk_to(bob.endpoint.get_address())
        await asyncio.sleep(1)
        assert {peer.mid for peer in bob.get_peers()} == {ann.my_peer.mid, cid.my_peer.mid}
        ann.walk_to(bob.endpoint.get_address())
        await asyncio.sleep(1)
        ann.walk_to(cid.endpoint.get_address())
        await asyncio.sleep(1)
        to_cid = next(peer for peer in ann.get_peers() if peer.mid == cid.my_peer.mid)
        assert tuple(to_cid.address) == binds[2]
        ann.say(to_cid, b"hello")
        await asyncio.sleep(1)
        assert cid.heard == [(3.25, binds[0], b"hello")]
        assert (ann.heard, bob.heard) == ([], [])
        for one in chats:
            await one.unload()
        assert errors == []

    run(main())


def test_ipv8_learns_its_virtual_address_and_never_asks_for_one_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked() -> list[str]:
        raise AssertionError("IPv8 asked the operating system")

    for module in ("endpoint", "lan_addresses.interfaces"):
        monkeypatch.setattr(f"ipv8.messaging.interfaces.{module}.get_lan_addresses", asked)
    monkeypatch.setattr("ipv8.overlay.get_providers", asked)

    async def main() -> None:
        errors: list[str] = []
        running().set_exception_handler(lambda _, context: errors.append(repr(context)))
        endpoint = VirtualEndpoint(delayed(), A6, A)
        early = chat(endpoint)
        await endpoint.open()
        await asyncio.sleep(3600)
        assert early.my_estimated_lan == early.my_estimated_wan == A
        assert not early.address_is_lan(A[0])
        assert early.my_peer.addresses == {UDPv4Address: A, UDPv6Address: A6}
        assert early.my_preferred_address() == A6
        assert isinstance(early.my_estimated_lan, UDPv4Address)
        await early.unload()
        assert errors == []

    run(main())


def test_a_community_made_late_has_the_virtual_address_too() -> None:
    async def main() -> None:
        errors: list[str] = []
        running().set_exception_handler(lambda _, context: errors.append(repr(context)))
        late = chat(await opened(delayed(), A))
        await asyncio.sleep(100)
        assert late.my_estimated_lan == late.my_estimated_wan == late.my_peer.address == A
        await late.unload()
        assert errors == []

    run(main())


def test_it_has_the_face_for_cells() -> None:
    async def main() -> None:
        assert isinstance(VirtualEndpoint(delayed(), A), CellPort)

    run(main())


def test_cells_go_to_the_receiver_messages_to_the_listeners_and_the_rest_is_counted() -> None:
    async def main() -> None:
        network = delayed(1.0)
        a, b = await opened(network, A), await opened(network, B)
        listener, cells = Listener(b), Cells()
        b.attach(cells)
        a.send(B, b"\0a message")
        a.send_cells(cell(1) + cell(2), B)
        a.send(B, bytes(CELL_SIZE))
        a.send(B, b"\1neither")
        a.send(B, b"")
        a.send(B, cell(1) + b"\1")
        await asyncio.sleep(2)
        assert cells.got == [(2, A)]
        assert cells.bytes == cell(1) + cell(2)
        assert listener.got == [(A, b"\0a message"), (A, bytes(CELL_SIZE))]
        assert isinstance(listener.got[0][0], UDPv4Address)
        assert b.counters.drops == Counter({Drop.WRONG_SIZE: 3})
        assert (a.counters.cells_out, a.counters.messages_out) == (2, 5)
        assert (b.counters.cells_in, b.counters.messages_in) == (2, 2)
        assert a.bytes_up == b.bytes_down == 10 + 2 * CELL_SIZE + CELL_SIZE + 8 + CELL_SIZE + 1
        b.reset_byte_counters()
        assert (b.bytes_up, b.bytes_down) == (0, 0)

    run(main())


def test_without_a_receiver_the_listeners_get_everything() -> None:
    async def main() -> None:
        network = delayed()
        a, b = await opened(network, A), await opened(network, B)
        listener, cells = Listener(b), Cells()
        b.attach(cells)
        b.detach()
        b.detach()
        a.send_cells(cell(1), B)
        a.send(B, b"\1anything")
        await asyncio.sleep(1)
        assert listener.got == [(A, cell(1)), (A, b"\1anything")]
        assert cells.got == []

    run(main())


def test_a_burst_comes_in_batches_and_belongs_to_its_sender_again_at_once() -> None:
    async def main() -> None:
        network = delayed(0.5)
        a, b = await opened(network, A), await opened(network, B)
        cells = Cells()
        b.attach(cells)
        number = 2 * BATCH_CELLS + 4
        burst = bytearray().join(cell(n) for n in range(number))
        sent = bytes(burst)
        a.send_cells(memoryview(burst), B)
        burst[:] = bytes(len(burst))
        await asyncio.sleep(1)
        assert cells.got == [(BATCH_CELLS, A), (BATCH_CELLS, A), (4, A)]
        assert cells.bytes == sent

    run(main())


def test_what_a_receiver_writes_nobody_else_reads() -> None:
    async def main() -> None:
        network = delayed()
        a, b, c = await opened(network, A), await opened(network, B), await opened(network, C)
        seen: list[bytes] = []
        network.tap(lambda datagram: seen.append(datagram.data))
        scribbler, reader = Cells(), Cells()
        b.attach(scribbler)
        c.attach(reader)
        same = cell(7)
        a.send_cells(same, B)
        a.send_cells(same, C)
        await asyncio.sleep(1)
        assert reader.bytes == same == cell(7)
        assert seen == [cell(7)] * 2

    run(main())


@pytest.mark.parametrize("size", [0, 1, CELL_SIZE - 1, CELL_SIZE + 1])
def test_only_whole_cells_are_sent(size: int) -> None:
    async def main() -> None:
        (await opened(delayed(), A)).send_cells(bytes(size), B)

    with pytest.raises(LocalError, match="whole number"):
        run(main())


def test_there_is_one_receiver() -> None:
    async def main() -> None:
        endpoint = VirtualEndpoint(delayed(), A)
        endpoint.attach(Cells())
        endpoint.attach(Cells())

    with pytest.raises(LocalError, match="already"):
        run(main())


def test_an_endpoint_of_both_families_sends_from_the_right_one() -> None:
    async def main() -> None:
        network = delayed()
        both = await opened(network, A6, A)
        b, b6 = await opened(network, B), await opened(network, B6)
        heard, heard6, cells = Listener(b), Listener(b6), Cells()
        both.attach(cells)
        both.send(B, b"\0four")
        both.send(B6, b"\0six")
        b.send_cells(cell(1), A)
        b6.send_cells(cell(2), A6)
        await asyncio.sleep(1)
        assert (heard.got, heard6.got) == ([(A, b"\0four")], [(A6, b"\0six")])
        assert isinstance(heard6.got[0][0], UDPv6Address)
        assert cells.got == [(1, B), (1, B6)]
        assert both.addresses == (A, A6)
        assert both.get_address() == A
        assert both.interfaces == {"UDPIPv4": both, "UDPIPv6": both}

    run(main())


@pytest.mark.parametrize("receiver", [B6, ("relay.example", 1), ("192.0.2.1", 0), ("192.0.2.1", 65536), ("", 1)])
def test_what_cannot_be_sent_is_counted_and_not_raised(receiver: Address) -> None:
    async def main() -> None:
        endpoint = await opened(delayed(), A)
        endpoint.send(receiver, b"\0message")
        endpoint.send_cells(cell(1) + cell(2), receiver)
        assert endpoint.counters.drops == Counter({Drop.NO_SOCKET: 3})
        assert endpoint.bytes_up == 0

    run(main())


def test_a_closed_endpoint_hears_nothing_refuses_messages_and_counts_cells() -> None:
    async def main() -> None:
        network = delayed(1.0)
        a, b = await opened(network, A), await opened(network, B)
        listener = Listener(b)
        a.send(B, b"\0too late")
        b.close()
        b.close()
        await asyncio.sleep(2)
        assert not b.is_open()
        assert listener.got == []
        for forbidden in (b.assert_open, b.get_address, lambda: b.send(A, b"\0")):
            with pytest.raises(EndpointClosedException):
                forbidden()
        b.send_cells(cell(1), A)
        assert b.counters.drops == Counter({Drop.NO_SOCKET: 1})
        assert await b.open()
        assert await b.open()
        a.send(B, b"\0in time")
        await asyncio.sleep(2)
        assert listener.got == [(A, b"\0in time")]

    run(main())


def test_an_endpoint_opens_as_a_whole_or_not_at_all() -> None:
    async def main() -> None:
        network = delayed()
        await opened(network, A6)
        half = VirtualEndpoint(network, A, A6)
        with pytest.raises(LocalError, match="in use"):
            await half.open()
        assert not half.is_open()
        await opened(network, A)

    run(main())


@pytest.mark.parametrize("binds", [(), (A, B), (A6, B6), (("relay.example", 1),)])
def test_an_endpoint_has_one_numeric_address_of_a_family(binds: tuple[Address, ...]) -> None:
    async def main() -> None:
        VirtualEndpoint(delayed(), *binds)

    with pytest.raises(LocalError, match="address"):
        run(main())


def test_a_listener_or_receiver_that_raises_costs_no_other_datagram() -> None:
    async def main() -> None:
        loop, errors = running(), list[BaseException]()
        loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
        network = delayed()
        a, b = await opened(network, A), await opened(network, B)
        listener = Listener(b)

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        class Touchy(EndpointListener):
            def on_packet(self, packet: tuple[IPv8Address, bytes]) -> None:
                if packet[1] == b"\0one":
                    broken()

        b.add_listener(Touchy(b))
        b.attach(broken)
        a.send_cells(cell(1), B)
        a.send(B, b"\0one")
        a.send(B, b"\0two")
        await asyncio.sleep(1)
        assert [data for _, data in listener.got] == [b"\0one", b"\0two"]
        assert [type(error) for error in errors] == [ZeroDivisionError] * 2

    run(main())
