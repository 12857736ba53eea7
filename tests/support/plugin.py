"""What all tests share: their size, the figures they measure, and the account of what was not run.

    def test_something(size: Size, figure: Figure) -> None:
        circuits = size(small=10, long=1000)
        ...
        figure("circuits a second", circuits / seconds, "1/s")

A figure travels in the test's report, so that it arrives from a worker process too.
"""

from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar, cast

import pytest

from tests.support.prerequisites import in_ci

T = TypeVar("T")

FIGURE: Final = "figure"
"""The user property of a report that holds one."""

IN_CI: Final = "with CI=true a test that is not run is a failure"


class Size(Protocol):
    """Chooses by the session's --size."""

    def __call__(self, *, small: T, long: T) -> T: ...


class Figure(Protocol):
    """Notes something measured, for the table at the end of the session."""

    def __call__(self, name: str, value: float, unit: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Size, bound to a session."""

    long: bool

    def __call__(self, *, small: T, long: T) -> T:
        return long if self.long else small


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--size",
        choices=("small", "long"),
        default="small",
        help="small: every test in minutes.  long: the same tests at the sizes that were promised.",
    )


@pytest.fixture(scope="session")
def size(request: pytest.FixtureRequest) -> Size:
    return _Chosen(long=request.config.getoption("--size") == "long")


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    def note(name: str, value: float, unit: str) -> None:
        request.node.user_properties.append((FIGURE, (name, float(value), unit)))

    return note


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skips(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skips(report)
    return report


def _refuse_skips(report: pytest.TestReport | pytest.CollectReport) -> None:
    if _was_skipped(report) and in_ci():
        report.outcome = "failed"
        report.longrepr = f"{_reason(report)}\n{IN_CI}"


def _was_skipped(report: pytest.TestReport | pytest.CollectReport) -> bool:
    return report.outcome == "skipped" and not hasattr(report, "wasxfail")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Of a skipped test: pytest gives (file, line, "Skipped: reason")."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    return str(reason).removeprefix("Skipped: ")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    yield  # pytest's own summary first: ours is what the session ends with
    passed, failed, skipped = (terminalreporter.getreports(name) for name in ("passed", "failed", "skipped"))
    if rows := list(_figures([*passed, *failed])):
        terminalreporter.section(f"figures, size {config.getoption('--size')}")
        width = max(len(name) for name, _, _ in rows)
        for name, value, unit in rows:
            terminalreporter.line(f"{name:<{width}}  {value:>12,.6g} {unit}")
    for reason, number in sorted(Counter(_reason(report) for report in skipped if _was_skipped(report)).items()):
        terminalreporter.line(f"not run here: {number} ({reason})", yellow=True)


def _figures(reports: Iterable[object]) -> Iterable[tuple[str, float, str]]:
    for report in reports:
        if isinstance(report, pytest.TestReport) and report.when == "call":
            for key, row in report.user_properties:
                if key == FIGURE:
                    name, value, unit = cast("tuple[str, float, str]", row)
                    yield name, value, unit
