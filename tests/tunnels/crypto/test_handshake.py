"""SPEC 5, as tests.

The reference beside which ours is put is tests/vectors/make_ntor.py: the steps once more, out of hashlib, hmac and
`cryptography` only.  It also plays the attackers, who make every message they like out of the secrets they have.
"""

import contextlib
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plugin import Size
from tests.vectors import make_ntor
from tests.vectors.make_ntor import Values
from tunnels.crypto.handshake import (
    PROTOID,
    AnswerKeys,
    HopKeys,
    OriginatorHandshake,
    answer_create,
    answer_keys,
    context_of,
    hop_keys,
    keyid_of,
)
from tunnels.crypto.kem import DecapsulationKey, Kem, MlKem768, keypair_from_seed
from tunnels.crypto.rng import StreamRng
from tunnels.crypto.x25519 import KeyPair
from tunnels.errors import LocalError, RemoteError
from tunnels.ids import RelayId, Rng
from tunnels.params import (
    COUNTER_OFFSET_LIMIT,
    CREATE_SIZE,
    CREATED_SIZE,
    HOP_KEYS_SIZE,
    KEM_CIPHERTEXT_SIZE,
    KEM_PUBLIC_SIZE,
    MAX_EXTRA,
    VERSION,
)

VECTORS: Final = make_ntor.load()
NETWORK: Final = b"tropea"
RNG: Final = StreamRng(b"handshake".ljust(32, b"."))
KEM: Final = MlKem768()
RELAY_ID: Final = RelayId(b"r" * 32)
ONION_KEY: Final = KeyPair(b"b" * 32)
KEYS: Final = {keyid_of(ONION_KEY.public): ONION_KEY}

P: Final = 2**255 - 19
ORDER_8: Final = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
LOW_ORDER: Final = [
    (number | high << 255).to_bytes(32, "little") for number in (0, 1, *ORDER_8, P - 1, P, P + 1) for high in (0, 1)
]
"""Every spelling of every point that gives zeros whatever the scalar."""

REQUEST_FIELDS: Final = {"version": 0, "KEYID": 1, "X": 9, "ek": 41, "extra": 1225, "MAC": 1274}
"""Where the fields of CREATE begin."""

datas = st.binary(max_size=MAX_EXTRA)


