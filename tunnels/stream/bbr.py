"""A congestion controller after BBR: it paces at the rate that arrives, and keeps little waiting.  Floor 3: sans-IO.

The model is two numbers: the highest rate of delivery lately, and the shortest round trip of the last five seconds.
Their product fills the path without a queue.  A path of six hops is long and loses a little at random, which means
nothing here; what means something is clearly more loss than chance explains, judged by whether the round trips say that
there is a queue (`_congested`).

    STARTUP    doubles every round until the rate stops growing
    DRAIN      lets go of the queue that made
    DOWN       a little slower than the path: what UP queued goes away, and others find room
    CRUISE     at the rate of the path, for a random time
    REFILL     for one round at that rate, bounds of the last cycle forgotten
    UP         faster, for a round or two: is there more?
    PROBE_RTT  half empty, when no short round trip was seen for five seconds: the queue might be our own

Two things differ from BBR.  *Yielding*: a queue that never empties during a round of CRUISE means that all flows
together remember better moments than there are now, so each goes on at a little less than what really arrives.
*Additive probing*: UP asks for as many cells more whatever the flow has, so that of two flows the smaller gains more by
it, and shares become equal; only where the last UP met no queue does it ask for a share.

Every change of phase is in NEXT; rates and windows by phase are in GAINS.  Counts are in cells.  The numbers below mean
something here only; those that are measured are from `sim.bottleneck` (tests/tunnels/stream/test_congestion.py).
"""

from collections.abc import Mapping
from enum import Enum, auto
from math import inf, sqrt
from types import MappingProxyType
from typing import Final, NamedTuple

from tunnels.errors import LocalError
from tunnels.ids import Rng
from tunnels.params import ACK_EVERY, INITIAL_WINDOW, MIN_WINDOW
from tunnels.stream.acks import ack_delay
from tunnels.stream.congestion import RateSample


class Phase(Enum):
    STARTUP = auto()
    DRAIN = auto()
    DOWN = auto()
    CRUISE = auto()
    REFILL = auto()
    UP = auto()
    PROBE_RTT = auto()


class Gains(NamedTuple):
    """Times the rate of the path, and times what fills it."""

    pacing: float
    window: float


GAINS: Final[Mapping[Phase, Gains]] = MappingProxyType(
    {
        Phase.STARTUP: Gains(2.77, 2.0),  # 4 ln 2: the least that doubles each round (BBR)
        Phase.DRAIN: Gains(0.5, 2.0),
        Phase.DOWN: Gains(0.85, 1.75),
        Phase.CRUISE: Gains(1.0, 1.75),
        Phase.REFILL: Gains(1.0, 1.75),
        Phase.UP: Gains(1.05, 3.0),  # and what `_probing` adds
        Phase.PROBE_RTT: Gains(1.0, 0.5),
    }
)

NEXT: Final[Mapping[Phase, frozenset[Phase]]] = MappingProxyType(
    {
        Phase.STARTUP: frozenset({Phase.DRAIN, Phase.PROBE_RTT}),
        Phase.DRAIN: frozenset({Phase.DOWN, Phase.PROBE_RTT}),
        Phase.DOWN: frozenset({Phase.CRUISE, Phase.PROBE_RTT}),
        Phase.CRUISE: frozenset({Phase.REFILL, Phase.PROBE_RTT}),
        Phase.REFILL: frozenset({Phase.UP, Phase.DOWN, Phase.PROBE_RTT}),
        Phase.UP: frozenset({Phase.DOWN, Phase.PROBE_RTT}),
        Phase.PROBE_RTT: frozenset({Phase.STARTUP, Phase.DOWN}),
    }
)
"""Persistent congestion starts over from any phase: what was known of the path is gone with the path."""

_FULL_GROWTH: Final = 1.25
_FULL_ROUNDS: Final = 3
"""Rounds without that growth after which the path is full (BBR)."""

_MIN_RTT_WINDOW: Final = 5.0
"""Seconds a shortest round trip counts (BBR 3): flows that start into a full queue learn of it that much later."""

_PROBE_RTT_TIME: Final = 0.2
"""Seconds half empty (BBR); 4 % of the time."""

