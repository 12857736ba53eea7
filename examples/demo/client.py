"""The client of the demo: how an application sends datagrams through circuits."""

import asyncio
import statistics
import time
from dataclasses import asdict
from typing import Final

from dnslib import RCODE, DNSError, DNSRecord
from ipv8.keyvault.crypto import default_eccrypto
from ipv8.peer import Peer
from ipv8.peerdiscovery.network import Network

from examples.demo.child import Launcher, Order, StepError, run
from examples.demo.zone import QUESTIONS, expected
from tunnels.circuit.origin import OriginCircuit
from tunnels.community import TunnelCommunity
from tunnels.endpoint.batched import BatchedEndpoint
from tunnels.errors import CircuitClosedError
from tunnels.ids import Address, CloseReason
from tunnels.settings import TunnelSettings
from tunnels.store import FileStore

ANSWER_TIME: Final = 2.0
"""Seconds after which a question or its answer is taken for lost, as datagrams may be."""

TRIES: Final = 5

PAUSE: Final = 0.25
"""Seconds between two questions over a circuit that still answers."""

LOOK: Final = 0.25
"""Seconds between looks at what we know of the network."""

PROGRESS: Final = 3.0
"""Seconds after which a person who watches is told what we are waiting for."""

PATIENCE: Final = 75.0
"""Seconds in which circuits have to be ready, also on a machine that is very busy."""


class Client:
    """Asks a DNS server through the circuits of `tunnels`."""

    def __init__(self, tunnels: TunnelCommunity, server: Address, launcher: Launcher) -> None:
        self._tunnels: Final = tunnels
        self._server: Final = server
        self._launcher: Final = launcher
        self._asked: Final[dict[int, tuple[OriginCircuit, asyncio.Future[DNSRecord]]]] = {}
        """Questions without an answer, by their DNS id."""
        self._refusal: Final[asyncio.Queue[tuple[Address, str]]] = asyncio.Queue()
        self._changed: Final = asyncio.Event()
        self._circuit: OriginCircuit | None = None
        """The one that was used last."""
        tunnels.on_data(self._on_data)
        tunnels.on_rejected(self._on_rejected)
        tunnels.on_circuit_opened(self._on_opened)
        tunnels.on_circuit_closed(self._on_closed)

    # --- what the tunnels tell us

    def _on_data(self, circuit: OriginCircuit, origin: Address, payload: bytes) -> None:
        try:
            answer = DNSRecord.parse(payload)
        except DNSError:
            return
        asked, waiting = self._asked.get(answer.header.id, (None, None))
        if waiting is not None and not waiting.done() and (asked, origin) == (circuit, self._server):
            waiting.set_result(answer)

    def _on_rejected(self, circuit: OriginCircuit, destination: Address, reason: str) -> None:
        self._refusal.put_nowait((destination, reason))

    def _on_opened(self, circuit: OriginCircuit) -> None:
        self._launcher.report("opened", path=path_of(circuit), seconds=circuit.build_time)
        self._changed.set()

    def _on_closed(self, circuit: OriginCircuit, reason: CloseReason) -> None:
        if reason is not CloseReason.SHUTDOWN:
            self._launcher.report("closed", path=path_of(circuit), reason=reason.value, culprit=circuit.culprit)
        for asked, waiting in self._asked.values():
            if asked is circuit and not waiting.done():
                waiting.set_exception(CircuitClosedError("the circuit ended", reason=reason.value))
        self._changed.set()

    # --- what the launcher orders

    async def discover(self, order: Order) -> None:
        """Learn which relays there are, and tell every step."""
        told = None
        began = time.monotonic()
        while told is None or told.trouble:
            status = self._tunnels.network_status()
            if status != told:
                self._launcher.report("network", **asdict(status))
                told = status
            if time.monotonic() - began > PATIENCE:
                raise StepError(f"no relays to build circuits over within {PATIENCE:.0f} s: {status.trouble}")
            await asyncio.sleep(LOOK)

    async def guards(self, order: Order) -> None:
        self._launcher.report("guards", relays=self._tunnels.network_status().guards)

    async def build(self, order: Order) -> None:
        hops: int = order["hops"]
        self._tunnels.build_tunnels(hops)
        await self._until_ready(hops)

    async def ask(self, order: Order) -> None:
        """Ask all questions `rounds` times over one circuit of `hops` hops, and check every answer."""
        hops: int = order["hops"]
        if self._circuit not in self._tunnels.active_data_circuits(hops):
            self._circuit = self._best(hops)
        self._launcher.report("asking", path=path_of(self._circuit))
        times: list[float] = []
        again = 0
        for number in range(order["rounds"]):
            for name, kind in QUESTIONS:
                answer, took, tries = await self._ask(hops, name, kind)
                times.append(took)
                again += tries - 1
                if number == 0:
                    self._launcher.report("answer", name=name, type=kind, text=answer, seconds=took)
        self._launcher.report("asked", questions=len(times), again=again, min=min(times),
                              median=statistics.median(times), max=max(times))  # fmt: skip

    async def trespass(self, order: Order) -> None:
        """Send where no exit sends to, and hear that it does not."""
        forbidden = (self._server[0], order["port"])
        question = DNSRecord.question(*QUESTIONS[0]).pack()
        for _ in range(TRIES):
            self._tunnels.tunnel_data(self._best(order["hops"]), forbidden, "data", question)
            try:
                destination, reason = await asyncio.wait_for(self._refusal.get(), ANSWER_TIME)
            except TimeoutError:
                continue
            self._launcher.report("refused", destination=destination, reason=reason)
            return
        raise StepError(f"no exit said that it does not send to {forbidden[0]}:{forbidden[1]}")

    async def outlast(self, order: Order) -> None:
        """Go on asking over a circuit that was broken, until that is noticed and there is another in its place."""
        circuit = self._circuit
        assert circuit is not None
        name, kind = QUESTIONS[0]
        began = time.monotonic()
        while circuit in self._tunnels.active_data_circuits():
            try:
                await self._try(circuit, DNSRecord.question(name, kind))
                await asyncio.sleep(PAUSE)
            except TimeoutError:
                self._launcher.report("silence", seconds=time.monotonic() - began)
            except CircuitClosedError:
                break
            if time.monotonic() - began > PATIENCE:
                raise StepError(f"{PATIENCE:.0f} s after a relay was killed its circuit is still taken for open")
        await self._until_ready(circuit.hops)
        self._circuit = max(self._tunnels.active_data_circuits(circuit.hops), key=lambda circuit: circuit.born)

    # --- how it is done

    def _best(self, hops: int) -> OriginCircuit:
        circuits = self._tunnels.active_data_circuits(hops)
        if not circuits:
            raise StepError(f"no circuit of {hops} hops: {self._tunnels.why_not_ready(hops)}")
        return circuits[0]

    async def _until_ready(self, hops: int) -> None:
        began = time.monotonic()
        while self._tunnels.tunnels_ready(hops) < 1.0:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), PROGRESS)
            except TimeoutError:
                reason = self._tunnels.why_not_ready(hops) or "one circuit is ready, the other is not"
                if time.monotonic() - began > PATIENCE:
                    raise StepError(f"no circuits of {hops} hops within {PATIENCE:.0f} s: {reason}") from None
                self._launcher.report("waiting", reason=reason)

    async def _ask(self, hops: int, name: str, kind: str) -> tuple[str, float, int]:
        """
        Returns:
            The answer as text, the seconds it took, and how often the question was asked.

        Raises:
            StepError: no answer, or a wrong one.
        """
        question = DNSRecord.question(name, kind)
        for tries in range(1, TRIES + 1):
            began = time.monotonic()
            try:
                assert self._circuit is not None
                answer = await self._try(self._circuit, question)
            except TimeoutError:
                continue
            except CircuitClosedError:
                await self._until_ready(hops)
                self._circuit = self._best(hops)
                continue
            return checked(answer, name, kind), time.monotonic() - began, tries
        raise StepError(f"{name} {kind}: no answer, asked {TRIES} times")

    async def _try(self, circuit: OriginCircuit, question: DNSRecord) -> DNSRecord:
        """
        Raises:
            TimeoutError: no answer in ANSWER_TIME.
            CircuitClosedError: the circuit ended.
        """
        waiting: asyncio.Future[DNSRecord] = asyncio.get_running_loop().create_future()
        self._asked[question.header.id] = circuit, waiting
        try:
            self._tunnels.tunnel_data(circuit, self._server, "data", question.pack())
            return await asyncio.wait_for(waiting, ANSWER_TIME)
        finally:
            del self._asked[question.header.id]


