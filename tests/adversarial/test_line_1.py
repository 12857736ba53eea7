"""The security bar's line 1: no key and nonce encrypt twice.

Watched is who *makes* bytes that leave a node, at libsodium itself.  Two ends of a layer compute the same stream, and
the originator takes keystream apart to foresee what hops will do (SPEC 6.1): neither is a second use.

    forward layer   the originator, with each hop's key and nonce, once a cell
    backward layer  each hop, once a cell; its seal, once a cell it writes
    filler          each hop: one place of one stream, once a cell
    sealed cell     its sender; so are the texts of a handshake, the masks and the cookies
    header block    its sender: a plain block must not repeat under one header key either
    dice            each refill

A call from a place that is not in the table below is an error: whoever adds one says what it is.
"""

import ctypes
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import pytest

from sim.loop import run
from tests.support.nodes import Node, World
from tests.support.plugin import Figure, Size
from tunnels.circuit.origin import OriginCircuit, State
from tunnels.circuit.relay import RelayCircuit
from tunnels.crypto import onion, sodium
from tunnels.crypto.replay import ReplayWindow
from tunnels.ids import CloseReason, Drop
from tunnels.link import links as links_module
from tunnels.link.outbox import Train
from tunnels.link.session import Session
from tunnels.params import HEADER_SIZE, KEY_SIZE
from tunnels.wire.messages import Ping, Truncate

NONCE_SIZE: Final = 12

MAKES: Final = frozenset({
    "OriginLayers.wrap",
    "RelayLayer.pass_backward",
    "Session._seal_into",
    "StreamRng._refill",
    "CipherState.encrypt_with_ad",
    "_hide",
    "_build",
})  # fmt: skip
"""Who makes ciphertext: function names, the nearest that is not a helper."""

WRITES_TWICE: Final = "RelayLayer.write_backward"
"""Seals under one key and adds its layer under another: each is one use."""

FORESEES: Final = frozenset(
    {"OriginLayers._xor_tail", "OriginLayers.peel", "_reveal", "Gate._unmask", "_Filler._turn_to"}
)
"""Who undoes or foresees what another made, or (fillers) is watched by itself."""

HELPERS: Final = frozenset({"chacha20", "seal", "_mask"})


def caller(frame: FrameType | None) -> str:
    while frame is not None and frame.f_code.co_name in HELPERS:
        frame = frame.f_back
    assert frame is not None
    return frame.f_code.co_qualname


def bytes_at(where: int | bytes, size: int) -> bytes:
    return where[:size] if isinstance(where, bytes) else ctypes.string_at(where, size)


