"""Each item is of one class: logits (N, classes), and class indices (N,) as targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import (
    Evaluator,
    LinearHead,
    LinearRecipe,
    Metric,
    Recipe,
    Scores,
    Strata,
    TargetSpec,
    Task,
)

ACCURACY, BALANCED, MACRO_F1, LOG_LOSS = "accuracy", "balanced_accuracy", "macro_f1", "log_loss"
IMBALANCED = 3.0
"""Times that the largest class has as many items as the smallest: from here on, accuracy hides the latter."""
TINY = 10
"""Items below which what is measured on a class says little."""
EXAMPLES = 100
"""Classes of a kind that are named in an audit; all are counted."""


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


class Classification(Task):
    """One class of several; softmax and cross-entropy."""

    metrics = (
        Metric(ACCURACY),
        Metric(BALANCED),
        Metric(MACRO_F1),
        Metric(LOG_LOSS, minimize=True, unit="nats", needs_probabilities=True, tolerance=lambda items: 1e-3),
    )
    tie_breaker = LOG_LOSS

    def describe(self, targets: Sequence[Any]) -> TargetSpec:
        """The class names that occur, sorted."""
        return TargetSpec(tuple(sorted({str(target) for target in targets})))

    def encode(self, targets: Sequence[Any], spec: TargetSpec) -> NDArray[Any]:
        """Class indices (N,), int64; names become indices, and indices stay."""
        index_of = {name: index for index, name in enumerate(spec.names)}
        found = [index_of[one] if isinstance(one, str) else one for one in targets]
        return np.asarray(found, dtype=np.int64)

    def plain(self, target: Any, spec: TargetSpec) -> str:
        """The class's name."""
        return spec.names[target]

    def strata(self, targets: NDArray[Any], spec: TargetSpec) -> Strata:
        """The classes."""
        return Strata([(int(target),) for target in targets], spec.names, "class", "classes")

    def findings(self, counts: Mapping[str, Mapping[str, int]], metric: str) -> Mapping[str, Any]:
        """How unequal the classes are, and which have few items."""
        totals: dict[str, int] = {}
        for split in counts.values():
            for name, count in split.items():
                totals[name] = totals.get(name, 0) + count
        largest = max(totals, key=lambda name: totals[name])
        smallest = min(totals, key=lambda name: totals[name])
        ratio = totals[largest] / max(1, totals[smallest])
        tiny = [[name, count] for name, count in totals.items() if count < TINY]
        uneven = ratio >= IMBALANCED and metric not in (BALANCED, MACRO_F1)
        return {
            "classes": len(totals),
            "imbalance": {
                "ratio": round(ratio, 2),
                "largest": largest,
                "smallest": smallest,
                "majority": round(totals[largest] / max(1, sum(totals.values())), 4),
                "metric": metric,
                "proposed_metric": BALANCED if uneven else None,
            },
            "tiny_classes": {"count": len(tiny), "examples": tiny[:EXAMPLES]},
        }

    def remarks(self, findings: Mapping[str, Any]) -> list[str]:
        """What unequal and tiny classes mean for scores."""
        lines = []
        uneven = findings["imbalance"]
        if uneven["proposed_metric"]:
            lines.append(
                f'"{uneven["largest"]}" has {uneven["ratio"]:g} times the items of "{uneven["smallest"]}",'
                f" and always saying it scores an accuracy of {uneven['majority']:.2f}: objective:"
                f" {{metric: {uneven['proposed_metric']}}} counts every class alike"
            )
        tiny = findings["tiny_classes"]
        if tiny["count"]:
            name, count = tiny["examples"][0]
            which = "1 class has" if tiny["count"] == 1 else f"{tiny['count']} classes have"
            lines.append(
                f'{which} fewer than {TINY} items, such as "{name}" ({count}): scores on them say little'
            )
        return lines

    def head(self, width: int, spec: TargetSpec, *, dropout: float = 0.0) -> nn.Module:
        """One linear layer: features (B, width) to logits (B, classes)."""
        return LinearHead(width, len(spec.names), dropout=dropout)

    def loss(self, outputs: Tensor, targets: Tensor, recipe: Recipe | LinearRecipe) -> Tensor:
        """Cross-entropy with label smoothing; targets may be rows of class probabilities (B, classes)."""
        return functional.cross_entropy(outputs, targets, label_smoothing=recipe.label_smoothing)

    def mix(self, targets: Tensor, partners: Tensor, share: float, spec: TargetSpec) -> Tensor:
        """Weighted means of the one-hot labels."""
        rows = functional.one_hot(targets, len(spec.names)).float()
        others = functional.one_hot(partners, len(spec.names)).float()
        return rows.lerp(others, 1 - share)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Log-losses (H,) of logits (N, classes, H)."""
        expanded = targets.unsqueeze(1).expand(-1, outputs.shape[2])
        return functional.cross_entropy(outputs, expanded, reduction="none").mean(dim=0)

    def output_gradient(self, outputs: Tensor, targets: Tensor, recipes: Sequence[LinearRecipe]) -> Tensor:
        """Softmax minus smoothed targets, divided by B: written over the logits (B, classes, H)."""
        count, classes, _ = outputs.shape
        smoothing = torch.tensor([recipe.label_smoothing for recipe in recipes], device=outputs.device)
        outputs -= outputs.amax(dim=1, keepdim=True)
        outputs.exp_()
        outputs /= outputs.sum(dim=1, keepdim=True)
        outputs -= smoothing / classes
        outputs[torch.arange(count, device=outputs.device), targets] -= 1 - smoothing
        outputs /= count
        return outputs

    def evaluator(self, spec: TargetSpec) -> ClassEvaluator:
        """Of accuracy, balanced accuracy, macro F1 and log-loss."""
        return ClassEvaluator()
