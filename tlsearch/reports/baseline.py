"""What a classifier scores that always answers the commonest class: scores are read beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tlsearch.reports.formatting import SHARES


@dataclass(frozen=True, slots=True)
class Baseline:
    """A score of always answering one class.

    Attributes:
        split: whose items were counted.
        metric: of the score.
        name: of the class, the commonest of the training items.
        value: the score.
    """

    split: str
    metric: str
    name: str
    value: float


def commonest(
    audit: Mapping[str, Any], scores: Mapping[str, Mapping[str, float]], metric: str
) -> Baseline | None:
    """The baseline of a metric that is a share, on the test items, or where none were opened on validation's.

    Args:
        audit: of the study's data; it counts the items of each class by split.
        scores: of a model, by split; what knows an accuracy is a classifier's.
        metric: of the baseline.

    Returns:
        None for other tasks and metrics, and where items weren't counted.
    """
    split = "test" if scores.get("test") else "val"
    counts = audit.get("counts") or {}
    train, held = counts.get("train") or {}, counts.get(split) or {}
    if metric not in SHARES or "accuracy" not in scores.get(split, {}) or not train or not any(held.values()):
        return None
    name = max(train, key=lambda one: int(train[one]))
    share = int(held.get(name, 0)) / sum(map(int, held.values()))
    classes = sum(1 for count in held.values() if count)
    recall, f1 = float(share > 0), 2 * share / (1 + share)
    value = {"accuracy": share, "balanced_accuracy": recall / classes, "macro_f1": f1 / classes}
    return Baseline(split, metric, str(name), value[metric])
