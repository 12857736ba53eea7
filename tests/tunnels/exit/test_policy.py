"""Exit policies against an oracle that knows only `ipaddress`, and what no policy can open."""

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.exit.policy import ExitPolicy, Gate, IPAddress, PortSummary, always_refused, spellings
from tunnels.params import MAX_POLICY_SUMMARY

# --- An oracle: slow, and written without looking at the other ---------------------------------

PRIVATE = (
    "0.0.0.0/8", "169.254.0.0/16", "127.0.0.0/8", "192.168.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "::/8",
    "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "::/127",
)  # fmt: skip
EVERYWHERE = ("0.0.0.0/0", "::/0")

Drawn = tuple[str, str, str, str, Sequence[str], int, int]
"""action, target, mask, ports as text; then networks and port range as the oracle sees them."""

addresses_v4 = st.integers(0, 2**32 - 1).map(IPv4Address)
addresses_v6 = st.integers(0, 2**128 - 1).map(IPv6Address)
ports = st.integers(1, 65535)


@st.composite
def drawn_rules(draw: st.DrawFn) -> Drawn:
    action = draw(st.sampled_from(("accept", "reject")))
    low, high = sorted((draw(ports), draw(ports)))
    port_text, low, high = draw(
        st.sampled_from(((f":{low}-{high}", low, high), (f":{low}", low, low), (":*", 1, 65535), ("", 1, 65535)))
    )
    kind = draw(st.sampled_from(("*", "*4", "*6", "private", "v4", "v4 dotted", "v4 host", "v6", "v6 host", "star6")))
    if kind in ("*", "*4", "*6", "private"):
        networks = {"*": EVERYWHERE, "*4": EVERYWHERE[:1], "*6": EVERYWHERE[1:], "private": PRIVATE}[kind]
        return action, kind, "", port_text, networks, low, high
    if kind == "star6":
        return action + "6", "*", "", port_text, EVERYWHERE[1:], low, high
    if kind.startswith("v4"):
        # Few distinct values, so that rules and addresses meet.
        host = draw(st.sampled_from(("8.8.8.8", "8.8.4.4", "10.1.2.3", "200.1.2.3", "0.0.0.0", "255.255.255.255")))
        bits = 32 if kind == "v4 host" else draw(st.integers(0, 32))
        network = ip_network(f"{host}/{bits}", strict=False)
        mask = {"v4": f"/{bits}", "v4 dotted": f"/{network.netmask}", "v4 host": ""}[kind]
        return action, host, mask, port_text, [str(network)], low, high
    host = draw(
        st.sampled_from(("2a00::1", "2a00:8::", "fe80::1", "2002:808:808::1", "64:ff9b::808:808", "::ffff:8.8.8.8"))
    )
    bits = 128 if kind == "v6 host" else draw(st.integers(0, 128))
    mask = "" if kind == "v6 host" else f"/{bits}"
    suffix = draw(st.sampled_from(("", "6")))
    return action + suffix, f"[{host}]", mask, port_text, [str(ip_network(f"{host}/{bits}", strict=False))], low, high


def text_of(rules: Sequence[Drawn]) -> list[str]:
    return [f"{action} {target}{mask}{port_text}" for action, target, mask, port_text, *_ in rules]


def oracle(rules: Sequence[Drawn], address: IPAddress, port: int) -> bool:
    every = [address]
    if isinstance(address, IPv6Address):
        every += [a for a in (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())) if a is not None]
        if address in ip_network("64:ff9b::/96") or (address in ip_network("::/96") and int(address) > 1):
            every.append(IPv4Address(address.packed[12:]))
        if address.packed[8:12] in (b"\0\0\x5e\xfe", b"\2\0\x5e\xfe"):
            every.append(IPv4Address(address.packed[12:]))
    return all(first_match(rules, each, port) for each in every)


def first_match(rules: Sequence[Drawn], address: IPAddress, port: int) -> bool:
    for action, _, _, _, networks, low, high in rules:
        if low <= port <= high and any(address in ip_network(network) for network in networks):
            return action.startswith("accept")
    return False


