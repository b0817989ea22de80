"""Workers for handwritten digits at 32 pixels, on a CNN and a ViT of random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tlsearch import registry
from tlsearch.contracts import Backbone
from tlsearch.models.rebuild import rebuild
from tlsearch.records import EpochResult, Outcome, Point, TrialState
from tlsearch.spec import parse
from tlsearch.testing import classes, fixtures
from tlsearch.training.trial import TrialRunner
from tlsearch.training.workspace import WorkerConfig

CNN, VIT = "timm/tf_efficientnet_lite0", "timm/vit_tiny_patch16_224"


class Bench(TrialRunner):
    """A worker that shows the model it trains, and rebuilds what it saved."""

    model: Backbone
    _begins: bool = True

    def build(self, *arguments: Any) -> Backbone:
        made = super().build(*arguments)
        if self._begins:  # later ones in a trial are there to look at what isn't trained
            self.model, self._begins = made, False
        return made

    def point(self, backbone: str, strategy: str, **changes: Any) -> Point:
        """The strategy's default with other values for some hyperparameters."""
        params = registry.strategy(strategy).default(self.backbone(backbone).info)
        return Point(0, backbone, strategy, {**params, **changes}, 0)

    def epochs(self, point: Point) -> Iterator[EpochResult]:
        self._begins = True
        for (result,) in self.run([point]):
            yield result

    def outcome(self, point: Point) -> Outcome:
        """How the point ended: well."""
        (*_, last) = self.epochs(point)
        assert last.outcome is not None
        assert last.outcome.state is TrialState.COMPLETE, last.outcome.reason
        return last.outcome

    def learns_and_reloads(self, point: Point) -> None:
        """Train a point for three epochs; what was saved is a plain backbone that predicts the same.

        The contract tests ask the same of tiny networks, a CNN and a ViT; this is one of real size.
        """
        (first, *_, last) = self.epochs(point)
        assert last.outcome is not None
        assert last.outcome.reason == "all 3 epochs"
        assert last.metrics["train_loss"] < first.metrics["train_loss"]
        assert last.outcome.metrics["accuracy"] > 0.25
        again = self.rebuilt(point, last.outcome)
        assert self.log_loss(again) == pytest.approx(last.outcome.metrics["log_loss"], abs=1e-4)
        plain = Backbone(self.backbone(point.backbone), *classes(10))
        assert list(again.state_dict()) == list(plain.state_dict())

    def rebuilt(self, point: Point, outcome: Outcome) -> Backbone:
        """The model, from its file."""
        assert outcome.artifact is not None
        return rebuild(
            backbone=point.backbone,
            weights="random",
            image_size=32,
            strategy=point.strategy,
            params=point.params,
            **fixtures.learned(10),
            state={**self.pretrained(point), **load_file(Path(outcome.artifact.uri))},
        )

    def pretrained(self, point: Point) -> dict[str, torch.Tensor]:
        state = self.backbone(point.backbone).trunk.state_dict()
        return {f"trunk.{name}": tensor for name, tensor in state.items()}

    def log_loss(self, model: Backbone) -> float:
        """On the validation split."""
        inputs = model.info.inputs
        data = self.data("data", inputs)
        val = data.indices["val"]
        with torch.inference_mode():
            logits = model(inputs.to_model(torch.from_numpy(np.asarray(data.array[val]))))
        return fixtures.score(logits, torch.from_numpy(data.targets[val]))["log_loss"]


MakeBench = Callable[..., Bench]


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> MakeBench:
    """Benches of a number of epochs, which share decoded items and activations."""
    warm: dict[tuple[object, ...], Bench] = {}

    def make(epochs: int = 3, *, stop: float = 0.05, cached: bool = True) -> Bench:
        key = (epochs, stop, cached)
        if key not in warm:
            spec = parse(
                {
                    "study": "digits",
                    "data": {
                        "source": "digits",
                        "image_size": 32,
                        "split": {"val": 0.1, "test": 0.55, "stop": stop},
                    },
                    "backbones": [{"name": name, "weights": "random"} for name in (CNN, VIT)],
                    "budget": {"trials": 1, "epochs": epochs},
                    "search": {"views": 1},
                }
            )
            folder = tmp_path_factory.mktemp("bench")
            limit = 2**28 if cached else 0
            warm[key] = Bench(WorkerConfig(spec, folder / "cache", folder / "artifacts", limit, 1, False))
        return warm[key]

    return make


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are slower on many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
