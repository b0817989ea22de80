"""How long a trial trains: by updates of the optimizer, which follow from the data unless the study says."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from tlsearch.spec import BudgetSpec

LEAST_UPDATES = 300
"""Few images need many passes. BiT (Kolesnikov et al. 2020, arXiv:1912.11370) takes 500 updates at batches of
512 below 20,000 images; 300 at batches of 32 measured a point better than 125 on 800 images."""
LEAST_PASSES = 5
"""Where this is more than `LEAST_UPDATES`, all items are still seen a few times."""


def count_updates(budget: BudgetSpec, length: float, epochs: int, batches: int) -> int:
    """Updates of a trial.

    Args:
        budget: its ``epochs``, where they are given, are passes over the data.
        length: of the trial, 1 being the usual.
        epochs: evaluations of the trial; fewer than the study's train proportionally less.
        batches: of one pass.
    """
    usual = budget.epochs * batches if budget.epochs else max(LEAST_UPDATES, LEAST_PASSES * batches)
    return max(epochs, round(length * usual * epochs / budget.rounds))


FIRST_LOOK = 8
"""Updates after which the first pace is taken; the first of all isn't counted, which waits for its data."""
RESTED = 0.9
"""Share of the schedule after which a learning rate is at rest: it has 2 % of its peak, or less."""
CONCLUDING = 1.0
"""Seconds from the last evaluation to the saved weights."""


class Length:
    """How many updates a fit has, and where it stands: fewer where its deadline would come first.

    A learning rate that has come to rest makes a better model than one that was cut off on its way. So the
    plan is looked at after the first updates and after every evaluation: where what is left of it takes
    longer than the time that is left, the rest of the schedule is passed through in fewer updates; and so it
    is within an epoch whose updates have become slower. Without a deadline, or where it is far, nothing is
    changed.

    Args:
        updates: planned.
        epochs: evaluations, each after at least one update.
        deadline: as `time.time` counts.
    """

    def __init__(self, updates: int, *, epochs: int, deadline: float = math.inf) -> None:
        self.planned = self.total = updates
        self.epochs = epochs
        self.deadline = deadline
        # Where the plan was last changed: the update, the epochs that had ended, the share that was done.
        self._update, self._epoch, self._share = 0, 0, 0.0
        self._seconds: list[float] = []
        self._evaluation = 0.0

    def end_of(self, epoch: int) -> int:
        """Updates that are done when an epoch ends."""
        share = (epoch - self._epoch) / (self.epochs - self._epoch)
        return self._update + round((self.total - self._update) * share)

    def position(self, taken: int) -> float:
        """Where an update lies in the schedule, counted as one of the planned updates."""
        left = self.planned * (1 - self._share)
        return self.planned * self._share + (taken - self._update) * left / (self.total - self._update)

    def rested(self, taken: int) -> bool:
        """Whether a fit that ends after so many updates is as good as whole."""
        return self.position(taken) >= RESTED * self.planned

    def stepped(self, taken: int, *, epoch: int, seconds: float) -> None:
        """Take note of what an update took, and of the pace after the first of them."""
        if math.isinf(self.deadline):
            return
        self._seconds.append(seconds)
        if taken == FIRST_LOOK and epoch == 1:
            self._seconds = self._seconds[1:]
            self._plan(taken, ended=0)
        elif len(self._seconds) % FIRST_LOOK == 0:
            fewest = self.epochs - epoch + 1
            if max(fewest, self._possible(epoch - 1)) < self.total - taken:
                self._plan(taken, ended=epoch - 1)  # it has become slower

    def evaluated(self, taken: int, *, epoch: int, seconds: float) -> None:
        """Take note of what the evaluation at the end of an epoch took; plan the rest anew."""
        self._evaluation = seconds
        if self._seconds and epoch < self.epochs:
            self._plan(taken, ended=epoch)
        self._seconds = []

    def _plan(self, taken: int, *, ended: int) -> None:
        share = self.position(taken) / self.planned
        usual = round(self.planned * (1 - share))
        possible = self._possible(ended)
        if possible >= usual and self.total == self.planned:
            return  # as planned
        self._update, self._epoch, self._share = taken, ended, share
        self.total = taken + max(self.epochs - ended, min(usual, possible))

    def _possible(self, ended: int) -> int:
        """Updates for which there is time, at the pace of the last ones."""
        left = self.deadline - time.time() - CONCLUDING - (self.epochs - ended) * self._evaluation
        return int(left / (sum(self._seconds) / len(self._seconds)))

    def remark(self) -> str:
        """What the trial's record should tell of it."""
        if self.total >= self.planned:
            return ""
        return f", shortened to {self.total} of {self.planned} updates to fit the time left"

    def facts(self) -> dict[str, Any]:
        """Where the plan was changed."""
        return {"total": self.total, "update": self._update, "epoch": self._epoch, "share": self._share}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Know it again."""
        self.total = facts["total"]
        self._update, self._epoch, self._share = facts["update"], facts["epoch"], facts["share"]
