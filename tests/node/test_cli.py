"""The command `tropea`: it teaches, and a broken plug-in costs its own command and no other."""

import importlib.metadata
import os
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from node import cli

ROOT = Path(__file__).parents[2]


@click.command()
@click.argument("name")
def greet(name: str) -> None:
    """Greet NAME."""
    click.echo(f"hello {name}")


ENTRIES = [
    EntryPoint("greet", f"{__name__}:greet", cli.COMMANDS),
    EntryPoint("missing", "no_such_module:command", cli.COMMANDS),
    EntryPoint("nameless", f"{__name__}:no_such_name", cli.COMMANDS),
    EntryPoint("number", f"{__name__}:A_NUMBER", cli.COMMANDS),
    EntryPoint("twice", f"{__name__}:greet", cli.COMMANDS),
    EntryPoint("twice", "no_such_module:command", cli.COMMANDS),
]
A_NUMBER = 7
BROKEN = {
    "missing": "ModuleNotFoundError: No module named 'no_such_module'",
    "nameless": "AttributeError: module 'tests.node.test_cli' has no attribute 'no_such_name'",
    "number": "tests.node.test_cli:A_NUMBER is no click command",
    "twice": "no_such_module:command and tests.node.test_cli:greet both want this name",
}


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "entry_points", EntryPoints(ENTRIES).select)


def tropea(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments, prog_name="tropea", terminal_width=300)


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_the_help_says_what_it_is_how_it_is_used_and_where_to_read_on(arguments: tuple[str, ...]) -> None:
    result = tropea(*arguments)
    assert result.exit_code == 0
    for word in ("Onion routing", "build_tunnels(3)", "docs/protocol.md", "make demo", "--version"):
        assert word in result.output


def test_every_file_the_help_names_exists() -> None:
    for name in ("README.md", "ARCHITECTURE.md", "docs/protocol.md"):
        assert name in tropea("--help").output
        assert (ROOT / name).is_file()


def test_the_version_is_the_one_of_the_distribution() -> None:
    assert tropea("--version").output == f"tropea, version {importlib.metadata.version('tropea')}\n"


def test_an_unknown_command_is_an_error_and_not_a_traceback() -> None:
    result = tropea("no-such-command")
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    assert "No such command" in result.output


@pytest.mark.usefixtures("plugins")
def test_a_registered_command_runs() -> None:
    assert tropea("greet", "alice").output == "hello alice\n"


@pytest.mark.usefixtures("plugins")
def test_the_help_lists_working_and_broken_commands_and_why_they_are_broken() -> None:
    lines = [line.strip() for line in tropea("--help").output.splitlines()]
    assert "greet     Greet NAME." in lines
    for name, reason in BROKEN.items():
        assert any(line.startswith(f"{name} ") and reason in line for line in lines), name


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(("name", "reason"), BROKEN.items())
@pytest.mark.parametrize("arguments", [(), ("--help",), ("--verbose", "up", "8")])
def test_a_broken_command_fails_with_its_reason_whatever_it_is_asked(
    name: str, reason: str, arguments: tuple[str, ...]
) -> None:
    result = tropea(name, *arguments)
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert result.output == f"Error: `tropea {name}` is unavailable: {reason}\n"


def test_an_import_that_raises_anything_at_all_is_contained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tropea_plugin_that_raises.py").write_text("raise ZeroDivisionError('two\\nlines')")
    monkeypatch.syspath_prepend(tmp_path)
    command = cli.load(EntryPoint("zero", "tropea_plugin_that_raises:command", cli.COMMANDS))
    assert command.get_short_help_str(200) == "unavailable: ZeroDivisionError: two lines"


def test_python_m_node_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "node", "--help"], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: tropea ")
