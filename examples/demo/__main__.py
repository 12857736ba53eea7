"""Starts the network, lets the client use it, breaks a part of it, restarts the client, and tells what happens.

    python -m examples.demo

Exit code 0 when every step worked, 1 with a reason when one did not, 128 plus its number after a signal.
"""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from examples.demo.processes import Child, Crew, DemoError, Report
from examples.demo.screen import BOLD, DIM, GREEN, RED, YELLOW, Screen
from examples.demo.zone import DOMAIN
from tunnels.community import short_name

RELAYS: Final = {f"relay{number}": f"127.{number}.0.1" for number in range(1, 9)}
"""Name -> address.  Each has a network of its own, because no two hops of a circuit may share one."""

EXITS: Final = ("relay7", "relay8")

CLIENT: Final = "127.99.0.1"

DNS: Final = "127.53.0.1"

FORBIDDEN_PORT: Final = 22
"""Where no exit of the demo sends to."""

LIMIT: Final = 115.0
"""Seconds for everything."""

LOOK: Final = 0.5
"""Seconds between questions to the relays about whom they know."""

PLACES: Final = {1: ("only hop",), 3: ("guard", "middle", "exit")}
"""What a relay is called by its place on a circuit."""

Path = list[str]
"""Names of relays, first hop first."""


