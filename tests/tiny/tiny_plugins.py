"""A tiny backbone, a tiny data set and strategies that misbehave, installed as any plugin is.

The folder holds the metadata of a distribution; a conftest puts it on the path.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import Tensor, nn

from tlsearch.contracts import (
    Backbone,
    BackboneFamily,
    BackboneInfo,
    DatasetOptions,
    DatasetSource,
    FineTuning,
    HeadPoint,
    HeadStrategy,
    HeadTask,
    LinearRecipe,
    Pretrained,
    Samples,
    Space,
    describe,
    number,
)
from tlsearch.contracts.images import ImageInput
from tlsearch.errors import DataError, UnknownNameError
from tlsearch.records import Params

SIZE = 16


class Trunk(nn.Module):
    """Three blocks of convolution, BatchNorm and ReLU: (B, 3, S, S) to (B, 16)."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 8, 16, 16]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()
                )
                for before, after in itertools.pairwise(widths)
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(images).mean(dim=(2, 3))


class TinyBackbones(BackboneFamily):
    """``tiny/net``; its pretrained weights are drawn from seed 1, its random ones from seed 2."""

    def names(self) -> Sequence[str]:
        return ["net"]

    def load(self, variant: str, *, weights: str, image_size: int | None) -> Pretrained:
        if variant != "net":
            raise UnknownNameError(f'Unknown backbone "tiny/{variant}".')
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1 if weights == "pretrained" else 2)
            trunk = Trunk()
            for block in trunk.blocks:
                block[1].running_mean.normal_(std=0.1)
                block[1].running_var.uniform_(0.5, 1.5)
        info = describe(
            "tiny/net",
            trunk.eval(),
            weights=weights,
            inputs=ImageInput(image_size or SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            groups=[
                (
                    f"blocks.{i}",
                    [name for name, _ in trunk.named_parameters() if name.startswith(f"blocks.{i}.")],
                )
                for i in range(3)
            ],
            width=16,
            head="fc",
        )
        return Pretrained(info, trunk)


class ColoursOptions(DatasetOptions):
    count: int = 120
    classes: int = 3
    seed: int = 0
    noise: float = 40.0


class Colours(DatasetSource[ColoursOptions]):
    """Noisy arrays (16, 16, 3) whose class is a hue."""

    options = ColoursOptions

    def load(self, options: ColoursOptions) -> Samples:
        if options.count < 1:
            raise DataError("nothing there")
        rng = np.random.default_rng(options.seed)
        labels = [index % options.classes for index in range(options.count)]
        hues = np.random.default_rng(99).uniform(60, 200, (options.classes, 3))
        items = [
            (hues[label] + rng.normal(0, options.noise, (SIZE, SIZE, 3))).clip(0, 255).astype(np.uint8)
            for label in labels
        ]
        return Samples(
            items=items,
            labels=labels,
            classes=tuple(f"hue {index}" for index in range(options.classes)),
            names=[f"item {index}" for index in range(options.count)],
        )


class Shrinking(FineTuning):
    """The plugin of ten lines: pulls the head towards zero."""

    def space(self, backbone: BackboneInfo) -> Space:
        return {**super().space(backbone), "pull": FloatDistribution(0.0, 100.0)}

    def default(self, backbone: BackboneInfo) -> Params:
        return {**super().default(backbone), "pull": 0.0}

    def penalty(self, model: Backbone, params: Params) -> Tensor | None:
        return number(params, "pull") * sum(p.square().sum() for p in model.head.parameters())


class Raising(FineTuning):
    """Fails in its loss."""

    def loss(self, model, batch, params):
        raise RuntimeError("the loss fell over")


class Negating(FineTuning):
    """Turns every answer round after training."""

    def finish(self, model: Backbone, params: Params) -> None:
        with torch.no_grad():
            for parameter in model.head.parameters():
                parameter.neg_()


class Exploding(FineTuning):
    """Its loss isn't a number from the second epoch on."""

    def loss(self, model, batch, params):
        loss = super().loss(model, batch, params)
        return loss * torch.nan if batch.epoch > 1 else loss


class Unfreezing(FineTuning):
    """One more group trains in every epoch, from the head down."""

    def on_epoch(self, model: Backbone, epoch: int, epochs: int, params: Params) -> None:
        model.freeze(max(0.0, 1 - (epoch - 1) / len(model.info.groups)))


class Resting(FineTuning):
    """Trains everything in odd epochs and the head alone in even ones."""

    def on_epoch(self, model: Backbone, epoch: int, epochs: int, params: Params) -> None:
        model.freeze(0.0 if epoch % 2 else 1.0)


class MixedHeads(HeadStrategy):
    """Heads of several kinds, some of which fail; the good ones hold a dropout layer."""

    def space(self, backbone: BackboneInfo) -> Space:
        return {
            "kind": CategoricalDistribution(
                ["good", "bad_fit", "bad_head", "bad_recipe", "none", "nan", "lost", "trained"]
            )
        }

    def default(self, backbone: BackboneInfo) -> Params:
        return {"kind": "good"}

    def recipe(self, params: Params):
        if params["kind"] == "bad_recipe":
            raise ValueError("no such recipe")
        return super().recipe(params)

    def head(self, width: int, classes: int, params: Params) -> nn.Module:
        if params["kind"] == "bad_head":
            raise ValueError("no such head")
        return nn.Sequential(nn.Dropout(0.5), nn.Linear(width, classes))

    def fit_heads(self, task: HeadTask, points: Sequence[HeadPoint]) -> list[nn.Module]:
        return [head for point in points for head in self._fit(task, point)]

    def _fit(self, task: HeadTask, point: HeadPoint) -> list[nn.Module]:
        kind = point.params["kind"]
        if kind == "bad_fit":
            raise ValueError("can't be fitted")
        if kind == "lost":
            return []
        head = self.head(task.features.shape[2], task.classes, point.params)
        if kind == "none":
            return [None]  # type: ignore[list-item]
        means = torch.stack([task.features[0][task.labels == c].mean(dim=0) for c in range(task.classes)])
        with torch.no_grad():
            head[1].weight.copy_(means * (torch.nan if kind == "nan" else 10.0))
            head[1].bias.copy_(-5 * means.square().sum(dim=1))
        if kind == "trained":  # by autograd, on what the task gives
            optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
            for _ in range(3):
                optimizer.zero_grad()
                nn.functional.cross_entropy(head(task.features[0]), task.labels).backward()
                optimizer.step()
        return [head]


class Layered(HeadStrategy):
    """A linear head on every other feature of all layers."""

    def space(self, backbone: BackboneInfo) -> Space:
        return {"cells": CategoricalDistribution([0, 1, 4])}

    def default(self, backbone: BackboneInfo) -> Params:
        return {"cells": 4}

    def layer_cells(self, params: Params) -> int:
        return int(number(params, "cells"))

    def head(self, width: int, classes: int, params: Params) -> nn.Module:
        return EveryOther(nn.Linear(-(-width // 2), classes))

    def fit_heads(self, task: HeadTask, points: Sequence[HeadPoint]) -> list[nn.Module]:
        columns = torch.arange(0, task.features.shape[2], 2)
        recipes = [LinearRecipe(learning_rate=1e-2, seed=point.seed) for point in points]
        return [EveryOther(linear) for linear in task.train_linear(recipes, columns)]


class EveryOther(nn.Module):
    """A linear map of the features of even positions."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features[:, ::2])
