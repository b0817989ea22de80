"""Intervals by split conformal prediction (Lei et al. 2018, arXiv:1604.04173, section 2.2).

Of n held-out items, the absolute errors are ordered. With the k-th smallest as margin on both sides, k/(n+1)
of new items like these have their number inside the interval, on average and at least, whatever the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

COVERAGE = 0.9
"""Wanted; of fewer than nine items the margin is the largest error, and the coverage n/(n+1)."""


def fit(outputs: Tensor, targets: Tensor) -> dict[str, Any]:
    """``margin`` for each column, in deviations, its ``coverage``, and on how many ``items``.

    Args:
        outputs: (N, K) of items that the model hasn't learned from.
        targets: theirs.
    """
    count = len(targets)
    place = min(count, math.ceil((count + 1) * COVERAGE))
    errors = (outputs.double() - targets.double()).abs().sort(dim=0).values
    return {
        "margin": errors[place - 1].tolist(),
        "coverage": min(COVERAGE, place / (count + 1)),
        "items": count,
    }


def covered(outputs: Tensor, targets: Tensor, calibration: Mapping[str, Any]) -> float:
    """The share of numbers (N, K) that lie inside their intervals."""
    margin = torch.tensor(calibration["margin"], dtype=torch.float64)
    # A margin is an error itself: the same item, measured again, must not fall out by rounding.
    inside = (outputs.double() - targets.double()).abs() <= margin * (1 + 1e-6)
    return float(inside.double().mean())
