"""What is stored where memory is short: half precision, or a shallower split point, or nothing."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_bench import BACKBONE, bench, outcomes, point, results
from torch import Tensor, nn

from tlsearch import registry
from tlsearch.contracts import Pretrained, describe
from tlsearch.contracts.images import ImageInput
from tlsearch.records import Outcome
from tlsearch.training.batch_source import BatchSource, Counts
from tlsearch.training.cache_policy import Choice, choices
from tlsearch.training.split_point import bridge, find_split_point, find_split_points
from tlsearch.training.trained_part import depth_marks
from tlsearch.training.trial import TrialRunner

DEPTH = 0.67
"""Freezes two of three groups."""
SMALL, BULGE = 4 * 8 * 8 * 4, 32 * 8 * 8 * 4
"""Bytes that the first group puts out for an item, and the second."""


class Bulging(nn.Module):
    """Its second block puts out eight times what its first does: (B, 3, 16, 16) to (B, 16)."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        shapes = zip(itertools.pairwise((3, 4, 32, 16)), (2, 1, 2), strict=True)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, stride=stride, padding=1),
                    nn.BatchNorm2d(after),
                    nn.ReLU(inplace=True),
                )
                for (before, after), stride in shapes
            )
        )
        with torch.no_grad():
            self.blocks[1][1].weight.mul_(scale)  # type: ignore[index]

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.blocks(images).mean(dim=(2, 3))
        return pooled