class Watch:
    """Every use of a key.

    Attributes:
        used: (key, nonce) pairs, filler places and header blocks.
        repeated: by whom one was used again.
        unknown: who uses keys and is in no table.
        uses: how many of each kind.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.used: set[bytes] = set()
        self.repeated: list[str] = []
        self.unknown: set[str] = set()
        self.uses: dict[str, int] = {}
        self._keys: dict[int, tuple[object, bytes]] = {}
        self._patch = monkeypatch
        seal_at, xor_at, stream_at = sodium.seal_at, sodium.xor_at, sodium.stream_at

        def seal(out: Any, tag: Any, _1: Any, text: Any, size: int, ad: Any, ad_size: int, _2: Any, nonce: Any,
                 key: Any) -> int:  # fmt: skip
            self._note(sys._getframe(1), key, nonce)  # noqa: SLF001 (a watch has to see its caller)
            return int(seal_at(out, tag, _1, text, size, ad, ad_size, _2, nonce, key))

        def xor(out: Any, data: Any, size: int, nonce: Any, block: int, key: Any) -> int:
            self._note(sys._getframe(1), key, nonce)  # noqa: SLF001
            return int(xor_at(out, data, size, nonce, block, key))

        def stream(out: Any, size: int, nonce: Any, key: Any) -> int:
            self._note(sys._getframe(1), key, nonce)  # noqa: SLF001
            return int(stream_at(out, size, nonce, key))

        monkeypatch.setattr(sodium, "seal_at", seal)
        monkeypatch.setattr(sodium, "xor_at", xor)
        monkeypatch.setattr(sodium, "stream_at", stream)
        self._around(onion._Filler, "of", self._filler)  # noqa: SLF001 (one place of a stream is no call of its own)
        self._around(sodium, "xseal", lambda key, nonce, *_: self.use("cookie", key + nonce))
        self._around(Session, "__init__", self._session, after=True)
        self._around(Train, "seal_headers", self._headers)

    def use(self, who: str, what: bytes) -> None:
        if what in self.used:
            self.repeated.append(who)
        self.used.add(what)
        self.uses[who] = self.uses.get(who, 0) + 1

    def _note(self, frame: FrameType, key: int | bytes, nonce: int | bytes) -> None:
        who = caller(frame)
        if who in MAKES or who == WRITES_TWICE:
            self.use(who, bytes_at(key, KEY_SIZE) + bytes_at(nonce, NONCE_SIZE))
        elif who not in FORESEES:
            self.unknown.add(who)

    def _filler(self, filler: Any, counter: int) -> None:
        if sys._getframe(2).f_code.co_qualname == "RelayLayer.open_forward":  # noqa: SLF001
            self.use("filler", bytes_at(filler._key.at, KEY_SIZE) + counter.to_bytes(8))  # noqa: SLF001

    def _session(self, session: Session, _link: object, keys: Any, **_: object) -> None:
        self.use("header key", keys.send_header)
        self._keys[id(session._encryptor)] = session._encryptor, keys.send_header  # noqa: SLF001

    def _headers(self, train: Train, _index: bytes, cipher: object, _scratch: object) -> None:
        key = self._keys[id(cipher)][1]
        for start in range(0, train.count * HEADER_SIZE, HEADER_SIZE):
            self.use("header block", key + train.headers[start : start + HEADER_SIZE])

    def _around(self, owner: Any, name: str, note: Callable[..., None], *, after: bool = False) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            if not after:
                note(*args, **kwargs)
            result = original(*args, **kwargs)
            if after:
                note(*args, **kwargs)
            return result

        self._patch.setattr(owner, name, watched)


async def live(client: Node, circuit: OriginCircuit, world: World, number: int) -> None:
    """What circuits are used for, some of it badly."""
    for size in (0, 1200, 4000):
        client.send(circuit, bytes(size))
        await world.sleep(0.1)
    for hop in range(circuit.hops_built):
        circuit.send(Ping(bytes(8)), client.driver.now(), hop)
    client.driver.wake()
    await world.sleep(15)
    if circuit.state is State.OPEN and number % 5 == 0:
        circuit.send(Truncate(), client.driver.now(), 0)
    elif number % 3 == 0:
        circuit.close(CloseReason.REQUESTED, client.driver.now())
    client.driver.wake()


def test_no_key_and_nonce_encrypt_twice_whatever_is_lost_repeated_or_renewed(
    monkeypatch: pytest.MonkeyPatch, size: Size, figure: Figure
) -> None:
    circuits: int = size(small=50, long=1000)
    monkeypatch.setattr(links_module, "REKEY_AFTER_TIME", 40.0)
    watch = Watch(monkeypatch)

    async def main() -> None:
        world = World(seed=1, loss=0.03)
        relays = [world.relay(exits=True, exit_single_hop=True) for _ in range(7)]
        clients = [world.client() for _ in range(3)]
        opened = 0
        for number in range(circuits):
            client, hops = clients[number % 3], 1 + number % 6
            path = [relays[(number * 5 + hop) % 7] for hop in range(hops)]
            try:
                circuit = await client.build(path)
            except ConnectionError:
                continue
            opened += 1
            await live(client, circuit, world, number)
        await world.sleep(120)
        assert opened > circuits * 0.8
        drops = sum((node.core.drops for node in world.nodes), start=world.nodes[0].core.drops.__class__())
        assert not {Drop.BAD_TAG, Drop.BAD_HEADER} & drops.keys(), "the watch has not disturbed what it watches"
        world.close()

    run(main())
    assert watch.unknown == set(), "who uses keys must be in one of the tables"
    assert watch.repeated == []
    assert watch.uses.keys() >= (MAKES - {"StreamRng._refill"}) | {WRITES_TWICE, "filler", "header block"}
    assert watch.uses["header key"] > 2 * 2 * 7, "links were renewed"
    figure("key and nonce pairs, none twice", len(watch.used), "pairs")


@pytest.mark.parametrize(
    ("owner", "counter", "who"),
    [
        (OriginCircuit, "_counter", "OriginLayers.wrap"),
        (Session, "counter", "Session._seal_into"),
        (Session, "counter", "header block"),
    ],
)
def test_a_sequence_that_stands_still_is_found(
    owner: type, counter: str, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, counter, property(lambda self: 12345, lambda self, number: None), raising=False)
    assert who in repeated_in_a_short_life(monkeypatch)


@pytest.mark.parametrize("who", ["RelayLayer.pass_backward", "RelayLayer.write_backward"])
def test_a_hop_that_does_not_count_is_found(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RelayCircuit, "take_counter", lambda self, now: 12345)
    assert who in repeated_in_a_short_life(monkeypatch)


def test_a_hop_that_opens_a_cell_twice_is_found_by_its_filler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cells with one filler: whoever sees both links would know them for the same."""
    monkeypatch.setattr(OriginCircuit, "_counter", property(lambda self: 7, lambda self, n: None), raising=False)
    monkeypatch.setattr(ReplayWindow, "fresh", lambda self, number: True)
    assert "filler" in repeated_in_a_short_life(monkeypatch)


def repeated_in_a_short_life(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    watch = Watch(monkeypatch)

    async def main() -> None:
        world = World(seed=1)
        relays = [world.relay(exits=True) for _ in range(3)]
        client = world.client()
        circuit = client.start(relays)
        await world.sleep(3)
        if circuit.state is State.OPEN:
            await live(client, circuit, world, 1)
        world.close()

    run(main())
    return watch.repeated
