"""The training loop by itself, on feeds that the tests watch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_bench import BACKBONE, bench, point, results, study

from tlsearch import registry
from tlsearch.contracts import Batch, FineTuning, Strategy
from tlsearch.errors import TrialError
from tlsearch.records import Point
from tlsearch.tasks.classification import Classification
from tlsearch.training import stepper as stepping
from tlsearch.training.batch_source import Counts
from tlsearch.training.fit import FitEpoch, fit
from tlsearch.training.split_point import find_split_point
from tlsearch.training.trial import TrialRunner

TASK = registry.task("classification")

SOURCE = {"source": "tiny_colours", "classes": 4, "count": 900, "seed": 5, "noise": 60.0}


class Run:
    """A fit whose plans are counted and whose model can be looked at."""

    def __init__(
        self,
        worker: TrialRunner,
        strategy: Strategy,
        item: Point,
        epochs: int = 3,
        updates: Callable[[int], int] | None = None,
    ) -> None:
        pretrained = worker.backbone(BACKBONE)
        data = worker.data("data", pretrained.info.inputs)
        source = worker.data("source_data", pretrained.info.inputs) if strategy.requires_source else None
        self.model = worker.build(strategy, item, pretrained, data, source)
        self.plans = 0
        recipe = strategy.recipe(item.params)
        inputs = pretrained.info.inputs

        def plan() -> Any:
            self.plans += 1
            split_point = find_split_point(self.model, inputs.to_model(inputs.example(2)))
            feeds = [
                worker.feed(d, pretrained, split_point, recipe.augmentation, Counts(), lambda: self.model)
                if d
                else None
                for d in (data, source)
            ]
            return split_point, *feeds

        self.epochs: list[FitEpoch] = []
        self.states: list[dict[str, torch.Tensor]] = []
        for epoch in fit(
            self.model,
            strategy=strategy,
            params=item.params,
            plan=plan,
            epochs=epochs,
            updates=updates,
            seed=item.seed,
            metric="accuracy",
        ):
            self.epochs.append(epoch)
            self.states.append(copy.deepcopy(self.model.state_dict()))


class Watching(FineTuning):
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.calls: list[int] = []
        self.training: list[bool] = []

    def on_epoch(self, model, epoch, epochs, params):
        self.calls.append(epoch)

    def loss(self, model, batch, params):
        self.batches.append(batch)
        return super().loss(model, batch, params)


@pytest.fixture
def worker(tmp_path) -> TrialRunner:
    return bench(tmp_path, study(source_data=SOURCE))


def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Learning rates of all steps to come, as factors."""
    seen: list[float] = []
    step: Callable[..., float] = stepping.Stepper.step

    def watched(self, split_point, batch, factor):
        seen.append(factor)
        return step(self, split_point, batch, factor)

    monkeypatch.setattr(stepping.Stepper, "step", watched)
    return seen


def test_hooks_are_called_before_every_epoch_and_plans_made_once(worker):
    strategy = Watching()
    run = Run(worker, strategy, point())
    assert strategy.calls == [1, 2, 3]
    assert [epoch.epoch for epoch in run.epochs] == [1, 2, 3]
    assert run.plans == 1
    assert {batch.epoch for batch in strategy.batches} == {1, 2, 3}


def test_the_kept_weights_are_those_of_the_best_epoch_on_the_stop_split(worker, monkeypatch):
    monkeypatch.setattr("tlsearch.training.fit.LEAST_STOP_ITEMS", 1)
    run = Run(worker, Watching(), point(learning_rate=0.05, patience=0, freeze_depth=0.0), epochs=8)
    ranks = [(epoch.stop["accuracy"], -epoch.stop["log_loss"]) for epoch in run.epochs]
    best = max(range(8), key=lambda index: (ranks[index], -index))
    assert run.epochs[-1].kept == run.epochs[best].validation
    assert [epoch.ended for epoch in run.epochs] == [""] * 7 + ["all 8 epochs"]
    for name, tensor in run.model.state_dict().items():
        # What the last epoch left is in states[-1] only after it was exchanged for the best.
        wanted = run.states[best if best < 7 else -1][name]
        assert torch.equal(tensor, wanted), name


