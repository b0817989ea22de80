"""Linear probe: the backbone is a fixed feature extractor, a new last layer is trained."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import nn

from tlsearch.contracts import BackboneInfo, HeadPoint, HeadStrategy, HeadTask, LinearRecipe, Space, number
from tlsearch.records import Params


class LinearProbe(HeadStrategy):
    """A linear layer on frozen features, by the task's loss (Kornblith et al. 2019, arXiv:1805.08974)."""

    precedence = 0
    task_loss = True

    def space(self, backbone: BackboneInfo) -> Space:
        """Learning rate on standardized features, and regularization."""
        augmented = ["light"] if "light" in backbone.inputs.policies else []
        return {
            "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
            # Decoupled from the loss: it shrinks by rate times decay a step, so that it takes values above 1.
            "weight_decay": FloatDistribution(1e-3, 1e2, log=True),
            "label_smoothing": FloatDistribution(0.0, 0.2, step=0.05),
            # Few values: heads of equal dropout share one matrix product.
            "dropout": CategoricalDistribution([0.0, 0.25, 0.5]),
            "augmentation": CategoricalDistribution(["none", *augmented]),
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """Middling values; dropout on features helps most where data is scarce."""
        return {
            "learning_rate": 3e-3,
            "weight_decay": 1.0,
            "label_smoothing": 0.0,
            "dropout": 0.5,
            "augmentation": "none",
        }

    def fit_heads(self, task: HeadTask, points: Sequence[HeadPoint]) -> list[nn.Module]:
        """All points in one batched training."""
        return task.train_linear(
            [
                LinearRecipe(
                    learning_rate=number(point.params, "learning_rate"),
                    weight_decay=number(point.params, "weight_decay"),
                    label_smoothing=number(point.params, "label_smoothing"),
                    dropout=number(point.params, "dropout"),
                    seed=point.seed,
                    balance=str(point.params.get("balance", "")),
                    loss=str(point.params.get("loss", "")),
                )
                for point in points
            ]
        )
