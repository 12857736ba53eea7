"""`python -m bench`, as tests.  How fast this machine is, is not tested: only that the figures mean what they say."""

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from bench import Figure, handshake, interleaved, machine
from bench.__main__ import BENCHMARKS, main


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


def test_help_names_every_benchmark_and_shows_how_to_run_one() -> None:
    text = run("--help")
    for command in BENCHMARKS:
        assert str(command.name) in text
        assert command.help
    assert "python -m bench handshake" in text


@pytest.mark.parametrize("command", BENCHMARKS)
def test_every_benchmark_speaks_to_people_and_to_machines(command: object) -> None:
    parameters = {parameter.name for parameter in command.params}  # type: ignore[attr-defined]  # a click.Command
    assert {"runs", "as_json"} <= parameters


def test_the_handshake_is_a_table_with_a_ratio_a_target_and_a_spread() -> None:
    text = run("handshake", "--runs", "2")
    for words in ("originator: CREATE", "relay: CREATED", "4 x X25519 exchange", "ratio", "target <= 4", "+-"):
        assert words in text


def test_the_machine_form_of_the_handshake_is_one_json_object() -> None:
    figures = json.loads(run("handshake", "--json", "--runs", "2"))
    assert {"machine", "ours", "primitives", "ratio"} <= figures.keys()
    assert figures["machine"] == machine()
    for part in ("ours", "primitives"):
        assert figures[part]["sum"]["median_us"] > 0
    assert figures["ratio"] > 0


def result_with(ratio: float) -> handshake.Result:
    figure = Figure(ratio, ratio, ratio)
    return handshake.Result({"sum": figure}, {"sum": figure}, figure)


@pytest.mark.parametrize(("ratio", "code", "word"), [(handshake.TARGET, 0, ": met"), (4.01, 1, ": MISSED")])
def test_a_missed_target_fails_the_command(monkeypatch: pytest.MonkeyPatch, ratio: float, code: int, word: str) -> None:
    monkeypatch.setattr(handshake, "measure", lambda _: result_with(ratio))
    result = CliRunner().invoke(main, ["handshake"])
    assert result.exit_code == code
    assert word in result.output


def test_a_number_of_runs_without_quartiles_is_refused() -> None:
    assert CliRunner().invoke(main, ["handshake", "--runs", "1"]).exit_code == 2


def test_works_take_turns_and_the_first_rounds_do_not_count() -> None:
    order: list[str] = []

    def note(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    samples = interleaved({"a": note("a"), "b": note("b")}, runs=3, warm_up=2)
    assert order == ["a", "b"] * 5
    assert [len(samples[name]) for name in ("a", "b")] == [3, 3]
    assert all(taken >= 0 for taken in samples["a"])


def test_a_figure_is_the_median_and_the_quartiles() -> None:
    figure = Figure.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (figure.low, figure.median, figure.high) == (2.0, 3.0, 4.0)
    assert figure.spread == pytest.approx(1 / 3)
