"""What has to outlive a process: named values, each replaced as a whole or not at all.  Floor 1: values and files; no
clock, no dice, no sockets.

Guards, services and the node keep their state through a `Store` that the application passes.  Nothing here knows what
the bytes mean.

A file is written beside the old one, flushed to the disk, moved over it, and the move is flushed too.  So whoever looks
sees the old value or the new one, after a kill -9 and after a power cut, and `save` returns when the new one lasts.
"""

import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn, Protocol, runtime_checkable

from tunnels.errors import LocalError

if sys.platform != "win32":
    import fcntl

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_OTHERS: Final = 0o077
"""Whatever group and others may do."""

_FILE_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
"""A link in place of a file would let somebody else choose what is read or written."""


class StoreError(LocalError):
    """State could not be read or written.  The message says what to do; what was stored before is still there."""


@runtime_checkable
class Store(Protocol):
    """Where state is kept.

    A name is 1 to 64 of a-z, 0-9, '_', '-' and '.', beginning with a letter or digit; every method raises LocalError
    for another.
    """

    def load(self, name: str) -> bytes | None:
        """What was last saved under `name`, None when nothing was.

        Raises:
            StoreError: it is there and cannot be read, or others may read it.
        """

    def save(self, name: str, data: bytes) -> None:
        """Put `data` in the place of what is stored under `name`; it lasts from the moment this returns.

        Raises:
            StoreError: it could not be written; then what was stored before still is.
        """

    def delete(self, name: str) -> None:
        """Store nothing under `name`.

        Raises:
            StoreError: it is still there.
        """


def check_name(name: str) -> None:
    """
    Raises:
        LocalError: `name` is none that a store takes.
    """
    if not _NAME.fullmatch(name):
        raise LocalError(f"{name!r} is no name in a store: 1 to 64 of a-z, 0-9, _, - and ., a letter or digit first")


class MemoryStore:
    """Forgets everything with the process: for tests and for applications that want no trace."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def load(self, name: str) -> bytes | None:
        check_name(name)
        return self._values.get(name)

    def save(self, name: str, data: bytes) -> None:
        check_name(name)
        self._values[name] = bytes(data)

    def delete(self, name: str) -> None:
        check_name(name)
        self._values.pop(name, None)


class FileStore:
    """One file (0600) for each name, in a directory (0700) that is made when it is missing.

    Several processes may use one directory: writers take turns.

    UNSURE: Windows has no such modes, owners and locks; there the directory is as private as its parent makes it.

    Raises:
        StoreError: the directory cannot be made, is none, belongs to somebody else or is open to others.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory: Final = Path(directory).absolute()
        try:
            self.directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            _flush(self.directory.parent)
        except OSError as error:
            _fail("make", self.directory, error)
        self._check_directory()

    def load(self, name: str) -> bytes | None:
        check_name(name)
        self._check_directory()
        path = self.directory / name
        try:
            handle = os.open(path, os.O_RDONLY | _NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            _fail("read", path, error)
        try:
            with os.fdopen(handle, "rb") as file:
                _check_private(path, os.fstat(handle), _FILE_MODE)
                return file.read()
        except OSError as error:
            _fail("read", path, error)

    def save(self, name: str, data: bytes) -> None:
        check_name(name)
        self._check_directory()
        path, fresh = self.directory / name, self.directory / f".{name}.new"  # no name begins with a dot
        try:
            with self._turn():
                with suppress(FileNotFoundError):
                    fresh.unlink()  # left by a process that was killed: it is our turn, so nobody is writing it
                try:
                    _write(fresh, data)
                    fresh.replace(path)
                except OSError:
                    with suppress(OSError):
                        fresh.unlink()
                    raise
                _flush(self.directory)
        except OSError as error:
            _fail("write", path, error)

    def delete(self, name: str) -> None:
        check_name(name)
        self._check_directory()
        path = self.directory / name
        try:
            with self._turn():
                with suppress(FileNotFoundError):
                    path.unlink()
                _flush(self.directory)
        except OSError as error:
            _fail("delete", path, error)

    def _check_directory(self) -> None:
        try:
            found = os.lstat(self.directory)
        except OSError as error:
            _fail("use", self.directory, error)
        if not stat.S_ISDIR(found.st_mode):
            raise StoreError(f"{self.directory} is no directory")
        _check_private(self.directory, found, _DIRECTORY_MODE)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """While this lasts no other writer is at work; the system ends it when the process dies."""
        if sys.platform == "win32":
            yield
            return
        handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _flush(directory: Path) -> None:
    """Make what was made, moved and deleted in `directory` last."""
    if sys.platform == "win32":
        return
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(path: Path, data: bytes) -> None:
    """Make `path`, which must not exist, with `data` in it, and see it to the disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW, _FILE_MODE)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]  # a full disk writes a part before it refuses
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_private(path: Path, found: os.stat_result, mode: int) -> None:
    if sys.platform == "win32":
        return
    if mode == _FILE_MODE and not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path} is no file")
    if found.st_uid != os.geteuid():
        raise StoreError(f"{path} belongs to user {found.st_uid} and not to us; run: chown {os.geteuid()} {path}")
    if found.st_mode & _OTHERS:
        raise StoreError(f"{path} is open to others (mode {found.st_mode & 0o777:03o}); run: chmod {mode:o} {path}")


def _fail(verb: str, path: Path, error: OSError) -> NoReturn:
    raise StoreError(f"cannot {verb} {path}: {error.strerror}") from error
