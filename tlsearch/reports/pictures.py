"""Pictures as parts of a page that needs nothing else."""

from __future__ import annotations

import base64
import io

from PIL import Image

THUMBNAIL = 144
"""Longest side of a picture shown, in pixels."""


def data_url(picture: Image.Image) -> str:
    """A picture as a JPEG in a data URL."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def fitted(picture: Image.Image, side: int = THUMBNAIL) -> Image.Image:
    """A picture as large as it is shown: shrunk, or enlarged so that its pixels stay visible."""
    if max(picture.size) <= side // 2:
        factor = side // max(picture.size)
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    small = picture.copy()
    small.thumbnail((side, side))
    return small
