"""The security bar's line 5: a capture of all links names nobody and nothing.

No circuit id, relay id, key of a client or a relay, ephemeral key, network or destination; no first byte that an IPv8
message has; and nothing that repeats, save receiver indices, which name a session at its receiver and change with it.
"""

import re
from collections import Counter
from typing import Any

import pytest

from sim.loop import run
from tests.adversarial import capture
from tests.adversarial.capture import Capture, whole_lives, windows
from tests.support.nodes import World
from tunnels.crypto.handshake import HopKeys
from tunnels.crypto.x25519 import KeyPair
from tunnels.link import datagrams as datagrams_module
from tunnels.link import session as session_module
from tunnels.link.handshake import SessionKeys
from tunnels.link.links import Links

CHANCE = 3
"""Times a 4-byte name may turn up in 3 MB by accident: once in a thousand names; four times, never."""

WINDOW = 8
"""Bytes that do not repeat by accident."""

HEAD = 64
"""Bytes in which a header block, a tag and a flag stand."""

TAIL = 40
"""Bytes in which mac1 and mac2 stand."""

SAMPLE = re.compile(rb"(?=([\0\x5a].{7}))", re.DOTALL)
"""Zeros, and one byte for all others: what repeats at any length has it somewhere."""


class Secrets:
    """Whatever came into being and must not be seen.

    Attributes:
        long: 16 bytes or more, by what they are.
        ids: circuit ids.
        indices: receiver indices.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.long: dict[bytes, str] = {}
        self.ids: set[int] = set()
        self.indices: set[int] = set()
        self._watch(monkeypatch)

    def _watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        generate, new_index = KeyPair.generate.__func__, Links._new_index  # type: ignore[attr-defined]  # noqa: SLF001

        def watched_pair(cls: type[KeyPair], *args: Any) -> KeyPair:
            pair: KeyPair = generate(cls, *args)
            self.long[pair.public] = "public X25519 key"
            self.long[pair.private_bytes()] = "private X25519 key"
            return pair

        def watched_index(links: Links) -> Any:
            index = new_index(links)
            self.indices.add(index)
            return index

        monkeypatch.setattr(KeyPair, "generate", classmethod(watched_pair))
        monkeypatch.setattr(Links, "_new_index", watched_index)
        for owner in (HopKeys, SessionKeys):
            self._watch_keys(monkeypatch, owner)

    def _watch_keys(self, monkeypatch: pytest.MonkeyPatch, owner: Any) -> None:
        initialise = owner.__init__

        def watched(keys: Any, *args: Any, **kwargs: Any) -> None:
            initialise(keys, *args, **kwargs)
            for name in owner.__dataclass_fields__:
                if isinstance(value := getattr(keys, name), bytes):
                    self.long[value] = f"{owner.__name__}.{name}"

        monkeypatch.setattr(owner, "__init__", watched)

    def look(self, world: World) -> None:
        """Take note of the circuit ids there are now."""
        for node in world.nodes:
            for link in node.core.links:
                self.ids |= link.circuits.keys() | link.outgoing.keys()

    def add(self, captured: Capture) -> None:
        for relay in captured.world.directory:
            self.long[relay.relay_id] = "relay id"
        for made in captured.kem.made:
            self.long[made[:32]] = "KEM key or ciphertext"
        self.long[captured.world.network_id] = "network id"
        self.long[capture.SENT[:16]] = self.long[capture.SENT[::-1][:16]] = "what was said"
        self.long[capture.DESTINATION.encode()] = self.long[capture.HOST.encode()] = "destination"


def lived(monkeypatch: pytest.MonkeyPatch) -> tuple[Capture, Secrets]:
    secrets = Secrets(monkeypatch)

    async def main() -> Capture:
        return await whole_lives(monkeypatch, secrets.look)

    captured = run(main())
    secrets.add(captured)
    return captured, secrets


def found(captured: Capture, secrets: Secrets) -> set[str]:
    parts = {part: name for secret, name in secrets.long.items() for part in (secret[:16], secret[-16:])}
    lengths = {len(part) for part in parts}
    seen = (window for one in captured.datagrams for size in lengths for window in windows(one.data, size))
    return {parts[window] for window in seen if window in parts}


def ids_found(captured: Capture, secrets: Secrets) -> list[int]:
    """Circuit ids seen more often than by accident."""
    names = {name.to_bytes(4) for name in secrets.ids}
    seen = Counter(
        window for datagram in captured.datagrams for window in windows(datagram.data[4:], 4) if window in names
    )
    return [int.from_bytes(name) for name, times in seen.items() if times > CHANCE]


def repeated(captured: Capture) -> int:
    """Windows behind the index that occur twice: all of those near either end, and of the rest those that begin with
    one of two bytes, wherever they stand.
    """
    counts: Counter[bytes] = Counter()
    for datagram in captured.datagrams:
        counts.update(windows(datagram.data[4:HEAD], WINDOW))
        counts.update(match.group(1) for match in SAMPLE.finditer(datagram.data, HEAD, len(datagram.data) - TAIL))
        counts.update(windows(datagram.data[-TAIL:], WINDOW))
    return counts.total() - len(counts)


def test_a_capture_shows_no_name_no_key_no_destination_and_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    captured, secrets = lived(monkeypatch)
    assert len(captured.datagrams) > 500
    assert len(secrets.ids) > 20
    assert len(secrets.long) > 100
    assert found(captured, secrets) == set()
    assert ids_found(captured, secrets) == []
    assert repeated(captured) == 0
    assert 0 not in {datagram.data[0] for datagram in captured.datagrams}, "that would be an IPv8 message"
    assert {int.from_bytes(datagram.data[:4]) for datagram in captured.datagrams} <= secrets.indices


def test_an_index_names_one_session_at_one_address_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the client that moved: its sessions are what a watcher of its old address knows already.

    An initiation carries the index of the initiator, at the address of the responder.
    """
    captured, _ = lived(monkeypatch)
    moved = {captured.clients[0].address, ("127.77.0.1", 7777)}
    pairs: dict[bytes, set[frozenset[tuple[str, int]]]] = {}
    for datagram in captured.datagrams:
        ends = frozenset("moved" if end in moved else end for end in (datagram.source, datagram.destination))
        pairs.setdefault(datagram.data[:4], set()).add(ends)  # type: ignore[arg-type]
    assert all(len(ends) == 1 for ends in pairs.values())


class _Plain:
    """A cipher that does nothing."""

    def __init__(self, *_: object) -> None: ...

    def encryptor(self) -> "_Plain":
        return self

    decryptor = encryptor

    @staticmethod
    def update_into(data: bytes, into: bytearray) -> None:
        into[: len(data)] = data


def test_with_plain_header_blocks_circuit_ids_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "Cipher", _Plain)
    captured, secrets = lived(monkeypatch)
    assert len(ids_found(captured, secrets)) > 10
    assert repeated(captured) > 1000


def test_without_masks_ephemeral_keys_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams_module, "_mask", lambda key, salt, message: message)
    captured, secrets = lived(monkeypatch)
    assert found(captured, secrets) == {"public X25519 key"}
