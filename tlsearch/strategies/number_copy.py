"""Feature copy for numbers: ridge, neighbours' means and support vector regression on copied features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import BackboneInfo, HeadPoint, HeadStrategy, HeadTask, Space, number
from tlsearch.counts import kind_of
from tlsearch.records import Params
from tlsearch.strategies.standardize import RIDGE_PATH, Standardize, moments

LEARNERS = ("ridge", "neighbours", "svr")


class NeighboursMean(nn.Module):
    """The mean target of the k most similar training features, weighted by exp(cosine / 0.07)."""

    memory: Tensor
    values: Tensor

    def __init__(self, width: int, outputs: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.register_buffer("memory", torch.zeros(0, width))
        self.register_buffer("values", torch.zeros(0, outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Numbers (B, K)."""
        similar = functional.normalize(features, dim=1) @ self.memory.T
        nearest, indices = similar.topk(min(self.k, self.memory.shape[0]), dim=1)
        shares = (nearest / 0.07).softmax(dim=1)
        return (shares.unsqueeze(2) * self.values[indices]).sum(dim=1)


class KernelRegression(nn.Module):
    """A sum of RBF kernels around training features: what a support vector regression learned."""

    support: Tensor
    dual: Tensor
    intercept: Tensor
    gamma: Tensor

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("support", torch.zeros(0, width))
        self.register_buffer("dual", torch.zeros(outputs, 0))
        self.register_buffer("intercept", torch.zeros(outputs))
        self.register_buffer("gamma", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Numbers (B, K)."""
        distance = torch.cdist(features, self.support, compute_mode="donot_use_mm_for_euclid_dist")
        return torch.exp(-self.gamma * distance.square()) @ self.dual.T + self.intercept


class NumberCopy(HeadStrategy):
    """Ridge, neighbours or support vectors on copied features, for one number an item or several.

    Ridge chooses its strength for each column by leave-one-out error over a whole path, from one
    decomposition.
    """

    tasks = ("regression",)

    def space(self, backbone: BackboneInfo) -> Space:
        """Which learner, and that learner's own hyperparameters."""
        return {
            "learner": CategoricalDistribution(list(LEARNERS)),
            "neighbours.k": IntDistribution(1, 30),
            "svr.C": FloatDistribution(1e-1, 1e2, log=True),
            "svr.gamma": FloatDistribution(0.1, 10.0, log=True),
            "svr.epsilon": FloatDistribution(1e-2, 0.5, log=True),
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """Ridge."""
        return {"learner": "ridge"}

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """Each learner once."""
        others: list[Params] = [
            {"learner": "svr", "svr.C": 1.0, "svr.gamma": 1.0, "svr.epsilon": 0.1},
            {"learner": "neighbours", "neighbours.k": 10},
        ]
        return [self.default(backbone), *others]

    def head(self, width: int, outputs: int, params: Params) -> nn.Module:
        """The learner's module, without what it learned."""
        if params["learner"] == "neighbours":
            return NeighboursMean(width, outputs, int(number(params, "neighbours.k")))
        kernel = params["learner"] == "svr"
        fitted = KernelRegression(width, outputs) if kernel else nn.Linear(width, outputs)
        return nn.Sequential(Standardize(width), fitted)

    def fit_heads(self, task: HeadTask, points: Sequence[HeadPoint]) -> list[nn.Module]:
        """One fit a point; they share the standardized features."""
        features = task.features[0]
        mean, scale = moments(features)
        standardized = ((features - mean) / scale).cpu().double().numpy()
        targets = task.labels.cpu().double().numpy()
        heads = []
        for point in points:
            head = self.head(features.shape[1], task.classes, point.params)
            if isinstance(head, NeighboursMean):
                head.memory = functional.normalize(features, dim=1).clone()
                head.values = task.labels.clone()
            elif isinstance(head, nn.Sequential):
                head[0].mean, head[0].scale = mean.clone(), scale.clone()
                _learn(head[1], standardized, targets, point.params)
            heads.append(head)
        return heads


def _learn(
    module: nn.Module, features: NDArray[np.float64], targets: NDArray[np.float64], params: Params
) -> None:
    from sklearn.linear_model import RidgeCV
    from sklearn.svm import SVR

    if isinstance(module, nn.Linear):
        model = RidgeCV(alphas=RIDGE_PATH, alpha_per_target=targets.shape[1] > 1).fit(features, targets)
        with torch.no_grad():
            module.weight.copy_(torch.tensor(model.coef_).reshape(module.weight.shape))
            module.bias.copy_(torch.tensor(model.intercept_).reshape(-1))
        return
    if not isinstance(module, KernelRegression):
        raise TypeError(f"a learner of numbers can't be {kind_of(module)}")
    gamma = number(params, "svr.gamma") / features.shape[1]
    machines = [
        SVR(C=number(params, "svr.C"), gamma=gamma, epsilon=number(params, "svr.epsilon")).fit(features, one)
        for one in targets.T
    ]
    used = np.unique(np.concatenate([machine.support_ for machine in machines]))
    dual = np.zeros((len(machines), len(features)))
    for row, machine in zip(dual, machines, strict=True):
        row[machine.support_] = machine.dual_coef_[0]
    module.support = torch.tensor(features[used], dtype=torch.float32)
    module.dual = torch.tensor(dual[:, used], dtype=torch.float32)
    module.intercept = torch.tensor([float(m.intercept_[0]) for m in machines], dtype=torch.float32)
    module.gamma = torch.tensor(gamma, dtype=torch.float32)
