"""scripts/prerequisites on machines it has never seen: the PATH is made of stand-ins."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "prerequisites"
TOOLS = ("sh", "mktemp", "rm", "tr", "cat", "touch")
PYTHON = f'exec {sys.executable} "$@"'
OLD_PYTHON = "case $1 in --version) echo Python 3.9.2 ;; *) exit 1 ;; esac"
MANAGERS = {
    "apt-get": "apt-get install -y tor",
    "dnf": "dnf install -y tor",
    "apk": "apk add tor",
    "brew": "brew install tor",
}

Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Makes a folder of programs: a few real ones, and `stand_ins` (name -> shell text)."""

    def make(*, uid: int = 1000, **stand_ins: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        for tool in TOOLS:
            real = subprocess.run(["sh", "-c", f"command -v {tool}"], capture_output=True, text=True, check=True)
            (folder / tool).symlink_to(real.stdout.strip())
        for name, text in {"id": f"echo {uid}", **stand_ins}.items():
            program = folder / name.replace("_", "-")
            program.write_text(f"#!/bin/sh\n{text}\n")
            program.chmod(0o755)
        return folder

    return make


def run(machine: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *arguments],
        env={"PATH": str(machine), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_machine_that_has_everything_is_asked_for_nothing(machine: Machine) -> None:
    done = run(machine(python3=PYTHON, curl="exit 0"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("/bin/python3\n")


def test_what_is_missing_takes_one_line_each_with_the_command_that_installs_it(machine: Machine) -> None:
    no_venv_and_no_sodium = "case $2 in *ensurepip*|*sodium*) exit 1 ;; *) exec " + sys.executable + ' "$@" ;; esac'
    done = run(machine(python3=no_venv_and_no_sodium, apt_get="exit 1", sudo=""))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"missing: Python's venv and ensurepip.  Install it with: sudo apt-get install -y python{version}-venv",
        "missing: libsodium, which encrypts the cells.  Install it with: sudo apt-get install -y libsodium23",
        "missing: curl.  Install it with: sudo apt-get install -y curl",
    ]


def test_a_user_who_is_not_root_gets_nothing_installed(machine: Machine, tmp_path: Path) -> None:
    done = run(machine(python3=PYTHON, apt_get=f"touch {tmp_path}/called"))
    assert done.returncode == 1
    assert not (tmp_path / "called").exists()


def test_root_gets_it_installed_without_questions(machine: Machine, tmp_path: Path) -> None:
    """The stand-in installs curl only when nothing can be asked: no terminal, no debconf."""
    folder = tmp_path / "bin"
    install = f'[ "$DEBIAN_FRONTEND" = noninteractive ] && ! read -r _ && ln -s "$(command -v sh)" {folder}/curl'
    done = run(machine(uid=0, python3=PYTHON, apt_get=install.replace("ln -s", "/bin/ln -s")))
    assert (done.returncode, done.stderr) == (0, "installing curl\n")


def test_an_installation_that_fails_shows_what_the_package_manager_said(machine: Machine) -> None:
    done = run(machine(uid=0, python3=PYTHON, dnf="echo no route to mirror; exit 1"))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "installing curl",
        "no route to mirror",
        "missing: curl.  Install it with: dnf install -y curl",
    ]


@pytest.mark.parametrize(("manager", "command"), MANAGERS.items())
def test_the_command_is_the_one_of_this_systems_manager(machine: Machine, manager: str, command: str) -> None:
    assert run(machine(**{manager: ""}), "command", "tor").stdout == f"{command}\n"


@pytest.mark.parametrize(("manager", "package"), [("apt-get", "iproute2"), ("dnf", "iproute"), ("apk", "iproute2")])
def test_a_package_may_have_another_name_elsewhere(machine: Machine, manager: str, package: str) -> None:
    done = run(machine(**{manager: ""}), "command", "apt=iproute2,dnf=iproute")
    assert done.stdout.split()[-1] == package


def test_without_a_known_manager_the_package_is_named_all_the_same(machine: Machine) -> None:
    assert "curl" in run(machine(python3=PYTHON)).stderr


def test_brew_installs_as_the_user_behind_sudo(machine: Machine, tmp_path: Path) -> None:
    sudo = f'echo "$@" > {tmp_path}/sudo'
    done = run(machine(uid=0, brew="exit 1", sudo=sudo), "install", "tor", SUDO_USER="alice")
    assert done.returncode == 0
    assert (tmp_path / "sudo").read_text() == "-u alice brew install -q tor\n"


def test_a_python_that_is_too_old_is_named(machine: Machine) -> None:
    done = run(machine(python3=OLD_PYTHON))
    assert done.returncode == 1
    assert done.stderr.startswith("this machine's Python 3.9.2 is too old: tropea needs 3.11 or later.")
    assert len(done.stderr.splitlines()) == 1


def test_a_newer_python_beside_an_old_one_is_found(machine: Machine) -> None:
    done = run(machine(python3=OLD_PYTHON, **{"python3.12": PYTHON}, curl=""))
    assert done.stdout.endswith("/bin/python3.12\n")


def test_the_interpreter_can_be_named_and_then_no_other_is_taken(machine: Machine) -> None:
    folder = machine(python3=PYTHON, mine=PYTHON, old=OLD_PYTHON, curl="")
    assert run(folder, PYTHON="mine").stdout.endswith("/bin/mine\n")
    refused = run(folder, PYTHON="old")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "PYTHON=old" in refused.stderr


def test_no_python_at_all_is_one_clear_line(machine: Machine) -> None:
    done = run(machine(apt_get=""))
    assert done.stderr == "missing: Python 3.11 or later.  Install it with: apt-get install -y python3\n"
