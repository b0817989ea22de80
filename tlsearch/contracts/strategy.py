"""What a strategy plugin implements: what trains, from which hyperparameters, and nothing of how it is run.

The core owns the training loop, the caches, the scheduling and the records. A strategy marks parameters
(``requires_grad``) and may bend the loss; it never loops, logs or saves.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from optuna.distributions import BaseDistribution
from torch import Tensor, nn

from tlsearch.contracts.backbone import Backbone, BackboneInfo
from tlsearch.contracts.recipe import API_VERSION, Recipe
from tlsearch.contracts.task import Task
from tlsearch.records import Params

Space = Mapping[str, BaseDistribution]
"""A strategy's hyperparameters by name, as Optuna's own distributions."""

Forward = Callable[[tuple[Tensor, ...]], Any]
"""The trained part of a model: takes ``Batch.inputs``, returns what the prepared model returns."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch.

    Attributes:
        inputs: what the trained part takes: the prefix's outputs, each with B rows, or the model's input.
        targets: as the task encodes them (class indices (B,)), or as it blends them under mixup.
        epoch: from 1. Every epoch ends with an evaluation; it is a pass over the data where the study says
            how many epochs there are, else a twelfth of the training.
        task: what is learned; it knows the loss.
        source: a batch of the source data, for strategies that require it.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor
    epoch: int
    task: Task
    source: Batch | None = None


class Strategy(abc.ABC):
    """One way to carry a pretrained backbone over to a target task."""

    api_version: ClassVar[int] = API_VERSION
    """The version of the contracts that it was written for; the current one, unless it pins another."""
    requires_source: ClassVar[bool] = False
    """Whether it trains on the study's ``source_data`` too; offered only where that is given."""
    tasks: ClassVar[tuple[str, ...]] = ()
    """Names of the tasks that it can do; any, where it names none."""
    maps: ClassVar[bool] = False
    """Whether it trains heads on feature maps too, as tasks of masks or boxes need: see `PlaceTask`."""
    task_loss: ClassVar[bool] = False
    """Whether it trains by the task's loss, as its recipe says: of several, the best is searched."""
    precedence: ClassVar[int] = 50
    """Where a study names no strategies, those of a lower number are tried first, equal ones by name."""

    def for_task(self, task: str) -> Strategy:
        """The strategy whose space and starting points suit that task, one of `tasks`; itself by default.

        Models are made and trained by the strategy itself: its hooks must know the points of all of them.
        """
        return self

    @abc.abstractmethod
    def space(self, backbone: BackboneInfo) -> Space:
        """Its hyperparameters and their ranges.

        A hyperparameter called ``freeze_depth`` is a fraction of the backbone's groups. A hyperparameter
        called ``choice.hyperparameter`` exists only where a categorical hyperparameter has the value
        ``choice``.
        """

    @abc.abstractmethod
    def default(self, backbone: BackboneInfo) -> Params:
        """The point worth trying first: a value for each hyperparameter that exists there, inside `space`."""

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """Points to try before the sampler takes over; `default` alone unless there are more."""
        return [self.default(backbone)]

    @abc.abstractmethod
    def prepare(self, model: Backbone, params: Params) -> None:
        """Mark what trains (``requires_grad``); exchange the head or parts of the trunk, in place.

        Called again, on other weights, when a saved model is rebuilt: it must depend on nothing but its
        arguments. The model's ``forward`` then returns logits (B, classes), or a tuple of tensors whose
        first is those logits (a head may return such a tuple).
        """

    def recipe(self, params: Params) -> Recipe:
        """Optimizer, batch size, augmentation: what the training loop does with these hyperparameters."""
        return Recipe.from_params(params)

    def param_groups(self, model: Backbone, params: Params) -> list[dict[str, Any]]:
        """Optimizer groups of the trainable parameters, each with its own ``lr`` and ``weight_decay``.

        A group may have an ``origin``, a tensor for each parameter, and a ``pull``: every step then also
        moves the parameters towards those by the share lr * pull, as weight decay moves them to zero.
        """
        recipe = self.recipe(params)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return split_decay(trainable, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)

    def loss(self, model: Forward, batch: Batch, params: Params) -> Tensor:
        """The loss of one batch, a scalar; the task's own by default."""
        outputs = model(batch.inputs)
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        return batch.task.loss(first, batch.targets, self.recipe(params))

    def penalty(self, model: Backbone, params: Params) -> Tensor | None:
        """A regularizer added to the loss of every batch, a scalar; None by default."""
        return None

    def on_epoch(self, model: Backbone, epoch: int, epochs: int, params: Params) -> None:
        """Called before epoch 1, 2, ... of ``epochs``: may change what trains. Nothing by default."""

    def grace(self, epochs: int, params: Params) -> int:
        """How many of the epochs pass before the trial may be compared with others; 0 by default.

        For strategies that begin slowly on purpose: at equal epochs those that train everything from the
        start would have them stopped. A trial that asks for none is compared from the scheduler's own on.
        """
        return 0

    def finish(self, model: Backbone, params: Params) -> None:
        """Make the trained model one that predicts, in place: merge adapters, drop training's extras.

        Where outputs change by more than rounding, as they do when weights are averaged here, the finished
        model is scored again: the recorded score is always that of the model that is handed out.
        """

    def restore(self, model: Backbone, params: Params) -> None:
        """Give a fresh model the structure of a finished one, in place, for saved weights to go into.

        `prepare` and `finish`, unless there is a shorter way.
        """
        self.prepare(model, params)
        self.finish(model, params)


