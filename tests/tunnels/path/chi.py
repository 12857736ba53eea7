"""Whether counts are what shares promise."""

from collections.abc import Sequence
from math import sqrt


def too_far(counts: Sequence[int], shares: Sequence[float]) -> bool:
    """Pearson's chi-square test: whether draws by `shares` give such counts less than once in 10 000 times.

    Wilson and Hilferty's cube root makes chi-square normal; 3.72 is the quantile.  Places expected less than 5 times
    are put together.
    """
    total = sum(counts)
    assert abs(sum(shares) - 1) < 1e-9
    places = [(count, share * total) for count, share in zip(counts, shares, strict=True) if share * total >= 5]
    rest = (total - sum(count for count, _ in places), total - sum(expected for _, expected in places))
    if rest[1] >= 5:
        places.append(rest)
    elif rest[0] > 25:
        return True
    freedom = len(places) - 1
    statistic = sum((count - expected) ** 2 / expected for count, expected in places)
    normal = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / sqrt(2 / (9 * freedom))
    return bool(normal > 3.72)