some_addresses = (
    addresses_v4
    | addresses_v6
    | st.sampled_from(
        [
            "8.8.8.8",
            "8.8.4.4",
            "10.1.2.3",
            "200.1.2.3",
            "0.0.0.0",
            "255.255.255.255",
            "2a00::1",
            "2a00:8::",
            "fe80::1",
            "2002:808:808::1",
            "64:ff9b::808:808",
            "::ffff:8.8.8.8",
            "::8.8.8.8",
            "2001:0:808:808:0:0:f7f7:f7f7",
            "2a00::5efe:808:808",
            "::1",
            "::",
        ]
    ).map(ip_address)
)
policies = st.lists(drawn_rules(), min_size=1, max_size=8)


@given(policies, some_addresses, ports)
def test_a_policy_decides_as_the_oracle_does(rules: list[Drawn], address: IPAddress, port: int) -> None:
    edges = {port, *(edge for *_, low, high in rules for edge in (low, high, max(1, low - 1), min(65535, high + 1)))}
    policy = ExitPolicy.parse(text_of(rules))
    for each in edges:
        assert policy.allows(address, each) is oracle(rules, address, each)


@given(policies)
def test_the_canonical_text_is_the_same_policy(rules: list[Drawn]) -> None:
    policy = ExitPolicy.parse(text_of(rules))
    assert ExitPolicy.parse(str(policy)) == policy
    assert str(ExitPolicy.parse(str(policy))) == str(policy)


@given(policies)
def test_commas_lines_and_lists_are_the_same(rules: list[Drawn]) -> None:
    texts = text_of(rules)
    policy = ExitPolicy.parse(texts)
    assert (
        ExitPolicy.parse(", ".join(texts))
        == ExitPolicy.parse("\n".join(texts))
        == ExitPolicy.parse(iter(texts))
        == policy
    )


@given(policies, some_addresses, ports)
def test_a_port_that_some_address_may_use_is_open_somewhere(rules: list[Drawn], address: IPAddress, port: int) -> None:
    policy = ExitPolicy.parse(text_of(rules))
    if policy.allows(address, port):
        assert policy.allows_port_somewhere(port)


@pytest.mark.parametrize(
    ("text", "port", "somewhere"),
    [
        ("accept 8.8.8.8:53", 53, True),
        ("accept 8.8.8.8:53", 54, False),
        ("reject *4, accept 8.8.8.8:53", 53, False),
        ("reject 0.0.0.0/1, reject 128.0.0.0/1, accept *4", 53, False),
        ("reject 0.0.0.0/1, reject 128.0.0.0/2, accept *4", 53, True),
        ("reject 0.0.0.0/1, accept *", 53, True),
        ("reject *6, accept [2a00::]/16", 53, False),
        ("reject *", 53, False),
    ],
)
def test_a_port_is_open_somewhere_only_if_no_earlier_rule_closes_it_all(
    text: str, port: int, *, somewhere: bool
) -> None:
    assert ExitPolicy.parse(text).allows_port_somewhere(port) is somewhere


@given(some_addresses, st.integers(-5, 70000))
def test_the_default_allows_nothing(address: IPAddress, port: int) -> None:
    assert not ExitPolicy.REJECT_ALL.allows(address, port)
    assert not ExitPolicy.parse("").allows(address, port)
    assert not ExitPolicy.REJECT_ALL.allows_port_somewhere(port)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port_is_never_allowed(port: int) -> None:
    assert not ExitPolicy.parse("accept *:*").allows(ip_address("8.8.8.8"), port)


def test_the_end_of_the_list_rejects() -> None:
    assert not ExitPolicy.parse("accept *:80").allows(ip_address("8.8.8.8"), 81)


