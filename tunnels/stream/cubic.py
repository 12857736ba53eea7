"""CUBIC (RFC 9438), paced: what most of the Internet does, for comparison.  Floor 3: sans-IO.

Names as in the RFC; windows in cells.  It takes every lost cell for congestion, which starves it on a long path that
loses a few at random: bbr.py is the default.
"""

from math import inf
from typing import Final

from tunnels.params import INITIAL_RTT, INITIAL_WINDOW, MIN_WINDOW
from tunnels.stream.congestion import RateSample

_C: Final = 0.4
"""RFC 9438 5.1."""

_BETA: Final = 0.7
"""RFC 9438 4.6."""

_ALPHA: Final = 3 * (1 - _BETA) / (1 + _BETA)
"""Growth of the Reno-friendly window (RFC 9438 4.3)."""

_START_GAIN: Final = 2.0
_GAIN: Final = 1.25
"""Windows a round trip at which it is paced, in slow start and after (RFC 9002 7.7)."""


class Cubic:
    """A `Congestion`."""

    def __init__(self) -> None:
        self.window = INITIAL_WINDOW
        self.pacing_rate = _START_GAIN * INITIAL_WINDOW / INITIAL_RTT
        self._cwnd = float(INITIAL_WINDOW)
        self._ssthresh = inf
        self._w_max = 0.0
        self._w_est = 0.0
        self._k = 0.0
        self._epoch: float | None = None
        self._reduced = -inf
        self._smoothed_rtt = INITIAL_RTT

    def on_sent(self, in_flight: int, now: float) -> None:
        pass

    def on_acked(self, sample: RateSample, now: float) -> None:
        self._smoothed_rtt = max(sample.smoothed_rtt, 1e-6)
        used = sample.in_flight + sample.acked
        if not sample.app_limited and 2 * used >= self._cwnd:  # RFC 9002 7.8: a window that is not used does not grow
            if self._cwnd < self._ssthresh:
                self._cwnd += sample.acked
            else:
                self._avoid_congestion(sample.acked, now)
        self._publish()

    def _avoid_congestion(self, acked: int, now: float) -> None:
        """RFC 9438 4.2 to 4.5."""
        if self._epoch is None:
            self._epoch = now
            self._w_est = self._cwnd
            if self._w_max < self._cwnd:
                self._w_max, self._k = self._cwnd, 0.0
            else:
                self._k = ((self._w_max - self._cwnd) / _C) ** (1 / 3)
        t = now - self._epoch + self._smoothed_rtt
        target = _C * (t - self._k) ** 3 + self._w_max
        target = min(max(target, self._cwnd), 1.5 * self._cwnd)
        self._w_est += (_ALPHA if self._w_est < self._w_max else 1.0) * acked / self._cwnd
        self._cwnd = max(self._cwnd + (target - self._cwnd) / self._cwnd * acked, self._w_est)

    def on_lost(self, lost: int, in_flight: int, newest_sent: float, now: float) -> None:
        if newest_sent <= self._reduced:
            return
        self._reduced = now
        self._epoch = None
        # 4.7, fast convergence: a flow that meets its limit earlier than last time makes room for others.
        self._w_max = self._cwnd * (1 + _BETA) / 2 if self._cwnd < self._w_max else self._cwnd
        self._cwnd = max(self._cwnd * _BETA, MIN_WINDOW)
        self._ssthresh = self._cwnd
        self._publish()

    def on_persistent_congestion(self, now: float) -> None:
        self._cwnd = float(MIN_WINDOW)
        self._epoch = None
        self._publish()

    def _publish(self) -> None:
        self.window = int(self._cwnd)
        gain = _START_GAIN if self._cwnd < self._ssthresh else _GAIN
        self.pacing_rate = gain * self._cwnd / self._smoothed_rtt
