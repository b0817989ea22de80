"""How large the pictures of a data set are, and how they are best made squares, and of how many pixels."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, BinaryIO

from tlsearch.errors import DataError

if TYPE_CHECKING:
    from tlsearch.images.array_files import Header

LOOKED_AT = 100
CUT = 0.3
"""Share of a picture that may be cut off: 4:3 loses a quarter, 3:2 a third."""
ALIKE = 1.3
"""Times that ratios of width to height may differ for pictures to be squeezed much alike."""
SQUEEZED = 3.0
"""Ratio of sides up to which a squeezed picture is worth more than the pixels that bars would take."""

SIZES = (224, 160, 128, 96, 64)
ENLARGED = 128
"""Pixels of a side up to which smaller pictures are enlarged: one recipe, on 400 labelled pictures of clothes
(28 pixels), had 80.1, 83.3 and 84.5 % of the test items right at 64, 96 and 128; on digits (8 pixels) 93.4
and 95.3 at 64 and 96."""
SECONDS_AT_224 = 0.06
"""Of one core for one image in one epoch of lite0 with half of it frozen: measured on a server core."""
FEWEST = 720
"""Items that an epoch is taken to have at least: a trial has 300 updates of 32 items, however few there are,
which are thirteen epochs of so many."""
GPU_SPEED = 100.0
"""How much faster a GPU is than a core, to the order of magnitude."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Width and height, upright, of some pictures of a data set; none where none can be read."""

    sizes: tuple[tuple[int, int], ...]

    @property
    def pixels(self) -> int | None:
        """The median shorter side."""
        return int(median(min(size) for size in self.sizes)) if self.sizes else None

    def resize(self, *, whole: bool = False) -> tuple[str, str] | None:
        """What fits as ``data.resize``, and why; None where nothing is known.

        Args:
            whole: whether nothing may be cut off.

        The centre is cut out where that takes little of nine in ten pictures. Where it would take much, they
        are squeezed, which keeps the most pixels; where some would be squeezed much and others not, bars are
        added. (On tiles of 0.4 to 2.7 to 1, a probe of 128 pixels had 15.6, 12.5 and 11.8 % of errors with
        the centre, bars, and squeezed.)
        """
        if not self.sizes:
            return None
        ratios = sorted(width / height for width, height in self.sizes)
        low, high = (ratios[0],) * 2 if len(ratios) == 1 else _ends(ratios)
        stretched = sorted(max(ratio, 1 / ratio) for ratio in ratios)
        longest = stretched[0] if len(stretched) == 1 else _ends(stretched)[1]
        cut = 1 - 1 / longest
        if round(cut, 2) == 0:
            return "crop", "pictures are square"
        if cut <= CUT and not whole:
            return "crop", f"at most {cut:.0%} of a picture is cut off; squash and pad cut nothing"
        lost = f"sides are up to {longest:.1f} to 1, so that the centre alone would lose {cut:.0%}"
        if high / low <= ALIKE or longest <= SQUEEZED:
            return "squash", f"{lost}; they are squeezed"
        return "pad", f"{lost}; shapes differ much, so bars are added"


def image_size(pixels: int | None, items: int, *, seconds: float) -> int | None:
    """The largest size that this machine trains quickly, and that the images fill or are worth enlarging to.

    Args:
        pixels: the shorter side of the images; None where nothing is known.
        items: how many there are.
        seconds: that an epoch of fine-tuning is to take at most.

    Returns:
        Pixels of a side; None for the backbone's own.
    """
    import torch

    speed = GPU_SPEED if torch.cuda.is_available() else len(os.sched_getaffinity(0))
    for size, smaller in pairwise(SIZES):
        filled = pixels is None or pixels > smaller or size <= ENLARGED
        if filled and max(items, FEWEST) * SECONDS_AT_224 * (size / 224) ** 2 / speed <= seconds:
            return None if size == SIZES[0] else size
    return SIZES[-1]


def heads(items: Sequence[Any]) -> dict[int, Header]:
    """What the files of some of the pictures say, by position; only headers are read, each file's once.

    Files that can't be read are left out: the run sets them aside and names them.
    """
    step = max(1, len(items) // LOOKED_AT)
    found = {index: _head(items[index]) for index in range(0, len(items), step)}
    return {index: one for index, one in found.items() if one is not None and one.width and one.height}


def shapes(found: Mapping[int, Header]) -> Shapes:
    """The shapes of pictures by their `heads`."""
    return Shapes(tuple((one.width, one.height) for one in found.values()))


def pixels(names: Sequence[str], found: Mapping[int, Header]) -> dict[str, tuple[int, str]]:
    """``channels`` and ``bits`` of a data section with the reason, where pictures aren't 8-bit RGB.

    Args:
        names: of all items.
        found: the `heads` of some.

    Raises:
        DataError: some of the pictures have other channels than others.
    """
    keys: dict[str, tuple[int, str]] = {}
    counts = {index: one.channels for index, one in found.items()}
    several = {count: index for index in sorted(counts, reverse=True) if (count := counts[index]) is not None}
    if several:
        usual = [index for index, count in counts.items() if count is None]
        told = [f"{names[index]} has {count}" for count, index in sorted(several.items())]
        told += [f"{names[usual[0]]} has those of grey or RGB"] if usual else []
        if len(told) > 1:
            raise DataError(
                f"pictures have different numbers of channels: {'; '.join(told)}",
                hint="All must have the same: take the odd ones out, or write them again.",
            )
        keys["channels"] = (next(iter(several)), "of all files; the first convolution is adapted")
    if any(one.deep for one in found.values()):
        keys["bits"] = (16, "the files have more than 8")
    return keys


def _head(item: Any) -> Header | None:
    from tlsearch.images import array_files
    from tlsearch.images.decoding import Unreadable, open_regular

    if not isinstance(item, Path):
        return None
    try:
        with open_regular(item) as file:
            kind = array_files.kind_of(file.read(array_files.HEAD))
            file.seek(0)
            if kind:
                with contextlib.suppress(Unreadable):
                    return array_files.header(file, kind)
                file.seek(0)  # Pillow may read what a decoder of arrays can't
            return _pillow_head(file)
    except (Unreadable, OSError):
        return None


def _pillow_head(file: BinaryIO) -> Header | None:
    """The header of a picture for Pillow, width and height upright; None of a broken one."""
    from PIL import Image

    from tlsearch.images.array_files import Header
    from tlsearch.images.decoding import FORMATS, is_deep

    try:
        with Image.open(file, formats=FORMATS) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            width, height = image.size[::-1] if turned else image.size
            return Header(width, height, None, is_deep(image))
    except Exception:  # noqa: BLE001 - Pillow raises almost anything on damaged files
        return None


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """The tenth and ninetieth percentile."""
    cuts = quantiles(values, n=10, method="inclusive")
    return cuts[0], cuts[-1]
