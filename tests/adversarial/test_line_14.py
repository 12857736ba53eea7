"""The security bar's line 14: where secrets are, and where they are not.

That no module rolls common dice and none compares a tag with `==` is checked on the source: tests/test_house.py.  Here
nodes live, and their memory is searched for the secrets they really made.
"""
# ruff: noqa: SLF001 (keys are looked for where they are kept)

import gc
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import pytest

from sim.loop import run
from tests.adversarial.census import reachable
from tests.adversarial.secrets_made import SIZE, Made, found, inverted, memory, noted
from tests.support import house
from tests.support.nodes import Node, RelayNode, World
from tunnels.circuit.origin import OriginCircuit
from tunnels.crypto import sodium
from tunnels.crypto.rng import StreamRng
from tunnels.crypto.x25519 import KeyPair
from tunnels.errors import TunnelError
from tunnels.ids import CloseReason
from tunnels.link.handshake import SessionKeys
from tunnels.link.session import Session
from tunnels.params import PENDING_SESSION, PREVIOUS_SESSION, REKEY_AFTER_TIME

AES: Final = "cryptography.hazmat.primitives.ciphers.algorithms.AES256"
"""Keeps the key it was given as bytes while the session lives: docs/decisions.md, "What Python cannot wipe"."""

NOTHING: Final = bytes(SIZE)

SEED: Final = int.from_bytes(b"no other test has this very seed")
"""A small number would be a key that some other test of the same process has in a relay of its own."""


class Life:
    """Three relays, a client, and a circuit that has been used."""

    def __init__(self, made: Made) -> None:
        self.made = made
        self.world = World(seed=SEED)
        self.relays = [self.world.relay(exits=True) for _ in range(3)]
        self.client = self.world.client()

    async def start(self) -> "Life":
        self.circuit = await self.client.build(self.relays)
        for _ in range(3):
            self.client.send(self.circuit, b"x" * 3000)
            await self.world.sleep(0.5)
        await self.world.sleep(PENDING_SESSION + PREVIOUS_SESSION)
        return self

    def close(self, circuit: OriginCircuit) -> None:
        circuit.close(CloseReason.REQUESTED, self.client.driver.now())
        self.client.driver.wake()


def live(act: Callable[[Life], Awaitable[None]]) -> None:
    async def main() -> None:
        with noted() as made:
            life = await Life(made).start()
            await act(life)
            life.world.close()

    run(main())


# --- what is left in memory -------------------------------------------------------------------------------


def test_secrets_are_inside_libsodium_keys_and_cryptography_and_nowhere_else() -> None:
    async def act(life: Life) -> None:
        kinds = set(life.made.kinds.values())
        assert {"X25519 private key", "X25519 shared secret", "ML-KEM shared secret", "hop key", "seal key"} <= kinds
        assert {"header key", "Noise key", "Noise chaining key", "key in libsodium's hands"} <= kinds
        assert found(life.made) == {"header key": {AES}}
        await life.world.sleep(REKEY_AFTER_TIME + PREVIOUS_SESSION)
        assert found(life.made) == {"header key": {AES}}
        life.close(life.circuit)
        await life.world.sleep(200)
        assert found(life.made) == {}

    live(act)


@pytest.mark.parametrize("plant", ["a list", "an attribute", "within something longer", "as text"])
def test_the_search_finds_a_secret_that_somebody_keeps(plant: str) -> None:
    kept: list[Any] = []

    async def act(life: Life) -> None:
        (secret, *_) = life.made.of("hop key")
        true = inverted(secret)
        match plant:
            case "a list":
                kept.append(true)
            case "an attribute":
                life.client.__dict__["leak"] = true
            case "within something longer":
                kept.append(b"before" + true + b"after")
            case "as text":
                kept.append(true.hex())
        del true
        assert "hop key" in found(life.made)
        life.client.__dict__.pop("leak", None)

    live(act)


def test_the_search_finds_session_keys_that_are_not_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = Session.__init__
    kept: list[SessionKeys] = []

    def keep(self: Session, link: Any, keys: SessionKeys, **rest: Any) -> None:
        kept.append(keys)
        begun(self, link, keys, **rest)

    monkeypatch.setattr(Session, "__init__", keep)

    async def act(life: Life) -> None:
        assert {"header key", "seal key"} <= found(life.made).keys()

    live(act)


def test_the_dice_keep_no_secret_they_gave_out() -> None:
    rng = StreamRng(bytes(range(32)))
    for number in range(2000):
        drawn = rng.bytes(32 + number % 32)
        assert drawn not in rng._pool
        rng.bytes(number % 300)


# --- what is wiped ------------------------------------------------------------------------------------------


def keys_of(roots: Iterable[object]) -> list[sodium.Key]:
    return [thing for thing in reachable(roots) if isinstance(thing, sodium.Key)]


def test_keys_are_wiped_when_what_they_are_for_ends() -> None:
    async def act(life: Life) -> None:
        (joined,) = life.relays[1].core.joined
        (link,) = life.client.core.links
        layers, hop, session = (keys_of([each]) for each in (life.circuit._layers, joined.layer, link.current))
        layers = [key for key in layers if key is not life.client.core.rng._key]
        hop = [key for key in hop if key is not life.relays[1].core.rng._key]
        own = [key for key in session if key in (link.current._send_seal, link.current._receive_seal)]
        assert (len(layers), len(hop), len(own)) == (3 * 5, 4, 2)
        assert all(memory(key.at) != NOTHING for key in (*layers, *hop, *own))
        life.close(life.circuit)
        await life.world.sleep(5)
        assert all(memory(key.at) == NOTHING for key in (*layers, *hop))
        assert all(memory(key.at) != NOTHING for key in own)
        await life.world.sleep(200)
        assert not len(life.client.core.links)
        assert all(memory(key.at) == NOTHING for key in own)

    live(act)