class Dealt:
    """An Rng that deals the given bytes, in this order and size, and no others."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = list(parts)

    def bytes(self, size: int) -> bytes:
        part = self._parts.pop(0)
        assert len(part) == size
        return part

    def below(self, limit: int) -> int:
        raise AssertionError("a handshake draws no numbers")


class Recorded:
    """The Kem of a vector: a key pair from its seed, and the encapsulation that was recorded."""

    def __init__(self, v: Values) -> None:
        self._v = v

    def keypair(self) -> tuple[bytes, DecapsulationKey]:
        return keypair_from_seed(self._v["kem_seed"])

    def encapsulate(self, ek: bytes) -> tuple[bytes, bytes]:
        assert ek == self._v["ek"]
        return self._v["ct"], self._v["ss"]


class Untouchable:
    """A Kem that must not be asked."""

    def keypair(self) -> tuple[bytes, DecapsulationKey]:
        raise AssertionError("asked for a key pair")

    def encapsulate(self, ek: bytes) -> tuple[bytes, bytes]:
        raise AssertionError("asked for an encapsulation")


def originator(extra: bytes = b"") -> OriginatorHandshake:
    return OriginatorHandshake(RELAY_ID, ONION_KEY.public, NETWORK, RNG, KEM, extra)


def answer(
    create: bytes,
    *,
    relay_id: RelayId = RELAY_ID,
    keys: dict[bytes, KeyPair] = KEYS,
    network_id: bytes = NETWORK,
    rng: Rng = RNG,
    kem: Kem = KEM,
    extra: bytes = b"",
) -> tuple[bytes, HopKeys, bytes]:
    return answer_create(create, relay_id=relay_id, keys=keys, network_id=network_id, rng=rng, kem=kem, extra=extra)


def vector_originator(v: Values) -> OriginatorHandshake:
    return OriginatorHandshake(RelayId(v["ID"]), v["B"], v["network_id"], Dealt(v["x"]), Recorded(v), v["data"])


def vector_answer(v: Values, create: bytes, kem: Kem | None = None) -> tuple[bytes, HopKeys, bytes]:
    return answer_create(
        create,
        relay_id=RelayId(v["ID"]),
        keys={v["KEYID"]: KeyPair(v["b"])},
        network_id=v["network_id"],
        rng=Dealt(v["y"]),
        kem=kem or Recorded(v),
        extra=v["answer_data"],
    )


def flipped(data: bytes, place: int, mask: int) -> bytes:
    return data[:place] + bytes((data[place] ^ mask,)) + data[place + 1 :]


def flips(length: int) -> list[tuple[int, int]]:
    """Every bit of a message; every 57th is one in every seventh byte, and all bits in turn."""
    return [(place, 1 << bit) for place in range(length) for bit in range(8)]


# --- Vectors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VECTORS)
def test_both_sides_make_the_bytes_of_the_vector(name: str) -> None:
    v = VECTORS[name]
    ours = vector_originator(v)
    assert ours.create == v["CREATE"]
    created, relay_keys, data = vector_answer(v, ours.create)
    assert created == v["CREATED"]
    assert data == v["data"]
    keys, answer_data = ours.finish(created)
    assert answer_data == v["answer_data"]
    assert keys == relay_keys
    assert keys == HopKeys(
        v["forward"], v["backward"], v["seal"], v["filler"], v["exporter"], int.from_bytes(v["counter_offset"])
    )


@pytest.mark.parametrize("name", VECTORS)
def test_what_is_derived_on_the_way_is_that_of_the_vector(name: str) -> None:
    v = VECTORS[name]
    assert context_of(v["network_id"]) == v["CONTEXT"]
    assert keyid_of(v["B"]) == v["KEYID"]
    assert answer_keys(v["CONTEXT"], v["T"], v["Xy"], v["Xb"], v["ss"]) == AnswerKeys(
        v["K_answer"], v["K_auth"], v["KEYS"]
    )


def test_the_vectors_follow_from_the_specification_alone() -> None:
    assert make_ntor.PATH.read_text() == make_ntor.text()
    assert list(VECTORS) == [case.name for case in make_ntor.CASES]


@pytest.mark.parametrize("name", VECTORS)
def test_the_two_ends_of_a_vector_agree_on_every_secret(name: str) -> None:
    v = VECTORS[name]
    assert v["Bx"] == v["Xb"] == make_ntor.exchange(v["b"], v["X"])
    assert v["Xy"] == make_ntor.exchange(v["x"], v["Y"])


def test_sizes_and_the_protocol_string_are_those_of_the_page() -> None:
    assert PROTOID == b"tropea ntor x25519 mlkem768 sha256 1"
    assert (CREATE_SIZE, CREATED_SIZE, HOP_KEYS_SIZE) == (1306, 1201, 168)
    create = originator().create
    assert len(create) == CREATE_SIZE
    assert create[0] == VERSION == 1
    assert create[1:9] == keyid_of(ONION_KEY.public)
    assert len(answer(create)[0]) == CREATED_SIZE


# --- Data -----------------------------------------------------------------------------------------


@given(datas, datas)
def test_data_arrives_on_both_sides_and_shows_in_no_size(there: bytes, back: bytes) -> None:
    ours = originator(there)
    created, relay_keys, arrived = answer(ours.create, extra=back)
    keys, returned = ours.finish(created)
    assert (arrived, returned) == (there, back)
    assert keys == relay_keys
    assert (len(ours.create), len(created)) == (CREATE_SIZE, CREATED_SIZE)


def test_data_is_not_readable_on_the_way() -> None:
    ours = originator(b"A" * MAX_EXTRA)
    created, _, _ = answer(ours.create, extra=b"A" * MAX_EXTRA)
    assert b"AAAA" not in ours.create
    assert b"AAAA" not in created


@pytest.mark.parametrize("padded", [b"\x31" + bytes(48), b"\xff" * 49, bytes(48) + b"\1", b"\x01x\0x" + bytes(45)])
def test_authenticated_data_in_a_bad_form_is_refused_by_both_sides(padded: bytes) -> None:
    v = dict(VECTORS["plain"], padded_data=padded)
    make_ntor.request(v)
    with pytest.raises(RemoteError, match="malformed data"):
        vector_answer(v, v["CREATE"])
    v = dict(VECTORS["plain"], padded_answer=padded)
    make_ntor.response(v)
    ours = vector_originator(v)
    with pytest.raises(RemoteError, match="malformed data"):
        ours.finish(v["CREATED"])
    ours.finish(VECTORS["plain"]["CREATED"])


# --- Altered, forged, misdirected -----------------------------------------------------------------


def test_every_altered_byte_of_create_is_refused(size: Size) -> None:
    create = originator(b"data").create
    for place, mask in flips(CREATE_SIZE)[:: size(small=57, long=1)]:
        with pytest.raises(RemoteError):
            answer(flipped(create, place, mask), rng=Dealt(), kem=Untouchable())
    answer(create)


def test_every_altered_byte_of_created_is_refused_and_the_true_one_is_still_accepted(size: Size) -> None:
    ours = originator()
    create = ours.create
    created, relay_keys, _ = answer(create, extra=b"data")
    for place, mask in flips(CREATED_SIZE)[:: size(small=57, long=1)]:
        with pytest.raises(RemoteError):
            ours.finish(flipped(created, place, mask))
    assert ours.create == create
    assert ours.finish(created) == (relay_keys, b"data")


@pytest.mark.parametrize("change", [lambda m: m[:-1], lambda m: m + b"\0", lambda _: b"", lambda m: m * 2])
def test_other_lengths_are_refused(change: Callable[[bytes], bytes]) -> None:
    ours = originator()
    created, _, _ = answer(ours.create)
    with pytest.raises(RemoteError, match="1306 bytes"):
        answer(change(ours.create))
    with pytest.raises(RemoteError, match="1201 bytes"):
        ours.finish(change(created))


@pytest.mark.parametrize("version", [version for version in range(256) if version != VERSION])
def test_every_other_version_is_refused(version: int) -> None:
    with pytest.raises(RemoteError, match=f"version {version}$"):
        answer(bytes((version,)) + originator().create[1:], rng=Dealt(), kem=Untouchable())


def test_an_unknown_key_and_a_bad_mac_are_refused_before_anything_is_drawn_or_encapsulated() -> None:
    create = originator().create
    for keys in ({}, {b"another.": ONION_KEY}):
        with pytest.raises(RemoteError, match="onion key we do not have"):
            answer(create, keys=keys, rng=Dealt(), kem=Untouchable())
    with pytest.raises(RemoteError, match="does not verify"):
        answer(flipped(create, CREATE_SIZE - 1, 1), rng=Dealt(), kem=Untouchable())


def test_a_create_for_another_relay_network_or_key_is_refused() -> None:
    create = originator().create
    other = KeyPair(b"o" * 32)
    with pytest.raises(RemoteError, match="does not verify"):
        answer(create, relay_id=RelayId(b"s" * 32))
    with pytest.raises(RemoteError, match="does not verify"):
        answer(create, network_id=b"tropeb")
    with pytest.raises(RemoteError, match="does not verify"):
        answer(create, network_id=NETWORK + b"\0")
    with pytest.raises(RemoteError, match="does not verify"):
        answer(create, keys=dict.fromkeys(KEYS, other))
    with pytest.raises(RemoteError, match="onion key we do not have"):
        answer(create, keys={keyid_of(other.public): other})


def test_of_two_onion_keys_the_one_that_was_meant_answers() -> None:
    old = KeyPair(b"o" * 32)
    both = {**KEYS, keyid_of(old.public): old}
    for key in (ONION_KEY, old):
        ours = OriginatorHandshake(RELAY_ID, key.public, NETWORK, RNG, KEM)
        created, relay_keys, _ = answer(ours.create, keys=both)
        assert ours.finish(created)[0] == relay_keys


def test_the_answer_to_another_create_is_refused() -> None:
    first, second = originator(), originator()
    for_first, _, _ = answer(first.create)
    for_second, _, _ = answer(second.create)
    with pytest.raises(RemoteError, match="does not verify"):
        first.finish(for_second)
    with pytest.raises(RemoteError, match="does not verify"):
        second.finish(for_first)
    first.finish(for_first)
    second.finish(for_second)


def test_answers_cannot_be_mixed() -> None:
    ours = originator()
    one, _, _ = answer(ours.create)
    two, _, _ = answer(ours.create)
    y, ct, rest = slice(0, 32), slice(32, 32 + KEM_CIPHERTEXT_SIZE), slice(32 + KEM_CIPHERTEXT_SIZE, None)
    for mixed in (two[y] + one[ct] + one[rest], one[y] + two[ct] + one[rest], one[y] + one[ct] + two[rest]):
        with pytest.raises(RemoteError, match="does not verify"):
            ours.finish(mixed)
    ours.finish(two)


def test_two_answers_to_one_create_share_no_key() -> None:
    create = originator().create
    one, two = answer(create)[1], answer(create)[1]
    assert not {one.forward, one.backward, one.seal, one.filler, one.exporter} & {
        two.forward,
        two.backward,
        two.seal,
        two.filler,
        two.exporter,
    }


def test_a_handshake_is_finished_once() -> None:
    ours = originator()
    created, _, _ = answer(ours.create)
    ours.finish(created)
    with pytest.raises(LocalError, match="finished"):
        ours.finish(created)


# --- Attackers with some of the secrets -----------------------------------------------------------


@pytest.mark.parametrize("lacking", ["Xy", "Xb", "ss"])
def test_who_lacks_one_of_the_three_secrets_cannot_answer(lacking: str) -> None:
    guesses = [bytes(32), b"\xff" * 32, *(VECTORS["plain"][name] for name in ("Xy", "Xb", "ss", "B", "X", "Y", "T"))]
    ours = vector_originator(VECTORS["plain"])
    for guess in guesses:
        v = dict(VECTORS["plain"])
        if guess == v[lacking]:
            continue
        v[lacking] = guess
        make_ntor.response(v)
        with pytest.raises(RemoteError, match="does not verify"):
            ours.finish(v["CREATED"])
    ours.finish(VECTORS["plain"]["CREATED"])


def test_the_attacker_of_these_tests_who_lacks_nothing_is_believed() -> None:
    v = dict(VECTORS["plain"], answer_data=b"", AUTH=b"", CREATED=b"")
    make_ntor.response(v)
    vector_originator(v).finish(v["CREATED"])


def test_a_relay_that_does_not_hold_b_cannot_answer() -> None:
    ours, impostor = originator(), KeyPair(b"i" * 32)
    ends = [*list(REQUEST_FIELDS.values())[1:], CREATE_SIZE]
    v = {name: ours.create[start:end] for (name, start), end in zip(REQUEST_FIELDS.items(), ends, strict=True)}
    v |= {"CONTEXT": context_of(NETWORK), "ID": RELAY_ID, "B": ONION_KEY.public, "Y": impostor.public}
    v |= {"Xy": impostor.exchange(v["X"]), "padded_answer": bytes(49)}
    v["ct"], v["ss"] = KEM.encapsulate(v["ek"])
    for Xb in (v["Xy"], bytes(32), impostor.exchange(ONION_KEY.public), KeyPair(b"j" * 32).exchange(v["X"])):
        v["Xb"] = Xb
        make_ntor.response(v)
        with pytest.raises(RemoteError, match="does not verify"):
            ours.finish(v["CREATED"])
    v["Xb"] = ONION_KEY.exchange(v["X"])  # with b it is the true relay: nothing else of this attack was wrong
    make_ntor.response(v)
    ours.finish(v["CREATED"])


@pytest.mark.parametrize("seen", ["CONTEXT", "ID", "B", "X", "ek", "extra", "MAC", "Y", "ct"])
def test_everything_both_have_seen_is_in_the_answer(seen: str) -> None:
    v = dict(VECTORS["plain"])
    v[seen] = flipped(v[seen], len(v[seen]) - 1, 1)
    make_ntor.response(v)
    v["CREATED"] = VECTORS["plain"]["Y"] + VECTORS["plain"]["ct"] + v["answer"] + v["AUTH"]
    with pytest.raises(RemoteError, match="does not verify"):
        vector_originator(VECTORS["plain"]).finish(v["CREATED"])


@pytest.mark.parametrize("point", LOW_ORDER)
def test_an_x_of_low_order_is_refused_though_its_mac_is_right(point: bytes) -> None:
    v = dict(VECTORS["plain"], X=point, Bx=bytes(32))
    make_ntor.request(v)
    with pytest.raises(RemoteError, match="X25519"):  # at step 7 already: nothing is drawn
        answer(
            v["CREATE"],
            relay_id=RelayId(v["ID"]),
            keys={v["KEYID"]: KeyPair(v["b"])},
            network_id=v["network_id"],
            rng=Dealt(),
            kem=Untouchable(),
        )


@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_y_of_low_order_is_refused_though_its_auth_is_right(point: bytes) -> None:
    v = dict(VECTORS["plain"], Y=point, Xy=bytes(32))
    make_ntor.response(v)
    ours = vector_originator(v)
    with pytest.raises(RemoteError, match="X25519"):
        ours.finish(v["CREATED"])
    ours.finish(VECTORS["plain"]["CREATED"])


@pytest.mark.parametrize("point", LOW_ORDER)
def test_an_onion_key_of_low_order_is_refused(point: bytes) -> None:
    with pytest.raises(RemoteError, match="X25519"):
        OriginatorHandshake(RELAY_ID, point, NETWORK, RNG, KEM)


@pytest.mark.parametrize("ek", [b"\xff" * KEM_PUBLIC_SIZE, b"\x01\x0d" + b"\xff" * (KEM_PUBLIC_SIZE - 2)])
def test_a_malformed_ek_is_refused_though_its_mac_is_right(ek: bytes) -> None:
    v = dict(VECTORS["plain"], ek=ek)
    make_ntor.request(v)
    with pytest.raises(RemoteError, match="ML-KEM-768"):
        vector_answer(v, v["CREATE"], KEM)


@pytest.mark.parametrize("ct", [bytes(KEM_CIPHERTEXT_SIZE), b"\xff" * KEM_CIPHERTEXT_SIZE])
def test_a_ct_that_was_never_encapsulated_is_refused(ct: bytes) -> None:
    v = dict(VECTORS["plain"], ct=ct)
    make_ntor.response(v)
    with pytest.raises(RemoteError, match="does not verify"):
        vector_originator(v).finish(v["CREATED"])


# --- The combiner ---------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=4, max_size=4), st.integers(0, 3), st.integers(0, 255))
def test_a_bit_of_any_secret_or_of_the_transcript_changes_every_key(parts: list[bytes], which: int, bit: int) -> None:
    CONTEXT = context_of(NETWORK)
    T, Xy, Xb, ss = parts
    before = answer_keys(CONTEXT, T, Xy, Xb, ss)
    parts[which] = flipped(parts[which], bit // 8, 1 << bit % 8)
    T, Xy, Xb, ss = parts
    after = answer_keys(CONTEXT, T, Xy, Xb, ss)
    assert before.K_answer != after.K_answer
    assert before.K_auth != after.K_auth
    for start in range(0, HOP_KEYS_SIZE, 32):
        assert before.KEYS[start : start + 32] != after.KEYS[start : start + 32]


def test_the_secrets_are_not_interchangeable() -> None:
    CONTEXT, T, a, b, c = context_of(NETWORK), b"T" * 32, b"a" * 32, b"b" * 32, b"c" * 32
    orders = [(a, b, c), (a, c, b), (b, a, c), (b, c, a), (c, a, b), (c, b, a)]
    assert len({answer_keys(CONTEXT, T, *order).KEYS for order in orders}) == len(orders)


def test_the_network_is_in_the_keys() -> None:
    rest = (bytes(32),) * 4
    assert answer_keys(context_of(b"one"), *rest) != answer_keys(context_of(b"two"), *rest)


@given(st.binary(min_size=HOP_KEYS_SIZE, max_size=HOP_KEYS_SIZE))
def test_the_keys_are_the_parts_of_what_came_out_and_the_offset_is_below_its_limit(KEYS: bytes) -> None:
    keys = hop_keys(KEYS)
    assert keys.forward + keys.backward + keys.seal + keys.filler + keys.exporter == KEYS[:160]
    assert keys.counter_offset == int.from_bytes(KEYS[160:]) % 2**40 < COUNTER_OFFSET_LIMIT


# --- Garbage, our own mistakes, what is never shown -----------------------------------------------


@given(st.binary(max_size=64) | st.binary(min_size=CREATE_SIZE, max_size=CREATE_SIZE))
def test_garbage_instead_of_create_is_a_remote_error_and_nothing_else(garbage: bytes) -> None:
    with pytest.raises(RemoteError):
        answer(garbage)
    with pytest.raises(RemoteError):
        answer((originator().create[:9] + garbage)[:CREATE_SIZE].ljust(CREATE_SIZE, b"\0"))


@given(st.binary(max_size=64) | st.binary(min_size=CREATED_SIZE, max_size=CREATED_SIZE))
def test_garbage_instead_of_created_is_a_remote_error_and_nothing_else(garbage: bytes) -> None:
    ours = originator()
    with pytest.raises(RemoteError):
        ours.finish(garbage)
    created, _, _ = answer(ours.create)
    ours.finish(created)


@given(st.binary(max_size=KEM_PUBLIC_SIZE), st.binary(min_size=32, max_size=32))
def test_garbage_with_a_right_mac_is_answered_or_a_remote_error(ek: bytes, X: bytes) -> None:
    v = dict(VECTORS["plain"], ek=ek.ljust(KEM_PUBLIC_SIZE, b"\0"), X=X)
    with contextlib.suppress(RemoteError):
        v["Bx"] = KeyPair(v["b"]).exchange(X)
        make_ntor.request(v)
        vector_answer(v, v["CREATE"], KEM)


@pytest.mark.parametrize("network_id", [b"", b"n" * 33])
def test_a_network_id_has_1_to_32_bytes(network_id: bytes) -> None:
    with pytest.raises(LocalError, match="network id"):
        OriginatorHandshake(RELAY_ID, ONION_KEY.public, network_id, RNG, KEM)
    with pytest.raises(LocalError, match="network id"):
        answer(originator().create, network_id=network_id)


def test_arguments_of_a_wrong_size_are_our_own_fault() -> None:
    create = originator().create
    with pytest.raises(LocalError, match="48 bytes"):
        originator(bytes(MAX_EXTRA + 1))
    with pytest.raises(LocalError, match="48 bytes"):
        answer(create, extra=bytes(MAX_EXTRA + 1))
    with pytest.raises(LocalError, match="relay id"):
        OriginatorHandshake(RelayId(b"short"), ONION_KEY.public, NETWORK, RNG, KEM)
    with pytest.raises(LocalError, match="relay id"):
        answer(create, relay_id=RelayId(b"short"))
    with pytest.raises(LocalError, match="onion key"):
        OriginatorHandshake(RELAY_ID, ONION_KEY.public[1:], NETWORK, RNG, KEM)


def test_nothing_secret_is_printed() -> None:
    keys = hop_keys(bytes(range(HOP_KEYS_SIZE)))
    assert repr(keys) == "HopKeys()"
    assert repr(answer_keys(context_of(NETWORK), *(bytes(32),) * 4)) == "AnswerKeys()"
    assert repr(originator()).startswith("<tunnels.crypto.handshake.OriginatorHandshake object at")
