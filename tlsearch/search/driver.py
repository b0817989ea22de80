"""The mediator between workers, sampler and database: hands out points, records results, keeps the best."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from tlsearch import artifacts
from tlsearch.contracts import frozen_groups
from tlsearch.database.store import Lease, Store
from tlsearch.records import (
    Costs,
    EpochResult,
    Outcome,
    Point,
    TrialRecord,
    TrialRole,
    TrialState,
)
from tlsearch.search.budget import Budget
from tlsearch.search.finalists import standing
from tlsearch.search.loggers import TrialLoggers
from tlsearch.search.progress import Best, Observer, Snapshot
from tlsearch.search.trial_queue import PointSource
from tlsearch.spec import StudySpec
from tlsearch.training import checkpoints
from tlsearch.training.objective import metric_of, task_of

RETRIES = 2
"""How often a point is given to another worker whose worker died."""


class _Kept(NamedTuple):
    """Weights of a complete trial that are there."""

    standing: tuple[float, float, int, int]
    strategy: str
    uri: str


class Driver:
    """A `Dispatcher`: every point that it hands out ends in the database with a state and a reason."""

    def __init__(
        self,
        *,
        store: Store,
        lease: Lease,
        spec: StudySpec,
        source: PointSource,
        budget: Budget,
        deadline: float,
        slots: Callable[[], int],
        groups: Mapping[str, int],
        heads: Callable[[str], bool],
        phase: str,
        total: int | None,
        finished: Sequence[TrialRecord],
        observe: Observer,
        stopping: Callable[[], str],
        prune: bool = False,
        journal: TrialLoggers | None = None,
        combines: bool = False,
        place: str = "",
    ) -> None:
        self.store = store
        self.lease = lease
        self.spec = spec
        task = task_of(spec)
        self._metric, self._tie = metric_of(spec), task.metric(task.tie_breaker)
        self.source = source
        self.budget = budget
        self.deadline = deadline
        self.slots = slots
        self.groups = groups
        self.heads = heads
        self.phase = phase
        self.total = total
        self.observe = observe
        self.stopping = stopping
        self.prune = prune
        self.journal = journal or TrialLoggers({})
        self.combines = combines
        self.place = place
        self.done = 0
        self.counts = dict.fromkeys(TrialState, 0)
        self.best: Best | None = None
        self._best_standing: tuple[float, float, int, int] | None = None
        self.leading: float | None = None
        self.by_strategy: dict[str, float] = {}
        self.cached = 0
        self.failures: list[str] = []
        self._begun = time.monotonic()
        self._before = len(finished)
        self._open: dict[int, Point] = {}
        self._turn_of: dict[int, int] = {}
        self._last: dict[int, EpochResult] = {}
        self._kept: dict[int, _Kept] = {}
        self._best_trained: tuple[tuple[float, float, int, int], float] | None = None
        self._deaths: dict[int, int] = {}
        self._waiting: deque[list[Point]] = deque()
        for record in finished:
            self._count(record.point, _outcome_of(record))
        self.done = len(finished)

    # The dispatcher

    def next_turn(self) -> list[Point] | None:
        """Points for a worker; empty while all workers are busy, None when it is over."""
        if self.stopping() or time.time() >= self.deadline:
            return None
        busy = self._busy()
        if busy and busy >= self.slots():  # there is room for one at least, as soon as workers are there
            return []
        points = self._waiting.popleft() if self._waiting else self._begin(self.source.take())
        if not points:
            # A worker that is busy may die yet, and its points would need another.
            return [] if self._open else None
        self._turn_of.update({point.number: points[0].number for point in points})
        self._tell()
        return points

    def _begin(self, points: list[Point]) -> list[Point]:
        """The same points, recorded as begun before anybody gets them; no earlier attempt counts any more."""
        if points:
            self.store.start_trials(self.lease, points, keep_epochs=True)
            self.journal.begin(points)
            self._open.update({point.number: point for point in points})
        return points

    def put_back(self, points: Sequence[Point]) -> None:
        """Take points back that are recorded as begun and that no worker is on; they are the next turn."""
        for point in points:
            self._turn_of.pop(point.number)
        self._waiting.append(list(points))

    def record(self, results: Sequence[EpochResult]) -> None:
        """Write results down, then learn from them."""
        current = [
            self._with_depth(result)
            for result in results
            if result.number in self._open and result.attempt == self._open[result.number].attempt
        ]
        if not current:
            return
        refused = {result.number for result in self.store.record(self.lease, current)}
        for result in current:
            if result.number in refused:
                continue
            self.journal.tell(result)
            self._last[result.number] = result
            value = result.value
            if value is not None and math.isfinite(value):
                better = self.leading is None or self._better(value, self.leading)
                self.leading = value if better else self.leading
            if result.outcome is None:
                self.source.learn(result)
            else:
                self._end(result)
        self._keep_the_best()
        self._tell()

    def ended(self, points: Sequence[Point], error: str | None) -> None:
        """End what a worker left open: it was stopped by the scheduler or by us, or it died too often."""
        left = [point for point in points if point.number in self._open]
        if not left:
            return
        why = self.stopping()
        late = time.time() >= self.deadline
        if error is not None and not why and not late:
            left = self._try_again(left)
            if not left:
                return
            state, reason = TrialState.FAILED, error
        elif why or late:
            state, reason = TrialState.CANCELLED, why or "the time budget ran out"
        else:
            state, reason = TrialState.PRUNED, "stopped by ASHA: others were better at the same epoch"
        self._close(left, state, reason)

    def _try_again(self, points: Sequence[Point]) -> list[Point]:
        """Keep points for another worker, as their next attempt; answers those that died too often."""
        again: list[Point] = []
        spent: list[Point] = []
        for point in points:
            self._deaths[point.number] = self._deaths.get(point.number, 0) + 1
            if self._deaths[point.number] > RETRIES:
                spent.append(point)
                continue
            again.append(replace(point, attempt=point.attempt + 1))
        if again:
            self.put_back(self._begin(again))
        return spent

    def must_stop(self) -> bool:
        """Stop workers at once when asked to, or soon after the deadline, which they keep themselves."""
        return bool(self.stopping()) or time.time() > self.deadline + 3

    # Before and after

    @property
    def candidate_seconds(self) -> float | None:
        """Seconds of the longest trial that may be refitted: the best that ended, and those that run.

        The best that trains layers is averaged with a head that wins. None while nothing is known of any but
        heads, and others run.
        """
        running = [number for number, point in self._open.items() if not self.heads(point.strategy)]
        told = [self._last[number] for number in running if number in self._last]
        known = [last.costs.seconds * last.epochs / last.epoch for last in told if last.epoch]
        if self._best_trained is not None:
            known.append(self._best_trained[1])
        if known or running or self.best is None:
            return max(known, default=None)
        return self.best.outcome.costs.seconds

    @property
    def trains(self) -> bool:
        """Whether anything but heads has begun."""
        running = any(not self.heads(point.strategy) for point in self._open.values())
        return running or self._best_trained is not None

    @property
    def open(self) -> bool:
        """Whether any trial hasn't ended."""
        return bool(self._open)

    def close(self) -> None:
        """End whatever is still open when no worker is left."""
        if self._open:
            late = "the time budget ran out" if time.time() >= self.deadline else "the search was interrupted"
            reason = self.stopping() or late
            self._close(list(self._open.values()), TrialState.CANCELLED, reason)

    def _close(self, points: Sequence[Point], state: TrialState, reason: str) -> None:
        results = []
        for point in points:
            last = self._last.get(point.number)
            outcome = Outcome(
                state=state,
                reason=f"{reason} (after epoch {last.epoch} of {last.epochs})" if last else reason,
                value=last.value if last and state is TrialState.PRUNED else None,
                metrics=last.metrics if last else {},
                costs=last.costs if last else Costs(),
                cache=last.cache if last else "",
            )
            ending = EpochResult(
                number=point.number,
                attempt=point.attempt,
                epoch=last.epoch if last else 0,
                epochs=last.epochs if last else 0,
                value=last.value if last else None,
                metrics=last.metrics if last else {},
                seconds=last.seconds if last else 0.0,
                outcome=outcome,
            )
            results.append(self._with_depth(ending))
        refused = {result.number for result in self.store.record(self.lease, results)}
        for result in results:
            if result.number not in refused:
                self.journal.tell(result)
                self._end(result)
            else:
                self._open.pop(result.number, None)
        self._tell()

    def _end(self, result: EpochResult) -> None:
        point = self._open.pop(result.number)
        for notes in (self._turn_of, self._last, self._deaths):
            notes.pop(result.number, None)
        if result.outcome is None:
            return
        if self.place and result.outcome.state is not TrialState.CANCELLED and not self.heads(point.strategy):
            with contextlib.suppress(OSError):  # what can't be deleted now is swept at the end
                checkpoints.drop(self.place, point.number)
        self.done += result.outcome.state is not TrialState.CANCELLED  # it will run again
        self.source.learn(result)
        self._count(point, result.outcome)
        if result.outcome.state is TrialState.FAILED:
            self.failures.append(f"trial {point.number} ({point.strategy}): {result.outcome.reason}")

    def _count(self, point: Point, outcome: Outcome) -> None:
        self.counts[outcome.state] += 1
        self.cached += outcome.cache.startswith("prefix")
        value = outcome.value
        if outcome.state is not TrialState.COMPLETE or value is None or not math.isfinite(value):
            return
        if point.role is TrialRole.REFIT:  # scored on what it has learned from; all of its members stay
            return
        if outcome.artifact is not None:
            # In the order of the finalists, whose weights must be there.
            standing = self._standing(point, outcome, value)
            self._kept[point.number] = _Kept(standing, point.strategy, outcome.artifact.uri)
        known = self.by_strategy.get(point.strategy)
        if known is None or self._better(value, known):
            self.by_strategy[point.strategy] = value
        order = self._standing(point, outcome, value)
        if self._best_standing is None or order < self._best_standing:
            self.best, self._best_standing = Best(point, outcome), order
        if not self.heads(point.strategy) and (self._best_trained is None or order < self._best_trained[0]):
            self._best_trained = order, outcome.costs.seconds

    def _standing(self, point: Point, outcome: Outcome, value: float) -> tuple[float, float, int, int]:
        """A key by which trials are ranked, as `best` and the finalists are: smaller is better."""
        return standing(
            value,
            outcome.metrics,
            size=outcome.costs.total_parameters,
            number=point.number,
            minimize=self._metric.minimize,
            tie=self._tie,
        )

    def _better(self, value: float, other: float) -> bool:
        return value < other if self._metric.minimize else value > other

    def _keep_the_best(self) -> None:
        """Drop weights that can't win any more; `search.keep` best stay, and the best of each strategy.

        Where trials are to be combined, as many of the best that aren't heads stay, too.
        """
        keep = max(self.spec.search.keep, self.spec.search.finalists)
        if len(self._kept) <= keep:
            return
        order = sorted(self._kept, key=lambda number: self._kept[number].standing)
        firsts = {self._kept[number].strategy: number for number in reversed(order)}
        trained = [number for number in order if not self.heads(self._kept[number].strategy)]
        stay = {*order[:keep], *firsts.values(), *(trained[:keep] if self.combines else [])}
        dropped = [number for number in order if number not in stay]
        if not dropped:
            return
        self.store.forget_artifacts(self.lease, dropped)
        for number in dropped:
            with contextlib.suppress(OSError):  # what can't be deleted now is swept at the end
                artifacts.delete(self._kept.pop(number).uri)

    def _busy(self) -> int:
        """Turns that workers are on."""
        return len({self._turn_of[number] for number in self._open if number in self._turn_of})

    def _with_depth(self, result: EpochResult) -> EpochResult:
        """The result with its freeze depth as k of n groups, which is what people ask for."""
        point, groups = self._open[result.number], self.groups.get(self._open[result.number].backbone)
        if result.outcome is None or groups is None:
            return result
        depth = point.params.get("freeze_depth")
        frozen = groups if self.heads(point.strategy) else None
        if isinstance(depth, int | float) and 0 <= depth <= 1:
            frozen = frozen_groups(depth, groups)
        return replace(result, outcome=replace(result.outcome, freeze_depth=frozen, groups=groups))

    def _tell(self) -> None:
        counts = {**self.counts, TrialState.RUNNING: len(self._open)}
        note = self.failures.pop(0) if self.failures else self.journal.note()
        ended = self.done - self._before
        minutes = (time.monotonic() - self._begun) / 60
        self.observe(
            Snapshot(
                phase=self.phase,
                done=self.done,
                total=self.total,
                counts=counts,
                best=self.best,
                leading=self.leading,
                by_strategy=dict(self.by_strategy),
                seconds_left=self.budget.seconds_left,
                per_minute=ended / minutes if ended else None,
                cached=self.cached,
                note=note,
            )
        )


def _outcome_of(record: TrialRecord) -> Outcome:
    return Outcome(
        state=record.state,
        reason=record.reason,
        value=record.value,
        metrics=record.metrics,
        costs=record.costs,
        freeze_depth=record.freeze_depth,
        groups=record.groups,
        cache=record.cache,
        artifact=record.artifact,
    )
