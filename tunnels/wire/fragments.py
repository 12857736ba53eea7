"""Messages in payloads: whole, or cut into fragments and put together again (SPEC 8.1, 8.2).

    payload, 1211 bytes
    +-------------+----------+----------------------------------------------------+--------+
    | type 1      | length 2 | content, at most 1208                              | random |
    +-------------+----------+--------------+---------+---------+-----------------+--------+
    | type + 0x80 | length 2 | message id 2 | index 1 | count 1 | part, max. 1204 | random |
    +-------------+----------+--------------+---------+---------+-----------------+--------+

Floor 1 (wire): bytes in, values out; time is an argument.  Knows of the messages only which type may be large.

A duplicate that the network made never gets here, because the replay window (SPEC 2.4) has dropped it.  A fragment that
comes twice is one of a repeated message, and a message that comes twice as a whole is handed out twice: the answer to
the first may have been lost (SPEC 7.2).
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import Final, NamedTuple

from tunnels.errors import LocalError, RemoteError
from tunnels.params import (
    CIRCUIT_REASSEMBLY,
    CIRCUIT_UNFINISHED,
    FRAGMENT_HEAD_SIZE,
    MAX_CONTROL_SIZE,
    MAX_DATAGRAM_SIZE,
    MAX_FRAGMENTS,
    MAX_PAGE_SIZE,
    MESSAGE_HEAD_SIZE,
    NODE_REASSEMBLY,
    PART_SIZE,
    PAYLOAD_SIZE,
    REASSEMBLY_TIMEOUT,
    WHOLE_SIZE,
)
from tunnels.wire.directory_messages import DirectoryType
from tunnels.wire.messages import MAX_TYPE, MessageType

_HEAD: Final = Struct(">BH")
_FRAGMENT_HEAD: Final = Struct(">BHHBB")
_FRAGMENT: Final = 0x80
_LARGE: Final[Mapping[int, int]] = {MessageType.DATAGRAM: MAX_DATAGRAM_SIZE, DirectoryType.DESCRIPTORS: MAX_PAGE_SIZE}
_MIN_FRAGMENTS: Final = 2
_MAX_MESSAGE_ID: Final = 0xFFFF


def max_content(message_type: int) -> int:
    """Bytes a message of this type may have (SPEC 8.2)."""
    return _LARGE.get(message_type, MAX_CONTROL_SIZE)


def split(message_type: int, content: bytes, message_id: int) -> list[bytes]:
    """The used part of each payload this message takes; whoever builds the cell adds the random rest.

    Args:
        message_id: 0 to 65535, unlike that of any other message this end of the circuit sent lately; the same when a
            message is repeated.  Not used when the content fits one payload (`len(content) <= WHOLE_SIZE`).

    Raises:
        LocalError: no such type, content too long, no such message id.
    """
    size = len(content)
    if not 1 <= message_type <= MAX_TYPE:
        raise LocalError(f"a message type is 1 to {MAX_TYPE}, not {message_type}")
    if size > max_content(message_type):
        raise LocalError(f"a message of type {message_type} has at most {max_content(message_type)} bytes, not {size}")
    if size <= WHOLE_SIZE:
        return [_HEAD.pack(message_type, size) + content]
    if not 0 <= message_id <= _MAX_MESSAGE_ID:
        raise LocalError("a message id has 16 bits")
    parts = [content[at : at + PART_SIZE] for at in range(0, size, PART_SIZE)]
    return [
        _FRAGMENT_HEAD.pack(
            message_type | _FRAGMENT, FRAGMENT_HEAD_SIZE + len(part), message_id, index, len(parts)
        ) + part
        for index, part in enumerate(parts)
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Whole:
    """A message that needed one payload."""

    type: int
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Fragment:
    """One part of a message.

    INVARIANT: 2 <= count <= MAX_FRAGMENTS, index < count, a `part` that is not the last is full, and `count` of them
    are within max_content.  Only parse_payload makes them.
    """

    type: int
    message_id: int
    index: int
    count: int
    part: bytes = field(repr=False)


def parse_payload(payload: bytes | bytearray | memoryview) -> Whole | Fragment:
    """What stands in a payload.  Copies: the payload's buffer is free afterwards.

    Raises:
        RemoteError: wrong size, or a length, index, count or part that SPEC 8.2 does not have.  Never anything else.
    """
    if len(payload) != PAYLOAD_SIZE:
        raise RemoteError(f"a payload is {PAYLOAD_SIZE} bytes, not {len(payload)}")
    message_type, length = _HEAD.unpack_from(payload)
    if length > WHOLE_SIZE:
        raise RemoteError(f"length {length} is beyond the payload")
    if not message_type & _FRAGMENT:
        return Whole(message_type, bytes(payload[MESSAGE_HEAD_SIZE : MESSAGE_HEAD_SIZE + length]))
    if length < FRAGMENT_HEAD_SIZE:
        raise RemoteError(f"length {length} is too short for a fragment")
    message_type, _, message_id, index, count = _FRAGMENT_HEAD.unpack_from(payload)
    message_type &= ~_FRAGMENT
    if not _MIN_FRAGMENTS <= count <= MAX_FRAGMENTS or index >= count:
        raise RemoteError(f"fragment {index} of {count}")
    part = bytes(payload[_FRAGMENT_HEAD.size : MESSAGE_HEAD_SIZE + length])
    last = index == count - 1
    if not last and len(part) != PART_SIZE:
        raise RemoteError(f"a fragment of {len(part)} bytes that is not the last")
    # The last fragment tells the exact size, any other a lower bound.
    if (count - 1) * PART_SIZE + (len(part) if last else 0) > max_content(message_type):
        raise RemoteError(f"{count} fragments are more than a message of type {message_type} may have")
    return Fragment(message_type, message_id, index, count, part)


class Joined(NamedTuple):
    """A message all of whose fragments came."""

    type: int
    content: bytes
    all_early: bool
    """Whether every fragment that is in it came in an EARLY cell (SPEC 7.4)."""


class _Unfinished:
    """A message some of whose fragments came."""

    __slots__ = ("all_early", "count", "key", "newest", "owner", "parts", "size", "type")

    def __init__(self, owner: "Reassembler", key: tuple[int, int], fragment: Fragment) -> None:
        self.owner = owner
        self.key = key
        self.type = fragment.type
        self.count = fragment.count
        self.parts: dict[int, bytes] = {}
        self.size = 0
        self.all_early = True
        self.newest = 0.0

    def stale(self, now: float) -> bool:
        return now >= self.newest + REASSEMBLY_TIMEOUT


class NodeBudget:
    """The bytes all circuits of a node hold in unfinished messages; shared by their Reassemblers.

    A fragment that finds the node full first pushes out its own circuit's oldest (SPEC 8.2).  A circuit that has
    nothing to push out pushes out the node's oldest: else a hundred hostile circuits that sit on their fragments keep
    every honest EXTEND out.  To hurt one they have to fill the whole bound between its two cells.
    """

    __slots__ = ("_messages", "forgotten", "held", "limit")

    def __init__(self, limit: int = NODE_REASSEMBLY) -> None:
        self.limit = limit
        self.held = 0
        """Bytes in unfinished messages."""
        self.forgotten = 0
        """Messages that were given up unfinished, for whatever reason."""
        # INVARIANT: ordered by the time of the newest fragment, here and in each Reassembler.
        self._messages: OrderedDict[_Unfinished, None] = OrderedDict()

    def next_expiry(self) -> float | None:
        """When `expire` has something to do; None while nothing is unfinished."""
        return next((message.newest + REASSEMBLY_TIMEOUT for message in self._messages), None)

    def expire(self, now: float) -> None:
        """Forget, on all circuits, what got no fragment for REASSEMBLY_TIMEOUT.  Costs nothing while there is none."""
        while (oldest := self.oldest()) and oldest.stale(now):
            oldest.owner.forget(oldest)

    def oldest(self, but: _Unfinished | None = None) -> _Unfinished | None:
        return next((message for message in self._messages if message is not but), None)

    def charge(self, message: _Unfinished, size: int) -> None:
        """`message` has grown by `size`, just now."""
        self.held += size
        self._messages[message] = None
        self._messages.move_to_end(message)

    def give_back(self, message: _Unfinished) -> None:
        self.held -= message.size
        del self._messages[message]


class Reassembler:
    """Puts the messages of one circuit together again, within the bounds of SPEC 8.2."""

    __slots__ = ("_budget", "_messages", "held")

    def __init__(self, budget: NodeBudget) -> None:
        self._budget = budget
        self.held = 0
        """Bytes in unfinished messages of this circuit."""
        self._messages: OrderedDict[tuple[int, int], _Unfinished] = OrderedDict()

    @property
    def unfinished(self) -> int:
        """Messages some of whose fragments came."""
        return len(self._messages)

    def add(self, fragment: Fragment, *, early: bool, now: float, source: int = 0) -> Joined | None:
        """Take a fragment; the message, when this was the last missing one.

        Args:
            fragment: from parse_payload.
            early: whether the cell it came in was EARLY.
            now: seconds, never less than at the call before, on any circuit of the budget.
            source: which hop wrote it.  Each numbers its own messages, and must not mix its bytes into another's.
        """
        self._budget.expire(now)
        key = source, fragment.message_id
        message = self._messages.get(key)
        if message and (message.type, message.count) != (fragment.type, fragment.count):
            self.forget(message)
            message = None
        if message is None:
            message = _Unfinished(self, key, fragment)
        elif fragment.index in message.parts:
            return None
        elif len(message.parts) + 1 == message.count:
            self._remove(message)
            parts = message.parts | {fragment.index: fragment.part}
            content = b"".join(parts[index] for index in range(message.count))
            return Joined(message.type, content, message.all_early and early)
        if self._make_room(message, len(fragment.part)):
            self._keep(message, fragment, early=early, now=now)
        return None

    def expire(self, now: float) -> None:
        """Forget what got no fragment for REASSEMBLY_TIMEOUT.  For all circuits at once: NodeBudget.expire."""
        while (oldest := self._oldest()) and oldest.stale(now):
            self.forget(oldest)

    def close(self) -> None:
        """Forget everything and give it back to the budget."""
        while oldest := self._oldest():
            self.forget(oldest)

    def forget(self, message: _Unfinished) -> None:
        """Give `message` up; for the budget, which does not know the circuit's own books."""
        self._remove(message)
        self._budget.forgotten += 1

    def _oldest(self, but: _Unfinished | None = None) -> _Unfinished | None:
        return next((message for message in self._messages.values() if message is not but), None)

    def _make_room(self, message: _Unfinished, size: int) -> bool:
        """Push out until `size` more bytes of `message` fit.  False: they never will, and `message` is forgotten."""
        new = message.key not in self._messages
        while True:
            circuit_full = (new and len(self._messages) >= CIRCUIT_UNFINISHED) or self.held + size > CIRCUIT_REASSEMBLY
            node_full = self._budget.held + size > self._budget.limit
            if not circuit_full and not node_full:
                return True
            victim = self._oldest(message) or self._budget.oldest(message)
            if victim is None:
                if not new:
                    self.forget(message)
                return False
            victim.owner.forget(victim)

    def _keep(self, message: _Unfinished, fragment: Fragment, *, early: bool, now: float) -> None:
        size = len(fragment.part)
        message.parts[fragment.index] = fragment.part
        message.size += size
        message.all_early &= early
        message.newest = now
        self.held += size
        self._messages[message.key] = message
        self._messages.move_to_end(message.key)
        self._budget.charge(message, size)

    def _remove(self, message: _Unfinished) -> None:
        del self._messages[message.key]
        self.held -= message.size
        self._budget.give_back(message)
