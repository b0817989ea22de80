"""Points -> an iterator of results: one worker's bench, kept warm from trial to trial."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from tlsearch import artifacts, registry
from tlsearch.contracts import (
    Backbone,
    HeadStrategy,
    InputSpec,
    Pretrained,
    Strategy,
)
from tlsearch.errors import TrialError
from tlsearch.records import Costs, EpochResult, Outcome, Point, TrialState
from tlsearch.spec import StudySpec
from tlsearch.training import sources, weights
from tlsearch.training.arrays import ArrayStore
from tlsearch.training.batch_source import BatchSource, Counts
from tlsearch.training.cache_policy import FreezeDepths
from tlsearch.training.checkpoints import Checkpoints
from tlsearch.training.costs import count_costs, with_costs
from tlsearch.training.data import Data
from tlsearch.training.failures import FAILURES, failed
from tlsearch.training.finishing import finish
from tlsearch.training.fit import fit
from tlsearch.training.head_trials import fit_heads
from tlsearch.training.item_sets import items_of
from tlsearch.training.length import count_updates
from tlsearch.training.memory import device_room, keep_freed_memory, take_share, use_threads
from tlsearch.training.objective import metric_of
from tlsearch.training.split_point import (
    SplitPoint,
    depth_marks,
    find_split_point,
    find_split_points,
    trainable_names,
)

WARM_BACKBONES = 4
"""Backbones that a worker keeps in memory."""
AHEAD = 2
"""Batches that are loaded while a GPU trains on the one before."""
TAP_SHARE = 0.2
"""Share of a backbone's operations below which a frozen prefix isn't stored unasked."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What every trial of a study shares; plain data, sent to workers once.

    Attributes:
        spec: the study.
        cache: folder of decoded items and activations, local to the node.
        artifacts: place where trials' checkpoints and weights go: a folder or a URL.
        cache_bytes: limit of the activation store.
        threads: that torch may use.
        cuda: whether trials run on a GPU.
        gpu_share: of a GPU that a trial may use; whole ones count as 1.
        data: what the driver prepared, by `data_key`, without the arrays: those are in the cache.
    """

    spec: StudySpec
    cache: Path
    artifacts: str
    cache_bytes: int
    threads: int
    cuda: bool
    data: Mapping[str, Data] = field(default_factory=dict)
    gpu_share: float = 1.0


@dataclass
class TrialRunner:
    """A worker's warm state: backbones, data, stores. Runs one batch of points after another."""

    assignment: WorkerConfig
    _backbones: dict[str, Pretrained] = field(default_factory=dict)
    _data: dict[str, Data] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.metric = metric_of(self.assignment.spec).name
        use_threads(self.assignment.threads)
        keep_freed_memory()
        if self.assignment.cuda:
            take_share(self.assignment.gpu_share)
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
                yield from fit_heads(self, strategy, points)
            else:
                with contextlib.closing(self._checkpoints(points[0])) as checkpoints:
                    yield from self._run_gradient(strategy, points[0], checkpoints, deadline)
        except FAILURES as error:  # a trial's failure is a result
            yield [failed(point, error) for point in points]

    def _run_gradient(
        self, strategy: Strategy, point: Point, checkpoints: Checkpoints, deadline: float
    ) -> Iterator[list[EpochResult]]:
        spec = self.assignment.spec
        began = time.perf_counter()
        pretrained = self.backbone(point.backbone)
        data = items_of(self.data("data", pretrained.info.inputs), point, heads=False)
        epochs = point.epochs or spec.budget.rounds
        source = self.data("source_data", pretrained.info.inputs) if strategy.requires_source else None
        recipe = strategy.recipe(point.params)
        grace = max(0, int(strategy.grace(epochs, point.params)))
        model = self.build(strategy, point, pretrained, data, source)
        resume = checkpoints.latest()
        before = Costs(**resume.facts["costs"]) if resume is not None else Costs()
        spans: list[tuple[SplitPoint, Counts]] = []
        latest: list[BatchSource] = []

        def plan() -> tuple[SplitPoint, BatchSource, BatchSource | None]:
            split_point = find_split_point(model, self.example(pretrained))
            trained = trainable_names(model)

            def untrained() -> Backbone:
                fresh = self.build(strategy, point, pretrained, data, source)
                for name, parameter in fresh.named_parameters():
                    parameter.requires_grad_(name in trained)
                return fresh

            feeds = [
                self.feed(part, pretrained, split_point, recipe.augmentation, Counts(), untrained)
                for part in (data, source)
                if part is not None
            ]
            feeds[0].balance = recipe.balance  # source items are there to keep what was known
            spans.extend((split_point, feed.counts) for feed in feeds)
            feed, other = feeds[0], feeds[1] if len(feeds) > 1 else None
            latest[:] = [feed]
            return split_point, feed, other

        for epoch in fit(
            model,
            strategy=strategy,
            params=point.params,
            plan=plan,
            epochs=epochs,
            updates=partial(count_updates, spec.budget, recipe.length, epochs),
            seed=point.seed,
            metric=self.metric,
            deadline=deadline,
            resume=resume,
        ):
            costs = partial(count_costs, spans, model, began, before)
            metrics = {
                **epoch.validation,
                **{f"stop_{name}": value for name, value in epoch.stop.items()},
                "train_loss": epoch.train_loss,
                "learning_rate": epoch.learning_rate,
                "updates": float(epoch.updates),
            }
            outcome = None
            trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
            if epoch.ended:
                scores, remark = finish(strategy, model, point.params, latest[0], epoch.kept)
                outcome = self.conclude(
                    point,
                    model,
                    pretrained,
                    scores=scores,
                    reason=epoch.ended + (f"; resumed after epoch {resume.epoch}" if resume else "") + remark,
                    cache=latest[0].cache,
                    costs=costs(trainable),
                )
            yield [
                EpochResult(
                    number=point.number,
                    attempt=point.attempt,
                    epoch=epoch.epoch,
                    epochs=epochs,
                    value=epoch.validation[self.metric],
                    metrics=metrics,
                    seconds=epoch.seconds,
                    outcome=outcome,
                    grace=grace,
                    costs=costs(trainable),
                    cache=latest[0].cache,
                )
            ]
            # Only now: a trial that was stopped for its result needs none.
            if epoch.snapshot is not None:
                checkpoints.offer(partial(with_costs, epoch.snapshot, costs))

    def _checkpoints(self, point: Point) -> Checkpoints:
        spec = self.assignment.spec
        return Checkpoints(
            self.assignment.artifacts,
            point.number,
            point.attempt,
            identity={
                "fit": 2,  # batches are cut otherwise than in earlier versions
                "backbone": point.backbone,
                "strategy": point.strategy,
                "params": dict(point.params),
                "seed": point.seed,
                "epochs": point.epochs or spec.budget.rounds,
                "metric": self.metric,
                "views": spec.search.views,
            },
        )

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
            data.task,
            data.target_spec,
            source.target_spec if source is not None else None,
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
                loaded = sources.load(
                    sources.listing(described, section=section, task=spec.task),
                    inputs if prepared is None else prepared.inputs,
                    self.items,
                    seed=spec.seed,
                    threads=self.assignment.threads,
                    parts=prepared.parts if prepared is not None else None,
                )
                if prepared is not None and loaded.key != prepared.key:
                    raise TrialError(f"{section} isn't here what the study was prepared with")
                self._data[key] = replace(prepared or loaded, array=loaded.array)
        return self._data[key]

    def feed(
        self,
        data: Data,
        pretrained: Pretrained,
        split_point: SplitPoint,
        policy: str,
        counts: Counts,
        untrained: Callable[[], Backbone],
    ) -> BatchSource:
        """What serves the training of a model on a section's data.

        Args:
            data: of the section.
            pretrained: the backbone.
            split point: of the model.
            policy: augmentation.
            counts: to count in.
            untrained: makes the model as it was before it was trained. What is stored for other freeze
                depths passes layers that train here, and is to be what the pretrained ones put out.
        """
        return BatchSource(
            data=data,
            inputs=pretrained.info.inputs,
            split_point=split_point,
            store=self.store,
            policy=policy,
            views=self.assignment.spec.search.views,
            seed=self.assignment.spec.seed,
            device=self.device,
            limit_bytes=self.assignment.cache_bytes // 2,
            counts=counts,
            taps=lambda: self._depths(untrained, pretrained),
            ahead=AHEAD if self.assignment.cuda else 0,
            room=partial(device_room, self.assignment.gpu_share) if self.assignment.cuda else int,
        )

    def _depths(self, untrained: Callable[[], Backbone], pretrained: Pretrained) -> FreezeDepths:
        """Split points of what trains now and of the freeze depths."""
        with torch.random.fork_rng(devices=[self.device] if self.assignment.cuda else []):
            model = untrained()
        marks, unasked = depth_marks(model), TAP_SHARE * pretrained.info.flops
        if model.layers:  # all of them are kept, so that no other trial's depth has the same prefix
            marks, unasked = marks[-1:], math.inf
        now = trainable_names(model)
        if now not in marks:
            marks = [*marks, now]
        split_points, _ = find_split_points(model, self.example(pretrained), marks)
        return FreezeDepths(split_points, len(pretrained.info.groups), unasked)

    def example(self, pretrained: Pretrained) -> Tensor:
        """A few inputs, on the device."""
        inputs = pretrained.info.inputs
        return inputs.to_model(inputs.example(2)).to(self.device)

    def conclude(
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
        """How a trial ended well: its scores are checked, and what it changed of the backbone is saved.

        Raises:
            TrialError: a score is missing or not finite.
        """
        metrics = dict(scores)
        value = metrics.get(self.metric)
        if value is None:
            raise TrialError(f"there is no {self.metric} among {metrics}")
        if not all(math.isfinite(metric) for metric in metrics.values()):
            raise TrialError(f"a metric isn't finite: {metrics}")
        artifact = weights.save(
            artifacts.join(
                self.assignment.artifacts, "trials", f"{point.number:06d}-{point.attempt}.safetensors"
            ),
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
