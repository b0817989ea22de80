"""Trials, wall-clock and epochs of a study: one budget."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Self

from tlsearch.spec import BudgetSpec

CONFIRM_SHARE = 0.2
"""Share of the minutes that repeating the finalists may take."""
MOST_KEPT = 0.5
"""Share of the time after preparation that is kept at most for all that comes after the search."""
LEAST_AFTER = 30.0
"""Seconds for repeating and refitting; less is not kept: one longer trial is worth more."""
STARTING = 6.0
"""Seconds in which a fresh process has imported torch and loaded a model."""
LOADING = 2.5
"""Seconds in which one that has imported it already has loaded a model, and the search has written it."""
MEMBER = 0.3
"""Seconds in which each further network is written and loaded."""
OPERATIONS_PER_SECOND = 4e10
"""Floating-point operations of a forward pass that two modest cores do in a second: they did 5e10 here."""
PREPARATION_SHARE = 0.5
"""Share of the minutes that preparation, before the first trial, counts for at most."""


@dataclass
class Budget:
    """What a study may still spend. Time counts only while a driver runs, up to the verified model.

    Attributes:
        budget: as the study file has it.
        started: trials of the search that have been started, by this and earlier drivers.
        spent: seconds of earlier drivers.
        after_search: seconds that confirming and refitting what leads now would take; infinite while nothing
            is known of it.
        verification: seconds in which a fresh process measures the winner on the validation items.
        opening: seconds in which one measures the refitted model on validation and test items.
        refits: whether time is kept for repeating and refitting what leads.
    """

    budget: BudgetSpec
    started: int
    spent: float
    after_search: float = 0.0
    verification: float = STARTING
    opening: float = STARTING
    refits: bool = True
    _since: float = field(default_factory=time.time)
    _prepared: float = 0.0
    """Seconds that preparation took, of those since then."""

    @classmethod
    def of_driver(cls, budget: BudgetSpec, *, started: int, spent: float, began: float) -> Self:
        """The budget of a driver whose time began before it came to search: it has imported and prepared."""
        now = time.time()
        whole = 60 * budget.minutes if budget.minutes is not None else math.inf
        since = max(began, now - PREPARATION_SHARE * whole)
        return cls(budget, started=started, spent=spent, _since=since, _prepared=now - since)

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
    def _whole(self) -> float:
        """Seconds that this driver has after its preparation; those of earlier ones are spent."""
        return max(0.0, 60 * (self.budget.minutes or 0.0) - self.spent - self._prepared)

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
        return self.end - min(self.opening, MOST_KEPT / 2 * self._whole)

    @property
    def search_deadline(self) -> float:
        """When the search must have ended, so that there is time for what comes after it."""
        if self.budget.minutes is None:
            return math.inf
        kept = max(self.after_search, self.verification + self.opening)
        return self.end - min(kept, MOST_KEPT * self._whole)

    @property
    def worth_keeping(self) -> bool:
        """Whether as much time can be kept for what comes after the search that it is of use."""
        if self.budget.minutes is None or not self.refits:
            return False
        return MOST_KEPT * self._whole - self.verification - self.opening >= LEAST_AFTER

    def forgo_refits(self, seconds: float) -> bool:
        """Whether a trial ends in time at least where nothing is refitted; then no time is kept for that.

        A network that has learned from the training items alone is worth more than none.

        Args:
            seconds: of the trial.
        """
        if time.time() + seconds > self.end - (self.verification + self.opening):
            return False
        self.refits, self.after_search = False, 0.0
        return True

    @property
    def seconds_to_train(self) -> float:
        """Seconds until the deadline; infinite without a time budget."""
        return self.deadline - time.time()

    def most_confirming(self, seconds: float) -> float:
        """Of the seconds that repeating the finalists would take, those that it may."""
        if self.budget.minutes is None:
            return seconds
        return min(seconds, CONFIRM_SHARE * self._whole)


def training(operations: float, *, items: int, cpus: int) -> float:
    """Seconds that training takes at least on processors, where nothing was measured yet.

    A third of the work is the forward pass, and two of the cores that `OPERATIONS_PER_SECOND` is of count as
    one here: what is not begun for such an estimate wouldn't have ended on a machine twice as fast.

    Args:
        operations: floating-point operations of a forward pass of one item, as far as layers train.
        items: of all updates.
        cpus: that the trial has.
    """
    return 3 * operations * items / (cpus * OPERATIONS_PER_SECOND)


def looking(operations: float, *, items: int, networks: int = 1, begun: bool = False) -> float:
    """Seconds in which a process of its own measures a model.

    Args:
        operations: floating-point operations of a forward pass of one item.
        items: forward passes: items, times members, times two with mirrored images.
        networks: members of the model; of heads, many take one pass.
        begun: whether it has imported what it needs.
    """
    start = LOADING if begun else STARTING
    return start + (networks - 1) * MEMBER + operations * items / OPERATIONS_PER_SECOND
