"""What one answer for all items scores: a model's scores are read beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Baseline:
    """A score of always answering the same.

    Attributes:
        split: whose items it was measured on.
        metric: of the score.
        words: what is answered, such as ``always answering "3", the commonest class``.
        value: the score.
    """

    split: str
    metric: str
    words: str
    value: float


def baseline_of(
    audit: Mapping[str, Any], scores: Mapping[str, Mapping[str, float]], metric: str
) -> Baseline | None:
    """The baseline on the test items, or where a model has no scores of these, on validation items.

    Args:
        audit: of the study's data.
        scores: of a model, by split.
        metric: of the baseline.

    Returns:
        None where none was measured: by an older version, or as no one answer suits all items.
    """
    split = "test" if scores.get("test") else "val"
    found = audit.get("baseline") or {"scores": {}}
    value = found["scores"].get(split, {}).get(metric)
    return None if value is None else Baseline(split, metric, found["words"], value)
