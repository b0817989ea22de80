from __future__ import annotations

import gc
import math
import re
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_bench import BACKBONE, bench, outcomes, point, results, study

from tlsearch import registry
from tlsearch.models.rebuild import rebuild
from tlsearch.records import Costs, Outcome, Point, TrialState
from tlsearch.testing import fixtures
from tlsearch.training.batch_source import BatchSource
from tlsearch.training.tracing import Unfit
from tlsearch.training.trial import TrialRunner

COMPLETE, FAILED = TrialState.COMPLETE, TrialState.FAILED

EVERY_STRATEGY = [
    point("fine_tune"),
    point("fine_tune", freeze_depth=0.0, optimizer="sgd", learning_rate=0.05),
    point("fine_tune", freeze_depth=1.0, augmentation="light"),
    point("fine_tune", augmentation="mixup"),
    point("linear_probe"),
    point("linear_probe", augmentation="light"),
    point("feature_copy"),
    point("feature_copy", params={"learner": "knn", "knn.k": 5}),
    point("feature_copy", params={"learner": "lda"}),
    point("feature_copy", params={"learner": "svm", "svm.C": 10.0, "svm.gamma": 1.0}),
    point("joint_training", domain_weight=0.1),
    point("tiny_unfreezing"),
    point("tiny_negating"),
    point("tiny_heads", kind="good"),
    point("tiny_layers"),
]
SOURCE = {"source_data": {"source": "tiny_colours", "classes": 4, "count": 300, "seed": 5}}


def tell(item: object) -> str | None:
    if not isinstance(item, Point):
        return ""
    return f"{item.strategy}-{'-'.join(str(value) for value in item.params.values())}"[:60]


def reloaded_scores(worker: TrialRunner, item: Point, outcome: Outcome, weights: str) -> dict[str, float]:
    """What the saved weights score on the validation split, rebuilt as a model is for use."""
    assert outcome.artifact is not None
    spec = worker.assignment.spec
    data = worker.data("data", worker.backbone(BACKBONE).info.inputs)
    model = rebuild(
        backbone=BACKBONE,
        weights=weights,
        image_size=spec.data.image_size,
        strategy=item.strategy,
        params=item.params,
        **fixtures.learned(len(data.target_spec.names)),
        state=load_file(Path(outcome.artifact.uri)),
    )
    val = data.indices["val"]
    images = model.info.inputs.to_model(torch.from_numpy(np.asarray(data.array[val])))
    with torch.inference_mode():
        return dict(fixtures.score(model(images), torch.from_numpy(data.targets[val])))


@pytest.mark.parametrize("item", EVERY_STRATEGY, ids=tell)
def test_the_saved_weights_are_the_model_of_the_recorded_score(tmp_path, item):
    worker = bench(tmp_path, study(**SOURCE))
    told = results(worker, item)
    outcome = outcomes(told)[0]
    assert outcome.state is COMPLETE, outcome.reason
    assert outcome.value == outcome.metrics["accuracy"]
    again = reloaded_scores(worker, item, outcome, "pretrained")
    for name, value in outcome.metrics.items():
        assert again[name] == pytest.approx(value, abs=1e-4), name


def test_a_model_that_finish_changed_is_scored_as_it_is_handed_out(tmp_path):
    told = results(bench(tmp_path), point("tiny_negating"))
    outcome, last = outcomes(told)[0], told[-1]
    assert outcome.state is COMPLETE, outcome.reason
    assert "scored again, since the strategy's finish() changed" in outcome.reason
    assert outcome.metrics["log_loss"] > last.metrics["log_loss"]


def test_a_finish_that_keeps_the_outputs_costs_no_second_evaluation(tmp_path):
    item = point("joint_training", domain_weight=0.1)
    outcome = outcomes(results(bench(tmp_path, study(**SOURCE)), item))[0]
    assert outcome.state is COMPLETE, outcome.reason
    assert "scored again" not in outcome.reason


