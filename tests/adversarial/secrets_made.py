"""Every secret that nodes make while `noted` is on, for a search of what is left of them in memory.

They are kept inverted, so that a search does not find the list of what it looks for.
"""

import ctypes
import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from tunnels.crypto import handshake, kem, noise, sodium, x25519
from tunnels.crypto.handshake import HopKeys
from tunnels.link.handshake import SessionKeys

SIZE: Final = 32
"""Bytes of every secret looked for."""


def inverted(secret: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in secret)


class Made:
    """Kind of each secret that was made, by its inverted bytes."""

    def __init__(self) -> None:
        self.kinds: dict[bytes, str] = {}

    def note(self, kind: str, *secrets: bytes) -> None:
        for secret in secrets:
            if len(secret) >= SIZE and any(secret):
                self.kinds.setdefault(inverted(bytes(secret[:SIZE])), kind)

    def of(self, *kinds: str) -> list[bytes]:
        """Inverted."""
        return [secret for secret, kind in self.kinds.items() if kind in kinds]


def _around(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, note: Callable[[tuple[Any, ...], Any], None]
) -> None:
    kept = owner.__dict__[name]
    function = kept.__func__ if isinstance(kept, classmethod | staticmethod) else kept

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        note(args, result)
        return result

    monkeypatch.setattr(owner, name, classmethod(wrapper) if isinstance(kept, classmethod) else wrapper)


@contextmanager
def noted() -> Iterator[Made]:
    made = Made()
    with pytest.MonkeyPatch.context() as patch:
        _around(patch, x25519.KeyPair, "__init__", lambda args, _: made.note("X25519 private key", args[1]))
        _around(patch, x25519.KeyPair, "exchange", lambda _, shared: made.note("X25519 shared secret", shared))
        _around(patch, kem.MlKem768Key, "decapsulate", lambda _, ss: made.note("ML-KEM shared secret", ss))
        _around(patch, kem.MlKem768, "encapsulate", lambda _, both: made.note("ML-KEM shared secret", both[1]))
        _around(patch, sodium.Key, "__init__", lambda args, _: made.note("key in libsodium's hands", args[1]))
        _around(patch, noise.CipherState, "__init__", lambda args, _: made.note("Noise key", *filter(None, args[1:2])))
        _around(patch, noise.CipherState, "initialize_key", lambda args, _: made.note("Noise key", args[1]))
        _around(patch, noise.SymmetricState, "mix_key", lambda args, _: made.note("Noise chaining key", args[0]._ck))  # noqa: SLF001
        _around(patch, SessionKeys, "derive", lambda _, keys: _note_session(made, keys))
        _around(patch, handshake, "hop_keys", lambda _, keys: _note_hop(made, keys))
        yield made


def _note_session(made: Made, keys: SessionKeys) -> None:
    made.note("header key", keys.send_header, keys.receive_header)
    made.note("seal key", keys.send_seal, keys.receive_seal)


def _note_hop(made: Made, keys: HopKeys) -> None:
    made.note("hop key", keys.forward, keys.backward, keys.seal, keys.filler, keys.exporter)


def buffers() -> Iterator[tuple[str, bytes]]:
    """Every bytes, bytearray, memoryview and string that Python's collector can reach, and who holds it."""
    seen: set[int] = set()
    tracked = gc.get_objects()
    for owner in tracked:
        for thing in gc.get_referents(owner):
            if isinstance(thing, bytes | bytearray | memoryview | str) and id(thing) not in seen:
                seen.add(id(thing))
                data = thing.encode("utf-8", "replace") if isinstance(thing, str) else bytes(thing)
                if len(data) >= SIZE:
                    yield _name(owner), data


def _name(owner: object) -> str:
    return f"{type(owner).__module__}.{type(owner).__qualname__}"


def found(made: Made) -> dict[str, set[str]]:
    """Kind of secret -> types of the objects that hold one: whole, within something longer, or as hexadecimal text."""
    gc.collect()
    result: dict[str, set[str]] = {}
    everything = list(buffers())
    for upside_down, kind in made.kinds.items():
        secret = inverted(upside_down)
        for owner, data in everything:
            if secret in data or secret.hex().encode() in data:
                result.setdefault(kind, set()).add(owner)
    return result


def memory(at: int) -> bytes:
    return ctypes.string_at(at, SIZE)
