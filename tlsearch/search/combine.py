"""After the search: finished models are combined, and what comes out competes as a trial of its own."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tlsearch import artifacts, registry
from tlsearch.contracts import (
    Combination,
    CombinationTask,
    Combined,
    HeadStrategy,
    Member,
    Score,
    Scores,
    State,
)
from tlsearch.contracts.combination import combined_params, members_of
from tlsearch.database.store import Lease, Store
from tlsearch.errors import TrialError
from tlsearch.records import EpochResult, Outcome, Params, Point, TrialRecord, TrialRole, TrialState
from tlsearch.search.finalists import trains
from tlsearch.search.progress import Observer, Snapshot
from tlsearch.search.setup import Prepared, assign
from tlsearch.search.weight_averaging import CompatibleTrials, SoupEvaluator, kindred
from tlsearch.training.failures import FAILURES, REASON_LENGTH
from tlsearch.training.item_sets import reshuffles
from tlsearch.training.workspace import WorkerConfig, Workspace

PHASE = "combine the best"
MOST = 16
"""Members that a combination is offered."""


class _Over(BaseException):
    """It is to be left for another time; no plugin that catches exceptions is to catch this."""


@dataclass(frozen=True, slots=True)
class _Made:
    """What a combination made of its members, or why it failed."""

    params: Params
    members: tuple[TrialRecord, ...]
    state: State | None = None
    failure: str = ""


@dataclass
class Combining:
    """The combinations of a study at work.

    Attributes:
        prepared: the study, with its combinations.
        store: the database.
        lease: of the study.
        folder: place of the study's files, a folder or a URL.
        cache: folder of decoded items and activations.
        deadline: as `time.time` counts.
        observe: told how it goes.
        stopping: why it is to be left for another time, or empty.
    """

    prepared: Prepared
    store: Store
    lease: Lease
    folder: str
    cache: Path
    deadline: float
    observe: Observer
    stopping: Callable[[], str]
    _metric: str = field(init=False)

    def __post_init__(self) -> None:
        self._metric = self.prepared.spec.objective.metric

    def _rank(self, scores: Scores) -> Score:
        return self.prepared.task.rank(scores, self._metric)

    def run(self, finalists: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Offer fine-tuned trials to every combination, and record what comes of it.

        Args:
            finalists: the best trials of the search.

        Returns:
            The study's combined trials, of this and earlier drivers.
        """
        if self.prepared.combinations:
            with contextlib.suppress(_Over):  # what was combined by now competes
                self._combine(finalists)
        complete = self.store.trials(self.lease.study, states=[TrialState.COMPLETE])
        return [trial for trial in complete if members_of(trial.params) and trial.artifact is not None]

    def _combine(self, finalists: Sequence[TrialRecord]) -> None:
        self._cancel_what_was_left_open()
        self._on_time()
        workspace = Workspace(self._assignment())
        groups = self._kin(finalists, workspace)
        if not groups:
            self._tell("no fine-tuned trial has kept its weights: there is nothing to combine")
        for group in groups:
            self._on_time()
            try:
                evaluator = SoupEvaluator(workspace, group)
            except FAILURES as error:
                self._tell(
                    f"trial {group.trials[0].number} can't be combined: {type(error).__name__}: {error}"
                )
                continue
            for name, plugin in self.prepared.combinations.items():
                self._tell()
                made = self._made(name, plugin, group, evaluator)
                if made is None:
                    self._tell(
                        f"{name} (weight averaging): no better than trial {group.trials[0].number} alone"
                    )
                elif not self._is_known(name, group, made):
                    self._record(name, group, evaluator, made)

    def _kin(self, finalists: Sequence[TrialRecord], workspace: Workspace) -> list[CompatibleTrials]:
        """Groups of trials that can be averaged: the best one, and others that hold a finalist.

        One that left the whole backbone as it was has nothing to be averaged with pretrained weights.
        """
        fine_tuned = {
            name for name, one in self.prepared.strategies.items() if not isinstance(one, HeadStrategy)
        }
        complete = self.store.trials(self.lease.study, states=[TrialState.COMPLETE])
        able = [trial for trial in complete if trial.strategy in fine_tuned and trains(trial)]
        able = [trial for trial in able if self._is_comparable(trial)]
        able.sort(key=lambda trial: self._rank(trial.metrics), reverse=True)
        numbers = {finalist.number for finalist in finalists}
        groups = kindred(able, workspace)
        chosen = [kin for kin in groups if kin is groups[0] or numbers & {t.number for t in kin.trials}]
        return [CompatibleTrials(kin.backbone, kin.trials[:MOST]) for kin in chosen]

    def _is_comparable(self, trial: TrialRecord) -> bool:
        """Whether a trial learned from none of the validation items that combinations are scored on."""
        if trial.role is TrialRole.CONFIRM:
            return not any(reshuffles(data) for data in self.prepared.data.values())
        return trial.role is TrialRole.SEARCH

    def _made(
        self, name: str, plugin: Combination, kin: CompatibleTrials, evaluator: SoupEvaluator
    ) -> _Made | None:
        def state_of(trial: TrialRecord) -> Callable[[], State]:
            return lambda: evaluator.state(trial)

        def measured(state: State) -> Score:
            self._on_time()
            return self._rank(evaluator.scores(state))

        members = {
            trial.number: Member(
                trial.number, trial.strategy, trial.params, self._rank(trial.metrics), state_of(trial)
            )
            for trial in kin.trials
        }
        task = CombinationTask(evaluator.pretrained.info, tuple(members.values()), evaluator.source, measured)
        try:
            combined = plugin.combine(task)
            if combined is None:
                return None
            if not combined.members or not set(combined.members) <= set(members):
                raise TrialError(f"its members are {combined.members}, of {tuple(members)}")
            evaluator.scores(combined.state)  # refuses what isn't of the structure
        except FAILURES as error:  # a combination's failure is a result
            failure = f"{type(error).__name__}: {error} ({registry.described(registry.COMBINATIONS, name)})"
            everything = Combined({}, tuple(members))
            params = combined_params(everything, members[kin.trials[0].number])
            return _Made(params, kin.trials, failure=failure[:REASON_LENGTH])
        by_number = {trial.number: trial for trial in kin.trials}
        return _Made(
            params=combined_params(combined, members[combined.members[0]]),
            members=tuple(by_number[number] for number in combined.members),
            state=combined.state,
        )

    def _is_known(self, name: str, kin: CompatibleTrials, made: _Made) -> bool:
        """Whether an earlier driver came to the same."""
        before = self.store.trials(self.lease.study, strategy=name, backbone=kin.backbone)
        return any(trial.state.final and dict(trial.params) == dict(made.params) for trial in before)

    def _record(self, name: str, kin: CompatibleTrials, evaluator: SoupEvaluator, made: _Made) -> None:
        began = time.perf_counter()
        point = Point(
            number=self.store.next_number(self.lease.study),
            backbone=kin.backbone,
            strategy=name,
            params=made.params,
            seed=made.members[0].seed,
        )
        self.store.start_trials(self.lease, [point])
        outcome = self._outcome(evaluator, point, made, began)
        complete = outcome.state is TrialState.COMPLETE
        result = EpochResult(
            number=point.number,
            attempt=point.attempt,
            epoch=1 if complete else 0,
            epochs=1,
            value=outcome.value,
            metrics=outcome.metrics,
            seconds=time.perf_counter() - began,
            outcome=outcome,
        )
        self.store.record(self.lease, [result])
        value = f"{self._metric} {outcome.value:.4f}" if outcome.value is not None else outcome.state.value
        self._tell(f"trial {point.number} ({name}): {value}, {outcome.reason}")

    def _outcome(self, evaluator: SoupEvaluator, point: Point, made: _Made, began: float) -> Outcome:
        if made.state is None:
            return Outcome(state=TrialState.FAILED, reason=made.failure)
        scores = evaluator.scores(made.state)
        name = f"{point.number:06d}-{point.attempt}.safetensors"
        place = artifacts.join(self.folder, "trials", name)
        depths = [member.freeze_depth for member in made.members if member.freeze_depth is not None]
        numbers = ", ".join(str(member.number) for member in made.members)
        return Outcome(
            state=TrialState.COMPLETE,
            reason=f"combined of finished trials: {numbers}",
            value=scores[self._metric],
            metrics=scores,
            costs=evaluator.costs(made.members, time.perf_counter() - began),
            freeze_depth=min(depths) if len(depths) == len(made.members) else None,
            groups=made.members[0].groups,
            cache=evaluator.feed.cache,
            artifact=evaluator.save(made.state, place),
        )

    def _assignment(self) -> WorkerConfig:
        import torch

        return assign(
            self.prepared,
            cache=self.cache,
            artifacts=self.folder,
            threads=max(1, len(os.sched_getaffinity(0))),
            cuda=torch.cuda.is_available(),
        )

    def _cancel_what_was_left_open(self) -> None:
        """A driver that died may have left a trial open; it is made anew under another number."""
        left = self.store.trials(self.lease.study, states=[TrialState.RUNNING])
        numbers = [trial.number for trial in left if members_of(trial.params)]
        if numbers:
            self.store.end_trials(self.lease, numbers, state=TrialState.CANCELLED, reason="its driver died")

    def _on_time(self) -> None:
        if self.stopping() or time.time() > self.deadline:
            raise _Over

    def _tell(self, note: str = "") -> None:
        self.observe(Snapshot(phase=PHASE, note=note))
