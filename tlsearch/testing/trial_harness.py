"""Trains a strategy on the tiny task as a worker of a search does, and keeps what came out."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from tlsearch import registry
from tlsearch.contracts import BackboneInfo, Batch, Pretrained, Strategy
from tlsearch.records import EpochResult, Outcome, Params, Point, TrialState
from tlsearch.spec import StudySpec, parse
from tlsearch.testing import fixtures
from tlsearch.training.trial import TrialRunner
from tlsearch.training.workspace import WorkerConfig

CACHE_BYTES = 2**28


@functools.cache
def probe() -> Tensor:
    """64 digits that no training sees, as model input (64, 3, 16, 16)."""
    samples = fixtures.TinyDigits().load(fixtures.TinyDigitsOptions(first=900, count=64))
    inputs = fixtures.tiny_cnn().info.inputs
    return inputs.to_model(torch.stack([torch.from_numpy(inputs.encode(item)) for item in samples.items]))


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A trial and its finished model's output.

    Attributes:
        point: what was trained.
        outcome: as the worker told it.
        results: all that the worker told.
        output: what the finished model returns for the `probe`; None where the trial failed.
        sources: for each batch, the number of source items that the loss was given.
        validation: model input and labels of the validation split.
    """

    point: Point
    outcome: Outcome
    results: tuple[EpochResult, ...]
    output: Any
    sources: tuple[int, ...]
    validation: tuple[Tensor, Tensor]

    @property
    def complete(self) -> bool:
        """Whether the trial ended well."""
        return self.outcome.state is TrialState.COMPLETE


class _Bench(TrialRunner):
    """Keeps what finished models say of the probe."""

    outputs: dict[int, Any]

    def conclude(self, point: Point, model: Any, *given: Any, **more: Any) -> Outcome:
        with torch.inference_mode():
            self.outputs[point.number] = model.eval()(probe())
        return super().conclude(point, model, *given, **more)


@dataclass
class Laboratory:
    """Runs trials of one strategy, each once."""

    name: str
    folder: Path
    epochs: int
    _runs: dict[str, Run] = field(default_factory=dict)
    _pretrained: dict[str, Pretrained] = field(default_factory=dict)

    @property
    def strategy(self) -> Strategy:
        """The strategy under test."""
        return registry.strategy(self.name)

    def pretrained(self, backbone: str) -> Pretrained:
        """A tiny backbone, not to be trained: models take copies."""
        if backbone not in self._pretrained:
            self._pretrained[backbone] = registry.backbone(backbone, weights="pretrained", image_size=None)
        return self._pretrained[backbone]

    def info(self, backbone: str) -> BackboneInfo:
        """Of a tiny backbone."""
        return self.pretrained(backbone).info

    def run(
        self,
        backbone: str,
        params: Params,
        *,
        copy: str = "",
        cached: bool = True,
        epochs: int | None = None,
    ) -> Run:
        """Train one point; the same arguments give the same run.

        Args:
            backbone: its name.
            params: the strategy's hyperparameters.
            copy: another one is another run, of a worker that knows nothing.
            cached: whether outputs of frozen layers may be stored.
            epochs: fewer than usual.
        """
        key = json.dumps([backbone, dict(params), copy, cached, epochs])
        if key not in self._runs:
            point = Point(number=0, backbone=backbone, strategy=self.name, params=params, seed=0)
            (self._runs[key],) = self.train([point], cached=cached, epochs=epochs)
        return self._runs[key]

    def train(
        self,
        points: Sequence[Point],
        *,
        cached: bool = True,
        epochs: int | None = None,
        digits: Mapping[str, Any] = MappingProxyType({}),
    ) -> list[Run]:
        """Train points, of numbers 0, 1, ..., in one turn of a worker that knows nothing.

        Args:
            points: of one backbone.
            cached: as `run` takes it.
            epochs: likewise.
            digits: which digits, as `fixtures.TinyDigitsOptions` has them.
        """
        place = self.folder / f"run-{len(list(self.folder.glob('run-*')))}"
        worker = _Bench(
            WorkerConfig(
                spec=self._study(points[0].backbone, epochs or self.epochs, digits),
                cache=place / "cache",
                artifacts=str(place / "artifacts"),
                cache_bytes=CACHE_BYTES if cached else 0,
                threads=1,
                cuda=False,
            )
        )
        worker.outputs = {}
        place.mkdir(parents=True)
        strategy, sources = self.strategy, []
        original = strategy.loss

        def loss(model: Any, batch: Batch, params: Params) -> Tensor:
            sources.append(len(batch.source.targets) if batch.source is not None else 0)
            return original(model, batch, params)

        with mock.patch.object(strategy, "loss", loss):
            told = [result for turn in worker.run(points) for result in turn]
        data = worker.data("data", worker.backbone(points[0].backbone).info.inputs)
        held_out = data.indices["val"]
        validation = (
            data.inputs.to_model(torch.from_numpy(np.asarray(data.array[held_out]))),
            torch.from_numpy(data.targets[held_out]),
        )
        runs = []
        for point in points:
            own = tuple(result for result in told if result.number == point.number)
            outcome = next((result.outcome for result in own if result.outcome is not None), None)
            if outcome is None:
                raise AssertionError(f"the trial of {dict(point.params)} ended without an outcome")
            done = outcome.state is TrialState.COMPLETE
            runs.append(
                Run(
                    point,
                    outcome,
                    own,
                    worker.outputs[point.number] if done else None,
                    tuple(sources),
                    validation,
                )
            )
        return runs

    def _study(self, backbone: str, epochs: int, digits: Mapping[str, Any]) -> StudySpec:
        split = {"val": 0.25, "test": 0.05, "stop": 0.1}
        document: dict[str, Any] = {
            "study": "contract",
            "data": {"source": fixtures.DIGITS, "split": split, **digits},
            "backbones": [backbone],
            # Whatever is always answered has the share of chance, however unequal the classes are.
            "objective": {"metric": "balanced_accuracy" if digits else "accuracy"},
            "budget": {"trials": 1, "epochs": epochs},
            "search": {"views": 2},
        }
        if self.strategy.requires_source:
            document["source_data"] = {"source": fixtures.DIGITS, **digits, "first": 300}
        return parse(document)


def calm(params: Params, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """A point without augmentation and dropout, half of the groups frozen where hyperparameters say so."""
    from tlsearch.search.space_validation import inside

    calmed = dict(params)
    for hyperparameter in params:
        own = hyperparameter.rpartition(".")[2]
        quiet: dict[str, str | float] = {"augmentation": "none", "freeze_depth": 0.5}
        value = quiet.get(own, 0.0 if "drop" in own else None)
        if value is not None and inside(hyperparameters[hyperparameter], value):
            calmed[hyperparameter] = value
    return calmed
