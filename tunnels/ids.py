"""Names for things: ids, addresses, reasons.  Floor 0: imports nothing of ours."""

from enum import Enum
from typing import NewType, Protocol

CircuitId = NewType("CircuitId", int)
"""Names one direction of a circuit on one link; chosen by the receiver of the cells, never 0 (SPEC 2.2)."""

Index = NewType("Index", int)
"""Names a session at its receiver; first byte never 0x00 (SPEC 2.1)."""

RelayId = NewType("RelayId", bytes)
"""SHA-256 of a relay's IPv8 public key, 32 bytes (SPEC 5.1)."""

Address = tuple[str, int]
"""Numeric IPv4 or IPv6 address in canonical text, and UDP port."""


class Rng(Protocol):
    """Where every random byte comes from: `SystemRng` in production, a seeded one in the simulator."""

    def bytes(self, size: int) -> bytes:
        """`size` random bytes."""

    def below(self, limit: int) -> int:
        """Uniform in [0, limit), limit > 0."""


class CloseReason(Enum):
    """Why a circuit or link ended.  Local logs and metrics only: the wire carries none (SPEC 7.5)."""

    REQUESTED = "requested"
    SHUTDOWN = "shutdown"
    TIMEOUT = "timeout"
    NO_ANSWER = "no answer"
    DESTROYED = "destroyed"
    TRUNCATED = "truncated"
    LINK_FAILED = "link failed"
    BAD_HANDSHAKE = "bad handshake"
    PROTOCOL = "protocol violation"
    REFUSED = "refused"
    MAX_TIME = "max_time"
    MAX_TIME_INACTIVE = "max_time_inactive"
    MAX_TRAFFIC = "max_traffic"
    MAX_JOINED_CIRCUITS = "max_joined_circuits"
    COUNTER_USED_UP = "counter used up"


class Drop(Enum):
    """Why a datagram, cell or message was dropped.  Counted, never logged one by one."""

    WRONG_SIZE = "wrong size"
    UNKNOWN_INDEX = "unknown index"
    BAD_HEADER = "bad header"
    BAD_MAC1 = "bad mac1"
    BAD_COOKIE = "bad cookie"
    BAD_HANDSHAKE = "bad handshake"
    STALE_TIMESTAMP = "stale timestamp"
    QUEUE_FULL = "queue full"
    REPLAYED = "replayed"
    BAD_TAG = "bad tag"
    BAD_COUNTER = "bad counter"
    UNKNOWN_COMMAND = "unknown command"
    UNKNOWN_CIRCUIT = "unknown circuit"
    UNKNOWN_MESSAGE = "unknown message"
    MALFORMED = "malformed"
    UNEXPECTED = "unexpected"
    NOT_EARLY = "not early"
    TOO_MANY_EARLY = "too many early"
    REFUSED = "refused"
    LIMIT = "limit"
    REASSEMBLY = "reassembly"
    EXIT_POLICY = "exit policy"
    NO_SUCH_HOST = "no such host"
    UNSOLICITED = "unsolicited"
    NO_SOCKET = "no socket for that address"
    NO_RECEIVER = "no receiver"
    SEND_FAILED = "send failed"
    WAITED_TOO_LONG = "waited too long"
