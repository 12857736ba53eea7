"""SPEC 1 on real sockets: cells to the receiver, IPv8 messages to IPv8, in batches where the system has them."""

import asyncio
import logging
import socket
from typing import Any

import pytest
from ipv8.messaging.interfaces.endpoint import EndpointClosedException
from ipv8.messaging.interfaces.udp.endpoint import UDPv4Address, UDPv6Address

from tests.tunnels.endpoint.loopback import (
    Ear,
    MessageEar,
    Rascal,
    Rascals,
    cell,
    cells,
    descriptors,
    run,
    settled,
    train,
    udp,
    until,
)
from tunnels.endpoint.batched import BatchedEndpoint
from tunnels.endpoint.face import CellPort
from tunnels.errors import EndpointError, LocalError
from tunnels.ids import Address, Drop
from tunnels.params import BATCH_CELLS, CELL_SIZE, IPV8_WEIGHT, SOCKET_RECEIVE_BUFFER

HERE, THERE, ELSEWHERE = ("127.1.0.1", 0), ("127.2.0.1", 0), ("127.3.0.1", 0)
HERE6 = ("::1", 0)

linux = pytest.mark.skipif(not hasattr(socket, "AF_PACKET"), reason="UDP_SEGMENT exists on Linux only, run it there")
both_ways = pytest.mark.parametrize("how", [{"batching": True}, {"batching": False}], ids=["trains", "singles"])
both_families = pytest.mark.parametrize("bind", [HERE, HERE6], ids=["IPv4", "IPv6"])


async def opened(*binds: Address, **how: Any) -> BatchedEndpoint:
    endpoint = BatchedEndpoint(*binds, **how)
    assert await endpoint.open()
    return endpoint


async def listening(*binds: Address, **how: Any) -> tuple[BatchedEndpoint, Ear]:
    """An endpoint whose cells and messages end up in one log."""
    endpoint = await opened(*binds, **how)
    ear = Ear().on(endpoint)
    MessageEar(endpoint, ear)
    return endpoint, ear


def address(endpoint: BatchedEndpoint) -> Address:
    return endpoint.addresses[0]


@both_families
@both_ways
def test_what_is_sent_arrives_whole_and_in_order_with_the_address_of_its_sender(
    bind: Address, how: dict[str, bool]
) -> None:
    async def scenario() -> None:
        sender = await opened(bind, **how)
        receiver, ear = await listening(bind, **how)
        sender.send_cells(cells(0, 150), address(receiver))
        sender.send_cells(cell(150), address(receiver))
        await ear.hears(151)
        assert ear.heard == cells(0, 151)
        assert {source for _, source in ear.runs} == {address(sender)}
        assert max(len(run) for run, _ in ear.runs) <= BATCH_CELLS * CELL_SIZE
        assert (sender.counters.cells_out, receiver.counters.cells_in) == (151, 151)
        assert (sender.bytes_up, receiver.bytes_down) == (151 * CELL_SIZE, 151 * CELL_SIZE)
        assert not sender.counters.drops + receiver.counters.drops
        assert not sender.counters.errors + receiver.counters.errors
        sender.close()
        receiver.close()

    run(scenario)


@linux
def test_a_batch_is_one_call_to_the_kernel_and_one_to_the_receiver() -> None:
    async def scenario() -> None:
        rascals = Rascals()
        sender = await opened(HERE, open_socket=rascals)
        receiver, ear = await listening(THERE)
        sender.send_cells(cells(0, BATCH_CELLS), address(receiver))
        await ear.hears(BATCH_CELLS)
        assert rascals.made[0].calls == [("sendmsg", BATCH_CELLS * CELL_SIZE, address(receiver))]
        assert [len(run) for run, _ in ear.runs] == [BATCH_CELLS * CELL_SIZE]
        sender.close()
        receiver.close()

    run(scenario)


