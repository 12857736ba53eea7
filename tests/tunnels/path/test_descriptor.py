"""SPEC 11.1 and 11.2, as tests."""

import itertools
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipv8.keyvault.crypto import default_eccrypto

from tests.support import relays
from tests.support.plugin import Figure
from tests.support.relays import NOW, described, identity_of
from tests.vectors import make_descriptor
from tunnels.errors import LocalError, RemoteError
from tunnels.exit.policy import ExitPolicy, PortSummary
from tunnels.identity import sign_with, verify
from tunnels.ids import RelayId
from tunnels.params import DESCRIPTOR_AHEAD, MAX_DESCRIPTOR_LIFETIME, MAX_DESCRIPTOR_SIZE
from tunnels.path.descriptor import Capability, RelayDescriptor
from tunnels.path.directory import check_address, relay_id_of

VECTORS = make_descriptor.load()
every_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])

KINDS = ("very-low", "low", "medium", "high", "curve25519")
KEYS = {kind: default_eccrypto.generate_key(kind) for kind in KINDS}


def of_kind(kind: str, network_id: bytes = b"test") -> RelayDescriptor:
    """A descriptor by a real key."""
    identity = KEYS[kind].pub().key_to_bin()
    return replace(described(1), identity=identity).signed(network_id, sign_with(KEYS[kind]))


def built(vector: make_descriptor.Vector) -> RelayDescriptor:
    return RelayDescriptor(
        Capability(vector["capabilities"] & 7), vector["published"], vector["lifetime"], vector["bandwidth"],
        bytes.fromhex(vector["link_key"]), bytes.fromhex(vector["onion_key"]), bytes.fromhex(vector["identity"]),
        tuple((host, port) for host, port in vector["addresses"]),
        PortSummary.parse(vector["ports4"]), PortSummary.parse(vector["ports6"]),
        tuple(RelayId(bytes.fromhex(member)) for member in vector["family"]),
    )  # fmt: skip


# --- Bytes -----------------------------------------------------------------------------------


def test_the_file_is_what_the_generator_makes() -> None:
    assert make_descriptor.PATH.read_text() == make_descriptor.text()


@every_vector
def test_descriptors_are_as_in_the_vectors_both_ways(vector: make_descriptor.Vector) -> None:
    network_id, wire = bytes.fromhex(vector["network_id"]), bytes.fromhex(vector["hex"])
    decoded = RelayDescriptor.decode(wire)
    decoded.check(network_id, vector["published"], verify)
    assert decoded.encode() == wire
    assert decoded.relay_id.hex() == vector["relay_id"]
    assert decoded.signature.hex() == vector["signature"]
    assert decoded.signed_bytes(network_id).hex() == vector["signed"]
    assert replace(decoded, signature=b"") == built(vector)


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["capabilities"] < 8], ids=lambda vector: vector["name"])
def test_the_ipv8_key_of_the_vectors_makes_their_very_bytes(vector: make_descriptor.Vector) -> None:
    key = default_eccrypto.key_from_private_bin(bytes.fromhex(vector["private_key"]))
    assert key.pub().key_to_bin().hex() == vector["identity"]
    assert built(vector).signed(bytes.fromhex(vector["network_id"]), sign_with(key)).encode().hex() == vector["hex"]


def test_unknown_capabilities_are_ignored_and_passed_on() -> None:
    vector = next(vector for vector in VECTORS if vector["capabilities"] > 7)
    decoded = RelayDescriptor.decode(bytes.fromhex(vector["hex"]))
    assert decoded.capabilities == Capability.DIRECTORY
    assert decoded.encode().hex() == vector["hex"]
    assert decoded.digest == sha256(bytes.fromhex(vector["hex"])).digest()


def is_of_one_host(host: str) -> bool:
    try:
        check_address((host, 1))
    except ValueError:
        return False
    return True


ports = st.sampled_from(["accept 53,443", "reject 1-1023", "accept 1-65535", "reject 1-65535"]).map(PortSummary.parse)
hosts = st.one_of(
    st.ip_addresses(v=4).map(str).filter(is_of_one_host),
    st.ip_addresses(v=6).map(str).filter(is_of_one_host),
)
relay_ids = st.binary(min_size=32, max_size=32).map(RelayId)
unsigned = st.builds(
    RelayDescriptor,
    st.integers(0, 7).map(Capability),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    relay_ids,
    relay_ids,
    st.binary(min_size=1, max_size=200),
    st.lists(st.tuples(hosts, st.integers(1, 65535)), min_size=1, max_size=4).map(tuple),
    ports,
    ports,
    st.lists(relay_ids, max_size=16).map(tuple),
)
signatures = st.binary(min_size=1, max_size=150)


