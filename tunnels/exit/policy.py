"""Where an exit sends: the operator's exit policy, and what no exit sends to whatever its policy says (SPEC 8.5).

    rule = ("accept" | "reject" | "accept6" | "reject6") TARGET [":" PORTS]
    TARGET = "*" | "*4" | "*6" | "private" | IPv4 ["/" (0 to 32 | dotted mask)] | "[" IPv6 "]" ["/" 0 to 128]
    PORTS = "*" | PORT | PORT "-" PORT

The syntax of torrc's ExitPolicy.  The first rule that matches decides.  Two things differ from Tor on purpose: a policy
that runs out rejects (Tor goes on with its own default policy), and an IPv4 address behind `accept6` or `reject6` is an
error (Tor warns and drops the rule, so that what was to be rejected is not).

Floor 3: pure.  Knows addresses and ports; no host names, no sockets, no relays but those it is told of.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import pairwise
from types import MappingProxyType
from typing import ClassVar, Final, Literal, NoReturn, Self

from tunnels.params import MAX_POLICY_SUMMARY, MAX_PORT, SUMMARY_REJECTED_IPV4, SUMMARY_REJECTED_IPV6

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
_Prefixes = Mapping[int, tuple[tuple[int, int], ...]]
"""IP version -> (bits to shift an address right, what it then equals): five times as fast as `in` of ipaddress."""


def _networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(IPv6Network(text) if ":" in text else IPv4Network(text) for text in texts)


def _prefixes(networks: Iterable[IPNetwork]) -> _Prefixes:
    table: dict[int, tuple[tuple[int, int], ...]] = {4: (), 6: ()}
    for network in networks:
        shift = network.max_prefixlen - network.prefixlen
        table[network.version] += ((shift, int(network.network_address) >> shift),)
    return MappingProxyType(table)


def _inside(address: IPAddress, prefixes: _Prefixes) -> bool:
    value = int(address)
    return any(value >> shift == prefix for shift, prefix in prefixes[address.version])


# --- What no exit sends to ----------------------------------------------------------------------

PRIVATE_RANGES: Final = _networks(
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",  # RFC 1918
    "100.64.0.0/10",  # behind a provider's NAT, RFC 6598
    "127.0.0.0/8", "::1/128",  # loopback
    "fc00::/7",  # unique local, RFC 4193
    "198.18.0.0/15", "2001:2::/48",  # benchmarks, RFC 2544 and RFC 5180
    "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24",  # documentation, RFC 5737
    "2001:db8::/32", "3fff::/20",  # documentation, RFC 3849 and RFC 9637
)  # fmt: skip
"""Refused unless `allow_private`: what a test network or a simulated one may be built of."""

METADATA_ADDRESSES: Final = _networks(
    "169.254.169.254/32", "fd00:ec2::254/128",  # AWS, and most clouds
    "fd20:ce::254/128",  # Google Cloud
    "100.100.100.200/32",  # Alibaba Cloud
    "192.0.0.192/32",  # Oracle Cloud
    "168.63.129.16/32",  # Azure; public by its number, answered by the host machine
)  # fmt: skip
"""They hand out the machine's credentials to whoever asks from it.  Refused always: `allow_private` is for test
networks, and a test network may run in a cloud."""

SPECIAL_RANGES: Final = _networks(
    "0.0.0.0/8",  # this network
    "169.254.0.0/16",  # link-local
    "192.0.0.0/24",  # protocol assignments, RFC 6890
    "192.88.99.0/24",  # 6to4 relays, withdrawn by RFC 7526
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
    # Protocol assignments (RFC 2928) without Teredo, 2001::/32, which is judged by what it embeds.
    "2001:1::/32", "2001:2::/31", "2001:4::/30", "2001:8::/29", "2001:10::/28", "2001:20::/27", "2001:40::/26",
    "2001:80::/25", "2001:100::/24",
)  # fmt: skip
"""Refused always, and so is every IPv6 address outside GLOBAL_UNICAST."""

GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
"""All IPv6 addresses that were ever given out (RFC 4291 2.4).  Outside it are: unspecified, v4-compatible, v4-mapped,
local NAT64, discard-only, SRv6, link-local, site-local, multicast, reserved; and NAT64, judged by what it embeds."""

NAT64: Final = IPv6Network("64:ff9b::/96")
"""RFC 6052 2.1.  An operator's own NAT64 prefix cannot be known: it belongs into the exit policy."""

