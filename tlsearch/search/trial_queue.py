"""Where a driver's points come from, and how they are dealt out: one worker's turn at a time."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from tlsearch.contracts import HeadStrategy
from tlsearch.records import EpochResult, Point, TrialRole, TrialState
from tlsearch.search.allocation import charge, length
from tlsearch.search.budget import Budget
from tlsearch.search.sampler import Proposal, Sampler

TOLERANCE = 0.8
"""Share of the expected seconds that must be left for a trial to begin: the estimate is rough."""


class PointSource(Protocol):
    """Where a driver's points come from."""

    def take(self) -> list[Point]:
        """Points for one worker's turn; empty when there are no more."""

    def learn(self, result: EpochResult) -> None:
        """Take note of how a point goes, and of how it ended."""


class Fixed:
    """Points that are known beforehand, heads of one branch together."""

    def __init__(self, points: Iterable[Point], *, heads: Callable[[str], bool], at_once: int) -> None:
        self._turns = deque(group_turns(points, heads=heads, at_once=at_once))

    def take(self) -> list[Point]:
        """The next turn."""
        return self._turns.popleft() if self._turns else []

    def learn(self, result: EpochResult) -> None:
        """Nothing to learn."""


PERFECT_TRIALS = 10
"""Complete trials with a perfect score that end a search: enough to choose from by log-loss and size."""


class Searching:
    """Points that an earlier driver left open, then what the sampler proposes while the budget lasts."""

    def __init__(
        self,
        sampler: Sampler,
        budget: Budget,
        *,
        left_open: Iterable[Point],
        next_number: int,
        seed: int,
        heads: Callable[[str], bool],
        at_once: int,
        foreseen: Callable[[Point], float] = lambda point: 0.0,
    ) -> None:
        self.sampler = sampler
        self.budget = budget
        self.next_number = next_number
        self.seed = seed
        self.at_once = at_once
        points = list(left_open)
        for point in points:
            sampler.resume(point.number, Proposal(point.backbone, point.strategy, point.params))
        self._again = deque(group_turns(points, heads=heads, at_once=at_once))
        self.exhausted = False
        self.too_long: float | None = None
        """Seconds that the next trial would have taken, where that was more than the search had left."""
        self.perfect_value: float | None = None
        """The best value that the metric can have; None where there is none, or nobody said so."""
        self.perfect = 0
        """Complete trials that have it."""
        self.heads_alone = False
        """Whether not even the first trial that fine-tunes could end in time: only heads are fitted then."""
        self._heads = heads
        self._foreseen = foreseen
        self._scored = False
        self._pace = _Pace()
        self._open: dict[int, Point] = {}

    def take(self) -> list[Point]:
        """Left open points first; then proposals, as many as the trial budget allows.

        Where another trial that fine-tunes wouldn't end in time, heads fill the time of those that still run;
        where not even the first would, each strategy of heads gets its turn.
        """
        if self._again:
            return self._again.popleft()
        late = self.too_long is not None and not (self._waits or self.heads_alone)
        if self.budget.trials_left == 0 or self.settled or late:
            return []
        points = self._proposed()
        if points and not self._heads(points[0].strategy):
            seconds = self._pace.expected(points[0])
            untried = seconds is None and self._scored and not self._waits
            seconds = self._foreseen(points[0]) if untried else seconds
            if seconds is not None and not self._in_time(seconds, points[0], untried=untried):
                self.too_long, self.heads_alone = seconds, untried
                return self.take()
        self.next_number += len(points)
        self.budget.started += len(points)
        self._open.update({point.number: point for point in points})
        return points

    def _in_time(self, seconds: float, point: Point, *, untried: bool) -> bool:
        """Whether a trial ends in time; a long one is shortened, and as good as one of the usual length."""
        least = seconds * TOLERANCE / max(1.0, length(point.params))
        in_time = time.time() + least <= self.budget.search_deadline
        return in_time or (untried and self.budget.forgo_refits(least))

    def _proposed(self) -> list[Point]:
        """What the sampler proposes next: heads alone, once nothing else can end in time."""
        late = self.too_long is not None
        proposals = self.sampler.ask(
            self.next_number, most=self.budget.trials_left, heads=self.at_once, heads_only=late
        )
        self.exhausted = not proposals and not late
        return [
            Point(
                number=self.next_number + index,
                backbone=proposal.backbone,
                strategy=proposal.strategy,
                params=proposal.params,
                seed=self.seed,
            )
            for index, proposal in enumerate(proposals)
        ]

    @property
    def _waits(self) -> bool:
        """Whether trials that fine-tune are still running."""
        return any(not self._heads(point.strategy) for point in self._open.values())

    @property
    def over(self) -> bool:
        """Whether nothing but heads will be proposed any more."""
        return (
            self.exhausted or self.settled or self.budget.trials_left == 0 or self.too_long is not None
        ) and not self._again

    @property
    def settled(self) -> bool:
        """Whether so many trials are perfect that further ones could only tie with them."""
        return self.perfect >= PERFECT_TRIALS

    def learn(self, result: EpochResult) -> None:
        """Tell the sampler."""
        if result.outcome is None:
            self.sampler.observe(result.number, result.value)
        else:
            point = self._open.pop(result.number, None)
            if point is not None and result.outcome.state is TrialState.COMPLETE:
                self._scored = True
                if not self._heads(point.strategy):
                    self._pace.note(point, result.outcome.costs.seconds)
                value = result.outcome.value
                self.perfect += self.perfect_value is not None and value == self.perfect_value
            self.sampler.tell(result.number, result.outcome.state, result.outcome.value)


class _Pace:
    """Seconds that a trial of a strategy takes, by the work that it is charged."""

    def __init__(self) -> None:
        self._seconds: dict[str, dict[str, list[float]]] = {}

    def note(self, point: Point, seconds: float) -> None:
        """Take note of a complete trial."""
        known = self._seconds.setdefault(point.backbone, {}).setdefault(point.strategy, [])
        known.append(seconds / charge(point.params))

    def expected(self, point: Point) -> float | None:
        """Seconds of a trial, by those of its backbone and strategy, else by others of the backbone.

        None where there are none.
        """
        known = self._seconds.get(point.backbone, {})
        paces = known.get(point.strategy) or [pace for each in known.values() for pace in each]
        return statistics.median(paces) * charge(point.params) if paces else None


def group_turns(points: Iterable[Point], *, heads: Callable[[str], bool], at_once: int) -> list[list[Point]]:
    """Points as workers' turns: heads of one branch and role together, everything else alone."""
    turns: list[list[Point]] = []
    filling: dict[tuple[str, str, TrialRole], list[Point]] = {}
    for point in points:
        key = (point.backbone, point.strategy, point.role)
        if not heads(point.strategy):
            turns.append([point])
        elif key in filling and len(filling[key]) < at_once:
            filling[key].append(point)
        else:
            filling[key] = [point]
            turns.append(filling[key])
    return turns


def is_heads(strategies: Mapping[str, object]) -> Callable[[str], bool]:
    """Tells whether a strategy of that name fits heads."""
    return lambda name: isinstance(strategies.get(name), HeadStrategy)
