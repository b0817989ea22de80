"""How good logits are against class indices."""

from __future__ import annotations

import torch
from torch.nn import functional

from tlsearch.contracts import Scores
from tlsearch.tasks.kept_outputs import KeptOutputs

ACCURACY, BALANCED, MACRO_F1, LOG_LOSS = "accuracy", "balanced_accuracy", "macro_f1", "log_loss"


class ClassEvaluator(KeptOutputs):
    """Of logits (B, classes) and labels (B,)."""

    def compute(self) -> Scores:
        """All metrics.

        ``balanced_accuracy`` is the mean recall and ``macro_f1`` the mean F1 over the classes that occur;
        ``log_loss`` is in nats.
        """
        logits, labels = self.kept()
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
