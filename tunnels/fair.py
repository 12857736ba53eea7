"""A queue in which nobody can wait long because of somebody else (SPEC 4.8, 7.7).  Floor 1: values only.

Keys (source prefixes, neighbours) take turns; each key's own requests wait in order.  When the queue is full, the
newest request of the key with the most waiting makes room: a flood pushes out itself, whatever its rate.
"""

import ipaddress
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from tunnels.errors import LocalError
from tunnels.params import QUEUE_PER_KEY, QUEUE_TOTAL

Item = TypeVar("Item")


def source_prefix(host: str) -> str:
    """The network whose hosts share one turn: /24 for IPv4, /48 for IPv6 (SPEC 4.8)."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    bits = 24 if address.version == 4 else 48
    return str(ipaddress.ip_network((address, bits), strict=False))


class FairQueue(Generic[Item]):
    """Round robin over keys.

    INVARIANT: a key stands in `_by_length[n]` exactly while n > 0 of its items wait.
    """

    def __init__(self, per_key: int = QUEUE_PER_KEY, total: int = QUEUE_TOTAL) -> None:
        if per_key < 1 or total < 1:
            raise LocalError("a queue holds at least one request")
        self._per_key, self._total = per_key, total
        self._waiting: dict[Hashable, deque[Item]] = {}
        self._by_length: list[dict[Hashable, None]] = [{} for _ in range(per_key + 1)]
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Item]:
        for queue in self._waiting.values():
            yield from queue

    def add(self, key: Hashable, item: Item) -> list[Item]:
        """Put `item` behind the others of `key`.

        Returns:
            What found no room: empty, `item` itself, or somebody else's newest request.
        """
        queue = self._waiting.get(key)
        length = len(queue) if queue else 0
        if length == self._per_key:
            return [item]
        pushed_out: list[Item] = []
        if self._size == self._total:
            longest = next(n for n in range(self._per_key, 0, -1) if self._by_length[n])
            if length >= longest:
                return [item]
            pushed_out.append(self._drop_newest(next(iter(self._by_length[longest])), longest))
        if queue is None:
            queue = self._waiting[key] = deque()
        queue.append(item)
        self._move(key, length, length + 1)
        self._size += 1
        return pushed_out

    def pop(self) -> Item | None:
        """The oldest request of the key whose turn it is, None when nobody waits."""
        if not self._size:
            return None
        key = next(iter(self._waiting))
        queue = self._waiting.pop(key)
        item = queue.popleft()
        self._move(key, len(queue) + 1, len(queue))
        self._size -= 1
        if queue:
            self._waiting[key] = queue  # behind all other keys: its next turn is one round away
        return item

    def discard(self, key: Hashable, item: Item) -> None:
        """Take `item` out, if it waits: nobody wants it any more."""
        queue = self._waiting.get(key, deque())
        if item in queue:
            queue.remove(item)
            self._move(key, len(queue) + 1, len(queue))
            self._size -= 1
            if not queue:
                del self._waiting[key]

    def _drop_newest(self, key: Hashable, length: int) -> Item:
        queue = self._waiting[key]
        item = queue.pop()
        self._move(key, length, length - 1)
        self._size -= 1
        if not queue:
            del self._waiting[key]
        return item

    def _move(self, key: Hashable, old: int, new: int) -> None:
        if old:
            del self._by_length[old][key]
        if new:
            self._by_length[new][key] = None


Member = TypeVar("Member", bound=Hashable)


class FairTable(Generic[Member]):
    """Places for whoever comes, as many as `total`; then the key with the most gives one up, if it stays ahead.

    INVARIANT: a key stands in `_by_size[n]` exactly while n > 0 places are its; no key has more than `_largest`.
    """

    def __init__(self, total: int) -> None:
        if total < 0:
            raise LocalError("a table cannot hold less than nobody")
        self._total = total
        self._key_of: dict[Member, Hashable] = {}
        self._members: dict[Hashable, dict[Member, None]] = {}
        self._by_size: dict[int, dict[Hashable, None]] = {}
        self._largest = 0

    def __len__(self) -> int:
        return len(self._key_of)

    def __contains__(self, member: object) -> bool:
        return member in self._key_of

    def __iter__(self) -> Iterator[Member]:
        return iter(self._key_of)

    def full_for(self, key: Hashable) -> bool:
        """Whether `add` would refuse a newcomer of `key`."""
        return len(self._key_of) >= self._total and self._largest <= len(self._members.get(key, ())) + 1

    def add(self, key: Hashable, member: Member) -> Member | None:
        """Give `member` a place.  The caller has asked `full_for`.

        Returns:
            Who has to leave: nobody, or the newest member of the key with the most; it has no place any more.

        Raises:
            LocalError: `full_for` this key, or it has a place.
        """
        if member in self._key_of or self.full_for(key):
            raise LocalError("no place, or one already")
        leaves: Member | None = None
        if len(self._key_of) >= self._total:
            crowd = next(iter(self._by_size[self._largest]))
            leaves = next(reversed(self._members[crowd]))
            self.discard(leaves)
        members = self._members.setdefault(key, {})
        members[member] = None
        self._key_of[member] = key
        self._resize(key, len(members) - 1, len(members))
        return leaves

    def discard(self, member: Member) -> None:
        """`member` leaves, if it is here."""
        if member not in self._key_of:
            return
        key = self._key_of.pop(member)
        members = self._members[key]
        del members[member]
        self._resize(key, len(members) + 1, len(members))
        if not members:
            del self._members[key]

    def _resize(self, key: Hashable, old: int, new: int) -> None:
        if new:
            self._by_size.setdefault(new, {})[key] = None
        if old:
            del self._by_size[old][key]
            if not self._by_size[old]:
                del self._by_size[old]
        self._largest = max(self._largest, new)
        if self._largest not in self._by_size:
            self._largest = new  # the key that had the most has one less now, or nobody has any
