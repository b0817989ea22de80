"""Wrong labels are among the first suspects; the learning curve rises; corrections are read back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tlsearch.contracts import Samples, TargetSpec
from tlsearch.errors import DataError
from tlsearch.tasks.classification import Classification
from tlsearch.training import corrections
from tlsearch.training.learning_curve import LearningCurve, learning_curve
from tlsearch.training.suspects import folds, out_of_fold, suspects

SPEC = TargetSpec(("ant", "bee", "cat"))
TASK = Classification()


def clouds(count: int, *, spread: float) -> tuple[torch.Tensor, np.ndarray]:
    """Features around a centre for each class; classes in turn."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    features = 3 * np.eye(3, 12)[labels] + spread * rng.normal(size=(count, 12))
    return torch.tensor(features, dtype=torch.float32), labels


def test_most_exchanged_labels_are_among_as_many_first_suspects():
    features, true = clouds(300, spread=1.0)
    rng = np.random.default_rng(1)
    exchanged = rng.choice(300, 15, replace=False)
    labels = true.copy()
    labels[exchanged] = (true[exchanged] + rng.integers(1, 3, 15)) % 3
    told = out_of_fold(features, labels, [str(at) for at in range(300)], task=TASK, spec=SPEC)
    assert np.allclose(told.sum(axis=1), 1)
    found = suspects(told, labels)
    first = found[:15]
    assert len({one.index for one in first} & set(exchanged.tolist())) >= 12
    right = [one for one in first if one.index in exchanged]
    assert all(one.suggested == true[one.index] for one in right)
    assert sum(one.confident for one in found) <= 25
    assert [one.margin for one in found] == sorted(one.margin for one in found)


def test_copies_are_never_parted_and_every_fold_has_its_share_of_a_class():
    labels = np.array([0, 1] * 60)
    units = [str(at // 4) for at in range(120)]
    of = folds(labels, units, seed=0)
    assert all(len(set(of[start : start + 4])) == 1 for start in range(0, 120, 4))
    assert set(of) == set(range(5))
    assert set(folds(np.array([0] * 50 + [1] * 2), [str(at) for at in range(52)], seed=0)) == set(range(5))


def test_the_curve_rises_and_more_items_give_something_where_it_has_not_settled():
    features, labels = clouds(240, spread=2.5)
    seen = []
    curve = learning_curve(
        features,
        labels,
        [str(at) for at in range(240)],
        task=TASK,
        spec=SPEC,
        metric="accuracy",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert curve is not None
    assert curve.sizes[-1] == 192
    assert curve.means[-1] > curve.means[0] + 0.05
    assert seen[-1] == (30, 30)
    assert (
        learning_curve(features[:40], labels[:40], ["a"] * 40, task=TASK, spec=SPEC, metric="accuracy")
        is None
    )


def power_law(floor: float, noise: float = 0.0) -> LearningCurve:
    sizes = np.array([20, 40, 70, 100, 140, 200])
    errors = floor + 0.2 * (sizes / 200) ** -0.5
    scores = 1 - errors[:, None] + noise * np.random.default_rng(0).normal(size=(6, 5))
    return LearningCurve("accuracy", tuple(sizes.tolist()), scores, 250)


def test_a_power_law_is_found_again_and_noise_widens_its_interval():
    expected = 0.2 * ((250 / 200) ** -0.5 - (500 / 200) ** -0.5)
    gain, low, high = power_law(0.05).gain(250)
    assert gain == pytest.approx(expected, abs=2e-3)
    assert high - low < 2e-3
    noisy = power_law(0.05, noise=0.02).gain(250)
    assert noisy[1] < expected < noisy[2]
    assert noisy[2] - noisy[1] > 5e-3
    assert power_law(0.05).to_json()["gains"][-1]["more"] == 250  # type: ignore[index]


def samples() -> Samples:
    return Samples(
        items=[b"1", b"2", b"3"], targets=[0, 1, 2], spec=["ant", "bee", "cat"], names=["x", "y", "z"]
    )


@pytest.mark.parametrize("separator", [",", ";"])
def test_corrected_labels_are_read_as_any_editor_saves_them(tmp_path, separator):
    text = corrections.as_csv(
        [("x", "ant", "bee", "0.9", "train", "cat"), ("y", "bee", "ant", "0.8", "val", "")]
    )
    (tmp_path / "labels.csv").write_text(text.replace(",", separator))
    (tmp_path / "formula.csv").write_text(corrections.as_csv([("=x", "+1", "-2", "0.9", "train", "'-2")]))
    assert "'=x,'+1,'-2" in (tmp_path / "formula.csv").read_text()
    odd = Samples(items=[b"1", b"2"], targets=[0, 1], spec=["+1", "-2"], names=["=x", "y"])
    assert list(corrections.corrected(odd, TASK, tmp_path / "formula.csv").targets) == [1, 1]
    found = corrections.corrected(samples(), TASK, tmp_path / "labels.csv")
    assert list(found.targets) == [2, 1, 2]
    assert found.spec.names == ("ant", "bee", "cat")
    assert found.notes[-1] == "1 label corrected by labels.csv"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (("w", "ant", "cat"), 'no item is called "w"'),
        (("x", "ant", "cta"), 'no class "cta". Did you mean "cat"'),
        (("x", "bee", "cat"), "was written for other data"),
    ],
)
def test_corrections_of_other_data_are_refused(tmp_path, row, expected):
    (tmp_path / "labels.csv").write_text("item,label,corrected\n" + ",".join(row) + "\n")
    with pytest.raises(DataError, match=expected) as caught:
        corrections.corrected(samples(), TASK, tmp_path / "labels.csv")
    assert "line 2" in str(caught.value)
    (tmp_path / "labels.csv").write_text("item,label\nx,ant\n")
    with pytest.raises(DataError, match="no column corrected"):
        corrections.corrected(samples(), TASK, tmp_path / "labels.csv")
