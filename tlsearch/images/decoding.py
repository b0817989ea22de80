"""Any picture file or array as the upright 8-bit RGB square that a model sees. Needs Pillow and NumPy alone.

Exported models carry a copy of this file, so that what reads a picture is the same in tlsearch and beside an
exported model: it must import nothing of tlsearch but what is carried too.
"""

from __future__ import annotations

import io
import stat
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tlsearch.images import array_files

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
"""What is tried on a file's content. No EPS, WMF or PDF: those start other programs."""
MAX_PIXELS = 89_478_485
"""Where Pillow begins to warn of a decompression bomb; here it is the end."""
INTERPOLATIONS = ("bicubic", "bilinear", "nearest")
RESIZES = ("crop", "pad", "squash")
"""How a picture becomes a square: the centre is cut out, bars are added, or it is squeezed."""
USUAL_TOPS = {
    "uint16": (255, 1023, 4095, 16383, 65535),
    "int": (255, 1023, 4095, 16383, 65535),
    "float": (1, 255),
}
"""For each kind of deep pixel what usual ranges end at, which begin at 0."""
FILLED = 0.25
"""Share of a usual range that pixels must span for it to be taken."""
FULL = {"uint16": (0.0, 65535.0), "int": (0.0, 65535.0)}
"""Ranges of files where none was found in a data set: Pillow gives 16 bits as either; floats have none."""
FULL_OF_ARRAYS = {"uint16": (0.0, 65535.0), "float": (0.0, 1.0)}
"""The same for arrays, whose floats are from 0 to 1 wherever pixels are held so; other integers have none."""
NO_DATA = 1e30
"""Floats of this size and above mark pixels without a value, in geographic files for instance."""

Ranges = Mapping[str, tuple[float, float]]
"""For each kind of deep pixel (``uint16``, ``int``, ``float``) the values that become 0 and 255."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LAYOUTS = "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16, other integers or floats"


HTML = "is HTML or XML, not a picture"
HEIC = "is HEIC, which isn't read: save it as JPEG or PNG"
LFS = "is a pointer of Git LFS, not the picture: fetch it by `git lfs pull`"
NO_PICTURE = (HTML, HEIC, LFS, "is no known picture format")
"""Reasons why a file isn't even a broken picture."""
_HEIC = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1"))
"""What files of phones begin with, behind four bytes of length."""

# Whatever Pillow warns of (odd EXIF, many pixels, transparent palettes) is decided on here. Filters that
# somebody sets come first; one for a call alone would not be safe with several threads.
warnings.filterwarnings("ignore", module=r"PIL\.", append=True)


Unreadable = array_files.Unreadable


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading; never blocks on a FIFO or touches a device.

    Raises:
        Unreadable: it isn't a regular file, is missing or can't be read.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise Unreadable(f"is {_kind_of_file(mode)}, not a file")
        return path.open("rb")
    except Unreadable:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise Unreadable(f"can't be read ({reason.lower()})") from error


def decode(source: Path | bytes | NDArray[Any], ranges: Ranges | None = None) -> Image.Image:
    """A picture as an upright 8-bit RGB image, decoded to its last pixel.

    Animations give their first frame; transparency is laid on white. Pixels deeper than 8 bits are scaled by
    the range of their kind; what lies outside is clipped. Where no range was found, 16 bits are taken in
    full, and floats of an array from 0 to 1.

    Args:
        source: a file, a file's content, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
        ranges: of deep pixels, as `ranges_of` found them in a data set.

    Raises:
        Unreadable: it is broken, or its pixels are of a kind that has no range.
    """
    return _to_rgb(loaded_from(source), ranges or {})


def extent(
    source: Path | bytes | NDArray[Any], *, channels: int | None = None
) -> dict[str, tuple[float, float]]:
    """The kind of a picture's pixels with their least and greatest value; empty for 8 bits.

    Of a file with 8 bits only the header is read.

    Args:
        source: as `decode` takes it.
        channels: as `loaded_from` takes it.

    Raises:
        Unreadable: as `decode`.
    """
    loaded = loaded_from(source, only_deep=True, channels=channels)
    if loaded is None:
        return {}
    values = loaded if isinstance(loaded, np.ndarray) else np.asarray(loaded)
    kind = _kind(values.dtype)
    if kind is None:
        return {}
    known = _valued(values)
    if not known.any():
        return {}
    return {kind: (float(values[known].min()), float(values[known].max()))}


