"""`make demo` as a newcomer runs it, as somebody who interrupts it, and as the kernel that kills its launcher."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from dnslib import RR, A, DNSRecord
from dnslib.zoneresolver import ZoneResolver

from examples.demo.child import StepError
from examples.demo.client import checked
from examples.demo.zone import QUESTIONS, ZONE
from tests.support.house import ROOT

PATIENCE: Final = 120.0
"""Seconds for what takes one on an idle machine."""

PROCESSES: Final = 10
"""8 relays, a client, a DNS server: the launcher is not among them."""

needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc: Linux")


class Demo:
    """A demo under way; every process of it carries a mark in its environment."""

    def __init__(self) -> None:
        self._mark = f"DEMO_MARK={uuid.uuid4()}"
        name, value = self._mark.split("=")
        environment = {**os.environ, name: value}
        environment.pop("TERM", None)
        self.launcher = subprocess.Popen(
            [sys.executable, "-m", "examples.demo"], cwd=ROOT, env=environment, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert self.launcher.stdout is not None
        self.stdout = self.launcher.stdout
        self.seen = ""

    def read_until(self, words: str) -> None:
        for line in self.stdout:
            self.seen += line
            if words in line:
                return
        pytest.fail(f"{words!r} was not said:\n{self.seen}")

    def end(self) -> int:
        """Read what is left, and wait for the launcher's exit code."""
        self.seen += self.stdout.read()
        return self.launcher.wait(PATIENCE)

    def processes(self) -> list[int]:
        """All of the demo that run, the launcher included."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._is_ours(entry)]

    def child(self, module: str) -> int:
        return next(pid for pid in self.processes() if module in Path(f"/proc/{pid}/cmdline").read_text().split("\0"))

    def addresses(self) -> set[tuple[str, int]]:
        return {(host, int(port)) for host, port in re.findall(r"(127\.\d+\.0\.1):(\d{4,})", self.seen)}

    def _is_ours(self, entry: Path) -> bool:
        try:
            return self._mark.encode() in (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            return False


@pytest.fixture
def demo() -> Iterator[Demo]:
    demo = Demo()
    yield demo
    demo.stdout.close()
    for pid in demo.processes():
        os.kill(pid, signal.SIGKILL)
    demo.launcher.wait()


def eventually(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def assert_nothing_is_left(demo: Demo) -> None:
    assert demo.processes() == []
    assert demo.addresses()
    for address in demo.addresses():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(address)


@needs_proc
def test_the_demo_shows_every_step_and_leaves_nothing_behind(demo: Demo) -> None:
    assert demo.end() == 0, demo.seen
    for words in (
        r"relay8 +127\.8\.0\.1:\d+ +relay, and exit: accept \*:\d+, reject \*:\*",
        r"find each other from one address, 127\.1\.0\.1:\d+",
        r"relays +7 7 7 7 7 7 7 7 +others known to relay1 \.\.\. relay8",
        r"client +127\.99\.0\.1:\d+ +is told the address of relay1, and nothing else",
        r"8 relays known, shown by (relay\d, )+relay\d; enough to build circuits",
        r"open, 1 hop: not anonymous   relay[78] 127\.[78]\.0\.1",
        r"open, 3 hops   relay\d 127\.\d\.0\.1 > relay\d 127\.\d\.0\.1 > relay[78] 127\.[78]\.0\.1",
        r"www\.demo\.example +AAAA +2001:db8::80 +[\d.]+ ms",
        r"120 questions, 120 right answers, \d+ asked again; round trip min [\d.]+ ms, median [\d.]+ ms, max",
        r"127\.53\.0\.1:22 is refused by the exit: exit policy",
        r"relay\d +\d+ +\d+ +.*guard",
        r"questions from 127\.0\.0\.1, none from the client",
        r"kill -9 relay\d, relay\d, relay\d; in use was relay\d > relay\d > relay\d",
        r"closed, .* does not answer, [\d.]+ s after the kill",
        r"open, 3 hops .* after the kill",
        r"30 questions, 30 right answers",
        r"guards before: relay\d \(killed\), relay\d",
        r"kill -9 client",
        r"is told the address of relay[1-6], and nothing else",
        r"All well in \d+ s: 192 DNS questions answered, 3 relays lost and replaced, guards kept",
    ):
        assert re.search(words, demo.seen), f"{words}\n{demo.seen}"
    before, after = (re.search(rf"guards {when}: +(.*)", demo.seen) for when in ("before", "now"))
    assert before
    assert after
    assert before[1] == after[1]
    guards = re.findall(r"relay\d", before[1])
    rebuilt = [re.findall(r"relay\d", path) for path in re.findall(r"open, 3 hops   (.*) built .* kill", demo.seen)]
    healed, restarted = (path.split(" > ") for path in re.findall(r"over client > (.*) > dns", demo.seen)[-2:])
    assert healed in rebuilt  # it is a new circuit that answers
    assert {healed[0], restarted[0]} <= set(guards)
    assert len(re.findall(r"relay\d +- +- +killed", demo.seen)) == 3
    killed = re.findall(r"relay\d", re.findall(r"kill -9 (relay.*);", demo.seen)[0])
    assert not {*healed, *restarted} & set(killed)
    assert "\x1b" not in demo.seen  # colours are for terminals
    assert len(demo.addresses()) == PROCESSES + 1  # the client has had two
    assert_nothing_is_left(demo)


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_interrupts_the_demo_leaves_nothing_behind(demo: Demo, number: signal.Signals) -> None:
    demo.read_until("open, 3 hops")
    assert len(demo.processes()) == 1 + PROCESSES
    demo.launcher.send_signal(number)
    demo.launcher.send_signal(number)  # an impatient second time
    assert demo.end() == 128 + number
    assert number.name in demo.seen
    assert_nothing_is_left(demo)


@needs_proc
def test_when_the_launcher_is_killed_everybody_ends(demo: Demo) -> None:
    demo.read_until("open, 3 hops")
    demo.launcher.kill()
    assert eventually(lambda: demo.processes() == [])
    assert_nothing_is_left(demo)


@needs_proc
def test_when_nobody_reads_any_more_everybody_ends(demo: Demo) -> None:
    demo.read_until("open, 3 hops")
    demo.stdout.close()
    assert demo.launcher.wait(PATIENCE) == 1
    assert_nothing_is_left(demo)


@needs_proc
@pytest.mark.parametrize(("module", "name"), [("examples.demo.relay", "relay"), ("examples.demo.client", "client")])
def test_a_process_that_dies_by_itself_fails_the_demo_with_a_reason(demo: Demo, module: str, name: str) -> None:
    demo.read_until("open, 3 hops")
    os.kill(demo.child(module), signal.SIGKILL)
    assert demo.end() == 1
    assert re.search(rf"FAILED after \d+ s: {name}\d? was ended by SIGKILL", demo.seen), demo.seen
    assert_nothing_is_left(demo)


@pytest.mark.parametrize(("name", "kind"), QUESTIONS)
def test_the_client_takes_the_right_answer_and_no_other(name: str, kind: str) -> None:
    question = DNSRecord.question(name, kind)
    answer = ZoneResolver(ZONE).resolve(question, None)
    assert checked(answer, name, kind)
    answer.add_answer(RR(name, rdata=A("192.0.2.66")))
    with pytest.raises(StepError, match=re.escape(name)):
        checked(answer, name, kind)
