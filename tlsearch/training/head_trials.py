"""Trials of head strategies: many points fitted together on the features of a frozen backbone."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from tlsearch.contracts import HeadPoint, HeadStrategy, HeadTask
from tlsearch.counts import kind_of, plural
from tlsearch.errors import HookError
from tlsearch.records import Costs, EpochResult, Point
from tlsearch.training.batch_source import BatchSource, Counts
from tlsearch.training.costs import count_costs
from tlsearch.training.failures import FAILURES, failed
from tlsearch.training.finishing import finish
from tlsearch.training.heads import train_linear
from tlsearch.training.item_sets import items_of, key_of
from tlsearch.training.split_point import find_split_point
from tlsearch.training.workspace import Workspace

RIGHT = "right is a list of heads, one for each point"


def fit_heads(
    workspace: Workspace, strategy: HeadStrategy, points: Sequence[Point]
) -> Iterator[list[EpochResult]]:
    """Results of points of one backbone and strategy, as many at a time as can be fitted together.

    What goes wrong with a point is its result.
    """
    # Points that need other views, layers or items need other features; the rest is fitted together.
    data = workspace.data("data", workspace.backbone(points[0].backbone).info.inputs)
    by_features: dict[tuple[str, int, object], list[Point]] = defaultdict(list)
    for point in points:
        try:
            policy = strategy.recipe(point.params).augmentation
            by_features[policy, strategy.layer_cells(point.params), key_of(data, point)].append(point)
        except FAILURES as error:  # one point's failure is its own
            yield [failed(point, error)]
    for (policy, _, _), together in by_features.items():
        yield from _fit_or_tell(workspace, strategy, policy, together)


def _fit_or_tell(
    workspace: Workspace, strategy: HeadStrategy, policy: str, points: Sequence[Point]
) -> Iterator[list[EpochResult]]:
    """Results of points; where they can't be fitted together, each alone, to tell the culprit."""
    try:
        results = _HeadBatch(workspace, strategy, policy, points).results()
    except FAILURES as error:  # a trial's failure is a result
        if len(points) == 1:
            yield [failed(points[0], error)]
            return
    else:
        yield results
        return
    for point in points:
        yield from _fit_or_tell(workspace, strategy, policy, [point])


