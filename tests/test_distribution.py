"""The wheel: five packages, their type markers, the command, and nothing else."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support import house

ROOT = house.ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from this tree, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    command: list[str | Path] = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, capture_output=True, check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_five_packages_and_nothing_else(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {*house.PACKAGES, "tropea-0.1.0.dist-info"}


def test_the_wheel_holds_every_module_and_says_that_it_is_typed(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {str(path.relative_to(ROOT)) for path in house.modules().values()} <= names
    assert {f"{package}/py.typed" for package in house.PACKAGES} <= names


def test_the_wheel_holds_the_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"LICENSE", "LICENSE.GPL"} <= {name.rpartition("/")[2] for name in names}


def test_what_was_installed_from_the_wheel_answers_away_from_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    install: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        tmp_path,
        wheel,
    ]
    subprocess.run(install, capture_output=True, check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [tmp_path / "bin" / "tropea", "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("Usage: tropea ")


def test_every_library_our_modules_import_is_declared() -> None:
    """By import name; what comes with Python or from us needs no declaration."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {requirement.partition(">")[0] for requirement in project["dependencies"]}
    provides = {"ipv8": "pyipv8", "ipv8_service": "pyipv8", "dns": "dnspython"}
    used = {
        name.partition(".")[0]
        for path in house.modules().values()
        for name in house.imports(house.parse(path))
        if name.partition(".")[0] not in sys.stdlib_module_names | set(house.PACKAGES)
    }
    assert {provides.get(name, name) for name in used} <= declared