def test_weights_may_be_random_and_are_the_same_everywhere(tmp_path):
    spec = study(backbones=[{"name": BACKBONE, "weights": "random"}])
    worker = bench(tmp_path, spec)
    item = point(freeze_depth=0.5)
    outcome = outcomes(results(worker, item))[0]
    again = reloaded_scores(worker, item, outcome, "random")
    assert again["log_loss"] == pytest.approx(outcome.metrics["log_loss"], abs=1e-4)


@pytest.mark.parametrize("item", EVERY_STRATEGY, ids=tell)
def test_the_same_seed_gives_the_same_numbers_with_warm_and_cold_caches(tmp_path, item):
    def numbers(worker: TrialRunner) -> list[object]:
        return [(r.epoch, r.value, dict(r.metrics)) for r in results(worker, item)]

    worker = bench(tmp_path / "a", study(**SOURCE))
    cold = numbers(worker)
    assert numbers(worker) == cold
    assert numbers(bench(tmp_path / "b", study(**SOURCE))) == cold


FOLLOWERS = [
    point("feature_copy"),
    point("linear_probe", augmentation="light"),
    point("fine_tune", freeze_depth=0.67, augmentation="light"),
]


@pytest.mark.parametrize("item", [*EVERY_STRATEGY, point("fine_tune", augmentation="light")], ids=tell)
def test_what_a_trial_stores_for_later_ones_is_what_they_would_compute(tmp_path, item):
    """A trial stores outputs of layers that it trains itself: they are to be the pretrained layers'."""

    def numbers(worker: TrialRunner) -> list[object]:
        return [(r.epoch, dict(r.metrics)) for other in FOLLOWERS for r in results(worker, other)]

    worker = bench(tmp_path / "after", study(**SOURCE))
    results(worker, item)
    assert numbers(worker) == numbers(bench(tmp_path / "alone", study(**SOURCE)))


def test_another_seed_gives_other_numbers(tmp_path):
    worker = bench(tmp_path)
    curves = [[r.metrics["log_loss"] for r in results(worker, point(seed=seed))] for seed in (0, 1)]
    assert curves[0] != curves[1]


@pytest.mark.parametrize("depth", [0.34, 0.67, 1.0])
def test_cached_training_is_uncached_training(tmp_path, depth):
    item = point(freeze_depth=depth, dropout=0.0, augmentation="none")
    states = []
    for name, limit in (("cached", 2**28), ("uncached", 0)):
        worker = bench(tmp_path / name, cache_bytes=limit)
        outcome = outcomes(results(worker, item))[0]
        assert (
            outcome.cache == "prefix" if limit else outcome.cache.startswith("none: activations would take")
        )
        assert outcome.artifact is not None
        states.append((load_file(Path(outcome.artifact.uri)), outcome))
    (cached, first), (uncached, second) = states
    assert list(cached) == list(uncached)
    for name in cached:
        torch.testing.assert_close(cached[name], uncached[name], atol=1e-4, rtol=1e-4)
    assert first.metrics["log_loss"] == pytest.approx(second.metrics["log_loss"], abs=1e-4)


def test_no_image_goes_through_a_frozen_prefix_twice(tmp_path):
    worker = bench(tmp_path)
    counts = {name: len(indices) for name, indices in data_of(worker).indices.items()}
    seen = counts["train"] + counts["stop"] + counts["val"]  # and never the test items
    first = outcomes(results(worker, point(freeze_depth=0.67)))[0]
    assert first.costs.prefix_images == seen
    assert first.costs.suffix_images == 3 * seen
    second = outcomes(results(worker, point(freeze_depth=0.67, number=1, learning_rate=1e-4)))[1]
    assert second.costs.prefix_images == 0
    assert second.cache == "prefix"
    # Other depths were stored in the same pass; another process finds all of it.
    other = bench(tmp_path)
    assert outcomes(results(other, point(freeze_depth=1.0)))[0].costs.prefix_images == 0
    assert outcomes(results(other, point("linear_probe")))[0].costs.prefix_images == 0
    # Each of the two stored views is pushed through once.
    light = point(freeze_depth=1.0, augmentation="light")
    assert outcomes(results(other, light))[0].costs.prefix_images == 2 * counts["train"]
    assert outcomes(results(other, light))[0].costs.prefix_images == 0


