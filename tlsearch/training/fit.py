"""The only training loop. It yields after every epoch and never calls back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial

import torch

from tlsearch.contracts import Backbone, Strategy
from tlsearch.counts import plural
from tlsearch.records import CUT_SHORT, Params
from tlsearch.training.batch_source import BatchSource
from tlsearch.training.heads import schedule
from tlsearch.training.length import Length
from tlsearch.training.model_state import BestEpoch, snapshot
from tlsearch.training.resume import FitState, capture, restore_model, restore_optimizer, restore_random
from tlsearch.training.split_point import SplitPoint
from tlsearch.training.stepper import Stepper, give_groups, new_optimizer
from tlsearch.training.stream import PairedStream
from tlsearch.training.trained_part import set_modes, trainable_names

LEAST_STOP_ITEMS = 400
"""Fewer tell epochs apart by chance alone, and the learning rate has come to rest in the last one. On 83
items (a standard error of 4 points) the second of twelve epochs was never beaten, and a trial was ended at
the seventh while its loss was falling."""


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
    rules = _Rules(epochs, updates, seed, metric, deadline)
    training = _Training(model, strategy=strategy, params=params, plan=plan, rules=rules, resume=resume)
    begun = 0
    if resume is not None:
        yield training.restore(resume)
        begun = resume.epoch
    for epoch in range(begun + 1, epochs + 1):
        told = training.run(epoch)
        if told.ended:
            yield told
            return
        yield replace(told, snapshot=partial(training.capture, told))


@dataclass(frozen=True, slots=True)
class _Rules:
    """How long a fit trains and what decides in it: as `fit` is asked."""

    epochs: int
    updates: Callable[[int], int] | None
    seed: int
    metric: str
    deadline: float

    def length(self, batches: int) -> Length:
        """Of the fit, given the batches of a pass over the data."""
        planned = self.updates(batches) if self.updates is not None else self.epochs * batches
        return Length(planned, epochs=self.epochs, deadline=self.deadline)


class _Training:
    """A fit under way: all that changes from one epoch to the next."""

    def __init__(
        self,
        model: Backbone,
        *,
        strategy: Strategy,
        params: Params,
        plan: Plan,
        rules: _Rules,
        resume: FitState | None,
    ) -> None:
        self.model = model
        self.strategy = strategy
        self.params = params
        self.plan = plan
        self.rules = rules
        self.recipe = strategy.recipe(params)
        torch.manual_seed(rules.seed)
        for epoch in range(1, (resume.epoch if resume is not None else 1) + 1):
            strategy.on_epoch(model, epoch, rules.epochs, params)
        if resume is not None:
            restore_model(resume, model)
        self.split_point, self.feed, source = plan()
        self.planned = trainable_names(model)
        self.trained = set(self.planned)
        self.optimizer = new_optimizer(self.recipe, strategy.param_groups(model, params))
        self.stepper = Stepper(model, strategy, params, self.optimizer, batch_size=self.recipe.batch_size)
        self.stream = PairedStream(self.recipe, self.feed, source, rules.seed)
        self.length = rules.length(self.stream.batches)
        self.best = BestEpoch()

    def restore(self, state: FitState) -> FitEpoch:
        """Stand where training stood when the state was captured; answers that epoch."""
        self.trained |= set(state.facts["trained"])
        restore_optimizer(state, self.model, self.optimizer)
        self.stepper.restore(state.facts["stepper"])
        # Earlier versions knew no fit that is shortened.
        self.length.restore(state.facts.get("length", self.length.facts()))
        self.stream.restore(self.length.end_of(state.epoch), state.facts["sources"])
        self.best.restore(state, self.model)
        restore_random(state, self.stepper.device)
        return FitEpoch(**state.facts["told"])

    def run(self, epoch: int) -> FitEpoch:
        """Train and evaluate an epoch; after the last one the model holds the best epoch's weights."""
        began = time.perf_counter()
        if epoch > 1:
            self._enter(epoch)
        set_modes(self.model, self.split_point.resting)
        losses, cut_short = self._train(epoch)
        stop, validation = self._evaluate(epoch)
        self._keep_if_better(epoch, stop, validation)
        ended = self._ended(epoch, cut_short=cut_short)
        if ended:
            ended += self.stepper.remark()
            self.model.load_state_dict(self.best.state, strict=False)
        return FitEpoch(
            epoch=epoch,
            validation=validation,
            stop=stop,
            train_loss=sum(losses) / max(1, len(losses)),
            learning_rate=max(group["lr"] for group in self.optimizer.param_groups),
            updates=self.stream.taken,
            seconds=time.perf_counter() - began,
            ended=ended,
            kept=self.best.kept,
        )

    def _enter(self, epoch: int) -> None:
        """Let the strategy change what trains; where it does, plan anew and go on with the same batches."""
        self.strategy.on_epoch(self.model, epoch, self.rules.epochs, self.params)
        if trainable_names(self.model) == self.planned:
            return
        self.split_point, self.feed, source = self.plan()
        self.planned = trainable_names(self.model)
        self.trained |= set(self.planned)
        self.stream.go_on_with(self.feed, source)
        # What starts to train now still has the values that it had in the best epoch so far.
        self.best.state = {**snapshot(self.model), **self.best.state}
        give_groups(self.optimizer, self.strategy.param_groups(self.model, self.params))

    def _train(self, epoch: int) -> tuple[list[float], bool]:
        """Losses of an epoch's updates, and whether the deadline came before the last of them."""
        losses: list[float] = []
        while self.stream.taken < self.length.end_of(epoch):
            if losses and time.time() > self.rules.deadline:
                return losses, True
            began = time.perf_counter()
            batch = self.stream.take(epoch)
            factor = schedule(self.length.position(self.stream.taken), self.length.planned)
            losses.append(self.stepper.step(self.split_point, batch, factor))
            self.length.stepped(self.stream.taken, epoch=epoch, seconds=time.perf_counter() - began)
        return losses, False

    def _evaluate(self, epoch: int) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Scores on the stop split, which may be empty, and on the validation split."""
        began = time.perf_counter()
        self.model.eval()
        forward = self.split_point.eval_forward
        stop = self.feed.evaluate("stop", forward) if len(self.feed.data.indices["stop"]) else {}
        validation = self.feed.evaluate("val", forward)
        self.length.evaluated(self.stream.taken, epoch=epoch, seconds=time.perf_counter() - began)
        return stop, validation

    def _keep_if_better(self, epoch: int, stop: Mapping[str, float], validation: Mapping[str, float]) -> None:
        task = self.feed.data.task
        told_apart = len(self.feed.data.indices["stop"]) >= max(LEAST_STOP_ITEMS, task.least_stop_items)
        order = task.rank(stop, self.rules.metric) if told_apart else (float(epoch), 0.0)
        if self.best.order is None or order > self.best.order:
            self.best = BestEpoch(order, epoch, dict(validation), snapshot(self.model))

    def _ended(self, epoch: int, *, cut_short: bool) -> str:
        """Why an epoch is the last; empty where it isn't."""
        epochs, patience = self.rules.epochs, self.recipe.patience
        if epoch == epochs and (not cut_short or self.length.rested(self.stream.taken)):
            least = ", but for the last updates" if cut_short else ""
            return f"{'all ' if epochs > 1 else ''}{plural(epochs, 'epoch')}{least}{self.length.remark()}"
        if cut_short or time.time() > self.rules.deadline:
            return f"{CUT_SHORT} in epoch {epoch} of {epochs}"
        if patience and epoch - self.best.epoch >= patience:
            return f"stopped early: no better epoch on the stop split since epoch {self.best.epoch}"
        return ""

    def capture(self, told: FitEpoch) -> FitState | None:
        """What is needed to go on after the epoch that was the last so far."""
        plain = {part.name: getattr(told, part.name) for part in fields(told) if part.name != "snapshot"}
        best = self.best
        return capture(
            told.epoch,
            model=self.model,
            trained=self.trained,
            optimizer=self.optimizer,
            best=best.state if best.epoch != told.epoch else {},
            facts={
                "told": plain,
                "trained": sorted(self.trained),
                "stepper": self.stepper.facts(),
                "sources": self.stream.sources_taken,
                "length": self.length.facts(),
                "best": {"order": best.order, "epoch": best.epoch, "kept": best.kept},
            },
        )
