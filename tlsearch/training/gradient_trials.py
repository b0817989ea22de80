"""Trials that train by gradients: one point, an epoch at a time, resumed where an earlier attempt died."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial

from tlsearch.contracts import Backbone, Strategy
from tlsearch.records import Costs, EpochResult, Outcome, Point
from tlsearch.training.batch_source import BatchSource, Counts
from tlsearch.training.checkpoints import Checkpoints
from tlsearch.training.costs import count_costs, with_costs
from tlsearch.training.data import Data
from tlsearch.training.finishing import finish
from tlsearch.training.fit import FitEpoch, fit
from tlsearch.training.item_sets import items_of
from tlsearch.training.length import count_updates
from tlsearch.training.resume import FitState
from tlsearch.training.split_point import SplitPoint, find_split_point
from tlsearch.training.trained_part import mark, trainable_names
from tlsearch.training.workspace import Workspace


def train(
    workspace: Workspace, strategy: Strategy, point: Point, *, deadline: float
) -> Iterator[list[EpochResult]]:
    """Results of a point, epoch by epoch; the last one carries the outcome.

    Args:
        workspace: of the worker.
        strategy: of the point.
        point: what to train.
        deadline: as `time.time` counts.
    """
    with contextlib.closing(_checkpoints(workspace, point)) as checkpoints:
        trial = _GradientTrial(workspace, strategy, point, resume=checkpoints.latest())
        for epoch in trial.epochs(deadline):
            yield [trial.result(epoch)]
            # Only now: a trial that was stopped for its result needs none.
            if epoch.snapshot is not None:
                checkpoints.offer(partial(with_costs, epoch.snapshot, trial.costs))


class _GradientTrial:
    """A point with its model, and what it has used so far.

    What feeds it may not refer to it: a circle would keep mapped files open after its end.
    """

    feed: BatchSource  # of the target data, as planned last

    def __init__(
        self,
        workspace: Workspace,
        strategy: Strategy,
        point: Point,
        *,
        resume: FitState | None,
    ) -> None:
        self.workspace = workspace
        self.strategy = strategy
        self.point = point
        self.began = time.perf_counter()
        spec = workspace.assignment.spec
        self.pretrained = workspace.backbone(point.backbone)
        inputs = self.pretrained.info.inputs
        self.data = items_of(workspace.data("data", inputs), point, heads=False)
        self.rounds = point.epochs or spec.budget.rounds
        self.source = workspace.data("source_data", inputs) if strategy.requires_source else None
        self.recipe = strategy.recipe(point.params)
        self.grace = max(0, int(strategy.grace(self.rounds, point.params)))
        self.build = partial(workspace.build, strategy, point, self.pretrained, self.data, self.source)
        self.model = self.build()
        self.resume = resume
        self.before = Costs(**resume.facts["costs"]) if resume is not None else Costs()
        self.spans: list[tuple[SplitPoint, Counts]] = []

    def epochs(self, deadline: float) -> Iterator[FitEpoch]:
        """The fit, an epoch at a time."""
        return fit(
            self.model,
            strategy=self.strategy,
            params=self.point.params,
            plan=self._plan,
            epochs=self.rounds,
            updates=self._updates,
            seed=self.point.seed,
            metric=self.workspace.metric,
            deadline=deadline,
            resume=self.resume,
        )

    def _updates(self, batches: int) -> int:
        budget = self.workspace.assignment.spec.budget
        return count_updates(budget, self.recipe.length, self.rounds, batches)

    def _plan(self) -> tuple[SplitPoint, BatchSource, BatchSource | None]:
        """The split point of the model as it is now, and what feeds it from there."""
        split_point = find_split_point(self.model, self.workspace.example(self.pretrained))
        self.feed = self._feed(self.data, split_point)
        self.feed.balance = self.recipe.balance  # source items are there to keep what was known
        other = self._feed(self.source, split_point) if self.source is not None else None
        return split_point, self.feed, other

    def _feed(self, data: Data, split_point: SplitPoint) -> BatchSource:
        untrained = partial(_untrained, self.build, trainable_names(self.model))
        policy = self.recipe.augmentation
        feed = self.workspace.feed(data, self.pretrained, split_point, policy, Counts(), untrained)
        batches = feed.batches(self.recipe.batch_size)
        feed.views = min(feed.views, math.ceil(self._updates(batches) / batches))  # no pass sees more
        self.spans.append((split_point, feed.counts))
        return feed

    def costs(self, trainable: int) -> Costs:
        """What the trial has used so far; of its model, so many parameters train."""
        return count_costs(self.spans, self.model, self.began, self.before, trainable)

    def result(self, epoch: FitEpoch) -> EpochResult:
        """What is told of an epoch."""
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        outcome = self._outcome(epoch, trainable) if epoch.ended else None
        return EpochResult(
            number=self.point.number,
            attempt=self.point.attempt,
            epoch=epoch.epoch,
            epochs=self.rounds,
            value=epoch.validation[self.workspace.metric],
            metrics={
                **epoch.validation,
                **{f"stop_{name}": value for name, value in epoch.stop.items()},
                "train_loss": epoch.train_loss,
                "learning_rate": epoch.learning_rate,
                "updates": float(epoch.updates),
            },
            seconds=epoch.seconds,
            outcome=outcome,
            grace=self.grace,
            costs=self.costs(trainable),
            cache=self.feed.cache,
        )

    def _outcome(self, epoch: FitEpoch, trainable: int) -> Outcome:
        scores, remark = finish(self.strategy, self.model, self.point.params, self.feed, epoch.kept)
        resumed = f"; resumed after epoch {self.resume.epoch}" if self.resume is not None else ""
        return self.workspace.conclude(
            self.point,
            self.model,
            self.pretrained,
            scores=scores,
            reason=epoch.ended + resumed + remark,
            cache=self.feed.cache,
            costs=self.costs(trainable),
        )


def _untrained(build: Callable[[], Backbone], trained: Collection[str]) -> Backbone:
    """A model as it was before it was trained, of which the same trains."""
    model = build()
    mark(model, trained)
    return model


def _checkpoints(workspace: Workspace, point: Point) -> Checkpoints:
    spec = workspace.assignment.spec
    return Checkpoints(
        workspace.assignment.artifacts,
        point.number,
        point.attempt,
        identity={
            "fit": 2,  # batches are cut otherwise than in earlier versions
            "backbone": point.backbone,
            "strategy": point.strategy,
            "params": dict(point.params),
            "seed": point.seed,
            "epochs": point.epochs or spec.budget.rounds,
            "metric": workspace.metric,
            "views": spec.search.views,
        },
    )