@both_ways
def test_single_cells_of_one_sender_are_put_together_and_those_of_two_never(how: dict[str, bool]) -> None:
    async def scenario() -> None:
        receiver, ear = await listening(HERE, **how)
        one, two = udp("127.2.0.1"), udp("127.3.0.1")
        for number in range(6):
            one.sendto(cell(number), address(receiver))
        for number in range(6, 8):
            two.sendto(cell(number), address(receiver))
        one.sendto(cell(8), address(receiver))
        await ear.hears(9)
        assert ear.runs == [
            (cells(0, 6) + cell(8), one.getsockname()),
            (cells(6, 2), two.getsockname()),
        ]
        one.close()
        two.close()
        receiver.close()

    run(scenario)


@linux
def test_trains_of_one_sender_are_put_together_only_as_far_as_a_run_may_be_long() -> None:
    async def scenario() -> None:
        receiver, ear = await listening(HERE)
        raw = udp()
        for first, number in ((0, 10), (10, 30), (40, 30), (70, 18), (88, 5)):
            train(raw, cells(first, number), CELL_SIZE, address(receiver))
        await ear.hears(93)
        assert [data for data, _ in ear.runs] == [cells(0, 48), cells(48, 45)]
        raw.close()
        receiver.close()

    run(scenario)


@linux
def test_trains_of_two_senders_in_turn_never_run_out_of_buffer() -> None:
    async def scenario() -> None:
        receiver, ear = await listening(HERE)
        senders = [udp("127.2.0.1"), udp("127.3.0.1")]
        for number in range(12):
            train(senders[number % 2], cells(20 * number, 20), CELL_SIZE, address(receiver))
        await ear.hears(240)
        for first, sender in enumerate(senders):
            runs = [data for data, source in ear.runs if source == sender.getsockname()]
            assert b"".join(runs) == b"".join(cells(20 * number, 20) for number in range(first, 12, 2))
            assert max(map(len, runs)) <= BATCH_CELLS * CELL_SIZE
        assert not receiver.counters.drops
        for sender in senders:
            sender.close()
        receiver.close()

    run(scenario)


def test_many_senders_in_turn_are_kept_apart_however_much_they_send() -> None:
    async def scenario() -> None:
        receiver, ear = await listening(HERE)
        senders = [udp(f"127.2.0.{i + 1}") for i in range(3)]
        for number in range(150):
            senders[number % 3].sendto(cell(number), address(receiver))
        await ear.hears(150)
        for first, sender in enumerate(senders):
            heard = [data for data, source in ear.runs if source == sender.getsockname()]
            assert b"".join(heard) == b"".join(cell(number) for number in range(first, 150, 3))
            assert len(heard) < 50
        for sender in senders:
            sender.close()
        receiver.close()

    run(scenario)


@both_ways
def test_the_receiver_may_rewrite_what_it_is_given(how: dict[str, bool]) -> None:
    async def scenario() -> None:
        sender, receiver = await opened(HERE), await opened(THERE, **how)
        kept: list[bytes] = []

        def rewrite(run: bytearray | memoryview, source: Address) -> None:
            kept.append(bytes(run))
            run[:] = b"\x00" * len(run)
            receiver.send_cells(cell(7), source)

        receiver.attach(rewrite)
        ear = Ear().on(sender)
        for first in range(0, 500, 100):
            sender.send_cells(cells(first, 100), address(receiver))
            await until(lambda first=first: sum(map(len, kept)) == (first + 100) * CELL_SIZE)  # type: ignore[misc]
        assert b"".join(kept) == cells(0, 500)
        await ear.hears(len(kept))
        sender.close()
        receiver.close()

    run(scenario)


# --- cells among other datagrams


@linux
@both_families
def test_messages_between_the_cells_of_one_train_reach_ipv8_and_the_cells_do_not(bind: Address) -> None:
    async def scenario() -> None:
        receiver, ear = await listening(bind)
        raw = udp(bind[0])
        message = b"\x00" + bytes(range(1, 251)) * 5 + b"m" * 99
        assert len(message) == CELL_SIZE
        train(raw, cell(1) + cell(2) + message + cell(3) + b"\x00short", CELL_SIZE, address(receiver))
        await until(lambda: len(ear.log) == 4)
        source = raw.getsockname()[:2]
        assert ear.log == [
            ("cells", cells(1, 2), source),
            ("message", message, source),
            ("cells", cell(3), source),
            ("message", b"\x00short", source),
        ]
        assert {type(source) for _, source in ear.messages} == {UDPv6Address if ":" in bind[0] else UDPv4Address}
        assert {type(source) for _, source in ear.runs} == {tuple}
        assert (receiver.counters.messages_in, receiver.counters.cells_in) == (2, 3)
        assert not receiver.counters.drops
        raw.close()
        receiver.close()

    run(scenario)