def test_a_stop_split_too_small_to_tell_epochs_apart_decides_nothing(worker):
    run = Run(worker, Watching(), point(learning_rate=0.05, patience=2, freeze_depth=0.0), epochs=8)
    assert run.epochs[-1].kept == run.epochs[-1].validation
    assert [epoch.ended for epoch in run.epochs] == [""] * 7 + ["all 8 epochs"]


def test_a_task_may_ask_for_more_stop_items(worker, monkeypatch):
    monkeypatch.setattr("tlsearch.training.fit.LEAST_STOP_ITEMS", 1)
    monkeypatch.setattr(Classification, "least_stop_items", 500)
    run = Run(worker, Watching(), point(learning_rate=0.05, patience=2, freeze_depth=0.0), epochs=8)
    assert run.epochs[-1].kept == run.epochs[-1].validation
    assert run.epochs[-1].ended == "all 8 epochs"


def test_updates_are_counted_and_shared_out_among_the_epochs(worker, monkeypatch):
    factors = rates(monkeypatch)
    passes = []

    def updates(batches: int) -> int:
        passes.append(batches)
        return 5 * batches + 1

    strategy = Watching()
    run = Run(worker, strategy, point(), epochs=4, updates=updates)
    total = 5 * passes[0] + 1
    assert [epoch.updates for epoch in run.epochs] == [round(total * n / 4) for n in (1, 2, 3, 4)]
    assert len(strategy.batches) == len(factors) == total
    assert strategy.calls == [1, 2, 3, 4]
    assert factors[-1] < 0.02 < min(factors[total // 2 : total // 2 + 2])
    # Whole passes: every item is seen five times, and the first of the sixth pass once more.
    labels = torch.cat([batch.targets for batch in strategy.batches[: 5 * passes[0]]])
    train = next(iter(worker._data.values())).indices["train"]
    assert len(labels) == 5 * len(train)


def test_training_learns(worker):
    run = Run(worker, Watching(), point(learning_rate=0.01, freeze_depth=0.0, patience=0), epochs=20)
    assert run.epochs[-1].train_loss < run.epochs[0].train_loss
    assert run.epochs[-1].kept["accuracy"] > 0.8


def test_the_learning_rate_warms_up_and_comes_to_rest(worker, monkeypatch):
    factors = rates(monkeypatch)
    Run(worker, Watching(), point(), epochs=4)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert factors[-1] < 0.02


def test_the_learning_rate_comes_to_rest_once_where_source_items_fill_the_batches(worker, monkeypatch):
    factors = rates(monkeypatch)
    Run(worker, registry.strategy("joint_training"), point("joint_training", source_share=0.5), epochs=4)
    top = factors.index(max(factors))
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert factors[-1] < 0.02


class Joint(type(registry.strategy("joint_training"))):  # type: ignore[misc]
    """Joint training that notes the source labels and images it sees."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, torch.Tensor]] = []
        self.shares: list[tuple[int, int]] = []

    def loss(self, model, batch, params):
        self.seen += [(batch.epoch, row.clone()) for row in batch.source.inputs[0]]
        self.shares.append((len(batch.targets), len(batch.source.targets)))
        return super().loss(model, batch, params)


def test_source_items_go_on_where_the_last_epoch_left_them(worker):
    strategy = Joint()
    Run(worker, strategy, point("joint_training", freeze_depth=0.0), epochs=3)
    rows = torch.stack([row.flatten() for _, row in strategy.seen])
    # Far fewer than the source has: none of them may come twice.
    assert len(rows) < 600
    assert len(torch.unique(rows, dim=0)) == len(rows)


@pytest.mark.parametrize(("share", "target", "source"), [(0.5, 16, 16), (0.25, 24, 8)])
def test_the_source_has_its_share_of_a_batch(worker, share, target, source):
    strategy = Joint()
    Run(worker, strategy, point("joint_training", source_share=share), epochs=1)
    given, beside = strategy.shares[0]
    assert given <= target  # the items of a pass are shared out evenly among the batches
    assert beside == round(given * source / target)


def test_what_trains_is_found_again_when_it_changes(worker):
    run = Run(
        worker, registry.strategy("tiny_unfreezing"), point("tiny_unfreezing", learning_rate=0.01), epochs=5
    )
    assert run.plans == 4  # the head alone, then three groups more; the fifth epoch is like the fourth
    first = worker.backbone(BACKBONE).trunk.state_dict()
    for epoch, state in enumerate(run.states[:-1], 1):
        for group in range(3):
            name = f"blocks.{group}.0.weight"
            moved = not torch.equal(state[f"trunk.{name}"], first[name])
            assert moved == (group >= 4 - epoch), (epoch, group)


def test_frozen_batch_norms_keep_their_statistics(worker):
    run = Run(worker, Watching(), point(freeze_depth=0.67, learning_rate=0.01))
    first = worker.backbone(BACKBONE).trunk.state_dict()
    for group, moves in ((0, False), (1, False), (2, True)):
        name = f"blocks.{group}.1.running_mean"
        assert torch.equal(run.states[0][f"trunk.{name}"], first[name]) != moves


class Surgical(FineTuning):
    """Trains the first block alone, between nothing and frozen blocks."""

    def on_epoch(self, model, epoch, epochs, params):
        for name, parameter in model.trunk.named_parameters():
            parameter.requires_grad_(name.startswith("blocks.0."))


def test_frozen_batch_norms_behind_trained_ones_keep_their_statistics_too(worker):
    run = Run(worker, Surgical(), point(learning_rate=0.01))
    first = worker.backbone(BACKBONE).trunk.state_dict()
    for group, moves in ((0, True), (1, False), (2, False)):
        name = f"blocks.{group}.1.running_mean"
        assert torch.equal(run.states[-1][f"trunk.{name}"], first[name]) != moves


class Spoiling(FineTuning):
    """Trains the head well, then everything away from what is right."""

    def on_epoch(self, model, epoch, epochs, params):
        model.freeze(1.0 if epoch == 1 else 0.0)

    def loss(self, model, batch, params):
        loss = super().loss(model, batch, params)
        return loss if batch.epoch == 1 else -loss


def test_what_was_frozen_in_the_best_epoch_is_given_back(worker, monkeypatch):
    monkeypatch.setattr("tlsearch.training.fit.LEAST_STOP_ITEMS", 1)
    run = Run(worker, Spoiling(), point(learning_rate=0.02), epochs=3)
    assert run.epochs[-1].kept == run.epochs[0].validation
    spoilt, kept = run.states[1], run.states[-1]
    first = worker.backbone(BACKBONE).trunk.state_dict()
    for name, tensor in first.items():
        assert torch.equal(kept[f"trunk.{name}"], tensor), name
    assert not torch.equal(spoilt["trunk.blocks.0.0.weight"], first["blocks.0.0.weight"])


class Nothing(FineTuning):
    """Freezes all, at once or later."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch(self, model, epoch, epochs, params):
        if epoch >= self.epoch:
            model.requires_grad_(False)


class NoGroups(Nothing):
    def param_groups(self, model, params):
        return [group for group in super().param_groups(model, params) if group["params"]]


@pytest.mark.parametrize("kind", [Nothing, NoGroups])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_strategy_that_trains_nothing_is_told(worker, kind, epoch):
    with pytest.raises(TrialError, match="nothing to train"):
        Run(worker, kind(epoch), point())


def test_when_memory_runs_out_smaller_pieces_give_the_same_gradients(worker, monkeypatch):
    # BatchNorm is frozen, and there is no dropout: then a batch in pieces is the batch.
    item = point(freeze_depth=1.0, dropout=0.0, learning_rate=0.01)
    whole = Run(worker, Watching(), item)

    class Hungry(Watching):
        def loss(self, model, batch, params):
            if len(batch.targets) > 5:
                raise torch.OutOfMemoryError
            return super().loss(model, batch, params)

    strategy = Hungry()
    pieces = Run(worker, strategy, item)
    assert whole.epochs[-1].ended == "all 3 epochs"
    assert pieces.epochs[-1].ended == (
        "all 3 epochs; memory ran out, so batches of 32 were taken in pieces of 4"
    )
    trained = Run(worker, Hungry(), point(freeze_depth=0.67))
    assert trained.epochs[-1].ended.endswith("in pieces of 4, whose statistics BatchNorm trained on")
    assert max(len(batch.targets) for batch in strategy.batches) <= 5
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(pieces.model.state_dict()[name], tensor, atol=1e-4, rtol=1e-4)

    class Starving(Watching):
        def loss(self, model, batch, params):
            raise torch.OutOfMemoryError

    with pytest.raises(TrialError, match="out of memory even with one item"):
        Run(worker, Starving(), item)


def test_pieces_of_a_joint_batch_share_out_the_source(worker):
    source = Batch((torch.arange(9.0),), torch.arange(9), 1, TASK)
    parts = stepping.pieces_of(Batch((torch.arange(10.0),), torch.arange(10), 1, TASK, source), 4)
    assert [len(part.targets) for part in parts] == [4, 3, 3]
    assert torch.equal(torch.cat([part.targets for part in parts]), torch.arange(10))
    assert torch.equal(torch.cat([part.source.targets for part in parts if part.source]), torch.arange(9))
    assert all(len(part.source.targets) == 3 for part in parts if part.source)


def test_no_piece_is_without_source_items():
    source = Batch((torch.arange(2.0),), torch.arange(2), 1, TASK)
    parts = stepping.pieces_of(Batch((torch.arange(10.0),), torch.arange(10), 1, TASK, source), 1)
    assert [len(part.source.targets) for part in parts if part.source] == [1, 1]


def test_the_gradient_of_pieces_is_the_batchs(worker):
    def gradients(limit: int) -> tuple[list[int], dict[str, torch.Tensor]]:
        found: dict[str, torch.Tensor] = {}
        sizes: list[int] = []

        class Watched(FineTuning):
            def loss(self, model, batch, params):
                sizes.append(len(batch.targets))
                if sizes[-1] > limit:
                    raise torch.OutOfMemoryError
                return super().loss(model, batch, params)

            def penalty(self, model, params):
                return sum(p.square().sum() for p in stepper.model.parameters() if p.requires_grad)

        item = point(freeze_depth=1.0, dropout=0.0)
        pretrained = worker.backbone(BACKBONE)
        data = worker.data("data", pretrained.info.inputs)
        model = worker.build(Watched(), item, pretrained, data, None)
        split_point = find_split_point(model, worker.example(pretrained))
        feed = worker.feed(data, pretrained, split_point, "none", Counts(), lambda: model)
        optimizer = stepping.new_optimizer(
            Watched().recipe(item.params), Watched().param_groups(model, item.params)
        )
        stepper = stepping.Stepper(model, Watched(), item.params, optimizer, batch_size=21)
        items = data.indices["train"][:21]
        inputs, targets = feed.fetch(items, 0), feed.targets(items)
        stepper.step(split_point, Batch(inputs, targets, 1, TASK), 0.0)
        found |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return sizes, found

    whole, expected = gradients(100)
    pieces, accumulated = gradients(6)
    assert whole == [21]
    assert pieces == [21, 7, 5, 4, 4, 4, 4]  # in three, and when that fails too, in five
    assert expected.keys() == accumulated.keys()
    for name, gradient in expected.items():
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(accumulated[name], gradient, atol=1e-6, rtol=1e-5)


def test_the_penalty_is_a_part_of_the_loss(worker):
    class Heavy(FineTuning):
        def penalty(self, model, params):
            return torch.tensor(100.0)

    plain, heavy = (Run(worker, strategy, point(), epochs=1) for strategy in (Watching(), Heavy()))
    assert heavy.epochs[0].train_loss == pytest.approx(plain.epochs[0].train_loss + 100, rel=1e-4)


def test_gradients_are_clipped(worker):
    """Of a steep loss only the direction counts: a hundred times as steep, it moves the weights alike."""

    class Steep(FineTuning):
        def __init__(self, factor: float) -> None:
            self.factor = factor

        def loss(self, model, batch, params):
            return super().loss(model, batch, params) * self.factor

    item = point(optimizer="sgd", learning_rate=0.01, head_multiplier=1.0)
    gentle, steep, steeper = (
        Run(worker, Steep(factor), item, epochs=1).states[-1] for factor in (1.0, 1e4, 1e6)
    )
    torch.testing.assert_close(steep, steeper, atol=1e-5, rtol=1e-4)
    assert any(not torch.allclose(gentle[name], steep[name], atol=1e-4) for name in gentle)


def test_epochs_are_yielded_as_they_end(worker):
    turns = worker.run([point()])
    first = next(turns)
    assert [result.epoch for result in first] == [1]
    turns.close()  # as when ASHA stops a trial: the bench is free for the next one
    assert len(results(worker, point(number=1))) == 3
