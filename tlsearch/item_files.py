"""Items from Python as files of a data set, their pixels as deep as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlsearch.contracts.images import decode
from tlsearch.errors import DataError


def as_file(item: Any, place: Path) -> Path:
    """A path as it is, absolute; bytes or an array as a file at ``place``, of another ending if need be.

    Raises:
        DataError: an array is of a kind that no file holds.
        OSError: the file can't be written.
    """
    if isinstance(item, Path):
        return item.absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(item, bytes):
        place.write_bytes(item)
        return place
    if item.dtype == np.uint8:
        decode(item).save(place)
        return place
    place = place.with_suffix(".tif")
    Image.fromarray(_grey(item)).save(place)
    return place


def _grey(pixels: NDArray[Any]) -> NDArray[Any]:
    """Deep pixels as one of the types that a TIFF of Pillow holds."""
    if pixels.ndim == 3 and pixels.shape[2] > 1:
        raise DataError(
            f"{pixels.dtype} pixels of {pixels.shape[2]} channels are taken where all images are of one shape"
            " and type alone",
            hint="Make the images alike, or uint8.",
        )
    grey = pixels.reshape(pixels.shape[:2])
    if grey.dtype == np.uint16:
        return grey
    return grey.astype(np.float32 if grey.dtype.kind == "f" else np.int32)
