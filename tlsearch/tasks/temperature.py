"""Temperature scaling: one number that makes a model's probabilities mean what they say.

Guo et al. 2017 (arXiv:1706.04599): logits are divided by a temperature of least log-loss on held-out items.
The most probable class stays the same.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BINS = 15
LOWEST, HIGHEST = 0.02, 50.0
HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Calibration:
    """A temperature and what it does.

    Attributes:
        temperature: divides logits; above 1 where the model was too sure.
        items: that it was fitted on.
        error_before: expected calibration error of those items at temperature 1.
        error_after: at ``temperature``.
        log_loss_before: in nats, at temperature 1.
        log_loss_after: at ``temperature``.
    """

    temperature: float
    items: int
    error_before: float
    error_after: float
    log_loss_before: float
    log_loss_after: float

    def to_json(self) -> dict[str, Any]:
        """As it stands in a bundle's description."""
        return asdict(self)


def fit(logits: Tensor, labels: Tensor) -> Calibration:
    """The temperature of least log-loss.

    Each label counts as wrong by 1 in N + 2 (Platt 1999, section 2.2): a few items that are all right don't
    show that no other can be wrong.

    Args:
        logits: (N, classes), finite.
        labels: (N,) class indices.
    """
    logits, labels = logits.detach().double().cpu(), labels.cpu()
    count, classes = logits.shape
    doubt = 1 / (count + 2)
    wanted = functional.one_hot(labels, classes).double()
    wanted = wanted * (1 - doubt) + (1 - wanted) * doubt / max(1, classes - 1)
    target = float((wanted * logits).sum())
    low, high = math.log(1 / HIGHEST), math.log(1 / LOWEST)
    for _ in range(HALVINGS):
        # Log-loss is convex in the inverse temperature b: its slope is the mean of E[z] - z_wanted.
        middle = (low + high) / 2
        shares = (logits * math.exp(middle)).softmax(dim=1)
        if float((shares * logits).sum()) < target:
            low = middle
        else:
            high = middle
    temperature = math.exp(-(low + high) / 2)
    scaled = logits / temperature
    return Calibration(
        temperature=temperature,
        items=count,
        error_before=expected_error(logits.softmax(dim=1), labels),
        error_after=expected_error(scaled.softmax(dim=1), labels),
        log_loss_before=float(functional.cross_entropy(logits, labels)),
        log_loss_after=float(functional.cross_entropy(scaled, labels)),
    )


def expected_error(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error of the most probable class, in 15 bins of equal width (Guo et al., eq. 3).

    The mean over items of how far the share of right answers is from the confidence, bin by bin.
    """
    confidence, predicted = probabilities.detach().double().cpu().max(dim=1)
    right = (predicted == labels.cpu()).double()
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add(0, bins, right - confidence)
    return float(gaps.abs().sum() / len(labels))
