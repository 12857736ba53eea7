"""`python -m bench circuit`, as tests: that the figures mean what they say."""

import json

import pytest
from click.testing import CliRunner

from bench import circuit, machine
from bench.__main__ import main
from bench.circuit import HOPS, NAMES, OURS, THEIRS, Builds, Result


def test_both_build_circuits_of_every_length() -> None:
    result = circuit.measure(1, 8)
    for builds in result.builds.values():
        assert set(builds.times) == set(HOPS)
        assert all(0 < took < 10 for times in builds.times.values() for took in times)
        assert builds.rate > 1


def result_with(ratio: float) -> Result:
    def builds(seconds: float) -> Builds:
        return Builds({hops: [seconds] for hops in HOPS}, [1 / seconds])

    return Result({OURS: builds(0.01 * ratio), THEIRS: builds(0.01)})


@pytest.mark.parametrize(("ratio", "code", "word"), [(1.0, 0, ": met"), (1.01, 1, ": MISSED")])
def test_a_missed_target_fails_the_command(monkeypatch: pytest.MonkeyPatch, ratio: float, code: int, word: str) -> None:
    monkeypatch.setattr(circuit, "measure", lambda *_: result_with(ratio))
    result = CliRunner().invoke(main, ["circuit"])
    assert result.exit_code == code
    for words in (word, *NAMES.values(), "1 hop ", "6 hops", "100 a second"):
        assert words in result.output


def test_the_machine_form_is_one_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "measure", lambda *_: result_with(0.5))
    figures = json.loads(CliRunner().invoke(main, ["circuit", "--json"]).output)
    assert figures["machine"] == machine()
    assert figures["ours"]["build_ms"] == {str(hops): 5.0 for hops in HOPS}
    assert figures["ours"]["circuits_per_s"] == 200
    assert figures["ratios"] == {str(hops): 0.5 for hops in HOPS}
