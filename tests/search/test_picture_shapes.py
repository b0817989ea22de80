"""How pictures are best made squares, from their shapes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tlsearch.search.picture_shapes import Shapes, look


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


def test_shapes_are_upright_and_what_is_no_picture_is_passed_over(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.zeros((40, 90, 3), np.uint8)).save(tmp_path / "a.jpg", exif=turned)
    (tmp_path / "b.jpg").write_bytes(b"none")
    assert look([tmp_path / "a.jpg", tmp_path / "b.jpg", "a text"]).sizes == ((40, 90),)
    assert look(["a text"]).resize() is None
    assert look(["a text"]).pixels is None
