"""Pictures: any file or array as RGB, and the input that a vision backbone takes."""

from __future__ import annotations

import io
import math
import stat
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from tlsearch.contracts.inputs import InputSpec
from tlsearch.errors import DataError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
"""What is tried on a file's content. No EPS, WMF or PDF: those start other programs."""

MAX_PIXELS = 89_478_485
"""Where Pillow begins to warn of a decompression bomb; here it is the end."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision weigh them


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading; never blocks on a FIFO or touches a device.

    Raises:
        DataError: it isn't a regular file, is missing or can't be read. The message doesn't repeat the path.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise DataError(f"is {_kind(mode)}, not a file")
        return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"can't be read ({reason.lower()})") from error


def decode(source: Path | bytes | NDArray[Any]) -> Image.Image:
    """A picture as an upright 8-bit RGB image, decoded to its last pixel.

    Animations give their first frame; transparency is laid on white; 16-bit and float pixels are scaled.

    Args:
        source: a file, a file's content, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8
            or uint16.

    Raises:
        DataError: it is broken; the message is a short reason and doesn't repeat the path.
    """
    if isinstance(source, np.ndarray):
        return to_rgb(_from_array(source))
    if isinstance(source, bytes):
        return _read(io.BytesIO(source))
    if isinstance(source, Path):
        with open_regular(source) as file:
            return _read(file)
    raise DataError(f"is a {type(source).__name__}, not a path, bytes or an array")


def to_rgb(image: Image.Image) -> Image.Image:
    """A Pillow image of any mode as upright RGB, alpha laid on white, deep pixels scaled to 8 bits."""
    image.load()
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _read(file: BinaryIO) -> Image.Image:
    head = file.read(256)
    if not head:
        raise DataError("is empty (0 bytes)")
    file.seek(0)
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            # Compared here as well: Pillow only warns up to twice the limit, and filters aren't thread-safe.
            if width * height > MAX_PIXELS:
                raise DataError(f"has {width} x {height} pixels; at most {MAX_PIXELS} are decoded")
            return to_rgb(image)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"has more than the {MAX_PIXELS} pixels that are decoded") from error
    except UnidentifiedImageError as error:
        markup = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")
        raise DataError(
            "is HTML or XML, not a picture" if markup else "is no known picture format"
        ) from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise DataError(f"can't be decoded ({error or type(error).__name__})") from error


def _kind(mode: int) -> str:
    kinds = [
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ]
    return next((name for test, name in kinds if test(mode)), "something else")


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not fits or array.size == 0 or array.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"is an array {array.shape} of {array.dtype}; right are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
            " of uint8 or uint16"
        )
    return Image.fromarray(np.ascontiguousarray(array if array.dtype == np.uint8 else _to_8_bits(array)))


def _to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale 16-bit by its full range; wider types by the smallest usual range that holds them."""
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    pixels = values.astype(np.float64)
    finite = np.isfinite(pixels)
    if not finite.any():
        raise DataError("has no finite pixel")
    low, high = float(pixels[finite].min()), float(pixels[finite].max())
    pixels[~finite] = low
    for top in (1, 255, 65535) if values.dtype.kind == "f" else (255, 65535):
        if low >= 0 and high <= top:
            return (pixels * (255 / top)).round().astype(np.uint8)
    return ((pixels - low) * (255 / (high - low or 1.0))).round().astype(np.uint8)


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(0x0112, 1)
    except (SyntaxError, ValueError, LookupError, TypeError, OSError, struct.error):
        return image  # damaged metadata is no reason to lose the picture
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


