"""The whole set of relay descriptors a node knows, and how two nodes find what differs (SPEC 12).  Floor 3: sans-IO.

Holds what `RelayDescriptor.check` has let pass; whether a relay is *used* is decided elsewhere (`views`).
"""

import hashlib
from bisect import bisect_right, insort
from collections.abc import Collection, Iterator

from tunnels.errors import LocalError
from tunnels.ids import RelayId
from tunnels.params import BUCKET_DIGEST_SIZE, BUCKETS, MAX_RELAYS
from tunnels.path.descriptor import RelayDescriptor
from tunnels.wire.directory_messages import Descriptors, page

_EMPTY = bytes(BUCKET_DIGEST_SIZE)


class DescriptorSet:
    """INVARIANT: one descriptor an identity, the newest seen; at most MAX_RELAYS."""

    def __init__(self) -> None:
        self._by_id: dict[RelayId, RelayDescriptor] = {}
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

    def add(self, descriptor: RelayDescriptor) -> bool:
        """Keep a checked descriptor.

        Returns:
            Whether it is news; an older one than we have, or one beyond MAX_RELAYS, is not kept.
        """
        relay_id = descriptor.relay_id
        known = self._by_id.get(relay_id)
        if known is None:
            if len(self._by_id) >= MAX_RELAYS:
                return False
            insort(self._buckets[relay_id[0]], relay_id)
        elif not descriptor.newer_than(known):
            return False
        self._by_id[relay_id] = descriptor
        self._digests[relay_id[0]] = None
        return True

    def remove(self, relay_id: RelayId) -> None:
        if self._by_id.pop(relay_id, None) is not None:
            self._buckets[relay_id[0]].remove(relay_id)
            self._digests[relay_id[0]] = None

    def expire(self, now: float) -> list[RelayId]:
        """Forget what is not valid any more; `now`: wall seconds.

        Returns:
            The relays that are gone.
        """
        gone = [relay_id for relay_id, descriptor in self._by_id.items() if descriptor.expires <= now]
        for relay_id in gone:
            self.remove(relay_id)
        return gone

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
