"""The optimizer of a fit, and a step of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tlsearch.contracts import Backbone, Batch, Recipe, Strategy
from tlsearch.counts import kind_of
from tlsearch.errors import HookError, TrialError
from tlsearch.records import Params
from tlsearch.training.failures import out_of_memory
from tlsearch.training.split_point import SplitPoint

CLIP_NORM = 1.0
NOTHING_TRAINS = "nothing to train: the strategy marked no parameter as trainable"


def new_optimizer(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer of a recipe; each group's learning rate is its base rate.

    Raises:
        TrialError: there is no group, or no such optimizer.
    """
    if not groups:
        raise TrialError(NOTHING_TRAINS)
    for group in groups:
        group["base_lr"] = group["lr"]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)  # one kernel for all parameters, on CPUs too
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    raise TrialError(f'unknown optimizer "{recipe.optimizer}": adamw and sgd are known')


def give_groups(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> None:
    """Give the optimizer new groups; parameters that it had keep their moments.

    Raises:
        TrialError: no group has a parameter.
    """
    defaults = {
        key: value
        for key, value in optimizer.param_groups[0].items()
        if key not in ("params", "base_lr", "lr", "weight_decay")
    }
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise TrialError(NOTHING_TRAINS)
    optimizer.param_groups = [{**defaults, **group, "base_lr": group["lr"]} for group in groups]


class Stepper:
    """One optimizer step: mixed precision on CUDA, clipping, smaller micro-batches when memory runs out."""

    def __init__(
        self,
        model: Backbone,
        strategy: Strategy,
        params: Params,
        optimizer: torch.optim.Optimizer,
        *,
        batch_size: int,
    ) -> None:
        self.model = model
        self.strategy = strategy
        self.params = params
        self.optimizer = optimizer
        self.device = next(model.parameters()).device
        self.batch_size = self.micro = batch_size
        half = self.device.type == "cuda" and not torch.cuda.is_bf16_supported()
        self.precision = torch.float16 if half else torch.bfloat16
        # bfloat16 has float32's range and needs no scaling.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.updated = False

    def facts(self) -> dict[str, Any]:
        """What it has found out so far."""
        return {"micro": self.micro, "scaler": self.scaler.state_dict()}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Know it again."""
        self.micro = facts["micro"]
        self.updated = True  # checkpoints are made between epochs
        if facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])

    def remark(self) -> str:
        """What the trial's record should tell of it."""
        if self.micro == self.batch_size:
            return ""
        norms = (m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        pieces = f"; memory ran out, so batches of {self.batch_size} were taken in pieces of {self.micro}"
        if any(parameter.requires_grad for norm in norms for parameter in norm.parameters()):
            return f"{pieces}, whose statistics BatchNorm trained on"
        return pieces

    def step(self, split_point: SplitPoint, batch: Batch, factor: float) -> float:
        """Train on one batch; the learning rate of every group is its base rate times ``factor``."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        loss = self._backward(split_point, batch)
        if not math.isfinite(loss):
            raise HookError(
                f"the loss became {loss} in epoch {batch.epoch}: the learning rate may be too high"
                if self.updated
                else f"the loss was {loss} at the first update, before anything was learned: look at the "
                "strategy's loss and penalty, and at the inputs"
            )
        self.scaler.unscale_(self.optimizer)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        self.scaler.step(self.optimizer)
        self._pull_to_origins()
        self.scaler.update()
        self.updated = True
        return loss

    def _backward(self, split_point: SplitPoint, batch: Batch) -> float:
        """The loss of a batch, whose gradients are there afterwards; in smaller pieces if memory runs out."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return self._accumulate(split_point, batch)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if self.micro == 1:
                    raise TrialError("out of memory even with one item at a time") from None
            # Only now has the error let go of the tensors that it was raised among.
            self.micro = max(1, self.micro // 2)
            torch.cuda.empty_cache()

    def _pull_to_origins(self) -> None:
        """Move parameters towards where they came from, in groups that ask for it."""
        for group in self.optimizer.param_groups:
            if "origin" in group:
                torch._foreach_lerp_(
                    [parameter.detach() for parameter in group["params"]],
                    group["origin"],
                    min(1.0, group["lr"] * group["pull"]),
                )

    def _accumulate(self, split_point: SplitPoint, batch: Batch) -> float:
        total = 0.0
        for part in pieces_of(batch, self.micro):
            with torch.autocast(self.device.type, self.precision, enabled=self.device.type == "cuda"):
                loss = _scalar("loss", self.strategy.loss(split_point.train_forward, part, self.params))
                penalty = self.strategy.penalty(self.model, self.params)
                if penalty is not None:
                    loss = loss + (_scalar("penalty", penalty) if isinstance(penalty, Tensor) else penalty)
            loss = loss * (len(part.targets) / len(batch.targets))
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total


def _scalar(hook: str, value: Any) -> Tensor:
    """What a hook returned, known to be one number that a gradient can be had of.

    Raises:
        HookError: it is something else.
    """
    if not isinstance(value, Tensor):
        raise HookError(f"{hook} returned {kind_of(value)}; right is a scalar tensor")
    if value.numel() != 1:
        shape = tuple(value.shape)
        raise HookError(f"{hook} returned a tensor of shape {shape}; right is a scalar, such as its mean")
    return value


def pieces_of(batch: Batch, size: int) -> list[Batch]:
    """A batch in equal pieces of at most so many items, each with its share of the source items."""
    count = len(batch.targets)
    if count <= size:
        return [batch]
    pieces = math.ceil(count / size)
    if batch.source is not None:  # a mean over no source items is no number
        pieces = min(pieces, len(batch.source.targets))
    inputs = [tensor.tensor_split(pieces) for tensor in batch.inputs]
    targets = batch.targets.tensor_split(pieces)
    sources: list[Batch | None] = [None] * pieces
    if batch.source is not None:
        cut = [tensor.tensor_split(pieces) for tensor in batch.source.inputs]
        labels = batch.source.targets.tensor_split(pieces)
        sources = [
            Batch(tuple(part[i] for part in cut), labels[i], batch.epoch, batch.source.task)
            for i in range(pieces)
        ]
    return [
        Batch(tuple(part[i] for part in inputs), targets[i], batch.epoch, batch.task, sources[i])
        for i in range(pieces)
    ]
