"""What an application may set: every field, right values and wrong ones; afterwards nothing changes any more."""

import dataclasses
from math import inf, nan
from typing import Any, Final

import pytest
from ipv8.community import CommunitySettings
from ipv8.keyvault.crypto import default_eccrypto
from ipv8.peer import Peer
from ipv8.peerdiscovery.network import Network

from tests.tunnels.path.relays import relay
from tunnels.crypto.rng import StreamRng
from tunnels.exit.policy import ExitPolicy
from tunnels.settings import RelayKeys, Settings, TunnelSettings, freeze
from tunnels.store import MemoryStore
from tunnels.surroundings import Surroundings

KEYS: Final = RelayKeys.generate(0.0, StreamRng(bytes(32)))
AROUND: Final = Surroundings(rng=StreamRng(bytes(32)))
HERE: Final = ("192.0.2.1", 8090)
ONE, TWO = relay(1), relay(2)


def frozen(**fields: Any) -> Settings:
    return freeze(TunnelSettings(**fields))


STORE: Final = MemoryStore()
RIGHT: Final[dict[str, list[tuple[Any, Any]]]] = {
    "min_circuits": [(1, 1), (8, 8), (3.0, 3)],
    "max_circuits": [(2, 2), (1000, 1000), (2.0, 2)],
    "max_joined_circuits": [(0, 0), (10**6, 10**6)],
    "max_time": [(1, 1.0), (0.1e2, 10.0), (inf, inf)],
    "max_time_inactive": [(1, 1.0), (1.5, 1.5), (inf, inf)],
    "max_traffic": [(1, 1), (1e9, 10**9)],
    "exit_private": [(True, True), (False, False)],
    "exit_single_hop": [(True, True), (False, False)],
    "private_addresses": [(True, True), (False, False)],
    "distinct_networks": [(True, True), (False, False)],
    "nameservers": [(None, None), ((), ()), ([["9.9.9.9", 53]], (("9.9.9.9", 53),))],
    "network_id": [("x", b"x"), ("ü" * 16, "ü".encode() * 16), ("n" * 32, b"n" * 32)],
    "relays": [([], ()), ([ONE, TWO.to_dict()], (ONE, TWO)), (iter([ONE]), (ONE,)), ([ONE, ONE.to_dict()], (ONE,))],
    "relay_addresses": [((), ()), ([list(HERE)], (HERE,)), ((HERE, HERE), (HERE,)), ([("::1", 1)], (("::1", 1),))],
    "relay_keys": [(None, None), (KEYS, KEYS)],
    "surroundings": [(AROUND, AROUND)],
    "store": [(STORE, STORE)],
    "guard_min_age": [(0, 0.0), (86400, 86400.0)],
    "bootstrap": [((), ()), ([list(HERE)], (HERE,)), ((HERE, HERE), (HERE,))],
    "min_relays": [(1, 1), (100, 100)],
    "min_relay_age": [(0, 0.0), (3600, 3600.0)],
    "min_sources": [(1, 1), (3, 3)],
    "bandwidth": [(0, 0), (10**6, 10**6)],
    "family": [((), ()), (["ab" * 32], (bytes([0xAB]) * 32,))],
}


def found(settings: Settings, name: str) -> object:
    """Where the frozen copy keeps a field."""
    part = next(part for part in (settings, settings.pool, settings.limits) if hasattr(part, name))
    return getattr(part, name)


@pytest.mark.parametrize(("name", "value", "kept"), [(n, v, k) for n, pairs in RIGHT.items() for v, k in pairs])
def test_a_right_value_is_kept(name: str, value: object, kept: object) -> None:
    assert found(frozen(**{name: value}), name) == kept


def test_every_field_is_in_a_table() -> None:
    assert RIGHT.keys() | {"become_exitnode", "exit_policy"} == TunnelSettings.__annotations__.keys()
    assert set(WRONG) == set(TunnelSettings.__annotations__)


LEAST_1: Final = "it must be a whole number, at least 1"
SECONDS: Final = "it must be a number, at least 1"
FLAG: Final = "it must be True or False"
NOT_NUMBERS: Final[list[Any]] = [None, "2", True, nan, [2], 1j]