def bulging(folder: Path, *, item_bytes: float, scale: float = 1.0, **changes: float) -> TrialRunner:
    """A bench whose backbone is such a network, and whose trials may store so many bytes an item."""
    worker = bench(folder, cache_bytes=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        trunk = Bulging(scale).eval()
    names = [name for name, _ in trunk.named_parameters()]
    info = describe(
        BACKBONE,
        trunk,
        weights="pretrained",
        inputs=ImageInput(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        groups=[(f"blocks.{i}", [n for n in names if n.startswith(f"blocks.{i}.")]) for i in range(3)],
        width=16,
        head="fc",
    )
    data = worker.data("data", info.inputs)
    rows = sum(len(index) for split, index in data.indices.items() if split != "test")
    worker = bench(folder, cache_bytes=2 * int(rows * item_bytes), **changes)
    worker._backbones[BACKBONE] = Pretrained(info, trunk)
    return worker


def tuned(worker: TrialRunner, number: int = 0, **changes: object) -> Outcome:
    """How fine-tuning behind two frozen groups ends."""
    given = {"freeze_depth": DEPTH, "dropout": 0.0, "augmentation": "none", **changes}
    (outcome,) = outcomes(results(worker, point(number=number, **given))).values()
    assert outcome.artifact is not None, outcome.reason
    return outcome


def feed_of(worker: TrialRunner, policy: str = "none", seed: int = 0) -> BatchSource:
    pretrained = worker.backbone(BACKBONE)
    data = worker.data("data", pretrained.info.inputs)
    model = worker.build(
        registry.strategy("fine_tune"), point(freeze_depth=DEPTH, seed=seed), pretrained, data, None
    )
    split_point = find_split_point(model, worker.example(pretrained))
    return worker.feed(data, pretrained, split_point, policy, Counts(), lambda: model)


@pytest.mark.parametrize(
    ("item_bytes", "told"),
    [
        (BULGE, "prefix"),
        (BULGE - 1, "prefix in float16 (logits within "),
        (BULGE / 2, "prefix in float16 (logits within "),
        (BULGE / 2 - 1, "prefix up to group 1 of 3: deeper outputs would take 0."),
        (SMALL, "prefix up to group 1 of 3: deeper outputs would take 0."),
        (SMALL - 1, "prefix up to group 1 of 3 in float16 (logits within "),
        (SMALL / 2 - 1, "none: activations would take 0."),
    ],
)
def test_the_deepest_that_fits_is_stored_and_training_is_the_same(tmp_path, item_bytes, told):
    outcome = tuned(bulging(tmp_path / "some", item_bytes=item_bytes))
    assert outcome.cache.startswith(told), outcome.cache
    uncached = tuned(bulging(tmp_path / "none", item_bytes=0))
    tolerance = 3e-2 if "float16" in told else 1e-4
    assert outcome.metrics["log_loss"] == pytest.approx(uncached.metrics["log_loss"], abs=tolerance)
    trained, expected = (load_file(Path(each.artifact.uri)) for each in (outcome, uncached))
    assert list(trained) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(trained[name], tensor, atol=tolerance, rtol=tolerance)


def test_trials_alike_choose_alike_whatever_their_seed_and_place(tmp_path):
    worker = bulging(tmp_path / "a", item_bytes=BULGE - 1)
    told = [tuned(worker, number, seed=number).cache for number in (0, 1)]
    told.append(tuned(bulging(tmp_path / "b", item_bytes=BULGE - 1), 2, seed=2).cache)
    assert len(set(told)) == 1, told


@pytest.mark.parametrize("item_bytes", [BULGE, BULGE / 2, SMALL])
def test_a_second_trial_computes_no_stored_output_again(tmp_path, item_bytes):
    worker = bulging(tmp_path, item_bytes=item_bytes)
    first, second = (feed_of(worker, seed=seed) for seed in (0, 1))
    read: list[int] = []
    for feed in (first, second):
        reading = feed.read

        def watched(index, view, reading=reading):
            read.extend(index.tolist())
            return reading(index, view)

        feed.read = watched  # type: ignore[method-assign]
        read.clear()
        assert len(list(feed.train(1, batch_size=16, seed=0)))
        assert bool(read) == (feed is first)


def test_views_share_the_budget(tmp_path):
    worker = bulging(tmp_path, item_bytes=BULGE)
    plain, light = feed_of(worker), feed_of(worker, "light")
    for feed in (plain, light):
        list(feed.train(1, batch_size=16, seed=0))
    assert plain.cache == "prefix"
    # Its two views would take the plain one's bytes nearly three times.
    assert light.cache.startswith("prefix up to group 1 of 3: deeper outputs would take")


def test_work_is_counted_where_it_is_done(tmp_path):
    worker = bulging(tmp_path, item_bytes=SMALL)
    feed = feed_of(worker)
    indices = feed.data.indices
    list(feed.train(1, batch_size=16, seed=0))
    train = feed.counts.trained
    assert feed.cache.startswith("prefix up to group 1 of 3: ")
    rows = sum(len(indices[name]) for name in ("train", "stop", "val"))
    assert feed.counts.prefix == rows + train
    first, second = sorted(feed.taps().split_points, key=lambda one: one.prefix_flops)[:2]
    between = second.prefix_flops - first.prefix_flops
    done = feed.counts.frozen_flops
    assert done == pytest.approx(rows * first.prefix_flops + train * between)
    feed.evaluate("val", feed.split_point.eval_forward)
    assert feed.counts.frozen_flops - done == pytest.approx(len(indices["val"]) * between)


def test_the_check_of_half_precision_is_counted_once(tmp_path):
    worker = bulging(tmp_path, item_bytes=BULGE / 2)
    first, second = (feed_of(worker, seed=seed) for seed in (0, 1))
    for feed in (first, second):
        list(feed.train(1, batch_size=16, seed=0))
    indices = first.data.indices
    rows = sum(len(indices[name]) for name in ("train", "stop", "val"))
    assert first.counts.prefix == rows + len(indices["train"])  # fewer than a sample has
    own = first.split_point.prefix_flops
    assert first.counts.frozen_flops > (rows + len(indices["train"])) * own
    assert (second.counts.prefix, second.counts.frozen_flops) == (0, 0)
    assert second.cache == first.cache


def test_values_too_large_for_half_precision_are_stored_from_a_shallower_layer(tmp_path):
    outcome = tuned(bulging(tmp_path, item_bytes=BULGE / 2, scale=1e6))
    assert outcome.cache.startswith("prefix up to group 1 of 3: deeper outputs would take")
    assert outcome.cache.endswith("allowed, and in float16 scores move")


def test_a_value_too_large_that_the_sample_missed_is_found_while_storing(tmp_path, monkeypatch):
    monkeypatch.setattr("tlsearch.training.cache_policy.SAMPLE", 4)
    worker = bulging(tmp_path, item_bytes=BULGE / 2)
    feed = feed_of(worker)
    train = np.sort(feed.data.indices["train"])
    unseen = set(range(len(train))) - set(np.random.default_rng(0).permutation(len(train))[:4].tolist())
    glaring = int(train[unseen.pop()])
    reading = feed.read

    def read(index, view):
        batch = reading(index, view)
        batch[torch.from_numpy(index) == glaring] *= 1e7
        return batch

    feed.read = read  # type: ignore[method-assign]
    list(feed.train(1, batch_size=16, seed=0))
    assert feed.cache.startswith("prefix up to group 1 of 3: deeper outputs would take")


def test_half_precision_is_refused_where_scores_would_move(tmp_path):
    worker = bulging(tmp_path, item_bytes=BULGE / 2)
    trunk = worker.backbone(BACKBONE).trunk
    with torch.no_grad():
        for index in (1, 2):  # large values that differ in what float16 has no digits for
            trunk.blocks[index][1].weight.mul_(1e-3)  # type: ignore[index,union-attr]
            trunk.blocks[index][1].bias.fill_(100.0)  # type: ignore[index,union-attr]
    feed = feed_of(worker)
    list(feed.train(1, batch_size=16, seed=0))
    assert feed.cache.startswith("prefix up to group 1 of 3: deeper outputs would take")
    assert feed.cache.endswith("and in float16 scores move")


def test_a_bridge_leads_up_and_never_down(tmp_path):
    worker = bulging(tmp_path, item_bytes=0)
    feed = feed_of(worker)
    pretrained = worker.backbone(BACKBONE)
    model = worker.build(registry.strategy("fine_tune"), point(freeze_depth=0.0), pretrained, feed.data, None)
    example = worker.example(pretrained)
    low, middle, high = find_split_points(model, example, depth_marks(model))[0]
    assert [one.mark for one in (low, middle, high)] == [0, 1, 2]
    images = feed.read(feed.data.indices["train"][:5], 0)
    for upper in (middle, high):
        way = bridge(low, upper)
        assert way is not None
        assert way.flops == pytest.approx(upper.prefix_flops - low.prefix_flops)
        for one, two in zip(way(low.prefix(images)), upper.prefix(images), strict=True):
            torch.testing.assert_close(one, two)
    assert bridge(high, low) is None
    other = find_split_points(model, example, depth_marks(model))[0]
    assert bridge(low, other[2]) is None, "of another trace"


def test_nothing_is_traced_where_all_fits(tmp_path):
    feed = feed_of(bulging(tmp_path, item_bytes=BULGE))

    def refuse():
        raise AssertionError("looked for other depths")

    train = feed.data.indices["train"]
    (choice, last) = choices(
        feed.split_point,
        find=refuse,
        items=feed._items(feed.store, train, 0, "float32"),
        columns=lambda positions: feed.data.columns(train[positions]),
        moved=feed.data.task.moved,
        rows=len(train),
        limit_bytes=len(train) * BULGE,
        count=lambda items, flops: None,
    )
    assert isinstance(choice, Choice)
    assert (choice.dtype, choice.bridge, choice.split_point) == ("float32", None, feed.split_point)
    assert isinstance(last, str)
