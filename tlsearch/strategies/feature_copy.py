"""Feature copy: feature vectors are copied out of the source network, another learner is fitted on them.

scikit-learn fits; what it learned is copied into tensors, so that every head is a plain `nn.Module` that
predicts without scikit-learn. It takes two seconds to import: who only predicts doesn't wait for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import BackboneInfo, HeadPoint, HeadStrategy, HeadTask, Space, number
from tlsearch.records import Params
from tlsearch.strategies import label_copy, number_copy
from tlsearch.strategies.label_copy import LabelCopy
from tlsearch.strategies.number_copy import NumberCopy
from tlsearch.strategies.standardize import RIDGE_PATH, Standardize, moments

if TYPE_CHECKING:
    from sklearn.svm import SVC


class NearestNeighbours(nn.Module):
    """Votes of the k most similar training features, weighted by exp(cosine / 0.07).

    Wu et al. 2018 (arXiv:1805.01978, section 3.4).
    """

    memory: Tensor
    votes: Tensor

    def __init__(self, width: int, classes: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.register_buffer("memory", torch.zeros(0, width))
        self.register_buffer("votes", torch.zeros(0, classes))

    def forward(self, features: Tensor) -> Tensor:
        """Log vote shares (B, classes)."""
        similarity = functional.normalize(features, dim=1) @ self.memory.T
        best, index = similarity.topk(min(self.k, len(self.memory)), dim=1)
        weights = functional.softmax(best / 0.07, dim=1)
        shares = (weights.unsqueeze(2) * self.votes[index]).sum(dim=1)
        # A class without a vote gets a little, so that log-loss stays finite.
        return torch.log(shares + 1e-4)


class KernelMachine(nn.Module):
    """A one-against-one RBF support vector machine; pairwise decisions become one score a class."""

    support: Tensor
    dual: Tensor
    intercept: Tensor
    gamma: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
        self.classes = classes
        self.first = [i for i, _ in pairs]
        self.second = [j for _, j in pairs]
        self.register_buffer("support", torch.zeros(0, width))
        self.register_buffer("dual", torch.zeros(len(pairs), 0))
        self.register_buffer("intercept", torch.zeros(len(pairs)))
        self.register_buffer("gamma", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Scores (B, classes): votes won, ties broken by the summed confidence."""
        # (a - b)^2 by the exact way: the expanded form loses digits that the vote may hang on.
        distance = torch.cdist(features, self.support, compute_mode="donot_use_mm_for_euclid_dist")
        kernel = torch.exp(-self.gamma * distance.square())
        decisions = kernel @ self.dual.T + self.intercept
        first = torch.tensor(self.first, device=features.device)
        second = torch.tensor(self.second, device=features.device)
        # By shape: len() would fix the batch size where the model is exported.
        zeros = decisions.new_zeros(features.shape[0], self.classes)
        won = (decisions > 0).to(decisions.dtype)
        votes = zeros.index_add(1, first, won).index_add(1, second, 1 - won)
        confidence = zeros.index_add(1, first, decisions).index_add(1, second, -decisions)
        return votes + confidence / (3 * (confidence.abs() + 1))


