"""How sure a score on held-out items is: the bootstrap over the items, or over their groups."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tlsearch.models.intervals import GROUPS

if TYPE_CHECKING:
    from torch import Tensor

    from tlsearch.models.model import Model

RESAMPLES = 400
"""Sets that are drawn; an interval's ends move by a few percent of its width with twice as many."""
FEWER, ITEMS = 100, 400_000
"""So many sets at least, fewer where all would hold more items than this: intervals of many are narrow."""
LEAST = 10
"""Items, or groups of items, below which resampling tells too little."""
LEVEL = 0.95


def bounds(
    score: Callable[[NDArray[np.int64]], Mapping[str, float]],
    count: int,
    groups: Sequence[str] | None = None,
    *,
    resamples: int | None = None,
) -> dict[str, float]:
    """The ends of each score's 95% interval, as ``NAME_low`` and ``NAME_high``, by percentiles (Efron 1979).

    Items of one group (a patient, a scene) are right and wrong together, so whole groups are drawn: an
    interval over single items would be too narrow (Field and Welsh 2007).

    Args:
        score: the scores of the items at these positions, which may occur several times.
        count: items.
        groups: of each item; empty texts belong to none. None where there are none.
        resamples: sets that are drawn; by the number of items where it is None.

    Returns:
        Nothing of scores that aren't finite in most sets, nor where there are too few items or groups.
    """
    units = _units(count, groups)
    if len(units) < LEAST:
        return {}
    resamples = resamples or max(FEWER, min(RESAMPLES, ITEMS // count))
    generator = np.random.default_rng(0)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(resamples):
        drawn = generator.integers(len(units), size=len(units))
        for name, value in score(np.concatenate([units[unit] for unit in drawn])).items():
            if math.isfinite(value):
                found[name].append(value)
    told: dict[str, float] = {}
    for name, values in found.items():
        if len(values) > resamples // 2:
            low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            told |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return told


def of_scores(
    model: Model,
    outputs: Tensor,
    targets: Tensor,
    calibration: Mapping[str, Any],
    groups: Sequence[str] | None,
) -> dict[str, float]:
    """`bounds` of a model's metrics on items, and what is `counted` of their groups.

    The proportion of single items that are right has a formula.

    Args:
        model: it tells the task, and what targets are.
        outputs: (N, ...) of the items.
        targets: theirs.
        calibration: that the metrics are computed with.
        groups: of the items, see `bounds`.
    """
    import torch

    names = [metric.name for metric in model.task.metrics if not metric.proportion or groups is not None]

    def score(positions: NDArray[np.int64]) -> dict[str, float]:
        drawn = torch.from_numpy(positions)
        scores = model.task.score_calibrated(outputs[drawn], targets[drawn], model.target_spec, calibration)
        return {name: scores[name] for name in names}

    return bounds(score, len(targets), groups) | counted(groups)


def counted(groups: Sequence[str] | None) -> dict[str, float]:
    """In how many groups items come, as `GROUPS` among their scores; nothing where they come in none."""
    return {} if groups is None else {GROUPS: float(len(_units(len(groups), groups)))}


def _units(count: int, groups: Sequence[str] | None) -> list[NDArray[Any]]:
    """Positions of what is drawn as a whole."""
    if groups is None:
        return list(np.arange(count).reshape(-1, 1))
    members: dict[object, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[group or position].append(position)
    return [np.asarray(positions) for positions in members.values()]
