"""The security bar's line 3: a first hop that kills circuits selectively gains no bad exits.

Two sizes of the same attack.  A client of its own (the keeper and the chooser, which decide everything) against every
way to kill, over thousands of circuits; and whole nodes on the virtual network.  The attacker is told everything: in
reality his guard has to guess from timing which exit is his.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, sqrt
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from sim.loop import run
from tests.support.communities import Communities
from tests.support.plugin import Figure, Size
from tests.tunnels.path.numbered import ACCEPT, relay_info
from tunnels.circuit.origin import OriginCircuit, State
from tunnels.crypto.rng import StreamRng
from tunnels.ids import Address, CloseReason, RelayId
from tunnels.keeper import PoolKeeper
from tunnels.params import BIAS_MIN_CIRCUITS, KEEP_EXIT_TRIES, PROVEN_AGE
from tunnels.path import bias as bias_module
from tunnels.path.bias import Attempt, PathBias
from tunnels.path.chooser import PathChooser
from tunnels.path.directory import RelayInfo
from tunnels.path.pool import PoolLimits
from tunnels.path.select import Rules
from tunnels.store import MemoryStore

RELAYS: Final = [relay_info(number, policy=ACCEPT) for number in range(60)]
LIMITS: Final = PoolLimits(2, 4, 1e9, 1e9, 10**12)
ACCIDENTS: Final = 5
"""Of 100 honest builds that fail."""


@dataclass(eq=False)
class Circuit:
    """As much of an OriginCircuit as the keeper looks at."""

    path: tuple[RelayInfo, ...]
    born: float
    state: State = State.BUILDING
    build_time: float | None = None
    used: float = -inf
    heard: float = -inf
    answered: bool = False
    hops_built: int = 2
    cells_sent: int = 0
    cells_received: int = 0
    doom: tuple[float, CloseReason, int | None] | None = None
    """When it will be killed once it is open, and how that looks."""

    @property
    def hops(self) -> int:
        return len(self.path)

    def close(self, reason: CloseReason, now: float) -> None:
        self.state = State.CLOSED


Kill = Callable[["Client", Circuit], None]
"""What the guard does to a circuit that is being built."""


def destroy(client: "Client", circuit: Circuit) -> None:
    client.end(circuit, CloseReason.DESTROYED, 2)


def stall(client: "Client", circuit: Circuit) -> None:
    """Passes nothing on any more: the client gives up."""
    client.end(circuit, CloseReason.TIMEOUT, None)


def offend(client: "Client", circuit: Circuit) -> None:
    """Sends what no relay may send."""
    client.end(circuit, CloseReason.PROTOCOL, 0)


def cut(client: "Client", circuit: Circuit) -> None:
    """Is gone, with the link and all circuits on it."""
    client.end(circuit, CloseReason.LINK_FAILED, 0)


def when_open(client: "Client", circuit: Circuit) -> None:
    client.open(circuit)
    circuit.doom = (client.now + 1.0, CloseReason.DESTROYED, None)


def when_proven(client: "Client", circuit: Circuit) -> None:
    """Lets it live for as long as a circuit has to that counts as built."""
    client.open(circuit)
    circuit.doom = (client.now + PROVEN_AGE + 1.0, CloseReason.DESTROYED, None)


def swallow(client: "Client", circuit: Circuit) -> None:
    """Lets it open, and lets nothing through: the client's PINGs are not answered."""
    client.open(circuit)
    circuit.doom = (client.now + 40.0, CloseReason.NO_ANSWER, None)


KILLS: Final = (destroy, stall, offend, cut, when_open, when_proven, swallow)


