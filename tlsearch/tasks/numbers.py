"""Numeric targets: from what a table holds to an array, standardized and back, and cut into ranges.

A spec's facts hold, for each column, ``mean`` and ``scale`` (its deviation), ``cuts`` (inner ends of the
ranges, ascending), ``levels`` (its values where they are few, else none), ``low`` and ``high``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlsearch.contracts import TargetSpec
from tlsearch.errors import DataError

RANGES = 10
"""Into which the values of a column are cut."""
LEVELS = 20
"""Distinct values up to which each is a range of its own: ratings, counts, grades."""
FEWEST = 20
"""Items that a range of values should hold."""
LARGEST = 1e30
"""What a target must stay below: larger ones stand for no value, and their squares overflow."""
DIGITS = 6
"""Digits behind a deviation's first that are told: float32 has no more."""
MISSING = "no target"
"""What is wrong with a target that isn't there."""

Array = NDArray[np.float64]


def parsed(targets: Sequence[Any] | NDArray[Any]) -> Array:
    """Raw targets as numbers (N, K).

    Raises:
        DataError: one is no finite number.
    """
    if wrong := problems(targets):
        position, why = next(iter(wrong.items()))
        raise DataError(f"The target of item {position + 1}: {why}.")
    rows = [[_number(cell) for cell in _cells(target)] for target in targets]
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise DataError(f"Items have {min(widths)} to {max(widths)} numbers; all must have as many.")
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), *(widths or {1}))


def problems(targets: Sequence[Any] | NDArray[Any]) -> dict[int, str]:
    """Positions of targets that are no finite numbers, and why."""
    found: dict[int, str] = {}
    for position, target in enumerate(targets):
        for cell in _cells(target):
            if why := _problem(cell):
                found[position] = why
                break
    return found


def _cells(target: Any) -> Sequence[Any]:
    """The numbers of an item; one alone is a row of one."""
    if isinstance(target, str | bytes) or np.ndim(target) == 0:
        return (target,)
    return tuple(target)


def _number(cell: Any) -> float:
    return float(cell)


def _problem(cell: Any) -> str:
    text = str(cell).strip()
    if cell is None or text.lower() in ("", "nan", "na", "n/a", "none", "null", "<na>", "nat"):
        return f'{MISSING} ("{text}")' if text and cell is not None else MISSING
    try:
        value = math.nan if "_" in text else float(cell)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if math.isnan(value):
        comma = ", decimals stand behind a point" if "," in text else ""
        return f'target "{text[:40]}" is no number{comma}'
    if math.isinf(value):
        return f"target {text} is infinite"
    return "" if abs(value) < LARGEST else f"target {text} is too large: right is below {LARGEST:g}"


def standardized(values: Array, spec: TargetSpec) -> Array:
    """Numbers (N, K) in deviations from the mean."""
    return (values - np.asarray(spec.facts["mean"])) / np.asarray(spec.facts["scale"])


def restored(targets: Array, spec: TargetSpec) -> Array:
    """Standardized numbers (..., K) in the user's unit."""
    return targets * np.asarray(spec.facts["scale"]) + np.asarray(spec.facts["mean"])


def rounded(row: Array, spec: TargetSpec) -> list[float]:
    """An item's numbers (K,) with as many digits as float32 tells of them."""
    return [
        round(float(value), DIGITS - math.floor(math.log10(scale)))
        for value, scale in zip(row, spec.facts["scale"], strict=True)
    ]


def cuts(column: Array) -> list[float]:
    """Where a column's values (N,) are cut into ranges of about as many items, halfway between two values."""
    values, counts = np.unique(column, return_counts=True)
    between = (values[1:] + values[:-1]) / 2
    if len(values) <= LEVELS:
        return [float(cut) for cut in between]
    wanted = max(2, min(RANGES, len(column) // FEWEST))
    reached = np.cumsum(counts)[:-1] / len(column)
    chosen = {int(np.abs(reached - step / wanted).argmin()) for step in range(1, wanted)}
    return [float(between[at]) for at in sorted(chosen)]


def levels(column: Array) -> list[float]:
    """A column's values (N,), ascending, where they are few."""
    values = np.unique(column)
    return values.tolist() if len(values) <= LEVELS else []


def ranges(values: Array, spec: TargetSpec) -> NDArray[np.int64]:
    """Numbers (N, K) as the ranges, counted from 0, that they fall in."""
    columns = [np.digitize(values[:, at], inner) for at, inner in enumerate(spec.facts["cuts"])]
    return np.stack(columns, axis=1).astype(np.int64)


def range_names(spec: TargetSpec) -> list[str]:
    """Names of all columns' ranges, one column after the other."""
    names = []
    for at, column in enumerate(spec.names):
        inner = spec.facts["cuts"][at]
        ends = [spec.facts["low"][at], *inner, spec.facts["high"][at]]
        prefix = f"{column} " if len(spec.names) > 1 else ""
        if levels := spec.facts["levels"][at]:
            names += [f"{prefix}{level:.6g}" for level in levels]
            continue
        names += [f"{prefix}{low:.5g} to {high:.5g}" for low, high in pairwise(ends)]
    return names
