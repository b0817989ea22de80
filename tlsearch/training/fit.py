"""The only training loop. It yields after every epoch and never calls back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tlsearch.contracts import Backbone, Batch, Recipe, Strategy
from tlsearch.errors import TrialError
from tlsearch.records import Params
from tlsearch.training.batch_source import BatchSource
from tlsearch.training.failures import out_of_memory
from tlsearch.training.heads import schedule
from tlsearch.training.length import Length
from tlsearch.training.resume import (
    FitState,
    best_tensors,
    capture,
    restore_model,
    restore_optimizer,
    restore_random,
    trained_state,
)
from tlsearch.training.split_point import SplitPoint, set_modes, trainable_names
from tlsearch.training.stream import Stream, source_items, target_share

CLIP_NORM = 1.0
LEAST_STOP_ITEMS = 50
"""Fewer tell epochs apart by chance alone; the learning rate has come to rest in the last one."""
NOTHING_TRAINS = "nothing to train: the strategy marked no parameter as trainable"


@dataclass(frozen=True, slots=True)
class FitEpoch:
    """Training up to an evaluation: scores on both held-out parts, and whether (and why) it was the last.

    After the last one the model holds the weights of the epoch that was best on the stop split, and
    ``kept`` is that epoch's scores. With fewer than `LEAST_STOP_ITEMS` there, or than the task asks for, it
    is the last epoch.
    ``snapshot`` answers what is needed to go on from here; it may be asked until the next epoch is. It is
    None after the last epoch, and after one that comes from such a state.
    """

    epoch: int
    validation: Mapping[str, float]
    stop: Mapping[str, float]
    train_loss: float
    learning_rate: float
    seconds: float
    ended: str
    kept: Mapping[str, float]
    updates: int
    snapshot: Callable[[], FitState | None] | None = None


Plan = Callable[[], tuple[SplitPoint, BatchSource, BatchSource | None]]
"""Finds the split point of the model as it is now, with a feed of the target data and one of the source's."""


def fit(
    model: Backbone,
    *,
    strategy: Strategy,
    params: Params,
    plan: Plan,
    epochs: int,
    updates: Callable[[int], int] | None = None,
    seed: int,
    metric: str,
    deadline: float = math.inf,
    resume: FitState | None = None,
) -> Iterator[FitEpoch]:
    """Train a prepared model, an epoch at a time.

    Args:
        model: from `Strategy.prepare`; trained in place.
        strategy: gives optimizer groups, loss, penalty and what happens before an epoch.
        params: its hyperparameters.
        plan: called at the start, and again whenever what trains has changed.
        epochs: at most this many; each ends with an evaluation.
        updates: how many there are in all, given the batches of a pass over the data; they are shared out
            among the epochs. None makes every epoch a pass.
        seed: of dropout and of the order of items.
        metric: decides which epoch is kept, on the stop split.
        deadline: as `time.time` counts. The schedule is shortened to come to its end before; where even that
            takes longer, training ends there, inside an epoch if it must.
        resume: goes on from there; that epoch is told again, not trained again.

    Raises:
        TrialError: the loss isn't finite, or memory doesn't even suffice for one item.
        ValueError: ``resume`` is of another model.
    """
    recipe = strategy.recipe(params)
    torch.manual_seed(seed)
    begun = resume.epoch if resume is not None else 1
    for epoch in range(1, begun + 1):
        strategy.on_epoch(model, epoch, epochs, params)
    if resume is not None:
        restore_model(resume, model)
    split_point, feed, source = plan()
    task = feed.data.task
    planned = trainable_names(model)
    trained = set(planned)
    optimizer = _optimizer(recipe, strategy.param_groups(model, params))
    stepper = _Stepper(model, strategy, params, optimizer, batch_size=recipe.batch_size)
    share = target_share(recipe, source)
    batches = feed.batches(share)
    planned_updates = updates(batches) if updates is not None else epochs * batches
    length = Length(planned_updates, epochs=epochs, deadline=deadline)
    targets = Stream(feed, share, seed)
    sources = Stream(source, source_items(recipe, feed, share), seed) if source is not None else None
    best = _Best()
    if resume is not None:
        trained |= set(resume.facts["trained"])
        restore_optimizer(resume, model, optimizer)
        stepper.restore(resume.facts["stepper"])
        # Earlier versions knew no fit that is shortened.
        length.restore(resume.facts.get("length", length.facts()))
        targets.taken = length.end_of(resume.epoch)
        if sources is not None:
            sources.taken = resume.facts["sources"]
        best.restore(resume, model)
        restore_random(resume, stepper.device)
        yield FitEpoch(**resume.facts["told"])

    for epoch in range(resume.epoch + 1 if resume is not None else 1, epochs + 1):
        began = time.perf_counter()
        if epoch > 1:
            strategy.on_epoch(model, epoch, epochs, params)
            if trainable_names(model) != planned:
                split_point, feed, source = plan()
                planned = trainable_names(model)
                trained |= set(planned)
                targets = Stream(feed, share, seed, targets.taken)
                if source is not None and sources is not None:
                    sources = Stream(source, sources.size, seed, sources.taken)
                # What starts to train now still has the values that it had in the best epoch so far.
                best.state = {**_snapshot(model), **best.state}
                _refresh(optimizer, strategy.param_groups(model, params))
        set_modes(model, split_point)
        losses: list[float] = []
        cut_short = False
        while targets.taken < length.end_of(epoch):
            if losses and time.time() > deadline:
                cut_short = True
                break
            step_began = time.perf_counter()
            beside = sources.take() if sources is not None else None
            batch = replace(targets.take(), epoch=epoch, source=beside)
            factor = schedule(length.position(targets.taken), length.planned)
            losses.append(stepper.step(split_point, batch, factor))
            length.stepped(targets.taken, epoch=epoch, seconds=time.perf_counter() - step_began)
        evaluation_began = time.perf_counter()
        model.eval()
        held_out = len(feed.data.indices["stop"])
        stop = feed.evaluate("stop", split_point.eval_forward) if held_out else {}
        validation = feed.evaluate("val", split_point.eval_forward)
        length.evaluated(targets.taken, epoch=epoch, seconds=time.perf_counter() - evaluation_began)
        told_apart = held_out >= max(LEAST_STOP_ITEMS, task.least_stop_items)
        order = task.rank(stop, metric) if told_apart else (float(epoch), 0.0)
        if best.order is None or order > best.order:
            best = _Best(order, epoch, dict(validation), _snapshot(model))
        ended = ""
        if epoch == epochs and not cut_short:
            ended = f"all {epochs} epochs{length.remark()}"
        elif cut_short or time.time() > deadline:
            ended = f"stopped at the time budget in epoch {epoch} of {epochs}"
        elif recipe.patience and epoch - best.epoch >= recipe.patience:
            ended = f"stopped early: no better epoch on the stop split since epoch {best.epoch}"
        if ended:
            ended += stepper.remark()
            model.load_state_dict(best.state, strict=False)
        told = FitEpoch(
            epoch=epoch,
            validation=validation,
            stop=stop,
            train_loss=sum(losses) / max(1, len(losses)),
            learning_rate=max(group["lr"] for group in optimizer.param_groups),
            updates=targets.taken,
            seconds=time.perf_counter() - began,
            ended=ended,
            kept=best.kept,
        )
        if ended:
            yield told
            return
        snapshot = partial(_capture, told, model, trained, optimizer, stepper, sources, best, length.facts())
        yield replace(told, snapshot=snapshot)


