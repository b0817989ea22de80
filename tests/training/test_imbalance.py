"""Unequal classes: weights, balanced batches, and a log-prior taken from the logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import recall_score
from tiny_bench import bench, outcomes, point, results, study

from tlsearch.contracts import LinearRecipe, Recipe, TargetSpec
from tlsearch.search.progress import silent
from tlsearch.search.setup import prepare
from tlsearch.tasks import imbalance
from tlsearch.tasks.classification import Classification
from tlsearch.training.heads import train_linear

SPEC = TargetSpec(("common", "seldom", "rare"))
COUNTS = (900, 90, 10)
TASK = Classification(COUNTS)


def test_weights_make_classes_count_alike_and_keep_the_mean_of_an_item_at_one():
    inverse, effective = (imbalance.weights(COUNTS, way) for way in ("inverse", "effective"))
    assert inverse is not None
    assert effective is not None
    assert np.allclose(np.multiply(inverse, COUNTS), np.sum(COUNTS) / 3)
    for weights in (inverse, effective):
        assert np.dot(weights, COUNTS) == pytest.approx(np.sum(COUNTS))
    # Where classes have many items, more of them add little: the common one counts for more than the rare.
    assert effective[0] * COUNTS[0] > effective[2] * COUNTS[2]
    assert imbalance.weights(COUNTS, "none") is imbalance.weights(COUNTS, "sampling") is None
    assert imbalance.weights((), "inverse") is None
    assert imbalance.weights((5, 0, 15), "inverse") == pytest.approx([2.0, 1.0, 2 / 3])
    with pytest.raises(ValueError, match='balance "inverted" is none of'):
        imbalance.weights(COUNTS, "inverted")


def test_the_task_weighs_from_three_to_one():
    for labels, uneven in (([0] * 29 + [1] * 10, False), ([0] * 30 + [1] * 10, True), ([0] * 30, False)):
        task = Classification().counted(np.array(labels), SPEC)
        assert bool(task.balances("balanced_accuracy")) == uneven
        assert task.balances("accuracy") == (("none",) if uneven else ())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_of_many_heads_is_that_of_their_losses(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 3, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (12,), generator=generator)
    recipes = [
        LinearRecipe(1e-3, label_smoothing=smoothing, balance=way)
        for way in ("", "inverse", "effective", "none")
    ]
    leaf = logits.clone().requires_grad_()
    losses = [TASK.loss(each, labels, recipe) for each, recipe in zip(leaf.unbind(2), recipes, strict=True)]
    torch.stack(losses).sum().backward()
    torch.testing.assert_close(TASK.output_gradient(logits.clone(), labels, recipes), leaf.grad)
    plain = [LinearRecipe(1e-3, balance=recipe.balance) for recipe in recipes]
    expected = [TASK.loss(each, labels, recipe) for each, recipe in zip(logits.unbind(2), plain, strict=True)]
    torch.testing.assert_close(TASK.stop_losses(logits, labels, recipes), torch.stack(expected))


def test_blended_targets_have_the_weights_of_both_classes():
    outputs = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])
    common, _, rare = imbalance.weights(COUNTS, "inverse") or []
    each = -(rows * outputs.log_softmax(1)).sum(1)
    found = TASK.loss(outputs, rows, Recipe(balance="inverse"))
    torch.testing.assert_close(found, (each * torch.tensor([(common + rare) / 2, common])).mean())


def test_a_head_with_weights_finds_the_rare_class_beside_one_that_does_not():
    rng = np.random.default_rng(0)
    labels = torch.tensor([0] * 400 + [1] * 60 + [2] * 12)
    features = torch.tensor(rng.normal(size=(472, 8)), dtype=torch.float32)
    features[labels == 1, 0] += 1.5
    features[labels == 2, 1] += 1.5
    task = Classification().counted(labels.numpy(), SPEC)
    recipes = [LinearRecipe(3e-3, weight_decay=1.0, balance=way) for way in ("none", "inverse")]
    together = train_linear(
        features[None], labels, features[:0], labels[:0], task=task, spec=SPEC, recipes=recipes
    )
    (alone,) = train_linear(
        features[None], labels, features[:0], labels[:0], task=task, spec=SPEC, recipes=recipes[1:]
    )
    torch.testing.assert_close(together[1].weight, alone.weight, atol=1e-4, rtol=1e-3)
    recalls = []
    for head in together:
        with torch.inference_mode():
            recalls.append(recall_score(labels, head(features).argmax(1), average="macro"))
    assert recalls[1] > recalls[0] + 0.2


def unequal(count: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are the log of exact probabilities, the prior included."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor([0.9, 0.08, 0.02]), count, replacement=True, generator=generator)
    seen = torch.randn(count, 3, generator=generator) + 2 * torch.eye(3)[labels]
    return 2 * seen + torch.tensor([0.9, 0.08, 0.02]).log(), labels


def test_taking_the_prior_from_logits_raises_the_recall_of_other_items():
    known = Classification().rebalance(*unequal(600, seed=0), {}, "balanced_accuracy")
    assert 0.5 <= known["adjustment_share"] <= 1.5
    assert known["recall_after_adjustment"] > known["recall_before_adjustment"]
    outputs, labels = unequal(2000, seed=1)
    before, _ = TASK.evaluate(outputs, labels, SPEC, {})
    after, recalls = TASK.evaluate(outputs, labels, SPEC, known)
    assert after["balanced_accuracy"] > before["balanced_accuracy"] + 0.1
    assert after["balanced_accuracy"] == pytest.approx(np.mean(list(recalls.values())))
    assert after["log_loss"] == before["log_loss"]  # which is for items as frequent as they are
    decided, shares = TASK.decode(outputs, SPEC, known)
    torch.testing.assert_close(decided.softmax(1), shares)


def test_nothing_is_taken_where_it_does_not_help_or_nobody_asked():
    outputs, labels = unequal(600, seed=0)
    task = Classification()
    assert task.rebalance(outputs, labels, {}, "accuracy") == {}
    assert task.rebalance(outputs[:20], labels[:20], {}, "balanced_accuracy") == {}
    equal = torch.arange(600) % 3
    assert task.rebalance(outputs, equal, {}, "balanced_accuracy") == {}
    made_up_for = outputs - torch.tensor([0.9, 0.08, 0.02]).log()
    found = task.rebalance(made_up_for, labels, {}, "balanced_accuracy")
    assert found.get("adjustment_share", 0.0) <= 0.25


@pytest.fixture
def thousand_to_one(tmp_path):
    """6,000 pictures of one class, and 6 of another that is easily told, of which 4 are to learn from."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 120, (6006, 12, 12, 3), dtype=np.uint8)
    images[6000:, :, :, 0] += 120
    labels = np.array(["common"] * 6000 + ["rare"] * 6)
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    return tmp_path / "images.npz"


