"""Trials of head strategies: many points fitted together on the features of a frozen backbone."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from tlsearch.contracts import HeadPoint, HeadStrategy, HeadTask
from tlsearch.errors import TrialError
from tlsearch.records import Costs, EpochResult, Point
from tlsearch.training.batch_source import BatchSource, Counts
from tlsearch.training.costs import count_costs
from tlsearch.training.failures import FAILURES, failed
from tlsearch.training.finishing import finish
from tlsearch.training.heads import train_linear
from tlsearch.training.item_sets import items_of, key_of
from tlsearch.training.split_point import find_split_point

if TYPE_CHECKING:
    from tlsearch.training.trial import TrialRunner


def fit_heads(
    bench: TrialRunner, strategy: HeadStrategy, points: Sequence[Point]
) -> Iterator[list[EpochResult]]:
    """Results of points of one backbone and strategy, as many at a time as can be fitted together.

    What goes wrong with a point is its result.
    """
    # Points that need other views, layers or items need other features; the rest is fitted together.
    data = bench.data("data", bench.backbone(points[0].backbone).info.inputs)
    by_features: dict[tuple[str, int, object], list[Point]] = defaultdict(list)
    for point in points:
        try:
            policy = strategy.recipe(point.params).augmentation
            by_features[policy, strategy.layer_cells(point.params), key_of(data, point)].append(point)
        except FAILURES as error:  # one point's failure is its own
            yield [failed(point, error)]
    for (policy, _, _), together in by_features.items():
        yield from _fit_or_tell(bench, strategy, policy, together)


def _fit_or_tell(
    bench: TrialRunner, strategy: HeadStrategy, policy: str, points: Sequence[Point]
) -> Iterator[list[EpochResult]]:
    """Results of points; where they can't be fitted together, each alone, to tell the culprit."""
    try:
        results = _fit_together(bench, strategy, policy, points)
    except FAILURES as error:  # a trial's failure is a result
        if len(points) == 1:
            yield [failed(points[0], error)]
            return
    else:
        yield results
        return
    for point in points:
        yield from _fit_or_tell(bench, strategy, policy, [point])


def _fit_together(
    bench: TrialRunner, strategy: HeadStrategy, policy: str, points: Sequence[Point]
) -> list[EpochResult]:
    spec = bench.assignment.spec
    began = time.perf_counter()
    pretrained = bench.backbone(points[0].backbone)
    data = items_of(bench.data("data", pretrained.info.inputs), points[0], heads=True)
    model = bench.build(strategy, points[0], pretrained, data, None)
    # Only the head is to stay behind the split point, whatever kind of head it is.
    model.head = OpenHead().to(bench.device)
    split_point = find_split_point(model, bench.example(pretrained))
    feed = bench.feed(
        data, pretrained, split_point, policy, Counts(), lambda: model
    )  # its trunk never trains
    views = [0] if policy == "none" else list(range(1, spec.search.views + 1))

    def features(split: str, view: int) -> Tensor:
        if len(data.indices[split]) == 0:  # no stop items were asked for
            return torch.zeros(0, model.width, device=bench.device)
        return whole(feed, split, view)

    task = HeadTask(
        features=torch.stack([features("train", view) for view in views]),
        labels=feed.targets(data.indices["train"]),
        stop_features=features("stop", 0),
        stop_labels=feed.targets(data.indices["stop"]),
        classes=len(data.target_spec.names),
        epochs=spec.budget.rounds,
        train_linear=lambda recipes, columns=slice(None): train_linear(
            task.features[..., columns],
            task.labels,
            task.stop_features[..., columns],
            task.stop_labels,
            task=data.task,
            spec=data.target_spec,
            recipes=recipes,
        ),
    )
    validation = features("val", 0)
    targets = torch.from_numpy(data.targets[data.indices["val"]])
    results = []
    for point, head in zip(points, _fit_each(strategy, task, points), strict=True):
        if isinstance(head, BaseException):
            results.append(failed(point, head))
            continue
        try:
            with torch.inference_mode():
                scores = data.task.score(head.eval()(validation), targets, data.target_spec)
            model.head = head
            costs = replace(
                count_costs(
                    [(split_point, feed.counts)],
                    model,
                    began,
                    Costs(),
                    sum(p.numel() for p in head.parameters()),
                ),
                seconds=(time.perf_counter() - began) / len(points),
            )
            # The images of a batch of heads went through the backbone once: the first one bears them.
            feed.counts = Counts()
            scores, remark = finish(strategy, model.eval(), point.params, feed, scores)
            outcome = bench.conclude(
                point,
                model,
                pretrained,
                scores=scores,
                reason="fitted on stored features" + remark,
                cache=feed.cache,
                costs=costs,
            )
        except FAILURES as error:  # one head's failure is its own
            results.append(failed(point, error))
            continue
        results.append(
            EpochResult(
                number=point.number,
                attempt=point.attempt,
                epoch=1,
                epochs=1,
                value=scores[bench.metric],
                metrics=scores,
                seconds=costs.seconds,
                outcome=outcome,
            )
        )
    return results


class OpenHead(nn.Module):
    """A head that trains and lets the features pass as they are: all before it is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """The features."""
        return features + self.gate


def _fit_each(
    strategy: HeadStrategy, task: HeadTask, points: Sequence[Point]
) -> list[nn.Module | Exception | SystemExit]:
    """Heads of all points; where the batch fails, each is fitted alone, to tell the culprit from the rest."""
    asked = [HeadPoint(point.params, point.seed) for point in points]
    try:
        heads = list(strategy.fit_heads(task, asked))
        if len(heads) != len(asked):
            raise TrialError(f"the strategy returned {len(heads)} heads for {len(asked)} points")
        return list(heads)
    except FAILURES as error:  # becomes the trials' reason
        if len(points) == 1:
            return [error]
    return [head for point in points for head in _fit_each(strategy, task, [point])]


def whole(feed: BatchSource, split: str, view: int) -> Tensor:
    """Features (N, width) of a whole split under a view, by a model whose head is open."""
    items = feed.data.indices[split]
    parts = []
    with torch.inference_mode():
        for start in range(0, len(items), 1024):
            boundary = feed.fetch(np.asarray(items[start : start + 1024]), view)
            parts.append(feed.split_point.eval_forward(boundary).float())
    return torch.cat(parts)