def data_of(worker: TrialRunner):
    return worker.data("data", worker.backbone(BACKBONE).info.inputs)


def test_costs_are_counted(tmp_path):
    worker = bench(tmp_path)
    whole, half, none = (
        outcomes(results(worker, point(freeze_depth=depth)))[0].costs for depth in (0.0, 0.34, 1.0)
    )
    info = worker.backbone(BACKBONE).info
    assert whole.total_parameters == half.total_parameters == info.parameters + 16 * 3 + 3
    assert whole.trainable_parameters == whole.total_parameters
    assert none.trainable_parameters == 16 * 3 + 3
    assert whole.flops > half.flops > none.flops
    assert whole.prefix_images == 0
    assert whole.seconds > 0
    train = len(data_of(worker).indices["train"])
    assert whole.flops > 3 * 3 * train * info.flops  # three epochs, forward and backward


def test_mixup_says_that_nothing_stored_served_it(tmp_path):
    outcome = outcomes(results(bench(tmp_path), point(freeze_depth=0.67, augmentation="mixup")))[0]
    assert outcome.cache.startswith("none: mixup")


def test_every_epoch_is_told_and_the_last_carries_the_outcome(tmp_path):
    told = results(bench(tmp_path), point(attempt=2, number=7))
    assert [(r.number, r.attempt, r.epoch, r.epochs) for r in told] == [(7, 2, e, 3) for e in (1, 2, 3)]
    assert [r.outcome is None for r in told] == [True, True, False]
    for result in told:
        assert result.value == result.metrics["accuracy"]
        wanted = {"log_loss", "stop_accuracy", "stop_log_loss", "train_loss", "learning_rate"}
        assert wanted <= set(result.metrics)
        assert result.seconds > 0
    outcome = outcomes(told)[7]
    assert outcome.reason == "all 3 epochs"
    assert outcome.artifact is not None
    assert outcome.artifact.uri.endswith("trials/000007-2.safetensors")


def test_only_what_training_changed_is_saved(tmp_path):
    outcome = outcomes(results(bench(tmp_path), point(freeze_depth=0.67)))[0]
    assert outcome.artifact is not None
    names = set(load_file(Path(outcome.artifact.uri)))
    assert not any(name.startswith(("trunk.blocks.0", "trunk.blocks.1")) for name in names)
    assert {"trunk.blocks.2.0.weight", "trunk.blocks.2.1.running_mean", "head.linear.weight"} <= names


def test_a_plugin_of_ten_lines_is_trained(tmp_path):
    worker = bench(tmp_path)
    free = outcomes(results(worker, point("tiny_shrinking", pull=0.0)))[0]
    pulled = outcomes(results(worker, point("tiny_shrinking", pull=100.0, number=1)))[1]
    plain = outcomes(results(worker, point("fine_tune", number=2)))[2]
    sizes = [
        float(load_file(Path(outcome.artifact.uri))["head.linear.weight"].norm())
        for outcome in (free, pulled, plain)
    ]
    assert sizes[1] < sizes[0] / 2
    assert sizes[0] == pytest.approx(sizes[2])


# --------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("item", "reason", "epochs"),
    [
        (point("tiny_raising"), "RuntimeError: the loss fell over", 0),
        (point("tiny_exploding"), "the loss became nan in epoch 2: the learning rate may be too high", 1),
        (point("fine_tune", optimizer="adagrad"), 'unknown optimizer "adagrad"', 0),
        (point("fine_tune", augmentation="spin"), 'no augmentation policy "spin"', 0),
        (point("fine_tune", freeze_depth=3.0), "freeze depth is a fraction", 0),
        (point("fine_tune", learning_rate="fast"), "", 0),
        (point("fine_tune", params={}), "KeyError", 0),
        (point("no_such_strategy", params={"a": 1}), 'Unknown strategy "no_such_strategy"', 0),
        (point("feature_copy", params={"learner": "oracle"}), "KeyError", 0),
        (point("joint_training"), "the study has no source_data", 0),
    ],
    ids=tell,
)
def test_what_goes_wrong_is_the_trials_reason(tmp_path, item, reason, epochs):
    told = results(bench(tmp_path), item)
    outcome = outcomes(told)[0]
    assert outcome.state is FAILED
    assert reason in outcome.reason
    assert outcome.value is None
    assert outcome.artifact is None
    assert len(told) == epochs + 1
    assert not (tmp_path / "artifacts" / "trials").exists()


