"""The whole set of relay descriptors a node knows, and how two nodes find what differs (SPEC 12).  Floor 3: sans-IO.

Holds what `RelayDescriptor.check` has let pass; whether a relay is *used* is decided elsewhere (`views`).  When it is
full, the network with the most relays makes room: who shows thousands of relays of his own keeps nobody else's out.
"""

import hashlib
from bisect import bisect_right, insort
from collections.abc import Collection, Iterator

from tunnels.errors import LocalError
from tunnels.fair import FairTable
from tunnels.ids import RelayId
from tunnels.params import BUCKET_DIGEST_SIZE, BUCKETS, MAX_RELAYS
from tunnels.path.descriptor import RelayDescriptor
from tunnels.path.select import network_of
from tunnels.wire.directory_messages import Descriptors, page

_EMPTY = bytes(BUCKET_DIGEST_SIZE)


class DescriptorSet:
    """INVARIANT: one descriptor an identity, the newest seen; at most `limit`."""

    def __init__(self, limit: int = MAX_RELAYS) -> None:
        self._by_id: dict[RelayId, RelayDescriptor] = {}
        self._places: FairTable[RelayId] = FairTable(limit)
        self._pushed_out: list[RelayId] = []
        self._buckets: list[list[RelayId]] = [[] for _ in range(BUCKETS)]
        self._digests: list[bytes | None] = [None] * BUCKETS

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[RelayDescriptor]:
        return iter(self._by_id.values())

    def __contains__(self, relay_id: object) -> bool:
        return relay_id in self._by_id

    def get(self, relay_id: RelayId) -> RelayDescriptor | None:
        return self._by_id.get(relay_id)

    def has_room_for(self, descriptor: RelayDescriptor) -> bool:
        """Whether a relay we do not know would be kept: to be asked before its signature is checked."""
        return descriptor.relay_id in self._by_id or not self._places.full_for(_network_of(descriptor))

    def add(self, descriptor: RelayDescriptor) -> bool:
        """Keep a checked descriptor.

        Returns:
            Whether it is news; an older one than we have, or one for which there is no room, is not kept.
        """
        relay_id = descriptor.relay_id
        known = self._by_id.get(relay_id)
        if known is not None and not descriptor.newer_than(known):
            return False
        if known is None and not self.has_room_for(descriptor):
            return False
        if known is None:
            insort(self._buckets[relay_id[0]], relay_id)
        self._by_id[relay_id] = descriptor
        if known is None or _network_of(known) != _network_of(descriptor):
            self._place(descriptor)
        self._digests[relay_id[0]] = None
        return True

    def _place(self, descriptor: RelayDescriptor) -> None:
        """Count a relay under its network."""
        self._places.discard(descriptor.relay_id)  # it may have moved
        if (leaves := self._places.add(_network_of(descriptor), descriptor.relay_id)) is not None:
            self.remove(leaves)
            self._pushed_out.append(leaves)

    def remove(self, relay_id: RelayId) -> None:
        if self._by_id.pop(relay_id, None) is not None:
            self._places.discard(relay_id)
            self._buckets[relay_id[0]].remove(relay_id)
            self._digests[relay_id[0]] = None

    def expire(self, now: float) -> list[RelayId]:
        """Forget what is not valid any more; `now`: wall seconds.

        Returns:
            The relays that are gone: by this, and those that had to make room since the last call.
        """
        expired = [relay_id for relay_id, descriptor in self._by_id.items() if descriptor.expires <= now]
        for relay_id in expired:
            self.remove(relay_id)
        pushed_out, self._pushed_out = self._pushed_out, []
        return [relay_id for relay_id in dict.fromkeys(expired + pushed_out) if relay_id not in self._by_id]

    def bucket(self, number: int) -> tuple[RelayId, ...]:
        """The relays of a bucket, in order."""
        return tuple(self._buckets[number])

    def digests(self) -> tuple[bytes, ...]:
        """The digest of every bucket: equal at two nodes exactly when they hold the same descriptors."""
        return tuple(self._digest(number) for number in range(BUCKETS))

    def _digest(self, number: int) -> bytes:
        digest = self._digests[number]
        if digest is None:
            every = b"".join(self._by_id[relay_id].digest for relay_id in self._buckets[number])
            digest = hashlib.sha256(every).digest()[:BUCKET_DIGEST_SIZE] if every else _EMPTY
            self._digests[number] = digest
        return digest

    def differing(self, theirs: Collection[bytes]) -> frozenset[int]:
        """The buckets in which somebody with these digests has something we have not, or the reverse."""
        if len(theirs) != BUCKETS:
            raise LocalError(f"{BUCKETS} digests, not {len(theirs)}")
        pairs = zip(self.digests(), theirs, strict=True)
        return frozenset(number for number, (own, other) in enumerate(pairs) if own != other)

    def page(self, wanted: Collection[int], after: RelayId) -> Descriptors:
        """One page of the wanted buckets (SPEC 12.1)."""
        return page(after, self._behind(wanted, after))

    def _behind(self, wanted: Collection[int], after: RelayId) -> Iterator[tuple[RelayId, bytes]]:
        for number in sorted(wanted):
            if number < after[0]:
                continue
            relays = self._buckets[number]
            for relay_id in relays[bisect_right(relays, after) :]:
                yield relay_id, self._by_id[relay_id].encode()


def _network_of(descriptor: RelayDescriptor) -> str:
    return network_of(descriptor.addresses[0][0])