class Demo:
    """
    Args:
        state: a directory for what the client has to remember over a restart.
    """

    def __init__(self, crew: Crew, screen: Screen, state: str) -> None:
        self._crew: Final = crew
        self._screen: Final = screen
        self._state: Final = state
        self._children: Final[dict[str, Child]] = {}
        self._names: Final[dict[str, str]] = {}
        """Relay id, whole or short -> name."""
        self._roles: Final[defaultdict[str, dict[str, None]]] = defaultdict(dict)
        self._path: Path = []
        """Of the circuit that was used last."""
        self._addresses: Final[dict[str, list[Any]]] = {}
        """Of all that can be reached, by name."""
        self._server: list[Any] = []
        self._lost: Final[list[str]] = []
        """Relays that were killed."""
        self._killed_at: float | None = None
        self._answered = 0
        self._show: Final[Mapping[str, Callable[[Report], None]]] = {
            "relay": self._show_relay,
            "warning": self._show_warning,
            "network": self._show_network,
            "waiting": self._show_waiting,
            "opened": self._show_opened,
            "closed": self._show_closed,
            "asking": self._show_asking,
            "answer": self._show_answer,
            "asked": self._show_asked,
            "refused": self._show_refused,
            "silence": self._show_silence,
        }

    async def run(self) -> None:
        await self._start()
        await self._meet()
        self._screen.heading("The client asks some of them, over circuits, which relays there are")
        await self._start_client("relay1")
        for hops in (1, 3):
            self._screen.heading(f"The client builds circuits of {hops} {'hop' if hops == 1 else 'hops'}")
            await self._client("build", hops=hops)
        for hops, rounds in ((1, 2), (3, 20)):
            self._screen.heading(f"It asks the DNS server through {hops} {'hop' if hops == 1 else 'hops'}")
            await self._client("ask", hops=hops, rounds=rounds)
        self._screen.heading("It tries another port of that machine")
        await self._client("trespass", hops=3, port=FORBIDDEN_PORT)
        await self._account()
        await self._break()
        await self._restart()
        await self._account()

    # --- the steps

    async def _start(self) -> None:
        self._screen.heading("Ten processes start, each with an address of its own on this machine")
        self._children["dns"] = await self._crew.start("dns", "examples.demo.dns", host=DNS)
        [ready] = await self._hear("ready")
        server = ready["address"]
        self._say("dns", f"{_joined(server):<18}  answers for {DOMAIN}, knows nothing of relays")
        self._server = server
        # A rule for one address would do for the exit, but others learn only of ports that are open nearly everywhere.
        policy = f"accept *:{server[1]}, reject *:*"
        for name, host in RELAYS.items():
            # The first relay is where all others begin; it is told nothing, and told to nobody else.
            bootstrap = [self._addresses["relay1"]] if name != "relay1" else []
            exit_policy = policy if name in EXITS else None
            self._children[name] = await self._crew.start(name, "examples.demo.relay", host=host, bootstrap=bootstrap,
                                                          exit_policy=exit_policy)  # fmt: skip
            if not bootstrap:
                await self._hear("relay")
        await self._hear("relay", times=len(RELAYS) - 1)

    async def _meet(self) -> None:
        """Watch the relays find each other."""
        self._screen.heading(f"They find each other from one address, {_joined(self._addresses['relay1'])}")
        told: dict[str, int] = {}
        while set(told.values()) != {len(RELAYS) - 1}:
            reports = await self._ask("whom", "knows", list(RELAYS))
            known = {name: int(report["relays"]) for name, report in reports.items()}
            if known != told:
                counts = " ".join(f"{known[name]}" for name in RELAYS)
                self._say("relays", f"{counts}   others known to relay1 ... relay8")
            else:
                await asyncio.sleep(LOOK)
            told = known

    async def _start_client(self, bootstrap: str) -> None:
        self._children["client"] = await self._crew.start(
            "client", "examples.demo.client", host=CLIENT, server=self._server, state=self._state,
            bootstrap=self._addresses[bootstrap],
        )  # fmt: skip
        [ready] = await self._hear("ready")
        self._say("client", f"{_joined(ready['address']):<18}  is told the address of {bootstrap}, and nothing else")
        await self._client("discover")

    async def _ask(self, order: str, answer: str, names: Sequence[str]) -> dict[str, Report]:
        """What each of these processes answers."""
        for name in names:
            self._children[name].tell(order)
        return {report.child.name: report for report in await self._hear(answer, times=len(names))}

    async def _client(self, step: str, **facts: object) -> None:
        self._children["client"].tell(step, **facts)
        await self._hear("done")

    async def _hear(self, kind: str, times: int = 1) -> list[Report]:
        """Wait for so many reports of a kind, and show what else is said meanwhile."""
        heard: list[Report] = []
        while len(heard) < times:
            report = await self._crew.report()
            if report.kind == kind:
                heard.append(report)
            if report.kind in self._show:
                self._show[report.kind](report)
        return heard

    async def _account(self) -> None:
        self._screen.heading("What each node saw")
        asked = [name for name in ("dns", *RELAYS) if not self._children[name].may_end]
        accounts = await self._ask("account", "account", asked)
        self._say("", f"{'circuits':>8} {'cells':>7}   role", DIM)
        for name in RELAYS:
            roles = ", ".join(self._roles[name]) or "not used"
            if name in accounts:
                self._say(name, f"{accounts[name]['circuits']:>8} {accounts[name]['cells']:>7}   {roles}")
            else:
                self._say(name, f"{'-':>8} {'-':>7}   killed", DIM)
        sources = accounts["dns"]["asked_from"]
        self._say("dns", f"{sum(sources.values())} questions from {', '.join(sources)}, none from the client, {CLIENT}")
        if CLIENT in sources:
            raise DemoError(f"the DNS server was asked by the client itself, {CLIENT}")

    async def _break(self) -> None:
        """Kill the relays of the circuit in use; one exit is spared."""
        self._screen.heading("Three relays die at once")
        self._lost.extend(self._path)
        if set(EXITS) <= set(self._lost):
            self._lost[self._lost.index(EXITS[0])] = next(name for name in RELAYS if name not in self._path)
        for name in self._lost:
            self._children[name].kill()
        self._killed_at = self._screen.seconds
        self._say("demo", f"kill -9 {', '.join(self._lost)}; in use was {' > '.join(self._path)}", YELLOW)
        await self._client("outlast")
        self._screen.heading("The client asks again")
        await self._client("ask", hops=3, rounds=5)
        if set(self._lost) & set(self._path):
            raise DemoError(f"the new circuit goes over {' > '.join(self._path)}, of which some are gone")

    async def _restart(self) -> None:
        """Start the client anew: it has to come back to the guards it had."""
        self._screen.heading("The client is killed and starts again")
        before = await self._guards()
        self._say("client", f"guards before: {self._named(before)}")
        client = self._children["client"]
        client.kill()
        await client.process.wait()
        self._killed_at = None
        self._say("demo", "kill -9 client", YELLOW)
        await self._start_client(next(name for name in RELAYS if name not in self._lost))
        after = await self._guards()
        self._say("client", f"guards now:    {self._named(after)}", GREEN)
        if after != before:
            raise DemoError("the client came back with other guards")
        self._screen.heading("It builds circuits again, and asks")
        await self._client("build", hops=3)
        await self._client("ask", hops=3, rounds=5)
        if self._path[0] not in before:
            raise DemoError(f"the client began its circuit with {self._path[0]}, which is no guard of it")

    async def _guards(self) -> Path:
        self._children["client"].tell("guards")
        [guards] = await self._hear("guards")
        await self._hear("done")
        return [self._names[short] for short in guards["relays"]]

    # --- what the client says, for people

    def _show_relay(self, report: Report) -> None:
        name, info = report.child.name, report["info"]
        self._names[info["relay_id"]] = self._names[short_name(bytes.fromhex(info["relay_id"]))] = name
        self._addresses[name] = info["addresses"][0]
        role = f"relay, and exit: {info['exit_policy']}" if name in EXITS else "relay"
        self._say(name, f"{_joined(info['addresses'][0]):<18}  {role}")

    def _show_warning(self, report: Report) -> None:
        self._say(report.child.name, f"warning: {report['text']}", YELLOW)

    def _show_network(self, report: Report) -> None:
        sources = [self._names[short] for short in report["sources"]]
        for name in sources:
            self._roles[name]["directory"] = None
        shown = f", shown by {', '.join(sources)}" if sources else ""
        state = report["trouble"] or "enough to build circuits"
        self._say("client", f"{report['relays_known']} relays known{shown}; {state}")

    def _show_waiting(self, report: Report) -> None:
        self._say("client", f"waits: {report['reason']}{self._since()}", DIM)

    def _show_opened(self, report: Report) -> None:
        path = self._path_of(report)
        for name, place in zip(path, PLACES[len(path)], strict=True):
            self._roles[name][place] = None
        hops = " > ".join(f"{name} {RELAYS[name]}" for name in path)
        length = "1 hop: not anonymous" if len(path) == 1 else f"{len(path)} hops"
        self._say("client", f"open, {length}   {hops}   built in {_ms(report['seconds'])}{self._since()}")

    def _show_closed(self, report: Report) -> None:
        path, culprit = self._path_of(report), report["culprit"]
        fault = f"   {path[culprit]} does not answer" if culprit is not None else ""
        self._say("client", f"closed, {report['reason']}   {' > '.join(path)}{fault}{self._since()}", YELLOW)

    def _show_asking(self, report: Report) -> None:
        self._path = self._path_of(report)
        self._say("client", f"over client > {' > '.join(self._path)} > dns")

    def _show_answer(self, report: Report) -> None:
        text = report["text"]
        if len(text) > 40:
            text = f"{len(text)} characters, in several cells"
        self._say("", f"{report['name']:<20} {report['type']:<5} {text:<40} {_ms(report['seconds']):>9}")

    def _show_asked(self, report: Report) -> None:
        self._answered += report["questions"]
        self._say("client", f"{report['questions']} questions, {report['questions']} right answers, "
                            f"{report['again']} asked again; round trip min {_ms(report['min'])}, "
                            f"median {_ms(report['median'])}, max {_ms(report['max'])}", GREEN)  # fmt: skip

    def _show_refused(self, report: Report) -> None:
        self._say("client", f"{_joined(report['destination'])} is refused by the exit: {report['reason']}", GREEN)

    def _show_silence(self, report: Report) -> None:
        self._say("client", f"no answer over the broken circuit for {report['seconds']:.0f} s", DIM)

    # --- words

    def _named(self, relays: Path) -> str:
        return ", ".join(f"{name} (killed)" if name in self._lost else name for name in relays)

    def _path_of(self, report: Report) -> Path:
        return [self._names[relay_id] for relay_id in report["path"]]

    def _since(self) -> str:
        return "" if self._killed_at is None else f", {self._screen.seconds - self._killed_at:.1f} s after the kill"

    def _say(self, who: str, text: str, style: str = "") -> None:
        self._screen.line(who, text, style)

    @property
    def summary(self) -> str:
        return (f"All well in {self._screen.seconds:.0f} s: {self._answered} DNS questions answered, "
                f"{len(self._lost)} relays lost and replaced, guards kept, nothing left running.")  # fmt: skip