@dataclass
class Client:
    """A client whose first guard is the attacker's, and who uses each circuit once it has stood the test of time.

    Attributes:
        kills: how many of 100 circuits to honest exits the guard kills; the rest hides it.
        liars: how many of 100 middle relays say of honest exits that they do not answer.
    """

    kill: Kill
    kills: int = 100
    liars: int = 0
    seed: int = 0
    exits: Counter[bool] = field(default_factory=Counter)
    """Of the circuits that carried something, whether they were bad."""

    def __post_init__(self) -> None:
        self.now = 0.0
        self.rng = StreamRng(self.seed.to_bytes(32))
        self.circuits: list[Circuit] = []
        self.chooser = PathChooser(Rules(), self.rng, MemoryStore(), 0.0)
        self.keeper = PoolKeeper(cast("Any", self), cast("Any", self), LIMITS, self.chooser)
        self.keeper.want(3)
        self.chooser.relays_changed(RELAYS, {}, 0.0)
        self.killer = self.chooser.guards.primary[0]
        honest = [relay.relay_id for relay in RELAYS if relay.relay_id != self.killer]
        self.friends = frozenset({self.killer, *honest[:11]})
        self.lying = frozenset(honest[20 : 20 + 60 * self.liars // 100])

    @property
    def share(self) -> float:
        return len(self.friends) / len(RELAYS)

    # What the keeper asks of an engine and of a source of relays.

    core: Any = field(default_factory=lambda: SimpleNamespace(epoch=0.0))

    def create_circuit(self, path: tuple[RelayInfo, ...], now: float) -> Circuit:
        self.circuits.append(Circuit(path, now))
        return self.circuits[-1]

    def usable(self, now: float) -> list[RelayInfo]:
        return RELAYS

    def first_seen(self) -> dict[RelayId, float]:
        return {}

    def trouble(self, now: float) -> str:
        return ""

    # What happens.

    def open(self, circuit: Circuit) -> None:
        circuit.state, circuit.build_time, circuit.hops_built = State.OPEN, 0.1, 3
        self.keeper.opened(cast("Any", circuit), self.now)

    def end(self, circuit: Circuit, reason: CloseReason, culprit: int | None) -> None:
        circuit.state = State.CLOSED
        self.circuits.remove(circuit)
        self.keeper.ended(cast("Any", circuit), reason, culprit, self.now)

    def _happens(self, of_100: int) -> bool:
        return self.rng.below(100) < of_100

    def second(self) -> None:
        """One second of everybody's life."""
        self.now += 1.0
        for circuit in list(self.circuits):
            if circuit.state is State.BUILDING:
                self._go_on(circuit)
            elif circuit.doom is not None and self.now >= circuit.doom[0]:
                self.end(circuit, *circuit.doom[1:])
            elif circuit.doom is None and self.now - circuit.born > 2 * PROVEN_AGE:
                self._use(circuit)
        self.keeper.tend(self.now)

    def _go_on(self, circuit: Circuit) -> None:
        guard, middle, last = (relay.relay_id for relay in circuit.path)
        if self._happens(ACCIDENTS):
            self.end(circuit, CloseReason.NO_ANSWER, 2)
        elif guard == self.killer and last not in self.friends and self._happens(self.kills):
            self.kill(self, circuit)
        elif middle in self.lying and last not in self.friends:
            self.end(circuit, CloseReason.TRUNCATED, 2)
        else:
            self.open(circuit)

    def _use(self, circuit: Circuit) -> None:
        circuit.used = circuit.heard = self.now
        circuit.answered = True
        self.keeper.tend(self.now)
        self.exits[circuit.path[-1].relay_id in self.friends] += 1
        self.end(circuit, CloseReason.REQUESTED, None)

    def bad_exits(self, circuits: int) -> float:
        """The share of the circuits that carried something and had a bad exit."""
        while self.exits.total() < circuits:
            self.second()
            assert self.now < 1000 * circuits
        return self.exits[True] / self.exits.total()


def chance(share: float, number: int) -> float:
    """What luck alone may add."""
    return 4 * sqrt(share * (1 - share) / number)


def gain(kills: int, number: int) -> float:
    """What a guard can gain: the exits that it gets rid of before it is out, and, below that, those given up after
    KEEP_EXIT_TRIES failures in a row.
    """
    if kills >= 80:
        return 2 * BIAS_MIN_CIRCUITS / KEEP_EXIT_TRIES / number
    return float((kills / 100 + 0.05) ** KEEP_EXIT_TRIES)


@pytest.mark.parametrize("kills", [100, 60, 30])
@pytest.mark.parametrize("kill", KILLS)
def test_a_guard_that_kills_gets_no_more_bad_exits_than_there_are(
    size: Size, figure: Figure, kill: Kill, kills: int
) -> None:
    number = size(small=300, long=10_000)
    client = Client(kill, kills)
    found = client.bad_exits(number)
    figure(f"bad exits of {client.share:.2f}, {kills} % killed by {kill.__name__}", found, "")
    assert found <= client.share + gain(kills, number) + chance(client.share, number)


@pytest.mark.parametrize("kill", [kill for kill in KILLS if kill is not cut])
def test_a_guard_that_kills_all_is_out_and_no_honest_one_is(kill: Kill) -> None:
    client = Client(kill)
    client.bad_exits(150)
    assert client.chooser.bias.out() == {client.killer}
    assert client.killer not in client.chooser.guards.primary


def test_honest_guards_of_a_bad_network_stay() -> None:
    client = Client(destroy, kills=0, liars=20)
    client.bad_exits(400)
    assert not client.chooser.bias.out()


def redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exit is drawn anew after every failure."""
    monkeypatch.setattr(Attempt, "failed", lambda self, exit: Attempt())  # noqa: A006 (the word of the protocol)


def unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PathBias, "out", lambda self: frozenset())


@pytest.mark.parametrize("kill", [kill for kill in KILLS if kill is not cut])
def test_without_kept_exits_and_verdicts_the_attack_succeeds(
    monkeypatch: pytest.MonkeyPatch, figure: Figure, kill: Kill
) -> None:
    redrawn(monkeypatch)
    unjudged(monkeypatch)
    found = Client(kill).bad_exits(100)
    figure(f"bad exits with the defence off, all killed by {kill.__name__}", found, "")
    assert found > 0.8


@pytest.mark.parametrize("kill", [destroy, when_open])
def test_without_kept_exits_a_guard_below_every_verdict_gains(monkeypatch: pytest.MonkeyPatch, kill: Kill) -> None:
    redrawn(monkeypatch)
    client = Client(kill, kills=60)
    assert client.bad_exits(500) > 1.5 * client.share
    assert not client.chooser.bias.out()


def test_without_verdicts_a_guard_that_kills_all_waits_until_exits_are_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unjudged(monkeypatch)
    assert Client(destroy).bad_exits(60) > 0.8


# --- a middle that lies about exits ---------------------------------------------------------------------


@pytest.mark.parametrize("liars", [10, 20, 40])
def test_middles_that_deny_honest_exits_gain_what_two_witnesses_in_a_row_are_worth(
    size: Size, figure: Figure, liars: int
) -> None:
    """An exit that two relays could not reach is given up, because a dead one has to be: so who has a share m of the
    middles is rid of an honest exit in m^2 of all cases at most, and blame makes the second liar rarer than the first.
    """
    number = size(small=600, long=20_000)
    client = Client(destroy, kills=0, liars=liars)
    found = client.bad_exits(number)
    figure(f"bad exits of {client.share:.2f} where {liars} % of the middles deny honest ones", found, "")
    kept = (1 - client.share) * (1 - (liars / 100) ** 2)
    assert found <= client.share / (client.share + kept) + chance(client.share, number)


def test_with_one_witness_they_gain_a_multiple(monkeypatch: pytest.MonkeyPatch, size: Size, figure: Figure) -> None:
    monkeypatch.setattr(bias_module, "EXIT_WITNESSES", 1)
    client = Client(destroy, kills=0, liars=40)
    found = client.bad_exits(size(small=600, long=20_000))
    figure("bad exits of 0.20 where 40 % of the middles deny honest ones and one word is enough", found, "")
    assert found > 1.3 * client.share


def test_a_guard_that_kills_and_middles_that_lie_gain_no_more_together(size: Size, figure: Figure) -> None:
    number = size(small=400, long=10_000)
    client = Client(destroy, kills=100, liars=20)
    found = client.bad_exits(number)
    figure(f"bad exits of {client.share:.2f} behind a killing guard, 20 % of the middles lie", found, "")
    kept = (1 - client.share) * (1 - 0.2**2)
    assert found <= client.share / (client.share + kept) + gain(100, number) + chance(client.share, number)


# --- whole nodes ----------------------------------------------------------------------------------------


async def bad_exits_behind_a_killer(circuits: int) -> tuple[float, float, bool]:
    """Of a client's circuits that carried something: the share with a bad exit, the share of bad exits among all, and
    whether the guard is still one.
    """
    world = Communities()
    await world.relays(4, exits=0)
    exits = await world.relays(8, exits=8)
    client = await world.client(min_circuits=1, max_circuits=2)
    client.build_tunnels(3)
    first = await client.wait_for_circuit(3)
    killer = world.at(first.path[0])
    friends = {exits[0].relay_id, killer.relay_id}
    chosen: Counter[bool] = Counter()

    def kill() -> None:
        now = asyncio.get_running_loop().time()
        doomed = {
            circuit.back_id
            for circuit in client.engine.circuits
            if circuit.state is State.OPEN
            and circuit.path[0] == killer.relay_info
            and circuit.path[-1].relay_id not in friends
        }
        for joined in [joined for joined in killer.engine.core.joined if joined.back_id in doomed]:
            joined.close(CloseReason.DESTROYED, now)
        killer._driver.wake()  # noqa: SLF001 (it is the attacker's)

    def heard(circuit: OriginCircuit, origin: Address, payload: bytes) -> None:
        chosen[circuit.path[-1].relay_id in friends] += 1
        client.remove_circuit(circuit)

    client.on_data(heard)
    while chosen.total() < circuits:
        kill()
        for circuit in client.active_data_circuits(3):
            if asyncio.get_running_loop().time() - circuit.born > 2 * PROVEN_AGE:
                client.tunnel_data(circuit, ("9.9.9.9", 53), "data", b"question")
        await asyncio.sleep(0.5)
    remains = killer.relay_id in client._keeper.guards  # noqa: SLF001
    await world.close()
    return chosen[True] / circuits, len(friends & {one.relay_id for one in exits}) / len(exits), remains


def test_whole_nodes_get_no_more_bad_exits_and_another_guard(size: Size, figure: Figure) -> None:
    number = size(small=60, long=600)
    found, share, remains = run(bad_exits_behind_a_killer(number))
    figure(f"whole nodes: bad exits of {share:.2f} behind a guard that kills", found, "")
    assert found <= share + gain(100, number) + chance(share, number)
    assert not remains


def test_whole_nodes_without_the_defence_get_his(monkeypatch: pytest.MonkeyPatch, figure: Figure) -> None:
    redrawn(monkeypatch)
    unjudged(monkeypatch)
    found, share, remains = run(bad_exits_behind_a_killer(20))
    figure(f"whole nodes: bad exits of {share:.2f} with the defence off", found, "")
    assert found > 0.8
    assert remains
