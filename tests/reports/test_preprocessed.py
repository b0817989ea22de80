"""What of a picture is left after preprocessing, measured by what comes out of `encode`."""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image, ImageOps

from tlsearch.contracts.images import ImageInput
from tlsearch.reports.preprocessed import measure, overview

PLAIN = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@dataclass(frozen=True)
class Padded(ImageInput):
    """Pads instead of cutting; `measure` knows nothing of it."""

    colour: str = "black"

    def encode(self, item):
        padded = ImageOps.pad(self.picture(item), (self.size, self.size), color=self.colour)
        return np.asarray(padded).transpose(2, 0, 1)


@dataclass(frozen=True)
class Squashed(ImageInput):
    """Stretches the whole picture onto the square."""

    def encode(self, item):
        return np.asarray(self.picture(item).resize((self.size, self.size))).transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("width", "height", "crop", "lost"),
    [
        (640, 480, 1.0, 1 - 3 / 4),
        (480, 640, 1.0, 1 - 3 / 4),
        (4000, 3000, 0.875, 1 - 3 / 4 * 0.875**2),
        (300, 300, 1.0, 0.0),
        (90, 30, 1.0, 1 - 1 / 3),
        (1, 1, 1.0, 0.0),
    ],
)
def test_the_centre_is_cut_out(width, height, crop, lost):
    sight = measure(ImageInput(size=224, crop=crop, **PLAIN), width, height)
    assert sight.lost == pytest.approx(lost, abs=0.015)
    assert sight.left == pytest.approx(1 - sight.right, abs=0.01)
    assert sight.top == pytest.approx(1 - sight.bottom, abs=0.01)
    assert (sight.filled, sight.stretch) == (0.0, pytest.approx(1, abs=0.03))


def test_pixels_for_one_of_the_square():
    assert measure(ImageInput(size=100, **PLAIN), 400, 300).shrunk == pytest.approx(3, rel=0.03)
    assert measure(ImageInput(size=100, **PLAIN), 20, 30).shrunk == pytest.approx(0.2, rel=0.03)


@pytest.mark.parametrize("colour", ["black", "white", "grey", (124, 116, 104)])
def test_another_preprocessing_is_followed(colour):
    for line in ((1280, 4), (3, 3000)):  # less than a step of the ramp is left
        assert math.isfinite(measure(ImageInput(size=128, **PLAIN), *line).stretch)
    padded = measure(Padded(size=128, colour=colour, **PLAIN), 640, 320)
    assert padded.lost == pytest.approx(0, abs=0.01)
    assert padded.filled == pytest.approx(0.5, abs=0.02)
    assert padded.stretch == pytest.approx(1, abs=0.03)
    squashed = measure(Squashed(size=128, **PLAIN), 640, 320)
    assert (squashed.lost, squashed.filled) == (pytest.approx(0, abs=0.01), 0)
    assert squashed.stretch == pytest.approx(0.5, rel=0.03)


def test_an_overview_names_the_worst_and_leaves_broken_ones_out():
    inputs = ImageInput(size=32, **PLAIN)
    wide, square = np.zeros((30, 90, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    found = overview(inputs, [("square", square), ("wide", wide), ("broken", b"no picture")])
    assert found.count == 2
    assert [one.name for one in found.worst] == ["wide"]
    assert re.search("3[34]% of a picture is cut off, 6[67]% of the one that loses", found.sentences[0])
    assert overview(inputs, [("square", square)]).sentences[0].endswith("Nothing is cut off.")


def test_the_shown_picture_is_dark_where_it_is_cut():
    found = overview(ImageInput(size=32, **PLAIN), [("wide", np.full((100, 200, 3), 255, np.uint8))])
    picture = Image.open(io.BytesIO(base64.b64decode(found.worst[0].whole.partition(",")[2])))
    width, height = picture.size
    assert picture.getpixel((width // 2, height // 2)) > (240, 240, 240)
    assert picture.getpixel((2, height // 2)) < (120, 120, 120)