@given(unsigned, signatures)
def test_what_was_encoded_decodes_to_itself_and_is_of_use(descriptor: RelayDescriptor, signature: bytes) -> None:
    signed = descriptor.signed(b"test", lambda _: signature)
    decoded = RelayDescriptor.decode(signed.encode())
    assert decoded == signed
    assert decoded.info.relay_id == decoded.relay_id == relay_id_of(descriptor.identity)
    assert decoded.info.is_exit is (
        Capability.EXIT in decoded.capabilities
        and not all(str(each) == "reject 1-65535" for each in (decoded.ports4, decoded.ports6))
    )


@given(unsigned, signatures, st.data())
def test_one_byte_more_or_less_is_malformed(descriptor: RelayDescriptor, signature: bytes, data: st.DataObject) -> None:
    wire = descriptor.signed(b"test", lambda _: signature).encode()
    for wrong in (wire + b"\0", wire[: data.draw(st.integers(0, len(wire) - 1))]):
        with pytest.raises(RemoteError):
            RelayDescriptor.decode(wrong)


def test_a_descriptor_has_at_most_its_bound() -> None:
    room = MAX_DESCRIPTOR_SIZE - len(replace(described(1), signature=b"x").encode()) + 1
    assert len(replace(described(1), signature=bytes(room)).encode()) == MAX_DESCRIPTOR_SIZE
    with pytest.raises(LocalError):
        replace(described(1), signature=bytes(room + 1)).encode()
    wire = replace(described(1), signature=bytes(room)).encode()
    size = len(wire) - 2 - room
    with pytest.raises(RemoteError, match="at most"):
        RelayDescriptor.decode(wire[:size] + (room + 1).to_bytes(2) + bytes(room + 1))


@pytest.mark.parametrize(
    "field",
    [
        {"published": -1},
        {"published": 2**64},
        {"lifetime": 2**32},
        {"bandwidth": -1},
        {"link_key": bytes(31)},
        {"onion_key": bytes(33)},
        {"addresses": ()},
        {"addresses": (("192.0.2.1", 1),) * 5},
        {"addresses": (("relay.example", 1),)},
        {"addresses": (("192.0.2.1", 65536),)},
        {"family": (RelayId(bytes(32)),) * 17},
        {"family": (RelayId(bytes(31)),)},
        {"identity": bytes(70_000)},
        {"identity": bytes(MAX_DESCRIPTOR_SIZE)},
        {"signature": b""},
    ],
    ids=str,
)
def test_a_field_that_does_not_fit_is_our_own_fault(field: dict[str, object]) -> None:
    with pytest.raises(LocalError):
        replace(described(1), **field).encode()  # type: ignore[arg-type]


ADDRESS = bytes([4, 11, 22, 33, 44, 0x1F, 0x40])
MARKED = described(1, address=("11.22.33.44", 8000)).encode()


def with_address(address: bytes) -> bytes:
    assert MARKED.count(ADDRESS) == 1
    return MARKED.replace(ADDRESS, address)


@pytest.mark.parametrize(
    "address",
    [
        bytes([4, 0, 0, 0, 0, 0, 1]),
        bytes([4, 224, 0, 0, 1, 0, 1]),
        bytes([4, 192, 0, 2, 1, 0, 0]),
        bytes([6, *bytes(16), 0, 1]),
        bytes([6, 0xFF, 2, *bytes(13), 1, 0, 1]),
        bytes([6, *bytes(10), 0xFF, 0xFF, 192, 0, 2, 1, 0, 1]),
        bytes([6, 0x20, 1, *bytes(13), 1, 0, 0]),
        bytes([1, 1, 97, 0, 1]),
        bytes([0, *bytes(6)]),
    ],
    ids=bytes.hex,
)
def test_an_address_that_no_relay_can_have_is_malformed_and_does_not_wait_for_who_uses_it(address: bytes) -> None:
    with pytest.raises(RemoteError):
        RelayDescriptor.decode(with_address(address))


@pytest.mark.parametrize("summary", [b"", b"accept", b"accept 0", b"accept 80,53", b"accept 53 ", "accept ٥٣".encode()])
def test_a_policy_that_is_not_in_its_one_form_is_malformed(summary: bytes) -> None:
    text = b"\0\x0ereject 1-65535"
    assert MARKED.count(text * 2) == 1
    with pytest.raises(RemoteError, match="policy"):
        RelayDescriptor.decode(MARKED.replace(text * 2, len(summary).to_bytes(2) + summary + text))


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_refused(version: int) -> None:
    with pytest.raises(RemoteError, match="version"):
        RelayDescriptor.decode(bytes([version]) + MARKED[1:])


def test_the_widest_policy_a_descriptor_can_hold_is_of_use() -> None:
    ports = [f"accept *:{port}" for port in range(10001, 65536, 350)]
    summary = ExitPolicy.parse(ports).summary(4)
    assert len(str(summary)) > 900
    wide = replace(described(1), capabilities=Capability.EXIT, ports4=summary, addresses=(("11.1.1.1", 1),))
    assert RelayDescriptor.decode(wide.encode()).info.exit_policy.summary(4) == summary


