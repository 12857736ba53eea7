"""A small world whose every event goes into one hash: `python -m tests.sim.trace SEED`.

What must not matter is made to differ from run to run: os.urandom here, PYTHONHASHSEED by whoever starts this.
"""

import asyncio
import hashlib
import os
import sys
from functools import partial

ENTROPY = os.urandom(1)[0]
os.urandom = lambda size: bytes([ENTROPY]) * size

# Only now, so that nothing of ours has seen the real one.
from sim.loop import run, running  # noqa: E402
from sim.network import Datagram, Pipe, VirtualNetwork, Where, uniform, unit  # noqa: E402
from tunnels.crypto.rng import StreamRng  # noqa: E402
from tunnels.ids import Address  # noqa: E402

NODES = 30


async def world(seed: bytes) -> str:
    loop, rng, trace = running(), StreamRng(seed), hashlib.sha256()
    network = VirtualNetwork(
        loop,
        rng,
        lambda *_: (Pipe(delay=uniform(0.01, 0.1), loss=0.05, duplicate=0.05, reorder=0.1, hold=0.3, rate=1e5),),
    )

    def note(where: Where, seen: Datagram) -> None:
        trace.update(f"{seen.time.hex()} {where.name} {seen.source} {seen.destination} {seen.data!r}\n".encode())

    network.tap(lambda seen: note(Where.SENDER, seen), Where.SENDER)
    network.tap(lambda seen: note(Where.RECEIVER, seen), Where.RECEIVER)

    def echo(number: int, datagrams: list[bytes], source: Address) -> None:
        for datagram in datagrams:
            if len(datagram) < 40:
                sockets[number].send(datagram + bytes([number]), source)

    sockets = [network.open((f"192.0.2.{number}", 0), partial(echo, number)) for number in range(NODES)]

    async def talk(number: int) -> None:
        for _ in range(20):
            await asyncio.sleep(unit(rng))
            sockets[number].send(b"hello", sockets[rng.below(NODES)].address)

    pending: set[asyncio.Task[None]] = {asyncio.create_task(talk(number)) for number in range(NODES)}
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            trace.update(f"{task.get_name()} is done\n".encode())
        if loop.time() > 10.0:
            for task in pending:
                task.cancel()
    async with asyncio.TaskGroup() as group:
        group.create_task(talk(0))
        group.create_task(talk(1))
    await asyncio.sleep(60)
    trace.update(repr(network.totals()).encode())
    return trace.hexdigest()


if __name__ == "__main__":
    sys.stdout.write(run(world(bytes([int(sys.argv[1])]) * 32)) + "\n")
