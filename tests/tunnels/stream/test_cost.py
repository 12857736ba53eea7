"""What a full packet of bulk data costs each end, without the circuit below."""

import gc
from collections.abc import Callable
from time import process_time
from typing import ParamSpec, TypeVar

import pytest

from tests.support.plugin import Figure, Size
from tests.tunnels.stream.pair import WEB, Pair
from tunnels.params import MAX_PACKET
from tunnels.wire.stream_frames import PACKET_HEAD_SIZE, STREAM_HEAD_SIZE

P = ParamSpec("P")
T = TypeVar("T")

DATA_SIZE = MAX_PACKET - PACKET_HEAD_SIZE - STREAM_HEAD_SIZE
BLOCK = memoryview(bytes(1 << 16))


class Stopwatch:
    """Adds up the time some functions take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def times(self, function: Callable[P, T]) -> Callable[P, T]:
        def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            begin = process_time()
            result = function(*args, **kwargs)
            self.seconds += process_time() - begin
            return result

        return timed


@pytest.mark.parametrize("lost", [0, 50], ids=["nothing lost", "2 % lost"])
def test_a_packet_costs_microseconds(lost: int, size: Size, figure: Figure, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(lambda mux, number: iter(() if lost and number % lost == lost - 1 else (0.01,)))
    stream_id = pair.near.open(WEB)
    pair.run(0.1)
    sending, receiving = Stopwatch(), Stopwatch()
    for watch, mux in ((sending, pair.near), (receiving, pair.far)):
        for name in ("payloads_to_send", "receive", "handle_timer", "next_timer", "write", "read"):
            monkeypatch.setattr(mux, name, watch.times(getattr(mux, name)))
    packets = size(small=20_000, long=200_000)
    left = packets * DATA_SIZE
    before = pair.sent[pair.near]
    gc.collect()
    while left:
        while left and (taken := pair.near.write(stream_id, BLOCK[:left])):
            left -= taken
        pair.run(0.005)
    pair.run(1.0)
    assert len(pair.read[pair.far, stream_id]) == packets * DATA_SIZE
    sent = pair.sent[pair.near] - before
    loss = "2 %" if lost else "no"
    figure(f"to send a packet and take its ACK, {loss} loss", sending.seconds / sent * 1e6, "us")
    figure(f"to receive a packet, read it and make its ACK, {loss} loss", receiving.seconds / sent * 1e6, "us")
    assert sent < 1.1 * packets
    assert (sending.seconds + receiving.seconds) / sent < 200e-6
