"""The mediator between workers, sampler and database: hands out points, records results."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tlsearch import artifacts
from tlsearch.contracts import frozen_groups
from tlsearch.database.store import Lease, Store
from tlsearch.records import (
    OUT_OF_TIME,
    Costs,
    EpochResult,
    Outcome,
    Point,
    TrialRecord,
    TrialState,
)
from tlsearch.search.budget import Budget
from tlsearch.search.leaders import Leaders
from tlsearch.search.loggers import TrialLoggers
from tlsearch.search.progress import Observer, Snapshot
from tlsearch.search.tally import Tally
from tlsearch.search.trial_queue import PointSource
from tlsearch.spec import StudySpec
from tlsearch.training import checkpoints

RETRIES = 2
"""How often a point is given to another worker whose worker died."""


@dataclass(frozen=True, slots=True)
class HeldStudy:
    """A study whose lease this process holds, with what all of its phases run with.

    Attributes:
        store: the database.
        lease: the right to write to the study.
        spec: the study.
        groups: how many groups of layers each backbone has.
        heads: tells whether a strategy fits heads.
        stopping: why everything is to stop; empty while nothing is.
        journal: loggers that are told of trials.
        combines: whether trials are to be combined at the end.
        place: of the study's files; empty where checkpoints aren't to be deleted.
    """

    store: Store
    lease: Lease
    spec: StudySpec
    groups: Mapping[str, int]
    heads: Callable[[str], bool]
    stopping: Callable[[], str]
    journal: TrialLoggers = field(default_factory=lambda: TrialLoggers({}))
    combines: bool = False
    place: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """What is run from one point to another in the life of a study, such as its search.

    Attributes:
        name: as people read it.
        source: of its points.
        total: how many there are at most; None where nobody knows.
        deadline: as `time.time` counts.
        finished: trials that ended before.
        prune: whether trials may be stopped when others are better at the same epoch.
    """

    name: str
    source: PointSource
    total: int | None
    deadline: float
    finished: Sequence[TrialRecord] = ()
    prune: bool = False


class Driver:
    """A `Dispatcher` of one phase: every point that it hands out ends in the database, with a reason."""

    def __init__(
        self, held: HeldStudy, phase: Phase, *, budget: Budget, slots: Callable[[], int], observe: Observer
    ) -> None:
        self.store, self.lease = held.store, held.lease
        self.held = held
        self.phase = phase
        self.source = phase.source
        self.deadline = phase.deadline
        self.prune = phase.prune
        self.budget = budget
        self.slots = slots
        self.observe = observe
        self.heads = held.heads
        self.stopping = held.stopping
        self.leaders = Leaders(held.spec, heads=held.heads, combines=held.combines)
        self.tally = Tally()
        self._open: dict[int, Point] = {}
        self._turn_of: dict[int, int] = {}
        self._last: dict[int, EpochResult] = {}
        self._deaths: dict[int, int] = {}
        self._waiting: deque[list[Point]] = deque()
        for record in phase.finished:
            outcome = _outcome_of(record)
            self.tally.inherit(outcome)
            self.leaders.count(record.point, outcome)

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
            self.held.journal.begin(points)
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
            self.held.journal.tell(result)
            self._last[result.number] = result
            self.leaders.see(result.value)
            if result.outcome is None:
                self.source.learn(result)
            else:
                self._end(result)
        self._drop_weights()
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
            state, reason = TrialState.CANCELLED, why or OUT_OF_TIME
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
        if self.leaders.trained_seconds is not None:
            known.append(self.leaders.trained_seconds)
        if known or running or self.leaders.best is None:
            return max(known, default=None)
        return self.leaders.best.outcome.costs.seconds

    @property
    def trains(self) -> bool:
        """Whether anything but heads has begun."""
        running = any(not self.heads(point.strategy) for point in self._open.values())
        return running or self.leaders.trained_seconds is not None

    @property
    def open(self) -> bool:
        """Whether any trial hasn't ended."""
        return bool(self._open)

    def close(self) -> None:
        """End whatever is still open when no worker is left."""
        if self._open:
            late = OUT_OF_TIME if time.time() >= self.deadline else "the search was interrupted"
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
                self.held.journal.tell(result)
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
        over = result.outcome.state is not TrialState.CANCELLED
        if over and self.held.place and not self.heads(point.strategy):
            with contextlib.suppress(OSError):  # what can't be deleted now is swept at the end
                checkpoints.drop(self.held.place, point.number)
        self.source.learn(result)
        self.tally.end(point, result.outcome)
        self.leaders.count(point, result.outcome)

    def _drop_weights(self) -> None:
        """Delete weights that can't win any more."""
        dropped = self.leaders.surplus()
        if not dropped:
            return
        self.store.forget_artifacts(self.lease, list(dropped))
        self.leaders.forget(dropped)
        for uri in dropped.values():
            with contextlib.suppress(OSError):  # what can't be deleted now is swept at the end
                artifacts.delete(uri)

    def _busy(self) -> int:
        """Turns that workers are on."""
        return len({self._turn_of[number] for number in self._open if number in self._turn_of})

    def _with_depth(self, result: EpochResult) -> EpochResult:
        """The result with its freeze depth as k of n groups, which is what people ask for."""
        point = self._open[result.number]
        groups = self.held.groups.get(point.backbone)
        if result.outcome is None or groups is None:
            return result
        depth = point.params.get("freeze_depth")
        frozen = groups if self.heads(point.strategy) else None
        if isinstance(depth, int | float) and 0 <= depth <= 1:
            frozen = frozen_groups(depth, groups)
        return replace(result, outcome=replace(result.outcome, freeze_depth=frozen, groups=groups))

    def _tell(self) -> None:
        self.observe(
            Snapshot(
                phase=self.phase.name,
                done=self.tally.done,
                total=self.phase.total,
                counts={**self.tally.counts, TrialState.RUNNING: len(self._open)},
                best=self.leaders.best,
                leading=self.leaders.leading,
                by_strategy=dict(self.leaders.by_strategy),
                seconds_left=self.budget.seconds_left,
                per_minute=self.tally.per_minute,
                cached=self.tally.cached,
                note=self.tally.failure() or self.held.journal.note(),
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
