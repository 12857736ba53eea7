"""One relay under load, ours beside py-ipv8's with either endpoint: how many cells pass and what each costs (SPEC 6.1).

A process sends cells of real circuits to a relay in a process of its own; a third one counts what comes out.  The rate
doubles until the relay keeps up no more: the step with the most cells through counts.

  peak     one circuit, one neighbour in and one out, cells in trains
  spread   CIRCUITS circuits between NEIGHBOURS neighbours in and as many out, cells shuffled and sent one by one

Our cells are all different, made by originators ahead of the run: a relay of ours passes none on twice.  py-ipv8 has no
such check, so its sender repeats one cell a circuit.
"""

import asyncio
import json
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from socket import socket
from statistics import median
from typing import Any, Final

import click

from bench import machine
from bench.nodes import Client
from bench.nodes import relay as node
from bench.peers import pyipv8
from bench.processes import Handlers, Process
from bench.traffic import Counted, Load, Port, blast, count, drain, udp
from tunnels.endpoint.batched import BatchedEndpoint
from tunnels.ids import Address
from tunnels.params import BATCH_CELLS, CELL_SIZE, MAX_EARLY, PAYLOAD_SIZE
from tunnels.path.directory import RelayInfo
from tunnels.wire.messages import DropMessage

OURS: Final = "ours"
PYTHON: Final = "pyipv8_python"
RUST: Final = "pyipv8_rust"
NAMES: Final[Mapping[str, str]] = {
    OURS: "ours",
    PYTHON: pyipv8.Kind.PYTHON.value,
    RUST: pyipv8.Kind.RUST.value,
}

PEAK_PYTHON: Final = 1 / 6
PEAK_RUST: Final = 1 / 2
SPREAD_RUST: Final = 1.0
"""Targets: CPU of a cell of ours, as a share of theirs."""

RATES: Final = (20_000, 40_000, 80_000, 120_000, 160_000, 240_000, 320_000)
"""Cells a second that are offered, one step after the other."""

KEEPS_UP: Final = 0.6
ENOUGH: Final = 2
"""A relay that passes less than KEEPS_UP of what is offered on is at its limit, or was disturbed: after ENOUGH such
steps the next one would say no more."""

TRAIN: Final = 40
"""Cells of a train at peak: fits a datagram of either cell size."""

Told = Mapping[str, Any]
"""A relay as one process tells another of it."""

PORT: Final = 20700
RELAY: Final[Address] = ("127.31.0.1", PORT)


@dataclass(frozen=True, slots=True)
class Shape:
    """Who sends to a relay and who hears from it."""

    neighbours: int
    circuits: int
    train: int

    @property
    def ins(self) -> list[Address]:
        return [(f"127.32.{number}.1", PORT) for number in range(self.neighbours)]

    @property
    def outs(self) -> list[Address]:
        return [(f"127.33.{number}.1", PORT) for number in range(self.neighbours)]


SHAPES: Final[Mapping[str, Shape]] = {"peak": Shape(1, 1, TRAIN), "spread": Shape(64, 1000, 1)}


# --- Processes ---------------------------------------------------------------------------------


async def our_relay(address: Address, known: Sequence[Told]) -> Handlers:
    """A process: the relay that is measured, on the endpoint of a node that owns its port."""
    endpoint = BatchedEndpoint(address)
    await endpoint.open()
    info, driver = node(address, endpoint, [RelayInfo.from_dict(each) for each in known])
    return {"info": info.to_dict, "drops": lambda: {**driver.engine.core.drops, **endpoint.counters.drops}}


async def our_receivers(addresses: Sequence[Address]) -> Handlers:
    """A process: the next hops, which count."""
    ports = [Port(address) for address in addresses]
    relays = [node(address, port, ()) for address, port in zip(addresses, ports, strict=True)]
    sockets = [port.socket for port in ports]
    return {"infos": lambda: [info.to_dict() for info, _ in relays], "drain": lambda: drain(sockets),
            "count": lambda: count(sockets)}  # fmt: skip


async def receivers(addresses: Sequence[Address]) -> Handlers:
    """A process: sockets that count."""
    sockets = [udp(address) for address in addresses]
    return {"drain": lambda: drain(sockets), "count": lambda: count(sockets)}


def shuffled(parts: Sequence[Sequence[tuple[socket, bytes]]]) -> list[tuple[socket, bytes]]:
    """All parts in random order, those of one sequence in their own order: a link mixes circuits, it does not reorder
    them.
    """
    turns = [number for number, some in enumerate(parts) for _ in some]
    secrets.SystemRandom().shuffle(turns)
    left = [iter(some) for some in parts]
    return [next(left[turn]) for turn in turns]


