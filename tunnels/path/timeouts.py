"""How long a circuit may take to be built, learned from those that were (Tor path-spec, learning timeouts).  Floor 3:
values only.

The *timeout* is met by BUILD_QUANTILE of all circuits: the slowest fifth is not used, and not missed.  It is built on
all the same, until the *give-up* time, only to learn how long it would have taken: whoever stopped at the timeout would
see ever shorter times.

The timeout is the quantile as it was observed; behind it, where observations are few, the times are taken for a Pareto
distribution, fitted to those beyond the timeout (Hill's estimator).  Tor fits the Pareto to everything above the mode:
the two agree where the distribution is one.
"""

from collections import deque
from math import ceil, inf, log
from typing import Final, Self

from tunnels.errors import LocalError
from tunnels.params import (
    BUILD_BIN,
    BUILD_GIVE_UP_QUANTILE,
    BUILD_INITIAL_TIMEOUT,
    BUILD_MAX_RECENT_TIMEOUTS,
    BUILD_MAX_TIMEOUT,
    BUILD_MIN_SAMPLES,
    BUILD_MIN_TIMEOUT,
    BUILD_QUANTILE,
    BUILD_RECENT,
    BUILD_SAMPLES,
    MAX_HOPS,
)
from tunnels.path import saved

KIND: Final = "build times"

_BASE_HOPS: Final = 3
"""Times are kept as those of so many hops."""

_NEVER: Final = -1
"""Stands for a circuit that was given up: longer than any."""

_MAX_BINS: Final = ceil(10 * BUILD_MAX_TIMEOUT / BUILD_BIN)


def _scale(hops: int) -> float:
    """Time of three hops for that of `hops`: hop i costs a round trip over i links, so n hops cost n (n + 1) / 2."""
    if not 1 <= hops <= MAX_HOPS:
        raise LocalError(f"a circuit has 1 to {MAX_HOPS} hops, not {hops}")
    return _BASE_HOPS * (_BASE_HOPS + 1) / (hops * (hops + 1))


class BuildTimes:
    """The build times of the newest BUILD_SAMPLES circuits, in bins of BUILD_BIN."""

    def __init__(self) -> None:
        self._bins: deque[int] = deque(maxlen=BUILD_SAMPLES)
        self._recent: deque[bool] = deque(maxlen=BUILD_RECENT)
        self._fallback = BUILD_INITIAL_TIMEOUT
        self._learned: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self._bins)

    @property
    def is_learned(self) -> bool:
        return len(self._bins) >= BUILD_MIN_SAMPLES

    def timeout(self, hops: int) -> float:
        """Seconds after which a circuit is not used any more, though it may still be built."""
        return min(BUILD_MAX_TIMEOUT, max(BUILD_MIN_TIMEOUT, self._limits()[0] / _scale(hops)))

    def give_up(self, hops: int) -> float:
        """Seconds after which it is closed; never below `timeout`."""
        return min(BUILD_MAX_TIMEOUT, max(self.timeout(hops), self._limits()[1] / _scale(hops)))

    def built(self, hops: int, seconds: float) -> None:
        """A circuit was built, in time or after it."""
        if seconds <= self.timeout(hops):
            self._recent.append(False)
        self._note(min(_MAX_BINS, round(max(0.0, seconds) * _scale(hops) / BUILD_BIN)))

    def given_up(self) -> None:
        """A circuit was not built until the give-up time, for no other reason than time."""
        self._note(_NEVER)

    def timed_out(self) -> None:
        """A circuit was not built until the timeout, while its guard was heard from.

        When nearly all of the last circuits were not, the network is another one than we learned about: everything is
        forgotten, and a timeout that was no help is doubled.  (A dead guard says nothing of the kind: leave it out.)
        """
        self._recent.append(True)
        if sum(self._recent) < BUILD_MAX_RECENT_TIMEOUTS:
            return
        before = self.timeout(_BASE_HOPS)
        self._bins.clear()
        self._recent.clear()
        self._learned = None
        self._fallback = BUILD_INITIAL_TIMEOUT
        if before >= BUILD_INITIAL_TIMEOUT:
            self._fallback = min(BUILD_MAX_TIMEOUT, 2 * before)

    def _note(self, number: int) -> None:
        self._bins.append(number)
        self._learned = None

    def _limits(self) -> tuple[float, float]:
        """Timeout and give-up time of three hops, before their bounds."""
        if not self.is_learned:
            return self._fallback, self._fallback
        if self._learned is None:
            self._learned = _fit([number * BUILD_BIN if number != _NEVER else inf for number in self._bins])
        return self._learned

    def to_bytes(self) -> bytes:
        return saved.dump(KIND, {"fallback": self._fallback, "bins": list(self._bins)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` wrote; the last few timeouts are not in it.

        Raises:
            StateError: this is something else.
        """
        fields, times = saved.parse(data, KIND), cls()
        times._fallback = fields.positive("fallback")
        if not BUILD_INITIAL_TIMEOUT <= times._fallback <= BUILD_MAX_TIMEOUT:
            raise fields.fail("fallback", "is out of bounds")
        for number in fields.numbers("bins", BUILD_SAMPLES):
            if not (number == _NEVER or 0 <= number <= _MAX_BINS) or number != int(number):
                raise fields.fail("bins", "holds no bin")
            times._bins.append(int(number))
        return times


def _fit(times: list[float]) -> tuple[float, float]:
    """The two quantiles of `times`, of which those that never came are inf."""
    times.sort()
    at = min(len(times) - 1, ceil(BUILD_QUANTILE * len(times)) - 1)
    quantile = max(times[at], BUILD_BIN)
    if quantile == inf:
        return inf, inf
    slow = times[at + 1 :]
    came = [time for time in slow if time != inf]
    if not came:
        return quantile, (inf if slow else quantile)
    # The likelihood of a Pareto tail of which those that never came are known to be beyond the slowest that did.
    exponent = len(came) / max(1e-9, sum(log(max(min(time, came[-1]), quantile) / quantile) for time in slow))
    beyond = (1 - BUILD_QUANTILE) / (1 - BUILD_GIVE_UP_QUANTILE)
    return quantile, quantile * beyond ** min(1 / exponent, 10.0)