_PRIVATE: Final = _prefixes(PRIVATE_RANGES)
_METADATA: Final = _prefixes(METADATA_ADDRESSES)
_SPECIAL: Final = _prefixes((*SPECIAL_RANGES, *PRIVATE_RANGES, *METADATA_ADDRESSES))
_SPECIAL_IPV4: Final = tuple(n for n in (*SPECIAL_RANGES, *PRIVATE_RANGES) if isinstance(n, IPv4Network))
_GLOBAL: Final = _prefixes((GLOBAL_UNICAST, NAT64, *_networks("0.0.0.0/0")))


def spellings(address: IPAddress) -> tuple[IPAddress, ...]:
    """`address` and every IPv4 address that a datagram to it can end at: what is forbidden to one is forbidden to it.

    v4-mapped, v4-compatible (but for :: and ::1), NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo (RFC 4380), ISATAP (RFC
    5214).
    """
    if address.version == 4:
        return (address,)
    value = int(address)
    found: list[IPAddress] = [address]
    high, low = value >> 96, value & 0xFFFFFFFF
    if (value >> 32 in (0, 0xFFFF) and value > 1) or value >> 32 == int(NAT64.network_address) >> 32:
        found.append(IPv4Address(low))
    elif value >> 112 == 0x2002:
        found.append(IPv4Address(value >> 80 & 0xFFFFFFFF))
    elif high == 0x20010000:
        found += (IPv4Address(value >> 64 & 0xFFFFFFFF), IPv4Address(low ^ 0xFFFFFFFF))
    if value >> 32 & 0xFDFFFFFF == 0x00005EFE:
        found.append(IPv4Address(low))
    return tuple(found)


def always_refused(address: IPAddress, own: Collection[IPAddress], *, allow_private: bool = False) -> bool:
    """Whether no exit policy can allow `address`.

    Args:
        own: this node's and all known relays' addresses.  An exit that sends to them lets a client speak to a relay in
            another relay's name.
        allow_private: lifts PRIVATE_RANGES, written plainly, and nothing else: not metadata, not link-local, not the
            IPv6 spellings of a private IPv4 address, and never `own`.  A test network that exits to 127.0.0.0/8
            therefore gives each relay an address of its own there and puts its servers on others.
    """
    if address.version == 6 and address.scope_id is not None:
        return True  # an interface of this machine; and with a zone it equals no address in `own`
    spelled = spellings(address)
    if any(spelling in own for spelling in spelled):
        return True
    if allow_private and _inside(address, _PRIVATE) and not _inside(address, _METADATA):
        spelled = spelled[1:]
    return any(_inside(spelling, _SPECIAL) or not _inside(spelling, _GLOBAL) for spelling in spelled)


# --- The exit policy ----------------------------------------------------------------------------

_EVERYWHERE: Final = _networks("0.0.0.0/0", "::/0")
_NAMED_TARGETS: Final[Mapping[str, tuple[IPNetwork, ...]]] = MappingProxyType({
    "*": _EVERYWHERE,
    "*4": _EVERYWHERE[:1],
    "*6": _EVERYWHERE[1:],
    "private": _networks(
        "0.0.0.0/8", "169.254.0.0/16", "127.0.0.0/8", "192.168.0.0/16", "10.0.0.0/8", "172.16.0.0/12",
        "::/8", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "::/127",
    ),
})  # fmt: skip
"""As in Tor's manual: `private` is Tor's list, which is shorter than what `always_refused` refuses."""

