"""Joins the circuits that end here to the sockets of the exit (SPEC 8.5).  Floor 5.  Decides nothing: the engine says
what is to leave, the exit policy whether it may.
"""

from collections.abc import Hashable
from typing import Final

from tunnels.circuit import exit as circuit_exit
from tunnels.circuit.core import ExitDatagram, RelayCircuitClosed
from tunnels.circuit.relay import RelayCircuit
from tunnels.driver import Driver
from tunnels.exit.dns import DnsQuery, DnsResolver, system_nameservers
from tunnels.exit.policy import IPAddress
from tunnels.exit.udp import UdpExit
from tunnels.ids import Address
from tunnels.settings import Settings
from tunnels.wire.destination import Destination
from tunnels.wire.messages import Datagram, RejectReason


class ExitGateway:
    """
    Args:
        driver: of the engine whose circuits end here.
    """

    def __init__(self, driver: Driver, settings: Settings) -> None:
        self._driver: Final = driver
        self._own_hosts: Final = frozenset(host for host, _ in settings.relay_addresses)
        self._resolver: Final = DnsResolver(DnsQuery(settings.nameservers or system_nameservers()))
        self.udp: Final = UdpExit(
            policy=settings.exit_policy,
            resolver=settings.surroundings.resolver or self._resolver,
            refused=self._is_known,
            private=settings.exit_private,
            on_datagram=self._from_outside,
            on_rejected=self._refused,
            open_port=settings.surroundings.open_port,
        )

    def on_exit_datagram(self, event: ExitDatagram) -> None:
        self.udp.send(event.circuit, event.destination.host, event.destination.port, event.data)

    def on_relay_circuit_closed(self, event: RelayCircuitClosed) -> None:
        self.udp.close(event.circuit)

    async def aclose(self) -> None:
        """Close the sockets, for good."""
        await self.udp.aclose()
        await self._resolver.aclose()

    def _is_known(self, address: IPAddress) -> bool:
        """Whether `address` is ours or a known relay's: an exit does not connect to the network it is part of."""
        host = str(address)
        return host in self._own_hosts or self._driver.engine.core.directory.has_host(host)

    def _from_outside(self, circuit: Hashable, origin: Address, data: bytes) -> None:
        assert isinstance(circuit, RelayCircuit)
        self._driver.engine.send_backward(circuit, Datagram(Destination(*origin), data), self._driver.now())
        self._driver.wake()

    def _refused(self, circuit: Hashable, host: str, port: int, reason: RejectReason) -> None:
        assert isinstance(circuit, RelayCircuit)
        if not circuit.closed:
            circuit_exit.reject(circuit, reason, Destination(host, port), self._driver.now())
            self._driver.wake()
