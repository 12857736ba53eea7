"""The test support, tested: sizes, figures, and that nothing is skipped in silence."""

from pathlib import Path

import pytest

from tests.support import prerequisites
from tests.support.prerequisites import needs


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A session of its own with our plugin, outside CI."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    pytester.makeconftest('pytest_plugins = ["tests.support.plugin"]')
    return pytester


def test_a_test_chooses_by_the_size_of_the_session(session: pytest.Pytester) -> None:
    session.makepyfile("def test_it(size):\n    assert size(small='s', long='l') == 'l'")
    session.runpytest_inprocess("-p", "no:xdist").assert_outcomes(failed=1)
    session.runpytest_inprocess("-p", "no:xdist", "--size", "long").assert_outcomes(passed=1)


def test_a_size_that_does_not_exist_is_refused(session: pytest.Pytester) -> None:
    result = session.runpytest_inprocess("-p", "no:xdist", "--size", "huge")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


FIGURES = """
def test_fast(figure):
    figure("cells a second", 290_000, "1/s")

def test_slow(figure):
    figure("time to build", 0.25, "s")
    assert False
"""


@pytest.mark.parametrize("workers", [["-p", "no:xdist"], ["-n", "1"]])
def test_every_figure_is_printed_once_even_from_a_worker_and_a_failed_test(
    session: pytest.Pytester, workers: list[str]
) -> None:
    session.makepyfile(FIGURES)
    lines = session.runpytest_subprocess(*workers).outlines
    assert [line.split() for line in lines if "cells a second" in line] == [["cells", "a", "second", "290,000", "1/s"]]
    assert [line.split() for line in lines if line.startswith("time to build ")] == [
        ["time", "to", "build", "0.25", "s"]
    ]


NOT_RUN = """
from tests.support.prerequisites import not_run

def test_one():
    not_run("no tor on this machine", "apt-get install -y tor")

def test_two():
    not_run("no tor on this machine", "apt-get install -y tor")

def test_three():
    not_run("no IPv6 on this machine", "sysctl net.ipv6.conf.lo.disable_ipv6=0")
"""


@pytest.mark.parametrize("workers", [["-p", "no:xdist"], ["-n", "1"]])
def test_the_session_ends_with_what_was_not_run_and_why(session: pytest.Pytester, workers: list[str]) -> None:
    session.makepyfile(NOT_RUN)
    result = session.runpytest_subprocess(*workers)
    result.assert_outcomes(skipped=3)
    assert [line for line in result.outlines if line][-3:-1] == [
        "not run here: 1 (no IPv6 on this machine, sysctl net.ipv6.conf.lo.disable_ipv6=0)",
        "not run here: 2 (no tor on this machine, apt-get install -y tor)",
    ]


def test_a_session_that_ran_everything_says_nothing(session: pytest.Pytester) -> None:
    session.makepyfile("def test_it(): pass")
    assert "not run here" not in session.runpytest_inprocess("-p", "no:xdist").stdout.str()


@pytest.mark.parametrize(
    "source",
    [
        NOT_RUN.partition("def test_two")[0],
        "import pytest\n@pytest.mark.skip(reason='later')\ndef test_it(): pass",
        "import pytest\npytest.importorskip('no_such_module')",
        "import pytest\n@pytest.fixture\ndef it(): pytest.skip('no')\ndef test_it(it): pass",
    ],
    ids=["not_run", "a mark", "a module", "a fixture"],
)
def test_in_ci_a_test_that_is_not_run_is_a_failure(
    session: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("CI", "true")
    session.makepyfile(source)
    result = session.runpytest_inprocess("-p", "no:xdist")
    assert result.ret in {pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED}
    result.stdout.fnmatch_lines(["*with CI=true a test that is not run is a failure*"])


def test_a_program_that_is_there_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prerequisites, "_install", lambda _: pytest.fail("installed"))
    assert needs("sh", apt="dash").endswith("/sh")


def test_without_the_right_to_install_a_test_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prerequisites, "may_install", lambda: False)
    monkeypatch.setattr(prerequisites, "_install", lambda _: pytest.fail("installed"))
    with pytest.raises(pytest.skip.Exception, match=r"no no-such-program on this machine, .*no-such-package"):
        needs("no-such-program", apt="no-such-package", dnf="no-such-package", apk="no-such-package")


def test_an_installation_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prerequisites, "may_install", lambda: True)
    monkeypatch.setattr(prerequisites, "_install", lambda _: "E: no route to mirror\nmore")
    with pytest.raises(pytest.skip.Exception, match="installing no-such-program failed: E: no route to mirror, "):
        needs("no-such-program", apt="no-such-package")


@pytest.mark.parametrize(("ci", "euid", "allowed"), [("", 1000, False), ("true", 1000, True), ("", 0, True)])
def test_packages_are_installed_only_by_root_or_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, euid: int, *, allowed: bool
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr("os.geteuid", lambda: euid)
    assert prerequisites.may_install() is allowed
