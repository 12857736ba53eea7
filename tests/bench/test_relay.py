"""`python -m bench relay`, as tests: that the figures mean what they say."""

import json
import socket
import sys
from collections import defaultdict

import pytest
from click.testing import CliRunner

from bench import machine, relay
from bench.__main__ import main
from bench.peers import pyipv8
from bench.relay import NAMES, OURS, PYTHON, RUST, Rate, Result, Shape, Step
from tunnels.params import CELL_SIZE

linux = pytest.mark.skipif(sys.platform != "linux", reason="trains are Linux's")

SMALL = Shape(neighbours=2, circuits=3, train=1)


@linux
@pytest.mark.parametrize("shape", [Shape(1, 1, 8), SMALL], ids=["trains", "single cells"])
@pytest.mark.parametrize("name", NAMES)
def test_cells_that_are_sent_come_out_of_every_relay(monkeypatch: pytest.MonkeyPatch, name: str, shape: Shape) -> None:
    monkeypatch.setattr(relay, "RATES", (2000,))
    step = relay.RUNS[name](shape, 0.1)
    assert 500 < step.passed < 2500
    assert step.offered == pytest.approx(2000, rel=0.5)
    assert step.cpu > 0


def test_cells_are_mixed_across_circuits_and_stay_in_order_within_one() -> None:
    with socket.socket() as sock:
        parts = [[(sock, bytes([circuit, number])) for number in range(20)] for circuit in range(5)]
        mixed = [part for _, part in relay.shuffled(parts)]
    by_circuit: defaultdict[int, list[int]] = defaultdict(list)
    for circuit, number in mixed:
        by_circuit[circuit].append(number)
    assert by_circuit == {circuit: list(range(20)) for circuit in range(5)}
    assert [circuit for circuit, _ in mixed] != sorted(circuit for circuit, _ in mixed)


def test_every_neighbour_of_a_load_has_circuits_to_several_others() -> None:
    shape = relay.SHAPES["spread"]
    assert (shape.circuits, shape.neighbours, shape.train) == (1000, 64, 1)
    routes = pyipv8.routes(shape.ins, shape.outs, shape.circuits)
    assert {route.back for route in routes} == set(shape.ins)
    assert {route.onward for route in routes} == set(shape.outs)
    assert len({(route.back, route.onward) for route in routes}) > 10 * shape.neighbours


def test_a_cell_of_py_ipv8_is_as_long_as_its_own_community_makes_it() -> None:
    assert pyipv8.CELL_SIZE == 1116
    assert pyipv8.CELL_SIZE > pyipv8.PAYLOAD


def result_with(ours: float, python: float, rust: float) -> Result:
    cpu = {OURS: ours, PYTHON: python, RUST: rust}
    rates = {name: Rate([Step(2e5, 1e5, cpu[name])], CELL_SIZE, 1211) for name in NAMES}
    return Result({"peak": rates, "spread": rates})


@pytest.mark.parametrize(
    ("cpu", "code", "missed"),
    [((5, 30, 10), 0, 0), ((5.1, 30, 10.2), 1, 1), ((5, 30, 9), 1, 1), ((11, 30, 10), 1, 3)],
)
def test_every_missed_target_is_said_and_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, cpu: tuple[float, float, float], code: int, missed: int
) -> None:
    monkeypatch.setattr(relay, "measure", lambda *_: result_with(*cpu))
    result = CliRunner().invoke(main, ["relay"])
    assert result.exit_code == code
    assert result.output.count("MISSED") == missed
    assert result.output.count(": met") == 3 - missed
    for words in (*NAMES.values(), "peak: 1 circuit, 1 in, 1 out", "spread: 1000 circuits, 64 in, 64 out", "100,000"):
        assert words in result.output


def test_ratios_are_of_one_round_and_their_median_counts() -> None:
    rounds = [(1.0, 10.0), (2.0, 10.0), (9.0, 30.0)]
    rates = {name: Rate([Step(1, 1, pair[name != OURS]) for pair in rounds], CELL_SIZE, 1211) for name in NAMES}
    assert [ratio.value for ratio in Result({"peak": rates, "spread": rates}).ratios] == [0.2] * 3


def test_the_machine_form_is_one_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "measure", lambda *_: result_with(5, 30, 10))
    figures = json.loads(CliRunner().invoke(main, ["relay", "--json"]).output)
    assert figures["machine"] == machine()
    for name in NAMES:
        for part in (figures[name], figures[name]["spread"]):
            assert {"cells_per_s", "cpu_us_per_cell", "cpu_ns_per_byte", "cell_bytes", "payload_bytes"} <= part.keys()
    assert figures["ours"]["cell_bytes"] == CELL_SIZE
    assert [(ratio["load"], ratio["to"], ratio["ratio"]) for ratio in figures["cpu_ratios"]] == [
        ("peak", PYTHON, 0.167), ("peak", RUST, 0.5), ("spread", RUST, 0.5)
    ]  # fmt: skip