class _HeadBatch:
    """Points of one backbone and strategy that learn from the same features."""

    def __init__(
        self, workspace: Workspace, strategy: HeadStrategy, policy: str, points: Sequence[Point]
    ) -> None:
        self.workspace = workspace
        self.strategy = strategy
        self.points = points
        self.began = time.perf_counter()
        self.pretrained = pretrained = workspace.backbone(points[0].backbone)
        self.data = items_of(workspace.data("data", pretrained.info.inputs), points[0], heads=True)
        self.model = model = workspace.build(strategy, points[0], pretrained, self.data, None)
        # Only the head is to stay behind the split point, whatever kind of head it is.
        model.head = OpenHead().to(workspace.device)
        self.split_point = find_split_point(model, workspace.example(pretrained))
        self.feed = workspace.feed(
            self.data, pretrained, self.split_point, policy, Counts(), lambda: model
        )  # its trunk never trains
        many = workspace.assignment.spec.search.views_of(policy, heads=True)
        self.feed.views = many
        self.views = [0] if policy == "none" else list(range(1, many + 1))

    def results(self) -> list[EpochResult]:
        """Of all points, in their order. What goes wrong with one head is its own result."""
        task = self._task()
        validation = self._features("val", 0)
        results = []
        for point, head in zip(self.points, _fit_each(self.strategy, task, self.points), strict=True):
            if isinstance(head, BaseException):
                results.append(failed(point, head))
                continue
            try:
                results.append(self._result(point, head, validation))
            except FAILURES as error:  # one head's failure is its own
                results.append(failed(point, error))
        return results

    def _task(self) -> HeadTask:
        data, feed = self.data, self.feed
        features = torch.stack([self._features("train", view) for view in self.views])
        labels = feed.targets(data.indices["train"])
        stop_features, stop_labels = self._features("stop", 0), feed.targets(data.indices["stop"])
        return HeadTask(
            features=features,
            labels=labels,
            stop_features=stop_features,
            stop_labels=stop_labels,
            classes=len(data.target_spec.names),
            epochs=self.workspace.assignment.spec.budget.rounds,
            train_linear=lambda recipes, columns=slice(None): train_linear(
                features[..., columns],
                labels,
                stop_features[..., columns],
                stop_labels,
                task=data.task,
                spec=data.target_spec,
                recipes=recipes,
            ),
        )

    def _features(self, split: str, view: int) -> Tensor:
        if len(self.data.indices[split]) == 0:  # no stop items were asked for
            return torch.zeros(0, self.model.width, device=self.workspace.device)
        return whole(self.feed, split, view)

    def _result(self, point: Point, head: nn.Module, validation: Tensor) -> EpochResult:
        """A head's score, its weights saved; ``validation`` are features (N, D)."""
        targets = torch.from_numpy(self.data.targets[self.data.indices["val"]])
        with torch.inference_mode():
            scores = self.data.task.score(head.eval()(validation), targets, self.data.target_spec)
        self.model.head = head
        costs = self._costs(head)
        # The images of a batch of heads went through the backbone once: the first one bears them.
        self.feed.counts = Counts()
        scores, remark = finish(self.strategy, self.model.eval(), point.params, self.feed, scores)
        outcome = self.workspace.conclude(
            point,
            self.model,
            self.pretrained,
            scores=scores,
            reason="fitted on stored features" + remark,
            cache=self.feed.cache,
            costs=costs,
        )
        return EpochResult(
            number=point.number,
            attempt=point.attempt,
            epoch=1,
            epochs=1,
            value=scores[self.workspace.metric],
            metrics=scores,
            seconds=costs.seconds,
            outcome=outcome,
        )

    def _costs(self, head: nn.Module) -> Costs:
        trainable = sum(parameter.numel() for parameter in head.parameters())
        spans = [(self.split_point, self.feed.counts)]
        costs = count_costs(spans, self.model, self.began, Costs(), trainable)
        return replace(costs, seconds=(time.perf_counter() - self.began) / len(self.points))


def _fit_each(
    strategy: HeadStrategy, task: HeadTask, points: Sequence[Point]
) -> list[nn.Module | Exception | SystemExit]:
    """Heads of all points; where the batch fails, each is fitted alone, to tell the culprit from the rest."""
    asked = [HeadPoint(point.params, point.seed) for point in points]
    try:
        fitted: object = strategy.fit_heads(task, asked)
        single = isinstance(fitted, nn.Module) and not isinstance(fitted, nn.ModuleList)
        if single or not isinstance(fitted, Iterable):
            raise HookError(f"fit_heads returned {kind_of(fitted)}; {RIGHT}")
        heads = list(fitted)
        if len(heads) != len(asked):
            raise HookError(
                f"fit_heads returned {plural(len(heads), 'head')} for {plural(len(asked), 'point')}; {RIGHT}"
            )
        return heads
    except FAILURES as error:  # becomes the trials' reason
        if len(points) == 1:
            return [error]
    return [head for point in points for head in _fit_each(strategy, task, [point])]


class OpenHead(nn.Module):
    """A head that trains and lets the features pass as they are: all before it is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """The features."""
        return features + self.gate


def whole(feed: BatchSource, split: str, view: int) -> Tensor:
    """Features (N, width) of a whole split under a view, by a model whose head is open."""
    items = feed.data.indices[split]
    parts = []
    with torch.inference_mode():
        for start in range(0, len(items), 1024):
            boundary = feed.fetch(np.asarray(items[start : start + 1024]), view)
            parts.append(feed.split_point.eval_forward(boundary).float())
    return torch.cat(parts)
