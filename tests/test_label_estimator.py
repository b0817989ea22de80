"""The search of label sets as a scikit-learn estimator."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

from tests.one_process import one_process, verify_here
from tlsearch import TransferSearchMultilabel

BRIGHT = np.array([[(number >> bit) & 1 for bit in range(3)] for number in range(80)])


def pictures() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 100, (80, 16, 16, 3))
    return (150 * BRIGHT[:, None, None, :] + noise).astype(np.uint8)


def test_it_predicts_zeros_and_ones_in_the_columns_of_y(tmp_path):
    pandas = pytest.importorskip("pandas")
    search = TransferSearchMultilabel(
        5, trials=1, epochs=2, strategies=["feature_copy"], image_size=32, directory=tmp_path
    )
    y = pandas.DataFrame(BRIGHT, columns=["red", "green", "blue"])
    with one_process(verify=verify_here):
        search.fit(pictures(), y)
    said, shares = search.predict(pictures()), search.predict_proba(pictures())
    assert said.shape == shares.shape == (80, 3)
    assert (said == (shares >= search.thresholds_)).all()
    assert search.labels_ == ["red", "green", "blue"]
    assert search.score(pictures(), BRIGHT) > 0.5, "of whole sets, by chance 0.125"
    assert 0.5 < search.best_score_ <= 1


@pytest.mark.parametrize("y", [np.array(["red|blue"] * 80, object), [["red"], []] * 40, ["red"] * 80])
def test_names_of_labels_are_refused_with_what_makes_columns_of_them(y):
    with pytest.raises(ValueError, match=r"y names labels.*MultiLabelBinarizer"):
        TransferSearchMultilabel().fit(pictures(), y)


def test_what_is_no_set_of_labels_is_refused():
    with pytest.raises(ValueError, match="y holds 2; a column of labels holds 0 and 1"):
        TransferSearchMultilabel().fit(pictures(), 2 * BRIGHT)
    with pytest.raises(ValueError, match="80 items and y has 70"):
        TransferSearchMultilabel().fit(pictures(), BRIGHT[:70])
    with pytest.raises(ValueError, match="5 items are too few"):
        TransferSearchMultilabel().fit(pictures()[:5], BRIGHT[:5])
    assert clone(TransferSearchMultilabel(trials=7)).metric == "map"
