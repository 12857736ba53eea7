"""`python -m bench endpoint`, as tests: that the figures mean what they say."""

import json

import pytest
from click.testing import CliRunner

from bench import endpoint, machine
from bench.__main__ import main

SHORT = ("--runs", "1", "--seconds", "0.05")


def test_cells_are_counted_for_every_endpoint_and_compared() -> None:
    figures = json.loads(CliRunner().invoke(main, ["endpoint", "--json", *SHORT]).output)
    assert figures["machine"] == machine()
    assert list(figures["cells_per_second"]) == list(figures["cpu_us_per_cell"]) == list(endpoint.ENDPOINTS)
    assert all(rate > endpoint.WINDOW for rate in figures["cells_per_second"].values())
    rates = figures["cells_per_second"]
    assert figures["ratio"] == pytest.approx(rates[endpoint.THEIRS] / rates[endpoint.OURS], abs=0.01)


@pytest.mark.parametrize(("ratio", "code", "word"), [(endpoint.TARGET, 0, ": met"), (0.21, 1, ": MISSED")])
def test_a_missed_target_fails_the_command(monkeypatch: pytest.MonkeyPatch, ratio: float, code: int, word: str) -> None:
    rates = dict.fromkeys(endpoint.ENDPOINTS, endpoint.Rate(1e6, 1.0))
    monkeypatch.setattr(endpoint, "measure", lambda *_: endpoint.Result(rates, ratio))
    result = CliRunner().invoke(main, ["endpoint"])
    assert result.exit_code == code
    assert word in result.output
    for words in (*endpoint.ENDPOINTS, "1,000,000", "target <= 0.2"):
        assert words in result.output
