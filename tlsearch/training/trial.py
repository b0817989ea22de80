"""Points -> an iterator of results: one worker's bench, kept warm from trial to trial."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tlsearch import registry
from tlsearch.contracts import (
    Backbone,
    HeadPoint,
    HeadStrategy,
    HeadTask,
    InputSpec,
    Pretrained,
    Strategy,
)
from tlsearch.errors import TrialError
from tlsearch.metrics import score
from tlsearch.records import Costs, EpochResult, Outcome, Point, TrialState
from tlsearch.spec import StudySpec
from tlsearch.training import sources, weights
from tlsearch.training.arrays import ArrayStore
from tlsearch.training.data import Data
from tlsearch.training.failures import FAILURES, failed
from tlsearch.training.feed import Counts, Feed
from tlsearch.training.fit import fit
from tlsearch.training.frontier import Frontier, depth_marks, find_frontier, find_frontiers
from tlsearch.training.heads import train_linear
from tlsearch.training.memory import keep_freed_memory

WARM_BACKBONES = 4
"""Backbones that a worker keeps in memory."""
TAP_SHARE = 0.2
"""Share of a backbone's operations below which a frozen prefix isn't stored unasked."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What every trial of a study shares; plain data, sent to workers once.

    Attributes:
        spec: the study.
        cache: folder of decoded items and activations, local to the node.
        artifacts: folder where trials' weights go.
        cache_bytes: limit of the activation store.
        threads: that torch may use.
        cuda: whether trials run on a GPU.
        data: what the driver prepared, by `data_key`, without the arrays: those are in the cache.
    """

    spec: StudySpec
    cache: Path
    artifacts: Path
    cache_bytes: int
    threads: int
    cuda: bool
    data: Mapping[str, Data] = field(default_factory=dict)


@dataclass
class Workbench:
    """A worker's warm state: backbones, data, stores. Runs one batch of points after another."""

    assignment: Assignment
    _backbones: dict[str, Pretrained] = field(default_factory=dict)
    _data: dict[str, Data] = field(default_factory=dict)

    def __post_init__(self) -> None:
        torch.set_num_threads(self.assignment.threads)
        keep_freed_memory()
        self.device = torch.device("cuda" if self.assignment.cuda else "cpu")
        self.items = ArrayStore(self.assignment.cache / "items")
        self.store = ArrayStore(
            self.assignment.cache / "activations", limit_bytes=self.assignment.cache_bytes
        )

    def run(self, points: Sequence[Point], *, deadline: float = math.inf) -> Iterator[list[EpochResult]]:
        """Train points, which share backbone and strategy; several only for a head strategy.

        Every point's last result carries its outcome; what goes wrong in a trial ends that trial as FAILED,
        with the reason. Nothing is raised but what a stopped worker raises.

        Args:
            points: at least one.
            deadline: as `time.time` counts.
        """
        try:
            strategy = registry.strategy(points[0].strategy)
            if isinstance(strategy, HeadStrategy):
                yield from self._run_heads(strategy, points)
            else:
                yield from self._run_gradient(strategy, points[0], deadline)
        except FAILURES as error:  # a trial's failure is a result
            yield [failed(point, error) for point in points]

    def _run_gradient(self, strategy: Strategy, point: Point, deadline: float) -> Iterator[list[EpochResult]]:
        spec = self.assignment.spec
        began = time.perf_counter()
        pretrained = self.backbone(point.backbone)
        data = self.data("data", pretrained.info.inputs)
        source = self.data("source_data", pretrained.info.inputs) if strategy.requires_source else None
        recipe = strategy.recipe(point.params)
        model = self.build(strategy, point, pretrained, data, source)
        spans: list[tuple[Frontier, Counts]] = []
        latest: list[Feed] = []

        def plan() -> tuple[Frontier, Feed, Feed | None]:
            frontier = find_frontier(model, self._example(pretrained))
            feeds = [
                self._feed(part, pretrained, frontier, recipe.augmentation, Counts(), model)
                for part in (data, source)
                if part is not None
            ]
            spans.extend((frontier, feed.counts) for feed in feeds)
            feed, other = feeds[0], feeds[1] if len(feeds) > 1 else None
            latest[:] = [feed]
            return frontier, feed, other

        for epoch in fit(
            model,
            strategy=strategy,
            params=point.params,
            plan=plan,
            epochs=spec.budget.epochs,
            seed=point.seed,
            metric=spec.objective.metric,
            deadline=deadline,
        ):
            metrics = {
                **epoch.validation,
                **{f"stop_{name}": value for name, value in epoch.stop.items()},
                "train_loss": epoch.train_loss,
                "learning_rate": epoch.learning_rate,
            }
            outcome = None
            if epoch.ended:
                trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
                strategy.finish(model, point.params)
                outcome = self._outcome(
                    point,
                    model,
                    pretrained,
                    scores=epoch.kept,
                    reason=epoch.ended,
                    cache=latest[0].cache,
                    costs=_costs(spans, model, trainable, began),
                )
            yield [
                EpochResult(
                    number=point.number,
                    attempt=point.attempt,
                    epoch=epoch.epoch,
                    epochs=spec.budget.epochs,
                    value=epoch.validation[spec.objective.metric],
                    metrics=metrics,
                    seconds=epoch.seconds,
                    outcome=outcome,
                )
            ]

    def _run_heads(self, strategy: HeadStrategy, points: Sequence[Point]) -> Iterator[list[EpochResult]]:
        # Points that need other views need other features; the rest is fitted together.
        by_policy: dict[str, list[Point]] = defaultdict(list)
        for point in points:
            try:
                by_policy[strategy.recipe(point.params).augmentation].append(point)
            except FAILURES as error:  # one point's failure is its own
                yield [failed(point, error)]
        for policy, together in by_policy.items():
            yield from self._fit_or_tell(strategy, policy, together)

    def _fit_or_tell(
        self, strategy: HeadStrategy, policy: str, points: Sequence[Point]
    ) -> Iterator[list[EpochResult]]:
        """Results of points; where they can't be fitted together, each alone, to tell the culprit."""
        try:
            results = self._fit_heads(strategy, policy, points)
        except FAILURES as error:  # a trial's failure is a result
            if len(points) == 1:
                yield [failed(points[0], error)]
                return
        else:
            yield results
            return
        for point in points:
            yield from self._fit_or_tell(strategy, policy, [point])

    def _fit_heads(self, strategy: HeadStrategy, policy: str, points: Sequence[Point]) -> list[EpochResult]:
        spec = self.assignment.spec
        began = time.perf_counter()
        pretrained = self.backbone(points[0].backbone)
        data = self.data("data", pretrained.info.inputs)
        model = self.build(strategy, points[0], pretrained, data, None)
        # Only the head is to stay behind the frontier, whatever kind of head it is.
        model.head = nn.Linear(pretrained.info.width, len(data.classes)).to(self.device)
        frontier = find_frontier(model, self._example(pretrained))
        feed = self._feed(data, pretrained, frontier, policy, Counts(), model)
        views = [0] if policy == "none" else list(range(1, spec.search.views + 1))

        def features(split: str, view: int) -> Tensor:
            if len(data.indices[split]) == 0:  # no stop items were asked for
                return torch.zeros(0, pretrained.info.width, device=self.device)
            return _whole(feed, split, view)

        task = HeadTask(
            features=torch.stack([features("train", view) for view in views]),
            labels=feed.labels(data.indices["train"]),
            stop_features=features("stop", 0),
            stop_labels=feed.labels(data.indices["stop"]),
            classes=len(data.classes),
            epochs=spec.budget.epochs,
            train_linear=lambda recipes: train_linear(
                task.features,
                task.labels,
                task.stop_features,
                task.stop_labels,
                classes=task.classes,
                recipes=recipes,
            ),
        )
        validation = features("val", 0)
        labels = torch.from_numpy(data.labels[data.indices["val"]])
        results = []
        for point, head in zip(points, _fit_each(strategy, task, points), strict=True):
            if isinstance(head, BaseException):
                results.append(failed(point, head))
                continue
            try:
                with torch.inference_mode():
                    scores = score(head.eval()(validation), labels)
                model.head = head
                costs = replace(
                    _costs(
                        [(frontier, feed.counts)], model, sum(p.numel() for p in head.parameters()), began
                    ),
                    seconds=(time.perf_counter() - began) / len(points),
                )
                # The images of a batch of heads went through the backbone once: the first one bears them.
                feed.counts = Counts()
                strategy.finish(model, point.params)
                outcome = self._outcome(
                    point,
                    model,
                    pretrained,
                    scores=scores,
                    reason="fitted on stored features",
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
                    value=scores[spec.objective.metric],
                    metrics=scores,
                    seconds=costs.seconds,
                    outcome=outcome,
                )
            )
        return results

    def build(
        self,
        strategy: Strategy,
        point: Point,
        pretrained: Pretrained,
        data: Data,
        source: Data | None,
    ) -> Backbone:
        """A model prepared for a point, on the device, its random parts drawn from the point's seed."""
        torch.manual_seed(point.seed)
        backbone = Backbone(
            pretrained,
            classes=len(data.classes),
            source_classes=len(source.classes) if source is not None else None,
        )
        strategy.prepare(backbone, point.params)
        # Convolutions on channels-last tensors are 1.5-2.4 times faster, on CPUs too.
        placed: Backbone = backbone.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return placed

    def backbone(self, name: str) -> Pretrained:
        """A pretrained backbone, loaded once and kept while it is among the last few used."""
        if name not in self._backbones:
            spec = self.assignment.spec
            weights_ = next(b.weights for b in spec.backbones if b.name == name)
            loaded = registry.backbone(name, weights=weights_, image_size=spec.data.image_size)
            loaded.trunk.eval().requires_grad_(True)
            while len(self._backbones) >= WARM_BACKBONES:
                self._backbones.pop(next(iter(self._backbones)))
            self._backbones[name] = loaded
        self._backbones[name] = self._backbones.pop(name)  # the last used stands last
        return self._backbones[name]

    def data(self, section: str, inputs: InputSpec) -> Data:
        """Encoded data of a section of the study file, memory-mapped."""
        key = data_key(section, inputs)
        if key not in self._data:
            spec = self.assignment.spec
            described = spec.data if section == "data" else spec.source_data
            if described is None:
                raise TrialError(f"the study has no {section}")
            prepared = self.assignment.data.get(key)
            entry = self.items.open(prepared.key) if prepared is not None else None
            if prepared is not None and entry is not None:
                self._data[key] = replace(prepared, array=entry.arrays[0])
            else:  # another node than the driver's, or evicted since
                self._data[key] = sources.load(
                    sources.listing(described, section=section),
                    inputs,
                    self.items,
                    seed=spec.seed,
                    threads=self.assignment.threads,
                )
        return self._data[key]

    def _feed(
        self,
        data: Data,
        pretrained: Pretrained,
        frontier: Frontier,
        policy: str,
        counts: Counts,
        model: Backbone,
    ) -> Feed:
        return Feed(
            data=data,
            inputs=pretrained.info.inputs,
            frontier=frontier,
            store=self.store,
            policy=policy,
            views=self.assignment.spec.search.views,
            seed=self.assignment.spec.seed,
            device=self.device,
            limit_bytes=self.assignment.cache_bytes // 2,
            counts=counts,
            taps=lambda: self._taps(model, pretrained),
        )

    def _taps(self, model: Backbone, pretrained: Pretrained) -> list[Frontier]:
        """Frontiers of the other freeze depths that save enough work to be worth their bytes."""
        frontiers, _ = find_frontiers(model, self._example(pretrained), depth_marks(model))
        return [f for f in frontiers if f.prefix_flops >= TAP_SHARE * pretrained.info.flops]

    def _example(self, pretrained: Pretrained) -> Tensor:
        inputs = pretrained.info.inputs
        return inputs.to_model(inputs.example(2)).to(self.device)

    def _outcome(
        self,
        point: Point,
        model: nn.Module,
        pretrained: Pretrained,
        *,
        scores: Mapping[str, float],
        reason: str,
        cache: str,
        costs: Costs,
    ) -> Outcome:
        metrics = dict(scores)
        value = metrics[self.assignment.spec.objective.metric]
        if not all(math.isfinite(metric) for metric in metrics.values()):
            raise TrialError(f"a metric isn't finite: {metrics}")
        artifact = weights.save(
            self.assignment.artifacts / "trials" / f"{point.number:06d}-{point.attempt}.safetensors",
            weights.changed(model, pretrained.trunk),
        )
        return Outcome(
            state=TrialState.COMPLETE,
            reason=reason,
            value=value,
            metrics=metrics,
            costs=costs,
            cache=cache,
            artifact=artifact,
        )


def data_key(section: str, inputs: InputSpec) -> str:
    """Tells apart the encoded data of a study's sections and of backbones with unlike inputs."""
    return f"{section}|{type(inputs).__qualname__}|{sorted(inputs.to_json().items())}"


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


def _whole(feed: Feed, split: str, view: int) -> Tensor:
    """Features (N, width) of a whole split under a view."""
    items = feed.data.indices[split]
    parts = []
    with torch.inference_mode():
        for start in range(0, len(items), 1024):
            (features,) = feed.fetch(np.asarray(items[start : start + 1024]), view)
            parts.append(features.clone())
    return torch.cat(parts)


def _costs(spans: Sequence[tuple[Frontier, Counts]], model: nn.Module, trainable: int, began: float) -> Costs:
    """What was done at each frontier; a strategy that unfreezes has several."""
    return Costs(
        seconds=time.perf_counter() - began,
        prefix_images=sum(count.prefix for _, count in spans),
        suffix_images=sum(count.trained + count.evaluated for _, count in spans),
        flops=sum(
            count.prefix * frontier.prefix_flops
            + (3 * count.trained + count.evaluated) * frontier.suffix_flops
            for frontier, count in spans
        ),
        trainable_parameters=trainable,
        total_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
