"""Predictions written onto their pictures, and all of them on one contact sheet."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from tlsearch.contracts.images import decode
from tlsearch.errors import DataError, InputError

SHEET = "contact-sheet.jpg"
MOST = 200
"""Pictures on a contact sheet."""
THUMBNAIL = 160
"""Pixels of a side on it."""
LONGEST = 200
"""Bytes of a picture's own name that are kept in that of its copy: file systems take 255."""
LEAST_SIDE = 320
"""Pixels of a saved picture's longer side at least, so that its label can be read."""


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything, before a picture is predicted.

    Raises:
        InputError: it isn't empty, or is no folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already exists and isn't empty.", hint="Name a new folder with --save.")


def save(
    folder: Path,
    pictures: Sequence[tuple[Path, str]],
    draw: Callable[[int, Path], Image.Image] = lambda number, path: decode(path),
) -> list[Path]:
    """Write each picture with its label below it, and a contact sheet of the first ones.

    Args:
        folder: made if it isn't there.
        pictures: files, each with what is to be written below it.
        draw: the picture of a file, of its number among these.

    Returns:
        The files written, the contact sheet last.

    Raises:
        InputError: the folder can't be written.
    """
    written: list[Path] = []
    tiles: list[Image.Image] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, (path, label) in enumerate(pictures):
            try:
                image = draw(number, path)
            except DataError:
                continue  # its prediction has the error
            stem = os.fsencode(path.stem)[:LONGEST].decode(errors="ignore")
            out = folder / f"{number:05d}-{stem}.jpg"
            _labelled(_enlarged(image), label).save(out, quality=90)
            written.append(out)
            if len(tiles) < MOST:
                tiles.append(_labelled(ImageOps.pad(image, (THUMBNAIL, THUMBNAIL), color="white"), label))
        if tiles:
            _sheet(tiles).save(folder / SHEET, quality=90)
            written.append(folder / SHEET)
    except OSError as error:
        raise InputError(f"Can't write to {folder}: {error.strerror or error}.") from None
    return written


def _enlarged(image: Image.Image) -> Image.Image:
    factor = max(1, math.ceil(LEAST_SIDE / max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _labelled(image: Image.Image, label: str) -> Image.Image:
    """The picture with its label in a band below it, shortened to fit."""
    height = max(16, image.height // 16)
    font = ImageFont.load_default(size=0.75 * height)
    drawn = Image.new("RGB", (image.width, image.height + height), "white")
    drawn.paste(image, (0, 0))
    canvas = ImageDraw.Draw(drawn)
    text = label
    while len(text) > 1 and canvas.textlength(text, font=font) > image.width - 4:
        text = text.rstrip("…")[:-1] + "…"
    canvas.text((2, image.height), text, fill="black", font=font)
    return drawn


def _sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    columns = min(len(tiles), max(1, round(math.sqrt(1.5 * len(tiles)))))
    rows = math.ceil(len(tiles) / columns)
    width, height = tiles[0].size
    sheet = Image.new("RGB", (columns * (width + 4), rows * (height + 4)), "white")
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % columns * (width + 4) + 2, place // columns * (height + 4) + 2))
    return sheet
