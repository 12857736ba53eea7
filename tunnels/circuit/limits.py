"""What a relay grants to others, and which circuits have had their share (SPEC 7.7).  Floor 3: sans-IO."""

from dataclasses import dataclass

from tunnels.ids import CloseReason
from tunnels.params import CELL_SIZE


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """
    Attributes:
        max_joined_circuits: circuits of others at one time.
        max_time_inactive: seconds without a cell after which such a circuit is closed.
        max_traffic: bytes on the wire, both ways, after which it is closed.
        exits: whether datagrams leave the network here.
        exit_single_hop: whether they do on circuits where we are the only hop.
        private_addresses: whether relays at private and loopback addresses are dialled (test networks).
    """

    max_joined_circuits: int = 100
    max_time_inactive: float = 120.0
    max_traffic: int = 10 << 30
    exits: bool = False
    exit_single_hop: bool = False
    private_addresses: bool = False


def overdue(limits: RelayLimits, *, idle: float, cells: int) -> CloseReason | None:
    """Why a joined circuit has to go, None when it may stay.

    Args:
        idle: seconds since its last cell.
        cells: passed on or handled so far, both ways.
    """
    if cells * CELL_SIZE > limits.max_traffic:
        return CloseReason.MAX_TRAFFIC
    return CloseReason.MAX_TIME_INACTIVE if idle > limits.max_time_inactive else None
