"""How good numbers are: scikit-learn's and SciPy's metrics, in the user's unit, means over the columns."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlsearch.contracts import Scores, TargetSpec
from tlsearch.tasks import numbers
from tlsearch.tasks.kept_outputs import KeptOutputs

MAE, RMSE, R2, SPEARMAN, KAPPA = "mae", "rmse", "r2", "spearman", "quadratic_kappa"


class NumberEvaluator(KeptOutputs):
    """Of standardized outputs and targets, both (B, K)."""

    def __init__(self, spec: TargetSpec) -> None:
        super().__init__()
        self._spec = spec

    def compute(self) -> Scores:
        """All metrics; none is a number where an output isn't one.

        ``mae`` and ``rmse`` are in the unit of the targets. ``quadratic_kappa`` (Cohen 1968) compares the
        levels of ordinal targets, predictions rounded to the nearest one; where there are more than 20
        values, the ranges that hold a tenth of the items each. ``spearman`` is 0 where all predictions are
        equal, and ``r2`` where all targets are.
        """
        outputs, targets = (kept.double() for kept in self.kept())
        if not bool(torch.isfinite(outputs).all()):
            return dict.fromkeys((MAE, RMSE, R2, SPEARMAN, KAPPA), math.nan)
        true = numbers.restored(targets.numpy(), self._spec)
        said = numbers.restored(outputs.numpy(), self._spec)
        from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

        constant = bool((true == true[0]).all(axis=0).any())
        kinds = zip(numbers.ranges(true, self._spec).T, numbers.ranges(said, self._spec).T, strict=True)
        return {
            MAE: float(mean_absolute_error(true, said)),
            RMSE: float(root_mean_squared_error(true, said)),
            R2: 0.0 if constant else float(r2_score(true, said)),
            SPEARMAN: float(np.mean([_spearman(*pair) for pair in zip(true.T, said.T, strict=True)])),
            KAPPA: float(np.mean([_kappa(*pair) for pair in kinds])),
        }


def error_of(outputs: Tensor, targets: Tensor, spec: TargetSpec) -> Scores:
    """The mean absolute error of each column, in its unit."""
    gaps = (outputs.double() - targets.double()).abs().mean(dim=0).numpy() * np.asarray(spec.facts["scale"])
    return {name: float(gap) for name, gap in zip(spec.names, gaps, strict=True)}


def _spearman(true: NDArray[np.float64], said: NDArray[np.float64]) -> float:
    from scipy.stats import spearmanr

    if true.min() == true.max() or said.min() == said.max():
        return 0.0
    return float(spearmanr(true, said).statistic)


def _kappa(true: NDArray[np.int64], said: NDArray[np.int64]) -> float:
    from sklearn.metrics import cohen_kappa_score

    if len(set(true.tolist()) | set(said.tolist())) == 1:
        return 1.0
    return float(cohen_kappa_score(true, said, weights="quadratic", labels=range(max(*true, *said) + 1)))
