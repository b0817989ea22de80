"""How sure a score is: intervals over items and over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tlsearch.counts import plural

LEVEL = 0.95
GROUPS = "groups"
"""Among a split's scores: in how many groups its items come that are right and wrong together."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A range that holds the true value with 95 % confidence."""

    low: float
    high: float


def resampled(scores: Mapping[str, float], metric: str) -> Interval | None:
    """Of a score whose items, or groups of items, were drawn anew; None where that told nothing.

    Args:
        scores: of a split, with the interval's ends as ``NAME_low`` and ``NAME_high``.
        metric: of the score.
    """
    low, high = scores.get(f"{metric}_low"), scores.get(f"{metric}_high")
    return Interval(low, high) if low is not None and high is not None and low < high else None


def over_groups(scores: Mapping[str, float], metric: str, count: int) -> str:
    """What follows an interval's number of items where these come in groups; empty where they don't.

    Args:
        scores: of a split, see `resampled`.
        metric: of the score.
        count: items of the split.
    """
    groups = int(scores.get(GROUPS, count))
    if groups >= count:
        return ""
    if resampled(scores, metric):
        return f" in {plural(groups, 'group')}"
    return f", each counted alone; they come in {plural(groups, 'group')}, so it is too narrow"


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
