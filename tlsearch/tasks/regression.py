"""Each item has one number, or several: outputs (N, K), and targets (N, K), both standardized.

Networks learn targets of mean 0 and deviation 1, whatever the user's unit; metrics, predictions and intervals
are in the user's unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import (
    Figure,
    LinearHead,
    LinearRecipe,
    Metric,
    Recipe,
    Scores,
    Strata,
    TargetSpec,
    Task,
)
from tlsearch.counts import plural
from tlsearch.errors import DataError
from tlsearch.tasks import conformal, number_figures, numbers
from tlsearch.tasks.number_scores import KAPPA, MAE, R2, RMSE, SPEARMAN, NumberEvaluator, error_of

HUBER, MSE = "huber", "mse"
MOST_WRONG = 0.05
"""Share of targets, but for missing ones, that may be no numbers in a column that is taken for numbers."""
DELTA = 1.0
"""Deviations from which on an error counts by its size alone, no longer by its square (Huber 1964)."""


def _error(name: str, title: str) -> Metric:
    """How far predictions are off, in the unit of the targets: exact but for rounding, whatever the items."""
    return Metric(
        name,
        minimize=True,
        unit="of the targets",
        tolerance=lambda items: 0.0,
        relative=5e-3,
        title=title,
    )


class Regression(Task):
    """One or several numbers; least squares where errors are small, least absolute errors where large."""

    metrics = (
        _error(MAE, "mean absolute error"),
        _error(RMSE, "root mean squared error"),
        Metric(R2, unit="of the variance", tolerance=lambda items: 2e-3),
        Metric(SPEARMAN, unit="correlation", tolerance=lambda items: 2e-3 + 1 / max(1, items)),
        Metric(KAPPA, unit="agreement", tolerance=lambda items: 5 / max(1, items)),
    )
    tie_breaker = RMSE
    whole = True
    losses_by_name = (HUBER, MSE)
    unreadable = {"values": {}, "intervals": {}, "coverage": None}
    answer_types = {
        "values": dict[str, float],
        "intervals": dict[str, list[float]],
        "coverage": float | None,
    }
    per_name: ClassVar[str] = MAE

    # What targets are

    def claim(self, targets: Sequence[Any]) -> tuple[float, str]:
        """Fractions, and whole numbers of many values, are amounts; of few values they may be names."""
        wrong = numbers.problems(targets)
        missing = sum(why.startswith(numbers.MISSING) for why in wrong.values())
        known = len(targets) - missing
        if len(wrong) - missing > MOST_WRONG * known or missing > known:
            return 0.0, ""
        told = [targets[at] for at in range(len(targets)) if at not in wrong]
        values = sorted({float(number) for number in numbers.parsed(told).ravel()})
        fraction = next((value for value in values if not value.is_integer()), None)
        if fraction is not None:
            return 0.9, f"numbers from {values[0]:g} to {values[-1]:g}, such as {fraction:g}"
        if len(values) > numbers.LEVELS:
            return 0.9, f"{len(values)} whole numbers from {values[0]:g} to {values[-1]:g}"
        return 0.0, ""

    def unusable(self, targets: Sequence[Any] | NDArray[Any]) -> Mapping[int, str]:
        """Targets that are missing, no numbers, or infinite.

        Raises:
            DataError: more than half of them are.
        """
        wrong = numbers.problems(targets)
        if 2 * len(wrong) > len(targets):
            first = next(iter(wrong))
            raise DataError(
                f"{len(wrong)} of {len(targets)} targets are no finite numbers; the first: {wrong[first]}.",
                hint="Name the column of numbers as label_column, or leave `task: regression` out: names are "
                "learned as classes.",
            )
        return wrong

    def describe(self, targets: Sequence[Any] | NDArray[Any], columns: Sequence[str] = ()) -> TargetSpec:
        """Names of the columns, their means and deviations, and where their values are cut into ranges.

        Raises:
            DataError: a column has one value alone.
        """
        values = numbers.parsed(targets)
        count = values.shape[1]
        own = ("value",) if count == 1 else tuple(f"value {number}" for number in range(1, count + 1))
        names = tuple(columns) if len(columns) == count else own
        for name, column in zip(names, values.T, strict=True):
            if len(column) and column.min() == column.max():
                raise DataError(
                    f'"{name}" is {column[0]:g} for all {len(column)} items: there is nothing to learn.',
                    hint="Name another label_column.",
                )
        return TargetSpec(
            names,
            {
                "mean": values.mean(axis=0).tolist(),
                "scale": values.std(axis=0).tolist(),
                "cuts": [numbers.cuts(column) for column in values.T],
                "levels": [numbers.levels(column) for column in values.T],
                "low": values.min(axis=0).tolist(),
                "high": values.max(axis=0).tolist(),
            },
        )

    def encode(self, targets: Sequence[Any] | NDArray[Any], spec: TargetSpec) -> NDArray[Any]:
        """Standardized targets (N, K), float32.

        Raises:
            DataError: one is no finite number, or there are more or fewer columns.
        """
        values = numbers.parsed(targets)
        if len(values) and values.shape[1] != len(spec.names):
            raise DataError(
                f"There are {values.shape[1]} numbers for an item, and {len(spec.names)} are learned: "
                f"{', '.join(spec.names)}.",
                hint="Name as many label columns, in this order.",
            )
        return numbers.standardized(values, spec).astype(np.float32)

    def plain(self, target: Any, spec: TargetSpec) -> Any:
        """The number in the user's unit, or a list of them."""
        told = numbers.rounded(numbers.restored(np.asarray(target, dtype=np.float64), spec), spec)
        return told[0] if len(told) == 1 else told

    def strata(self, targets: NDArray[Any], spec: TargetSpec) -> Strata:
        """Ranges of each column that hold about as many items each; of few values, each by itself."""
        ranges = numbers.ranges(numbers.restored(np.asarray(targets, dtype=np.float64), spec), spec)
        sizes = [len(cuts) + 1 for cuts in spec.facts["cuts"]]
        first = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        of = [tuple(row) for row in (ranges + first).tolist()]
        return Strata(of, tuple(numbers.range_names(spec)), "range", "ranges", required=False)

    # How they are learned

    def head(self, width: int, spec: TargetSpec, *, dropout: float = 0.0) -> nn.Module:
        """One linear layer: features (B, width) to standardized numbers (B, K)."""
        return LinearHead(width, len(spec.names), dropout=dropout)

    def loss(self, outputs: Tensor, targets: Tensor, recipe: Recipe | LinearRecipe) -> Tensor:
        """Huber's loss, or the mean squared error where the recipe's ``loss`` says so; of all columns."""
        if recipe.loss == MSE:
            return functional.mse_loss(outputs, targets)
        return functional.huber_loss(outputs, targets, delta=DELTA)

    def distillation(self, outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """Huber's loss with the teacher's numbers as targets; numbers have no temperature."""
        return functional.huber_loss(outputs, taught, delta=DELTA)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Huber's losses (H,) of outputs (N, K, H)."""
        wanted = targets.unsqueeze(2).expand_as(outputs)
        return functional.huber_loss(outputs, wanted, reduction="none", delta=DELTA).mean(dim=(0, 1))

    def output_gradient(self, outputs: Tensor, targets: Tensor, recipes: Sequence[LinearRecipe]) -> Tensor:
        """Errors, clipped where the loss is Huber's, over B * K: written over the outputs (B, K, H)."""
        squared = torch.tensor([recipe.loss == MSE for recipe in recipes], device=outputs.device)
        outputs -= targets.unsqueeze(2)
        limit = torch.where(squared, torch.inf, DELTA)
        outputs.clamp_(-limit, limit)
        outputs *= torch.where(squared, 2.0, 1.0) / (outputs.shape[0] * outputs.shape[1])
        return outputs

    # How good it is

    def constant(self, targets: NDArray[Any], spec: TargetSpec) -> tuple[str, Tensor]:
        """The median, which has the least mean absolute error."""
        return "always answering the median", torch.from_numpy(np.median(targets, axis=0))[None]

    def evaluator(self, spec: TargetSpec) -> NumberEvaluator:
        """Of all metrics, in the user's unit."""
        return NumberEvaluator(spec)

    def evaluate(
        self, outputs: Tensor, targets: Tensor, spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> tuple[Scores, Scores]:
        """The metrics, the share of numbers inside their intervals, and each column's mean absolute error."""
        metrics = dict(self.score(outputs, targets, spec))
        if "margin" in calibration:
            metrics["coverage"] = conformal.covered(outputs, targets, calibration)
        errors = error_of(outputs, targets, spec) if len(spec.names) > 1 else {}
        return metrics, errors

    # How it is used

    def calibrate(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Any]:
        """Margins of the intervals: see `conformal.fit`."""
        return conformal.fit(outputs, targets)

    def check_calibration(
        self, outputs: Tensor, targets: Tensor, calibration: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """The share of test items' numbers that lie inside their intervals."""
        if "margin" not in calibration:
            return {"test_items": len(targets)}
        return {
            "test_items": len(targets),
            "test_coverage": conformal.covered(outputs, targets, calibration),
        }

    def decode(
        self, outputs: Tensor, spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Standardized numbers, and the same in the user's unit; both (N, K)."""
        mean, scale = (
            torch.tensor(spec.facts[name], dtype=outputs.dtype, device=outputs.device)
            for name in ("mean", "scale")
        )
        return outputs, outputs * scale + mean

    outputs = ("standardized", "values")
    pipeline = "image-feature-extraction"  # the hub has no name for regression

    def trust(self, calibration: Mapping[str, Any]) -> str:
        """What intervals are made to hold, and what they held."""
        if "margin" not in calibration:
            return "There are no intervals: nothing was held out to make them from."
        held = calibration.get("test_coverage")
        return (
            f"Intervals are made to contain {100 * calibration['coverage']:.0f}% of the numbers of new "
            f"images like the {plural(calibration['items'], 'validation image')} (split conformal "
            "prediction, by the errors of the search's winner)"
            + (f"; of the test images' they contain {100 * held:.0f}%." if held is not None else ".")
        )

    def beside(self, spec: TargetSpec, calibration: Mapping[str, Any]) -> Mapping[str, Any]:
        """``margin`` of each column's interval on both sides, in the user's unit, and its ``coverage``."""
        if "margin" not in calibration:
            return {}
        margin = np.asarray(calibration["margin"]) * np.asarray(spec.facts["scale"])
        return {"margin": margin.tolist(), "coverage": calibration["coverage"]}

    def disagreement(
        self, expected: NDArray[Any], found: NDArray[Any], spec: TargetSpec, *, allowed: float
    ) -> tuple[float, str]:
        """In deviations of the targets, whatever their unit."""
        scale = np.asarray(spec.facts["scale"])
        return super().disagreement(expected / scale, found / scale, spec, allowed=allowed)

    def answers(self, decoded: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]) -> list[Any]:
        """Numbers, or lists of them where there are several columns."""
        rows: list[list[float]] = [numbers.rounded(row, spec) for row in decoded.astype(np.float64)]
        return [row[0] for row in rows] if len(spec.names) == 1 else rows

    def predict(
        self, decoded: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """``values`` by column, ``intervals`` by column, and the ``coverage`` that these have."""
        values = decoded.astype(np.float64)
        named = dict(zip(spec.names, numbers.rounded(values, spec), strict=True))
        if "margin" not in calibration:
            return {"values": named, "intervals": {}, "coverage": None}
        margin = np.asarray(calibration["margin"]) * np.asarray(spec.facts["scale"])
        low, high = numbers.rounded(values - margin, spec), numbers.rounded(values + margin, spec)
        intervals = {name: [low[at], high[at]] for at, name in enumerate(spec.names)}
        return {"values": named, "intervals": intervals, "coverage": calibration["coverage"]}

    def figures(
        self, decoded: NDArray[Any], targets: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Sequence[Figure]:
        """Predicted against true, and residuals, of each column."""
        true = numbers.restored(targets.astype(np.float64), spec)
        return number_figures.figures(decoded.astype(np.float64), true, spec, calibration)

    def say(self, prediction: Mapping[str, Any], *, top: int) -> str:
        """Numbers and their intervals."""
        told = []
        for name, value in prediction["values"].items():
            low, high = prediction["intervals"].get(name, (None, None))
            share = 100 * (prediction["coverage"] or 0)
            told.append(
                f"{name} {value:.5g}" + ("" if low is None else f" ({low:.5g} to {high:.5g}, {share:.0f}%)")
            )
        return ", ".join(told)

    def cells(self, prediction: Mapping[str, Any], spec: TargetSpec) -> list[tuple[str, Any]]:
        """Every number, and the ends of its interval."""
        found: list[tuple[str, Any]] = []
        for name in spec.names:
            low, high = prediction["intervals"].get(name, (None, None))
            value = prediction["values"].get(name)
            found += [(name, value), (f"{name} low", low), (f"{name} high", high)]
        return found
