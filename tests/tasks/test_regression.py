"""Numbers as targets: the arithmetic of the task."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, r2_score
from torch.nn import functional

from tlsearch import registry
from tlsearch.contracts import LinearRecipe, Recipe
from tlsearch.errors import DataError

TASK = registry.task("regression")
AGES = np.random.default_rng(0).normal(50, 7, 200)


def described(values=AGES, columns=("age",)):
    spec = TASK.describe(values, columns)
    return spec, torch.from_numpy(TASK.encode(values, spec))


def noisy(targets, by=0.3, seed=0):
    return targets + by * torch.randn(targets.shape, generator=torch.Generator().manual_seed(seed))


def test_networks_see_standardized_targets_and_people_their_own():
    spec, targets = described([str(age) for age in AGES])
    assert targets.shape == (200, 1)
    assert float(targets.mean()) == pytest.approx(0, abs=1e-5)
    assert float(targets.std(unbiased=False)) == pytest.approx(1, abs=1e-5)
    assert [TASK.plain(one, spec) for one in targets.numpy()] == pytest.approx(AGES.tolist(), abs=1e-5)
    again = TASK.encode([TASK.plain(one, spec) for one in targets.numpy()], spec)
    assert np.allclose(again, targets.numpy(), atol=1e-5)


@pytest.mark.parametrize(("offset", "scale"), [(0, 1), (1e6, 1e-1), (-3, 1e-7), (1e9, 1e6)])
def test_what_is_told_of_a_target_is_the_number_in_the_file(offset, scale):
    values = [offset + scale * step for step in range(-4, 5)]
    spec = TASK.describe(values)
    told = [TASK.plain(one, spec) for one in TASK.encode(values, spec)]
    assert told == pytest.approx(values, rel=0, abs=1e-5 * scale)


def test_metrics_are_those_of_scikit_learn_in_the_users_unit():
    spec, targets = described()
    outputs = noisy(targets)
    said = TASK.decode(outputs, spec, {})[1].numpy()[:, 0]
    scores = TASK.score(outputs, targets, spec)
    assert scores["mae"] == pytest.approx(mean_absolute_error(AGES, said), rel=1e-4)
    assert scores["rmse"] == pytest.approx(math.sqrt(np.square(AGES - said).mean()), rel=1e-4)
    assert scores["r2"] == pytest.approx(r2_score(AGES, said), abs=1e-4)
    assert scores["spearman"] == pytest.approx(spearmanr(AGES, said).statistic, abs=1e-4)
    assert set(scores) == {metric.name for metric in TASK.metrics}


def test_kappa_compares_predictions_rounded_to_the_nearest_level():
    grades = np.tile([0, 1, 2, 4], 30)
    spec, targets = described(grades, ("grade",))
    outputs = noisy(targets, by=0.5)
    said = TASK.decode(outputs, spec, {})[1].numpy()[:, 0]
    levels = np.array([0, 1, 2, 4])
    near = np.abs(said[:, None] - levels).argmin(axis=1)
    expected = cohen_kappa_score(np.tile([0, 1, 2, 3], 30), near, weights="quadratic")
    assert TASK.score(outputs, targets, spec)["quadratic_kappa"] == pytest.approx(expected)
    assert TASK.score(targets, targets, spec)["quadratic_kappa"] == 1


def test_degenerate_outputs_have_scores_that_can_be_compared():
    spec, targets = described()
    flat = TASK.score(torch.zeros_like(targets), targets, spec)
    assert flat["spearman"] == 0
    assert flat["r2"] == pytest.approx(0, abs=1e-3)
    lost = TASK.score(torch.full_like(targets, math.nan), targets, spec)
    assert all(math.isnan(value) for value in lost.values()), "which no trial survives"
    assert TASK.rank(flat, "mae") > TASK.rank({**flat, "mae": 2 * flat["mae"]}, "mae")


@pytest.mark.parametrize("loss", ["huber", "mse"])
def test_the_closed_gradient_is_that_of_the_loss(loss):
    generator = torch.Generator().manual_seed(0)
    outputs = 2 * torch.randn(16, 2, 3, generator=generator)
    targets = torch.randn(16, 2, generator=generator)
    recipes = [LinearRecipe(1e-3, loss=loss) for _ in range(3)]
    leaf = outputs.clone().requires_grad_()
    sum(TASK.loss(leaf[..., at], targets, recipe) for at, recipe in enumerate(recipes)).backward()
    assert torch.allclose(TASK.output_gradient(outputs.clone(), targets, recipes), leaf.grad, atol=1e-7)
    own = torch.stack([functional.huber_loss(outputs[..., at], targets) for at in range(3)])
    assert torch.allclose(TASK.losses(outputs, targets), own)


def test_the_usual_loss_is_hubers():
    outputs, targets = torch.tensor([[3.0]]), torch.tensor([[0.0]])
    assert float(TASK.loss(outputs, targets, Recipe())) == 2.5
    assert float(TASK.loss(outputs, targets, Recipe(loss="mse"))) == 9


def test_splits_are_cut_by_ranges_of_about_as_many_items():
    spec, targets = described()
    strata = TASK.strata(targets.numpy(), spec)
    counts = np.bincount([kind for (kind,) in strata.of])
    assert len(strata.names) == 10
    assert counts.min() >= 18
    assert counts.max() <= 22
    assert not strata.required
    spec, targets = described([3, 1, 2, 1] * 10, ())
    assert TASK.strata(targets.numpy(), spec).names == ("1", "2", "3")


def test_several_columns_are_learned_side_by_side():
    rows = [(str(n % 5), str(100 * n)) for n in range(100)]
    spec, targets = described(rows, ("grade", "weight"))
    assert spec.names == ("grade", "weight")
    assert TASK.plain(targets[7].numpy(), spec) == [2.0, 700.0]
    strata = TASK.strata(targets.numpy(), spec)
    assert all(len(kinds) == 2 for kinds in strata.of)
    metrics, each = TASK.evaluate(targets + 0.1, targets, spec, {})
    assert each["weight"] == pytest.approx(0.1 * spec.facts["scale"][1], rel=1e-3)
    assert metrics["mae"] == pytest.approx(sum(each.values()) / 2, rel=1e-3)


def test_intervals_hold_the_share_of_new_items_that_they_state():
    spec, targets = described(np.random.default_rng(1).normal(0, 5, 4000))
    outputs = noisy(targets)
    calibration = TASK.calibrate(outputs[:2000], targets[:2000])
    told = TASK.check_calibration(outputs[2000:], targets[2000:], calibration)
    assert calibration["coverage"] == 0.9
    assert told["test_coverage"] == pytest.approx(0.9, abs=0.02)
    values = TASK.decode(outputs[:1], spec, calibration)[1].numpy()[0]
    one = TASK.predict(values, spec, calibration)
    low, high = one["intervals"]["age"]
    assert low < one["values"]["age"] < high
    assert high - low == pytest.approx(2 * 1.645 * 0.3 * spec.facts["scale"][0], rel=0.1)
    assert TASK.say(one, top=1).endswith("90%)")


def test_few_items_can_state_less_coverage():
    _, targets = described()
    calibration = TASK.calibrate(noisy(targets[:4]), targets[:4])
    assert calibration["coverage"] == pytest.approx(0.8)


def test_what_is_no_number_is_named():
    values = ["1", "nan", "big", "1,5", "-inf", "2", "3", "4", "5", "6", "", *"789", "-1e300", "1e29"]
    wrong = TASK.unusable(values)
    assert set(wrong) == {1, 2, 3, 4, 10, 14}
    assert "-1e300 is too large" in wrong[14]
    assert '"big" is no number' in wrong[2]
    assert "behind a point" in wrong[3]
    assert "infinite" in wrong[4]
    with pytest.raises(DataError, match="2 of 3 targets are no finite numbers"):
        TASK.unusable(["cat", "dog", "1"])


def test_missing_values_are_no_reason_to_take_numbers_for_names():
    values = [f"{number / 3:.2f}" for number in range(16)] + ["NaN", "n/a", "", "null"]
    assert TASK.claim(values)[0] > 0.5
    assert TASK.claim([*values, "big", "small"])[0] == 0
    assert TASK.claim(["1.5", "NaN", "NaN"])[0] == 0


def test_a_column_of_one_value_is_refused():
    with pytest.raises(DataError, match=r'"age" is 3 for all 5 items'):
        TASK.describe([3, 3, 3, 3, 3], ("age",))
    with pytest.raises(DataError, match="2 numbers for an item, and 1"):
        TASK.encode([(1, 2)], described()[0])
