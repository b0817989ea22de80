"""Head2Toe: a linear head on a few features chosen from all layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import BackboneInfo, HeadPoint, HeadStrategy, HeadTask, LinearRecipe, Space, number
from tlsearch.records import Params

ROWS = 4096
"""Items that the selection looks at, at most."""
ITERATIONS = 100


class Chosen(nn.Module):
    """A linear map of some of the features: (B, D) to logits (B, classes)."""

    columns: Tensor

    def __init__(self, columns: Tensor, linear: nn.Module) -> None:
        super().__init__()
        self.register_buffer("columns", columns)
        self.linear = linear

    def forward(self, features: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.linear(features.index_select(1, self.columns))
        return logits


class Head2Toe(HeadStrategy):
    """Features of all layers, the most relevant kept (Evci et al. 2022, arXiv:2201.03529).

    Relevance is the norm of a feature's weights in softmax regression with a group lasso over features.
    """

    tasks = ("classification",)

    def space(self, backbone: BackboneInfo) -> Space:
        """The share kept, the lasso's strength, how finely layers are pooled, and those of the last head."""
        augmented = ["light"] if "light" in backbone.inputs.policies else []
        return {
            "keep": FloatDistribution(1e-3, 0.2, log=True),
            # Few values: points of equal strength share one selection.
            "strength": CategoricalDistribution([0.01, 0.03, 0.1]),
            "cells": CategoricalDistribution([1, 4]),
            "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
            "weight_decay": FloatDistribution(1e-3, 1e2, log=True),
            "augmentation": CategoricalDistribution(["none", *augmented]),
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """A tenth of the features, each layer averaged over the whole image."""
        return {
            "keep": 0.1,
            "strength": 0.03,
            "cells": 1,
            "learning_rate": 3e-3,
            "weight_decay": 1.0,
            "augmentation": "none",
        }

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """The default, and one that tells the quarters of the image apart."""
        default = self.default(backbone)
        return [default, {**default, "cells": 4}]

    def layer_cells(self, params: Params) -> int:
        """All layers, pooled."""
        return int(number(params, "cells"))

    def head(self, width: int, classes: int, params: Params) -> nn.Module:
        """An unfitted one."""
        count = kept(width, classes, number(params, "keep"))
        return Chosen(torch.zeros(count, dtype=torch.int64), nn.Linear(count, classes))

    def fit_heads(self, task: HeadTask, points: Sequence[HeadPoint]) -> list[nn.Module]:
        """One selection for each strength, one training for each choice of features."""
        width = task.features.shape[2]
        ranking: dict[float, Tensor] = {}
        together: dict[tuple[float, int], list[int]] = defaultdict(list)
        for position, point in enumerate(points):
            strength = number(point.params, "strength")
            if strength not in ranking:
                scores = relevance(task.features[0], task.labels, task.classes, strength)
                ranking[strength] = scores.argsort(descending=True, stable=True)
            count = kept(width, task.classes, number(point.params, "keep"))
            together[strength, count].append(position)
        heads: dict[int, nn.Module] = {}
        for (strength, count), positions in together.items():
            columns = ranking[strength][:count].sort().values
            recipes = [
                LinearRecipe(
                    learning_rate=number(points[position].params, "learning_rate"),
                    weight_decay=number(points[position].params, "weight_decay"),
                    seed=points[position].seed,
                )
                for position in positions
            ]
            for position, linear in zip(positions, task.train_linear(recipes, columns), strict=True):
                heads[position] = Chosen(columns.clone(), linear)
        return [heads[position] for position in range(len(points))]


def kept(width: int, classes: int, share: float) -> int:
    """How many features are kept: a share of all, and never fewer than there are classes."""
    return min(width, max(classes, round(share * width)))


@torch.no_grad()
def relevance(features: Tensor, labels: Tensor, classes: int, strength: float) -> Tensor:
    """How much each feature (of N, D) tells of the labels beside the others: (D,), for ranking alone.

    Minimizes mean cross-entropy + l * sum of the norms of W's rows (D, classes) on standardized features, by
    accelerated proximal gradient steps (Beck and Teboulle 2009). ``strength`` is l as a share of the l at
    which all weights are zero. A feature whose weights are zero ranks by how near it is to coming in.
    """
    every = -(-len(features) // ROWS)
    features, labels = features[::every], labels[::every]
    mean, scale = features.mean(dim=0), features.std(dim=0, unbiased=False)
    # A feature that is constant but for rounding tells nothing.
    scale = torch.where(scale > 1e-6 * (1 + mean.abs()), scale, torch.inf)
    inputs = (features - mean) / scale
    targets = functional.one_hot(labels, classes).to(inputs.dtype)
    priors = targets.mean(dim=0).clamp_min(1e-6).log()

    def slope(weights: Tensor) -> Tensor:
        return inputs.T @ ((inputs @ weights + priors).softmax(dim=1) - targets) / len(inputs)

    weights = torch.zeros(inputs.shape[1], classes, dtype=inputs.dtype, device=inputs.device)
    threshold = strength * float(slope(weights).norm(dim=1).max())
    # Half the largest eigenvalue of X'X / N bounds the curvature of softmax regression.
    rate = 2 / (1.1 * _largest_eigenvalue(inputs))
    ahead, momentum = weights, 1.0
    for _ in range(ITERATIONS):
        moved = ahead - rate * slope(ahead)
        norms = moved.norm(dim=1, keepdim=True)
        shrunk = moved * (1 - rate * threshold / norms.clamp_min(1e-12)).clamp_min(0)
        faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = shrunk + (momentum - 1) / faster * (shrunk - weights)
        weights, momentum = shrunk, faster
    norms = weights.norm(dim=1)
    nearness = slope(weights).norm(dim=1) / max(threshold, 1e-12)
    return torch.where(norms > 0, 2 + norms, nearness.clamp_max(1.0))


def _largest_eigenvalue(inputs: Tensor) -> float:
    """Of X'X / N, by power iteration."""
    vector = torch.ones(inputs.shape[1], dtype=inputs.dtype, device=inputs.device)
    vector = vector / vector.norm()
    for _ in range(30):
        vector = inputs.T @ (inputs @ vector)
        vector = vector / vector.norm().clamp_min(1e-12)
    return max(float((inputs @ vector).square().sum() / len(inputs)), 1e-12)
