from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_bench import BACKBONE, bench, point, study

from tlsearch import registry
from tlsearch.contracts import Backbone
from tlsearch.training.batch_source import BatchSource, Counts
from tlsearch.training.split_point import find_split_point
from tlsearch.training.trial import TrialRunner

Make = Callable[..., tuple[BatchSource, Backbone]]


@pytest.fixture
def make(tmp_path) -> Make:
    """A feed at a freeze depth, and the model that it feeds."""
    worker = bench(tmp_path, study(data={"source": "tiny_colours", "count": 150}))

    def build(
        depth: float = 0.67, *, policy: str = "none", stored: bool = True, **changes
    ) -> tuple[BatchSource, Backbone]:
        pretrained = worker.backbone(BACKBONE)
        data = worker.data("data", pretrained.info.inputs)
        model = worker.build(
            registry.strategy("fine_tune"), point(freeze_depth=depth, dropout=0.0), pretrained, data, None
        )
        inputs = pretrained.info.inputs
        given = {
            "data": data,
            "inputs": inputs,
            "split_point": find_split_point(model, inputs.to_model(inputs.example(2))),
            "store": worker.store if stored else None,
            "policy": policy,
            "views": 2,
            "seed": 0,
            "device": torch.device("cpu"),
            "limit_bytes": 2**28,
            "counts": Counts(),
        }
        return BatchSource(**{**given, **changes}), model.eval()

    build.worker = worker  # type: ignore[attr-defined]
    return build


def batches(feed: BatchSource, epoch: int = 1, *, size: int = 16, seed: int = 0):
    return [
        (tuple(t.clone() for t in inputs), targets)
        for inputs, targets in feed.train(epoch, batch_size=size, seed=seed)
    ]


def test_an_epoch_shows_every_training_item_once(make):
    feed, model = make(1.0)
    train = feed.data.indices["train"]
    told = batches(feed)
    assert sum(len(targets) for _, targets in told) == len(train)
    assert feed.counts.trained == len(train)
    # Every row is some item's features, with that item's label.
    images = feed.inputs.to_model(torch.from_numpy(np.asarray(feed.data.array[train])))
    with torch.inference_mode():
        features = model.trunk(images)
    rows = torch.cat([inputs[0] for inputs, _ in told])
    nearest = torch.cdist(rows, features).argmin(dim=1)
    assert sorted(nearest.tolist()) == list(range(len(train)))
    labels = torch.from_numpy(feed.data.targets[train])
    assert torch.equal(torch.cat([targets for _, targets in told]), labels[nearest])


def test_balanced_batches_show_every_class_equally_often_in_as_many_items(make):
    feed, _ = make(balance="sampling")
    train = feed.data.indices["train"]
    rare = train[feed.data.targets[train] == 0][:2]
    kept = np.sort(np.concatenate([train[feed.data.targets[train] != 0], rare]))
    data = replace(feed.data, indices={**feed.data.indices, "train": kept})
    feed.data = replace(data, task=data.task.counted(data.targets[kept], data.target_spec))
    drawn = torch.cat([targets for epoch in range(1, 21) for _, targets in batches(feed, epoch)])
    shares = torch.bincount(drawn).float() / len(drawn)
    assert len(drawn) == 20 * len(kept)
    assert (shares * len(shares) - 1).abs().max() < 0.2
    one, same = (torch.cat([targets for _, targets in batches(feed, 1)]) for _ in range(2))
    assert torch.equal(one, same)
    skipped = torch.cat([targets for _, targets in feed.train(1, batch_size=16, seed=0, skip=1)])
    assert torch.equal(one[-len(skipped) :], skipped)


def test_the_order_is_the_seeds_and_the_epochs(make):
    feed, _ = make()

    def order(epoch: int, seed: int) -> list[int]:
        return torch.cat([targets for _, targets in batches(feed, epoch, seed=seed)]).tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != order(1, 1)


