"""Where a datagram goes or comes from (SPEC 8.4).

    kind 4 | IPv4 4 | port 2                   7 bytes
    kind 6 | IPv6 16 | port 2                 19 bytes
    kind 1 | length 1 | host name | port 2

Floor 1 (wire): bytes in, values out.  Resolves nothing and allows nothing: whether an exit may send there is decided on
the resolved address, by exit/policy.
"""

import re
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import AddressValueError, IPv6Address
from typing import Final, Self

from tunnels.errors import LocalError, RemoteError
from tunnels.params import MAX_HOST_SIZE, MAX_LABEL_SIZE
from tunnels.wire.reader import Reader

_MAX_PORT: Final = 0xFFFF
_LABEL: Final = rf"[A-Za-z0-9_-]{{1,{MAX_LABEL_SIZE}}}"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


class Kind(IntEnum):
    NAME = 1
    IPV4 = 4
    IPV6 = 6


@dataclass(frozen=True, slots=True)
class Destination:
    """A host and a UDP or TCP port, 1 to 65535.

    INVARIANT: `host` is an IPv4 or IPv6 address in canonical text or a host name, so that equal addresses are equal
    values and every Destination can be encoded.  An IPv4-mapped IPv6 address stays one, as `::ffff:192.0.2.1`
    (RFC 5952 5).

    The host is not in the repr: what a user visits must not end up in a log.

    Raises:
        LocalError: host or port is no such thing.
    """

    host: str = field(repr=False)
    port: int

    def __post_init__(self) -> None:
        if not 1 <= self.port <= _MAX_PORT:
            raise LocalError(f"a port is 1 to {_MAX_PORT}, not {self.port}")
        object.__setattr__(self, "host", _canonical(self.host))

    @property
    def kind(self) -> Kind:
        """Which of the three forms it has on the wire: the host's text tells."""
        if _IPV4.fullmatch(self.host):
            return Kind.IPV4
        return Kind.IPV6 if ":" in self.host else Kind.NAME

    def encode(self) -> bytes:
        port = self.port.to_bytes(2)
        match self.kind:
            case Kind.IPV4:
                return bytes((Kind.IPV4, *map(int, self.host.split(".")))) + port
            case Kind.IPV6:
                return bytes([Kind.IPV6]) + IPv6Address(self.host).packed + port
            case Kind.NAME:
                return bytes([Kind.NAME, len(self.host)]) + self.host.encode() + port

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """The destination that begins where `reader` stands.

        Raises:
            RemoteError: there is none.  Never anything else.
        """
        match reader.u8():
            case Kind.IPV4:
                host = "%d.%d.%d.%d" % tuple(reader.take(4))  # noqa: UP031 (0.3 us; join and map take 0.5)
            case Kind.IPV6:
                host = _text(IPv6Address(reader.take(16)))
            case Kind.NAME:
                host = _name(reader.take(reader.u8()))
            case other:
                raise RemoteError(f"unknown kind {other} of destination")
        try:
            return cls(host, reader.u16())
        except LocalError as error:
            raise RemoteError(str(error)) from None

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Self:
        """The destination that is all of `data`; RemoteError as `read`."""
        reader = Reader(data)
        destination = cls.read(reader)
        reader.end()
        return destination


def _canonical(host: str) -> str:
    """`host` as it stands in a Destination.  Error texts do not repeat it: they may be logged."""
    if _IPV4.fullmatch(host):  # first, because it is what most datagrams have
        return host
    if not host.isascii():
        raise LocalError("a host name is ASCII: encode it with IDNA first (xn--...)")
    if ":" in host:
        try:
            return _text(IPv6Address(host))
        except AddressValueError:
            raise LocalError("not an IPv6 address") from None
    if len(host) > MAX_HOST_SIZE or not _NAME.fullmatch(host):
        raise LocalError(
            f"a host name is 1 to {MAX_HOST_SIZE} letters, digits, '-', '_' and '.',"
            f" with 1 to {MAX_LABEL_SIZE} between two dots"
        )
    if _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]):
        # Resolvers read 127.1, 0x7f000001 and 2130706433 as addresses.  No name ends in a number (RFC 3696 2): an
        # address has one spelling here.
        raise LocalError("an IPv4 address is four decimal numbers from 0 to 255")
    return host


def _text(address: IPv6Address) -> str:
    """Canonical text; the standard library's changed with Python 3.13 for mapped addresses."""
    if address.scope_id is not None:
        raise LocalError("an address with a zone means something on one machine only")
    if mapped := address.ipv4_mapped:
        return f"::ffff:{mapped}"
    return str(address)


def _name(data: bytes) -> str:
    """The host name in `data`; only names: an address has kinds of its own."""
    host = data.decode("latin-1")  # never fails; what is not ASCII is refused with the rest of the name
    if ":" in host or _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]):
        raise RemoteError("an address where a name belongs")
    return host
