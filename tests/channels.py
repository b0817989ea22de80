"""Made pictures of other than three channels: TIFF and NumPy files whose class lies in one channel alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

CLASSES = ("bright", "dark")


def bands(number: int, kind: str, *, channels: int, informative: int, size: int = 24) -> NDArray[np.uint16]:
    """Noise (size, size, channels) of 16 bits, which is bright or dark in one channel."""
    rng = np.random.default_rng((number, CLASSES.index(kind)))
    pixels = rng.normal(2000, 300, (size, size, channels)) + rng.normal(0, 30, channels)
    pixels[:, :, informative] += 700 if kind == "bright" else -700
    return pixels.clip(0, 65535).astype(np.uint16)


def folder_of(
    folder: Path, *, channels: int = 5, informative: int = 3, count: int = 30, ending: str = "tif"
) -> Path:
    """A folder of class folders of such pictures."""
    for kind in CLASSES:
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            pixels = bands(number, kind, channels=channels, informative=informative)
            write(folder / kind / f"{number}.{ending}", pixels)
    return folder


def write(path: Path, pixels: NDArray[np.uint16]) -> None:
    """Pixels (H, W, C) as a file: NumPy's with channels first, as many programs write them."""
    if path.suffix == ".npy":
        np.save(path, np.moveaxis(pixels, -1, 0))
    else:
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig", compression="zlib")