def test_a_failure_leaves_the_bench_as_good_as_new(tmp_path):
    worker = bench(tmp_path)
    before = [r.metrics for r in results(bench(tmp_path / "other"), point())]
    for name in ("tiny_raising", "tiny_exploding"):
        results(worker, point(name))
    assert [r.metrics for r in results(worker, point())] == before


def test_a_disk_that_is_full_fails_the_trial(tmp_path):
    worker = bench(tmp_path)
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "trials").write_text("in the way")
    outcome = outcomes(results(worker, point()))[0]
    assert outcome.state is FAILED
    assert "Error" in outcome.reason


def test_one_head_that_fails_takes_no_other_along(tmp_path):
    kinds = ["good", "bad_fit", "bad_head", "bad_recipe", "none", "nan", "lost", "trained", "good"]
    for order in (kinds, kinds[::-1]):
        items = [point("tiny_heads", number, kind=kind) for number, kind in enumerate(order)]
        ended = outcomes(results(bench(tmp_path), *items))
        assert sorted(ended) == list(range(len(kinds)))
        for number, kind in enumerate(order):
            state = COMPLETE if kind in ("good", "trained") else FAILED
            assert ended[number].state is state, (kind, ended[number].reason)
        reasons = {kind: ended[number].reason for number, kind in enumerate(order)}
        who = r" at tiny_plugins\.py line \d+ in \w+ \(strategy 'tiny_heads' of tiny-plugins 1\.0\)"
        assert re.fullmatch(f"ValueError: can't be fitted{who}", reasons["bad_fit"])
        assert re.fullmatch(f"ValueError: no such head{who}", reasons["bad_head"])
        assert re.fullmatch(f"ValueError: no such recipe{who}", reasons["bad_recipe"])
        assert "isn't finite" in reasons["nan"]
        assert "0 heads for 1 point" in reasons["lost"]
        good = [ended[number].metrics for number, kind in enumerate(order) if kind == "good"]
        assert good[0] == good[1]
        assert good[0]["accuracy"] > 0.5


def test_heads_of_several_policies_are_fitted_in_one_turn(tmp_path):
    items = [
        point("linear_probe", number, augmentation=policy, learning_rate=rate)
        for number, (policy, rate) in enumerate(
            [("none", 1e-2), ("light", 1e-2), ("none", 1e-3), ("spin", 1e-2), ("light", 1e-3)]
        )
    ]
    worker = bench(tmp_path)
    ended = outcomes(results(worker, *items))
    assert [ended[n].state for n in range(5)] == [COMPLETE, COMPLETE, COMPLETE, FAILED, COMPLETE]
    for item in (items[0], items[1]):
        (alone,) = outcomes(results(worker, item)).values()
        assert alone.metrics["log_loss"] == pytest.approx(ended[item.number].metrics["log_loss"], abs=1e-3)


def test_heads_that_look_at_other_layers_are_fitted_in_one_turn(tmp_path):
    items = [point("tiny_layers", number, cells=cells) for number, cells in enumerate([4, 0, 1, 4])]
    worker = bench(tmp_path)
    ended = outcomes(results(worker, *items))
    assert {outcome.state for outcome in ended.values()} == {COMPLETE}
    widths = [load_file(Path(ended[n].artifact.uri))["head.linear.weight"].shape[1] for n in range(4)]
    # 8, 16 and 16 channels, in 4 cells each or in one, and 16 features; of these every other.
    assert widths == [88, 8, 28, 88]
    assert ended[0].metrics == ended[3].metrics
    assert all(outcome.cache == "prefix" for outcome in ended.values())