def ranges_of(extents: Iterable[Ranges]) -> dict[str, tuple[float, float]]:
    """One range for each kind of deep pixel in a data set, from the `extent` of all its pictures.

    It is the smallest usual range (of 8, 10, 12, 14 or 16 bits; 0 to 1 or 255 for floats) that holds all
    pixels, or their own least and greatest value where they would fill less than a quarter of that.
    """
    seen: dict[str, tuple[float, float]] = {}
    for one in extents:
        for kind, (low, high) in one.items():
            least, most = seen.get(kind, (low, high))
            seen[kind] = (min(least, low), max(most, high))
    return {kind: _range(kind, low, high) for kind, (low, high) in sorted(seen.items())}


def square(
    image: Image.Image,
    *,
    size: int,
    crop: float,
    interpolation: str,
    resize: str = "crop",
    fill: Sequence[int] = (0, 0, 0),
) -> NDArray[Any]:
    """An image as pixels (size, size, 3), resized antialiased; one of floats as (size, size).

    Args:
        image: RGB, or floats.
        size: side of the square.
        crop: of ``crop`` alone, see there.
        interpolation: one of `INTERPOLATIONS`.
        resize: ``crop`` resizes the shorter side to size / crop and cuts the centre out; ``pad`` resizes the
            longer side to size and puts bars of one colour on both sides of the shorter; ``squash`` resizes
            each side to size. The last two cut nothing off.
        fill: the colour of the bars.
    """
    method = Image.Resampling[interpolation.upper()]
    if resize == "squash":
        return np.asarray(image.resize((size, size), method))
    if resize == "pad":
        longer = max(image.size)
        wide, high = (max(1, round(side * size / longer)) for side in image.size)
        colour = fill[0] if len(image.getbands()) == 1 else tuple(fill)
        whole = Image.new(image.mode, (size, size), colour)
        whole.paste(image.resize((wide, high), method), ((size - wide) // 2, (size - high) // 2))
        return np.asarray(whole)
    return _centre(image, size=size, crop=crop, method=method)


def _centre(image: Image.Image, *, size: int, crop: float, method: Image.Resampling) -> NDArray[Any]:
    """Resized and cut in one step: a box of the image is resized.

    That is equal to resizing the whole and cutting afterwards, but a strip of 1 x 100000 stays small.
    """
    width, height = image.size
    short = max(size, round(size / crop))
    wide, high = max(short, int(short * width / height)), max(short, int(short * height / width))
    left, top = round((wide - size) / 2), round((high - size) / 2)
    box = (
        left * width / wide,
        top * height / high,
        min(width, (left + size) * width / wide),
        min(height, (top + size) * height / high),
    )
    return np.asarray(image.resize((size, size), method, box=box))


def is_deep(image: Image.Image) -> bool:
    """Whether an image of Pillow has pixels deeper than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def as_rgb(image: Image.Image) -> Image.Image:
    """An image of Pillow with 8 bits, of any mode, as RGB; alpha is laid on white."""
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """An image of Pillow turned as its EXIF says."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # noqa: BLE001 - however it is damaged, metadata is no reason to lose the picture
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def loaded_from(source: Any, *, only_deep: bool = False, channels: int | None = None) -> Any:
    """An array of pixels, or an upright image of Pillow.

    Args:
        source: as `decode` takes it.
        only_deep: give None for 8 bits.
        channels: with a number, all channels are read as deep as they are, also where Pillow reads less.
    """
    if isinstance(source, np.ndarray):
        return _checked(source) if channels is None else source
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), only_deep=only_deep, channels=channels)
    if isinstance(source, Path):
        with open_regular(source) as file:
            return _read(file, only_deep=only_deep, channels=channels)
    raise Unreadable(f"is of type {type(source).__name__}, not a path, bytes or an array")


def _read(file: BinaryIO, *, only_deep: bool, channels: int | None) -> Any:
    head = file.read(256)
    if not head:
        raise Unreadable("is empty (0 bytes)")
    file.seek(0)
    kind = array_files.kind_of(head)
    if kind in ("npy", "dicom") or (kind == "png16" and channels is not None):
        return _array(file, kind, channels)
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            # Compared here as well: Pillow only warns up to twice the limit, and filters aren't thread-safe.
            if width * height > MAX_PIXELS:
                raise Unreadable(f"has {width} x {height} pixels; at most {MAX_PIXELS} are decoded")
            if not (kind == "tiff" and channels is not None and _reads_less(image, channels)):
                if only_deep and not is_deep(image):
                    return None
                image.load()
                return upright(image)
    except Unreadable:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable(f"has more than the {MAX_PIXELS} pixels that are decoded") from error
    except UnidentifiedImageError as error:
        if kind != "tiff":
            markup = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")
            heic, pointer = head[4:].startswith(_HEIC), head.startswith(b"version https://git-lfs")
            why = HTML if markup else HEIC if heic else LFS if pointer else NO_PICTURE[-1]
            raise Unreadable(why) from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise Unreadable(f"can't be decoded ({error or type(error).__name__})") from error
    return _array(file, kind, channels)


