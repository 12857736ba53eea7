"""Serving the set of relay descriptors inside circuits (SPEC 12.1).  Floor 3: sans-IO.

What is served needs no trust.  What it costs is bounded for each circuit, so that a reader in a hurry waits for himself
alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from tunnels.circuit.core import Role
from tunnels.ids import Drop
from tunnels.params import SERVE_BURST, SERVE_RATE
from tunnels.wire.directory_messages import BucketsRequest, DigestRequest, Digests

if TYPE_CHECKING:
    from tunnels.circuit.relay import RelayCircuit
    from tunnels.path.descriptors import DescriptorSet


class DirectoryService:
    """A relay's directory."""

    def __init__(self, known: DescriptorSet) -> None:
        self._known = known
        self._tokens: WeakKeyDictionary[RelayCircuit, tuple[float, float]] = WeakKeyDictionary()
        self.answers = 0
        self.role: Final = Role(
            "directory service",
            relay={DigestRequest: self._on_digest_request, BucketsRequest: self._on_buckets_request},
        )

    def _on_digest_request(self, circuit: RelayCircuit, _message: DigestRequest, _early: bool, now: float) -> None:  # noqa: FBT001
        if self._may_answer(circuit, now):
            circuit.send(Digests(self._known.digests()), now)

    def _on_buckets_request(self, circuit: RelayCircuit, message: BucketsRequest, _early: bool, now: float) -> None:  # noqa: FBT001
        if self._may_answer(circuit, now):
            circuit.send(self._known.page(message.wanted, message.after), now)

    def _may_answer(self, circuit: RelayCircuit, now: float) -> bool:
        tokens, then = self._tokens.get(circuit, (SERVE_BURST, now))
        tokens = min(SERVE_BURST, tokens + (now - then) * SERVE_RATE)
        if tokens < 1:
            circuit.core.drops[Drop.LIMIT] += 1
            return False
        self._tokens[circuit] = (tokens - 1, now)
        self.answers += 1
        return True