@dataclass(frozen=True)
class ImageInput(InputSpec):
    """Square RGB input of a vision backbone.

    Attributes:
        size: side of the square, in pixels.
        mean: per channel, of pixels scaled to 0..1.
        std: likewise.
        interpolation: ``bicubic``, ``bilinear`` or ``nearest``.
        crop: the shorter side is resized to ``size / crop``, then the centre is cut out.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop: float = 1.0

    modality: ClassVar[str] = "image"
    policies: ClassVar[tuple[str, ...]] = ("none", "flip", "light", "trivialaugment", "randaugment")
    blendable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.crop <= 1 or min(self.std) <= 0:
            raise ValueError(f"size must be positive, crop in (0, 1] and std positive: {self}")
        if self.interpolation not in _RESAMPLING:
            raise ValueError(f'interpolation "{self.interpolation}" is none of {", ".join(_RESAMPLING)}')

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, size, size)."""
        return (3, self.size, self.size)

    @property
    def dtype(self) -> str:
        """Pixels 0..255."""
        return "uint8"

    def encode(self, item: object) -> NDArray[np.uint8]:
        """Decode, resize (antialiased), cut the centre: uint8 (3, size, size)."""
        image = decode(item)  # type: ignore[arg-type]  # decode refuses what it can't take
        width, height = image.size
        short = max(self.size, round(self.size / self.crop))
        wide = max(short, int(short * width / height))
        high = max(short, int(short * height / width))
        left, top = round((wide - self.size) / 2), round((high - self.size) / 2)
        # Equal to resizing the whole and cutting afterwards, but a strip of 1 x 100000 stays small.
        box = (
            left * width / wide,
            top * height / high,
            min(width, (left + self.size) * width / wide),
            min(height, (top + self.size) * height / high),
        )
        square = image.resize((self.size, self.size), _RESAMPLING[self.interpolation], box=box)
        return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))

    def to_model(self, batch: Tensor) -> Tensor:
        """uint8 (B, 3, size, size) as float32 ``(x / 255 - mean) / std`` on the same device.

        On a CPU the result is channels-last, in which convolutions run 1.5 to 2.4 times faster.
        """
        channels_last = batch.device.type == "cpu" and batch.is_contiguous()
        layout = torch.channels_last if channels_last else torch.preserve_format
        pixels = batch.to(torch.float32, copy=True, memory_format=layout)
        mean = torch.tensor(self.mean, device=batch.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=batch.device).view(3, 1, 1)
        return pixels.div_(255).sub_(mean).div_(std)

    def to_json(self) -> Mapping[str, Any]:
        """The constructor's arguments."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ImageInput:
        """What `to_json` gave, as an input again."""
        return cls(**{**document, "mean": tuple(document["mean"]), "std": tuple(document["std"])})

    def draw(self, policy: str, count: int, *, seed: int, mirror: bool) -> Tensor | None:
        """Random parameters (count, P) float32, P depending on the policy; None for ``none``."""
        generator = torch.Generator().manual_seed(seed)
        if policy == "flip":
            return ((torch.rand(count, 1, generator=generator) < 0.5) & mirror).float()
        if policy == "light":
            return _draw_light(count, generator, mirror=mirror)
        if policy == "trivialaugment":
            return _draw_trivialaugment(count, generator, mirror=mirror)
        if policy == "randaugment":
            return _draw_randaugment(count, generator, mirror=mirror)
        return super().draw(policy, count, seed=seed, mirror=mirror)

    def augment(self, batch: Tensor, policy: str, draws: Tensor) -> Tensor:
        """uint8 (B, 3, size, size), item i changed by row i alone, whatever else is in the batch."""
        if policy == "light":
            # A few pictures at a time: what fits the processor's cache goes 3 times as fast.
            count = max(1, 200_000 // self.size**2) if batch.device.type == "cpu" else len(batch)
            pieces = torch.split(batch, count), torch.split(draws.to(batch.device), count)
            return torch.cat([_light(*pair) for pair in zip(*pieces, strict=True)])
        if policy == "flip":
            return torch.where(draws.to(batch.device).bool()[:, :, None, None], batch.flip(-1), batch)
        if policy in ("trivialaugment", "randaugment"):
            rows = zip(batch, draws.tolist(), strict=True)
            return torch.stack([_operate_all(image, row) for image, row in rows])
        return super().augment(batch, policy, draws)


def _draw_light(count: int, generator: torch.Generator, *, mirror: bool) -> Tensor:
    """Rows of (a, b, c, d, e, f, brightness, contrast); (a..f) maps target to source coordinates -1..1.

    Drawn: area 0.7..1, aspect 3/4..4/3, place, rotation of +-10 degrees, flip, brightness and contrast
    of 0.8..1.2.
    """
    area, aspect, right, down, turn, brightness, contrast, flip = torch.rand(8, count, generator=generator)
    area = 0.7 + 0.3 * area
    aspect = torch.exp((2 * aspect - 1) * math.log(4 / 3))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    angle = (2 * turn - 1) * math.radians(10)
    sign = torch.where(flip < 0.5, -1.0, 1.0) if mirror else torch.ones(count)
    cos, sin = angle.cos(), angle.sin()
    columns = [
        *(cos * width * sign, -sin * height, (2 * right - 1) * (1 - width)),
        *(sin * width * sign, cos * height, (2 * down - 1) * (1 - height)),
        *(0.8 + 0.4 * brightness, 0.8 + 0.4 * contrast),
    ]
    return torch.stack(columns, dim=1)


def _light(batch: Tensor, draws: Tensor) -> Tensor:
    a, b, c, d, e, f, brightness, contrast = draws.view(-1, 8, 1, 1).unbind(1)
    size = batch.shape[-1]
    x = (torch.arange(size, device=batch.device) * 2 + 1) / size - 1
    y = x[:, None]
    # Element by element, and the mean from integers: a matrix product or a float sum may round otherwise
    # in another batch.
    grid = torch.stack([a * x + b * y + c, d * x + e * y + f], dim=-1)
    weights = torch.tensor(_GREY, device=batch.device) / size**2
    sums = batch.sum(dim=(2, 3), dtype=torch.int64).float() * weights
    grey = (sums[:, 0] + sums[:, 1] + sums[:, 2])[:, None, None, None] * brightness[:, None]
    pixels = functional.grid_sample(
        batch.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    pixels.mul_((brightness * contrast)[:, None]).add_(grey * (1 - contrast[:, None]))
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


_OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color"),
    *("contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)


def _draw_randaugment(count: int, generator: torch.Generator, *, mirror: bool) -> Tensor:
    """Rows of (operation, level, operation, level, flip); a level is signed, 9 of 30 give or take a half."""
    operations = torch.randint(len(_OPERATIONS), (count, 2), generator=generator).float()
    strengths = (9 + 0.5 * torch.randn(count, 2, generator=generator)).clamp(0, 30) / 30
    signs = torch.randint(2, (count, 2), generator=generator) * 2 - 1
    flips = (torch.rand(count, generator=generator) < 0.5).float() * mirror
    levels = strengths * signs
    return torch.stack([operations[:, 0], levels[:, 0], operations[:, 1], levels[:, 1], flips], dim=1)


def _draw_trivialaugment(count: int, generator: torch.Generator, *, mirror: bool) -> Tensor:
    """Rows of (operation, level, flip): one operation, at any strength (Mueller and Hutter 2021).

    arXiv:2103.10158; the strengths are those of RandAugment's range, not of their "wide" one.
    """
    operations = torch.randint(len(_OPERATIONS), (count,), generator=generator).float()
    levels = 2 * torch.rand(count, generator=generator) - 1
    flips = (torch.rand(count, generator=generator) < 0.5).float() * mirror
    return torch.stack([operations, levels, flips], dim=1)


def _operate_all(image: Tensor, row: list[float]) -> Tensor:
    """Pairs of an operation and its level, then whether to flip.

    Two operations make RandAugment with N = 2, M = 9 (Cubuk et al. 2020, arXiv:1909.13719).
    """
    *pairs, flip = row
    for index, level in zip(pairs[::2], pairs[1::2], strict=True):
        image = _operate(image, _OPERATIONS[int(index)], level)
    return image.flip(-1) if flip else image


def _operate(image: Tensor, operation: str, level: float) -> Tensor:
    from torchvision.transforms.v2 import functional as ops

    shift = level * 150 / 331 * image.shape[-1]
    tilt = math.degrees(math.atan(0.3 * level))
    moves: dict[str, tuple[float, float, float, float, float]] = {  # angle, right, down, shear x, shear y
        "shear_x": (0, 0, 0, tilt, 0),
        "shear_y": (0, 0, 0, 0, tilt),
        "translate_x": (0, shift, 0, 0, 0),
        "translate_y": (0, 0, shift, 0, 0),
        "rotate": (30 * level, 0, 0, 0, 0),
    }
    blends = {
        "brightness": ops.adjust_brightness,
        "color": ops.adjust_saturation,
        "contrast": ops.adjust_contrast,
        "sharpness": ops.adjust_sharpness,
    }
    if operation in moves:
        angle, right, down, shear_x, shear_y = moves[operation]
        return ops.affine(
            image, angle=angle, translate=[right, down], scale=1.0, shear=[shear_x, shear_y], fill=[128.0]
        )
    if operation in blends:
        return blends[operation](image, 1 + 0.9 * level)
    if operation == "posterize":
        return ops.posterize(image, 8 - round(4 * abs(level)))
    if operation == "solarize":
        return ops.solarize(image, 255 * (1 - abs(level)))
    return {"autocontrast": ops.autocontrast, "equalize": ops.equalize}.get(operation, torch.clone)(image)
