"""The estimator: scikit-learn's own checks as far as they apply, and a real search."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from tests import channels
from tests.one_process import one_process, verify_here
from tlsearch import TransferSearchClassifier, TransferSearchRegressor
from tlsearch.errors import DataError, InputError


@parametrize_with_checks([TransferSearchClassifier()])
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    found = load_digits(n_class=3)
    images = np.kron(np.rint(found.images * 15).astype(np.uint8), np.ones((4, 4), np.uint8))
    names = np.array(["zero", "one", "two"])[found.target]
    return images[:240], names[:240], images[240:300], names[240:300]


@pytest.fixture(scope="module")
def fitted(digits, tmp_path_factory):
    """Without Ray, which the guide to the estimator has."""
    images, names, _, _ = digits
    search = TransferSearchClassifier(
        budget=5,
        trials=3,
        epochs=2,
        strategies=["linear_probe"],
        image_size=32,
        directory=tmp_path_factory.mktemp("fit"),
    )
    with one_process(verify=verify_here):
        return search.fit(images, names)


@pytest.mark.slow
def test_fits_predicts_and_tells_what_won(fitted, digits):
    _, _, images, names = digits
    assert fitted.classes_.tolist() == ["one", "two", "zero"]
    assert fitted.score(images, names) > 0.8
    shares = fitted.predict_proba(images)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert (fitted.classes_[shares.argmax(axis=1)] == fitted.predict(images)).all()
    assert fitted.best_strategy_ == "linear_probe"
    assert "learning_rate" in fitted.best_params_
    assert 0.8 < fitted.best_score_ <= 1


@pytest.mark.slow
def test_paths_frames_and_pixels_are_the_same_images(fitted, digits, tmp_path):
    from PIL import Image

    _, _, images, _ = digits
    paths = []
    for number, image in enumerate(images[:8]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(paths[-1])
    expected = fitted.predict_proba(images[:8])
    for same in (paths, [str(path) for path in paths], pd.DataFrame({"image": map(str, paths)})):
        np.testing.assert_allclose(fitted.predict_proba(same), expected, atol=1e-6)
    np.testing.assert_allclose(fitted.predict_proba(images[:8] / 255), expected, atol=1e-6)


def test_paths_are_searched_as_a_table(tmp_path):
    from PIL import Image

    from tlsearch.datasets.table import Table, TableOptions

    paths = []
    for number in range(4):
        paths.append(tmp_path / f"a b,{number}.png")
        Image.new("RGB", (8, 8), (number, 0, 0)).save(paths[-1])
    section = TransferSearchClassifier()._data(tmp_path / "s", paths, np.array(list("abab")))
    options = {key: value for key, value in section.items() if key in ("path", "root")}
    samples = Table().load(TableOptions(**options))
    assert list(samples.items) == paths
    assert list(samples.labels) == [0, 1, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("depth", ["12 bits", "degrees"])
def test_deep_pixels_are_scaled_by_one_range_that_the_model_keeps(digits, tmp_path, depth):
    """Of shapes that differ, so that they are written as files; as whole arrays for the prediction."""
    images, names, others, labels = digits
    values = images * 16.0 if depth == "12 bits" else images / 255 * 40 + 270
    given = [np.pad(one, ((0, at % 2), (0, 0)), "edge") for at, one in enumerate(values)]
    kind = np.uint16 if depth == "12 bits" else np.float64
    search = TransferSearchClassifier(
        trials=1, epochs=1, strategies="linear_probe", image_size=32, directory=tmp_path
    )
    with one_process(verify=verify_here):
        search.fit([one.astype(kind) for one in given], names)
    expected = {"uint16": (0, 4095)} if depth == "12 bits" else {"float": pytest.approx((270, 307.647))}
    assert search.model_.inputs.ranges == expected
    deep = (others * 16.0 if depth == "12 bits" else others / 255 * 40 + 270).astype(kind)
    assert search.score(deep, labels) > 0.8


def test_arrays_of_one_type_are_kept_as_they_are(tmp_path):
    deep = np.random.default_rng(0).normal(0, 900, (8, 6, 5, 3)).astype(np.int16)
    section = TransferSearchClassifier()._data(tmp_path / "s", list(deep), np.array(list("abababab")))
    assert section["source"] == "arrays"
    assert (np.load(section["path"])["images"] == deep).all()
    assert section["bits"] == 16
    TransferSearchClassifier()._data(tmp_path / "s", [*deep, deep[0, 1:]], np.array(list("ababababa")))
    assert (np.load(tmp_path / "s" / "000008.npy") == deep[0, 1:]).all()
    content = tmp_path / "a.png"
    content.write_bytes(b"some bytes")
    section = TransferSearchClassifier()._data(tmp_path / "b", [content.read_bytes(), content], np.arange(2))
    assert (tmp_path / "b" / "000000.png").read_bytes() == b"some bytes"


def test_small_arrays_are_enlarged_unless_a_backbone_or_a_size_is_named(tmp_path):
    images, labels = list(np.zeros((8, 28, 28), np.uint8)), np.array(list("abababab"))

    def size(**chosen):
        return TransferSearchClassifier(**chosen)._data(tmp_path / "s", images, labels).get("image_size")

    assert size() == 128
    assert size(image_size=32) == 32
    assert size(backbones="timm/vit_small_patch14_dinov2") is None


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["five last", "five first", "four", "of several shapes"])
def test_arrays_of_other_channels_are_searched_with_all_of_them(tmp_path, layout):
    names = np.array(channels.CLASSES * 24)
    count = 4 if layout == "four" else 5
    pixels = np.stack(
        [channels.bands(at, name, channels=count, informative=3) for at, name in enumerate(names)]
    )
    given = np.moveaxis(pixels, -1, 1) if layout == "five first" else pixels
    if layout == "of several shapes":
        given = [one[at % 2 :] for at, one in enumerate(pixels)]
    search = TransferSearchClassifier(
        trials=2,
        epochs=4,
        backbones="tiny/net",
        strategies="feature_copy",
        channels=4 if layout == "four" else None,
        directory=tmp_path,
    )
    with one_process(verify=verify_here):
        search.fit(given, names)
    assert (search.model_.inputs.channels, search.model_.inputs.bits) == (count, 16)
    assert search.score(given, names) > 0.8


def test_arrays_of_different_channels_are_refused():
    made = [np.zeros((20, 20, count), np.uint8) for count in (5, 6) * 4]
    with pytest.raises(ValueError, match="images of 5, 6 channels"):
        TransferSearchClassifier().fit(made, list("abababab"))


def test_unfitted_and_clones():
    with pytest.raises(NotFittedError):
        TransferSearchClassifier().predict(np.zeros((1, 8, 8), np.uint8))
    assert clone(TransferSearchClassifier(trials=7)).trials == 7


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((4, 9)), [0, 1, 0, 1], r"shape \(4, 9\) is rows of numbers or one grey image"),
        (["gone.png"] * 8, [0, 1] * 4, r"8 of 8 files: item 0 \(gone.png\) is not there"),
        ({"a", "b"}, [0, 1], "order says nothing"),
        (np.zeros((40, 8, 8)), ["a", " a"] * 20, 'several labels that are written "a"'),
        (np.zeros((40, 8, 8)), ["a", None] * 20, "20 labels of y are missing, such as that of item 1"),
        (np.zeros((40, 8, 8)), pd.array(["a", pd.NA] * 20, "string"), "20 labels of y are missing"),
        (np.zeros((40, 8, 8)), ["a", 1] * 20, "y has 20 texts and 20 other labels, such as 1"),
        (np.zeros((40, 8, 8)), ["a", np.nan] * 20, "y has 20 texts and 20 other labels, such as nan"),
        (np.zeros((40, 8, 8)), None, "requires y"),
        (np.zeros((40, 8, 8)), "ab" * 20, "y is a str"),
        (np.zeros((40, 8, 8)), {n: n % 2 for n in range(40)}, "y is a dict"),
        (np.zeros((40, 8, 8)), 3, "y is an int"),
        (np.zeros((40, 8, 8)), np.eye(2)[[0, 1] * 20], r"several values.*TransferSearchMultilabel"),
        (np.zeros((40, 8, 8)), [["a"], ["a", "b"]] * 20, r"several values.*y.argmax"),
        (["https://example.org/a.png"] * 8, [0, 1] * 4, r"Item 0 \(https://example.org/a.png\) is a URL"),
        (np.zeros((4, 8, 8)), [0, 1, 0], "4 items and y has 3"),
        (np.zeros((40, 8, 8)), [0] * 40, "1 class"),
        (np.zeros((4, 8, 8)), [0, 1, 0, 1], "too few"),
        (np.zeros((40, 8, 8), complex), [0, 1] * 20, "Right are paths"),
        (np.zeros((40, 8, 8)), np.linspace(0, 1, 40), "Unknown label type"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), [0], "one column"),
        ([], [], "X is empty"),
        ([1, 2], [0, 1], "Right are paths"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_searched(images, labels, message):
    with pytest.raises(ValueError, match=message):
        TransferSearchClassifier().fit(images, labels)


def test_odd_folders_types_and_labels_make_a_model_that_knows_its_classes(digits, tmp_path):
    """A Series, NumPy's numbers, a lone name, a folder that a URL would cut, numbers that sort otherwise."""
    from tests.one_process import one_process, verify_here
    from tlsearch import open as studies

    images, names, _, _ = digits
    labels = pd.Series(np.where(names == "one", 10, 9), index=range(240)[::-1])
    search = TransferSearchClassifier(
        trials=np.int64(1),
        epochs=1,
        strategies="linear_probe",
        backbones="efficientnet_lite/lite0",
        image_size=32,
        random_state=None,
        directory=tmp_path / "a?b %20#~",
    )
    pictures = pd.Series(list(images[:60]), index=range(60)[::-1])
    with one_process(verify=verify_here), pytest.warns(UserWarning, match="under different labels"):
        search.fit([*pictures, images[0]], [*labels[:60], 19 - labels.iloc[0]])
    assert search.classes_.tolist() == [9, 10]
    assert search.model_.classes == ("10", "9")
    with studies(search.database_) as known:
        assert known.best(search.study_).model is not None
    assert (search.predict(images[:60]) == labels[:60]).mean() > 0.6
    assert len(search.predict(images[0][None])) == 1
    with pytest.raises(ValueError, match="rows of numbers or one grey image"):
        search.predict(images[0])
    with pytest.raises(DataError, match="rows of numbers or one grey image"):
        search.model_.predict(images[0])


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for directory, why in ((tmp_path / "file", "File exists"), ("", "it is empty")):
        with pytest.raises(ValueError, match=f"directory=.* can't be used: {why}"):
            TransferSearchClassifier(directory=directory).fit(np.zeros((40, 8, 8)), [0, 1] * 20)


