"""The metrics that a study may optimize, from logits and labels."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

MINIMIZED = frozenset({"log_loss"})


def score(logits: Tensor, labels: Tensor) -> Mapping[str, float]:
    """All metrics of logits (N, classes) against labels (N,).

    ``balanced_accuracy`` is the mean recall and ``macro_f1`` the mean F1 over the classes that occur in
    ``labels``; ``log_loss`` is in nats.
    """
    logits, labels = logits.detach().float().cpu(), labels.cpu()
    classes = logits.shape[1]
    predicted = logits.argmax(dim=1)
    confusion = torch.bincount(labels * classes + predicted, minlength=classes * classes)
    confusion = confusion.reshape(classes, classes).double()
    right, actual, called = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)
    present = actual > 0
    recall = right[present] / actual[present]
    f1 = 2 * right[present] / (actual[present] + called[present])
    return {
        "accuracy": float(right.sum() / actual.sum()),
        "balanced_accuracy": float(recall.mean()),
        "macro_f1": float(f1.mean()),
        "log_loss": float(functional.cross_entropy(logits.double(), labels)),
    }


def rank(scores: Mapping[str, float], metric: str) -> tuple[float, float]:
    """A key that is larger for the better of two scores; equal metrics are told apart by log-loss."""
    value = scores[metric]
    value = -value if metric in MINIMIZED else value
    loss = scores["log_loss"]
    return (value if math.isfinite(value) else -math.inf, -loss if math.isfinite(loss) else -math.inf)
