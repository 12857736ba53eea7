"""SPEC 4.2, 4.4 and 4.8: which initiations cost a public-key operation, in which order, and which cost nothing."""

import pytest

from tests.adversarial.floods import CheapKem
from tunnels.crypto.rng import StreamRng
from tunnels.crypto.x25519 import KeyPair
from tunnels.ids import Address, Drop, Index
from tunnels.link.datagrams import build_initiation, mac1_of, open_cookie_reply
from tunnels.link.handshake import Initiation, Initiator, tai64n
from tunnels.link.responder import Responder, Timestamps, Waiting
from tunnels.params import COOKIE_LIFETIME, M1_SIZE, QUEUE_PER_KEY, UNDER_LOAD_INITIATIONS

NET = b"tropea"


class Scene:
    def __init__(self) -> None:
        self.rng = StreamRng(bytes(range(32)))
        self.kem = CheapKem(self.rng)
        self.static = KeyPair.generate(self.rng)
        self.responder = Responder(self.static, NET, self.rng, 0.0)
        self.alice = KeyPair.generate(self.rng)
        self._made = 0

    def initiation(self, static: KeyPair | None = None, time: float = 1e9, cookie: bytes | None = None) -> bytes:
        self._made += 1
        index = Index(0x01000000 + self._made)
        m1 = Initiator(NET, static or self.alice, self.static.public, index, tai64n(time), self.rng, self.kem).m1
        return build_initiation(m1, index, self.static.public, cookie, self.rng)

    def garbage(self, cookie: bytes | None = None) -> bytes:
        """Right mac1, and nothing behind it."""
        self._made += 1
        index = Index(0x01000000 + self._made)
        return build_initiation(self.rng.bytes(M1_SIZE), index, self.static.public, cookie, self.rng)

    def read(self) -> Initiation | Drop:
        waiting = self.responder.next()
        assert waiting is not None
        return self.responder.read(waiting)

    def load(self, now: float = 0.0) -> None:
        for number in range(UNDER_LOAD_INITIATIONS):
            assert self.responder.receive(self.garbage(), host(number), now) is None


def host(prefix: int, number: int = 1) -> Address:
    return f"10.{prefix // 256}.{prefix % 256}.{number}", 4000


def test_a_genuine_initiation_waits_and_is_read() -> None:
    scene = Scene()
    datagram = scene.initiation()
    assert scene.responder.receive(datagram, host(1), 0.0) is None
    initiation = scene.read()
    assert isinstance(initiation, Initiation)
    assert initiation.static == scene.alice.public
    assert scene.responder.next() is None


def test_what_was_not_made_for_our_key_is_dropped_before_it_waits() -> None:
    scene = Scene()
    other = KeyPair.generate(scene.rng)
    for datagram in (
        scene.rng.bytes(1350),
        build_initiation(scene.rng.bytes(M1_SIZE), Index(0x01000000), other.public, None, scene.rng),
        scene.initiation()[:-1],
        b"",
    ):
        assert scene.responder.receive(datagram, host(1), 0.0) is Drop.BAD_MAC1
    assert not len(scene.responder.queue)


def test_garbage_behind_a_right_mac1_costs_its_sender_a_turn_and_is_dropped() -> None:
    scene = Scene()
    scene.responder.receive(scene.garbage(), host(1), 0.0)
    assert scene.read() is Drop.BAD_HANDSHAKE


def test_an_initiation_that_is_not_newer_than_the_last_of_its_static_is_dropped() -> None:
    scene = Scene()
    genuine = scene.initiation(time=1000.0)
    for datagram, fresh in (
        (genuine, True),
        (genuine, False),
        (scene.initiation(time=1000.0), False),
        (scene.initiation(time=999.9), False),
        (scene.initiation(KeyPair.generate(scene.rng), time=5.0), True),
        (scene.initiation(time=1000.001), True),
    ):
        scene.responder.receive(datagram, host(1), 0.0)
        assert (scene.read() is not Drop.STALE_TIMESTAMP) is fresh


def test_a_garbage_initiation_does_not_use_up_a_timestamp() -> None:
    scene = Scene()
    genuine = scene.initiation()
    forged = bytearray(genuine)
    forged[200] ^= 1
    scene.responder.receive(
        build_initiation(bytes(forged[16 : 16 + M1_SIZE]), Index(0x01000000), scene.static.public, None, scene.rng),
        host(1),
        0.0,
    )
    assert scene.read() is Drop.BAD_HANDSHAKE
    scene.responder.receive(genuine, host(1), 0.0)
    assert isinstance(scene.read(), Initiation)


