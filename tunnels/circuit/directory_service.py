"""Serving the set of relay descriptors inside circuits (SPEC 12.1).  Floor 3: sans-IO.

What is served needs no trust.  What it costs is bounded for each circuit, so that a reader in a hurry waits for
himself alone.  The same answer again is the same message again: of a page of fourteen cells, a repeated request needs
only those that were lost.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from tunnels.circuit.core import Role
from tunnels.ids import Drop
from tunnels.params import SERVE_BURST, SERVE_RATE
from tunnels.wire.directory_messages import BucketsRequest, Descriptors, DigestRequest, Digests

if TYPE_CHECKING:
    from tunnels.circuit.relay import RelayCircuit
    from tunnels.path.descriptors import DescriptorSet


class _Reader:
    """What a circuit may still ask for, and what it was told last."""

    __slots__ = ("content", "message_id", "then", "tokens")

    def __init__(self, now: float) -> None:
        self.tokens = SERVE_BURST
        self.then = now
        self.content = b""
        """SHA-256 of the newest answer."""
        self.message_id = 0

    def may_ask(self, now: float) -> bool:
        self.tokens = min(SERVE_BURST, self.tokens + (now - self.then) * SERVE_RATE)
        self.then = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class DirectoryService:
    """A relay's directory."""

    def __init__(self, known: DescriptorSet) -> None:
        self._known = known
        self._readers: WeakKeyDictionary[RelayCircuit, _Reader] = WeakKeyDictionary()
        self.answers = 0
        self.role: Final = Role(
            "directory service",
            relay={DigestRequest: self._on_digest_request, BucketsRequest: self._on_buckets_request},
        )

    def _on_digest_request(self, circuit: RelayCircuit, _message: DigestRequest, _early: bool, now: float) -> None:  # noqa: FBT001
        if reader := self._may_ask(circuit, now):
            self._answer(circuit, reader, Digests(self._known.digests()), now)

    def _on_buckets_request(self, circuit: RelayCircuit, message: BucketsRequest, _early: bool, now: float) -> None:  # noqa: FBT001
        if reader := self._may_ask(circuit, now):
            self._answer(circuit, reader, self._known.page(message.wanted, message.after), now)

    def _may_ask(self, circuit: RelayCircuit, now: float) -> _Reader | None:
        reader = self._readers.get(circuit)
        if reader is None:
            reader = self._readers[circuit] = _Reader(now)
        if reader.may_ask(now):
            return reader
        circuit.core.drops[Drop.LIMIT] += 1
        return None

    def _answer(self, circuit: RelayCircuit, reader: _Reader, message: Digests | Descriptors, now: float) -> None:
        content = hashlib.sha256(message.encode()).digest()
        if content != reader.content:
            reader.content, reader.message_id = content, circuit.new_message_id()
        circuit.send(message, now, reader.message_id)
        self.answers += 1