class _Sender:
    """Originators and their circuits, each of two hops: the relay and a next hop."""

    def __init__(self, shape: Shape, relay: RelayInfo, nexts: Sequence[RelayInfo]) -> None:
        self._shape, self._relay, self._nexts = shape, relay, nexts
        self._ports = [Port(address) for address in shape.ins]
        self._clients = [Client(port) for port in self._ports]
        self._circuits: list[tuple[Port, Client, Any]] = []
        self._load = Load(CELL_SIZE, relay.addresses[0], [])

    async def build(self) -> None:
        await asyncio.gather(*(self._build(number) for number in range(len(self._clients))))
        await self._cells(len(self._circuits) * MAX_EARLY)  # thrown away: what follows is not EARLY

    async def _build(self, number: int) -> None:
        port, client = self._ports[number], self._clients[number]
        for turn in range(number, self._shape.circuits, len(self._clients)):
            onward = self._nexts[(turn + turn // len(self._clients)) % len(self._nexts)]
            self._circuits.append((port, client, await client.build([self._relay, onward])))

    async def _cells(self, number: int) -> list[tuple[Port, bytes]]:
        """At least `number` cells, the same number for each circuit.  It takes seconds: links are looked after."""
        each, message = -(-number // len(self._circuits)), DropMessage()
        made = []
        for port, client, circuit in self._circuits:
            now, trains = client.driver.now(), []
            for start in range(0, each, BATCH_CELLS):
                for _ in range(min(BATCH_CELLS, each - start)):
                    circuit.send(message, now)
                trains += [bytes(cells) for cells, _ in client.engine.datagrams_to_send()]
                await asyncio.sleep(0)
            made.append((port, b"".join(trains)))
        return made

    async def prepare(self, rate: float, seconds: float) -> None:
        """Make the cells of one step."""
        step = CELL_SIZE * self._shape.train
        parts = [
            [(port.socket, cells[at : at + step]) for at in range(0, len(cells), step)]
            for port, cells in await self._cells(int(rate * seconds))
        ]
        self._load = Load(CELL_SIZE, self._load.receiver, shuffled(parts))

    def blast(self, rate: float, seconds: float) -> float:
        cells = sum(len(part) for _, part in self._load.parts) // CELL_SIZE
        return blast(self._load, rate, min(seconds, cells / rate))


async def our_sender(shape: Shape, relay: Told, nexts: Sequence[Told]) -> Handlers:
    """A process: the originators."""
    sender = _Sender(shape, RelayInfo.from_dict(relay), [RelayInfo.from_dict(each) for each in nexts])
    await sender.build()
    return {"prepare": sender.prepare, "blast": sender.blast}


# --- Runs --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One rate at one relay."""

    offered: float
    passed: float
    """Cells a second."""
    cpu: float
    """Microseconds of the relay's process, user and system, for each cell that came out."""


def _step(relay: Process, sender: Process, receiver: Process, size: int, rate: float, seconds: float) -> Step:
    sender.ask("prepare", rate, seconds)
    receiver.ask("drain")
    receiver.say("count")
    before = relay.ask("cpu")
    offered = sender.ask("blast", rate, seconds)
    counted: Counted = receiver.answer()
    cpu = relay.ask("cpu") - before
    cells = counted.bytes // size
    if not cells or not counted.seconds:
        raise RuntimeError("no cell came through the relay")
    return Step(offered, cells / counted.seconds, 1e6 * cpu / cells)


def _best(relay: Process, sender: Process, receiver: Process, size: int, seconds: float) -> Step:
    best, behind = Step(0, 0, 0), 0
    for rate in RATES:
        step = _step(relay, sender, receiver, size, rate, seconds)
        best = max(best, step, key=lambda each: each.passed)
        behind += step.passed < KEEPS_UP * step.offered
        if behind == ENOUGH:
            break
    return best


def run_ours(shape: Shape, seconds: float) -> Step:
    with ExitStack() as running:
        receiver = running.enter_context(Process(our_receivers, shape.outs))
        nexts = receiver.ask("infos")
        relay = running.enter_context(Process(our_relay, RELAY, nexts))
        sender = running.enter_context(Process(our_sender, shape, relay.ask("info"), nexts))
        return _best(relay, sender, receiver, CELL_SIZE, seconds)


def run_pyipv8(kind: pyipv8.Kind, shape: Shape, seconds: float) -> Step:
    crossing = pyipv8.routes(shape.ins, shape.outs, shape.circuits)
    with ExitStack() as running:
        receiver = running.enter_context(Process(receivers, shape.outs))
        relay = running.enter_context(Process(pyipv8.relay, kind, RELAY, crossing))
        sender = running.enter_context(Process(pyipv8.sender, RELAY, crossing, shape.train))
        return _best(relay, sender, receiver, pyipv8.CELL_SIZE, seconds)


RUNS: Final[Mapping[str, Callable[[Shape, float], Step]]] = {
    OURS: run_ours,
    PYTHON: lambda shape, seconds: run_pyipv8(pyipv8.Kind.PYTHON, shape, seconds),
    RUST: lambda shape, seconds: run_pyipv8(pyipv8.Kind.RUST, shape, seconds),
}


# --- Results -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rate:
    """A relay under one load, over all rounds."""

    steps: Sequence[Step]
    cell_bytes: int
    payload_bytes: int

    @property
    def cells(self) -> float:
        return median(step.passed for step in self.steps)

    @property
    def cpu(self) -> float:
        return median(step.cpu for step in self.steps)

    def as_json(self) -> dict[str, float]:
        cpu = [step.cpu for step in self.steps]
        return {
            "cells_per_s": round(self.cells),
            "cpu_us_per_cell": round(self.cpu, 2),
            "cpu_us_per_cell_low": round(min(cpu), 2),
            "cpu_us_per_cell_high": round(max(cpu), 2),
            "cpu_ns_per_byte": round(1e3 * self.cpu / self.cell_bytes, 2),
            "cell_bytes": self.cell_bytes,
            "payload_bytes": self.payload_bytes,
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """CPU of a cell, ours to theirs: median of the rounds."""

    load: str
    other: str
    value: float
    target: float

    @property
    def good(self) -> bool:
        return self.value <= self.target


@dataclass(frozen=True, slots=True)
class Result:
    rates: Mapping[str, Mapping[str, Rate]]
    """By load, then by implementation."""

    @property
    def ratios(self) -> list[Ratio]:
        wanted = [("peak", PYTHON, PEAK_PYTHON), ("peak", RUST, PEAK_RUST), ("spread", RUST, SPREAD_RUST)]
        return [Ratio(load, other, self._ratio(load, other), target) for load, other, target in wanted]

    def _ratio(self, load: str, other: str) -> float:
        rates = self.rates[load]
        pairs = zip(rates[OURS].steps, rates[other].steps, strict=True)
        return median(ours.cpu / theirs.cpu for ours, theirs in pairs)

    @property
    def good(self) -> bool:
        return all(ratio.good for ratio in self.ratios)

    def as_json(self) -> dict[str, object]:
        figures: dict[str, object] = {"machine": machine()}
        for name in NAMES:
            figures[name] = {**self.rates["peak"][name].as_json(), "spread": self.rates["spread"][name].as_json()}
        figures["cpu_ratios"] = [
            {"load": ratio.load, "to": ratio.other, "ratio": round(ratio.value, 3), "target": round(ratio.target, 3)}
            for ratio in self.ratios
        ]
        return figures


_SIZES: Final = {
    OURS: (CELL_SIZE, PAYLOAD_SIZE),
    PYTHON: (pyipv8.CELL_SIZE, pyipv8.PAYLOAD),
    RUST: (pyipv8.CELL_SIZE, pyipv8.PAYLOAD),
}


def measure(runs: int, seconds: float) -> Result:
    """Every load at every relay in each round, so that a machine that slows down slows all of them."""
    steps: dict[str, dict[str, list[Step]]] = {load: {name: [] for name in NAMES} for load in SHAPES}
    for _ in range(runs):
        for load, shape in SHAPES.items():
            for name, run in RUNS.items():
                steps[load][name].append(run(shape, seconds))
    return Result({load: {name: Rate(some, *_SIZES[name]) for name, some in each.items()}
                   for load, each in steps.items()})  # fmt: skip


def table(result: Result) -> str:
    """For people."""
    where = machine()
    lines = [f"Cells through one relay.  {where['cpu']}, {where['cores']} cores, Python {where['python']}"]
    for load, shape in SHAPES.items():
        circuits = (
            f"{shape.circuits} circuit{'s' * (shape.circuits > 1)}, {shape.neighbours} in, {shape.neighbours} out"
        )
        lines += ["", f"{f'{load}: {circuits}':40}{'cells/s':>10}{'CPU a cell':>13}{'spread':>18}{'a byte':>11}"]
        for name, rate in result.rates[load].items():
            f = rate.as_json()
            lines.append(
                f"  {NAMES[name] + f', {rate.cell_bytes} bytes':38}{rate.cells:>10,.0f}{rate.cpu:>10.2f} us"
                f"{f['cpu_us_per_cell_low']:>10.2f} to {f['cpu_us_per_cell_high']:.2f}{f['cpu_ns_per_byte']:>8.2f} ns"
            )
    lines.append("")
    lines += [
        f"CPU of a cell, {ratio.load}, ours to {NAMES[ratio.other]}: {ratio.value:.3f}; "
        f"target <= {ratio.target:.3f}: {'met' if ratio.good else 'MISSED'}"
        for ratio in result.ratios
    ]
    return "\n".join(lines)


@click.command("relay")
@click.option("--runs", default=3, show_default=True, type=click.IntRange(min=1), help="Rounds.")
@click.option("--seconds", default=0.5, show_default=True, type=click.FloatRange(min=0.01), help="Length of a step.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def command(runs: int, seconds: float, as_json: bool) -> None:  # noqa: FBT001 (click passes options so)
    """Cells through one relay, against py-ipv8's relays in Python and Rust.

    Fails when a cell of ours takes more CPU than its target allows, as a share of theirs.
    """
    if sys.platform != "linux":
        raise click.ClickException("cells in bulk need what only Linux has: UDP_SEGMENT, UDP_GRO, epoll and MSG_TRUNC")
    result = measure(runs, seconds)
    click.echo(json.dumps(result.as_json(), indent=2) if as_json else table(result))
    if not result.good:
        raise SystemExit(1)