# --- Signatures and time -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_keys_of_every_kind_sign_descriptors(kind: str, figure: Figure) -> None:
    descriptor = RelayDescriptor.decode(of_kind(kind).encode())
    descriptor.check(b"test", NOW, verify)
    assert descriptor.relay_id == relay_id_of(KEYS[kind].pub().key_to_bin())
    figure(f"relay descriptor, {kind} key", len(descriptor.encode()), "bytes")


def accepted(data: bytes, network_id: bytes = b"test") -> bool:
    try:
        RelayDescriptor.decode(data).check(network_id, NOW, verify)
    except RemoteError:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_no_flipped_bit_gets_through(kind: str) -> None:
    wire = of_kind(kind).encode()
    assert accepted(wire)
    for at in range(len(wire)):
        changed = bytearray(wire)
        changed[at] ^= 1 << at % 8
        assert not accepted(bytes(changed)), at


@given(st.data())
def test_no_changed_byte_gets_through(data: st.DataObject) -> None:
    wire = bytearray(of_kind("curve25519").encode())
    at = data.draw(st.integers(0, len(wire) - 1))
    wire[at] ^= data.draw(st.integers(1, 255))
    assert not accepted(bytes(wire))


@pytest.mark.parametrize("network_id", [b"tes", b"test2", b"t", b"\x04test", b"tropea"])
def test_a_descriptor_of_another_network_is_refused(network_id: bytes) -> None:
    assert not accepted(of_kind("curve25519").encode(), network_id)


def test_a_descriptor_signed_by_somebody_else_is_refused() -> None:
    victim = of_kind("curve25519")
    forged = victim.signed(b"test", sign_with(default_eccrypto.generate_key("curve25519")))
    assert not accepted(forged.encode())


def valid(ahead: int, lifetime: int, now: float) -> bool:
    descriptor = described(1, published=NOW + ahead, lifetime=lifetime)
    try:
        descriptor.check(b"test", now, relays.verify)
    except RemoteError:
        assert not descriptor.valid_at(now)
        return False
    assert descriptor.valid_at(now)
    return True


@pytest.mark.parametrize(
    ("ahead", "lifetime", "now"),
    [
        (0, 3600, NOW),
        (0, 3600, NOW + 3599.9),
        (DESCRIPTOR_AHEAD, 3600, NOW),
        (0, MAX_DESCRIPTOR_LIFETIME, NOW),
    ],
)
def test_a_descriptor_is_valid_from_a_little_before_it_was_published_until_it_expires(
    ahead: int, lifetime: int, now: float
) -> None:
    assert valid(ahead, lifetime, now)


@pytest.mark.parametrize(
    ("ahead", "lifetime", "now"),
    [
        (0, 3600, NOW + 3600),
        (DESCRIPTOR_AHEAD + 1, 3600, NOW),
        (0, MAX_DESCRIPTOR_LIFETIME + 1, NOW),
        (0, 0, NOW),
        (2**63 - NOW, 3600, NOW),
        (-NOW, 3600, NOW),
    ],
)
def test_a_descriptor_of_the_future_one_that_expired_and_one_that_lives_too_long_are_refused(
    ahead: int, lifetime: int, now: float
) -> None:
    assert not valid(ahead, lifetime, now)


def test_what_is_not_valid_now_costs_no_signature() -> None:
    def never(identity: bytes, message: bytes, signature: bytes) -> bool:
        raise AssertionError

    with pytest.raises(RemoteError):
        described(1, lifetime=0).check(b"test", NOW, never)


def test_no_key_and_no_signature_is_in_a_repr() -> None:
    shown = repr(
        replace(described(1), link_key=b"secret", onion_key=b"secret", identity=b"secret", signature=b"secret")
    )
    assert "secret" not in shown


# --- Which of two counts -------------------------------------------------------------------------

versions = st.builds(described, st.just("one relay"), published=st.integers(NOW, NOW + 2), bandwidth=st.integers(0, 3))


@given(versions, versions, versions)
def test_the_order_of_descriptors_is_total_and_does_not_depend_on_who_compares(
    a: RelayDescriptor, b: RelayDescriptor, c: RelayDescriptor
) -> None:
    for one, other in itertools.permutations((a, b, c), 2):
        assert one.newer_than(other) + other.newer_than(one) == (one.encode() != other.encode())
        received = RelayDescriptor.decode(one.encode()), RelayDescriptor.decode(other.encode())
        assert received[0].newer_than(received[1]) is one.newer_than(other)
    if a.newer_than(b) and b.newer_than(c):
        assert a.newer_than(c)


@given(versions, versions)
def test_later_counts_and_of_the_same_time_the_smaller_hash(a: RelayDescriptor, b: RelayDescriptor) -> None:
    if a.published != b.published:
        assert a.newer_than(b) is (a.published > b.published)
    elif a.encode() != b.encode():
        assert a.newer_than(b) is (sha256(a.encode()).digest() < sha256(b.encode()).digest())


def test_identities_of_tests_are_no_keys_of_anybody() -> None:
    assert not verify(identity_of(1), b"", bytes(64))
