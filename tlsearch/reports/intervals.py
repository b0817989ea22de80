"""How sure a model's score on test items is, as it was measured."""

from __future__ import annotations

from collections.abc import Mapping

from tlsearch.models.intervals import Interval, wilson
from tlsearch.reports.formatting import SHARES


def of_test(scores: Mapping[str, float], metric: str, count: int) -> Interval | None:
    """Of a model's score on test items, by resampling them, or their groups, as it was measured.

    Where nothing was drawn, or no drawn set changes the score, a share of right answers has `wilson`.

    Args:
        scores: as a `ModelRecord` has them of the test split.
        metric: of the score.
        count: test items.
    """
    low, high = scores.get(f"{metric}_low"), scores.get(f"{metric}_high")
    if low is not None and high is not None and low < high:
        return Interval(low, high)
    share = scores.get(metric)
    return wilson(share * count, count) if share is not None and metric in SHARES and count else None
