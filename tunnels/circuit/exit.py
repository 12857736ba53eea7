"""Datagrams at the last hop: out into the world, and back (SPEC 8.5).  Floor 3: sans-IO; sockets are exit/udp's.

What may be sent where is the exit policy's decision, on the resolved address; what is decided here needs no address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tunnels.circuit.core import ExitDatagram, Role
from tunnels.ids import Drop
from tunnels.wire.messages import Datagram, Rejected, RejectReason

if TYPE_CHECKING:
    from tunnels.circuit.relay import RelayCircuit
    from tunnels.wire.destination import Destination


def on_datagram(circuit: RelayCircuit, message: Datagram, _early: bool, now: float) -> None:  # noqa: FBT001
    limits = circuit.core.limits
    if not limits.exits or (circuit.only_hop and not limits.exit_single_hop):
        circuit.core.drops[Drop.REFUSED] += 1
        reject(circuit, RejectReason.NOT_AN_EXIT, message.destination, now)
    else:
        circuit.core.events.append(ExitDatagram(circuit, message.destination, message.data))


def reject(circuit: RelayCircuit, reason: RejectReason, destination: Destination, now: float) -> None:
    """Say why nothing was sent, at most once in REJECTED_INTERVAL: refusals must not be an amplifier."""
    if circuit.may_reject(now):
        circuit.send(Rejected(reason, destination), now)


ROLE: Final = Role("exit", relay={Datagram: on_datagram})
