"""Pictures of any number of channels, as deep as they are, and their squares. Needs Pillow and NumPy alone.

Exported models carry a copy of this file: it must import nothing of tlsearch but what is carried too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlsearch.images import array_files, decoding

TOPS = {8: 255, 16: 65535}
"""What pixels of so many bits end at."""
_GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow weighs them


def planes(
    source: Path | bytes | NDArray[Any], *, channels: int, ranges: decoding.Ranges, top: int
) -> NDArray[np.float32]:
    """A picture as float32 (H, W, channels) from 0 to ``top``, upright, decoded to its last pixel.

    Pixels deeper than 8 bits are scaled by the range of their kind, one for all channels. Of 1 channel,
    colours become grey; of 3, grey becomes RGB, and transparency is laid on white. Any other number of
    channels must be the file's own.

    Raises:
        Unreadable: it is broken, has other channels, or pixels of a kind that has no range.
    """
    loaded = decoding.loaded_from(source, channels=channels)
    array = isinstance(loaded, np.ndarray)
    if not array and not decoding.is_deep(loaded) and (channels in (1, 3) or loaded.mode in ("P", "1")):
        loaded = decoding.as_rgb(loaded)
    values = np.asarray(loaded)
    if array:
        values = array_files.channels_last(values, channels)
    values = values[:, :, None] if values.ndim == 2 else values
    if values.ndim != 3 or values.size == 0 or values.dtype.kind not in "uif":
        raise decoding.Unreadable(f"is an array {values.shape} of {values.dtype}, not (H, W, C) of numbers")
    known = decoding.FULL_OF_ARRAYS if array else decoding.FULL
    sure = not array or "float" in ranges
    scaled = decoding.scaled(values, {**known, **ranges}, top=top, sure=sure)
    return np.ascontiguousarray(_with(scaled, channels, top), dtype=np.float32)


def _with(values: NDArray[Any], channels: int, top: int) -> NDArray[Any]:
    """Values (H, W, C) with so many channels."""
    count = values.shape[2]
    if count == channels:
        return values
    if channels in (1, 3) and count in (1, 3, 4):
        if count == 4:  # the last is opacity
            opacity = values[:, :, -1:] / top
            values = values[:, :, :-1] * opacity + top * (1 - opacity)
        if channels == 3:
            return np.broadcast_to(values, (*values.shape[:2], 3))
        return values if values.shape[2] == 1 else np.asarray(values @ _GREY)[:, :, None]
    raise decoding.Unreadable(f"has {count} channel{'s' * (count != 1)}, and the data has {channels}")


def shown(pixels: NDArray[Any], top: int) -> Image.Image:
    """Pixels (H, W, C) as people see them: the first three channels as RGB; of fewer the mean, as grey."""
    seen = pixels[:, :, :3] if pixels.shape[2] >= 3 else pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
    return Image.fromarray((np.asarray(seen, np.float64) * (255 / top)).round().astype(np.uint8))


def square(
    pixels: NDArray[np.float32],
    *,
    top: int,
    size: int,
    crop: float,
    interpolation: str,
    resize: str = "crop",
    fill: Sequence[int] = (0,),
) -> NDArray[Any]:
    """Pixels (H, W, C) from 0 to ``top`` as a square (size, size, C) of 8 or 16 bits.

    Each channel is resized by itself, in floats, as `decoding.square` resizes 8-bit RGB.
    """
    count = pixels.shape[2]
    fills = [fill[at % len(fill)] for at in range(count)]
    channels = [
        decoding.square(
            Image.fromarray(np.ascontiguousarray(pixels[:, :, at])),
            size=size,
            crop=crop,
            interpolation=interpolation,
            resize=resize,
            fill=(fills[at],),
        )
        for at in range(count)
    ]
    kind = np.uint8 if top == TOPS[8] else np.uint16
    return np.stack(channels, axis=2).round().clip(0, top).astype(kind)
