"""What the community asks of whatever carries its cells (SPEC 1).  Floor 5.  Knows no IPv8 and opens nothing.

Two kinds of port have this face: our own sockets (`batched`) and adapters to the sockets of an app (`adapt`).
"""

import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, runtime_checkable

from tunnels.errors import LocalError
from tunnels.ids import Address, Drop
from tunnels.params import CELL_SIZE

Receive = Callable[[bytearray | memoryview, Address], None]
"""receive(cells, sender): n * CELL_SIZE bytes, 1 <= n <= BATCH_CELLS, all from one sender.  The memory is writable, may
be rewritten in place and is used again as soon as the call returns."""


@runtime_checkable
class CellPort(Protocol):
    """Cells in, cells out."""

    def attach(self, receive: Receive) -> None:
        """Hand every run of cells to `receive`, until `detach`.

        Raises:
            LocalError: somebody is attached already.
        """

    def detach(self) -> None:
        """Hand out no more cells.  Does nothing when nobody is attached."""

    def send_cells(self, cells: bytearray | memoryview | bytes, receiver: Address) -> None:
        """Send n * CELL_SIZE bytes, n >= 1.  The caller may reuse the memory when this returns.

        What the network refuses is counted and not raised.

        Raises:
            LocalError: not a whole number of cells.
        """


@dataclass(slots=True)
class Counters:
    """What went through a port.  Whoever shows metrics reads; only the port writes."""

    cells_in: int = 0
    cells_out: int = 0
    messages_in: int = 0
    messages_out: int = 0
    drops: Counter[Drop] = field(default_factory=Counter)
    """Datagrams, both directions."""
    errors: Counter[str] = field(default_factory=Counter)
    """What the operating system said, by name ("ECONNREFUSED")."""


def check_cells(size: int) -> None:
    """Raises LocalError unless `size` bytes are one or more whole cells."""
    if size == 0 or size % CELL_SIZE:
        raise LocalError(f"{size} bytes are not a whole number of {CELL_SIZE}-byte cells")


@lru_cache(maxsize=4096)
def family_of(host: str) -> socket.AddressFamily | None:
    """The family of a numeric address; None for every other text, which a socket would ask the resolver about.

    Not a decision for each cell: 0.1 us when the host was seen lately.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return family
    return None