def test_the_first_match_wins() -> None:
    policy = ExitPolicy.parse("reject 8.8.8.8:53, accept *:53, reject *:53")
    assert not policy.allows(ip_address("8.8.8.8"), 53)
    assert policy.allows(ip_address("8.8.4.4"), 53)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("accept *:80", "accept *:80"),
        ("ACCEPT Private", "accept private:*"),
        ("accept6 *:80", "accept *6:80"),
        ("reject6 private:80", "reject private:80"),  # Tor: private means both families even here
        ("accept6 [2001:DB8::1]:1-65535", "accept [2001:db8::1]:*"),
        ("reject 10.1.2.3/255.0.0.0:80-80", "reject 10.0.0.0/8:80"),
        ("accept 0.0.0.0/0", "accept *4:*"),
        ("accept [::]/0", "accept *6:*"),
        (",accept *:1,\n\n,reject *:* ,", "accept *:1, reject *:*"),
        ("", "reject *:*"),
    ],
)
def test_every_form_has_one_canonical_text(text: str, canonical: str) -> None:
    assert str(ExitPolicy.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "number", "wrong", "right"),
    [
        ("acept *:80", 1, "acept", "accept, reject, accept6 or reject6"),
        ("accept *:80, accept", 2, "'accept'", "a target such as"),
        ("accept *:80 reject *:*", 1, "reject", "a rule is"),
        ("ExitPolicy accept *:80", 1, "ExitPolicy", "leave the word"),
        ("accept 10.0.0.0/33", 1, "/33", "/0 to /32"),
        ("accept 10.0.0.0/", 1, "/ is no", "/0 to /32"),
        ("accept 10.0.0.0/255.0.255.0:80", 1, "255.0.255.0", "255.255.255.0"),
        ("accept [::]/129", 1, "/129", "/0 to /128"),
        ("accept [::]/ffff::", 1, "/ffff", "/0 to /128"),
        ("accept 2001:db8::1:80", 1, "2001", "brackets"),
        ("accept [::1:80", 1, "[::1", "[address]"),
        ("accept [::1]x:80", 1, "x", "[address]"),
        ("accept [fe80::1%1]:80", 1, "%1", "write one as"),
        ("accept []:80", 1, "[]", "write one as"),
        ("accept :80", 1, "nothing", "write one as"),
        ("accept example.com:80", 1, "example.com", "192.0.2.1"),
        ("accept 010.0.0.1:80", 1, "010.0.0.1", "192.0.2.1"),
        ("accept 0x7f000001:80", 1, "0x7f000001", "192.0.2.1"),
        ("accept 127.1:80", 1, "127.1", "192.0.2.1"),
        ("accept *:0", 1, "0", "1 to 65535"),
        ("accept *:65536", 1, "65536", "1 to 65535"),
        ("accept *:90-80", 1, "90-80", "6000-7000"),
        ("accept *:", 1, "nothing", "1 to 65535"),
        ("accept *:8-", 1, "8-", "6000-7000"),
        ("accept *:+80", 1, "+80", "1 to 65535"),
        ("accept *:\u0663", 1, "\u0663", "1 to 65535"),
        ("accept */8", 1, "*", "leave /8 out"),
        ("accept6 8.8.8.8:53", 1, "accept6", "write accept"),
        ("accept *:1,accept *:2,reject6 *4:53", 3, "reject6", "write reject"),
    ],
)
def test_an_error_names_the_rule_what_is_wrong_and_what_is_right(
    text: str, number: int, wrong: str, right: str
) -> None:
    with pytest.raises(ValueError, match=f"^exit policy rule {number}, ") as caught:
        ExitPolicy.parse(text)
    assert wrong in str(caught.value)
    assert right in str(caught.value)


@given(st.text(max_size=30) | st.text("aceptrj6*4:[]/.,-0123456789 fx", max_size=40).map(lambda s: f"accept {s}"))
def test_garbage_is_a_policy_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        policy = ExitPolicy.parse(text)
        assert ExitPolicy.parse(str(policy)) == policy


def test_a_policy_of_something_else_than_text_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="not int"):
        ExitPolicy.parse([80])  # type: ignore[list-item]


def test_a_policy_is_a_value() -> None:
    policy = ExitPolicy.parse("accept *:80")
    assert {policy: 1}[ExitPolicy.parse("accept *:80")] == 1
    with pytest.raises(FrozenInstanceError):
        policy.rules = ()  # type: ignore[misc]
    with pytest.raises(ValueError, match="REJECT_ALL"):
        ExitPolicy(())


