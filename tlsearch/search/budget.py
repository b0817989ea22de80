"""Trials, wall-clock and epochs of a study: one ledger."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from tlsearch.spec import BudgetSpec

CONFIRM_SHARE = 0.2
"""Share of the minutes that is kept for confirming the finalists."""


@dataclass
class Ledger:
    """What a study may still spend. Time counts only while a driver runs.

    Attributes:
        budget: as the study file has it.
        started: trials of the search that have been started, by this and earlier drivers.
        spent: seconds of earlier drivers.
    """

    budget: BudgetSpec
    started: int
    spent: float
    _since: float = field(default_factory=time.time)

    @property
    def trials_left(self) -> int:
        """Trials that may still be started."""
        return max(0, self.budget.trials - self.started)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the whole budget is spent; None without a time budget."""
        if self.budget.minutes is None:
            return None
        return self.budget.minutes * 60 - self.spent - (time.time() - self._since)

    @property
    def deadline(self) -> float:
        """When all training must have ended, as `time.time` counts."""
        if self.budget.minutes is None:
            return math.inf
        return self._since + self.budget.minutes * 60 - self.spent

    @property
    def search_deadline(self) -> float:
        """When the search must have ended, so that the finalists can be confirmed."""
        if self.budget.minutes is None:
            return math.inf
        return self.deadline - CONFIRM_SHARE * self.budget.minutes * 60
