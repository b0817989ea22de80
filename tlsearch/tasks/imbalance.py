"""Classes of unequal size: weights in the loss, and a log-prior taken from the logits of a finished model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tlsearch.tasks.shuffled_folds import FOLDS, shuffled_folds

UNEQUAL = 3.0
"""Times that the largest class has as many items as the smallest: from here on, accuracy hides the latter."""
INVERSE, EFFECTIVE, SAMPLING, NONE = "inverse", "effective", "sampling", "none"
WAYS = (EFFECTIVE, INVERSE, SAMPLING, NONE)
"""Values of the hyperparameter ``balance``, the usual one first."""
BETA = 0.99
"""Of the effective number: items of a class beyond a few hundred add nothing, as befits small data."""
ADJUSTMENT = "adjustment"
"""Where a calibration has what is taken from each class's logit."""
LEAST_ITEMS = 30
SHARES = tuple(step / 20 for step in range(31))
"""Of the log-prior, that may be taken: from none of it to half as much again."""


def weights(counts: Sequence[int], way: str) -> list[float] | None:
    """Weights of the classes in the loss, of mean 1 over the items; None where each item counts alike.

    ``inverse`` makes all classes count alike. ``effective`` divides by the effective number of items
    (1 - beta^n) / (1 - beta) instead (Cui et al. 2019, arXiv:1901.05555).

    Args:
        counts: of the classes' items; none where classes are equal.
        way: one of `WAYS`, or empty.

    Raises:
        ValueError: there is no such way.
    """
    if way not in ("", *WAYS):
        raise ValueError(f'balance "{way}" is none of {", ".join(WAYS)}')
    if way not in (INVERSE, EFFECTIVE) or not counts:
        return None
    present = [count for count in counts if count]
    volumes = {
        count: (1 - BETA**count) / (1 - BETA) if way == EFFECTIVE else float(count) for count in present
    }
    each = {count: 1 / volume for count, volume in volumes.items()}
    mean = sum(count * each[count] for count in present) / sum(present)
    return [each[count] / mean if count else 1.0 for count in counts]


def prior(logits: Tensor, labels: Tensor) -> Mapping[str, Any]:
    """What to take from each class's logit so that classes count alike (Menon et al. 2021, arXiv:2007.07314).

    The paper takes the whole log-prior. A model that was trained with weights has made up for it already, so
    here the share is fitted: that of least log-loss when every class weighs alike. It is used where items
    that it wasn't fitted on, in five folds, gain by it in recall and in log-loss.

    Args:
        logits: (N, classes) of held-out items, calibrated.
        labels: (N,) theirs.

    Returns:
        Nothing where it doesn't help.
    """
    logits, labels = logits.detach().double().cpu(), labels.cpu()
    counts = torch.bincount(labels, minlength=logits.shape[1]).double()
    present = counts[counts > 0]
    if len(labels) < LEAST_ITEMS or len(present) < 2 or present.max() < UNEQUAL * present.min():
        return {}
    log_prior = ((counts + 1) / (counts + 1).sum()).log()
    folds = shuffled_folds(len(labels))
    left_out = logits.clone()
    for fold in range(FOLDS):
        rest = folds != fold
        left_out[~rest] -= _share(logits[rest], labels[rest], log_prior) * log_prior
    before, after = _recall(logits, labels), _recall(left_out, labels)
    share = _share(logits, labels, log_prior)
    if share == 0 or after <= before or _loss(left_out, labels) >= _loss(logits, labels):
        return {}
    taken = share * log_prior
    return {
        ADJUSTMENT: (taken - taken.mean()).tolist(),
        "adjustment_share": share,
        "recall_before_adjustment": before,
        "recall_after_adjustment": after,
    }


def _share(logits: Tensor, labels: Tensor, log_prior: Tensor) -> float:
    return min(SHARES, key=lambda share: _loss(logits - share * log_prior, labels))


def _loss(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of their items' log-loss."""
    each = functional.cross_entropy(logits, labels, reduction="none")
    return _by_class(each, labels)


def _recall(logits: Tensor, labels: Tensor) -> float:
    return _by_class((logits.argmax(dim=1) == labels).double(), labels)


def _by_class(each: Tensor, labels: Tensor) -> float:
    counts = torch.bincount(labels)
    sums = torch.zeros(len(counts), dtype=each.dtype).index_add(0, labels, each)
    return float((sums[counts > 0] / counts[counts > 0]).mean())
