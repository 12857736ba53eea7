"""How the set of relay descriptors is compared and fetched inside circuits (SPEC 12.1).

Floor 1 (wire): bytes in, values out.  Descriptors are bytes here: who signed them is not this floor's question.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Final, Self

from tunnels.errors import LocalError, RemoteError
from tunnels.ids import RelayId
from tunnels.params import BUCKET_DIGEST_SIZE, BUCKETS, MAX_DESCRIPTOR_SIZE, MAX_PAGE_SIZE, RELAY_ID_SIZE
from tunnels.wire.reader import Reader


class DirectoryType(IntEnum):
    DIGEST_REQUEST = 10
    DIGESTS = 11
    BUCKETS_REQUEST = 12
    DESCRIPTORS = 13
    PROBE = 14
    VOUCHED = 15


NO_RELAY: Final = RelayId(bytes(RELAY_ID_SIZE))
"""In `after`: from the beginning; in `next`: that was all."""

_BITMAP_SIZE: Final = BUCKETS // 8
_EVERY_BUCKET: Final = frozenset(range(BUCKETS))


@dataclass(frozen=True, slots=True)
class DigestRequest:
    TYPE: ClassVar[int] = DirectoryType.DIGEST_REQUEST

    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls, content: bytes) -> Self:
        Reader(content).end()
        return cls()


@dataclass(frozen=True, slots=True)
class Digests:
    """INVARIANT: BUCKETS digests of BUCKET_DIGEST_SIZE bytes, by bucket."""

    TYPE: ClassVar[int] = DirectoryType.DIGESTS

    digests: tuple[bytes, ...] = field(repr=False)

    def encode(self) -> bytes:
        if len(self.digests) != BUCKETS or {*map(len, self.digests)} != {BUCKET_DIGEST_SIZE}:
            raise LocalError(f"{BUCKETS} digests of {BUCKET_DIGEST_SIZE} bytes each")
        return b"".join(self.digests)

    @classmethod
    def decode(cls, content: bytes) -> Self:
        reader = Reader(content)
        message = cls(tuple(reader.take(BUCKET_DIGEST_SIZE) for _ in range(BUCKETS)))
        reader.end()
        return message


@dataclass(frozen=True, slots=True)
class BucketsRequest:
    """Descriptors of the wanted buckets, from those behind `after` on.  In the bitmap, bucket b is the bit of 2^b."""

    TYPE: ClassVar[int] = DirectoryType.BUCKETS_REQUEST

    wanted: frozenset[int]
    after: RelayId = NO_RELAY

    def encode(self) -> bytes:
        if not self.wanted <= _EVERY_BUCKET:
            raise LocalError(f"buckets are 0 to {BUCKETS - 1}")
        bitmap = sum(1 << bucket for bucket in self.wanted)
        return bitmap.to_bytes(_BITMAP_SIZE) + _relay_id(self.after)

    @classmethod
    def decode(cls, content: bytes) -> Self:
        reader = Reader(content)
        bitmap = int.from_bytes(reader.take(_BITMAP_SIZE))
        after = RelayId(reader.take(RELAY_ID_SIZE))
        reader.end()
        return cls(frozenset(bucket for bucket in range(BUCKETS) if bitmap >> bucket & 1), after)


@dataclass(frozen=True, slots=True)
class Descriptors:
    """A page: what stands behind `after`; the next begins behind `following`."""

    TYPE: ClassVar[int] = DirectoryType.DESCRIPTORS

    after: RelayId
    following: RelayId
    descriptors: tuple[bytes, ...] = field(repr=False)

    def encode(self) -> bytes:
        head = _relay_id(self.after) + _relay_id(self.following)
        content = head + b"".join(len(each).to_bytes(2) + _descriptor(each) for each in self.descriptors)
        if len(content) > MAX_PAGE_SIZE:
            raise LocalError(f"a page has at most {MAX_PAGE_SIZE} bytes, not {len(content)}")
        return content

    @classmethod
    def decode(cls, content: bytes) -> Self:
        if len(content) > MAX_PAGE_SIZE:
            raise RemoteError(f"a page has at most {MAX_PAGE_SIZE} bytes, not {len(content)}")
        reader = Reader(content)
        after, following = RelayId(reader.take(RELAY_ID_SIZE)), RelayId(reader.take(RELAY_ID_SIZE))
        found: list[bytes] = []
        while reader.remaining:
            size = reader.u16()
            if not 0 < size <= MAX_DESCRIPTOR_SIZE:
                raise RemoteError(f"a descriptor of {size} bytes")
            found.append(reader.take(size))
        return cls(after, following, tuple(found))


@dataclass(frozen=True, slots=True)
class Probe:
    """Have the owner of this descriptor reached at its address (SPEC 11.3)."""

    TYPE: ClassVar[int] = DirectoryType.PROBE

    descriptor: bytes = field(repr=False)

    def encode(self) -> bytes:
        return _descriptor(self.descriptor)

    @classmethod
    def decode(cls, content: bytes) -> Self:
        if not 0 < len(content) <= MAX_DESCRIPTOR_SIZE:
            raise RemoteError(f"a descriptor of {len(content)} bytes")
        return cls(content)


class Reach(IntEnum):
    """What came of a PROBE."""

    NOT_REACHED = 0
    REACHED = 1
    CANNOT_TELL = 2
    """There is a link already that the other side opened: a NAT may let answers in and strangers not."""


@dataclass(frozen=True, slots=True)
class Vouched:
    """Whether the relay was reached."""

    TYPE: ClassVar[int] = DirectoryType.VOUCHED

    reach: Reach
    relay_id: RelayId

    def encode(self) -> bytes:
        return bytes([self.reach]) + _relay_id(self.relay_id)

    @classmethod
    def decode(cls, content: bytes) -> Self:
        reader = Reader(content)
        result = reader.u8()
        if result > Reach.CANNOT_TELL:
            raise RemoteError(f"unknown result {result}")
        message = cls(Reach(result), RelayId(reader.take(RELAY_ID_SIZE)))
        reader.end()
        return message


def page(after: RelayId, candidates: Iterable[tuple[RelayId, bytes]]) -> Descriptors:
    """The page behind `after` that holds as many of `candidates` as fit.

    Args:
        candidates: descriptors behind `after`, in order of relay id.
    """
    room = MAX_PAGE_SIZE - 2 * RELAY_ID_SIZE
    taken: list[bytes] = []
    last = NO_RELAY
    for relay_id, descriptor in candidates:
        room -= 2 + len(descriptor)
        if room < 0:
            return Descriptors(after, last, tuple(taken))
        taken.append(descriptor)
        last = relay_id
    return Descriptors(after, NO_RELAY, tuple(taken))


def _relay_id(relay_id: RelayId) -> bytes:
    if len(relay_id) != RELAY_ID_SIZE:
        raise LocalError(f"a relay id has {RELAY_ID_SIZE} bytes, not {len(relay_id)}")
    return relay_id


def _descriptor(data: bytes) -> bytes:
    if not 0 < len(data) <= MAX_DESCRIPTOR_SIZE:
        raise LocalError(f"a descriptor has 1 to {MAX_DESCRIPTOR_SIZE} bytes, not {len(data)}")
    return data