def test_a_session_that_was_renewed_is_wiped() -> None:
    async def act(life: Life) -> None:
        (link,) = life.client.core.links
        (far,) = (each for each in life.relays[0].core.links if each.address == life.client.address)
        old = [link.current, far.current]
        keys = [key for session in old for key in (session._send_seal, session._receive_seal)]
        await life.world.sleep(REKEY_AFTER_TIME + PREVIOUS_SESSION)
        assert link.current not in old
        assert all(memory(key.at) == NOTHING for key in keys)

    live(act)


def test_everything_is_wiped_when_a_node_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = sodium.Key.__init__
    keys: list[sodium.Key] = []

    def keep(self: sodium.Key, key: bytes) -> None:
        begun(self, key)
        keys.append(self)

    async def main() -> None:
        world = World(seed=SEED)
        relays, client = [world.relay(exits=True) for _ in range(3)], world.client()
        monkeypatch.setattr(sodium.Key, "__init__", keep)
        await client.build(relays)
        assert len(keys) > 30
        assert all(memory(key.at) != NOTHING for key in keys)
        world.close()
        assert all(memory(key.at) == NOTHING for key in keys)

    run(main())


def test_a_key_that_is_dropped_is_wiped_too() -> None:
    key = sodium.Key(b"k" * SIZE)
    buffer = key._buffer
    del key
    gc.collect()
    assert bytes(buffer) == NOTHING


# --- what is shown ------------------------------------------------------------------------------------------


def shown(things: Iterable[object]) -> str:
    texts = []
    for thing in things:
        if type(thing).__module__.startswith(("tunnels.", "sim.", "ctypes")):
            texts += [repr(thing), str(thing), f"{thing}"]
    return "\n".join(texts)


def tells(text: str, made: Made) -> set[str]:
    """The kinds of secrets that stand in `text` in some spelling."""
    told = set()
    for upside_down, kind in made.kinds.items():
        secret = inverted(upside_down)
        if any(spelling in text for spelling in (repr(secret)[2:-1], secret.hex(), repr(list(secret))[1:-1])):
            told.add(kind)
    return told


def test_no_object_of_a_live_node_shows_a_secret() -> None:
    async def act(life: Life) -> None:
        nodes: list[Node | RelayNode] = [life.client, *life.relays]
        things = list(reachable([node.engine for node in nodes]))
        assert {type(thing).__name__ for thing in things} >= {"Key", "KeyPair", "Session", "Link", "RelayCircuit"}
        text = shown([*things, *(event for node in nodes for event in node.happened)])
        assert tells(text, life.made) == set()

    live(act)


def test_what_shows_a_secret_is_noticed() -> None:
    async def act(life: Life) -> None:
        secret = inverted(life.made.of("hop key")[0])
        for text in (repr(secret), secret.hex(), str(list(secret))):
            assert tells(f"<Layer {text}>", life.made) == {"hop key"}

    live(act)


def test_nothing_that_is_passed_around_in_a_handshake_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    for owner, name in ((SessionKeys, "__init__"), (KeyPair, "__init__"), (sodium.Key, "__init__")):
        kept = getattr(owner, name)

        def show(self: object, *args: Any, _kept: Any = kept, **kwargs: Any) -> None:
            _kept(self, *args, **kwargs)
            texts.append(f"{self!r} {self}")

        monkeypatch.setattr(owner, name, show)

    async def act(life: Life) -> None:
        assert len(texts) > 30
        assert tells("\n".join(texts), life.made) == set()

    live(act)


def test_no_exception_carries_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []

    def note(self: TunnelError, *args: object) -> None:
        Exception.__init__(self, *args)
        texts.append(f"{self!r} {self}")

    monkeypatch.setattr(TunnelError, "__init__", note)

    async def act(life: Life) -> None:
        rng = StreamRng(bytes(range(32)))
        relay = life.relays[0]
        for _ in range(200):
            relay.engine.receive(bytearray(rng.bytes(1350)), ("127.9.9.9", 9), relay.driver.now())
        for link in life.client.core.links:
            for command in range(12):
                link.current.seal(command, rng.bytes(1314), rng)
            life.client.driver.wake()
        await life.world.sleep(1)
        for wrong in (b"", b"short", bytes(33)):
            for make in (KeyPair, StreamRng):
                with pytest.raises(TunnelError):
                    make(wrong)
        secret = inverted(life.made.of("X25519 private key")[0])
        for make in (KeyPair, StreamRng):
            with pytest.raises(TunnelError):
                make(secret + b"x")
        assert len(texts) > 10
        assert tells("\n".join(texts), life.made) == set()

    live(act)


def test_the_source_is_checked_for_dice_and_open_comparisons() -> None:
    trees = {module: house.parse(path) for module, path in house.modules().items()}
    assert {"tunnels.link.links", "tunnels.crypto.handshake", "tunnels.link.datagrams"} <= trees.keys()
    for rule in (house.native_imports, house.ambient_dice, house.open_compares, house.impure_imports):
        assert [offence for module, tree in trees.items() for offence in rule(module, tree)] == []
