"""Stores: what is saved lasts, whatever happens on the way."""

import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plugin import Size
from tunnels.errors import LocalError
from tunnels.store import FileStore, MemoryStore, Store, StoreError

OLD, NEW = b"old" * 1000, b"new" * 2000
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else FileStore(tmp_path / "state")


def uses(store: Store) -> list[Callable[[], object]]:
    return [partial(store.load, "guards"), partial(store.save, "guards", NEW), partial(store.delete, "guards")]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- Any store ----------------------------------------------------------------------------------


def test_what_was_saved_last_is_loaded_and_other_names_are_left_alone(store: Store) -> None:
    store.save("guards", OLD)
    store.save("times", b"")
    store.save("guards", NEW)
    assert (store.load("guards"), store.load("times"), store.load("nothing")) == (NEW, b"", None)


def test_what_was_deleted_is_gone_and_deleting_nothing_is_no_error(store: Store) -> None:
    store.save("guards", OLD)
    store.delete("guards")
    store.delete("guards")
    assert store.load("guards") is None


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../guards", "/etc/passwd", "A", "a\0", "a\n", "-a", "a" * 65, "ü"]
)
def test_a_name_that_could_leave_the_directory_or_hide_in_it_is_refused(store: Store, name: str) -> None:
    for use in (store.load, store.delete, lambda name: store.save(name, b"")):
        with pytest.raises(LocalError, match="no name in a store"):
            use(name)


@given(st.text(max_size=70))
def test_a_name_is_taken_or_refused_and_nothing_else_is_raised(name: str) -> None:
    store = MemoryStore()
    try:
        store.save(name, OLD)
    except LocalError:
        return
    assert store.load(name) == OLD
    assert "/" not in name
    assert name[0] != "."


def test_a_saved_buffer_may_be_reused(store: Store) -> None:
    buffer = bytearray(OLD)
    store.save("guards", buffer)  # type: ignore[arg-type]
    buffer[:3] = b"???"
    assert store.load("guards") == OLD


# --- Modes --------------------------------------------------------------------------------------


@pytest.fixture
def loose_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("loose_umask")
def test_directory_and_files_are_private_whatever_the_umask_says(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "a" / "state")
    store.save("guards", OLD)
    assert mode(tmp_path / "a" / "state") == 0o700
    assert mode(tmp_path / "a" / "state" / "guards") == 0o600


@pytest.mark.parametrize("loose", [0o750, 0o705, 0o770, 0o701])
def test_a_directory_open_to_others_is_refused_with_the_command_that_helps(tmp_path: Path, loose: int) -> None:
    tmp_path.chmod(loose)
    with pytest.raises(StoreError, match=f"chmod 700 {tmp_path}"):
        FileStore(tmp_path)
    tmp_path.chmod(0o700)
    FileStore(tmp_path)


def test_a_directory_that_is_opened_up_later_is_refused_from_then_on(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "state")
    store.save("guards", OLD)
    (tmp_path / "state").chmod(0o755)
    for use in uses(store):
        with pytest.raises(StoreError, match="chmod 700"):
            use()
    assert (tmp_path / "state" / "guards").read_bytes() == OLD


@pytest.mark.parametrize("loose", [0o640, 0o604, 0o660])
def test_a_file_open_to_others_is_refused_with_the_command_that_helps(tmp_path: Path, loose: int) -> None:
    store = FileStore(tmp_path / "state")
    store.save("guards", OLD)
    path = tmp_path / "state" / "guards"
    path.chmod(loose)
    with pytest.raises(StoreError, match=f"chmod 600 {path}"):
        store.load("guards")
    path.chmod(0o600)
    assert store.load("guards") == OLD


def test_somebody_elses_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path / "state")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StoreError, match="chown"):
        store.load("guards")


def test_a_link_is_neither_read_nor_written_through(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "state")
    target = tmp_path / "target"
    target.write_bytes(OLD)
    target.chmod(0o600)
    link, temporary = tmp_path / "state" / "guards", tmp_path / "state" / ".guards.new"
    link.symlink_to(target)
    temporary.symlink_to(target)
    with pytest.raises(StoreError, match="cannot read"):
        store.load("guards")
    store.save("guards", NEW)
    assert (target.read_bytes(), store.load("guards"), link.is_symlink()) == (OLD, NEW, False)


def test_a_file_where_the_directory_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"")
    with pytest.raises(StoreError, match="state"):
        FileStore(tmp_path / "state")


