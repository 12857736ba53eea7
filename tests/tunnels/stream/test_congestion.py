"""SPEC 13.5: what a controller gets out of a path, and what it does to others on it."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import pytest

from sim.bottleneck import Bottleneck, Path
from tests.support.plugin import Figure, Size
from tests.tunnels.stream.pair import make_rng
from tunnels.errors import LocalError
from tunnels.ids import Rng
from tunnels.params import INITIAL_WINDOW, MIN_WINDOW
from tunnels.stream.bbr import GAINS, NEXT, Bbr, Phase
from tunnels.stream.congestion import Congestion, RateSample
from tunnels.stream.cubic import Cubic

Maker = Callable[[Rng], Congestion]


def cubic(rng: Rng) -> Congestion:
    return Cubic()


@dataclass(frozen=True)
class Result:
    """Shares of the line's rate; `queue` in base round trips; `dropped` is what the flows' own queue lost."""

    shares: list[float]
    queue: float
    dropped: float

    @property
    def goodput(self) -> float:
        return sum(self.shares)

    @property
    def jain(self) -> float:
        return self.goodput**2 / len(self.shares) / sum(share**2 for share in self.shares)


def run(path: Path, flows: Sequence[Maker], seconds: float, *, begin: float, apart: float = 0.1) -> Result:
    rng = make_rng(1)
    bottleneck = Bottleneck(path, rng, begin=begin)
    for number, maker in enumerate(flows):
        bottleneck.add(maker(rng), number * apart)
    measured = bottleneck.run(seconds)
    delays = [delay for each in measured for delay in each.delays]
    return Result(
        [each.arrived / (seconds - begin) / path.rate for each in measured],
        median(delays) / path.rtt,
        sum(each.dropped for each in measured) / sum(each.sent for each in measured),
    )


@pytest.mark.parametrize(
    ("mbit", "rtt", "loss", "buffer"),
    list(itertools.product((5, 50), (0.02, 0.1, 0.4), (0.0, 0.01, 0.02), (0.25, 1.5))),
)
def test_a_flow_alone_fills_its_path_and_spares_it(
    mbit: float, rtt: float, loss: float, buffer: float, size: Size, figure: Figure
) -> None:
    mbit *= size(small=1, long=4)
    result = run(Path(mbit, rtt, buffer * rtt, loss), [Bbr], 8 + 30 * rtt, begin=2 + 10 * rtt)
    figure(f"goodput of {mbit:g} Mbit/s, {rtt} s, loss {loss}, buffer {buffer}", result.goodput, "of the path")
    assert result.goodput >= 0.7
    assert result.queue <= 1.0
    assert result.dropped <= 0.025 if mbit * rtt < 0.2 else result.dropped <= 0.02


@pytest.mark.parametrize("buffer", [0.3, 1.0])
def test_ten_flows_share_fairly(buffer: float, size: Size, figure: Figure) -> None:
    seconds = size(small=60.0, long=120.0)
    result = run(Path(100, 0.1, buffer * 0.1), [Bbr] * 10, seconds, begin=seconds / 3)
    figure(f"Jain's index of ten flows, buffer {buffer}", result.jain, "")
    assert result.jain >= 0.9
    assert result.queue <= 1.0
    assert result.dropped <= 0.025


@pytest.mark.parametrize(("mbit", "rtt"), [(10, 0.02), (50, 0.1)])
@pytest.mark.parametrize("buffer", [0.5, 1.0, 2.0, 4.0])
def test_beside_one_cubic_flow_neither_starves(mbit: float, rtt: float, buffer: float, figure: Figure) -> None:
    result = run(Path(mbit, rtt, buffer * rtt), [Bbr, cubic], 40, begin=10, apart=0.5)
    share = result.shares[0] / result.goodput
    figure(f"share beside CUBIC, {mbit} Mbit/s, {rtt} s, buffer {buffer}", share, "")
    assert 0.3 <= share <= 0.7


def test_random_loss_starves_cubic_and_not_the_default(figure: Figure) -> None:
    path = Path(50, 0.1, 0.1, loss=0.01)
    default, other = (run(path, [maker], 15, begin=5).goodput for maker in (Bbr, cubic))
    figure("CUBIC's goodput at 1 % loss, 50 Mbit/s, 0.1 s", other, "of the path")
    assert default > 0.9
    assert other < 0.1


# --- the controllers, piece by piece ---------------------------------------------------------


def sample(*, acked: int = 10, delivered: int, prior: int, rate: float, rtt: float = 0.1) -> RateSample:
    return RateSample(acked, 0, delivered, prior, 10, rate, rtt, rtt, app_limited=False)


def test_every_phase_has_gains_and_something_that_follows() -> None:
    assert set(GAINS) == set(NEXT) == set(Phase)
    assert set().union(*NEXT.values()) == set(Phase)


def test_a_phase_that_does_not_follow_is_our_own_fault() -> None:
    with pytest.raises(LocalError, match="UP does not follow STARTUP"):
        Bbr(make_rng())._enter(Phase.UP, 0.0)  # noqa: SLF001 (no caller can make it happen)


def test_a_start_ends_when_the_rate_stops_growing() -> None:
    bbr = Bbr(make_rng())
    assert bbr.window == INITIAL_WINDOW
    delivered, rate = 0, 100.0
    for turn in range(20):
        bbr.on_acked(sample(delivered=delivered + 10, prior=delivered, rate=min(rate, 1000.0)), turn / 10)
        delivered, rate = delivered + 10, rate * 2
    assert bbr.phase is not Phase.STARTUP
    assert bbr.rate == pytest.approx(1000.0)


def test_persistent_congestion_starts_over_with_the_smallest_window() -> None:
    for controller in (Bbr(make_rng()), Cubic()):
        controller.on_persistent_congestion(1.0)
        assert controller.window == MIN_WINDOW


def test_cubic_reduces_once_for_all_that_was_sent_before() -> None:
    controller = Cubic()
    controller.on_lost(1, 10, newest_sent=1.0, now=1.1)
    reduced = controller.window
    assert reduced == int(INITIAL_WINDOW * 0.7)
    controller.on_lost(3, 10, newest_sent=1.05, now=1.2)
    assert controller.window == reduced
    controller.on_lost(1, 10, newest_sent=1.15, now=1.3)
    assert controller.window < reduced


def test_a_run_with_the_same_seed_is_the_same_run() -> None:
    path = Path(10, 0.05, 0.02, loss=0.02)
    assert run(path, [Bbr, cubic], 5, begin=1) == run(path, [Bbr, cubic], 5, begin=1)