_CRUISE_ROUNDS: Final = (2, 8)
"""Rounds of one CRUISE, at random, so that flows do not probe in step..."""

_CRUISE_TIME: Final = 0.1
"""... and seconds at the least: on a path of a millisecond rounds say little."""

_MARGIN: Final = 0.99
"""Of the measured rate, so that a queue does not grow by errors of measurement (BBR)."""

_CRUISE_CELLS: Final = 300
_MAX_CRUISE: Final = 0.3
"""A CRUISE is as long as so many cells take, within CRUISE_TIME and this: what UP loses in a shallow queue is then a
small part of all, and a flow with little does not stay there."""

_UP_CELLS: Final = 12
"""What UP asks for beyond what the flow has..."""

_MAX_UP: Final = 0.5
"""... but no larger part of it than this..."""

_EAGER: Final = 0.25
_LEAST_UP: Final = 0.05
"""... nor a smaller one than this (BBR's), where the last UP met no queue, falling to that where it did."""

_UP_ROUNDS: Final = 2

_DRAIN: Final = 0.95
"""Of what arrives, while the queue never empties: it drains by a twentieth of the rate."""

_BETA: Final = 0.8
"""What is left of a bound after a congested round, unless more arrived in it."""

_YIELD: Final = 0.9
"""What is left of the rate after a round of CRUISE in which the queue never emptied, unless more arrived in it."""

_HEADROOM: Final = 0.85
"""Of the highest window that was not too much: what stays free for others outside of probing (BBR)."""

_LOSS: Final = 0.02
"""Share of a round's cells whose loss counts as congestion where round trips say that there is a queue (BBR)."""

_QUIET_LOSS: Final = 0.05
"""The same where they do not: below it is what radio links and overloaded relays lose at random."""

_JUDGED: Final = 256
"""Cells that are judged together; then half of them is forgotten.  A short path has fewer in a round than can show a
share of 2 %."""

_QUEUE_RTT: Final = 1.1
_QUEUE_TIME: Final = 0.002
"""Times the shortest round trip, and seconds above it, from which on a whole round's shortest shows a queue."""