# --- Summaries ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ipv4", "ipv6"),
    [
        ("reject *:*", "reject 1-65535", "reject 1-65535"),
        ("accept *:*", "accept 1-65535", "accept 1-65535"),
        ("accept *:80,accept *:443", "accept 80,443", "accept 80,443"),
        ("reject *:1-1024,accept *:*", "reject 1-1024", "reject 1-1024"),
        ("accept *:80,accept *:81-90,reject *:*", "accept 80-90", "accept 80-90"),
        ("accept *4:53", "accept 53", "reject 1-65535"),
        ("accept6 *:53", "reject 1-65535", "accept 53"),
        ("accept 8.8.8.8:53", "reject 1-65535", "reject 1-65535"),
        ("reject private,accept *:53", "accept 53", "accept 53"),
        ("reject 8.0.0.0/7:53,accept *:53-54", "accept 53-54", "accept 53-54"),
        ("reject 8.0.0.0/6:53,accept *:53-54", "accept 54", "accept 53-54"),
        ("reject [2a00::]/16:53,accept *:53-54", "accept 53-54", "accept 53-54"),
        ("reject [2a00::]/15:53,accept *:53-54", "accept 53-54", "accept 54"),
    ],
)
def test_a_summary_names_the_ports_open_to_nearly_everybody(text: str, ipv4: str, ipv6: str) -> None:
    policy = ExitPolicy.parse(text)
    assert (str(policy.summary()), str(policy.summary(6))) == (ipv4, ipv6)


@given(policies, ports)
def test_a_summary_never_opens_a_port_that_is_closed_everywhere(rules: list[Drawn], port: int) -> None:
    policy = ExitPolicy.parse(text_of(rules))
    for summary in (policy.summary(4), policy.summary(6)):
        assert PortSummary.parse(str(summary)) == summary
        if summary.allows(port):
            assert policy.allows_port_somewhere(port)


def test_a_summary_is_capped_and_then_names_fewer_open_ports() -> None:
    policy = ExitPolicy.parse([f"accept *:{port}" for port in range(10000, 20000, 2)])
    summary = policy.summary()
    assert MAX_POLICY_SUMMARY - 6 <= len(str(summary)) <= MAX_POLICY_SUMMARY
    assert summary.allows(10000)
    assert not summary.allows(10001)
    assert not summary.allows(19998)


@pytest.mark.parametrize(
    "text",
    ["", "accept", "accept ", "accept *", "accept 0", "accept 443,80", "accept 80,81", "accept 80,80", "permit 80",
     "accept  80", "accept 080", "accept 80-80", "accept 90-80", "accept 1-70000", "accept 80 ",
     "reject " + "1," * 600],
)  # fmt: skip
def test_a_summary_has_one_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"summary|port"):
        PortSummary.parse(text)


# --- What no policy opens ------------------------------------------------------------------------

LIFTED = (
    "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "127.0.0.1", "127.255.255.255",
    "198.18.0.1", "192.0.2.1", "::1", "198.51.100.1", "203.0.113.1", "fc00::1", "fdff::1", "2001:2::1",
    "2001:db8::1", "3fff::1",
)  # fmt: skip
NEVER = (
    "0.0.0.0", "0.1.2.3", "169.254.1.1", "169.254.169.254", "169.254.170.2", "192.0.0.192", "100.100.100.200",
    "168.63.129.16", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.88.99.1", "::", "fe80::1",
    "febf::1", "fec0::1", "ff02::1", "fd00:ec2::254", "fd20:ce::254", "100::1", "64:ff9b:1::8.8.8.8", "5f00::1",
    "2001:10::1", "2001:20::1", "4000::1", "8000::1", "::8.8.8.8", "::ffff:8.8.8.8", "2001:db8::1%eth0",
    "2a00::1%1",
)  # fmt: skip
PUBLIC = (
    "1.1.1.1", "8.8.8.8", "9.9.9.9", "100.63.255.255", "100.128.0.1", "172.15.255.255", "172.32.0.1",
    "198.20.0.1", "223.255.255.255", "168.63.129.17", "2a00::1", "2620:fe::fe", "2001:4860::8888",
    "2002:808:808::1", "64:ff9b::8.8.8.8", "2001:0:808:808::f7f7:f7f7",
)  # fmt: skip
ACCEPT_ALL = ExitPolicy.parse("accept *:*")


def spelled_in_ipv6(address: IPv4Address) -> list[IPv6Address]:
    value = int(address)
    return [
        IPv6Address(f"::ffff:{address}"),
        IPv6Address(f"::{address}"),
        IPv6Address(f"64:ff9b::{address}"),
        IPv6Address((0x2002 << 112) | (value << 80) | 1),
        IPv6Address((0x20010000 << 96) | (value << 64) | 0xF7F7F7F7),  # as Teredo server
        IPv6Address((0x20010000 << 96) | (0x08080808 << 64) | (value ^ 0xFFFFFFFF)),  # as Teredo client
        IPv6Address((0x2A00 << 112) | (0x00005EFE << 32) | value),
        IPv6Address((0x2A00 << 112) | (0x02005EFE << 32) | value),
    ]


