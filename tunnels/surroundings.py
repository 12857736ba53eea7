"""What a node takes from the world besides datagrams: dice, wall clock, and the outside of an exit.  Floor 5.

In production the machine's; a simulator passes its own, so that the same communities run on a virtual clock and the
same seed gives the same run.  The loop's own clock needs no entry: it is asked of the running loop.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tunnels.crypto.kem import Kem, MlKem768
from tunnels.crypto.rng import SystemRng
from tunnels.exit.dns import Resolver
from tunnels.exit.udp import OpenPort, SocketPort
from tunnels.ids import Rng


@dataclass(frozen=True, slots=True)
class Surroundings:
    """
    Attributes:
        wall: seconds since the epoch.
        open_port: where an exit's sockets come from.
        resolver: whom an exit asks for host names; None asks the name servers of the settings.
    """

    rng: Rng = field(default_factory=SystemRng, repr=False)
    kem: Kem = field(default_factory=MlKem768, repr=False)
    wall: Callable[[], float] = time.time
    open_port: OpenPort = SocketPort
    resolver: Resolver | None = None
