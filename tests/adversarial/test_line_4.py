"""The security bar's line 4: neither sizes nor what a hop decrypts tell it where on the circuit it is.

The classifier is a logistic regression over what such a leak looks like: how often each kind of byte occurs, where
zeros are, how long they run.  It is not strong, but it is honest: each kind of task is shown to be easy once the
defence that makes it hard is out.
"""

import ctypes
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import mul
from typing import Any, Final

import pytest

from sim.loop import run
from tests.adversarial.attacker import EvilLayer
from tests.adversarial.capture import DrawnKem, whole_lives
from tests.support.nodes import RelayNode, World
from tests.support.plugin import Figure, Size
from tunnels.circuit.origin import OriginCircuit
from tunnels.crypto import onion, sodium
from tunnels.params import BODY_SIZE, CELL_SIZE
from tunnels.wire.messages import Ping

SEGMENTS: Final = 26
EASY: Final = 0.75
"""Accuracy that no chance explains: 6 standard deviations where there are 160 tests, and there are more."""
LONG: Final = 6
SHORT: Final = 2

Sample = bytes
Task = Callable[["Views"], tuple[list[Sample], list[Sample]]]
"""Two kinds of samples to be told apart."""


def test_every_datagram_of_a_whole_life_has_one_size(monkeypatch: pytest.MonkeyPatch, figure: Figure) -> None:
    async def main() -> Counter[int]:
        captured = await whole_lives(monkeypatch)
        return Counter(len(datagram.data) for datagram in captured.datagrams)

    sizes = run(main())
    assert sizes.keys() == {CELL_SIZE}
    figure("datagrams of one size", sizes[CELL_SIZE], "datagrams")


# --- what hops see ---------------------------------------------------------------------------------------


class Views:
    """What each hop of a long and of a short circuit saw.

    Attributes:
        received: (hops, hop) -> forward bodies as they came.
        passing: what it made of those it passed on.
        own: what it decrypted that was for it.
        back: backward bodies as it received them.
    """

    def __init__(self) -> None:
        self.received: dict[tuple[int, int], list[Sample]] = {}
        self.passing: dict[tuple[int, int], list[Sample]] = {}
        self.own: dict[tuple[int, int], list[Sample]] = {}
        self.back: dict[tuple[int, int], list[Sample]] = {}


class _Watching(EvilLayer):
    """An honest hop that keeps what it sees."""

    def __init__(self, layer: Any, views: Views, where: tuple[int, int]) -> None:
        super().__init__(layer)
        self._received = views.received.setdefault(where, [])
        self._passing = views.passing.setdefault(where, [])
        self._own = views.own.setdefault(where, [])
        self._back = views.back.setdefault(where, [])
        self.forward = self._keep_forward

    def _keep_forward(self, body: bytes, flag: Any) -> tuple[bytes, Any]:
        (self._own if flag == onion.FOR_YOU else self._passing).append(body)
        return body, flag

    def open_forward(self, body: int, nonce: int, counter: int, out: bytearray, at: int, place: int) -> Any:
        self._received.append(ctypes.string_at(body, BODY_SIZE))
        return super().open_forward(body, nonce, counter, out, at, place)

    def pass_backward(self, received: Any, source: int, body: int, counter: Any, target: int, nonce: int) -> None:
        self._back.append(bytes(received[body : body + BODY_SIZE]))
        super().pass_backward(received, source, body, counter, target, nonce)


def watch(relay: RelayNode, known: set[Any], views: Views, where: tuple[int, int]) -> None:
    [circuit] = set(relay.core.joined) - known
    known.add(circuit)
    circuit.__dict__["layer"] = _Watching(circuit.layer, views, where)