@pytest.mark.parametrize("text", [*LIFTED, *NEVER])
def test_what_is_not_public_is_refused(text: str) -> None:
    assert always_refused(ip_address(text), ())
    assert not Gate(ACCEPT_ALL, lambda _: False, allow_private=False).allows(ip_address(text), 80)


@pytest.mark.parametrize("text", PUBLIC)
def test_what_is_public_is_not_refused(text: str) -> None:
    assert not always_refused(ip_address(text), ())
    assert Gate(ACCEPT_ALL, lambda _: False, allow_private=False).allows(ip_address(text), 80)


@pytest.mark.parametrize("text", LIFTED)
def test_the_setting_for_test_networks_lifts_private_ranges(text: str) -> None:
    assert not always_refused(ip_address(text), (), allow_private=True)
    assert Gate(ACCEPT_ALL, lambda _: False, allow_private=True).allows(ip_address(text), 80)


@pytest.mark.parametrize("text", NEVER)
def test_the_setting_for_test_networks_lifts_nothing_else(text: str) -> None:
    assert always_refused(ip_address(text), (), allow_private=True)


@pytest.mark.parametrize("text", [text for text in (*LIFTED, *NEVER) if ":" not in text])
@pytest.mark.parametrize("allow_private", [False, True])
def test_no_ipv6_spelling_of_a_refused_address_passes(text: str, *, allow_private: bool) -> None:
    for spelling in spelled_in_ipv6(IPv4Address(text)):
        assert always_refused(spelling, (), allow_private=allow_private), spelling


@pytest.mark.parametrize("inner", ["169.254.169.254", "127.0.0.1"])
def test_a_private_address_that_embeds_another_is_lifted_only_as_far_as_itself(inner: str) -> None:
    assert always_refused(IPv6Address(f"fd00::5efe:{inner}"), (), allow_private=True)


@pytest.mark.parametrize("allow_private", [False, True])
@pytest.mark.parametrize("own", ["8.8.8.8", "127.3.0.1"])
def test_own_and_relay_addresses_are_refused_in_every_spelling(own: str, *, allow_private: bool) -> None:
    every: list[IPAddress] = [IPv4Address(own), *spelled_in_ipv6(IPv4Address(own))]
    for spelling in every:
        assert always_refused(spelling, {IPv4Address(own)}, allow_private=allow_private), spelling
        gate = Gate(ACCEPT_ALL, lambda each: each == IPv4Address(own), allow_private=allow_private)
        assert not gate.allows(spelling, 80), spelling


def test_own_ipv6_addresses_are_refused() -> None:
    own = {IPv6Address("2a00::1"), IPv6Address("fd00::1")}
    for address, allow_private in itertools.product(own, (False, True)):
        assert always_refused(address, own, allow_private=allow_private)


@given(addresses_v4)
def test_every_spelling_is_unwrapped_to_what_it_spells(address: IPv4Address) -> None:
    for spelling in spelled_in_ipv6(address):
        if int(spelling) > 1:
            assert address in spellings(spelling), spelling


@given(addresses_v4 | addresses_v6)
def test_what_the_standard_library_calls_private_is_refused(address: IPAddress) -> None:
    judged_by_what_they_embed = ("64:ff9b::/96", "2002::/16", "2001::/32")
    if not address.is_global and not any(address in ip_network(each) for each in judged_by_what_they_embed):
        assert always_refused(address, ())


@given(some_addresses, ports)
def test_the_gate_is_never_wider_than_the_policy(address: IPAddress, port: int) -> None:
    assert not Gate(ExitPolicy.REJECT_ALL, lambda _: False, allow_private=True).allows(address, port)


def test_a_rule_on_ipv4_holds_for_its_ipv6_spellings() -> None:
    policy = ExitPolicy.parse("reject 8.8.8.8:*, accept *:*")
    assert policy.allows(IPv6Address("2002:909:909::1"), 53)
    assert not any(policy.allows(spelling, 53) for spelling in spelled_in_ipv6(IPv4Address("8.8.8.8")))