class Bbr:
    """A `Congestion`.

    Args:
        rng: for the lengths of CRUISE.
    """

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._start(INITIAL_WINDOW)

    def _start(self, window: int) -> None:
        self.phase = Phase.STARTUP
        self.window = window
        self.pacing_rate = GAINS[Phase.STARTUP].pacing * window / 0.001  # the first flight is a burst (BBR)
        self._max_rate = [0.0, 0.0]
        """Of the cycle before, and of this one."""
        self._min_rtt, self._min_rtt_time = inf, 0.0
        self._phase_time, self._phase_round = 0.0, 0
        self._full_rate, self._full_rounds, self._full = 0.0, 0, False
        self._round, self._round_end = 0, 0
        self._round_acked = 0
        self._judged_lost = self._judged_acked = 0.0
        self._round_rtt = inf
        self._round_time, self._round_flight = 0.0, 0
        self._flight_high = inf
        """The window above which probing met congestion."""
        self._flight_low = inf
        self._rate_low = inf
        """Bounds since the last probe; REFILL forgets them."""
        self._cruise_rounds, self._cruise_time = 0, 0.0
        self._probe_end: float | None = None
        self._probe_min = inf
        self._step = _UP_CELLS
        self._eager = _EAGER
        self._met_queue = False

    @property
    def rate(self) -> float:
        """Cells a second that the path is believed to carry."""
        return min(max(self._max_rate), self._rate_low)

    @property
    def min_rtt(self) -> float:
        """Seconds; inf before the first sample."""
        return self._min_rtt

    # --- what happens ------------------------------------------------------------------------

    def on_sent(self, in_flight: int, now: float) -> None:
        pass

    def on_lost(self, lost: int, in_flight: int, newest_sent: float, now: float) -> None:
        self._judged_lost += lost

    def on_persistent_congestion(self, now: float) -> None:
        self._start(MIN_WINDOW)

    def on_acked(self, sample: RateSample, now: float) -> None:
        self._learn(sample, now)
        new_round = sample.prior_delivered >= self._round_end
        if new_round:
            self._end_round(sample, now)
        self._move(sample, now, new_round=new_round)
        self._publish(sample)

    def _learn(self, sample: RateSample, now: float) -> None:
        rate = sample.rate
        if rate and (rate >= self._max_rate[1] or not sample.app_limited):
            self._max_rate[1] = max(self._max_rate[1], rate)
        self._round_acked += sample.acked
        self._round_flight = max(self._round_flight, sample.in_flight + sample.acked)
        if sample.rtt is not None:
            self._round_rtt = min(self._round_rtt, sample.rtt)
            self._probe_min = min(self._probe_min, sample.rtt)
            if sample.rtt <= self._min_rtt:
                self._min_rtt, self._min_rtt_time = sample.rtt, now

    def _end_round(self, sample: RateSample, now: float) -> None:
        """Judge the round, then forget it."""
        self._round += 1
        mean = self._round_acked / max(now - self._round_time, 1e-6)
        self._round_time = now
        queue, congested = self._queue(), self._congested()
        if self.phase is Phase.UP:
            self._met_queue |= queue or congested
        if self.phase is Phase.STARTUP:
            self._judge_start(sample, congested=congested)
        elif congested and self.phase in {Phase.UP, Phase.REFILL}:
            self._flight_high = max(self._round_acked, _BETA * min(self._flight_high, self._round_flight), MIN_WINDOW)
            self._enter(Phase.DOWN, now)
        elif congested and self.phase is not Phase.PROBE_RTT:
            self._rate_low = max(_DRAIN * mean, _BETA * self.rate)
            self._flight_low = max(self._round_acked, _BETA * min(self._flight_low, self._round_flight), MIN_WINDOW)
        elif self.phase in {Phase.DOWN, Phase.CRUISE} and queue and not sample.app_limited:
            self._rate_low = max(_DRAIN * mean, _YIELD * self.rate)
        self._round_end = sample.delivered
        self._round_acked = 0
        self._round_rtt, self._round_flight = inf, 0

    def _congested(self) -> bool:
        """Whether more was lost in this round than chance explains: two standard deviations above what is accepted."""
        self._judged_acked += self._round_acked
        lost, sent = self._judged_lost, self._judged_acked + self._judged_lost
        if not lost:
            return False
        if sent >= _JUDGED:
            self._judged_lost, self._judged_acked = lost / 2, self._judged_acked / 2
        accepted = sent * (_LOSS if self._queue() else _QUIET_LOSS)
        congested = lost > accepted + 2 * sqrt(accepted) + 1
        if congested:
            self._judged_lost = self._judged_acked = 0
        return congested

    def _queue(self) -> bool:
        """Whether something waited throughout this round."""
        return self._round_rtt > max(self._min_rtt * _QUEUE_RTT, self._min_rtt + _QUEUE_TIME)

    def _judge_start(self, sample: RateSample, *, congested: bool) -> None:
        rate = max(self._max_rate)
        if rate >= self._full_rate * _FULL_GROWTH:
            self._full_rate, self._full_rounds = rate, 0
            return
        if not sample.app_limited:
            self._full_rounds += 1
        self._full = congested or self._full_rounds >= _FULL_ROUNDS
        if congested:
            self._flight_high = max(self._round_acked, self._pipe(1.0), INITIAL_WINDOW / 2)

    # --- phases ------------------------------------------------------------------------------

    def _move(self, sample: RateSample, now: float, *, new_round: bool) -> None:
        match self.phase:
            case Phase.STARTUP if self._full:
                self._enter(Phase.DRAIN, now)
            case Phase.DRAIN if sample.in_flight <= self._pipe(1.0):
                self._enter(Phase.DOWN, now)
            case Phase.DOWN if (
                sample.in_flight <= min(self._pipe(1.0), _HEADROOM * self._flight_high)
                or self._round > self._phase_round + _CRUISE_ROUNDS[0]
            ):
                self._enter(Phase.CRUISE, now)
            case Phase.CRUISE if (
                self._round >= self._phase_round + self._cruise_rounds and now >= self._phase_time + self._cruise_time
            ):
                self._enter(Phase.REFILL, now)
            case Phase.REFILL if self._round > self._phase_round:
                self._enter(Phase.UP, now)
            case Phase.UP:
                self._raise(sample, new_round=new_round)
                rounds = self._round - self._phase_round
                if rounds > _UP_ROUNDS or (rounds and sample.in_flight >= self._pipe(self._probing())):
                    self._enter(Phase.DOWN, now)
        self._probe_rtt(sample, now)

    def _raise(self, sample: RateSample, *, new_round: bool) -> None:
        """While UP fills the window it had, the bound grows: by UP_CELLS in the first round, then by twice as many."""
        if new_round:
            self._step *= 2
        if self._flight_high != inf and sample.in_flight + sample.acked >= self._flight_high - 1:
            self._flight_high += sample.acked * self._step / self._flight_high

    def _probe_rtt(self, sample: RateSample, now: float) -> None:
        if self.phase is Phase.PROBE_RTT:
            if self._probe_end is None:
                if sample.in_flight <= self._pipe(GAINS[Phase.PROBE_RTT].window) + MIN_WINDOW:
                    self._probe_end = now + _PROBE_RTT_TIME
                    self._phase_round = self._round
                    self._probe_min = inf
            elif now >= self._probe_end and self._round > self._phase_round:
                self._min_rtt_time = now
                if self._probe_min != inf:
                    self._min_rtt = self._probe_min
                self._enter(Phase.DOWN if self._full else Phase.STARTUP, now)
        elif now > self._min_rtt_time + _MIN_RTT_WINDOW:
            self._enter(Phase.PROBE_RTT, now)
            self._probe_end = None

    def _enter(self, phase: Phase, now: float) -> None:
        if phase not in NEXT[self.phase]:
            raise LocalError(f"{phase.name} does not follow {self.phase.name}")
        self.phase, self._phase_time, self._phase_round = phase, now, self._round
        match phase:
            case Phase.DOWN:
                self._eager = _LEAST_UP if self._met_queue else min(2 * self._eager, _EAGER)
                self._met_queue = False
                self._max_rate = [self._max_rate[1] or self._max_rate[0], 0.0]
            case Phase.CRUISE:
                low, high = _CRUISE_ROUNDS
                self._cruise_rounds = low + self._rng.below(high - low + 1)
                seconds = min(max(_CRUISE_TIME, _CRUISE_CELLS / max(self.rate, 1.0)), _MAX_CRUISE)
                self._cruise_time = seconds * (1 + self._rng.below(1000) / 1000)
            case Phase.REFILL:
                self._rate_low = self._flight_low = inf
            case Phase.UP:
                self._step = _UP_CELLS

    # --- what comes out ----------------------------------------------------------------------

    def _probing(self) -> float:
        """Times the rate of the path at which UP sends."""
        return 1 + max(min(_UP_CELLS / max(self._pipe(1.0), 1.0), _MAX_UP), self._eager)

    def _pipe(self, gain: float) -> float:
        """Cells that fill the path `gain` times."""
        return gain * self.rate * self._min_rtt if self._min_rtt != inf else gain * INITIAL_WINDOW

    def _publish(self, sample: RateSample) -> None:
        if self.phase is Phase.STARTUP:
            self._publish_start(sample)
            return
        gains, rate = GAINS[self.phase], self.rate
        self.pacing_rate = (self._probing() if self.phase is Phase.UP else gains.pacing) * rate * _MARGIN
        window = self._pipe(gains.window)
        if self.phase is not Phase.PROBE_RTT:
            # The far end gathers what it acknowledges: that much more has to be on the way.
            window += min(ACK_EVERY, rate * ack_delay(sample.smoothed_rtt)) + 2
        if self.phase in {Phase.UP, Phase.REFILL}:
            window = min(window, self._flight_high)
        else:
            window = min(window, self._flight_low, _HEADROOM * self._flight_high)
        self.window = max(int(window), MIN_WINDOW)

    def _publish_start(self, sample: RateSample) -> None:
        """The window grows by what arrives, up to its gain; a first measure below the first guess does not slow it."""
        gains = GAINS[Phase.STARTUP]
        if not self.rate or self.window < self._pipe(gains.window):
            self.window += sample.acked
        rate = self.rate or self.window / max(sample.smoothed_rtt, 1e-3)
        pacing = gains.pacing * rate * _MARGIN
        self.pacing_rate = max(pacing, self.pacing_rate) if self._round > 1 else pacing
