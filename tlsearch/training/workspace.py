"""What a worker keeps from trial to trial: its configuration, backbones, encoded data and stores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from tlsearch import artifacts, registry
from tlsearch.contracts import Backbone, InputSpec, Pretrained, Strategy
from tlsearch.errors import TrialError
from tlsearch.records import Costs, Outcome, Point, TrialState
from tlsearch.spec import StudySpec
from tlsearch.training import sources, weights
from tlsearch.training.arrays import ArrayStore
from tlsearch.training.batch_source import BatchSource, Counts
from tlsearch.training.cache_policy import FreezeDepths
from tlsearch.training.data import Data, make_data
from tlsearch.training.memory import device_room, keep_freed_memory, take_share, use_threads
from tlsearch.training.objective import metric_of
from tlsearch.training.split_point import SplitPoint, find_split_points
from tlsearch.training.trained_part import depth_marks, trainable_names

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
class Workspace:
    """A worker's warm state, and what trials make of it: models, batches, outcomes."""

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
            loaded = registry.backbone(
                name, weights=weights_, image_size=spec.data.image_size, pixels=spec.data.pixels
            )
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
                loaded = make_data(
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
            inputs=data.inputs,
            split_point=split_point,
            store=self.store,
            policy=policy,
            views=self.assignment.spec.search.views_of(policy, heads=False),
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