def _array(file: BinaryIO, kind: str, channels: int | None) -> NDArray[Any]:
    file.seek(0)
    pixels = array_files.read(file, kind, channels)
    return _checked(pixels) if channels is None else pixels


def _reads_less(image: Any, channels: int) -> bool:
    """Whether Pillow leaves out channels or bits of a TIFF that are asked for."""
    bits = image.tag_v2.get(258, (1,))
    several = len(bits) > 1 or image.tag_v2.get(277, 1) > 1
    return channels not in (1, 3) or (several and max(bits) > 8)


def _to_rgb(loaded: Any, ranges: Ranges) -> Image.Image:
    if isinstance(loaded, np.ndarray):
        scaled = _to_8_bits(loaded, {**FULL_OF_ARRAYS, **ranges}, sure="float" in ranges)
        return as_rgb(Image.fromarray(np.ascontiguousarray(scaled)))
    if is_deep(loaded):
        return as_rgb(Image.fromarray(_to_8_bits(np.asarray(loaded), {**FULL, **ranges})))
    return as_rgb(loaded)


def _checked(array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.ndim == 3 and array.shape[2] not in (3, 4) and array.size and array.dtype.kind in "uif":
        raise Unreadable(f"has {array.shape[2]} channels; `data.channels: {array.shape[2]}` takes such")
    if not fits or array.size == 0 or array.dtype.kind not in "uif":
        raise Unreadable(f"is an array {array.shape} of {array.dtype}; right are {_LAYOUTS}")
    return array


def _to_8_bits(values: NDArray[Any], ranges: Ranges, *, sure: bool = True) -> NDArray[np.uint8]:
    """Pixels scaled by the range of their kind; floats outside one that isn't ``sure`` are refused."""
    return scaled(values, ranges, top=255, sure=sure).round().astype(np.uint8)


def scaled(values: NDArray[Any], ranges: Ranges, *, top: int, sure: bool = True) -> NDArray[Any]:
    """Pixels from 0 to ``top``, by the range of their kind; those of 8 bits by their own.

    Raises:
        Unreadable: the kind has no range, or floats lie outside of one that isn't ``sure``.
    """
    kind = _kind(values.dtype)
    if kind is None:
        return values if top == 255 else values * np.float64(top / 255)
    known = _valued(values)
    if not known.all() and not known.any():
        raise Unreadable("has no finite pixel")
    low, high = ranges.get(kind, (0.0, 0.0))
    outside = kind == "float" and not sure and (values[known].min() < low or values[known].max() > high)
    if low >= high or outside:
        ends = f" from {values[known].min():g} to {values[known].max():g}" if outside else ""
        raise Unreadable(
            f"has {_NAMES[kind]} pixels{ends}, whose range isn't known: the data that was learned from has"
            f" none{_WITHOUT[kind] if outside or not sure else ''}"
        )
    pixels = np.where(known, values, low).astype(np.float64)
    return np.asarray((pixels.clip(low, high) - low) * (top / (high - low)))


_WITHOUT = {
    "float": "; without one, floats are from 0 to 1",
    "int": "; as uint8 they would be taken as they are",
}
_NAMES = {"uint16": "16-bit", "int": "integer", "float": "float"}


def _kind(dtype: np.dtype[Any]) -> str | None:
    """What deep pixels are called in `Ranges`; None for 8 bits."""
    if dtype == np.uint8:
        return None
    return "float" if dtype.kind == "f" else "uint16" if dtype.newbyteorder("=") == np.uint16 else "int"


def _valued(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which pixels have a value: all but NaN, infinity, and what stands for no value."""
    if values.dtype.kind != "f":
        return np.ones(values.shape, dtype=bool)
    finite = np.isfinite(values)
    # Half floats end far below, and the number would overflow in them.
    return finite & (np.abs(values) < NO_DATA) if float(np.finfo(values.dtype).max) > NO_DATA else finite


def _range(kind: str, low: float, high: float) -> tuple[float, float]:
    for top in USUAL_TOPS[kind]:
        if low >= 0 and high <= top and (high - low) >= FILLED * top:
            return 0.0, float(top)
    return (low, high) if high > low else (low, low + 1.0)


def _kind_of_file(mode: int) -> str:
    kinds = [
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ]
    return next((name for test, name in kinds if test(mode)), "something else")
