"""What a virtual datagram costs in real time.  Nothing is asserted: the machine may be busy."""

from collections.abc import Callable
from time import perf_counter

import pytest

from sim.loop import run, running
from sim.network import Link, Pipe, Socket, VirtualNetwork, uniform
from tests.support.plugin import Figure, Size
from tunnels.crypto.rng import StreamRng
from tunnels.ids import Address

NODES = 2000
PAYLOAD = bytes([1]) * 1350


CASES: dict[str, tuple[Callable[[], Link], int]] = {
    "fixed delay, alone": (lambda: Pipe(delay=0.05), 1),
    "fixed delay, bursts of 48": (lambda: Pipe(delay=0.05), 48),
    "random delay and loss, alone": (lambda: Pipe(delay=uniform(0.01, 0.09), loss=0.001), 1),
    "10 Mbit/s, bursts of 8": (lambda: Pipe(delay=0.05, rate=1.25e6), 8),
}


async def flow(make_link: Callable[[], Link], burst: int, total: int) -> float:
    """Real seconds a datagram.  Every burst makes its receiver send the next one, to one of 16 others in turn."""
    loop, turns, arrived = running(), [0] * NODES, 0
    network = VirtualNetwork(loop, StreamRng(bytes(32)), lambda *_: (make_link(),))
    done = loop.create_future()
    sockets: list[Socket] = []

    def receiver(me: int) -> Callable[[list[bytes], Address], None]:
        def receive(arrivals: list[bytes], source: Address) -> None:
            nonlocal arrived
            arrived += len(arrivals)
            if arrived >= total:
                if not done.done():
                    done.set_result(None)
                return
            turns[me] += 1
            sockets[me].send_many(arrivals, sockets[(me + 1 + turns[me] % 16 * 7) % NODES].address)

        return receive

    sockets += [network.open((f"10.{i >> 8}.{i & 255}.1", 1), receiver(i)) for i in range(NODES)]
    begin = perf_counter()
    for i in range(NODES):
        sockets[i].send_many([PAYLOAD] * burst, sockets[(i + 1) % NODES].address)
    await done
    return (perf_counter() - begin) / arrived


@pytest.mark.parametrize("name", CASES)
def test_a_virtual_datagram_costs_microseconds(name: str, size: Size, figure: Figure) -> None:
    make_link, burst = CASES[name]
    figure(f"virtual datagram: {name}", run(flow(make_link, burst, size(small=20_000, long=500_000))) * 1e6, "us")
