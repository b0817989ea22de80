"""Damaged pictures of every format: RGB or a reason, in little memory, and no other error."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from tests.hostile.conftest import TRIED, Damage, damages
from tlsearch.contracts.images import ImageInput, decode
from tlsearch.errors import DataError
from tlsearch.images import decoding

INPUTS = ImageInput(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LIMIT = 2**18


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def valid_files() -> dict[str, bytes]:
    """One picture in each format and in the forms that have code of their own."""
    photo = Image.fromarray(load_sample_image("flower.jpg")).resize((48, 40))
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {kind.lower(): saved(photo, kind) for kind in ("PNG", "GIF", "WEBP", "BMP", "PPM", "AVIF")}
    return files | {
        "jpeg with exif": saved(photo, "JPEG", exif=exif),
        "progressive jpeg": saved(photo, "JPEG", progressive=True),
        "cmyk jpeg": saved(photo.convert("CMYK"), "JPEG"),
        "jpeg 2000": saved(photo, "JPEG2000"),
        "16-bit png": saved(deep, "PNG"),
        "palette with alpha": saved(photo.quantize(16), "PNG", transparency=3),
        "animation": saved(photo, "GIF", save_all=True, append_images=[photo.rotate(90)]),
        "tiff": saved(photo, "TIFF"),
        "packed tiff": saved(photo, "TIFF", compression="tiff_lzw"),
        "16-bit tiff": saved(deep, "TIFF"),
        "icon": saved(photo, "ICO", sizes=[(16, 16), (32, 32)]),
        "phone jpeg": saved(photo, "MPO", save_all=True, append_images=[photo]),
    }


VALID = valid_files()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A limit that keeps a lying header from costing a second."""
    monkeypatch.setattr(decoding, "MAX_PIXELS", LIMIT)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LIMIT)


def picture_or_reason(content: bytes) -> Image.Image | None:
    """The picture in a file, or None where there is a reason why there is none."""
    reason = ""
    try:
        image = decode(content)
    except DataError as error:
        reason = error.message
    if reason:
        assert len(reason) < 500
        return None
    assert image.mode == "RGB"
    assert image.width * image.height <= 2 * LIMIT
    return image


@pytest.mark.parametrize("kind", VALID)
@pytest.mark.filterwarnings("ignore")
@given(damage=damages)
@TRIED
def test_a_damaged_picture_is_a_picture_or_a_reason(kind: str, damage: Damage):
    content = damage(VALID[kind])
    if picture_or_reason(content) is not None:
        assert INPUTS.encode(content).shape == (3, 16, 16)


@pytest.mark.filterwarnings("ignore")
@given(st.sampled_from(sorted(VALID)), st.sampled_from(sorted(VALID)), st.integers(1, 64))
@TRIED
def test_the_head_of_one_format_on_the_body_of_another(head: str, body: str, length: int):
    picture_or_reason(VALID[head][:length] + VALID[body][length:])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [400, 600])
def test_an_icon_that_is_larger_than_it_says(size):
    """An icon's directory may tell of 16 x 16 pixels where a picture of any size lies."""
    inner = saved(Image.new("RGB", (size, 1000)), "PNG")
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    with pytest.raises(DataError, match="pixels"):
        decode(struct.pack("<HHH", 0, 1, 1) + entry + inner)
