"""Trials, wall-clock and epochs of a study: one budget."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Self

from tlsearch.search.refit import VERIFYING
from tlsearch.spec import BudgetSpec

CONFIRM_SHARE = 0.2
"""Share of the minutes that is kept at least for confirming the finalists and refitting the winner."""
MOST_KEPT = 0.5
"""At most."""
PREPARATION_SHARE = 0.5
"""Share of the minutes that preparation, before the first trial, counts for at most."""


@dataclass
class Budget:
    """What a study may still spend. Time counts only while a driver runs, up to the verified model.

    Attributes:
        budget: as the study file has it.
        started: trials of the search that have been started, by this and earlier drivers.
        spent: seconds of earlier drivers.
        after_search: seconds that confirming and refitting what leads now would take, as far as is known.
    """

    budget: BudgetSpec
    started: int
    spent: float
    after_search: float = 0.0
    _since: float = field(default_factory=time.time)

    @classmethod
    def of_driver(cls, budget: BudgetSpec, *, started: int, spent: float, began: float) -> Self:
        """The budget of a driver whose time began before it came to search: it has imported and prepared."""
        now = time.time()
        whole = 60 * budget.minutes if budget.minutes is not None else math.inf
        return cls(budget, started=started, spent=spent, _since=max(began, now - PREPARATION_SHARE * whole))

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
    def end(self) -> float:
        """When the study is to have its verified model, as `time.time` counts."""
        if self.budget.minutes is None:
            return math.inf
        return self._since + self.budget.minutes * 60 - self.spent

    @property
    def deadline(self) -> float:
        """When all training must have ended, so that there is time to verify what came of it."""
        if self.budget.minutes is None:
            return math.inf
        return self.end - min(VERIFYING, CONFIRM_SHARE * self.budget.minutes * 60)

    @property
    def search_deadline(self) -> float:
        """When the search must have ended, so that there is time for what comes after it."""
        if self.budget.minutes is None:
            return math.inf
        whole = self.budget.minutes * 60
        # Two verifications at least, from the beginning: workers keep the deadline that they were given.
        kept = max(CONFIRM_SHARE * whole, self.after_search, 2 * VERIFYING)
        return self.end - min(kept, MOST_KEPT * whole)
