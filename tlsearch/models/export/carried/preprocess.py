"""Image files as the pixels that this model was trained on, for predict.py. Needs Pillow and NumPy.

What is read and how stands in preprocessing.json beside this file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
AT_ONCE = 32


def described() -> dict[str, Any]:
    """The content of preprocessing.json."""
    document: dict[str, Any] = json.loads((HERE / "preprocessing.json").read_text(encoding="utf-8"))
    return document


def open_rgb(path: str | Path) -> Image.Image:
    """A file's first frame as upright 8-bit RGB, transparency laid on white, deep pixels scaled."""
    with Image.open(path) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        return Image.fromarray(_to_8_bits(np.asarray(upright))).convert("RGB")
    if upright.has_transparency_data:
        picture = upright.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return upright.convert("RGB")


def square(image: Image.Image, how: dict[str, Any]) -> NDArray[np.uint8]:
    """Pixels (size, size, 3): the shorter side resized to size / crop, then the centre cut out.

    Both in one step: a box of the image is resized, which gives the same pixels.
    """
    size, (width, height) = how["size"], image.size
    short = max(size, round(size / how["crop"]))
    wide, high = max(short, int(short * width / height)), max(short, int(short * height / width))
    left, top = round((wide - size) / 2), round((high - size) / 2)
    box = (
        left * width / wide,
        top * height / high,
        min(width, (left + size) * width / wide),
        min(height, (top + size) * height / high),
    )
    method = Image.Resampling[how["interpolation"].upper()]
    return np.asarray(image.resize((size, size), method, box=box))


def batch(paths: Sequence[str | Path], how: dict[str, Any]) -> NDArray[Any]:
    """What the model takes: uint8 (N, size, size, 3), or float32 (N, 3, size, size) normalized."""
    pixels = np.stack([square(open_rgb(path), how) for path in paths])
    if how["inside"]:
        return pixels
    mean, std = np.float32(how["mean"]), np.float32(how["std"])
    scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def main(probabilities: Callable[[Sequence[str]], NDArray[Any]], classes: Sequence[str]) -> None:
    """Print the class of each file of the command line; with --json all probabilities, in class order."""
    paths = [word for word in sys.argv[1:] if word != "--json"]
    if not paths:
        sys.exit("Usage: python predict.py IMAGE... [--json]")
    rows = [probabilities(paths[start : start + AT_ONCE]) for start in range(0, len(paths), AT_ONCE)]
    table = np.concatenate(rows)
    if "--json" in sys.argv:
        print(json.dumps({"classes": list(classes), "probabilities": table.tolist()}))
        return
    for path, row in zip(paths, table, strict=True):
        print(f"{path}: {classes[int(row.argmax())]} {row.max():.4f}")


def _to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """16 bits by their full range; wider types by the smallest usual range that holds them."""
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    pixels = values.astype(np.float64)
    finite = np.isfinite(pixels)
    low, high = float(pixels[finite].min()), float(pixels[finite].max())
    pixels[~finite] = low
    for top in (1, 255, 65535) if values.dtype.kind == "f" else (255, 65535):
        if low >= 0 and high <= top:
            return (pixels * (255 / top)).round().astype(np.uint8)
    return ((pixels - low) * (255 / (high - low or 1.0))).round().astype(np.uint8)
