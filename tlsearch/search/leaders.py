"""Which trials of a study lead, and whose weights are kept for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tlsearch.records import Outcome, Point, TrialRole, TrialState
from tlsearch.search.finalists import standing
from tlsearch.search.progress import Best
from tlsearch.spec import StudySpec
from tlsearch.training.objective import metric_of, task_of

Standing = tuple[float, float, int, int]
"""A key by which trials are ranked, as `best` and the finalists are: smaller is better."""


class _Kept(NamedTuple):
    """Weights of a complete trial that are there."""

    standing: Standing
    strategy: str
    uri: str


class Leaders:
    """The best trials so far.

    Attributes:
        best: trial of all.
        leading: the best value seen, also in an epoch of a trial that isn't over.
        by_strategy: the best value of each strategy.
        trained_seconds: that the best trial took which trains more than a head; None before the first.
    """

    def __init__(self, spec: StudySpec, *, heads: Callable[[str], bool], combines: bool) -> None:
        """Whether trials of a strategy fit ``heads``; whether trials are to be combined at the end."""
        task = task_of(spec)
        self._metric, self._tie = metric_of(spec), task.metric(task.tie_breaker)
        self._keep = max(spec.search.keep, spec.search.finalists)
        self._heads = heads
        self._combines = combines
        self.best: Best | None = None
        self.leading: float | None = None
        self.by_strategy: dict[str, float] = {}
        self.trained_seconds: float | None = None
        self._best_standing: Standing | None = None
        self._trained_standing: Standing | None = None
        self._kept: dict[int, _Kept] = {}

    def see(self, value: float | None) -> None:
        """Take note of the value of an epoch."""
        if value is not None and math.isfinite(value) and self._is_better(value, self.leading):
            self.leading = value

    def count(self, point: Point, outcome: Outcome) -> None:
        """Take note of how a trial ended."""
        value = outcome.value
        if outcome.state is not TrialState.COMPLETE or value is None or not math.isfinite(value):
            return
        if point.role is TrialRole.REFIT:  # scored on what it has learned from; all of its members stay
            return
        order = self._standing(point, outcome, value)
        if outcome.artifact is not None:
            # In the order of the finalists, whose weights must be there.
            self._kept[point.number] = _Kept(order, point.strategy, outcome.artifact.uri)
        if self._is_better(value, self.by_strategy.get(point.strategy)):
            self.by_strategy[point.strategy] = value
        if self._best_standing is None or order < self._best_standing:
            self.best, self._best_standing = Best(point, outcome), order
        leads_trained = self._trained_standing is None or order < self._trained_standing
        if leads_trained and not self._heads(point.strategy):
            self.trained_seconds, self._trained_standing = outcome.costs.seconds, order

    def surplus(self) -> dict[int, str]:
        """Weights by trial number that can't win any more.

        ``search.keep`` best stay, and the best of each strategy. Where trials are to be combined, as many of
        the best that aren't heads stay, too.
        """
        if len(self._kept) <= self._keep:
            return {}
        order = sorted(self._kept, key=lambda number: self._kept[number].standing)
        firsts = {self._kept[number].strategy: number for number in reversed(order)}
        trained = [number for number in order if not self._heads(self._kept[number].strategy)]
        combined = trained[: self._keep] if self._combines else []
        stay = {*order[: self._keep], *firsts.values(), *combined}
        return {number: self._kept[number].uri for number in order if number not in stay}

    def forget(self, numbers: Iterable[int]) -> None:
        """Take note that the weights of these trials are gone."""
        for number in numbers:
            del self._kept[number]

    def _standing(self, point: Point, outcome: Outcome, value: float) -> Standing:
        return standing(
            value,
            outcome.metrics,
            size=outcome.costs.total_parameters,
            number=point.number,
            minimize=self._metric.minimize,
            tie=self._tie,
        )

    def _is_better(self, value: float, other: float | None) -> bool:
        if other is None:
            return True
        return value < other if self._metric.minimize else value > other