@pytest.mark.parametrize("strategy", ["linear_probe", "tiny_layers"])
def test_heads_are_fitted_where_nothing_can_be_traced(tmp_path, monkeypatch, strategy):
    (traced,) = outcomes(results(bench(tmp_path / "traced"), point(strategy))).values()

    def refuse(root):
        raise Unfit("its code asks for shapes")

    monkeypatch.setattr("tlsearch.training.split_point.trace", refuse)
    (whole,) = outcomes(results(bench(tmp_path / "whole"), point(strategy))).values()
    assert whole.cache == "none: its code asks for shapes"
    assert whole.metrics["log_loss"] == pytest.approx(traced.metrics["log_loss"], abs=1e-3)


def test_a_batch_of_heads_counts_its_images_once(tmp_path):
    items = [point("linear_probe", number, learning_rate=10.0**-number) for number in (1, 2, 3)]
    worker = bench(tmp_path)
    ended = outcomes(results(worker, *items))
    seen = sum(len(data_of(worker).indices[name]) for name in ("train", "stop", "val"))
    assert sum(outcome.costs.prefix_images for outcome in ended.values()) == seen
    assert sum(outcome.costs.flops for outcome in ended.values()) > 0
    assert {outcome.freeze_depth for outcome in ended.values()} == {None}  # the driver's business
    told = results(worker, *items)
    assert [(r.epoch, r.epochs) for r in told] == [(1, 1)] * 3


# ------------------------------------------------------------------------------------ ending


def test_a_trial_that_would_outlast_its_deadline_is_shortened_and_its_learning_rate_comes_to_rest(tmp_path):
    worker = bench(tmp_path, study(budget={"epochs": 100}, data={"source": "tiny_colours", "count": 600}))
    results(worker, point("linear_probe"))  # data and caches are warm
    # An epoch of 200 steps takes a second or so.
    told = results(worker, point(batch_size=2, patience=0, freeze_depth=0.0), deadline=time.time() + 4)
    outcome = outcomes(told)[0]
    assert outcome.state is COMPLETE
    train = len(data_of(worker).indices["train"])
    planned = 100 * math.ceil(train / 2)
    found = re.fullmatch(r"all 100 epochs, shortened to (\d+) of (\d+) updates .*", outcome.reason)
    assert found, outcome.reason
    assert (int(found[1]), int(found[2])) == (told[-1].metrics["updates"], planned)
    assert int(found[1]) < planned
    rates = [result.metrics["learning_rate"] for result in told]
    assert rates[-1] < 0.01 * max(rates)


def test_a_deadline_that_is_over_gives_one_step_and_says_so(tmp_path):
    for epochs in (5, 1):
        told = results(bench(tmp_path, study(budget={"epochs": epochs})), point(), deadline=time.time() - 1)
        assert len(told) == 1
        assert outcomes(told)[0].reason == f"stopped at the time budget in epoch 1 of {epochs}"


@pytest.mark.usefixtures("few_stop_items")
def test_training_stops_early_where_it_does_not_get_better(tmp_path):
    worker = bench(tmp_path, study(budget={"epochs": 60}))
    told = results(worker, point(patience=3, learning_rate=1e-5, layer_decay=1.0, head_multiplier=1.0))
    told = results(worker, point(patience=3, learning_rate=0.03, weight_decay=0.0))
    outcome = outcomes(told)[0]
    assert outcome.state is COMPLETE
    ranks = [(r.metrics["stop_accuracy"], -r.metrics["stop_log_loss"]) for r in told]
    best = max(range(len(ranks)), key=lambda index: (ranks[index], -index))
    assert len(told) < 60
    assert outcome.reason == f"stopped early: no better epoch on the stop split since epoch {best + 1}"
    assert len(told) == best + 1 + 3
    # What is kept is the best epoch's, as recorded: not the last's.
    assert outcome.metrics["log_loss"] == told[best].metrics["log_loss"]


def test_patience_zero_never_stops_early(tmp_path):
    worker = bench(tmp_path, study(budget={"epochs": 12}))
    assert len(results(worker, point(patience=0, learning_rate=0.0))) == 12


