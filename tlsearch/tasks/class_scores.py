"""How good logits are against class indices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tlsearch.contracts import Evaluator, Scores

ACCURACY, BALANCED, MACRO_F1, LOG_LOSS = "accuracy", "balanced_accuracy", "macro_f1", "log_loss"


class ClassEvaluator(Evaluator):
    """Keeps the logits, which are small: log-loss is then the same however items were batched."""

    def __init__(self) -> None:
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take logits (B, classes) and labels (B,)."""
        self._logits.append(outputs.detach().float().cpu())
        self._labels.append(targets.cpu())

    def compute(self) -> Scores:
        """All metrics.

        ``balanced_accuracy`` is the mean recall and ``macro_f1`` the mean F1 over the classes that occur;
        ``log_loss`` is in nats.
        """
        logits, labels = torch.cat(self._logits), torch.cat(self._labels)
        classes = logits.shape[1]
        predicted = logits.argmax(dim=1)
        confusion = torch.bincount(labels * classes + predicted, minlength=classes * classes)
        confusion = confusion.reshape(classes, classes).double()
        right, actual, called = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)
        present = actual > 0
        recall = right[present] / actual[present]
        f1 = 2 * right[present] / (actual[present] + called[present])
        return {
            ACCURACY: float(right.sum() / actual.sum()),
            BALANCED: float(recall.mean()),
            MACRO_F1: float(f1.mean()),
            LOG_LOSS: float(functional.cross_entropy(logits.double(), labels)),
        }