def _capture(
    told: FitEpoch,
    model: Backbone,
    trained: set[str],
    optimizer: torch.optim.Optimizer,
    stepper: _Stepper,
    sources: Stream | None,
    best: _Best,
    length: Mapping[str, Any],
) -> FitState | None:
    plain = {part.name: getattr(told, part.name) for part in fields(told) if part.name != "snapshot"}
    return capture(
        told.epoch,
        model=model,
        trained=trained,
        optimizer=optimizer,
        best=best.state if best.epoch != told.epoch else {},
        facts={
            "told": plain,
            "trained": sorted(trained),
            "stepper": stepper.facts(),
            "sources": sources.taken if sources is not None else None,
            "length": length,
            "best": {"order": best.order, "epoch": best.epoch, "kept": best.kept},
        },
    )


@dataclass
class _Best:
    """The best epoch so far, by its scores on the stop split."""

    order: tuple[float, float] | None = None
    epoch: int = 0
    kept: Mapping[str, float] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)

    def restore(self, state: FitState, model: Backbone) -> None:
        """Know again what was the best when the state was taken."""
        facts = state.facts["best"]
        self.order, self.epoch, self.kept = tuple(facts["order"]), facts["epoch"], facts["kept"]
        device = next(model.parameters()).device
        self.state = _snapshot(model) if self.epoch == state.epoch else best_tensors(state, device)


class _Stepper:
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

    def facts(self) -> dict[str, Any]:
        """What it has found out so far."""
        return {"micro": self.micro, "scaler": self.scaler.state_dict()}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Know it again."""
        self.micro = facts["micro"]
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
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = self._accumulate(split_point, batch)
                break
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if self.micro == 1:
                    raise TrialError("out of memory even with one item at a time") from None
            # Only now has the error let go of the tensors that it was raised among.
            self.micro = max(1, self.micro // 2)
            torch.cuda.empty_cache()
        if not math.isfinite(loss):
            raise TrialError(
                f"the loss became {loss} in epoch {batch.epoch}: the learning rate may be too high"
            )
        self.scaler.unscale_(self.optimizer)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        self.scaler.step(self.optimizer)
        for group in self.optimizer.param_groups:
            if "origin" in group:
                torch._foreach_lerp_(
                    [parameter.detach() for parameter in group["params"]],
                    group["origin"],
                    min(1.0, group["lr"] * group["pull"]),
                )
        self.scaler.update()
        return loss

    def _accumulate(self, split_point: SplitPoint, batch: Batch) -> float:
        total = 0.0
        parts = _parts(batch, self.micro)
        for part in parts:
            with torch.autocast(self.device.type, self.precision, enabled=self.device.type == "cuda"):
                loss = self.strategy.loss(split_point.train_forward, part, self.params)
                penalty = self.strategy.penalty(self.model, self.params)
                if penalty is not None:
                    loss = loss + penalty
            loss = loss * (len(part.targets) / len(batch.targets))
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total


def _parts(batch: Batch, size: int) -> list[Batch]:
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


def _optimizer(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if not groups:
        raise TrialError(NOTHING_TRAINS)
    for group in groups:
        group["base_lr"] = group["lr"]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)  # one kernel for all parameters, on CPUs too
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    raise TrialError(f'unknown optimizer "{recipe.optimizer}": adamw and sgd are known')


def _refresh(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> None:
    """Give the optimizer new groups; parameters that it had keep their moments."""
    defaults = {
        key: value
        for key, value in optimizer.param_groups[0].items()
        if key not in ("params", "base_lr", "lr", "weight_decay")
    }
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise TrialError(NOTHING_TRAINS)
    optimizer.param_groups = [{**defaults, **group, "base_lr": group["lr"]} for group in groups]


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of what training may have changed: trainable parameters and all buffers."""
    state = trained_state(model, trainable_names(model))
    return {name: tensor.detach().clone() for name, tensor in state.items()}
