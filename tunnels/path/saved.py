"""State as bytes: JSON with a kind and a version, checked field by field when it is read.  Floor 3: values only.

What path choice remembers goes through here on its way to a store.  Whoever finds that it cannot be read keeps the
bytes: they may be a newer version's, and a guard that is forgotten is a new guard.
"""

import json
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, Final

from tunnels.errors import LocalError
from tunnels.ids import RelayId
from tunnels.params import RELAY_ID_SIZE

VERSION: Final = 1


class StateError(LocalError):
    """Saved state that cannot be read.  Nothing was changed: keep the bytes, say so, and let a person decide."""


def dump(kind: str, fields: Mapping[str, object]) -> bytes:
    """The bytes of `fields`, the same for the same fields."""
    return json.dumps({"kind": kind, "version": VERSION, **fields}, sort_keys=True, separators=(",", ":")).encode()


def parse(data: bytes, kind: str) -> "Fields":
    """The fields that `dump` was given.

    Raises:
        StateError: these bytes are something else.
    """
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        raise StateError(f"saved {kind}: not the JSON we write; move the file away to begin anew") from None
    fields = Fields(f"saved {kind}", whole)
    if (found := fields.text("kind")) != kind:
        raise StateError(f"saved {kind}: this is {found[:40]!r}")
    if (version := fields.count("version", 2**31)) != VERSION:
        raise StateError(f"saved {kind}: written as version {version}, this program reads version {VERSION}")
    return fields


class Fields:
    """A JSON object, read with a type and a bound for each field.

    Every method raises StateError, which names the field, when it is missing, of another type or out of bounds.
    """

    def __init__(self, where: str, fields: object) -> None:
        if not isinstance(fields, dict):
            raise StateError(f"{where}: not an object")
        self._where, self._fields = where, fields

    def fail(self, name: str, what: str) -> StateError:
        return StateError(f"{self._where}: {name} {what}")

    def _get(self, name: str) -> Any:
        if name not in self._fields:
            raise self.fail(name, "is missing")
        return self._fields[name]

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str):
            raise self.fail(name, "is no text")
        return value

    def flag(self, name: str) -> bool:
        value = self._get(name)
        if not isinstance(value, bool):
            raise self.fail(name, "is neither true nor false")
        return value

    def count(self, name: str, most: int) -> int:
        value = self._get(name)
        if type(value) is not int or not 0 <= value <= most:
            raise self.fail(name, f"is no whole number up to {most}")
        return value

    def number(self, name: str) -> float:
        return self._number(name, self._get(name))

    def number_or_none(self, name: str) -> float | None:
        value = self._get(name)
        return None if value is None else self._number(name, value)

    def positive(self, name: str) -> float:
        value = self.number(name)
        if value < 0:
            raise self.fail(name, "is below 0")
        return value

    def numbers(self, name: str, most: int) -> list[float]:
        return [self._number(name, value) for value in self._list(name, most)]

    def relay(self, name: str) -> RelayId:
        return self._relay(name, self._get(name))

    def relays(self, name: str, most: int) -> list[RelayId]:
        """Relay ids, none twice."""
        found = [self._relay(name, value) for value in self._list(name, most)]
        if len(set(found)) != len(found):
            raise self.fail(name, "names a relay twice")
        return found

    def objects(self, name: str, most: int) -> "Iterator[Fields]":
        for number, value in enumerate(self._list(name, most)):
            yield Fields(f"{self._where}: {name} {number}", value)

    def _list(self, name: str, most: int) -> list[Any]:
        value = self._get(name)
        if not isinstance(value, list) or len(value) > most:
            raise self.fail(name, f"is no list of at most {most}")
        return value

    def _number(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e15 or not isfinite(value):
            raise self.fail(name, "is no number")
        return float(value)

    def _relay(self, name: str, value: object) -> RelayId:
        try:
            relay_id = bytes.fromhex(value) if isinstance(value, str) else b""
        except ValueError:
            relay_id = b""
        if len(relay_id) != RELAY_ID_SIZE or relay_id.hex() != value:
            raise self.fail(name, "is no relay id")
        return RelayId(relay_id)