WRONG: Final[dict[str, tuple[list[Any], str]]] = {
    "min_circuits": ([0, -1, 1.5, inf, *NOT_NUMBERS], LEAST_1),
    "max_circuits": ([0, -1, 2.5, inf, *NOT_NUMBERS], LEAST_1),
    "max_joined_circuits": ([-1, 0.5, -inf, inf, *NOT_NUMBERS], "it must be a whole number, at least 0"),
    "max_time": ([0, 0.9, -inf, *NOT_NUMBERS], SECONDS),
    "max_time_inactive": ([0, 0.9, -1, *NOT_NUMBERS], SECONDS),
    "max_traffic": ([0, -5, 0.5, inf, *NOT_NUMBERS], LEAST_1),
    "become_exitnode": ([None, 0, 1, "yes"], FLAG),
    "exit_private": ([None, 0, 1, "yes"], FLAG),
    "exit_single_hop": ([None, 0, 1, "yes"], FLAG),
    "private_addresses": ([None, 0, 1, "yes"], FLAG),
    "distinct_networks": ([None, 0, 1, "yes"], FLAG),
    "exit_policy": ([5, None, "accept everything", "accept *:0-99999", [5]], "it must be rules in Tor's syntax"),
    "nameservers": ([5, "9.9.9.9", {}, b"x"], "it must be a list of (numeric address, port) pairs"),
    "network_id": (["", "n" * 33, "ü" * 17, b"bytes", None, 5], "it must be text of 1 to 32 bytes"),
    "relays": ([5, "x", None, {}, b"x"], "it must be a list of RelayInfo or dictionaries"),
    "relay_addresses": ([5, None, "192.0.2.1:8090", {}], "it must be a list of (numeric address, port) pairs"),
    "relay_keys": ([b"x", "x", 5], "it must be a RelayKeys or None"),
    "surroundings": ([b"x", 5, StreamRng(bytes(32))], "it must be a Surroundings or None"),
    "store": ([b"x", 5, "state"], "it must be a Store or None"),
    "guard_min_age": ([-1, -inf, *NOT_NUMBERS], "it must be a number, at least 0"),
    "bootstrap": ([5, None, "192.0.2.1:8090", {}], "it must be a list of (numeric address, port) pairs"),
    "min_relays": ([0, -1, 1.5, inf, *NOT_NUMBERS], LEAST_1),
    "min_relay_age": ([-1, -inf, *NOT_NUMBERS], "it must be a number, at least 0"),
    "min_sources": ([0, -1, 1.5, inf, *NOT_NUMBERS], LEAST_1),
    "bandwidth": ([-1, 0.5, inf, *NOT_NUMBERS], "it must be a whole number, at least 0"),
    "family": ([5, "ab" * 32, None, {}], "it must be a list of relay ids in hex"),
}


@pytest.mark.parametrize(
    ("name", "value", "bound"), [(name, value, bound) for name, (values, bound) in WRONG.items() for value in values]
)
def test_a_wrong_value_is_an_error_that_names_field_value_and_bound(name: str, value: object, bound: str) -> None:
    with pytest.raises(ValueError, match=r"^") as caught:
        frozen(**{name: value})
    assert str(caught.value).startswith(f"{name} is {value!r}; {bound}")


@pytest.mark.parametrize("name", ["bootstrap", "nameservers", "relay_addresses"])
@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("192.0.2.1", "is no pair"), (("192.0.2.1",), "is no pair"), (None, "is no pair"),
        (("relay.example", 53), "no numeric address"), ((3221225985, 53), "no numeric address"),
        (("192.0.2.1", 0), "a port is 1 to 65535"), (("192.0.2.1", 65536), "a port is 1 to 65535"),
        (("192.0.2.1", "53"), "a port is 1 to 65535"), (("192.0.2.1", 53.5), "a port is 1 to 65535"),
        (("0.0.0.0", 53), "no address of one host"), (("::ffff:192.0.2.1", 53), "write a plain address"),
    ],
)  # fmt: skip
def test_a_wrong_address_is_named_with_its_list(name: str, entry: object, why: str) -> None:
    with pytest.raises(ValueError, match=r"^") as caught:
        frozen(**{name: [HERE, entry]})
    assert str(caught.value).startswith(f"{name} has {entry!r}: ")
    assert why in str(caught.value)


@pytest.mark.parametrize("entry", ["ab", "zz" * 32, 5, b"x", "ab" * 33])
def test_a_family_member_that_is_no_relay_id_is_named(entry: object) -> None:
    with pytest.raises(ValueError, match=r"family has .*64 hex digits"):
        frozen(family=[entry])


