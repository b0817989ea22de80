"""Sets of classes by split conformal prediction (Sadinle, Lei, Wasserman 2019, arXiv:1609.00451: LAC).

Of n held-out items, the probabilities of the true classes are ordered. Classes of at least the k-th largest
are candidates: the true class is among them for k/(n+1) of new items like these, on average and at least,
whatever the model. Of all such sets these have the fewest classes. An item with one candidate is told as
sure; several candidates, or none at all, as unsure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tlsearch.contracts.verdict import ABSTENTION

ROUNDING = 1e-5
"""A threshold is a probability itself: the same item, measured again, must not fall out by rounding."""


def fit(probabilities: Tensor, targets: Tensor, *, missed: float) -> dict[str, Any]:
    """``least`` probability of a candidate, the ``coverage`` of the sets, and on how many ``items``.

    Args:
        probabilities: (N, classes) of items that the model hasn't learned from.
        targets: their classes (N,).
        missed: share of items whose sets may lack the true class; with few items 1/(N+1) may.
    """
    count = len(targets)
    place = min(count, math.ceil((count + 1) * (1 - missed)))
    of_true = probabilities.double()[torch.arange(count), targets.long()].sort(descending=True).values
    coverage = min(1 - missed, place / (count + 1))
    return {"least": float(of_true[place - 1]), "coverage": coverage, "items": count}


def candidates(probabilities: Tensor, calibration: Mapping[str, Any]) -> Tensor | None:
    """Which classes (N, classes) are candidates; None where nothing was fitted."""
    known = calibration.get(ABSTENTION, {}).get("candidates")
    return None if known is None else probabilities >= known["least"] - ROUNDING
