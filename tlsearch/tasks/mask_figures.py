"""Figures of masks: how well each class and each picture is met, and masks laid over pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlsearch.contracts import Figure, TargetSpec, masks
from tlsearch.contracts.figure import escape
from tlsearch.counts import plural

COLOURS = (
    *((0, 0, 0), (230, 97, 0), (26, 133, 255), (212, 17, 89), (64, 176, 166), (254, 254, 98)),
    *((93, 58, 155), (153, 79, 0), (0, 108, 209), (225, 190, 106), (220, 50, 32), (75, 0, 146)),
)
"""Of the classes in turn; told apart by colour-blind people, too. The first is most often the background."""


def colour(index: int) -> tuple[int, int, int]:
    """Of a class."""
    red, green, blue = COLOURS[index] if index < len(COLOURS) else COLOURS[1 + index % (len(COLOURS) - 1)]
    return red, green, blue


def coloured(coded: NDArray[np.uint8]) -> Image.Image:
    """Class indices (H, W) as an image with a palette, whose pixels are these indices."""
    image = Image.fromarray(coded).convert("P")
    image.putdata(coded.ravel().tolist())
    palette = [channel for index in range(256) for channel in colour(index)]
    palette[-3:] = (255, 255, 255)
    image.putpalette(palette)
    return image


def drawn(coded: NDArray[np.uint8], spec: TargetSpec) -> Image.Image:
    """Class indices (H, W) as an image of the masks' own values: grey, with a palette, or of 16 bits."""
    values = np.zeros(256, np.uint16)
    values[: len(spec.names)] = spec.facts["values"]
    values[masks.UNKNOWN] = next(iter(spec.facts["ignore"]), 0)
    levels = values[coded]
    if set(spec.facts["values"]) == {0, 255}:
        return Image.fromarray(levels.astype(np.uint8))
    if values.max() > 255:
        return Image.fromarray(levels)
    image = Image.fromarray(levels.astype(np.uint8)).convert("P")
    image.putdata(levels.astype(np.uint8).ravel().tolist())
    palette = np.full((256, 3), 255, np.uint8)
    for index, value in enumerate(spec.facts["values"]):
        palette[value] = colour(index)
    image.putpalette(palette.ravel().tolist())
    return image


def laid_over(picture: Image.Image, coded: NDArray[np.uint8]) -> Image.Image:
    """A picture with the classes of a mask (S, S) in their colours, all but the first."""
    large = Image.fromarray(coded).resize(picture.size, Image.Resampling.NEAREST)
    indices = np.asarray(large)
    colours = np.array([colour(index) for index in range(256)], np.float32)
    pixels = np.asarray(picture.convert("RGB")).astype(np.float32)
    shown = ((indices > 0) & (indices != masks.UNKNOWN))[..., None]
    mixed = np.where(shown, 0.45 * pixels + 0.55 * colours[indices], pixels)
    return Image.fromarray(mixed.round().astype(np.uint8))


def overlaps(predicted: NDArray[np.uint8], actual: NDArray[np.uint8], classes: int) -> NDArray[np.float64]:
    """Mean intersection over union of each picture (N,), over the classes in it or predicted in it."""
    found = np.empty(len(actual))
    for row, (guess, truth) in enumerate(zip(predicted, actual, strict=True)):
        known = truth != masks.UNKNOWN
        pairs = truth[known].astype(np.int64) * classes + guess[known]
        confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        both = confusion.sum(axis=0) + confusion.sum(axis=1)
        right = confusion.diagonal()
        found[row] = np.mean(right[both > 0] / (both - right)[both > 0]) if known.any() else 1.0
    return found


def figures(predicted: NDArray[np.uint8], actual: NDArray[np.uint8], spec: TargetSpec) -> Sequence[Figure]:
    """Each class's intersection over union, and how pictures' are spread."""
    classes = len(spec.names)
    known = actual != masks.UNKNOWN
    pairs = actual[known].astype(np.int64) * classes + predicted[known]
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    right, both = confusion.diagonal(), confusion.sum(axis=0) + confusion.sum(axis=1)
    shares = [float(right[at] / (both[at] - right[at])) if both[at] else None for at in range(classes)]
    worst = min((share, name) for share, name in zip(shares, spec.names, strict=True) if share is not None)
    each = overlaps(predicted, actual, classes)
    return (
        Figure(
            "class_overlap",
            "Intersection over union by class",
            f'Lowest for "{worst[1]}": {worst[0]:.3f}.',
            [
                {
                    "type": "bar",
                    "x": [escape(name) for name in spec.names],
                    "y": shares,
                    "marker": {"color": "--s0"},
                }
            ],
            {"yaxis": {"range": [0, 1], "title": {"text": "intersection over union"}}},
        ),
        Figure(
            "picture_overlap",
            "Mean intersection over union by picture",
            f"The median of {plural(len(each), 'picture')} is {np.median(each):.3f}, the lowest "
            f"{each.min():.3f}.",
            [
                {
                    "type": "histogram",
                    "x": each.round(4).tolist(),
                    "xbins": {"start": 0, "end": 1, "size": 0.05},
                    "marker": {"color": "--s0"},
                }
            ],
            {
                "xaxis": {"range": [0, 1], "title": {"text": "mean intersection over union"}},
                "yaxis": {"title": {"text": "pictures"}},
            },
        ),
    )
