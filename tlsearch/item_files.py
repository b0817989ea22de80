"""Items from Python as files of a data set, their pixels as deep as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlsearch.contracts.images import decode


def as_file(item: Any, place: Path, *, whole: bool = False) -> Path:
    """A path as it is, absolute; bytes or an array as a file at ``place``, of another ending if need be.

    Args:
        item: one of those.
        place: ends in ``.png``.
        whole: keep an array as it is; else one of 8 bits becomes a picture in RGB.

    Raises:
        DataError: an array of 8 bits is no picture.
        OSError: the file can't be written.
    """
    if isinstance(item, Path):
        return item.absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(item, bytes):
        place.write_bytes(item)
    elif item.dtype == np.uint8 and not whole:
        decode(item).save(place)
    else:
        place = place.with_suffix(".npy")
        np.save(place, item)
    return place


def pixels_of(items: Sequence[Any], channels: int | None) -> dict[str, int]:
    """``channels`` and ``bits`` of a data section, where arrays among the items aren't 8-bit RGB.

    Args:
        items: the images.
        channels: that somebody says they have.

    Raises:
        ValueError: they have different numbers of channels.
    """
    arrays = [item for item in items if isinstance(item, np.ndarray)]
    counts = {array.shape[2] for array in arrays if array.ndim == 3} - {1, 3, 4}
    if channels is None and len(counts) > 1:
        told = ", ".join(map(str, sorted(counts)))
        raise ValueError(f"X has images of {told} channels; right is one number.")
    found = channels or (counts.pop() if counts else None)
    deep = any(array.dtype != np.uint8 for array in arrays)
    return {**({"channels": found} if found else {}), **({"bits": 16} if deep else {})}
