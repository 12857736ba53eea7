"""Which relays are known (SPEC 7.2): a relay that can be held can be used, and what cannot is refused by name."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnels.path.relays import ACCEPT_ALL, HOSTS, networks, relay
from tunnels.ids import RelayId
from tunnels.path.directory import Directory, RelayInfo, relay_id_of

ONE = relay(1)


def changed(**fields: Any) -> RelayInfo:
    return dataclasses.replace(ONE, **fields)


def test_a_relay_id_is_the_sha256_of_the_ipv8_public_key() -> None:
    assert relay_id_of(b"") == bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"relay_id": RelayId(bytes(31))}, "relay_id has 32 bytes, not 31"),
        ({"relay_id": "x" * 32}, "relay_id has 32 bytes, not a str"),
        ({"link_key": bytes(33)}, "link_key has 32 bytes, not 33"),
        ({"onion_key": b""}, "onion_key has 32 bytes, not 0"),
        ({"addresses": ()}, "a relay has at least one"),
        ({"addresses": (("relay.example", 1),)}, "'relay.example' is no numeric address"),
        ({"addresses": ((2130706433, 1),)}, "2130706433 is no numeric address"),
        ({"addresses": (("9.1.0.1", 0),)}, "a port is 1 to 65535, not 0"),
        ({"addresses": (("9.1.0.1", 65536),)}, "a port is 1 to 65535, not 65536"),
        ({"addresses": (("9.1.0.1", 80.0),)}, "a port is 1 to 65535, not 80.0"),
        ({"addresses": (("9.1.0.1", True),)}, "a port is 1 to 65535, not True"),
        ({"addresses": (("9.1.0.1", "80"),)}, "a port is 1 to 65535, not '80'"),
        ({"addresses": ("9.1.0.1",)}, "is no pair of numeric address and port"),
        ({"addresses": (("9.1.0.1", 80, 0),)}, "is no pair of numeric address and port"),
        ({"addresses": (("0.0.0.0", 80),)}, "0.0.0.0 is no address of one host"),
        ({"addresses": (("::", 80),)}, ":: is no address of one host"),
        ({"addresses": (("224.0.0.1", 80),)}, "224.0.0.1 is no address of one host"),
        ({"addresses": (("::ffff:9.1.0.1", 80),)}, "write a plain address"),
        ({"addresses": (("fe80::1%eth0", 80),)}, "write a plain address"),
        ({"addresses": (("2620:0::1", 80),)}, "write 2620::1 for 2620:0::1"),
    ],
)
def test_a_relay_that_could_not_be_used_is_refused_and_the_field_named(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=r"^\w+[: ].*") as caught:
        changed(**fields)
    assert text in str(caught.value)
    assert str(caught.value).startswith(next(iter(fields)))


@given(networks())
def test_a_relay_comes_back_from_json_as_it_was(relays: list[RelayInfo]) -> None:
    for info in relays:
        assert RelayInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"onion_key": None}, "onion_key is text of hexadecimal digits"),
        ({"link_key": "zz"}, "link_key is text of hexadecimal digits"),
        ({"relay_id": "00"}, "relay_id has 32 bytes, not 1"),
        ({"addresses": "9.1.0.1:80"}, "addresses is a list"),
        ({"addresses": None}, "addresses is a list"),
        ({"addresses": [5]}, "addresses: 5 is no pair"),
        ({"addresses": [["9.1.0.1", float("inf")]]}, "addresses: a port"),
        ({"exit_policy": 5}, "exit_policy is text"),
        ({"exit_policy": "accept everything"}, "rule 1"),
        ({"nickname": "x"}, "nickname is not a field of a relay; there are addresses, exit_policy"),
    ],
)
def test_a_dictionary_that_is_no_relay_is_refused_and_the_field_named(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        RelayInfo.from_dict(ONE.to_dict() | change)
    assert text in str(caught.value)


@pytest.mark.parametrize("name", ["relay_id", "link_key", "onion_key", "addresses"])
def test_a_missing_field_is_named_and_only_the_exit_policy_may_be_left_out(name: str) -> None:
    data = changed(exit_policy=ACCEPT_ALL).to_dict()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        RelayInfo.from_dict({key: value for key, value in data.items() if key != name})
    del data["exit_policy"]
    assert not RelayInfo.from_dict(data).is_exit


def test_keys_are_not_in_the_repr() -> None:
    assert ONE.link_key.hex() not in repr(ONE)
    assert repr(ONE.link_key) not in repr(ONE)
    assert repr(ONE.onion_key) not in repr(ONE)


def test_the_first_address_that_may_be_dialled_is_taken() -> None:
    info = relay(1, "10.0.0.1", "2620::1", "9.1.0.1")
    assert info.families == {4, 6}
    assert info.address_in({4, 6}, private=True) == ("10.0.0.1", 8000)
    assert info.address_in({4, 6}, private=False) == ("2620::1", 8000)
    assert info.address_in({4}, private=False) == ("9.1.0.1", 8000)
    assert relay(1, "10.0.0.1").address_in({4, 6}, private=False) is None
    assert relay(1, "9.1.0.1").address_in({6}, private=True) is None
    assert relay(1, "9.1.0.1").address_in((), private=True) is None


def test_what_was_known_of_a_relay_is_replaced_whole() -> None:
    directory = Directory([ONE, relay(2)])
    moved = changed(link_key=bytes(32), addresses=(("9.99.0.1", 1),))
    directory.add(moved)
    assert list(directory) == [relay(2), moved]
    assert directory.get(ONE.relay_id) == moved
    assert (directory.is_relay(bytes(32)), directory.is_relay(ONE.link_key)) == (True, False)
    assert (directory.has_host("9.99.0.1"), directory.has_host("9.1.0.1")) == (True, False)


def test_whoever_names_somebody_elses_link_key_does_not_hide_him() -> None:
    thief = dataclasses.replace(relay(2), link_key=ONE.link_key)
    directory = Directory([thief, ONE])
    assert directory.get(ONE.relay_id) == ONE
    directory.remove(thief.relay_id)
    assert directory.is_relay(ONE.link_key)
    directory.remove(ONE.relay_id)
    assert not directory.is_relay(ONE.link_key)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 4), HOSTS), max_size=30))
def test_the_directory_and_a_list_of_relays_agree_whatever_is_added_and_removed(
    changes: list[tuple[bool, int, int, str]],
) -> None:
    directory, expected = Directory(), dict[bytes, RelayInfo]()
    for add, number, key, host in changes:
        info = dataclasses.replace(relay(number, host), link_key=bytes([key]) * 32)
        if not add:
            directory.remove(info.relay_id)
            expected.pop(info.relay_id, None)
        else:
            directory.add(info)
            expected[info.relay_id] = info
        assert len(directory) == len(expected)
        assert set(directory) == set(expected.values())
        keys = {relay.link_key for relay in expected.values()}
        assert all(directory.is_relay(bytes([k]) * 32) is (bytes([k]) * 32 in keys) for k in range(5))
        hosts = {address[0] for relay in expected.values() for address in relay.addresses}
        assert directory.has_host(host) is (host in hosts)