def test_a_set_of_a_thousand_to_one_is_searched_and_learned(thousand_to_one, tmp_path):
    data = {"source": "arrays", "path": str(thousand_to_one), "split": {"val": 0.2, "test": 0.2}}
    spec = study(data=data, objective={"metric": "balanced_accuracy"}, budget={"epochs": 2})
    prepared = prepare(spec, cache=tmp_path / "cache", threads=1, observe=silent)
    heads = prepared.space.branch("tiny/net", "linear_probe").hyperparameters["balance"]
    tuned = prepared.space.branch("tiny/net", "fine_tune")
    assert heads.choices == ("effective", "inverse", "none")
    assert tuned.hyperparameters["balance"].choices == ("effective", "inverse", "sampling", "none")
    assert all(start["balance"] == "effective" for start in tuned.starts)
    worker = bench(tmp_path, prepared.spec, data=prepared.data)
    tried = [
        point("linear_probe", number=number, balance=way, learning_rate=1e-2, dropout=0.0)
        for number, way in enumerate(("none", "inverse"))
    ]
    plain, weighted = outcomes(results(worker, *tried)).values()
    assert plain.value == 0.5, plain.reason  # all are common, as far as it knows
    assert weighted.value is not None
    assert weighted.value > 0.9, weighted.reason
    ways = ("none", "effective", "inverse", "sampling")
    for number, way in enumerate(ways):
        told = results(worker, point("fine_tune", number=number, balance=way, freeze_depth=0.67))
        (tuned_outcome,) = outcomes(told).values()
        assert tuned_outcome.value is not None, tuned_outcome.reason
    (wrong,) = outcomes(results(worker, point("fine_tune", number=9, balance="inverted"))).values()
    assert "is none of" in wrong.reason


def test_equal_classes_have_nothing_to_make_up_for(tmp_path):
    spec = study(objective={"metric": "balanced_accuracy"})
    space = prepare(spec, cache=tmp_path / "cache", threads=1, observe=silent).space
    assert not [branch for branch in space.branches if "balance" in branch.hyperparameters]