def test_a_family_has_a_bound() -> None:
    with pytest.raises(ValueError, match="family has 17 members; it must have 16 at most"):
        frozen(family=["ab" * 32] * 17)


@pytest.mark.parametrize(
    ("relays", "text"),
    [
        ([ONE, "x"], "relays[1] is 'x'; it must be a RelayInfo or a dictionary"),
        ([ONE.to_dict() | {"link_key": "00"}], "relays[0]: link_key has 32 bytes, not 1"),
        ([ONE, {}], "relays[1]: addresses is missing"),
        ([ONE, dataclasses.replace(ONE, addresses=(HERE,))], "relays[1]: another relay in the list has its relay_id"),
        ([ONE, dataclasses.replace(TWO, link_key=ONE.link_key)], "relays[1]: relays[0] has the same link_key"),
    ],
)
def test_a_wrong_relay_is_named_by_its_place(relays: list[Any], text: str) -> None:
    with pytest.raises(ValueError, match=r"^") as caught:
        frozen(relays=relays)
    assert str(caught.value).startswith(text)


def test_min_circuits_may_not_exceed_max_circuits() -> None:
    with pytest.raises(ValueError, match=r"^min_circuits is 9; it must not exceed max_circuits, 8$"):
        frozen(min_circuits=9)


def test_an_exit_has_addresses_and_a_policy_that_lets_something_out() -> None:
    with pytest.raises(ValueError, match=r"^become_exitnode is True, but relay_addresses is empty"):
        frozen(become_exitnode=True, exit_policy="accept *:53")
    with pytest.raises(ValueError, match=r"^become_exitnode is True, but exit_policy is 'reject \*:\*'; say what"):
        frozen(become_exitnode=True, relay_addresses=[HERE])
    settings = frozen(become_exitnode=True, relay_addresses=[HERE], exit_policy=["accept *:53", "accept *:443"])
    assert str(settings.exit_policy) == "accept *:53, accept *:443"
    assert settings.is_relay
    assert settings.limits.exits


def test_a_policy_without_become_exitnode_lets_nothing_out() -> None:
    settings = frozen(relay_addresses=[HERE], exit_policy="accept *:*")
    assert settings.exit_policy == ExitPolicy.REJECT_ALL
    assert not settings.limits.exits


def test_the_defaults_exit_nothing_and_relay_for_nobody() -> None:
    settings = frozen()
    assert not settings.is_relay
    assert not settings.limits.exits
    assert not settings.limits.private_addresses
    assert settings.distinct_networks


def test_an_unknown_field_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^max_circuit is not a tunnel setting; there are .*max_circuits, .*"):
        frozen(max_circuit=3)


def test_what_ipv8_itself_sets_is_no_unknown_field() -> None:
    settings = TunnelSettings(my_peer=Peer(default_eccrypto.generate_key("curve25519")), network=Network())
    settings.community_id = b"x" * 20
    for name in CommunitySettings.__annotations__:
        setattr(settings, name, getattr(CommunitySettings, name, None))
    freeze(settings)


def test_a_subclass_may_add_fields_of_its_own_and_its_typos_are_still_found() -> None:
    class AppSettings(TunnelSettings):
        min_circuits = 5
        greeting: str = "hello"
        plain = 1

    assert freeze(AppSettings(greeting="hi", plain=2)).pool.min_circuits == 5
    with pytest.raises(ValueError, match=r"^greting is not a tunnel setting"):
        freeze(AppSettings(greting="hi"))


def test_the_copy_cannot_be_changed_and_does_not_change_with_the_original() -> None:
    relays, addresses = [ONE], [HERE]
    original = TunnelSettings(relays=relays, relay_addresses=addresses)
    settings = freeze(original)
    relays.append(TWO)
    addresses.append(("192.0.2.2", 1))
    original.min_circuits = 7
    assert (settings.relays, settings.relay_addresses, settings.pool.min_circuits) == ((ONE,), (HERE,), 2)
    for part, name in ((settings, "relays"), (settings.pool, "min_circuits"), (settings.limits, "exits")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, 3)


def test_keys_are_not_in_any_repr() -> None:
    settings = TunnelSettings(relay_keys=KEYS, relay_addresses=[HERE])
    for text in (repr(settings), repr(freeze(settings)), repr(KEYS)):
        assert "RelayKeys()" in text
        assert KEYS.link.private_bytes().hex() not in text
        assert repr(KEYS.link.private_bytes())[2:-1] not in text
