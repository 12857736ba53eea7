"""Whose word a client takes for which relays (SPEC 12.3).  Floor 3: sans-IO.

One directory can show a client relays of its own choosing.  So a relay counts only when MIN_SOURCES sources in
different networks have shown it, and sources whose sets differ much are a reason to stop and say so, or, where most of
them agree, to believe those alone.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import combinations

from tunnels.ids import RelayId
from tunnels.params import MAX_DISAGREEMENT, MIN_SOURCES, ROOT_LIFETIME, VIEW_LIFETIME


@dataclass(frozen=True, slots=True)
class View:
    """What one source showed, at one time (wall seconds)."""

    source: RelayId
    relays: frozenset[RelayId]
    seen: float
    networks: frozenset[str]
    rooted: bool


class Views:
    """The newest view of each network: two sources in one are as good as one.

    INVARIANT: `_first_seen` has what some view shows, and nothing else.
    """

    def __init__(self, min_sources: int = MIN_SOURCES) -> None:
        self._views: dict[RelayId, View] = {}
        self._first_seen: dict[RelayId, float] = {}
        self.min_sources = min_sources

    def __len__(self) -> int:
        return len(self._views)

    def show(self, source: RelayId, relays: Iterable[RelayId], now: float, *,
             networks: Collection[str] = frozenset(), rooted: bool = False) -> None:  # fmt: skip
        """`source` has shown its whole set.

        Args:
            networks: all in which the source says it is (`select.networks_of`): one it has only made up adds no second
                voice to the one it has.  Empty where networks are not told apart.
            rooted: whether it is one that the application told us to begin with.  No other takes its place, and no
                majority counts against it.
        """
        view = View(source, frozenset(relays), now, frozenset(networks), rooted)
        same = [known for known, other in self._views.items() if known == source or other.networks & view.networks]
        if not rooted and any(self._has_root(known, now) for known in same if known != source):
            return
        self._remove(same)
        self._views[source] = view
        for relay_id in view.relays:
            self._first_seen.setdefault(relay_id, now)
        self._tidy()

    def forget(self, gone: Collection[RelayId]) -> None:
        """These relays do not exist any more: neither as a source nor as something shown."""
        gone = frozenset(gone)
        if gone:
            self._remove([key for key, view in self._views.items() if view.source in gone])
            self._views = {key: replace(view, relays=view.relays - gone) for key, view in self._views.items()}
            self._tidy()

    def expire(self, now: float) -> None:
        """Forget views that are so old that they say nothing of the network as it is."""
        self._remove([key for key, view in self._views.items() if now - view.seen >= VIEW_LIFETIME])
        self._tidy()

    @property
    def sources(self) -> tuple[RelayId, ...]:
        """Whose views count, in the order of the networks they were first heard from."""
        return tuple(view.source for view in self._views.values())

    def first_seen(self, relay_id: RelayId) -> float | None:
        """Wall seconds, None when nobody shows it."""
        return self._first_seen.get(relay_id)

    def sources_of(self, relay_id: RelayId) -> int:
        return sum(relay_id in view.relays for view in self._views.values())

    def agreed(self, *, min_age: float, now: float) -> frozenset[RelayId]:
        """The relays that enough sources show and that have been known for `min_age` seconds.

        Where sources differ by more than MAX_DISAGREEMENT only those of the majority count: two liars must not add
        their own relays to what the honest ones show.
        """
        self.expire(now)
        believed = self._majority() or list(self._views.values())
        return frozenset(
            relay_id
            for relay_id, first in self._first_seen.items()
            if now - first >= min_age and sum(relay_id in view.relays for view in believed) >= self.min_sources
        )

    def disagreement(self) -> float:
        """The largest share by which two views differ: 0.0 are equal sets, 1.0 have nothing in common."""
        return max((_difference(a.relays, b.relays) for a, b in combinations(self._views.values(), 2)), default=0.0)

    def trouble(self, *, min_relays: int, min_age: float, now: float) -> str:
        """Why no circuits for data should be built, empty when they may."""
        agreed = len(self.agreed(min_age=min_age, now=now))
        if len(self._views) < self.min_sources:
            return f"{len(self._views)} of {self.min_sources} directory sources have answered"
        if (share := self.disagreement()) > MAX_DISAGREEMENT and not self._majority():
            return f"directory sources disagree on {share:.0%} of the relays: somebody may be hiding the network"
        if agreed < min_relays:
            return f"{agreed} relays are known from {self.min_sources} sources; {min_relays} are needed"
        return ""

    def _majority(self) -> list[View]:
        """The largest group of views around one that they all agree with, when it is more than half of them and more
        than `min_sources`; else none.
        """
        views = list(self._views.values())
        groups = ([b for b in views if _difference(a.relays, b.relays) <= MAX_DISAGREEMENT] for a in views)
        largest = max(groups, key=len, default=[])
        if len(largest) <= len(views) / 2 or len(largest) <= self.min_sources:
            return []
        # Who makes up relays makes up sources too.  What he cannot make up is whom the application has named.
        newest = max(view.seen for view in views)
        return largest if all(v in largest for v in views if self._has_root(v.source, newest)) else []

    def _has_root(self, source: RelayId, now: float) -> bool:
        """Whether it is rooted, and was heard lately: what is older may differ because the network has changed."""
        view = self._views[source]
        return view.rooted and now - view.seen < ROOT_LIFETIME

    def _remove(self, keys: Iterable[RelayId]) -> None:
        for key in keys:
            del self._views[key]

    def _tidy(self) -> None:
        shown = frozenset[RelayId]().union(*(view.relays for view in self._views.values()))
        if len(shown) < len(self._first_seen):
            self._first_seen = {relay_id: first for relay_id, first in self._first_seen.items() if relay_id in shown}


def _difference(a: frozenset[RelayId], b: frozenset[RelayId]) -> float:
    """The share of the larger set that the two have not in common."""
    larger = max(len(a), len(b))
    return 1 - len(a & b) / larger if larger else 0.0
