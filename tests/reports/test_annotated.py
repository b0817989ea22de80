"""Predictions on their pictures: every picture once, its label below it, all on one sheet."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tlsearch.errors import InputError
from tlsearch.reports import annotated


def test_pictures_are_labelled_and_gathered(tmp_path):
    paths = []
    for number in range(5):
        paths.append(tmp_path / "in" / f"{number}" / "same.png")
        paths[-1].parent.mkdir(parents=True)
        Image.new("RGB", (40 + number, 30), (200, 0, 0)).save(paths[-1])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    given = [*((path, f"class {path.parent.name} 0.9876") for path in paths), (broken, "none")]
    written = annotated.save(tmp_path / "out", given)
    assert len(written) == len(set(written)) == 6
    assert written[-1].name == annotated.SHEET
    with Image.open(written[0]) as image:
        assert max(image.size) >= annotated.LEAST_SIDE
        pixels = np.asarray(image).astype(int)
    assert pixels[5, 5, 0] > 150 > pixels[5, 5, 1]  # the picture
    assert pixels[-image.height // 20 :].min() < 80  # black letters on the band below it
    with Image.open(written[-1]) as sheet:
        assert sheet.width >= 2 * annotated.THUMBNAIL


def test_a_name_of_any_letters_and_length_is_kept_as_far_as_it_fits(tmp_path):
    picture = tmp_path / f"{chr(0x1F408) * 62}.png"
    Image.new("RGB", (40, 30)).save(picture)
    written, _ = annotated.save(tmp_path / "out", [(picture, "cat")])
    assert written.name == f"00000-{chr(0x1F408) * 50}.jpg"


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    annotated.check_folder(tmp_path / "mine")
    annotated.check_folder(tmp_path / "new")
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(InputError, match="isn't empty"):
        annotated.check_folder(tmp_path / "mine")
