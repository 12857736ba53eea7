"""Who is to blame when circuits fail.  Floor 3: sans-IO.

Two books are kept, because two kinds of liar have to be found.

*Path bias* (Tor path-spec): a guard that kills circuits unless a friend is their exit is in all that fail.  So success
is charged to the guard alone, and a guard below BIAS_OUT is not used.  Until then a failed build keeps its exit
(`Attempt`): a guard that kills gets another middle, not another exit.

*Blame*: that the extension from one hop to the next failed is the word of the first against the second, and either may
be the one that lies.  So it is charged to the pair.  A relay as such is avoided only when several partners failed with
it and none has worked since.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise
from math import inf
from typing import Final, Self

from tunnels.ids import RelayId
from tunnels.params import (
    BIAS_MIN_CIRCUITS,
    BIAS_MIN_USES,
    BIAS_NOTICE,
    BIAS_OUT,
    BIAS_SCALE,
    BIAS_USE_NOTICE,
    BIAS_USE_OUT,
    BIAS_USE_SCALE,
    BIAS_WARN,
    BLAME_FLOOR,
    BLAME_HALF_LIFE,
    BLAME_PARTNERS,
    EXIT_WITNESSES,
    GUARD_MAX_SAMPLE,
    KEEP_EXIT_TRIES,
    MAX_BLAMED_PAIRS,
)
from tunnels.path import saved

KIND: Final = "path bias"


class Verdict(IntEnum):
    """On a guard; worse is larger."""

    FINE = 0
    NOTICE = 1
    WARN = 2
    OUT = 3


@dataclass(slots=True)
class _Counts:
    """Real numbers, because halving has to keep the ratio."""

    begun: float = 0.0
    built: float = 0.0
    tried: float = 0.0
    worked: float = 0.0


class PathBias:
    """How many circuits through each guard were built and then carried something.

    `begun` is counted when the guard has answered: that it does not answer at all is for `Guards.failed`.
    """

    def __init__(self) -> None:
        self._counts: dict[RelayId, _Counts] = {}

    def begun(self, guard: RelayId) -> None:
        counts = self._counts.setdefault(guard, _Counts())
        if counts.begun >= BIAS_SCALE:
            counts.begun, counts.built = counts.begun / 2, counts.built / 2
        counts.begun += 1

    def built(self, guard: RelayId) -> None:
        counts = self._counts.setdefault(guard, _Counts())
        counts.built = min(counts.built + 1, counts.begun)

    def collapsed(self, guard: RelayId) -> None:
        """One that was built ended through others before it carried anything: it does not count as built."""
        counts = self._counts.setdefault(guard, _Counts())
        counts.built = max(0.0, counts.built - 1)

    def use_tried(self, guard: RelayId) -> None:
        """A circuit through it was asked to carry something for the first time."""
        counts = self._counts.setdefault(guard, _Counts())
        if counts.tried >= BIAS_USE_SCALE:
            counts.tried, counts.worked = counts.tried / 2, counts.worked / 2
        counts.tried += 1

    def use_worked(self, guard: RelayId) -> None:
        """And an answer came back."""
        counts = self._counts.setdefault(guard, _Counts())
        counts.worked = min(counts.worked + 1, counts.tried)

    def verdict(self, guard: RelayId) -> Verdict:
        counts = self._counts.get(guard)
        if counts is None:
            return Verdict.FINE
        built = worked = 1.0
        if counts.begun >= BIAS_MIN_CIRCUITS:
            built = counts.built / counts.begun
        if counts.tried >= BIAS_MIN_USES:
            worked = counts.worked / counts.tried
        if built < BIAS_OUT or worked < BIAS_USE_OUT:
            return Verdict.OUT
        if built < BIAS_WARN:
            return Verdict.WARN
        return Verdict.NOTICE if built < BIAS_NOTICE or worked < BIAS_USE_NOTICE else Verdict.FINE

    def out(self) -> frozenset[RelayId]:
        """The guards that are not to be used: for `Guards.exclude`."""
        return frozenset(guard for guard in self._counts if self.verdict(guard) is Verdict.OUT)

    def keep(self, guards: Collection[RelayId]) -> None:
        """Forget all others: they are no guards any more."""
        self._counts = {guard: counts for guard, counts in self._counts.items() if guard in guards}

    def to_bytes(self) -> bytes:
        guards = [
            {"id": guard.hex(), "begun": c.begun, "built": c.built, "tried": c.tried, "worked": c.worked}
            for guard, c in self._counts.items()
        ]
        return saved.dump(KIND, {"guards": guards})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """
        Raises:
            StateError: `to_bytes` did not write this.
        """
        bias = cls()
        for entry in saved.parse(data, KIND).objects("guards", GUARD_MAX_SAMPLE):
            counts = _Counts(*(entry.positive(name) for name in ("begun", "built", "tried", "worked")))
            if counts.built > counts.begun or counts.worked > counts.tried:
                raise entry.fail("built", "or worked is more than there was")
            bias._counts[entry.relay("id")] = counts
        return bias


@dataclass(frozen=True, slots=True)
class Attempt:
    """One wish for a circuit through its failed builds.

    Attributes:
        exit: what the next build has to end at, None to draw one.
        failures: builds that failed with this exit.
        witnesses: relays that said they could not reach it.
    """

    exit: RelayId | None = None
    failures: int = 0
    witnesses: frozenset[RelayId] = frozenset()

    def refused(self, exit: RelayId, witness: RelayId) -> "Attempt":  # noqa: A002 (the word of the protocol)
        """What follows when `witness`, in front of it, says under its own seal that it cannot reach `exit`.

        A guard cannot forge that word, so two witnesses weigh more than a guard's silence: a dead exit is given up
        soon.
        """
        witnesses = (self.witnesses if exit == self.exit else frozenset()) | {witness}
        if len(witnesses) >= EXIT_WITNESSES:
            return Attempt()
        return replace(self.failed(exit), witnesses=witnesses)

    def failed(self, exit: RelayId) -> "Attempt":  # noqa: A002 (the word of the protocol)
        """What follows when a build to `exit` failed: the same exit, until it has failed KEEP_EXIT_TRIES times."""
        failures = self.failures + 1 if exit == self.exit else 1
        witnesses = self.witnesses if exit == self.exit else frozenset[RelayId]()
        return Attempt(exit, failures, witnesses) if failures < KEEP_EXIT_TRIES else Attempt()


@dataclass(slots=True)
class _Amount:
    amount: float
    at: float


class Blame:
    """Failed extensions by pairs of neighbours, fading.

    A pair has no direction: two relays that do not come together in one order seldom do in the other.  Times are any
    seconds that go forward; what is dated later than now has not faded yet.

    INVARIANT: `_partners[a]` holds b exactly while the pair (a, b) is blamed.
    """

    def __init__(self) -> None:
        self._pairs: dict[_Key, _Amount] = {}
        self._partners: dict[RelayId, set[RelayId]] = {}
        self._worked: dict[RelayId, float] = {}

    def __len__(self) -> int:
        return len(self._pairs)

    def failed(self, before: RelayId, at: RelayId, now: float) -> None:
        """`before` was asked to extend to `at`, and it did not come about."""
        key = _key(before, at)
        if len(self._pairs) >= MAX_BLAMED_PAIRS and key not in self._pairs:
            self._forget(min(self._pairs, key=lambda pair: self._amount(pair, now)))
        self._pairs[key] = _Amount(self._amount(key, now) + 1.0, now)
        self._partners.setdefault(before, set()).add(at)
        self._partners.setdefault(at, set()).add(before)

    def worked(self, path: Sequence[RelayId], now: float) -> None:
        """A circuit over `path` was built: its pairs are cleared, and so is each relay as such."""
        for before, at in pairwise(path):
            self._forget(_key(before, at))
        for relay_id in path:
            if relay_id in self._partners:
                self._worked[relay_id] = now

    def factor(self, before: RelayId | None, at: RelayId, now: float) -> float:
        """What the chance of `before` in front of `at` is multiplied with: 1 without blame, BLAME_FLOOR at the least.

        Args:
            before: None for the chance of `at` as such, whoever comes before it.
        """
        blame = self._own(at if before is None else before, now)
        if before is not None:
            blame += self._amount(_key(before, at), now)
        return max(BLAME_FLOOR, 1.0 / (1.0 + blame))

    def _amount(self, key: "_Key", now: float) -> float:
        entry = self._pairs.get(key)
        return entry.amount * 0.5 ** (max(0.0, now - entry.at) / BLAME_HALF_LIFE) if entry is not None else 0.0

    def _own(self, relay_id: RelayId, now: float) -> float:
        """The blame that a relay has with each of BLAME_PARTNERS others since it worked with anybody."""
        keys = [_key(relay_id, partner) for partner in self._partners.get(relay_id, ())]
        since = self._worked.get(relay_id, -inf)
        amounts = sorted((self._amount(key, now) for key in keys if self._pairs[key].at > since), reverse=True)
        return amounts[BLAME_PARTNERS - 1] if len(amounts) >= BLAME_PARTNERS else 0.0

    def _forget(self, key: "_Key") -> None:
        if self._pairs.pop(key, None) is None:
            return
        for relay_id, partner in (key, key[::-1]):
            self._partners[relay_id].discard(partner)
            if not self._partners[relay_id]:
                del self._partners[relay_id]
                self._worked.pop(relay_id, None)


_Key = tuple[RelayId, RelayId]


def _key(one: RelayId, other: RelayId) -> _Key:
    return (one, other) if one < other else (other, one)
