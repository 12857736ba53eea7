"""Building circuits, ours beside py-ipv8's: how long one takes and how many a second (SPEC 5, 7.1, 7.2).

Every node has a process and a port on loopback.  A circuit counts when its originator may use it, and is closed again.
Ours cost an ML-KEM-768 exchange a hop besides the X25519 ones that both do.  Links are up before the clock starts, as
py-ipv8's nodes have met before.
"""

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import click

from bench import machine
from bench.nodes import Client
from bench.nodes import relay as node
from bench.peers import pyipv8
from bench.processes import Handlers, Process
from bench.rate import AT_ONCE, rate
from tunnels.endpoint.batched import BatchedEndpoint
from tunnels.ids import Address, CloseReason
from tunnels.path.directory import RelayInfo

OURS: Final = "ours"
THEIRS: Final = "pyipv8_python"
NAMES: Final[Mapping[str, str]] = {OURS: "ours", THEIRS: pyipv8.Kind.PYTHON.value}

HOPS: Final = (1, 2, 3, 6)
RATE_HOPS: Final = 3
"""Hops of the circuits that are counted in a second: what users have."""

TARGET: Final = 1.0
"""Time to build a circuit of RATE_HOPS hops, as a share of theirs."""

RELAYS: Final = 10
"""py-ipv8 finds the way to a sixth hop only where there are several more."""

PORT: Final = 20800
CLIENT: Final[Address] = ("127.41.0.1", PORT)
ADDRESSES: Final[Sequence[Address]] = [(f"127.{42 + number}.0.1", PORT) for number in range(RELAYS)]


async def our_relay(address: Address) -> Handlers:
    """A process: a relay that is told of the others."""
    endpoint = BatchedEndpoint(address)
    await endpoint.open()
    info, driver = node(address, endpoint, ())

    def learn(told: Sequence[Mapping[str, Any]]) -> None:
        for each in told:
            driver.engine.core.directory.add(RelayInfo.from_dict(each))

    return {"info": info.to_dict, "learn": learn}


async def our_client(address: Address, told: Sequence[Mapping[str, Any]]) -> Handlers:
    """A process: an originator."""
    endpoint = BatchedEndpoint(address)
    await endpoint.open()
    client, relays = Client(endpoint), [RelayInfo.from_dict(each) for each in told]

    async def build(hops: int) -> float:
        """Seconds until a circuit of `hops` hops is open; it is closed again."""
        path = secrets.SystemRandom().sample(relays, hops)
        began = time.perf_counter()
        circuit = await client.build(path)
        took = time.perf_counter() - began
        circuit.close(CloseReason.REQUESTED, client.driver.now())
        client.driver.wake()
        return took

    return {"build": build, "rate": lambda hops, number: rate(build, hops, number)}


@dataclass(frozen=True, slots=True)
class Builds:
    """What one implementation did."""

    times: Mapping[int, Sequence[float]]
    """Seconds, by hops."""
    rates: Sequence[float]
    """Circuits of RATE_HOPS hops a second."""

    def milliseconds(self, hops: int) -> float:
        return 1e3 * median(self.times[hops])

    @property
    def rate(self) -> float:
        return median(self.rates)

    def as_json(self) -> dict[str, object]:
        return {
            "build_ms": {str(hops): round(self.milliseconds(hops), 2) for hops in self.times},
            "circuits_per_s": round(self.rate, 1),
            "circuits_per_s_hops": RATE_HOPS,
        }


@dataclass(frozen=True, slots=True)
class Result:
    builds: Mapping[str, Builds]

    def ratio(self, hops: int) -> float:
        """Time to build, ours to theirs."""
        return self.builds[OURS].milliseconds(hops) / self.builds[THEIRS].milliseconds(hops)

    @property
    def good(self) -> bool:
        return self.ratio(RATE_HOPS) <= TARGET

    def as_json(self) -> dict[str, object]:
        return {
            "machine": machine(),
            **{name: self.builds[name].as_json() for name in NAMES},
            "ratios": {str(hops): round(self.ratio(hops), 3) for hops in HOPS},
            "target": TARGET,
        }


def _our_network(running: ExitStack) -> Process:
    relays = [running.enter_context(Process(our_relay, address)) for address in ADDRESSES]
    told = [relay.ask("info") for relay in relays]
    for relay in relays:
        relay.ask("learn", told)
    return running.enter_context(Process(our_client, CLIENT, told))


def _their_network(running: ExitStack) -> Process:
    everybody = [(host, port + 1) for host, port in (CLIENT, *ADDRESSES)]
    nodes = [
        running.enter_context(
            Process(pyipv8.hop, pyipv8.Kind.PYTHON, address, [other for other in everybody if other != address])
        )
        for address in everybody
    ]
    for each in nodes:
        each.say("meet")
    for each in nodes:
        each.answer()
    return nodes[0]


NETWORKS: Final[Mapping[str, Callable[[ExitStack], Process]]] = {OURS: _our_network, THEIRS: _their_network}


def measure(runs: int, number: int) -> Result:
    """Both networks are up at the same time and take turns; one that waits costs nothing.

    Args:
        number: circuits that are built for each rate.
    """
    times: dict[str, dict[int, list[float]]] = {name: {hops: [] for hops in HOPS} for name in NAMES}
    rates: dict[str, list[float]] = {name: [] for name in NAMES}
    with ExitStack() as running:
        clients = {name: network(running) for name, network in NETWORKS.items()}
        clients[OURS].ask("rate", max(HOPS), 4 * RELAYS)  # opens the links
        for _ in range(runs):
            for hops in HOPS:
                for name, client in clients.items():
                    times[name][hops].append(client.ask("build", hops))
            for name, client in clients.items():
                rates[name].append(client.ask("rate", RATE_HOPS, number))
    return Result({name: Builds(times[name], rates[name]) for name in NAMES})


def table(result: Result) -> str:
    """For people."""
    where = machine()
    heads = "".join(f"{f'{hops} hop' + 's' * (hops > 1):>12}" for hops in HOPS)
    lines = [
        "Building circuits on loopback, a process a node.",
        f"{where['cpu']}, {where['cores']} cores, Python {where['python']}",
        "",
        f"{'':28}{heads}{f'{RATE_HOPS} hops, {AT_ONCE} at once':>24}",
    ]
    for name, builds in result.builds.items():
        cells = "".join(f"{builds.milliseconds(hops):>9.1f} ms" for hops in HOPS)
        lines.append(f"{NAMES[name]:28}{cells}{builds.rate:>14.0f} a second")
    ratios = "".join(f"{result.ratio(hops):>12.2f}" for hops in HOPS)
    verdict = "met" if result.good else "MISSED"
    lines += [f"{'ratio':28}{ratios}", "", f"target at {RATE_HOPS} hops <= {TARGET:g}: {verdict}"]
    return "\n".join(lines)


@click.command("circuit")
@click.option("--runs", default=20, show_default=True, type=click.IntRange(min=1), help="Circuits of each length.")
@click.option("--number", default=100, show_default=True, type=click.IntRange(min=1), help="Circuits for a rate.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def command(runs: int, number: int, as_json: bool) -> None:  # noqa: FBT001 (click passes options so)
    """Circuits built by our nodes, against py-ipv8's.

    Fails when one of three hops takes longer than theirs.
    """
    result = measure(runs, number)
    click.echo(json.dumps(result.as_json(), indent=2) if as_json else table(result))
    if not result.good:
        raise SystemExit(1)