def test_without_a_stop_split_the_last_epoch_is_kept(tmp_path):
    data = {"source": "tiny_colours", "split": {"stop": 0}}
    worker = bench(tmp_path, study(data=data))
    told = results(worker, point(patience=1))
    outcome = outcomes(told)[0]
    assert outcome.state is COMPLETE, outcome.reason
    assert outcome.metrics["log_loss"] == told[-1].metrics["log_loss"]
    assert len(told) == 3
    assert not any(name.startswith("stop_") for name in told[-1].metrics)
    for limit in (2**28, 0):
        heads = bench(tmp_path / str(limit), study(data=data), cache_bytes=limit)
        for name in ("linear_probe", "feature_copy"):
            assert outcomes(results(heads, point(name)))[0].state is COMPLETE


def test_gradual_unfreezing_trains_more_in_every_epoch(tmp_path):
    worker = bench(tmp_path, study(budget={"epochs": 5}))
    item = point("tiny_unfreezing", learning_rate=0.01)
    outcome = outcomes(results(worker, item))[0]
    assert outcome.state is COMPLETE
    assert outcome.costs.trainable_parameters == outcome.costs.total_parameters
    again = reloaded_scores(worker, item, outcome, "pretrained")
    assert again["log_loss"] == pytest.approx(outcome.metrics["log_loss"], abs=1e-4)


@pytest.mark.parametrize("epochs", [2, 3, 4])
@pytest.mark.parametrize("rate", [1e-3, 0.3])
def test_what_rests_for_an_epoch_is_kept_with_the_best(tmp_path, epochs, rate):
    worker = bench(tmp_path, study(budget={"epochs": epochs}))
    item = point("tiny_resting", learning_rate=rate, dropout=0.0)
    outcome = outcomes(results(worker, item))[0]
    assert outcome.state is COMPLETE
    again = reloaded_scores(worker, item, outcome, "pretrained")
    assert again["log_loss"] == pytest.approx(outcome.metrics["log_loss"], rel=1e-3)


def test_logloss_may_be_the_metric(tmp_path):
    told = results(bench(tmp_path, study(objective={"metric": "log_loss"})), point())
    outcome = outcomes(told)[0]
    assert outcome.value == outcome.metrics["log_loss"]
    assert math.isfinite(outcome.value)
    assert outcome.costs != Costs()


# ----------------------------------------------------------------------------------- staying warm


def test_a_backbone_is_loaded_once_and_never_trained_itself(tmp_path):
    worker = bench(tmp_path)
    before = {name: tensor.clone() for name, tensor in worker.backbone(BACKBONE).trunk.state_dict().items()}
    results(worker, point(freeze_depth=0.0, learning_rate=0.1))
    after = worker.backbone(BACKBONE).trunk
    assert worker.backbone(BACKBONE).trunk is after
    for name, tensor in after.state_dict().items():
        assert torch.equal(tensor, before[name])
    fresh = registry.backbone(BACKBONE, weights="pretrained", image_size=None)
    assert fresh.info.weights_sha256 == worker.backbone(BACKBONE).info.weights_sha256


@pytest.mark.parametrize("strategy", ["fine_tune", "linear_probe"])
def test_a_trial_lets_go_of_its_files_at_once(tmp_path, strategy):
    """Without the garbage collector, which comes by seldom where so many objects live for good."""
    import gc

    from tlsearch.training.batch_source import BatchSource

    worker = bench(tmp_path)
    results(worker, point(strategy))
    gc.collect()
    gc.disable()
    try:
        results(worker, point(strategy, seed=1))
        assert [one for one in gc.get_objects() if type(one) is BatchSource] == []
    finally:
        gc.enable()


@pytest.mark.parametrize("item", [point("fine_tune", freeze_depth=0.67), point("linear_probe")], ids=tell)
def test_what_feeds_a_trial_is_let_go_at_its_end(tmp_path, item):
    """Without the collector, which workers run rarely: a circle would keep mapped files open."""
    feeds: list[weakref.ref[BatchSource]] = []

    class Watching(TrialRunner):
        def feed(self, *given, **more):
            feed = super().feed(*given, **more)
            feeds.append(weakref.ref(feed))
            return feed

    worker = Watching(bench(tmp_path).assignment)
    gc.disable()
    try:
        outcome = outcomes(results(worker, item))[0]
        assert outcome.state is COMPLETE, outcome.reason
        assert [feed() for feed in feeds] == [None]
    finally:
        gc.enable()