@dataclass(frozen=True, slots=True)
class HeadPoint:
    """One head to fit."""

    params: Params
    seed: int


TrainLinear = Callable[..., list[nn.Module]]
"""Takes a sequence of `LinearRecipe` and, if only some features are to be used, their positions."""


@dataclass(frozen=True, slots=True)
class HeadTask:
    """Features of a frozen backbone and what is to be learned from them.

    Attributes:
        features: (K, N, D) float32, K stored views of N training items; view 0 is not augmented.
        labels: (N, ...), as the task encodes them: class indices (N,) int64, numbers (N, K) float32.
        stop_features: (M, D), items held out of training for early stopping and for tuning a fit.
        stop_labels: (M, ...).
        classes: how many numbers a head puts out for an item: one for each class, or each column of numbers.
        epochs: the study's epochs.
        train_linear: trains any number of linear heads at once, as one batched matrix product; given
            positions of features (a LongTensor), on these alone, as ``nn.Linear`` of that many inputs.
    """

    features: Tensor
    labels: Tensor
    stop_features: Tensor
    stop_labels: Tensor
    classes: int
    epochs: int
    train_linear: TrainLinear


class HeadStrategy(Strategy):
    """A strategy that fits heads on the features of a frozen backbone, many points at a time."""

    @abc.abstractmethod
    def fit_heads(self, task: HeadTask, points: Sequence[HeadPoint]) -> list[nn.Module]:
        """A fitted head for each point: a module that maps features (B, D) to logits (B, classes)."""

    def layer_cells(self, params: Params) -> int:
        """Into how many cells the outputs of all layers are pooled to be features, too; 0: they aren't.

        See `Backbone.tap`. The D features of a task are then the layers', from the input on, and the trunk's.
        """
        return 0

    def head(self, width: int, outputs: int, params: Params) -> nn.Module:
        """An unfitted head of the same kind, to load saved weights into; linear by default.

        Buffers may have any size: they take the size they were saved with.
        """
        return nn.Linear(width, outputs)

    def prepare(self, model: Backbone, params: Params) -> None:
        """Freeze the whole trunk and put an unfitted head on it."""
        model.freeze(1.0)
        if cells := self.layer_cells(params):
            model.tap(cells)
        model.head = self.head(model.width, model.outputs, params)


def split_decay(
    parameters: Sequence[nn.Parameter], *, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups in which only matrices and kernels decay, not biases and norm parameters."""
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    plain = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [
        {"params": decayed, "lr": lr, "weight_decay": weight_decay},
        {"params": plain, "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def joined(batch: Batch) -> tuple[Tensor, ...]:
    """Inputs of a batch and of its source batch, one after the other, to go through a trunk together."""
    if batch.source is None:
        raise ValueError("this batch has no source batch: is requires_source set?")
    return tuple(torch.cat(pair) for pair in zip(batch.inputs, batch.source.inputs, strict=True))
