"""Images in a NumPy file."""

from __future__ import annotations

import numpy as np
import pytest

from tlsearch.datasets.arrays import Arrays, ArraysOptions
from tlsearch.errors import DataError


def load(path):
    return Arrays().load(ArraysOptions(path=path))


@pytest.mark.parametrize("shape", [(6, 5, 7), (6, 5, 7, 1), (6, 5, 7, 3), (6, 5, 7, 4)])
def test_lists_images_labels_and_splits(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    labels = np.array(["b", "a", "b", "a", "b", "a"])
    splits = np.array(["train", "train", "val", "val", "test", "test"])
    np.savez(tmp_path / "x.npz", images=images, labels=labels, splits=splits)
    samples = load(tmp_path / "x.npz")
    assert samples.classes == ("a", "b")
    assert list(samples.labels) == [1, 0, 1, 0, 1, 0]
    assert list(samples.splits) == list(splits)
    np.testing.assert_array_equal(np.stack(samples.items), images)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 4, 4), np.uint8)}, "no labels; it has: images"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": [0, 1]}, "no images and no labels; it has: x, y"),
        ({"images": np.zeros((2, 0, 4), np.uint8), "labels": [0, 1]}, r"shape \(2, 0, 4\)"),
        ({"images": np.full((2, 4, 4), np.nan), "labels": [0, 1]}, "no image has a finite pixel"),
        ({"images": np.zeros((2, 4, 4), np.complex64), "labels": [0, 1]}, "complex64"),
        ({"images": np.zeros((2, 4), np.uint8), "labels": [0, 1]}, "shape"),
        ({"images": np.zeros((2, 4, 4, 2, 3), np.uint8), "labels": [0, 1]}, "shape"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": [0]}, "2 images and labels"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": [0, 0]}, "1 class"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": [0, 1], "splits": ["train", "dev"]}, "dev"),
        ({"images": np.array([{}, {}], dtype=object), "labels": [0, 1]}, "can't be read"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "x.npz")


def test_images_of_no_number_are_set_aside_by_name(tmp_path):
    images = np.random.default_rng(0).random((6, 4, 4))
    images[1], images[4] = np.nan, np.inf
    images[2, 0, 0] = np.nan
    np.savez(tmp_path / "x.npz", images=images, labels=[0, 1, 0, 1, 2, 1], splits=["train"] * 5 + ["val"])
    samples = load(tmp_path / "x.npz")
    assert samples.broken == ("image 1: has no finite pixel", "image 4: has no finite pixel")
    assert samples.names == ["image 0", "image 2", "image 3", "image 5"]
    assert samples.classes == ("0", "1")
    assert (samples.labels, samples.splits) == ([0, 0, 1, 1], ["train", "train", "train", "val"])


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"PK\x03\x04nonsense"])
def test_what_is_no_such_file_is_said(tmp_path, content):
    if content is not None:
        (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz"):
        load(tmp_path / "x.npz")