class FeatureCopy(HeadStrategy):
    """Logistic regression, ridge, k nearest neighbours, nearest mean, LDA or an RBF-SVM on copied features.

    Numbers are learned by the learners of `NumberCopy`, sets of labels by those of `LabelCopy`.
    Ridge chooses its strength by leave-one-out error over a whole path, from one decomposition.
    """

    tasks = ("classification", "regression", "multilabel")

    precedence = 5

    def for_task(self, task: str) -> HeadStrategy:
        """Numbers and sets of labels have learners of their own."""
        return next((other for other in self._others if task in other.tasks), self)

    _others = (NumberCopy(), LabelCopy())

    def _learns(self, params: Params) -> HeadStrategy | None:
        """Of these others the one that a point is of; None for its own."""
        names = (number_copy.LEARNERS, label_copy.LEARNERS)
        pairs = zip(self._others, names, strict=True)
        return next((other for other, learners in pairs if params["learner"] in learners), None)

    def space(self, backbone: BackboneInfo) -> Space:
        """Which learner, and that learner's own hyperparameters."""
        return {
            "learner": CategoricalDistribution(["logistic", "ridge", "knn", "nearest_mean", "lda", "svm"]),
            "logistic.C": FloatDistribution(1e-5, 1e1, log=True),
            "knn.k": IntDistribution(1, 20),
            "svm.C": FloatDistribution(1e-1, 1e3, log=True),
            "svm.gamma": FloatDistribution(0.1, 10.0, log=True),
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """Logistic regression at a strength that suits standardized features."""
        return {"learner": "logistic", "logistic.C": 1e-2}

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """The default; ridge and a vote of neighbours, which rank backbones best; and LDA."""
        others: list[Params] = [{"learner": "ridge"}, {"learner": "knn", "knn.k": 10}, {"learner": "lda"}]
        return [self.default(backbone), *others]

    def head(self, width: int, classes: int, params: Params) -> nn.Module:
        """The learner's module, without what it learned."""
        learner = params["learner"]
        if other := self._learns(params):
            return other.head(width, classes, params)
        if learner == "knn":
            return NearestNeighbours(width, classes, int(number(params, "knn.k")))
        fitted = KernelMachine(width, classes) if learner == "svm" else nn.Linear(width, classes)
        return nn.Sequential(Standardize(width), fitted)

    def fit_heads(self, task: HeadTask, points: Sequence[HeadPoint]) -> list[nn.Module]:
        """One fit a point; they share the standardized features."""
        if points and task.labels.is_floating_point() and (other := self._learns(points[0].params)):
            return other.fit_heads(task, points)
        features = task.features[0]
        mean, scale = moments(features)
        standardized = ((features - mean) / scale).cpu().double().numpy()
        labels = task.labels.cpu().numpy()
        heads = []
        for point in points:
            head = self.head(features.shape[1], task.classes, point.params)
            if isinstance(head, NearestNeighbours):
                head.memory = functional.normalize(features, dim=1).clone()
                head.votes = functional.one_hot(task.labels, task.classes).float()
            elif isinstance(head, nn.Sequential):
                head[0].mean, head[0].scale = mean.clone(), scale.clone()
                _learn(head[1], standardized, labels, task.classes, point)
                if point.params["learner"] in ("ridge", "nearest_mean", "lda"):
                    _scale_logits(head, task)
            heads.append(head)
        return heads


def _learn(
    module: nn.Module,
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    classes: int,
    point: HeadPoint,
) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
    from sklearn.svm import SVC

    learner, params = point.params["learner"], point.params
    if isinstance(module, KernelMachine):
        gamma = number(params, "svm.gamma") / features.shape[1]
        machine = SVC(C=number(params, "svm.C"), gamma=gamma).fit(features, labels)
        module.support = torch.tensor(machine.support_vectors_, dtype=torch.float32)
        module.dual = torch.tensor(_pairwise(machine), dtype=torch.float32)
        # libsvm's binary decision points to the second class, scikit-learn's to the first of the pair.
        sign = -1 if classes == 2 else 1
        module.dual *= sign
        module.intercept = torch.tensor(sign * machine.intercept_, dtype=torch.float32)
        module.gamma = torch.tensor(gamma, dtype=torch.float32)
        return
    if learner == "nearest_mean":
        # -|x - m|^2 / 2 is linear in x but for |x|^2, which all classes share.
        weight = np.stack([features[labels == label].mean(axis=0) for label in range(classes)])
        _set_linear(module, weight, -np.square(weight).sum(axis=1) / 2)
        return
    if learner == "lda":
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    elif learner == "ridge":
        model = RidgeClassifierCV(alphas=RIDGE_PATH)
    else:
        model = LogisticRegression(C=number(params, "logistic.C"), max_iter=300, random_state=point.seed)
    with warnings.catch_warnings(action="ignore"):  # LDA warns of classes of one item
        model.fit(features, labels)
    # Of two classes scikit-learn keeps the second's row, with or without an axis of its own.
    weight, bias = model.coef_.reshape(-1, features.shape[1]), np.ravel(model.intercept_)
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    _set_linear(module, weight, bias)


def _set_linear(module: nn.Module, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
    if not isinstance(module, nn.Linear):
        raise TypeError(f"a linear learner needs a linear module, not {type(module).__name__}")
    with torch.no_grad():
        module.weight.copy_(torch.tensor(weight))
        module.bias.copy_(torch.tensor(bias))


def _scale_logits(head: nn.Sequential, task: HeadTask) -> None:
    """Scale outputs that are no log-probabilities to logits of least log-loss on the stop items."""
    linear = head[1]
    if len(task.stop_labels) == 0:
        return
    with torch.no_grad():
        outputs = head(task.stop_features)
        scales = [float(scale) for scale in np.logspace(-3, 1.5, 46)]
        scale = min(scales, key=lambda s: float(functional.cross_entropy(s * outputs, task.stop_labels)))
        if isinstance(linear, nn.Linear):
            linear.weight.mul_(scale)
            linear.bias.mul_(scale)


def _pairwise(machine: SVC) -> NDArray[np.float64]:
    """libsvm's packed dual coefficients (classes - 1, support) as one row for each pair of classes."""
    counts = machine.n_support_
    ends = np.cumsum(counts)
    starts = ends - counts
    classes = len(counts)
    rows = []
    for i in range(classes):
        for j in range(i + 1, classes):
            row = np.zeros(len(machine.support_vectors_))
            row[starts[i] : ends[i]] = machine.dual_coef_[j - 1, starts[i] : ends[i]]
            row[starts[j] : ends[j]] = machine.dual_coef_[i, starts[j] : ends[j]]
            rows.append(row)
    return np.stack(rows)
