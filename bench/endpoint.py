"""Cells through our endpoint against cells through py-ipv8's UDPEndpoint (SPEC 1).

A process sends cells to another one on this machine, which sends every cell back; at most WINDOW are under way, so that
none is lost.  The same adapter stands on both kinds of endpoint and nothing looks into the cells: what remains is the
price of getting them in and out of the kernel.
"""

import asyncio
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

import click
from ipv8.messaging.interfaces.endpoint import Endpoint
from ipv8.messaging.interfaces.udp.endpoint import UDPEndpoint

from bench import machine
from tunnels.endpoint.adapt import cell_port
from tunnels.endpoint.batched import BatchedEndpoint
from tunnels.ids import Address
from tunnels.params import BATCH_CELLS, CELL_SIZE

TARGET: Final = 0.2
"""Time a cell may take through our endpoint, as a share of what it takes through UDPEndpoint."""

WINDOW: Final = 4 * BATCH_CELLS
"""Cells under way: they fit the receive buffer of UDPEndpoint, 755 cells."""

OURS: Final = "ours, trains"
THEIRS: Final = "py-ipv8 UDPEndpoint"

ENDPOINTS: Final[Mapping[str, Callable[[str], Endpoint]]] = {
    OURS: lambda ip: BatchedEndpoint((ip, 0)),
    "ours, single datagrams": lambda ip: BatchedEndpoint((ip, 0), batching=False),
    THEIRS: lambda ip: UDPEndpoint(ip=ip),
}


@dataclass(frozen=True, slots=True)
class Rate:
    cells: float
    """Round trips a second."""
    cpu: float
    """Microseconds of CPU, user and system, that the echoing process used for a cell in and out."""


def _where(endpoint: Endpoint) -> Address:
    ip, port = endpoint.get_address()[:2]
    return ip, port


async def _echo(name: str, parent: Connection) -> None:
    endpoint = ENDPOINTS[name]("127.9.0.2")
    await endpoint.open()
    port = cell_port(endpoint)
    echoed = 0

    def send_back(cells: bytearray | memoryview, sender: Address) -> None:
        nonlocal echoed
        echoed += len(cells) // CELL_SIZE
        port.send_cells(cells, sender)

    port.attach(send_back)
    asked = asyncio.Event()
    asyncio.get_running_loop().add_reader(parent.fileno(), asked.set)
    began = time.process_time()
    parent.send(_where(endpoint))
    await asked.wait()
    parent.send((echoed, time.process_time() - began))


def _echo_process(name: str, parent: Connection) -> None:
    asyncio.run(_echo(name, parent))


async def _send(name: str, there: Address, seconds: float) -> float:
    """Round trips a second."""
    endpoint = ENDPOINTS[name]("127.9.0.1")
    await endpoint.open()
    port = cell_port(endpoint)
    returned = 0

    def send_again(cells: bytearray | memoryview, sender: Address) -> None:
        nonlocal returned
        returned += len(cells) // CELL_SIZE
        port.send_cells(cells, sender)

    port.attach(send_again)
    began = time.perf_counter()
    port.send_cells(b"\x01" * (WINDOW * CELL_SIZE), there)
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    port.detach()
    endpoint.close()
    return returned / took


def echo(name: str, seconds: float) -> Rate:
    """One run between two processes."""
    spawn = multiprocessing.get_context("spawn")
    parent, child = spawn.Pipe()
    with closing(parent), closing(child):
        process = spawn.Process(target=_echo_process, args=(name, child))
        process.start()
        rate = asyncio.run(_send(name, parent.recv(), seconds))
        parent.send("enough")
        echoed, cpu = parent.recv()
        process.join()
    return Rate(rate, 1e6 * cpu / max(echoed, 1))


@dataclass(frozen=True, slots=True)
class Result:
    rates: Mapping[str, Rate]
    """Medians."""
    ratio: float
    """Time a cell takes, ours to theirs: median over the runs."""

    @property
    def good(self) -> bool:
        return self.ratio <= TARGET

    def as_json(self) -> dict[str, object]:
        return {
            "machine": machine(),
            "cells_per_second": {name: round(rate.cells) for name, rate in self.rates.items()},
            "cpu_us_per_cell": {name: round(rate.cpu, 2) for name, rate in self.rates.items()},
            "ratio": round(self.ratio, 2),
            "target": TARGET,
        }


def measure(runs: int, seconds: float) -> Result:
    """Each endpoint in each run, so that a machine that slows down slows all of them."""
    rates: dict[str, list[Rate]] = {name: [] for name in ENDPOINTS}
    for _ in range(runs):
        for name in ENDPOINTS:
            rates[name].append(echo(name, seconds))
    medians = {
        name: Rate(statistics.median(rate.cells for rate in some), statistics.median(rate.cpu for rate in some))
        for name, some in rates.items()
    }
    ratios = [theirs.cells / max(ours.cells, 1) for ours, theirs in zip(rates[OURS], rates[THEIRS], strict=True)]
    return Result(medians, statistics.median(ratios))


def table(result: Result) -> str:
    """For people."""
    where = machine()
    lines = [
        f"Cells sent to another process and back.  {where['cpu']}, Python {where['python']}",
        "",
        f"{'':26}{'round trips a second':>22}{'CPU a cell, in and out':>26}",
        *(f"{name:26}{rate.cells:>22,.0f}{rate.cpu:>23.2f} us" for name, rate in result.rates.items()),
        "",
        f"ratio {result.ratio:.3f}; target <= {TARGET:g}: {'met' if result.good else 'MISSED'}",
    ]
    return "\n".join(lines)


@click.command("endpoint")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(min=1), help="Times each endpoint is run.")
@click.option("--seconds", default=1.0, show_default=True, type=click.FloatRange(min=0.05), help="Length of a run.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def command(runs: int, seconds: float, as_json: bool) -> None:  # noqa: FBT001 (click passes options so)
    """Cells through our endpoint against cells through py-ipv8's.

    Neither end looks into a cell: this is what getting it in and out of the kernel costs.
    """
    result = measure(runs, seconds)
    click.echo(json.dumps(result.as_json(), indent=2) if as_json else table(result))
    if not result.good:
        raise SystemExit(1)