@linux
def test_messages_as_long_as_cells_are_told_apart_in_a_train_that_has_no_short_end() -> None:
    async def scenario() -> None:
        receiver, ear = await listening(HERE)
        raw = udp()
        message = b"\x00" + cell(2)[1:]
        train(raw, cell(1) + message + cell(3), CELL_SIZE, address(receiver))
        await until(lambda: len(ear.log) == 3)
        assert [(kind, data) for kind, data, _ in ear.log] == [
            ("cells", cell(1)),
            ("message", message),
            ("cells", cell(3)),
        ]
        raw.close()
        receiver.close()

    run(scenario)


@linux
def test_the_short_end_of_a_train_is_dropped_and_the_cells_before_it_are_not() -> None:
    async def scenario() -> None:
        receiver, ear = await listening(HERE)
        raw = udp()
        train(raw, cells(1, 3) + cell(4)[:-1], CELL_SIZE, address(receiver))
        await ear.hears(3)
        await settled(ear)
        assert ear.log == [("cells", cells(1, 3), raw.getsockname())]
        assert receiver.counters.drops == {Drop.WRONG_SIZE: 1}
        raw.close()
        receiver.close()

    run(scenario)


@linux
@pytest.mark.parametrize("segment", [CELL_SIZE // 2, CELL_SIZE // 5, 2 * CELL_SIZE])
def test_a_train_of_other_sizes_is_never_cells_even_where_the_sum_is(segment: int) -> None:
    async def scenario() -> None:
        receiver, ear = await listening(HERE)
        raw = udp()
        train(raw, b"\x07" * 4 * CELL_SIZE, segment, address(receiver))
        raw.sendto(cell(9), address(receiver))
        await ear.hears(1)
        assert ear.log == [("cells", cell(9), raw.getsockname())]
        assert receiver.counters.drops == {Drop.WRONG_SIZE: 4 * CELL_SIZE // segment}
        raw.close()
        receiver.close()

    run(scenario)


@both_ways
def test_garbage_is_counted_and_reaches_nobody(how: dict[str, bool]) -> None:
    async def scenario() -> None:
        receiver, ear = await listening(HERE, **how)
        raw = udp()
        garbage = [b"", b"\x01", cell(1)[:-1], cell(1) + b"\x01", cells(1, 2), b"\x7f" * 40000]
        for datagram in garbage:
            raw.sendto(datagram, address(receiver))
        raw.sendto(cell(5), address(receiver))
        await ear.hears(1)
        assert ear.log == [("cells", cell(5), raw.getsockname())]
        assert receiver.counters.drops == {Drop.WRONG_SIZE: len(garbage)}
        raw.close()
        receiver.close()

    run(scenario)


def test_a_listener_that_fails_costs_no_other_datagram_and_the_loop_is_told() -> None:
    async def scenario() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        receiver = await opened(HERE, batching=False)
        ear = Ear()

        def fail(run: bytearray | memoryview, sender: Address) -> None:
            ear.hear_cells(run, sender)
            raise ZeroDivisionError

        receiver.attach(fail)
        MessageEar(receiver, ear)
        raw = udp()
        for datagram in (cell(1), b"\x00m", cell(2)):
            raw.sendto(datagram, address(receiver))
        await ear.hears(2)
        assert [kind for kind, _, _ in ear.log] == ["cells", "message", "cells"]
        assert [type(exception) for exception in told] == [ZeroDivisionError] * 2
        raw.close()
        receiver.close()

    run(scenario)


@pytest.mark.parametrize(("datagram", "at_most"), [(cell(1), 64), (b"\0m", 64 // IPV8_WEIGHT), (b"\1", 64)])
@both_ways
def test_a_flood_leaves_turns_of_the_loop_to_others(
    datagram: bytes, at_most: int, how: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnels.endpoint.udp.WAKE_DATAGRAMS", 64)

    async def scenario() -> None:
        receiver, _ = await listening(HERE, **how)
        raw = udp()
        for _ in range(150):
            raw.sendto(datagram, address(receiver))
        most = taken = 0
        while taken < 150:
            await asyncio.sleep(0)
            counters = receiver.counters
            now = counters.cells_in + counters.messages_in + counters.drops[Drop.WRONG_SIZE]
            most, taken = max(most, now - taken), now
        assert 1 < most <= at_most
        raw.close()
        receiver.close()

    run(scenario)


# --- what IPv8 asks of an endpoint


def test_ipv8_messages_go_out_as_they_are_and_come_in_with_ipv8s_addresses() -> None:
    async def scenario() -> None:
        sender, _ = await listening(HERE)
        receiver, ear = await listening(THERE)
        sender.send(UDPv4Address(*address(receiver)), b"\x00hello")
        sender.send(address(receiver), b"\x00" * 3000)
        await until(lambda: len(ear.messages) == 2)
        assert ear.messages == [(b"\x00hello", address(sender)), (b"\x00" * 3000, address(sender))]
        assert isinstance(ear.messages[0][1], UDPv4Address)
        assert sender.counters.messages_out == receiver.counters.messages_in == 2
        assert (sender.bytes_up, receiver.bytes_down) == (3006, 3006)
        sender.reset_byte_counters()
        assert (sender.bytes_up, sender.bytes_down) == (0, 0)
        sender.close()
        receiver.close()

    run(scenario)


@pytest.mark.parametrize(
    "receiver", [("localhost", 9), ("relay.example", 9), ("", 9), ("127.1", 9), ("127.0.0.1", 0), ("127.0.0.1", 65536)]
)
def test_a_name_never_reaches_the_resolver_nor_an_impossible_port_the_kernel(receiver: Address) -> None:
    async def scenario() -> None:
        rascals = Rascals()
        endpoint = await opened(HERE, open_socket=rascals)
        endpoint.send(receiver, b"\x00message")
        endpoint.send_cells(cells(0, 3), receiver)
        assert rascals.made[0].calls == []
        assert endpoint.counters.drops == {Drop.NO_SOCKET: 4}
        endpoint.close()

    run(scenario)


def test_a_closed_endpoint_says_so_to_ipv8_and_counts_cells() -> None:
    async def scenario() -> None:
        endpoint = await opened(HERE)
        there = address(endpoint)
        endpoint.close()
        endpoint.close()
        assert not endpoint.is_open()
        assert endpoint.addresses == ()
        with pytest.raises(EndpointClosedException):
            endpoint.send(there, b"\x00")
        with pytest.raises(EndpointClosedException):
            endpoint.get_address()
        endpoint.send_cells(cells(0, 2), there)
        assert endpoint.counters.drops == {Drop.NO_SOCKET: 2}

    run(scenario)


def test_an_endpoint_opens_once_and_again_after_it_was_closed() -> None:
    async def scenario() -> None:
        endpoint, ear = await listening(HERE)
        there = address(endpoint)
        assert await endpoint.open()
        assert endpoint.addresses == (there,)
        endpoint.close()
        assert await endpoint.open()
        raw = udp()
        raw.sendto(cell(1), address(endpoint))
        await ear.hears(1)
        raw.close()
        endpoint.close()

    run(scenario)


def test_nothing_is_handed_out_after_close_even_of_the_train_at_hand() -> None:
    async def scenario() -> None:
        endpoint = await opened(HERE, batching=False)
        ear = Ear()

        def close(run: bytearray | memoryview, sender: Address) -> None:
            ear.hear_cells(run, sender)
            endpoint.close()

        endpoint.attach(close)
        MessageEar(endpoint, ear)
        one, two = udp("127.2.0.1"), udp("127.3.0.1")
        for sock, datagram in ((one, cell(1)), (two, cell(2)), (two, b"\x00m"), (one, cell(3))):
            sock.sendto(datagram, address(endpoint))
        await ear.hears(1)
        await settled(ear)
        assert ear.log == [("cells", cell(1), one.getsockname())]
        assert not endpoint.counters.errors
        one.close()
        two.close()

    run(scenario)


@linux
def test_a_listener_that_closes_the_endpoint_ends_the_train_too() -> None:
    async def scenario() -> None:
        endpoint = await opened(HERE)
        ear = Ear()

        def close(received: bytearray | memoryview, sender: Address) -> None:
            ear.hear_cells(received, sender)
            endpoint.close()

        endpoint.attach(close)
        MessageEar(endpoint, ear)
        raw = udp()
        train(raw, cell(1) + b"\x00" + cell(2)[1:] + cell(3), CELL_SIZE, address(endpoint))
        await ear.hears(1)
        await settled(ear)
        assert ear.log == [("cells", cell(1), raw.getsockname())]
        assert endpoint.counters.messages_in == 0
        raw.close()

    run(scenario)


def test_opening_and_closing_leaves_no_descriptor_behind() -> None:
    async def scenario() -> None:
        before = descriptors()
        for _ in range(30):
            endpoint = await opened(HERE, HERE6)
            endpoint.send_cells(cells(0, 2), address(endpoint))
            endpoint.close()
        assert descriptors() == before

    run(scenario)


def test_an_address_in_use_is_a_typed_error_and_nothing_stays_open() -> None:
    async def scenario() -> None:
        raw = udp(HERE[0])
        taken = raw.getsockname()
        before = descriptors()
        endpoint = BatchedEndpoint(THERE, taken)
        with pytest.raises(EndpointError, match=rf"127\.1\.0\.1 port {taken[1]}.*EADDRINUSE"):
            await endpoint.open()
        assert not endpoint.is_open()
        assert descriptors() == before
        raw.close()

    run(scenario)


def test_a_loop_that_cannot_watch_sockets_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        def refuse(*_: Any) -> None:
            raise NotImplementedError

        monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", refuse)
        before = descriptors()
        with pytest.raises(EndpointError, match="SelectorEventLoop"):
            await BatchedEndpoint(HERE).open()
        assert descriptors() == before

    run(scenario)


@pytest.mark.parametrize("binds", [(), (("localhost", 1),), (HERE, ("", 1))])
def test_an_endpoint_without_a_numeric_address_is_our_own_fault(binds: tuple[Address, ...]) -> None:
    with pytest.raises(LocalError):
        BatchedEndpoint(*binds)


def test_an_endpoint_is_a_cell_port_with_one_receiver_at_a_time() -> None:
    async def scenario() -> None:
        endpoint, ear = await listening(HERE)
        assert isinstance(endpoint, CellPort)
        with pytest.raises(LocalError):
            endpoint.attach(ear.hear_cells)
        raw = udp()
        endpoint.detach()
        endpoint.detach()
        raw.sendto(cell(1), address(endpoint))
        await until(lambda: endpoint.counters.drops[Drop.NO_RECEIVER] == 1)
        endpoint.attach(ear.hear_cells)
        raw.sendto(cell(2), address(endpoint))
        await ear.hears(1)
        assert ear.heard == cell(2)
        raw.close()
        endpoint.close()

    run(scenario)


@pytest.mark.parametrize("size", [0, 1, CELL_SIZE - 1, CELL_SIZE + 1])
def test_a_broken_cell_is_our_own_fault_and_is_not_sent(size: int) -> None:
    async def scenario() -> None:
        endpoint, ear = await listening(HERE)
        with pytest.raises(LocalError):
            endpoint.send_cells(bytes(size), address(endpoint))
        await settled(ear)
        assert ear.log == []
        assert endpoint.counters.cells_out == 0
        endpoint.close()

    run(scenario)


def test_the_operator_of_a_small_receive_buffer_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Small(Rascal):
        def getsockopt(self, *_: Any) -> Any:
            return SOCKET_RECEIVE_BUFFER // 10

    async def scenario() -> None:
        (await opened(HERE, open_socket=Small)).close()

    with caplog.at_level(logging.INFO, "tunnels.endpoint.batched"):
        run(scenario)
    assert "net.core.rmem_max" in caplog.text


# --- several addresses


def test_both_families_in_one_endpoint() -> None:
    async def scenario() -> None:
        endpoint, ear = await listening(HERE6, HERE)
        peer4, ear4 = await listening(THERE)
        peer6, ear6 = await listening(HERE6)
        for peer in (peer4, peer6):
            endpoint.send_cells(cell(1), address(peer))
            endpoint.send(address(peer), b"\x00m")
        for there in (ear4, ear6):
            await until(lambda there=there: len(there.log) == 2)  # type: ignore[misc]
        assert [source for _, source in ear4.runs] == [endpoint.addresses[1]]
        assert [source for _, source in ear6.runs] == [endpoint.addresses[0]]
        peer4.send_cells(cell(4), endpoint.addresses[1])
        peer6.send_cells(cell(6), endpoint.addresses[0])
        await ear.hears(2)
        assert sorted(ear.runs) == [(cell(4), address(peer4)), (cell(6), address(peer6))]
        assert endpoint.get_address() == UDPv4Address(*endpoint.addresses[1])
        assert endpoint.interfaces == {"UDPIPv4": endpoint, "UDPIPv6": endpoint}
        for each in (endpoint, peer4, peer6):
            each.close()

    run(scenario)


def test_an_ipv6_socket_leaves_ipv4_alone() -> None:
    set_options: list[tuple[int, int, Any]] = []

    async def scenario() -> None:
        (await opened(HERE6, open_socket=Rascals(lambda *option: set_options.append(option)))).close()

    run(scenario)
    assert (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1) in set_options


@pytest.mark.parametrize(("bind", "elsewhere"), [(HERE, ("::1", 9)), (HERE6, ("127.0.0.1", 9))])
def test_a_family_without_a_socket_is_counted(bind: Address, elsewhere: Address) -> None:
    async def scenario() -> None:
        endpoint = await opened(bind)
        endpoint.send_cells(cells(0, 5), elsewhere)
        endpoint.send(elsewhere, b"\x00")
        assert endpoint.counters.drops == {Drop.NO_SOCKET: 6}
        endpoint.close()

    run(scenario)


def test_with_several_addresses_a_sender_is_answered_from_the_one_it_wrote_to() -> None:
    async def scenario() -> None:
        endpoint, ear = await listening(HERE, THERE)
        peer, answers = await listening(ELSEWHERE)
        for to, number in ((1, 1), (0, 2), (1, 3)):
            peer.send_cells(cell(number), endpoint.addresses[to])
            await ear.hears(len(ear.runs) + 1)
            endpoint.send_cells(cell(number), address(peer))
            await answers.hears(len(answers.runs) + 1)
        assert [source for _, source in answers.runs] == [endpoint.addresses[to] for to in (1, 0, 1)]
        endpoint.close()
        peer.close()

    run(scenario)


def test_the_memory_of_who_wrote_where_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnels.endpoint.batched.HEARD_ON", 2)

    async def scenario() -> None:
        endpoint, ear = await listening(HERE, THERE)
        peers = [await listening(ELSEWHERE) for _ in range(3)]
        for number, (peer, _) in enumerate(peers):
            peer.send_cells(cell(number), endpoint.addresses[1])
            await ear.hears(number + 1)
        for number, (peer, answers) in enumerate(peers):
            endpoint.send_cells(cell(number), address(peer))
            await answers.hears(1)
        answered_from = [answers.runs[0][1] for _, answers in peers]
        assert answered_from == [endpoint.addresses[0], endpoint.addresses[1], endpoint.addresses[1]]
        for each in (endpoint, *(peer for peer, _ in peers)):
            each.close()

    run(scenario)
