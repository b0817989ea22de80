"""Sets of labels as targets: the arithmetic of the task."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch.nn import functional

from tlsearch import registry
from tlsearch.contracts import LinearRecipe, Recipe, Samples, TargetSpec
from tlsearch.errors import DataError
from tlsearch.tasks.label_scores import best_thresholds
from tlsearch.training.splits import split

TASK = registry.task("multilabel")
SETS = [["red", "white"], ["red"], [], ["red"], ["white", "small"]] * 12


def described(targets=SETS, columns=()):
    spec = TASK.describe(targets, columns)
    return spec, torch.from_numpy(TASK.encode(targets, spec))


def noisy(targets, by=2.0, seed=0):
    noise = torch.randn(targets.shape, generator=torch.Generator().manual_seed(seed))
    return 4 * (targets - 0.5) + by * noise


def test_lists_of_names_become_zeros_and_ones_and_go_back():
    spec, targets = described()
    assert spec.names == ("red", "small", "white")
    assert targets[0].tolist() == [1, 0, 1]
    assert targets[2].tolist() == [0, 0, 0]
    assert [TASK.plain(row, spec) for row in targets.numpy()] == [sorted(one) for one in SETS]
    assert spec.facts["share"] == pytest.approx([0.6, 0.2, 0.4])


@pytest.mark.parametrize("row", [("1", "0"), ("true", "No"), (True, False), (1, 0), (1.0, 0.0)])
def test_rows_of_zeros_and_ones_are_the_columns(row):
    spec, targets = described([row, row[::-1], row], ("defect", "mono"))
    assert spec.names == ("defect", "mono")
    assert targets.tolist() == [[1, 0], [0, 1], [1, 0]]


def test_one_column_of_zeros_and_ones_is_one_label():
    spec, targets = described(["1", "0", "0"] * 5, ("defect",))
    assert spec.names == ("defect",)
    assert targets[:3].tolist() == [[1], [0], [0]]
    scores = TASK.score(noisy(targets), targets, spec)
    assert set(scores) == {metric.name for metric in TASK.metrics}


def test_metrics_are_those_of_scikit_learn():
    spec, targets = described()
    outputs = noisy(targets)
    calibration = TASK.calibrate(outputs, targets)
    scores = TASK.score(outputs, targets, spec)
    shares, true = outputs.sigmoid().numpy(), targets.numpy().astype(int)
    said = shares >= np.asarray(calibration["thresholds"])
    assert scores["map"] == pytest.approx(average_precision_score(true, shares, average="macro"))
    assert scores["macro_f1"] == pytest.approx(f1_score(true, said, average="macro"))
    assert scores["micro_f1"] == pytest.approx(f1_score(true, said, average="micro"))
    assert scores["subset_accuracy"] == pytest.approx((said == true).all(axis=1).mean())
    assert scores["log_loss"] == pytest.approx(
        float(functional.binary_cross_entropy_with_logits(outputs, targets)), rel=1e-5
    )


def test_labels_that_no_item_has_are_not_measured():
    spec, targets = described()
    some = targets[:, 1] == 0
    outputs, targets = noisy(targets)[some], targets[some]
    scores, each = TASK.evaluate(outputs, targets, spec, {})
    assert set(each) == {"red", "white"}
    assert scores["map"] == pytest.approx(sum(each.values()) / 2)


def test_other_items_are_scored_at_the_thresholds_that_were_chosen():
    spec, targets = described()
    outputs = noisy(targets) - 3
    calibration = TASK.calibrate(outputs[:30], targets[:30])
    assert max(calibration["thresholds"]) < 0.5
    chosen, _ = TASK.evaluate(outputs[30:], targets[30:], spec, calibration)
    usual, _ = TASK.evaluate(outputs[30:], targets[30:], spec, {})
    best = TASK.score(outputs[30:], targets[30:], spec)
    assert usual["macro_f1"] < chosen["macro_f1"] <= best["macro_f1"]
    assert chosen["map"] == best["map"]


def test_thresholds_are_those_of_best_f1():
    chance = np.random.default_rng(0)
    true = (chance.random((200, 1)) < 0.2).astype(float)
    shares = np.round(np.clip(0.3 * true + chance.random((200, 1)) * 0.6, 0, 1), 2)  # with ties
    (found,) = best_thresholds(shares, true)
    tried = [f1_score(true[:, 0], shares[:, 0] >= cut) for cut in np.unique(shares)]
    assert f1_score(true[:, 0], shares[:, 0] >= found) >= max(tried) - 1 / 200
    assert best_thresholds(shares, np.eye(200)[:, :1]) == [0.5], "of one item nothing can be chosen"


def test_a_label_of_nearly_all_items_is_not_given_to_all_for_one_item_more():
    true = np.array([1.0] * 57 + [0.0] * 3)[:, None]
    shares = np.array([0.9] * 56 + [0.004] + [0.3, 0.2, 0.01])[:, None]
    (found,) = best_thresholds(shares, true)
    assert found == pytest.approx(0.6)
    assert ((shares >= found) == true).mean() == 59 / 60


def test_degenerate_outputs_have_scores_that_can_be_compared():
    spec, targets = described()
    lost = TASK.score(torch.full_like(targets, math.nan), targets, spec)
    assert all(math.isnan(value) for value in lost.values())
    flat = TASK.score(torch.zeros_like(targets), targets, spec)
    assert flat["map"] == pytest.approx(float(targets.mean()))
    assert TASK.rank(flat, "map") > TASK.rank({**flat, "map": 0.1}, "map")


@pytest.mark.parametrize("losses", [["bce", "bce", ""], ["weighted_bce", "bce", "weighted_bce"]])
def test_the_closed_gradient_is_that_of_the_loss(losses):
    spec, targets = described()
    task = TASK.fitted(spec)
    outputs = torch.stack([noisy(targets, seed=seed) for seed in range(3)], dim=2)
    recipes = [LinearRecipe(1e-3, loss=loss) for loss in losses]
    leaf = outputs.clone().requires_grad_()
    sum(task.loss(leaf[..., at], targets, recipe) for at, recipe in enumerate(recipes)).backward()
    assert torch.allclose(task.output_gradient(outputs.clone(), targets, recipes), leaf.grad, atol=1e-7)
    plain = torch.stack([task.loss(outputs[..., at], targets, Recipe()) for at in range(3)])
    assert torch.allclose(task.losses(outputs, targets), plain)


def test_weights_make_rare_labels_count_as_much_as_frequent_ones():
    spec, targets = described()
    task = TASK.fitted(spec)
    outputs = torch.zeros_like(targets).requires_grad_()
    task.loss(outputs, targets, Recipe(loss="weighted_bce")).backward()
    assert outputs.grad.sum(dim=0).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    rare = TASK.describe([["a", "b"], ["b"]] + [["b"]] * 200 + [[]], ())
    assert TASK.fitted(rare)._weights == (20.0, 0.05), "bounded"
    unknown = TASK.fitted(TargetSpec(("red", "small", "white")))
    assert float(unknown.loss(outputs.detach(), targets, Recipe(loss="weighted_bce"))) == pytest.approx(
        math.log(2)
    )


def test_splits_are_cut_by_labels_and_items_without_any_are_a_kind_of_their_own():
    spec, targets = described()
    strata = TASK.strata(targets.numpy(), spec)
    assert strata.names == ("red", "small", "white", "(no label)")
    assert strata.of[:3] == [(0, 2), (0,), (3,)]
    assert strata.needed == {0, 1, 2}
    full = TASK.strata(targets.numpy()[:2], spec)
    assert full.names == ("red", "small", "white")


def test_every_split_gets_its_share_of_every_label():
    chance = np.random.default_rng(0)
    rows = (chance.random((400, 4)) < [0.5, 0.3, 0.1, 0.03]).astype(int)
    spec, targets = described([tuple(row) for row in rows.tolist()])
    samples = Samples(list(range(400)), targets.numpy(), spec, [str(number) for number in range(400)])
    hashes = [f"{number:x}" for number in chance.permutation(400)]
    strata = TASK.strata(targets.numpy(), spec)
    parts = split(samples, hashes, strata, val=0.2, test=0.2, stop=0.1, seed=0)
    for name in ("val", "test"):
        shares = targets.numpy()[parts[name]].sum(axis=0) / targets.numpy().sum(axis=0)
        assert shares == pytest.approx([0.2] * 4, abs=0.04), name
        assert (targets.numpy()[parts[name]].sum(axis=1) == 0).any()
    lone = np.zeros((400, 4), dtype=np.float32)
    lone[:200, 0], lone[::3, 1], lone[::5, 2], lone[7, 3] = 1, 1, 1, 1
    parts = split(samples, hashes, TASK.strata(lone, spec), val=0.2, test=0.2, stop=0.1, seed=0)
    assert 7 in parts["train"], "the only item with a label is to be learned from"


def test_the_mean_of_several_networks_is_that_of_their_probabilities():
    outputs = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0))
    found = TASK.average(outputs).sigmoid()
    assert torch.allclose(found, outputs.sigmoid().mean(dim=1), atol=1e-6)


def test_a_prediction_tells_the_labels_that_reach_their_threshold():
    spec, _ = described()
    calibration = {"thresholds": [0.9, 0.2, 0.5]}
    shares = np.array([0.8, 0.3, 0.6])
    told = TASK.predict(shares, spec, calibration)
    assert told["labels"] == ["white", "small"]
    assert list(told["probabilities"]) == ["red", "white", "small"]
    assert TASK.say(told, top=1) == "white 0.6000, small 0.3000"
    assert TASK.answers(shares[None], spec, calibration) == [["small", "white"]]
    none = TASK.predict(np.array([0.3, 0.1, 0.2]), spec, calibration)
    assert none["labels"] == []
    assert TASK.say(none, top=2) == "no label (red 0.3000, white 0.2000)"
    assert [cell for _, cell in TASK.cells(none, spec)][:3] == [0, 0, 0]


@pytest.mark.parametrize(
    ("targets", "columns", "told"),
    [
        ([("1", "1"), ("1", "0")], ("a", "b"), 'Every one of 2 items has the label "a"'),
        ([("0", "1"), ("0", "0")], ("a", "b"), 'None of 2 items has the label "a"'),
        ([[], []], (), "No item has a label"),
        (["RBC;WBC", "RBC"], ("kinds",), "several labels in one cell"),
        ([["a"], (1, 0)], (), "Some targets are names"),
    ],
)
def test_what_cannot_be_learned_is_refused(targets, columns, told):
    with pytest.raises(DataError, match=told):
        TASK.describe(targets, columns)


def test_cells_that_are_neither_are_named():
    rows = [("1", "0"), ("maybe", "1"), ("0", "1"), ("1", ""), ("0", "2"), *[("0", "1")] * 10]
    wrong = TASK.unusable(rows)
    assert set(wrong) == {1, 3, 4}
    assert '"maybe", neither 0 nor 1' in wrong[1]
    assert "missing" in wrong[3]
    with pytest.raises(DataError, match="2 of 3 rows of labels"):
        TASK.unusable([("a", "1"), ("0", "b"), ("0", "1")])
    assert set(TASK.unusable(["1", "0", "0", "maybe"])) == {3}


def test_minus_one_says_no_but_not_beside_zeros_where_it_is_unsure():
    signs = [("1", "-1"), ("-1", "1"), ("-1", "-1")]
    assert not TASK.unusable(signs)
    assert TASK.encode(signs, TASK.describe(signs, ("a", "b"))).tolist() == [[1, 0], [0, 1], [0, 0]]
    assert set(TASK.unusable([*signs[:1], *[("0", "1")] * 4])) == {0}


def test_unknown_labels_and_other_columns_are_refused():
    spec, _ = described()
    with pytest.raises(DataError, match="doesn't know the label 'rde'"):
        TASK.encode([["rde"]], spec)
    with pytest.raises(DataError, match='--set "label_separator=;"'):
        TASK.encode([[f"{spec.names[0]}; {spec.names[1]}"]], spec)
    with pytest.raises(DataError, match="An item has 2 labels, and 3 are learned"):
        TASK.encode([(1, 0)], spec)


def test_figures_tell_of_each_label_and_of_pairs():
    spec, targets = described()
    outputs = noisy(targets, by=0.5)
    decoded = TASK.decode(outputs, spec, {})[1].numpy()
    each, together = TASK.figures(decoded, targets.numpy(), spec, TASK.calibrate(outputs, targets))
    assert each.name == "labels"
    assert [trace["name"] for trace in each.traces][:2] == ["average precision", "precision"]
    assert together.traces[0]["text"][0] == ["100%", "0%", "33%"]
    shown = TASK.figures(np.zeros_like(decoded), np.zeros_like(decoded), spec, {})
    assert "No label occurs" in shown[0].finding


def test_outputs_of_overconfident_recipes_are_scaled_down_before_they_are_averaged():
    """Else they would dominate the mean, and a worse recipe would seem to mend it by being less sure."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(400, 3, generator=generator)
    targets = (torch.rand(400, 3, generator=generator) < true.sigmoid()).float()
    assert registry.task("multilabel").scale(5 * true, targets) == pytest.approx(0.2, rel=0.3)
    assert registry.task("multilabel").scale(5 * true[:5], targets[:5]) == 1.0, "of so few nothing is known"
