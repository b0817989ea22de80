"""How sure a model's score on held-out items is, as it was measured."""

from __future__ import annotations

from collections.abc import Mapping

from tlsearch.models.intervals import Interval, resampled, wilson
from tlsearch.reports.formatting import SHARES


def of_items(scores: Mapping[str, float], metric: str, count: int) -> Interval | None:
    """Of a model's score, by resampling items, or their groups, as it was measured.

    Where nothing was drawn, or no drawn set changes the score, a share of right answers has `wilson`.

    Args:
        scores: as a `ModelRecord` has them of the split.
        metric: of the score.
        count: items of the split.
    """
    if interval := resampled(scores, metric):
        return interval
    share = scores.get(metric)
    return wilson(share * count, count) if share is not None and metric in SHARES and count else None
