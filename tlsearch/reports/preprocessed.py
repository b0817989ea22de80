"""What a network sees of pictures: which part of each is left after resizing and cropping.

It is measured, not computed from settings: a picture whose colours tell where each pixel comes from goes
through the input's own `encode`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlsearch.contracts.images import ImageInput
from tlsearch.counts import plural
from tlsearch.errors import DataError
from tlsearch.reports.pictures import data_url, fitted

PROBE = 512
"""Longer side of the picture that is measured with, in pixels."""
_LOW, _SPAN, _MARK = 16, 224, 77
"""Of its red and green ramps; the blue that tells it from what a square is filled up with."""
WORST = 6
"""Pictures shown of which most is cut off."""
LITTLE = 0.01
"""Shares below aren't worth a word."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is left of a picture of one shape.

    Attributes:
        left: where the part that is left begins, as a share of the picture's width.
        top: likewise, of its height.
        right: where it ends.
        bottom: likewise.
        filled: share of the network's square that is no picture.
        stretch: width by height of what was a square in the picture.
        shrunk: pixels of the picture, along the side that loses more, for one of the square.
    """

    left: float
    top: float
    right: float
    bottom: float
    filled: float
    stretch: float
    shrunk: float

    @property
    def lost(self) -> float:
        """Share of the picture's area that is cut off."""
        return 1 - (self.right - self.left) * (self.bottom - self.top)


@dataclass(frozen=True, slots=True)
class Seen:
    """One picture, whole with what is cut off darkened, and as the network takes it: both as data URLs."""

    name: str
    whole: str
    square: str
    lost: float


@dataclass(frozen=True, slots=True)
class Overview:
    """What a network sees of the pictures of a data set.

    Attributes:
        size: side of its square, in pixels.
        count: pictures looked at.
        lost: mean share of the area that is cut off.
        sentences: what is to be known of it.
        worst: the pictures of which most is cut off, from the most on.
    """

    size: int
    count: int
    lost: float
    sentences: tuple[str, ...]
    worst: tuple[Seen, ...]


def measure(inputs: ImageInput, width: int, height: int) -> Sight:
    """What is left of a picture of so many pixels."""
    scale = PROBE / max(width, height)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    probe = np.empty((high, wide, 3), np.uint8)
    probe[:, :, 0] = np.round(_LOW + _SPAN * (np.arange(wide) + 0.5) / wide)
    probe[:, :, 1] = np.round(_LOW + _SPAN * (np.arange(high) + 0.5) / high)[:, None]
    probe[:, :, 2] = _MARK
    # Where things are is the same for any pixels.
    red, green, blue = inputs.of_pixels(3, 8).encode(probe).astype(np.float64)
    inside = np.abs(blue - _MARK) <= 4
    columns, rows = int(inside.any(axis=0).sum()), int(inside.any(axis=1).sum())
    left, right = _ends(red[inside], columns)
    top, bottom = _ends(green[inside], rows)
    across, down = (right - left) * width / columns, (bottom - top) * height / rows
    return Sight(left, top, right, bottom, float(1 - inside.mean()), down / across, max(across, down))


def _ends(ramp: NDArray[np.float64], count: int) -> tuple[float, float]:
    """Where a ramp begins and ends, as shares: ``count`` pixels of equal width show it."""
    low, high = (float(ramp.min()) - _LOW) / _SPAN, (float(ramp.max()) - _LOW) / _SPAN
    # Of a very long picture less than a step may be seen.
    half = max((high - low) / max(1, count - 1), 1 / _SPAN) / 2
    low, high = max(0.0, low - half), min(1.0, high + half)
    near = 1.5 / _SPAN  # a ramp of 224 steps tells no more
    return 0.0 if low < near else low, 1.0 if high > 1 - near else high