def test_a_directory_where_a_file_should_be_is_named(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "state")
    (tmp_path / "state" / "guards").mkdir()
    for use in uses(store):
        with pytest.raises(StoreError, match="guards"):
            use()
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["guards"]


# --- Whatever happens on the way -----------------------------------------------------------------

STEPS = ("open", "write", "fsync", "replace", "unlink", "close")


def test_the_file_lasts_before_it_is_moved_and_the_move_before_save_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path / "state")
    done: list[str] = []

    def noting(step: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            done.append(step)
            return real(*arguments, **named)

        return call

    for step in ("write", "fsync", "replace"):
        monkeypatch.setattr(os, step, noting(step, getattr(os, step)))
    store.save("guards", NEW)
    assert done == ["write", "fsync", "replace", "fsync"]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_leaves_the_old_value_or_the_new_one_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    real = getattr(os, step)
    for number in range(8):
        store = FileStore(tmp_path / f"{number}")
        store.save("guards", OLD)
        calls = 0

        def failing(*arguments: Any, number: int = number, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number + 1:
                if step == "close":  # the handle is gone whatever close says
                    real(*arguments)
                raise OSError(28, "No space left on device")
            return real(*arguments, **named)

        with monkeypatch.context() as patched:
            patched.setattr(os, step, failing)
            try:
                store.save("guards", NEW)
                saved, said = True, ""
            except StoreError as error:
                saved, said = False, str(error)
        assert saved or "No space left on device" in said
        assert store.load("guards") in ((NEW,) if saved else (OLD, NEW))
        store.save("guards", b"after")
        assert store.load("guards") == b"after"
        assert [path.name for path in store.directory.iterdir()] == ["guards"]
        if calls <= number:
            break
    else:
        pytest.fail("no call was left that did not fail")


def test_a_write_that_takes_only_a_part_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path / "state")
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, bytes(data)[:7]))
    store.save("guards", NEW)
    assert store.load("guards") == NEW


KILLED = textwrap.dedent("""
    import os, signal, sys
    import tunnels.store as store
    directory, step, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    real, calls = getattr(os, step), 0

    def last(*arguments, **named):
        global calls
        calls += 1
        if calls == number:
            if step == "write":
                real(arguments[0], bytes(arguments[1])[:1000])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)

    setattr(store.os, step, last)
    store.FileStore(directory).save("guards", b"new" * 2000)
""")


@pytest.mark.parametrize("step", ["write", "fsync", "replace", "open"])
def test_a_process_killed_at_any_step_loses_nothing_that_was_saved(tmp_path: Path, step: str) -> None:
    store = FileStore(tmp_path / "state")
    store.save("guards", OLD)
    for number in range(1, 6):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "state"), step, str(number)]
        code = subprocess.run(command, cwd=ROOT).returncode
        if code == 0:
            assert store.load("guards") == NEW
            return
        assert code == -signal.SIGKILL
        assert store.load("guards") in (OLD, NEW)
        store.save("guards", OLD)
        assert [path.name for path in (tmp_path / "state").iterdir()] == ["guards"]
    pytest.fail("no call was left at which it was not killed")


WRITER = textwrap.dedent("""
    import sys
    from tunnels.store import FileStore
    store, number = FileStore(sys.argv[1]), int(sys.argv[2])
    while True:
        number += 1
        store.save("guards", str(number).encode().ljust(9) * 3000)
        print(number, flush=True)
""")


def test_a_writer_that_is_killed_again_and_again_never_takes_back_what_it_reported(tmp_path: Path, size: Size) -> None:
    store, number = FileStore(tmp_path / "state"), 0
    for turn in range(size(small=5, long=100)):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "state"), str(number)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(3 + turn % 7):
                writer.stdout.readline()
            writer.kill()
            reported = [int(line) for line in writer.stdout.read().split() if line]
        stored = store.load("guards")
        assert stored is not None
        assert len(stored) == 27000
        assert stored == stored[:9] * 3000
        assert int(stored[:9]) >= max(reported, default=number)
        number = int(stored[:9])


def test_two_writers_at_once_leave_one_whole_value(tmp_path: Path, size: Size) -> None:
    store = FileStore(tmp_path / "state")
    command = [sys.executable, "-c", WRITER, str(tmp_path / "state")]
    writers = [
        subprocess.Popen([*command, start], cwd=ROOT, stdout=subprocess.PIPE, text=True) for start in ("0", "100000000")
    ]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    for _ in range(size(small=300, long=10_000)):
        stored = store.load("guards")
        assert stored is not None
        assert stored == stored[:9] * 3000
    for writer in writers:
        writer.kill()
        writer.communicate()