def _joined(address: list[Any]) -> str:
    return f"{address[0]}:{address[1]}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def check_addresses() -> None:
    """
    Raises:
        DemoError: this machine does not have all of 127.0.0.0/8; the text says what to do.
    """
    for host in (DNS, CLIENT, *RELAYS.values()):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((host, 0))
            except OSError as error:
                raise DemoError(
                    f"cannot use the address {host}: {error.strerror}.  Linux has all of 127.0.0.0/8; on macOS: "
                    f"for n in 1 2 3 4 5 6 7 8 53 99; do sudo ifconfig lo0 alias 127.$n.0.1; done"
                ) from error


async def main() -> int:
    """The exit code."""
    screen = Screen()
    print("tropea: 8 relays (2 of them exits), a client and a DNS server.  Nothing leaves this machine.", flush=True)
    loop = asyncio.get_running_loop()
    caught: list[signal.Signals] = []

    async def story() -> str:
        check_addresses()
        with tempfile.TemporaryDirectory(prefix="tropea-demo-") as state:
            async with asyncio.timeout(LIMIT), Crew() as crew:
                demo = Demo(crew, screen, state)
                await demo.run()
        return demo.summary

    def stop(number: signal.Signals) -> None:
        caught.append(number)
        if len(caught) == 1:  # a second Ctrl-C must not interrupt the tidying up after the first
            telling.cancel()

    telling = asyncio.ensure_future(story())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        screen.end(await telling, f"{BOLD};{GREEN}")
        print("How an application does this: examples/demo/client.py")
    except DemoError as error:
        screen.end(f"FAILED after {screen.seconds:.0f} s: {error}", RED)
        return 1
    except TimeoutError:
        screen.end(f"FAILED: not finished within {LIMIT:.0f} s", RED)
        return 1
    except asyncio.CancelledError:
        screen.end(f"Stopped by {caught[0].name}: everything is shut down.", YELLOW)
        return 128 + caught[0]
    return 0


if __name__ == "__main__":
    try:
        code = asyncio.run(main())
    except BrokenPipeError:  # whoever watched has left; by now all processes are stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
