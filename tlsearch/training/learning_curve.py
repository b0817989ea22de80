"""Is it worth labelling more? Heads fitted to parts of the data, and a power law through their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from torch import Tensor

from tlsearch.contracts import TargetSpec, Task
from tlsearch.training.suspects import FOLDS, fitted, folds

SHARES = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
"""Of the items that a fold leaves to learn from."""
LEAST = 60
"""Items below which the smallest parts hold next to nothing."""
DRAWS = 200
"""Curves that are fitted to folds drawn anew, for the interval."""


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Scores of heads by the number of items that they learned from.

    Attributes:
        metric: a share of right answers, or like one.
        sizes: items learned from, ascending, of each point (P,); the last is four fifths of all.
        scores: of the items of each fold (P, folds).
        items: in all.
    """

    metric: str
    sizes: tuple[int, ...]
    scores: NDArray[np.float64]
    items: int

    @property
    def means(self) -> list[float]:
        """Mean scores over folds."""
        return [float(mean) for mean in self.scores.mean(axis=1)]

    def gain(self, more: int) -> tuple[float, float, float]:
        """By how much a head's score rises with so many more items: the expected gain, and 90 % of chance.

        The error is taken to fall as a + b n^-c, with a and b at least 0 (Hestness et al. 2017,
        arXiv:1712.00409). Folds are drawn anew for the interval, which knows nothing of whether the power law
        holds beyond the items that are there.
        """
        chance = np.random.default_rng(0)
        count = self.scores.shape[1]
        gains = [
            self._gain(self.scores[:, chance.integers(0, count, count)].mean(axis=1), more)
            for _ in range(DRAWS)
        ]
        low, high = np.quantile(gains, (0.05, 0.95))
        return self._gain(self.scores.mean(axis=1), more), float(low), float(high)

    def _gain(self, means: NDArray[np.float64], more: int) -> float:
        sizes = np.asarray(self.sizes, dtype=np.float64)
        errors = 1 - means

        def law(found: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
            floor, height, power = found
            values: NDArray[np.float64] = floor + height * (at / sizes[-1]) ** -power
            return values

        start = [0.5 * errors[-1], 0.5 * errors[-1] + 1e-6, 0.5]
        # Larger parts tell more of what comes after them.
        weights = np.sqrt(sizes / sizes[-1])
        found = least_squares(
            lambda x: weights * (law(x, sizes) - errors), start, bounds=([0, 0, 0.05], [1, 1, 2])
        ).x
        now, then = law(found, np.array([self.items, self.items + more], dtype=np.float64))
        return float(now - then)

    def to_json(self) -> Mapping[str, object]:
        """As plain data, with what 10, 50 and 100 % more items are expected to give."""
        more = [max(1, round(self.items * share)) for share in (0.1, 0.5, 1.0)]
        return {
            "metric": self.metric,
            "sizes": list(self.sizes),
            "means": self.means,
            "gains": [
                {"more": count, **dict(zip(("gain", "low", "high"), self.gain(count), strict=True))}
                for count in more
            ],
        }


def learning_curve(
    features: Tensor,
    labels: NDArray[np.int64],
    units: Sequence[str],
    *,
    task: Task,
    spec: TargetSpec,
    metric: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LearningCurve | None:
    """The learning curve of linear heads; None with fewer than `LEAST` items.

    Args:
        features: (N, D).
        labels: class indices (N,).
        units: what items of one content or group have in common (N,).
        task: of classes.
        spec: the classes.
        metric: one that is a share.
        progress: told how many heads are fitted.
    """
    if len(labels) < LEAST:
        return None
    of = folds(labels, units, seed=0)
    targets = torch.from_numpy(labels)
    scores = np.zeros((len(SHARES), FOLDS))
    sizes = np.zeros((len(SHARES), FOLDS))
    for fold in range(FOLDS):
        held_out = torch.from_numpy(np.flatnonzero(of == fold))
        order = _spread(labels, np.flatnonzero(of != fold), seed=fold)
        for row, share in enumerate(SHARES):
            part = torch.from_numpy(order[: max(2, round(share * len(order)))])
            head = fitted(features[part], targets[part], task=task, spec=spec)
            with torch.inference_mode():
                found = task.score(head(features[held_out]), targets[held_out], spec)
            scores[row, fold], sizes[row, fold] = found[metric], len(part)
            progress(fold * len(SHARES) + row + 1, FOLDS * len(SHARES))
    return LearningCurve(metric, tuple(round(size) for size in sizes.mean(axis=1)), scores, len(labels))


def _spread(labels: NDArray[np.int64], items: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Items in an order of which every beginning has its share of each class."""
    chance = np.random.default_rng(seed)
    places = np.empty(len(items))
    for label in np.unique(labels[items]):
        own = np.flatnonzero(labels[items] == label)
        places[chance.permutation(own)] = (np.arange(len(own)) + chance.random()) / len(own)
    return items[np.argsort(places, kind="stable")]