@pytest.mark.parametrize("policy", ["none", "light", "mixup"])
def test_stored_batches_are_computed_batches(make, policy):
    stored, _ = make(policy=policy)
    computed, _ = make(policy=policy, stored=False)
    for epoch in (1, 2):
        for (inputs, targets), (others, labels) in zip(
            batches(stored, epoch), batches(computed, epoch), strict=True
        ):
            assert torch.equal(targets, labels)
            torch.testing.assert_close(inputs[0], others[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("policy", ["none", "light", "mixup"])
@pytest.mark.parametrize("stored", [True, False])
def test_batches_loaded_beforehand_are_the_same(make, policy, stored):
    feeds = [make(policy=policy, stored=stored, ahead=count)[0] for count in (0, 2)]
    for epoch in (1, 2):
        for skip in (0, 2):
            one, two = (list(feed.train(epoch, batch_size=16, seed=0, skip=skip)) for feed in feeds)
            for (inputs, targets), (others, labels) in zip(one, two, strict=True):
                assert torch.equal(targets, labels)
                assert all(map(torch.equal, inputs, others))


def test_training_on_cpus_takes_no_further_thread(make):
    feed, model = make()
    pretrained = make.worker.backbone(BACKBONE)
    feed = make.worker.feed(feed.data, pretrained, feed.split_point, "none", Counts(), lambda: model)
    before = threading.active_count()
    for _ in feed.train(1, batch_size=16, seed=0):
        assert threading.active_count() == before


def whole(feed, split, forward):
    """Outputs and targets of a split."""
    outputs, targets = zip(*feed.outputs(split, forward), strict=True)
    return torch.cat(outputs), torch.cat(targets)


def test_an_evaluation_that_runs_out_of_memory_goes_on_with_fewer_at_a_time(make):
    feed, _ = make()
    expected, _ = whole(feed, "train", feed.split_point.eval_forward)
    sizes: list[int] = []

    def hungry(boundary):
        sizes.append(len(boundary[0]))
        if sizes[-1] > 20:
            raise torch.OutOfMemoryError
        return feed.split_point.eval_forward(boundary)

    evaluated = feed.counts.evaluated
    logits, labels = whole(feed, "train", hungry)
    torch.testing.assert_close(logits, expected)
    assert len(labels) == len(logits) == feed.counts.evaluated - evaluated
    sizes.clear()
    feed.evaluate("train", hungry)
    assert max(sizes) <= 20, "it remembers what fits"

    def starving(boundary):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        feed.evaluate("train", starving)


def test_stored_views_take_turns_and_fresh_ones_never_return(make):
    stored, _ = make(policy="light")
    assert [stored.view_of(epoch) for epoch in range(1, 6)] == [1, 2, 1, 2, 1]
    fresh, _ = make(policy="light", stored=False)
    assert [fresh.view_of(epoch) for epoch in range(1, 6)] == [1, 2, 3, 4, 5]
    nothing_frozen, _ = make(0.0, policy="light")
    assert [nothing_frozen.view_of(epoch) for epoch in range(1, 4)] == [1, 2, 3]
    plain, _ = make()
    assert [plain.view_of(epoch) for epoch in range(1, 4)] == [0, 0, 0]

    index = np.sort(stored.data.indices["train"])[:8]
    views = [stored.fetch(index, view)[0].clone() for view in (0, 1, 2)]
    assert not torch.allclose(views[0], views[1], atol=1e-3)
    assert not torch.allclose(views[1], views[2], atol=1e-3)


def test_an_items_view_does_not_depend_on_its_batch(make):
    feed, _ = make(policy="randaugment", stored=False)
    train = feed.data.indices["train"]
    together = feed.read(train[:10], 3)
    for position in (0, 4, 9):
        assert torch.equal(feed.read(train[position : position + 1], 3)[0], together[position])


def test_held_out_items_are_never_augmented(make):
    feed, model = make(policy="light")
    logits, labels = whole(feed, "val", feed.split_point.eval_forward)
    val = feed.data.indices["val"]
    images = feed.inputs.to_model(torch.from_numpy(np.asarray(feed.data.array[val])))
    with torch.inference_mode():
        torch.testing.assert_close(logits, model(images), atol=1e-5, rtol=1e-5)
    assert torch.equal(labels, torch.from_numpy(feed.data.targets[val]))
    assert feed.counts.evaluated == len(val)


def test_test_items_never_pass_the_prefix(make):
    feed, _ = make()
    used = np.concatenate([feed.data.indices[name] for name in ("train", "stop", "val")])
    seen: list[int] = []
    reading = feed.read

    def read(index, view):
        seen.extend(index.tolist())
        return reading(index, view)

    feed.read = read  # type: ignore[method-assign]
    batches(feed)
    feed.evaluate("val", feed.split_point.eval_forward)
    feed.evaluate("stop", feed.split_point.eval_forward)
    assert sorted(seen) == sorted(used.tolist())


def test_counts_tell_what_the_prefix_did(make):
    first, _ = make()
    batches(first)
    known = sum(len(first.data.indices[name]) for name in ("train", "stop", "val"))
    assert first.counts.prefix == known
    assert first.cache == "prefix"
    again, _ = make()
    batches(again)
    assert again.counts.prefix == 0
    uncached, _ = make(stored=False)
    batches(uncached)
    batches(uncached, 2)
    assert uncached.counts.prefix == 2 * len(uncached.data.indices["train"])
    assert uncached.cache.startswith("none")
    whole, _ = make(0.0)
    batches(whole)
    assert whole.counts.prefix == 0
    assert whole.cache.startswith("none: no layer")


def test_a_limit_that_is_too_low_is_told(make):
    feed, _ = make(limit_bytes=100)
    batches(feed)
    assert feed.cache.startswith("none: activations would take")


@pytest.mark.parametrize(
    ("count", "sizes"), [(33, [11, 11, 11]), (34, [12, 11, 11]), (1, [1]), (3, [3]), (16, [16])]
)
def test_items_are_shared_out_evenly_among_the_batches(make, count, sizes):
    feed, _ = make()
    feed.data = replace(feed.data, indices={**feed.data.indices, "train": feed.data.indices["train"][:count]})
    assert [len(targets) for _, targets in batches(feed)] == sizes


def test_mixup_blends_inputs_and_labels_alike(make):
    feed, _ = make(0.0, policy="mixup")
    feed.data = replace(feed.data, mirror=False)
    items = feed.data.indices["train"]
    images = feed.inputs.to_model(torch.from_numpy(np.asarray(feed.data.array[items]))).flatten(1)
    blended = 0
    for epoch in range(1, 6):
        for inputs, targets in batches(feed, epoch):
            assert targets.shape == (len(inputs[0]), 3)
            torch.testing.assert_close(targets.sum(dim=1), torch.ones(len(targets)))
            # The row is a weighted mean of two items; so must the target be, with the same weights.
            row, target = inputs[0][0].flatten(), targets[0]
            if target.max() > 0.98:
                continue
            blended += 1
            share, other = target.max(), target.max(dim=0).indices
            labels = torch.from_numpy(feed.data.targets[items])
            best = min(
                float((share * images[i] + (1 - share) * images[j] - row).abs().max())
                for i in torch.nonzero(labels == other).flatten()
                for j in torch.nonzero((labels != other) & (target[labels] > 0)).flatten()
            )
            assert best < 1e-4
        if blended >= 3:
            break
    assert blended


def test_mixup_blends_flipped_images_where_flips_are_harmless(make):
    feeds = [make(0.0, policy="mixup")[0] for _ in range(2)]
    for feed, mirror in zip(feeds, (True, False), strict=True):
        feed.data = replace(feed.data, mirror=mirror)
    flipped, plain = ([(inputs[0], targets) for inputs, targets in batches(feed)] for feed in feeds)
    for (one, labels), (other, same) in zip(flipped, plain, strict=True):
        assert torch.equal(labels, same)
        assert not torch.equal(one, other)
        # Blends are of the same items: a flip leaves the mean of an image as it is.
        torch.testing.assert_close(one.mean(dim=(2, 3)), other.mean(dim=(2, 3)), atol=1e-4, rtol=1e-4)


def test_a_model_that_returns_no_tensor_is_told(make):
    feed, _ = make()
    with pytest.raises(TypeError, match="tensor, not dict"):
        feed.evaluate("val", lambda inputs: {})


def test_the_first_of_several_outputs_are_the_logits(make):
    feed, _ = make()
    logits, _ = whole(feed, "val", feed.split_point.eval_forward)
    same, _ = whole(feed, "val", lambda inputs: (feed.split_point.eval_forward(inputs), None))
    assert torch.equal(logits, same)


def test_workers_of_one_node_share_what_they_stored(make, tmp_path):
    feed, _ = make()
    batches(feed)
    other = bench(tmp_path, make.worker.assignment.spec)  # type: ignore[attr-defined]
    assert isinstance(other, TrialRunner)
    data = other.data("data", other.backbone(BACKBONE).info.inputs)
    assert data.key == feed.data.key
    assert isinstance(data.array, np.memmap)
