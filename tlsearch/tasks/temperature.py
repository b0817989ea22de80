"""Temperature scaling: one number that makes a model's probabilities mean what they say.

Guo et al. 2017 (arXiv:1706.04599): logits are divided by a temperature of least log-loss on held-out items.
The most probable class stays the same.

A temperature that is fitted on few items may be worse than none: with 18 items it raised the calibration
error of a model that needed none from 0.006 to 0.06 in simulation, and from 0.05 to 0.22 in a study. So it is
used only where it helps items that it wasn't fitted on.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tlsearch.counts import plural
from tlsearch.tasks.shuffled_folds import FOLDS, shuffled_folds

BINS = 15
LOWEST, HIGHEST = 0.02, 50.0
HALVINGS = 60
LEAST_ITEMS = 30
"""With fewer, nobody can tell whether a temperature helps."""
ENOUGH = 0.5
"""Standard errors by which the log-loss of items left out must fall: between 1, where in simulation a needed
temperature is often missed, and 0, where one that is not needed costs up to 0.008 nats (40 items)."""
DRAWS = 200


@dataclass(frozen=True, slots=True)
class Calibration:
    """A temperature and what it does to items that it wasn't fitted on.

    Attributes:
        temperature: divides logits; above 1 where the model was too sure, 1 where none was found to help.
        items: that it was fitted on.
        used: whether a temperature was found to help.
        why: why not; empty where it is used.
        error_before: expected calibration error of those items at temperature 1.
        error_after: in five folds, each scaled by the temperature of the other four; as before where unused.
        error_by_chance: what a model whose probabilities are exact would show on so many items, on average.
        log_loss_before: in nats, at temperature 1.
        log_loss_after: in five folds, as ``error_after``.
    """

    temperature: float
    items: int
    used: bool
    why: str
    error_before: float
    error_after: float
    error_by_chance: float
    log_loss_before: float
    log_loss_after: float

    def to_json(self) -> dict[str, Any]:
        """As it stands in a bundle's description."""
        return asdict(self)


def fit(logits: Tensor, labels: Tensor) -> Calibration:
    """The temperature of least log-loss, where one lowers the log-loss of items that are left out.

    Args:
        logits: (N, classes), finite.
        labels: (N,) class indices.
    """
    logits, labels = logits.detach().double().cpu(), labels.cpu()
    before = functional.cross_entropy(logits, labels, reduction="none")
    left_out = _scaled_by_others(logits, labels) if len(labels) >= LEAST_ITEMS else logits
    after = functional.cross_entropy(left_out, labels, reduction="none")
    gain = before - after
    error = float(gain.std() / math.sqrt(len(labels))) if len(labels) > 1 else math.inf
    why = ""
    if len(labels) < LEAST_ITEMS:
        why = f"{plural(len(labels), 'item')} can't show whether one helps: {LEAST_ITEMS} are needed"
    elif float(gain.mean()) <= ENOUGH * error:
        why = "no temperature helped items that it wasn't fitted on"
    scaled = logits if why else left_out
    return Calibration(
        temperature=1.0 if why else best_temperature(logits, labels),
        items=len(labels),
        used=not why,
        why=why,
        error_before=expected_error(logits.softmax(dim=1), labels),
        error_after=expected_error(scaled.softmax(dim=1), labels),
        error_by_chance=_error_by_chance(scaled.softmax(dim=1)),
        log_loss_before=float(before.mean()),
        log_loss_after=float(functional.cross_entropy(scaled, labels)),
    )


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of least log-loss.

    Each label counts as wrong by 1 in N + 2 (Platt 1999, section 2.2): a few items that are all right don't
    show that no other can be wrong.

    Args:
        logits: (N, classes), finite, of double precision.
        labels: (N,) class indices.
    """
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
    return math.exp(-(low + high) / 2)


def _scaled_by_others(logits: Tensor, labels: Tensor) -> Tensor:
    """The same logits (N, classes), each divided by the temperature of the folds that it isn't in."""
    folds = shuffled_folds(len(labels))
    scaled = logits.clone()
    for fold in range(FOLDS):
        rest = folds != fold
        scaled[~rest] = logits[~rest] / best_temperature(logits[rest], labels[rest])
    return scaled


def _error_by_chance(probabilities: Tensor) -> float:
    """Mean `expected_error` of these probabilities (N, classes) if they were exact."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(probabilities, DRAWS, replacement=True, generator=generator)
    return sum(expected_error(probabilities, labels) for labels in drawn.T) / DRAWS


def expected_error(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error of the most probable class, in 15 bins of equal width (Guo et al., eq. 3).

    The mean over items of how far the share of right answers is from the confidence, bin by bin.
    """
    confidence, predicted = probabilities.detach().double().cpu().max(dim=1)
    right = (predicted == labels.cpu()).double()
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add(0, bins, right - confidence)
    return float(gaps.abs().sum() / len(labels))
