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
LINES = 3
"""Of a label below a picture."""
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
    small: list[tuple[Image.Image, str]] = []
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
            if len(small) < MOST:
                thumbnail = ImageOps.pad(image, (THUMBNAIL, THUMBNAIL), color="white")
                small.append((thumbnail, f"{path.name}: {label}"))
        if small:
            _sheet(_tiles(small)).save(folder / SHEET, quality=90)
            written.append(folder / SHEET)
    except OSError as error:
        raise InputError(f"Can't write to {folder}: {error.strerror or error}.") from None
    return written


def _enlarged(image: Image.Image) -> Image.Image:
    factor = max(1, math.ceil(LEAST_SIDE / max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _labelled(image: Image.Image, label: str) -> Image.Image:
    """The picture with its label in a band below it, of as many lines as it takes."""
    height = max(16, image.height // 16)
    font = ImageFont.load_default(size=0.75 * height)
    text = lines_of(label, lambda line: font.getlength(line) <= image.width - 4)
    drawn = Image.new("RGB", (image.width, image.height + height * len(text)), "white")
    drawn.paste(image, (0, 0))
    canvas = ImageDraw.Draw(drawn)
    for number, line in enumerate(text):
        canvas.text((2, image.height + number * height), line, fill="black", font=font)
    return drawn


def lines_of(label: str, fits: Callable[[str], bool]) -> list[str]:
    """A label in `LINES` at most; what is too long loses its middle, as a probability stands at its end."""
    text, left = label, len(label)
    while len(lines := _wrapped(text, fits)) > LINES or not all(map(fits, lines)):
        left -= max(1, left // 20)
        if left < 2:
            break
        text = f"{label[: left // 2].rstrip()}…{label[len(label) - (left - left // 2) :].lstrip()}"
    return lines[:LINES]


def _wrapped(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Words in lines that fit, but for a word that is longer than a line."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if fits(longer) or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _tiles(pictures: Sequence[tuple[Image.Image, str]]) -> list[Image.Image]:
    """Small pictures with their labels, all of one size."""
    least = [_labelled(image, label) for image, label in pictures]
    tallest = max(tile.height for tile in least)
    return [ImageOps.pad(tile, (tile.width, tallest), color="white", centering=(0.5, 0)) for tile in least]


def _sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    columns = min(len(tiles), max(1, round(math.sqrt(1.5 * len(tiles)))))
    rows = math.ceil(len(tiles) / columns)
    width, height = tiles[0].size
    sheet = Image.new("RGB", (columns * (width + 4), rows * (height + 4)), "white")
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % columns * (width + 4) + 2, place // columns * (height + 4) + 2))
    return sheet
