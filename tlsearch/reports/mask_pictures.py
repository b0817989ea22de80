"""Predicted masks as files: each of its picture's size, in the values that the masks of the data have."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tlsearch.contracts import MapTask, TargetSpec
from tlsearch.errors import DataError, InputError

OVER = "over"
"""Folder of the pictures with their masks laid over them."""


def save(
    folder: Path,
    predictions: Sequence[tuple[Path, str]],
    task: MapTask,
    spec: TargetSpec,
    picture_of: Callable[[Path], Image.Image],
) -> list[Path]:
    """Write the mask of each picture as PNG, and the picture with it laid over.

    Args:
        folder: made if it isn't there.
        predictions: pictures, each with its predicted mask as a PNG of class indices in base64.
        task: the model's.
        spec: what it learned.
        picture_of: what shows a file.

    Raises:
        InputError: the folder can't be written.
    """
    written: list[Path] = []
    try:
        (folder / OVER).mkdir(parents=True, exist_ok=True)
        stems = [path.stem for path, _ in predictions]
        for number, (path, packed) in enumerate(predictions):
            try:
                picture = picture_of(path)
            except DataError:
                continue  # its prediction has the error
            coded = indices(packed)
            # A name says which picture it is of, unless two pictures have it.
            once = stems.count(path.stem) == 1
            name = path.stem[:100] if once else f"{number:05d}-{path.stem[:90]}"
            mask = task.drawn(coded, spec).resize(picture.size, Image.Resampling.NEAREST)
            mask.save(folder / f"{name}.png")
            task.laid_over(picture, coded, spec, {}).save(folder / OVER / f"{name}.jpg", quality=90)
            written.append(folder / f"{name}.png")
    except OSError as error:
        raise InputError(f"Can't write to {folder}: {error.strerror or error}.") from None
    return written


def indices(packed: str) -> Any:
    """Class indices (S, S) of a prediction's mask."""
    with Image.open(io.BytesIO(base64.b64decode(packed)), formats=["PNG"]) as image:
        return np.asarray(image)
