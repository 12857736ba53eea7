"""What a mux tells whoever owns it (SPEC 13).  Floor 3: values only."""

from dataclasses import dataclass, field

from tunnels.wire.destination import Destination
from tunnels.wire.stream_frames import FarEnd, OpenFlags, Status


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The far end wants a stream to `destination`: `Mux.accept` or `Mux.refuse` it.  Data may be there already."""

    stream_id: int
    destination: Destination | FarEnd
    flags: OpenFlags


@dataclass(frozen=True, slots=True)
class StreamAnswered:
    """What became of a stream we opened.  Unless `status` is OK it is over."""

    stream_id: int
    status: Status
    address: Destination | None


@dataclass(frozen=True, slots=True)
class DataReadable:
    """There is something to read, or the end was reached.  Said again only after a read that left nothing."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class WriteReady:
    """There is room again, after a write that took less than it was given."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The far end gave up its half; what was not read is lost."""

    stream_id: int
    status: Status


@dataclass(frozen=True, slots=True)
class StreamStopped:
    """The far end reads no more: our half was reset, and writing is over."""

    stream_id: int
    status: Status


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """Both halves are over, and the id is forgotten."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class ResolveAsked:
    """The far end wants the addresses of a name, or the names of an address: `Mux.answer` it."""

    query: int
    host: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ResolveAnswered:
    """`ttl` in seconds."""

    query: int
    status: Status
    ttl: int
    hosts: tuple[str, ...] = field(repr=False)


Event = (
    StreamOpened
    | StreamAnswered
    | DataReadable
    | WriteReady
    | StreamReset
    | StreamStopped
    | StreamFinished
    | ResolveAsked
    | ResolveAnswered
)
