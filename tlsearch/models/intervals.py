"""How sure a score is: intervals over items and over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A range that holds the true value with 95 % confidence."""

    low: float
    high: float


def wilson(right: float, count: int) -> Interval:
    """Of a share of right answers (E. B. Wilson 1927): holds also near 0 and 1 and for few items.

    Args:
        right: right answers.
        count: items; above 0.
    """
    z = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def over_seeds(values: Sequence[float]) -> Interval | None:
    """Of the mean of runs that differ by their seed alone (Student's t); None for a single run."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    mean = statistics.fmean(values)
    return Interval(mean - half, mean + half)
