"""A metric of a task: what it is called, which way is better, and how exactly it can be measured again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that says how good predictions are.

    Attributes:
        name: as in a study file.
        title: what people call it, such as ``mean absolute error``; the name's own words where it is empty.
        minimize: whether smaller is better.
        unit: of its values, such as ``nats``; empty for a share.
        needs_probabilities: whether it is computed from probabilities rather than from what is predicted.
        tolerance: how far a value measured again on this many items may be off, by rounding alone.
        relative: how far besides, as a share of the value: for metrics in the unit of the targets.
        proportion: whether it is the share of items that are right, each of which counts 0 or 1: its interval
            has a formula then.
        slack: what a value may be worse by on items that a model has learned from, besides half of itself;
            for metrics that are minimized.
    """

    name: str
    minimize: bool = False
    unit: str = ""
    needs_probabilities: bool = False
    tolerance: Callable[[int], float] = lambda items: 1.5 / max(1, items)
    relative: float = 0.0
    slack: float = 0.0
    proportion: bool = False
    title: str = ""

    @property
    def words(self) -> str:
        """What people call it."""
        return self.title or self.name.replace("_", " ")

    @property
    def share(self) -> bool:
        """Whether its values are shares of right answers, or like them: larger is better, and no unit."""
        return not self.minimize and not self.unit

    def same(self, found: float, recorded: float, *, items: int) -> bool:
        """Whether a value measured again on this many items differs by rounding alone."""
        return abs(found - recorded) <= self.tolerance(items) + self.relative * abs(recorded)

    @property
    def direction(self) -> str:
        """``minimize`` or ``maximize``."""
        return "minimize" if self.minimize else "maximize"

    def signed(self, value: float) -> float:
        """The value as a number that is larger where it is better; what isn't finite is the worst."""
        if not math.isfinite(value):
            return -math.inf
        return -value if self.minimize else value