def views_of(cells: int) -> Views:
    """A few circuits of each length, with `cells` datagrams and as many pings to each hop in all."""
    views, circuits = Views(), 4

    async def main() -> None:
        world = World(seed=4)
        kem = DrawnKem(world.rng())
        relays = [world.relay(exits=True, kem=kem) for _ in range(LONG)]
        client = world.client(kem=kem)
        known: set[Any] = set()
        built: list[OriginCircuit] = []
        for number in range(circuits * 2):
            hops = (SHORT, LONG)[number % 2]
            circuit = await client.build(relays[:hops])
            await world.sleep(0.5)
            for hop in range(hops):
                watch(relays[hop], known, views, (hops, hop))
            built.append(circuit)
        for number in range(cells // circuits):
            for circuit in built:
                client.send(circuit, bytes(number % 40))
                for hop in range(circuit.hops):
                    circuit.send(Ping(bytes(8)), client.driver.now(), hop)
            client.driver.wake()
            await world.sleep(0.3)
        world.close()

    run(main())
    return views


# --- the classifier --------------------------------------------------------------------------------------


def features(sample: Sample) -> list[float]:
    high = Counter(byte >> 4 for byte in sample)
    low = Counter(byte & 15 for byte in sample)
    length = len(sample)
    edges = [length * number // SEGMENTS for number in range(SEGMENTS + 1)]
    zeros = [float(sample.count(0, start, end)) for start, end in pairwise(edges)]
    run_of_zeros = max(map(len, re.findall(rb"\0+", sample)), default=0)
    counts = Counter(sample)
    chi_square = sum((counts[byte] - length / 256) ** 2 for byte in range(256)) * 256 / length
    return [
        *(float(high[nibble]) for nibble in range(16)),
        *(float(low[nibble]) for nibble in range(16)),
        *zeros,
        float(run_of_zeros),
        chi_square,
        sum(sample[-17:]) / 17,
        sum(sample[:17]) / 17,
    ]


def accuracy(one: Sequence[Sample], other: Sequence[Sample]) -> tuple[float, int]:
    """Share told apart correctly, of samples it was not trained on, and how many these were."""
    number = min(len(one), len(other))
    rows = [(features(sample), label) for pair in zip(one, other, strict=False) for label, sample in enumerate(pair)]
    size = len(rows[0][0])
    means = [math.fsum(row[at] for row, _ in rows) / len(rows) for at in range(size)]
    spreads = [
        math.sqrt(math.fsum((row[at] - means[at]) ** 2 for row, _ in rows) / len(rows)) or 1.0 for at in range(size)
    ]
    scaled = [([(row[at] - means[at]) / spreads[at] for at in range(size)], label) for row, label in rows]
    half = number // 2 * 2
    weights, bias = [0.0] * size, 0.0
    for rate in (0.05, 0.02, 0.01, 0.005, 0.002):
        for row, label in scaled[:half]:
            error = label - _logistic(bias + sum(map(mul, weights, row)))
            bias += rate * error
            weights = [weight + rate * error * value for weight, value in zip(weights, row, strict=True)]
    tests = scaled[half:]
    right = sum((bias + sum(map(mul, weights, row)) > 0) == bool(label) for row, label in tests)
    return right / len(tests), len(tests)


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, x))))


# --- the tasks -------------------------------------------------------------------------------------------

TASKS: Final[dict[str, Task]] = {
    "first or fifth hop, receiving": lambda views: (views.received[LONG, 0], views.received[LONG, 4]),
    "first or fifth hop, passing on": lambda views: (views.passing[LONG, 0], views.passing[LONG, 4]),
    "second or fifth hop, passing on": lambda views: (views.passing[LONG, 1], views.passing[LONG, 4]),
    "guard of a short or a long circuit, passing on": lambda views: (views.passing[SHORT, 0], views.passing[LONG, 0]),
    "first or sixth hop, its own message": lambda views: (views.own[LONG, 0], views.own[LONG, 5]),
    "last of a short or a long circuit, its own message": lambda views: (views.own[SHORT, 1], views.own[LONG, 5]),
    "first or fifth hop, passing back": lambda views: (views.back[LONG, 0], views.back[LONG, 4]),
    "guard of a short or a long circuit, passing back": lambda views: (views.back[SHORT, 0], views.back[LONG, 0]),
}
"""Datagrams have content of their own, so hops are compared by what all of them get: pings, and what passes through."""


@pytest.fixture(scope="module")
def views(size: Size) -> Views:
    return views_of(size(small=240, long=4000))


@pytest.mark.parametrize("task", TASKS)
def test_no_hop_can_tell_where_it_is(task: str, views: Views, figure: Figure) -> None:
    one, other = TASKS[task](views)
    if "own" in task:
        one, other = pings(one), pings(other)
    right, tests = accuracy(one, other)
    figure(f"told apart, {task}", right * 100, f"% of {tests}")
    assert abs(right - 0.5) <= 4 * 0.5 / math.sqrt(tests)


def pings(samples: Sequence[Sample]) -> list[Sample]:
    """Those of a hop's own cells that every hop gets."""
    return [sample for sample in samples if sample[0] == Ping.TYPE]


class _Zeros:
    """Dice that always fall on zero."""

    @staticmethod
    def bytes(size: int) -> bytes:
        return bytes(size)


def test_with_zeros_for_padding_a_hop_would_know_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    initialise = onion.OriginLayers.__init__

    def zeros(layers: onion.OriginLayers, rng: Any) -> None:
        initialise(layers, _Zeros())  # type: ignore[arg-type]

    monkeypatch.setattr(onion.OriginLayers, "__init__", zeros)
    views = views_of(80)
    for task in ("first or sixth hop, its own message", "last of a short or a long circuit, its own message"):
        one, other = TASKS[task](views)
        assert accuracy(pings(one), pings(other))[0] > EASY


def test_with_zeros_for_fillers_a_hop_would_know_whether_it_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onion._Filler, "of", lambda filler, counter: bytearray(17))  # noqa: SLF001
    assert accuracy(*TASKS["first or fifth hop, receiving"](views_of(80)))[0] > EASY


def test_without_backward_layers_a_hop_would_count_those_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each hop that passes a cell on puts a flag and a counter in front."""

    class Bare:
        def __getattr__(self, name: str) -> Any:
            return getattr(sodium, name)

        @staticmethod
        def xor_at(target: int, source: int, size: int, _nonce: Any, first_block: int, _key: int) -> int:
            if first_block:
                return int(sodium.xor_at(target, source, size, _nonce, first_block, _key))
            ctypes.memmove(target, source, size)
            return 0

    monkeypatch.setattr(onion, "sodium", Bare())
    task = TASKS["first or fifth hop, passing back"]
    assert accuracy(*task(views_of(80)))[0] > EASY