_TARGET_NAMES: Final = MappingProxyType({networks: name for name, networks in _NAMED_TARGETS.items()})
_ACTIONS: Final = ("accept", "reject", "accept6", "reject6")
_DIGITS: Final = re.compile(r"[0-9]{1,5}")
_QUOTED: Final = 60
"""Characters of a wrong rule that an error repeats."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a policy: `networks` and ports `first` to `last`, both included."""

    accept: bool
    networks: tuple[IPNetwork, ...]
    first: int
    last: int
    _where: _Prefixes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_where", _prefixes(self.networks))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The rule that is all of `text`.

        Raises:
            ValueError: it is none.  Says what is wrong and what would be right.
        """
        words = text.split()
        if words and words[0].lower() == "exitpolicy":
            raise ValueError("leave the word ExitPolicy out")
        if len(words) != 2 or words[0].lower() not in _ACTIONS:
            raise ValueError(
                f"a rule is {', '.join(_ACTIONS[:-1])} or {_ACTIONS[-1]}, a space, and a target such as *:443"
            )
        action = words[0].lower()
        target, ports = _split_ports(words[1])
        networks = _target(target.lower())
        if action.endswith("6") and networks != _NAMED_TARGETS["private"]:  # Tor: private means both, even here
            if networks == _EVERYWHERE:
                networks = _NAMED_TARGETS["*6"]
            elif networks[0].version == 4:
                raise ValueError(f"{target} is IPv4 and {action} means IPv6 only; write {action[:-1]}")
        return cls(action.startswith("accept"), networks, *_ports(ports))

    def __str__(self) -> str:
        target = _TARGET_NAMES.get(self.networks)
        if target is None:
            network = self.networks[0]
            target = f"{network.network_address}" if network.version == 4 else f"[{network.network_address}]"
            target += f"/{network.prefixlen}" if network.prefixlen < network.max_prefixlen else ""
        return f"{'accept' if self.accept else 'reject'} {target}:{_port_text(self.first, self.last, everything='*')}"

    def matches(self, address: IPAddress, port: int) -> bool:
        return self.first <= port <= self.last and _inside(address, self._where)


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """Rules in order; behind the last one everything is rejected.

    INVARIANT: there is a rule, and `parse(str(policy)) == policy`.
    """

    rules: tuple[Rule, ...]
    REJECT_ALL: ClassVar["ExitPolicy"]

    def __post_init__(self) -> None:
        if not self.rules:
            raise ValueError("an exit policy has at least one rule; ExitPolicy.REJECT_ALL rejects everything")

    @classmethod
    def parse(cls, text: str | Iterable[str]) -> "ExitPolicy":
        """The policy in `text`: rules between commas and line ends, or several such texts.  No rules: REJECT_ALL.

        Raises:
            ValueError: names the rule by number and text, what is wrong with it, and what would be right.
        """
        rules: list[Rule] = []
        for part in _parts([text] if isinstance(text, str) else text):
            try:
                rules.append(Rule.parse(part))
            except ValueError as error:
                shown = part if len(part) <= _QUOTED else f"{part[:_QUOTED]}..."
                raise ValueError(f"exit policy rule {len(rules) + 1}, {shown!r}: {error}") from None
        return cls(tuple(rules)) if rules else cls.REJECT_ALL

    def __str__(self) -> str:
        return ", ".join(map(str, self.rules))

    def allows(self, address: IPAddress, port: int) -> bool:
        """Whether the rules accept `address` in all its spellings.  Linear in their number.

        Says nothing about `always_refused`: `Gate` asks both.
        """
        return all(self._first_match(spelling, port) for spelling in spellings(address))

    def _first_match(self, address: IPAddress, port: int) -> bool:
        return next((rule.accept for rule in self.rules if rule.matches(address, port)), False)

    def allows_port_somewhere(self, port: int) -> bool:
        """Whether the rules accept `port` at any address at all: if not, no name needs to be resolved for it."""
        rejected: list[IPNetwork] = []
        for rule in self.rules:
            if rule.first <= port <= rule.last:
                for network in rule.networks:
                    if rule.accept and not _covered(network, rejected):
                        return True
                    if not rule.accept:
                        rejected.append(network)
        return False

    def summary(self, version: Literal[4, 6] = 4) -> "PortSummary":
        """The ports open to nearly every address of an IP version, for a relay descriptor.

        As Tor's "p" and "p6" lines (dir-spec): a port counts as accepted when a rule accepts it everywhere and the
        rules before that one reject no more than SUMMARY_REJECTED_* addresses.  What no exit sends to does not count
        as rejected.
        """
        edges = sorted({1, MAX_PORT + 1, *(rule.first for rule in self.rules), *(rule.last + 1 for rule in self.rules)})
        accepted: list[tuple[int, int]] = []
        for first, behind in pairwise(edges):
            if self._mostly_accepts(first, version):
                if accepted and accepted[-1][1] == first - 1:
                    first = accepted.pop()[0]  # noqa: PLW2901 (the range before, grown)
                accepted.append((first, behind - 1))
        return _shortest(tuple(accepted))

    def _mostly_accepts(self, port: int, version: int) -> bool:
        rejected = 0
        for rule in self.rules:
            if rule.first <= port <= rule.last:
                for network in rule.networks:
                    if network.version == version and network.prefixlen == 0:
                        return rule.accept and rejected <= _SUMMARY_REJECTED[version]
                    if network.version == version and not rule.accept and not _pointless(network):
                        rejected += network.num_addresses
        return False


_SUMMARY_REJECTED: Final = MappingProxyType({4: SUMMARY_REJECTED_IPV4, 6: SUMMARY_REJECTED_IPV6})


@dataclass(frozen=True, slots=True)
class PortSummary:
    """What a relay descriptor says of an exit policy: `accept` these port ranges and no others, or all but these.

    INVARIANT: at least one range, each in 1 to 65535, sorted, none touching the next; the text has at most
    MAX_POLICY_SUMMARY characters.
    """

    accept: bool
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """The summary in `text`, in the one form `str` gives it.

        Raises:
            ValueError: it is none.
        """
        if len(text) > MAX_POLICY_SUMMARY:
            raise ValueError(f"a policy summary has at most {MAX_POLICY_SUMMARY} characters, not {len(text)}")
        action, _, ports = text.partition(" ")
        summary = cls(action == "accept", tuple(_ports(part) for part in ports.split(",")))
        if str(summary) != text or any(after[0] <= before[1] + 1 for before, after in pairwise(summary.ranges)):
            raise ValueError(
                "a policy summary is accept or reject, a space, and sorted port ranges such as 80,443,6000-7000"
            )
        return summary

    def __str__(self) -> str:
        return f"{'accept' if self.accept else 'reject'} {','.join(_port_text(*pair) for pair in self.ranges)}"

    def allows(self, port: int) -> bool:
        return 0 < port <= MAX_PORT and any(first <= port <= last for first, last in self.ranges) is self.accept


@dataclass(frozen=True, slots=True)
class Gate:
    """Everything an exit asks before it sends to a *resolved* address.  8 us for a policy of two rules.

    Args:
        policy: the operator's.
        own: this node's and all known relays' addresses, asked anew for every datagram because relays come and go.
        allow_private: as in `always_refused`.
    """

    policy: ExitPolicy
    own: Callable[[IPAddress], bool]
    allow_private: bool

    def allows(self, address: IPAddress, port: int) -> bool:
        return (
            self.policy.allows(address, port)
            and not always_refused(address, (), allow_private=self.allow_private)
            and not any(map(self.own, spellings(address)))
        )


def _parts(texts: Iterable[object]) -> Iterator[str]:
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"an exit policy is text or a list of texts, not {type(text).__name__}")  # noqa: TRY004
        for line in text.splitlines():
            yield from (part.strip() for part in line.split(",") if part.strip())


def _split_ports(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        mask, _, ports = rest.partition(":")
        if not bracket or (mask and not mask.startswith("/")):
            raise ValueError("an IPv6 target is [address], then /length, then :ports")
        return host + bracket + mask, ports if ":" in rest else "*"
    if text.count(":") > 1:
        raise ValueError("an IPv6 address stands in brackets: [2001:db8::]/32:443")
    target, colon, ports = text.partition(":")
    return target, ports if colon else "*"


def _target(text: str) -> tuple[IPNetwork, ...]:
    if text in _NAMED_TARGETS:
        return _NAMED_TARGETS[text]
    host, slash, mask = text.partition("/")
    if host in _NAMED_TARGETS:
        raise ValueError(f"{host} takes no mask; leave /{mask} out")
    try:
        if host.startswith("[") and "%" not in host:  # a zone means something on one machine only
            return (IPv6Network((IPv6Address(host[1:-1]), _prefix_length(mask, 128) if slash else 128), strict=False),)
        address = IPv4Address(host)
    except ValueError as error:
        if isinstance(error, _MaskError):
            raise
        raise ValueError(
            f"{host or 'nothing'} is no address; write one as 192.0.2.1, [2001:db8::1], *, *4, *6 or private"
        ) from None
    return (IPv4Network((address, _prefix_length(mask, 32) if slash else 32), strict=False),)


class _MaskError(ValueError):
    """The address was right, what stands behind its slash is not."""


def _prefix_length(text: str, bits: int) -> int:
    if _DIGITS.fullmatch(text) and int(text) <= bits:
        return int(text)
    if bits == 32 and "." in text:
        try:
            holes = int(IPv4Address(text)) ^ 0xFFFFFFFF
        except ValueError:
            holes = -1
        if holes >= 0 and holes & (holes + 1) == 0:
            return bits - holes.bit_length()
    hint = ", or a mask of ones and then zeros such as 255.255.255.0" if bits == 32 else ""
    raise _MaskError(f"/{text} is no prefix; write /0 to /{bits}{hint}")


def _ports(text: str) -> tuple[int, int]:
    if text == "*":
        return 1, MAX_PORT
    first, dash, last = text.partition("-")
    if not _DIGITS.fullmatch(first) or (dash and not _DIGITS.fullmatch(last)):
        _wrong_ports(text)
    low, high = int(first), int(last if dash else first)
    if not 1 <= low <= high <= MAX_PORT:
        _wrong_ports(text)
    return low, high


def _wrong_ports(text: str) -> NoReturn:
    raise ValueError(f"{text or 'nothing'} is no port; write 1 to {MAX_PORT}, a range such as 6000-7000, or *")


def _port_text(first: int, last: int, everything: str = f"1-{MAX_PORT}") -> str:
    if (first, last) == (1, MAX_PORT):
        return everything
    return str(first) if first == last else f"{first}-{last}"


def _covered(network: IPNetwork, rejected: Iterable[IPNetwork]) -> bool:
    missing, last = int(network.network_address), int(network.broadcast_address)
    blocks = ((int(n.network_address), int(n.broadcast_address)) for n in rejected if n.version == network.version)
    for first, end in sorted(blocks):
        if first > missing:
            break
        missing = max(missing, end + 1)
    return missing > last


def _pointless(network: IPNetwork) -> bool:
    """Whether a rule rejects only what no exit sends to anyway."""
    if isinstance(network, IPv6Network):
        return not network.overlaps(GLOBAL_UNICAST)
    return any(network.subnet_of(other) for other in _SPECIAL_IPV4)


def _shortest(accepted: tuple[tuple[int, int], ...]) -> PortSummary:
    inner = [0, *(edge for pair in accepted for edge in pair), MAX_PORT + 1]
    rejected = tuple((a + 1, b - 1) for a, b in zip(inner[::2], inner[1::2], strict=True) if b - a > 1)
    by_name = [PortSummary(accept, ranges) for accept, ranges in ((True, accepted), (False, rejected)) if ranges]
    best = min(by_name, key=lambda summary: len(str(summary)))
    # Too long either way: name fewer open ports, because a client that is told too many is refused by the exit.
    while len(str(best)) > MAX_POLICY_SUMMARY:
        accepted = accepted[:-1]
        best = PortSummary(accept=True, ranges=accepted)
    return best


ExitPolicy.REJECT_ALL = ExitPolicy.parse("reject *:*")
