"""What every benchmark shares: this machine in words, pieces of work timed side by side, and their figures.

Bare times say little about another machine, so a benchmark times what it judges *and* what it is judged by in one run,
in turn, round after round: a machine that slows down half-way slows both.
"""

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

Work = Callable[[], object]

_CPUINFO: Final = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Figure:
    """One piece of work over all rounds, in microseconds."""

    median: float
    low: float
    """First quartile: with `high`, where the middle half of the rounds lies."""
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Figure":
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, low, high)

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, as a share of the median."""
        return (self.high - self.low) / 2 / self.median

    def as_json(self) -> dict[str, float]:
        return {"median_us": round(self.median, 3), "low_us": round(self.low, 3), "high_us": round(self.high, 3)}


def machine() -> dict[str, str | int]:
    """Where the figures are from."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu() -> str:
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def interleaved(works: Mapping[str, Work], runs: int, warm_up: int = 10) -> dict[str, list[float]]:
    """Microseconds of each work in each of `runs` rounds, without the rounds that fill the caches.

    Every round runs every work once, in the order of `works`: a later one may use what an earlier one left.
    """
    samples: dict[str, list[float]] = {name: [] for name in works}
    clock = time.perf_counter_ns
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(warm_up + runs):
            for name, work in works.items():
                start = clock()
                work()
                taken = clock() - start
                if number >= warm_up:
                    samples[name].append(taken / 1000)
    finally:
        if collecting:
            gc.enable()
    return samples
