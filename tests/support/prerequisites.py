"""Programs that tests need from the system: found, installed where that is allowed, else accounted for.

Package managers are known to scripts/prerequisites only.  Installing happens only as root or with CI=true; elsewhere a
test that lacks something is not run, and the session ends with why and with the command that would change it.
"""

import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

import pytest

SCRIPT: Final = Path(__file__).parents[2] / "scripts" / "prerequisites"

INSTALL_TIMEOUT: Final = 600.0
"""Seconds for one package manager call: a slow mirror, not a prompt nobody answers (stdin is closed)."""


def not_run(why: str, command: str) -> NoReturn:
    """Give this test up: `why` (and how `command` would help) is printed at the end of the session.

    With CI=true the test fails.
    """
    pytest.skip(f"{why}, {command}")


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"true", "1"}


def may_install() -> bool:
    return in_ci() or os.geteuid() == 0


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One package manager at a time: test workers are processes, and apt does not queue."""
    with (Path(tempfile.gettempdir()) / f"tropea-install-{os.geteuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def _install(package: str) -> str:
    """What went wrong, or the empty string.  Once for each package and process: a second try would fail as slowly."""
    done = subprocess.run(
        [SCRIPT, "install", package], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_TIMEOUT
    )
    return done.stderr.strip() if done.returncode else ""


def needs(program: str, *, apt: str, dnf: str = "", apk: str = "", brew: str = "") -> str:
    """The path of `program`, which package `apt` (elsewhere `dnf`, `apk`, `brew`, if it has another name) brings."""
    others = {"dnf": dnf, "apk": apk, "brew": brew}
    package = ",".join([f"apt={apt}", *(f"{manager}={name}" for manager, name in others.items() if name)])
    if path := shutil.which(program):
        return path
    if may_install():
        with _alone():
            if not shutil.which(program) and (failure := _install(package)):
                why = f"installing {program} failed: {failure.splitlines()[0]}"
                not_run(why, _command(package))
        if path := shutil.which(program):
            return path
    not_run(f"no {program} on this machine", _command(package))


def _command(package: str) -> str:
    return subprocess.run([SCRIPT, "command", package], capture_output=True, text=True, check=True).stdout.strip()
