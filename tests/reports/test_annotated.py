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


@pytest.mark.parametrize(
    ("label", "lines"),
    [
        ("oak 0.98", ["oak 0.98"]),
        ("grey leaf spot of maize 0.98", ["grey leaf spot of", "maize 0.98"]),
        ("a" * 70 + " 0.98 unsure", ["a" * 8 + "…" + "a" * 9, "0.98 unsure"]),
    ],
)
def test_a_label_that_is_too_long_keeps_its_probability(label, lines):
    found = annotated.lines_of(label, lambda line: len(line) <= 18)
    assert len(found) <= annotated.LINES
    assert all(len(line) <= 18 for line in found)
    assert found == lines or ("…" in "".join(found) and found[-1] == lines[-1])


def test_labels_of_several_lines_leave_all_tiles_of_one_size(tmp_path):
    pictures = []
    for number, label in enumerate(
        ["oak 0.9", "a name of so many words that it takes two lines 0.9", "elm 0.9"]
    ):
        pictures.append((tmp_path / f"{number}.png", label))
        Image.new("RGB", (40, 40), (200, 0, 0)).save(pictures[-1][0])
    *single, sheet = annotated.save(tmp_path / "out", pictures)
    heights = [Image.open(path).height for path in single]
    assert heights[0] == heights[2] < heights[1]
    with Image.open(sheet) as drawn:
        below = np.asarray(drawn.convert("L"))[-annotated.THUMBNAIL // 6 :]
        assert (below > 150).mean() > 0.5  # white below short labels, and no picture


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