def test_a_wrong_setting_is_named(tmp_path):
    images = np.zeros((40, 8, 8))
    with pytest.raises(InputError, match=r"objective\.metric"):
        TransferSearchClassifier(metric="acc", directory=tmp_path).fit(images, [0, 1] * 20)


def test_a_preset_is_the_effort_and_what_is_given_stands_in_its_place():
    quick = TransferSearchClassifier(preset="quick")._effort()
    assert quick["budget"]["minutes"] == 2
    assert quick["strategies"] == ["linear_probe", "fine_tune"]
    mixed = TransferSearchClassifier(5, trials=7, strategies="fine_tune", preset="best")._effort()
    assert (mixed["budget"], mixed["strategies"]) == ({"trials": 7, "minutes": 5}, "fine_tune")
    assert mixed["search"]["members"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 2])
def test_a_regressor_predicts_numbers_in_the_shape_of_y(digits, tmp_path, columns):
    images, _, others, _ = digits
    y = _ink(images, columns)
    search = TransferSearchRegressor(
        5, trials=1, epochs=2, strategies=["feature_copy"], image_size=32, directory=tmp_path
    )
    with one_process(verify=verify_here):
        search.fit(images, y)
    told = search.predict(others)
    assert told.shape == (len(others), *y.shape[1:])
    truth = _ink(others, columns)
    assert np.abs(told.mean(axis=0) - truth.mean(axis=0)).max() < 10, "in the unit of y"
    assert np.corrcoef(told.reshape(60, -1)[:, 0], truth.reshape(60, -1)[:, 0])[0, 1] > 0.2
    ends = search.predict_interval(others[:2])
    assert ends.shape == (2, columns, 2)
    assert (ends[..., 0] < ends[..., 1]).all()
    assert 0.5 < search.interval_coverage_ <= 0.9


def _ink(images, columns):
    ink = images.reshape(len(images), -1).mean(axis=1)
    return ink if columns == 1 else np.stack([ink, 1000 - ink], axis=1)


def test_a_regressor_refuses_what_is_no_number(digits, tmp_path):
    images, names, _, _ = digits
    with pytest.raises(ValueError, match="could not convert string"):
        TransferSearchRegressor().fit(images, names)
    with pytest.raises(ValueError, match="NaN"):
        TransferSearchRegressor().fit(images, [float("nan")] * len(images))
    with pytest.raises(ValueError, match="5 items are too few"):
        TransferSearchRegressor().fit(images[:5], range(5))
    assert clone(TransferSearchRegressor(trials=7)).metric == "mae"