# --- under load ----------------------------------------------------------------------------------------------


def test_under_load_nothing_waits_without_a_cookie_for_its_own_address() -> None:
    scene = Scene()
    scene.load()
    first = scene.initiation()
    reply = scene.responder.receive(first, host(100), 0.0)
    assert isinstance(reply, bytes)
    assert len(scene.responder.queue) == UNDER_LOAD_INITIATIONS
    cookie = open_cookie_reply(reply, mac1_of(first), scene.static.public)
    assert cookie is not None
    again = scene.initiation(cookie=cookie)
    assert isinstance(scene.responder.receive(again, host(101), 0.0), bytes)
    assert isinstance(scene.responder.receive(again, ("10.0.100.1", 4001), 0.0), bytes)
    assert scene.responder.receive(again, host(100), 0.0) is None
    assert len(scene.responder.queue) == UNDER_LOAD_INITIATIONS + 1


@pytest.mark.parametrize(("age", "good"), [(0.0, True), (COOKIE_LIFETIME, True), (2 * COOKIE_LIFETIME, False)])
def test_a_cookie_is_good_for_the_period_it_was_made_in_and_the_next(age: float, good: bool) -> None:  # noqa: FBT001
    scene = Scene()
    scene.load()
    first = scene.initiation()
    reply = scene.responder.receive(first, host(100), 0.0)
    assert isinstance(reply, bytes)
    cookie = open_cookie_reply(reply, mac1_of(first), scene.static.public)
    assert (scene.responder.receive(scene.initiation(cookie=cookie), host(100), age) is None) is good


def test_below_the_load_no_cookie_is_asked_for() -> None:
    scene = Scene()
    scene.load()
    scene.responder.next()
    assert scene.responder.receive(scene.initiation(), host(100), 0.0) is None


# --- the queue -----------------------------------------------------------------------------------------------


def with_cookie(scene: Scene, sender: Address) -> bytes:
    probe = scene.garbage()
    reply = scene.responder.receive(probe, sender, 0.0)
    assert isinstance(reply, bytes)
    cookie = open_cookie_reply(reply, mac1_of(probe), scene.static.public)
    assert cookie is not None
    return cookie


def test_what_waits_already_takes_no_second_turn_and_may_come_again_afterwards() -> None:
    scene = Scene()
    datagram = scene.initiation()
    assert scene.responder.receive(datagram, host(1), 0.0) is None
    for sender in (host(1), host(2), host(1, 7)):
        assert scene.responder.receive(datagram, sender, 0.0) is Drop.REPLAYED
    assert len(scene.responder.queue) == 1
    assert isinstance(scene.read(), Initiation)
    assert scene.responder.receive(datagram, host(1), 0.0) is None
    assert scene.read() is Drop.STALE_TIMESTAMP


def test_prefixes_take_turns_whatever_one_of_them_sends() -> None:
    scene = Scene()
    scene.load()
    loud, quiet = host(100), host(101)
    cookie = with_cookie(scene, loud)
    results = [scene.responder.receive(scene.garbage(cookie), loud, 0.0) for _ in range(QUEUE_PER_KEY + 10)]
    assert results == [None] * QUEUE_PER_KEY + [Drop.QUEUE_FULL] * 10
    assert scene.responder.receive(scene.initiation(cookie=with_cookie(scene, quiet)), quiet, 0.0) is None
    senders = []
    while (waiting := scene.responder.next()) is not None:
        assert isinstance(waiting, Waiting)
        senders.append(waiting.sender)
    assert senders.index(quiet) <= UNDER_LOAD_INITIATIONS + 1
    assert senders.count(loud) == QUEUE_PER_KEY


def test_hosts_of_one_prefix_share_its_turn() -> None:
    scene = Scene()
    scene.load()
    for number in range(1, QUEUE_PER_KEY + 1):
        sender = host(100, number)
        assert scene.responder.receive(scene.garbage(with_cookie(scene, sender)), sender, 0.0) is None
    last = host(100, 250)
    assert scene.responder.receive(scene.garbage(with_cookie(scene, last)), last, 0.0) is Drop.QUEUE_FULL


def test_timestamps_accept_each_time_once_and_only_forward() -> None:
    table = Timestamps(size=3)
    assert [table.accept(b"a", bytes([n])) for n in (5, 5, 4, 6, 6, 7)] == [True, False, False, True, False, True]
    assert table.accept(b"b", b"\x01")
