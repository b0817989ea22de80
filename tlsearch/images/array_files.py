"""Files that Pillow can't read in full as arrays: TIFF of any channels and depth, NumPy's .npy, DICOM.

What reads TIFF and DICOM is imported where such a file is met, and asked for by name where it isn't there.
Exported models carry a copy of this file: it must import nothing of tlsearch.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

MAX_VALUES = 3 * 89_478_485
"""Numbers in one file at most: those of the largest picture that Pillow decodes."""
HEAD = 132
"""Bytes that tell what a file is."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NUMPY = b"\x93NUMPY"
_PNG = b"\x89PNG\r\n\x1a\n"
_CMYK = 5
_ALONE = {"_multifile": False}
"""An OME-TIFF may name other files; none but the one that was asked for is opened."""
_DEFLATED = b"1.2.840.10008.1.2.1.99"
"""DICOM that is inflated as a whole, to whatever size, before a number of it can be read."""
_DEEP_RGB = (2, 6)
"""Colour types of PNG of which Pillow keeps 8 of 16 bits: RGB, with alpha or without."""


# What these packages tell of odd tags is no matter: a picture can be read, or it can't.
warnings.filterwarnings("ignore", module=r"pydicom\.", append=True)
for _name in ("tifffile", "pydicom"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class Unreadable(ValueError):
    """A picture that can't be decoded; the message is a short reason and doesn't repeat the path."""


def kind_of(head: bytes) -> str:
    """``tiff``, ``npy``, ``dicom``, ``png16`` or nothing, from the first `HEAD` bytes of a file."""
    if head.startswith(_TIFF):
        return "tiff"
    if head.startswith(_NUMPY):
        return "npy"
    if head[128:132] == b"DICM":
        return "dicom"
    deep = head.startswith(_PNG) and head[24:25] == b"\x10" and head[25:26] in map(_byte, _DEEP_RGB)
    return "png16" if deep else ""


def _byte(number: int) -> bytes:
    return bytes([number])


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its picture; ``channels`` is None for grey and RGB, with opacity or without."""

    width: int
    height: int
    channels: int | None
    deep: bool


def header(file: BinaryIO, kind: str) -> Header:
    """The header of a file of a kind that `kind_of` told.

    Raises:
        Unreadable: it is broken, or the package that reads it isn't installed.
    """
    readers = {"tiff": _tiff_header, "npy": _numpy_header, "dicom": _dicom_header, "png16": _png_header}
    with _named_errors(kind):
        return readers[kind](file)


def _numpy_header(file: BinaryIO) -> Header:
    shape, kind = _numpy_shape(file)
    count = None
    if len(shape) == 3:
        first, second, last = shape
        count, (height, width) = (first, (second, last)) if first < last else (last, (first, second))
    else:
        height, width = shape
    return Header(width, height, None if count in (None, 1, 3) else count, kind != np.uint8)


def _tiff_header(file: BinaryIO) -> Header:
    import tifffile

    with tifffile.TiffFile(file, **_ALONE) as opened:
        page, series = opened.pages[0], opened.series[0]
        height, width = int(page.imagelength), int(page.imagewidth)
        count = int(page.samplesperpixel)
        apart = dict(zip(series.axes, series.shape, strict=True)).get("C", 1)
        opaque = [int(kind) in (1, 2) for kind in page.extrasamples or ()]
        cmyk = int(page.photometric) == _CMYK
        deep = int(page.bitspersample) > 8
    usual = count in (1, 3) or (count in (2, 4) and opaque == [True]) or (count == 4 and cmyk)
    count = apart if apart > 1 and count == 1 else count
    return Header(width, height, None if usual and apart in (1, 3) else count, deep)


def _dicom_header(file: BinaryIO) -> Header:
    opened = _opened_dicom(file, stop_before_pixels=True)
    return Header(int(opened.Columns), int(opened.Rows), None, int(opened.BitsAllocated) > 8)


def _png_header(file: BinaryIO) -> Header:
    content = file.read(HEAD)
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    return Header(width, height, None, deep=True)


@contextmanager
def _named_errors(kind: str) -> Iterator[None]:
    """Whatever a decoder raises, as a short reason."""
    try:
        yield
    except Unreadable:
        raise
    except ImportError as error:
        extra, package = "dicom" if kind == "dicom" else "tiff", (error.name or "").partition(".")[0]
        raise Unreadable(
            f"needs a package that isn't installed: {package} (pip install 'tlsearch[{extra}]')"
        ) from error
    except Exception as error:  # decoders raise almost anything on damaged files
        raise Unreadable(f"can't be decoded ({error or type(error).__name__})") from error


def read(file: BinaryIO, kind: str, channels: int | None = None) -> NDArray[Any]:
    """A file of a kind that `kind_of` told as pixels (H, W) or (H, W, C), as deep as they are.

    Args:
        file: at its beginning.
        kind: what it is.
        channels: how many there should be, where it is known; tells (C, H, W) from (H, W, C).

    Raises:
        Unreadable: it is broken or has another shape, or the package that reads it isn't installed.
    """
    readers: dict[str, Callable[[BinaryIO], tuple[NDArray[Any], bool]]] = {
        "tiff": _tiff,
        "npy": _numpy,
        "dicom": _dicom,
        "png16": _png,
    }
    with _named_errors(kind):
        pixels, pages = readers[kind](file)
    return channels_last(pixels, channels, pages=pages)


def channels_last(pixels: NDArray[Any], channels: int | None = None, *, pages: bool = False) -> NDArray[Any]:
    """Pixels (H, W), (H, W, C) or (C, H, W) with their channels at the end.

    Where nobody says how many there are, the shorter of first and last axis holds them.

    Args:
        pixels: of one picture.
        channels: how many there should be.
        pages: whether the first axis may be pages or slices, of which the first is taken unless there are as
            many as ``channels``.
    """
    if pixels.ndim != 3:
        return pixels
    first, _, last = pixels.shape
    if pages and first != channels:
        return pixels[0]
    if last != channels and (first == channels or (channels is None and first < last)):
        return np.moveaxis(pixels, 0, -1)
    return pixels


def _numpy(file: BinaryIO) -> tuple[NDArray[Any], bool]:
    _numpy_shape(file)
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False), False


def _numpy_shape(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the array in a file, before so much is asked for."""
    version = np.lib.format.read_magic(file)
    told = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = told(file)
    if len(shape) not in (2, 3) or kind.kind not in "uif":
        raise Unreadable(
            f"is an array {shape} of {kind}; right are (H, W), (H, W, C) and (C, H, W) of numbers"
        )
    if 0 in shape:
        raise Unreadable(f"is an array {shape}, which holds no pixel")
    _bounded(shape)
    return shape, kind


def _tiff(file: BinaryIO) -> tuple[NDArray[Any], bool]:
    import tifffile

    with tifffile.TiffFile(file, **_ALONE) as opened:
        series = opened.series[0]
        axes, shape = str(series.axes), tuple(series.shape)
        _bounded(shape)
        # Such as of ImageJ: axes of length 1 around, channels before or behind the places.
        kept = [at for at, axis in enumerate(axes) if shape[at] != 1 or axis in "YX"]
        pixels = np.asarray(series.asarray()).reshape([shape[at] for at in kept])
        left = "".join(axes[at] for at in kept)
    return pixels, left.endswith("YX") and left[:-2] not in ("", "C", "S")


def _png(file: BinaryIO) -> tuple[NDArray[Any], bool]:
    import imagecodecs

    content = file.read()
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    _bounded((height, width, 4))
    return np.asarray(imagecodecs.png_decode(content)), False


def _dicom(file: BinaryIO) -> tuple[NDArray[Any], bool]:
    """Pixels in the units of the modality, as floats; through the file's window, where it has one, as uint16.

    So that in one data set those with a window and those without have ranges of their own.
    """
    from pydicom.pixels import apply_modality_lut, convert_color_space

    opened = _opened_dicom(file)
    frames = int(opened.get("NumberOfFrames", 1) or 1)
    colours = int(opened.get("SamplesPerPixel", 1))
    _bounded((frames, opened.Rows, opened.Columns, colours))
    stored = opened.pixel_array if frames == 1 else opened.pixel_array[0]
    interpretation = str(opened.get("PhotometricInterpretation", ""))
    if colours == 3:
        ybr = interpretation.startswith("YBR_FULL")
        return (convert_color_space(stored, interpretation, "RGB") if ybr else stored), False
    if interpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise Unreadable(f"is DICOM of {interpretation or 'no'} photometric interpretation, which isn't read")
    values = np.asarray(apply_modality_lut(stored, opened), np.float32)
    window = _window(opened)
    if window is not None:
        low, high = window
        values = ((values - low) / (high - low)).clip(0, 1)
        values = 1 - values if interpretation == "MONOCHROME1" else values
        return (values * 65535).round().astype(np.uint16), False
    if interpretation == "MONOCHROME1":  # turned round within what the file's bits can hold
        least = -(2 ** (int(opened.BitsStored) - 1)) if int(opened.PixelRepresentation) else 0
        ends = np.array([least, least + 2 ** int(opened.BitsStored) - 1], stored.dtype)
        values = np.asarray(apply_modality_lut(ends, opened), np.float32).sum() - values
    return values, False


def _opened_dicom(file: BinaryIO, **how: bool) -> Any:
    import pydicom

    head = file.read(1024)
    if _DEFLATED in head:
        raise Unreadable("is deflated DICOM, which isn't read: save it without")
    file.seek(0)
    return pydicom.dcmread(file, **how)


def _window(opened: Any) -> tuple[float, float] | None:
    """The values that become black and white, by the first window of a DICOM file (PS3.3, C.11.2.1.2)."""

    def first(name: str) -> float | None:
        found = opened.get(name)
        several = found is not None and not isinstance(found, str | int | float) and hasattr(found, "__len__")
        if several:
            found = found[0] if len(found) else None
        return None if found is None else float(found)

    centre, width = first("WindowCenter"), first("WindowWidth")
    if centre is None or width is None or width <= 0:
        return None
    if str(opened.get("VOILUTFunction", "LINEAR")) == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1e-3)
    return centre - width / 2, centre + width / 2


def _bounded(shape: tuple[int, ...]) -> None:
    count = 1
    for length in shape:
        count *= int(length)
    if count > MAX_VALUES:
        raise Unreadable(f"has {' x '.join(map(str, shape))} numbers; at most {MAX_VALUES} are decoded")
