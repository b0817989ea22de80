"""Feature copy for sets of labels: logistic regression of each label, and neighbours' votes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import BackboneInfo, HeadPoint, HeadStrategy, HeadTask, Space, number
from tlsearch.records import Params
from tlsearch.strategies.standardize import Standardize, moments

LEARNERS = ("binary_logistic", "votes")
DOUBT = 1e-3
"""Share of votes that a label keeps, or lacks, when all neighbours agree: log-odds stay finite."""


class NeighboursVotes(nn.Module):
    """Log-odds of the share of the k most similar training items with each label, by exp(cosine / 0.07)."""

    memory: Tensor
    votes: Tensor

    def __init__(self, width: int, labels: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.register_buffer("memory", torch.zeros(0, width))
        self.register_buffer("votes", torch.zeros(0, labels))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, labels)."""
        similar = functional.normalize(features, dim=1) @ self.memory.T
        nearest, indices = similar.topk(min(self.k, self.memory.shape[0]), dim=1)
        weights = (nearest / 0.07).softmax(dim=1)
        shares = (weights.unsqueeze(2) * self.votes[indices]).sum(dim=1)
        shares = DOUBT + (1 - 2 * DOUBT) * shares
        return torch.log(shares) - torch.log(1 - shares)


class LabelCopy(HeadStrategy):
    """Logistic regressions or neighbours' votes on copied features, for sets of labels."""

    tasks = ("multilabel",)

    def space(self, backbone: BackboneInfo) -> Space:
        """Which learner, and that learner's own hyperparameters."""
        return {
            "learner": CategoricalDistribution(list(LEARNERS)),
            "binary_logistic.C": FloatDistribution(1e-5, 1e1, log=True),
            "votes.k": IntDistribution(1, 30),
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """Logistic regression at a strength that suits standardized features."""
        return {"learner": "binary_logistic", "binary_logistic.C": 1e-2}

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """The default, one of smaller weights, and votes."""
        others: list[Params] = [
            {"learner": "binary_logistic", "binary_logistic.C": 1e-3},
            {"learner": "votes", "votes.k": 10},
        ]
        return [self.default(backbone), *others]

    def head(self, width: int, outputs: int, params: Params) -> nn.Module:
        """The learner's module, without what it learned."""
        if params["learner"] == "votes":
            return NeighboursVotes(width, outputs, int(number(params, "votes.k")))
        return nn.Sequential(Standardize(width), nn.Linear(width, outputs))

    def fit_heads(self, task: HeadTask, points: Sequence[HeadPoint]) -> list[nn.Module]:
        """One fit a point; they share the standardized features."""
        features = task.features[0]
        mean, scale = moments(features)
        standardized = ((features - mean) / scale).cpu().double().numpy()
        heads = []
        for point in points:
            head = self.head(features.shape[1], task.classes, point.params)
            if isinstance(head, NeighboursVotes):
                head.memory = functional.normalize(features, dim=1).clone()
                head.votes = task.labels.clone()
            elif isinstance(head, nn.Sequential) and isinstance(linear := head[1], nn.Linear):
                head[0].mean, head[0].scale = mean.clone(), scale.clone()
                _learn(linear, standardized, task.labels.cpu().numpy() > 0.5, point)
            heads.append(head)
        return heads


def _learn(
    linear: nn.Linear, features: NDArray[np.float64], flags: NDArray[np.bool_], point: HeadPoint
) -> None:
    from sklearn.linear_model import LogisticRegression

    strength = number(point.params, "binary_logistic.C")
    with torch.no_grad():
        for weight, bias, held in zip(linear.weight, linear.bias, flags.T, strict=True):
            model = LogisticRegression(C=strength, max_iter=300, random_state=point.seed).fit(features, held)
            weight.copy_(torch.tensor(model.coef_[0]))
            bias.fill_(float(model.intercept_[0]))
