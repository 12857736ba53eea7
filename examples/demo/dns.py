"""The DNS server that the demo asks: outside of the tunnels, it knows nothing of them."""

import asyncio
from collections import Counter
from typing import Final, cast

from dnslib import DNSError, DNSRecord
from dnslib.zoneresolver import ZoneResolver

from examples.demo.child import Launcher, run
from examples.demo.zone import ZONE


class Server(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self._resolver: Final = ZoneResolver(ZONE)
        self._transport: asyncio.DatagramTransport | None = None
        self.asked_from: Final[Counter[str]] = Counter()
        """Questions, by the address they came from."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        try:
            question = DNSRecord.parse(data)
        except DNSError:
            return
        self.asked_from[sender[0]] += 1
        assert self._transport is not None
        self._transport.sendto(self._resolver.resolve(question, None).pack(), sender)


async def main(launcher: Launcher) -> None:
    start = await launcher.order()
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(Server, (start["host"], 0))
    try:
        launcher.report("ready", address=transport.get_extra_info("sockname"))
        async for _ in launcher.orders():
            launcher.report("account", asked_from=server.asked_from)
    finally:
        transport.close()


if __name__ == "__main__":
    run(main)
