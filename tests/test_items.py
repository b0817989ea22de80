"""What people pass in Python: one or many, of any type, by position."""

from __future__ import annotations

import io
from collections import deque
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image

from tlsearch.contracts.images import decode
from tlsearch.errors import DataError
from tlsearch.items import items_of, labels_of, missing

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 9, 10, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "given",
    [
        "a.png",
        Path("a.png"),
        ["a.png"],
        pd.Series(["a.png"], index=[7]),
        np.array(["a.png"]),
        np.str_("a.png"),
        pd.DataFrame({"image": ["a.png"]}),
        (name for name in ["a.png"]),
        np.array([["a.png"]]),
        np.array([["a.png"]], dtype=object),
        pa.array(["a.png"]),
    ],
)
def test_a_path_however_it_is_written(given):
    assert items_of(given).values == [Path("a.png")]
    assert items_of("~/a.png").values == [Path.home() / "a.png"]


def test_a_series_is_taken_by_position():
    shuffled = pd.Series(["a", "b", "c"], index=[2, 0, 1])
    assert items_of(shuffled).names == ["a", "b", "c"]
    assert items_of(deque(["c", "a"])).names == ["c", "a"]
    assert items_of(pd.Index(["x", "y"])).names == ["x", "y"]


@pytest.mark.parametrize(
    ("given", "count"),
    [
        (PICTURES[0], 1),
        ([PICTURES[0, :, :, 0]], 1),
        (PICTURES[0, :, :, :1], 1),
        (PICTURES, 5),
        (PICTURES[..., 0], 5),
        (list(PICTURES), 5),
        (pd.Series(list(PICTURES), index=[4, 3, 2, 1, 0]), 5),
        (PICTURES / 255, 5),
        (PICTURES.transpose(0, 3, 1, 2), 5),
        (torch.from_numpy(PICTURES[0]).permute(2, 0, 1), 1),
        (torch.from_numpy(PICTURES).permute(0, 3, 1, 2) / 255, 5),
        ((torch.from_numpy(PICTURES).permute(0, 3, 1, 2) / 255).requires_grad_(), 5),
        (Image.fromarray(PICTURES[0]), 1),
        ((Image.fromarray(picture) for picture in PICTURES), 5),
        ([torch.from_numpy(PICTURES[0]).permute(2, 0, 1)], 1),
    ],
)
def test_pixels_one_or_many(given, count):
    found = items_of(given)
    assert len(found.values) == count
    for value, picture in zip(found.values, PICTURES, strict=False):
        grey = value.ndim == 2 or value.shape[2] == 1
        assert (np.asarray(decode(value)) == (picture[..., :1] if grey else picture)).all()


def test_of_many_there_may_be_none():
    for given in (
        [],
        PICTURES[:0],
        PICTURES[:0, :, :, 0],
        torch.from_numpy(PICTURES[:0]),
        pd.Series([], dtype=str),
    ):
        assert items_of(given).values == []


def test_half_a_float_of_torch_is_read():
    tensor = torch.from_numpy(PICTURES).permute(0, 3, 1, 2) / 255
    for given in (tensor.bfloat16(), list(tensor.half())):
        for value, picture in zip(items_of(given).values, PICTURES, strict=True):
            assert np.abs(np.asarray(decode(value)).astype(int) - picture).max() <= 1


def test_pixels_stay_as_deep_as_they_are():
    deep = (np.arange(60, dtype=np.uint16) * 68).reshape(6, 10)
    for given in (deep, deep.astype(np.int16), deep / 1000 - 1):
        (value,) = items_of([given]).values
        assert value is given
    (value,) = items_of(deep[None] > 900).values
    assert np.unique(value).tolist() == [0, 255]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a.png", "b.png"}, "its order says nothing"),
        ({"a.png": 1}, "its order says nothing"),
        (3, "an int"),
        (None, "a NoneType"),
        (["a.png", None], "Item 1 is a NoneType"),
        (pd.Series(["a.png", float("nan")]), "Item 1 is a float"),
        ([["a.png"]], "Item 0 is a list"),
        (PICTURES[0, :, :, 0], r"shape \(9, 10\) is rows of numbers or one grey image"),
        (torch.zeros(4, 9), r"shape \(4, 9\) is rows of numbers or one grey image"),
        (np.zeros((5, 9, 9, 9)), r"Pixels have shape \(5, 9, 9, 9\)"),
        (PICTURES[0, :, :, :2], r"Pixels have shape \(9, 10, 2\)"),
        (np.zeros((64, 64, 7)), r"Pixels have shape \(64, 64, 7\)"),
        (np.ma.masked_greater(PICTURES, 200), "masked array"),
        (torch.eye(9)[None].to_sparse(), "can't be read"),
        (np.array([["a.png", "b.png"]]), r"shape \(1, 2\)"),
        (PICTURES * 1j, "Item 0 is an ndarray"),
        (np.zeros((4, 9, 9, 7, 3)), "shape"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), "one column"),
        *((np.zeros(shape), "holds none") for shape in ((1, 0, 0, 3), (2, 9, 0, 3), (2, 9, 9, 0), (0, 9, 3))),
        *((np.zeros(shape), "holds none") for shape in ((9, 0, 3), (2, 0, 9), (0, 0, 0, 0), (0, 9, 0, 3))),
        (torch.zeros(1, 3, 0, 9), "holds none"),
        ([PICTURES[0], np.zeros((0, 9, 3))], "Item 1 has shape"),
        ([np.zeros((9, 0))], "Item 0 has shape"),
    ],
)
def test_what_is_no_item_is_named(given, message):
    with pytest.raises(DataError, match=message):
        items_of(given)


def test_one_missing_file_of_a_hundred(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(100)]
    for path in paths:
        path.touch()
    paths[42].unlink()
    assert missing(items_of(paths)) == [f"item 42 ({paths[42]}) is not there"]
    assert "is a folder" in missing(items_of(tmp_path))[0]


def test_texts_stay_texts():
    assert items_of("a text", modality="text").values == ["a text"]
    assert items_of(pd.Series(["b", "a"], index=[1, 0]), modality="text").values == ["b", "a"]


def test_an_open_file_is_one_item_and_not_its_lines(tmp_path):
    Image.fromarray(PICTURES[0]).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    with (tmp_path / "a.png").open("rb") as file:
        assert items_of(file).values == [content]
    assert items_of([io.BytesIO(content), content]).values == [content, content]
    with (tmp_path / "a.png").open(encoding="latin1") as text, pytest.raises(DataError, match="Item 0 is a"):
        items_of(text)


def test_a_pil_image_is_turned_as_its_file_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PICTURES[0]).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as picture:
        (value,) = items_of(picture).values
    assert value.shape == (10, 9, 3)
    assert (value == np.asarray(decode(tmp_path / "a.png"))).all()


def test_labels_are_taken_by_position_and_in_one_column():
    shuffled = pd.Series(["a", "b", "c"]).sample(frac=1, random_state=1)
    for given in (shuffled, list(shuffled), (label for label in shuffled), pd.DataFrame({"y": shuffled})):
        assert labels_of(given).tolist() == shuffled.tolist()
    assert labels_of([[1], [0]]).tolist() == [1, 0]


def test_other_channels_are_the_shorter_of_first_and_last_axis():
    pixels = np.arange(3 * 20 * 30 * 5).reshape(3, 20, 30, 5)
    for given in (pixels, np.moveaxis(pixels, -1, 1), list(pixels), list(np.moveaxis(pixels, -1, 1))):
        assert all(np.array_equal(one, own) for one, own in zip(items_of(given).values, pixels, strict=True))