def looker(inputs: ImageInput) -> Callable[[str, object, NDArray[Any]], Seen]:
    """What shows a picture: from its name, the item, and the item as encoded (3, S, S)."""
    sight = cache(lambda size: measure(inputs, *size))

    def show(name: str, item: object, encoded: NDArray[Any]) -> Seen:
        picture = inputs.picture(item)
        found = sight(picture.size)
        square = fitted(inputs.shown(encoded))
        return Seen(name, data_url(_darkened(picture, found)), data_url(square), found.lost)

    return show


def _darkened(picture: Image.Image, sight: Sight) -> Image.Image:
    small = fitted(picture)
    dark = Image.blend(small, Image.new("RGB", small.size, (20, 20, 24)), 0.72)
    box = (
        round(sight.left * small.width),
        round(sight.top * small.height),
        max(1, round(sight.right * small.width)),
        max(1, round(sight.bottom * small.height)),
    )
    dark.paste(small.crop(box), box[:2])
    return dark


def overview(inputs: ImageInput, items: Sequence[tuple[str, object]]) -> Overview:
    """Measure the shapes of some pictures; broken ones are left out.

    Args:
        inputs: the backbone's, as it suits the data.
        items: names and raw items.
    """
    sight = cache(lambda size: measure(inputs, *size))
    found: list[tuple[Sight, str, object]] = []
    for name, item in items:
        try:
            found.append((sight(inputs.picture(item).size), name, item))
        except DataError:
            continue
    sights = [one for one, _, _ in found]
    lost = statistics.fmean([one.lost for one in sights]) if sights else 0.0
    show = looker(inputs)
    most = sorted((one for one in found if one[0].lost > LITTLE), key=lambda one: -one[0].lost)[:WORST]
    return Overview(
        size=inputs.size,
        count=len(sights),
        lost=lost,
        sentences=(*_sentences(inputs.size, sights, lost), *_pixels(inputs)),
        worst=tuple(show(name, item, inputs.encode(item)) for _, name, item in most),
    )


def _pixels(inputs: ImageInput) -> list[str]:
    """What pictures are made of, and what is shown of them, where they aren't 8-bit RGB."""
    if not inputs.unusual:
        return []
    if inputs.channels == 3:
        return [f"It sees RGB of {inputs.bits} bits a channel; pictures here are shown with 8."]
    shown = "the first three as red, green and blue" if inputs.channels > 3 else "their mean as grey"
    if inputs.channels == 1:
        return [f"It sees one channel, grey, of {inputs.bits} bits."]
    return [f"It sees {inputs.channels} channels of {inputs.bits} bits; pictures here show {shown}."]


def _sentences(size: int, sights: Sequence[Sight], lost: float) -> list[str]:
    if not sights:
        return ["No picture could be read."]
    worst = max(one.lost for one in sights)
    if lost > LITTLE:
        most = f", {100 * worst:.0f}% of the one that loses most" if worst - lost > LITTLE else ""
        cut = f"On average {100 * lost:.0f}% of a picture is cut off{most}: what lies there is never seen."
    else:
        cut = "Nothing is cut off."
    told = [f"The network sees squares of {size} x {size} pixels. {cut}"]
    filled = statistics.fmean([one.filled for one in sights])
    if filled > LITTLE:
        told.append(f"On average {100 * filled:.0f}% of the square is filled up: pictures aren't square.")
    stretched = sum(not 0.95 < one.stretch < 1.05 for one in sights)
    if stretched:
        lose = "loses its" if stretched == 1 else "lose their"
        told.append(f"{plural(stretched, 'picture')} of {len(sights)} {lose} proportions.")
    shrunk = statistics.median([one.shrunk for one in sights])
    if shrunk >= 2:
        told.append(
            f"Each side is made about {shrunk:.1f} times smaller: details of less than {shrunk:.0f} pixels "
            "can't be seen."
        )
    elif shrunk < 0.67:
        told.append(f"The pictures are small: each side is enlarged about {1 / shrunk:.1f} times.")
    return told