def path_of(circuit: OriginCircuit) -> list[str]:
    return [relay.relay_id.hex() for relay in circuit.path]


def checked(answer: DNSRecord, name: str, kind: str) -> str:
    """The data of `answer` as text.

    Raises:
        StepError: it is not what the zone says.
    """
    found, right = [str(record.rdata) for record in answer.rr], expected(name, kind)
    if found != right or answer.header.rcode != (RCODE.NOERROR if right else RCODE.NXDOMAIN):
        raise StepError(f"{name} {kind}: the answer is {found}, the zone says {right}")
    return ", ".join(found) or "no such name"


async def main(launcher: Launcher) -> None:
    start = await launcher.order()
    endpoint = BatchedEndpoint((start["host"], 0))
    await endpoint.open()
    tunnels = TunnelCommunity(
        TunnelSettings(
            my_peer=Peer(default_eccrypto.generate_key("curve25519")),
            endpoint=endpoint,
            network=Network(),
            bootstrap=[tuple(start["bootstrap"])],
            store=FileStore(start["state"]),  # where the guards are kept
            min_relay_age=0.0,  # these relays are seconds old; elsewhere nobody should trust such
            private_addresses=True,  # and on this machine
        )
    )
    client = Client(tunnels, (start["server"][0], start["server"][1]), launcher)
    steps: Final = {
        "discover": client.discover,
        "guards": client.guards,
        "build": client.build,
        "ask": client.ask,
        "trespass": client.trespass,
        "outlast": client.outlast,
    }
    try:
        launcher.report("ready", address=endpoint.addresses[0])
        async for order in launcher.orders():
            await steps[order["kind"]](order)
            launcher.report("done")
    finally:
        await tunnels.unload()
        endpoint.close()


if __name__ == "__main__":
    run(main)
