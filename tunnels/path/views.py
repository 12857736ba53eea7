"""Whose word a client takes for which relays (SPEC 12.3).  Floor 3: sans-IO.

One directory can show a client relays of its own choosing.  So a relay counts only when MIN_SOURCES sources have shown
it, none of whom the client took another's place for, and two sources whose sets differ much are a reason to stop and
say so.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import combinations

from tunnels.ids import RelayId
from tunnels.params import MAX_DISAGREEMENT, MIN_SOURCES


@dataclass(frozen=True, slots=True)
class View:
    """What one source showed, at one time (wall seconds)."""

    relays: frozenset[RelayId]
    seen: float


class Views:
    """The newest view of each source."""

    def __init__(self, min_sources: int = MIN_SOURCES) -> None:
        self._views: dict[RelayId, View] = {}
        self._first_seen: dict[RelayId, float] = {}
        self.min_sources = min_sources

    def __len__(self) -> int:
        return len(self._views)

    def show(self, source: RelayId, relays: Iterable[RelayId], now: float) -> None:
        """`source` has shown its whole set."""
        view = View(frozenset(relays), now)
        self._views[source] = view
        for relay_id in view.relays:
            self._first_seen.setdefault(relay_id, now)

    def forget(self, gone: Collection[RelayId]) -> None:
        """These relays do not exist any more: neither as a source nor as something shown."""
        for relay_id in gone:
            self._views.pop(relay_id, None)
            self._first_seen.pop(relay_id, None)

    def first_seen(self, relay_id: RelayId) -> float | None:
        """Wall seconds, None when nobody has shown it."""
        return self._first_seen.get(relay_id)

    def sources_of(self, relay_id: RelayId) -> int:
        return sum(relay_id in view.relays for view in self._views.values())

    def agreed(self, *, min_age: float, now: float) -> frozenset[RelayId]:
        """The relays that enough sources have shown and that have been known for `min_age` seconds."""
        return frozenset(
            relay_id
            for relay_id, first in self._first_seen.items()
            if now - first >= min_age and self.sources_of(relay_id) >= self.min_sources
        )

    def disagreement(self) -> float:
        """The largest share by which two views differ: 0.0 are equal sets, 1.0 have nothing in common."""
        return max((_difference(a.relays, b.relays) for a, b in combinations(self._views.values(), 2)), default=0.0)

    def trouble(self, *, min_relays: int, min_age: float, now: float) -> str:
        """Why no circuits for data should be built, empty when they may."""
        if len(self._views) < self.min_sources:
            return f"{len(self._views)} of {self.min_sources} directory sources have answered"
        agreed = len(self.agreed(min_age=min_age, now=now))
        if (share := self.disagreement()) > MAX_DISAGREEMENT and not self._majority():
            return f"directory sources disagree on {share:.0%} of the relays: somebody may be hiding the network"
        if agreed < min_relays:
            return f"{agreed} relays are known from {self.min_sources} sources; {min_relays} are needed"
        return ""

    def _majority(self) -> bool:
        """Whether more than half of the sources, and at least MIN_SOURCES + 1, agree with each other."""
        views = list(self._views.values())
        for view in views:
            like = sum(_difference(view.relays, other.relays) <= MAX_DISAGREEMENT for other in views)
            if like > len(views) / 2 and like > self.min_sources:
                return True
        return False


def _difference(a: frozenset[RelayId], b: frozenset[RelayId]) -> float:
    """The share of the larger set that the two have not in common."""
    larger = max(len(a), len(b))
    return 1 - len(a & b) / larger if larger else 0.0
