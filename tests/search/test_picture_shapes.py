"""How pictures are best made squares, from their shapes."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from PIL import Image

from tlsearch.images import decoding
from tlsearch.search.picture_shapes import Shapes, heads, image_size, pixels, shapes


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(64, 64)], "crop"),
        ([(640, 480), (480, 640)] * 20, "crop"),
        ([(100, 100)] * 95 + [(400, 100)] * 5, "crop"),
        ([(1920, 1080)] * 20, "squash"),
        ([(200, 100), (220, 100), (100, 100)] * 20, "squash"),
        ([(500, 100), (510, 100)] * 20, "squash"),
        ([(500, 100), (100, 100)] * 20, "pad"),
        ([(100, 400), (300, 100)] * 20, "pad"),
    ],
)
def test_the_centre_is_cut_out_only_where_that_takes_little(sizes, expected):
    found = Shapes(tuple(sizes)).resize()
    assert found is not None
    assert found[0] == expected
    assert ("centre alone would lose" in found[1]) == (expected != "crop")


def test_nothing_is_cut_off_where_all_that_a_picture_shows_counts():
    assert Shapes(((640, 480),) * 20).resize(whole=True) == (
        "squash",
        "sides are up to 1.3 to 1, so that the centre alone would lose 25%; they are squeezed",
    )
    assert Shapes(((500, 100), (100, 100)) * 20).resize(whole=True)[0] == "pad"
    assert Shapes(((64, 64),)).resize(whole=True)[0] == "crop"


def test_shapes_are_upright_and_what_is_no_picture_is_passed_over(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.zeros((40, 90, 3), np.uint8)).save(tmp_path / "a.jpg", exif=turned)
    (tmp_path / "b.jpg").write_bytes(b"none")
    assert shapes(heads([tmp_path / "a.jpg", tmp_path / "b.jpg", "a text"])).sizes == ((40, 90),)
    assert shapes(heads(["a text"])).resize() is None
    assert shapes(heads(["a text"])).pixels is None


def test_each_file_is_opened_once(tmp_path):
    files = [tmp_path / name for name in ("a.png", "b.npy", "c.tif", "d.png", "e.png")]
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(files[0])
    np.save(files[1], np.zeros((4, 6), np.float32))
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(files[2])
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(files[3])
    files[4].write_bytes(b"none")
    opened = []
    with mock.patch.object(
        decoding, "open_regular", side_effect=lambda path: opened.append(path) or path.open("rb")
    ):
        found = heads(files)
    assert opened == files
    assert shapes(found).sizes == ((6, 4),) * 4
    assert [one.deep for one in found.values()] == [False, True, True, True]
    assert pixels([file.name for file in files], found) == {"bits": (16, "the files have more than 8")}


def test_small_images_are_enlarged_a_little_and_large_ones_made_smaller_where_they_take_long(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert image_size(28, 100, seconds=30) == 128
    assert image_size(150, 100, seconds=30) == 160
    assert image_size(1000, 100, seconds=30) is None  # the backbone's own, 224
    assert image_size(None, 100, seconds=30) is None
    assert image_size(1000, 100, seconds=8) == image_size(1000, 700, seconds=8) == 128  # as many updates
    assert image_size(1000, 1500, seconds=8) == 64
    assert image_size(28, 100_000, seconds=30) == 64
