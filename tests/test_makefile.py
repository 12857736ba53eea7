"""`make` alone teaches: every target a user may call is named, and what CI calls is among them."""

import re

from tests.support.house import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
HELP = "".join(line for line in MAKEFILE.splitlines(keepends=True) if line.startswith("#?"))


def test_help_is_what_make_does_when_asked_for_nothing() -> None:
    assert ".DEFAULT_GOAL := help" in MAKEFILE


def test_help_names_every_target() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)", HELP)) == set(phony.split()) - {"help", "FORCE"}


def test_ci_runs_the_tests_as_ci_and_asks_nothing() -> None:
    assert "CI=true exec make test </dev/null" in (ROOT / ".ci" / "run").read_text()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
