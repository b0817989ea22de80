"""How good sets of labels are: scikit-learn's metrics, at a threshold for each label."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tlsearch.contracts import Scores
from tlsearch.tasks.kept_outputs import KeptOutputs

MAP, MACRO_F1, MICRO_F1 = "map", "macro_f1", "micro_f1"
SUBSET, LOG_LOSS = "subset_accuracy", "log_loss"
USUAL = 0.5
"""The threshold of a label of which there are too few items to choose another one."""
FEWEST = 3
"""Items with a label that it takes to choose a threshold by."""

Array = NDArray[np.float64]


class LabelEvaluator(KeptOutputs):
    """Of logits and targets of 0 and 1, both (B, K)."""

    def __init__(self, thresholds: Sequence[float] | None = None) -> None:
        super().__init__()
        self._thresholds = thresholds

    def compute(self) -> Scores:
        """All metrics; none is a number where an output isn't one.

        ``map`` is the mean of the average precisions of the labels that occur. ``macro_f1``, over the same
        labels, ``micro_f1`` and ``subset_accuracy`` (the share of items whose set is exactly right) are
        at the thresholds that were given, else at those that are best on these very items: scores of
        validation items. ``log_loss`` is the mean over all labels, in nats.
        """
        outputs, targets = (kept.double() for kept in self.kept())
        if not bool(torch.isfinite(outputs).all()):
            return dict.fromkeys((MAP, MACRO_F1, MICRO_F1, SUBSET, LOG_LOSS), math.nan)
        from sklearn.metrics import f1_score

        shares, true = outputs.sigmoid().numpy(), targets.numpy()
        precisions = average_precisions(shares, true)
        thresholds = self._thresholds if self._thresholds is not None else best_thresholds(shares, true)
        said = shares >= np.asarray(thresholds)
        occurring = np.flatnonzero(true.any(axis=0))
        wanted, told = true.astype(int), said.astype(int)
        each = [f1_score(*pair, zero_division=0.0) for pair in zip(wanted.T, told.T, strict=True)]
        micro = f1_score(wanted.ravel(), told.ravel(), zero_division=0.0)
        return {
            MAP: float(np.mean(list(precisions.values()))) if precisions else 0.0,
            MACRO_F1: float(np.mean(np.asarray(each)[occurring])) if len(occurring) else 0.0,
            MICRO_F1: float(micro),
            SUBSET: float((said == (true > 0)).all(axis=1).mean()),
            LOG_LOSS: float(functional.binary_cross_entropy_with_logits(outputs, targets)),
        }


def average_precisions(shares: Array, true: Array) -> dict[int, float]:
    """Average precision of each label that occurs, by its position, of probabilities and 0 and 1 (N, K)."""
    from sklearn.metrics import average_precision_score

    occurring = np.flatnonzero(true.any(axis=0)).tolist()
    return {at: float(average_precision_score(true[:, at], shares[:, at])) for at in occurring}


def best_thresholds(shares: Array, true: Array) -> list[float]:
    """For each label the probability from which on saying that an item has it gives the best F1.

    Halfway between two items' probabilities. Where F1s differ by less than one item in all of them, the
    threshold nearest to 0.5 is taken: of few items the best alone may be so low that every item has the
    label, or so high that hardly one has. Labels of fewer than 3 items
    keep 0.5.

    Args:
        shares: probabilities (N, K).
        true: 0 and 1 (N, K).
    """
    return [_best_threshold(*pair) for pair in zip(shares.T, true.T, strict=True)]


def _best_threshold(shares: Array, true: Array) -> float:
    if true.sum() < FEWEST:
        return USUAL
    order = np.argsort(-shares, kind="stable")
    ordered, hits = shares[order], np.cumsum(true[order])
    scores = 2 * hits / (np.arange(1, len(ordered) + 1) + true.sum())
    scores[:-1][ordered[:-1] == ordered[1:]] = -1  # no threshold goes between equals
    halfway = (ordered + np.append(ordered[1:], 0.0)) / 2
    near = np.flatnonzero(scores >= scores.max() - 1 / len(scores))
    return float(halfway[near[np.abs(halfway[near] - USUAL).argmin()]])
