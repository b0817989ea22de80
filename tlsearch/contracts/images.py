"""The input that a vision backbone takes, and pictures as RGB in the product's own errors."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tlsearch.contracts.inputs import InputSpec
from tlsearch.errors import DataError
from tlsearch.images import augmentation, decoding, planes
from tlsearch.records import MOST_CHANNELS


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading; never blocks on a FIFO or touches a device.

    Raises:
        DataError: it isn't a regular file, is missing or can't be read. The message doesn't repeat the path.
    """
    try:
        return decoding.open_regular(path)
    except decoding.Unreadable as error:
        raise DataError(str(error)) from error


def decode(source: object, ranges: decoding.Ranges | None = None) -> Image.Image:
    """A picture as an upright 8-bit RGB image, decoded to its last pixel: see `tlsearch.images.decoding`.

    Raises:
        DataError: it is broken; the message is a short reason and doesn't repeat the path.
    """
    try:
        return decoding.decode(source, ranges)  # type: ignore[arg-type]  # it refuses what it can't take
    except decoding.Unreadable as error:
        raise DataError(str(error)) from error


_AT_ONCE = 64


@dataclass(frozen=True)
class ImageInput(InputSpec):
    """Square input of a vision backbone: RGB, unless ``channels`` says otherwise.

    Attributes:
        size: side of the square, in pixels.
        mean: per channel, of pixels scaled to 0..1; of other than 3 channels that of the training items.
        std: likewise.
        interpolation: ``bicubic``, ``bilinear`` or ``nearest``.
        crop: the shorter side is resized to ``size / crop``, then the centre is cut out.
        ranges: for each kind of pixel deeper than 8 bits, the values that become black and white, as
            `tlsearch.images.decoding.ranges_of` finds them in a data set; what lies outside is clipped.
        resize: how a picture becomes a square: ``crop``, ``pad`` with the colour `fill`, or ``squash``; see
            `tlsearch.images.decoding.square`.
        channels: of a picture; 3 are RGB.
        bits: that are kept of each, 8 or 16.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop: float = 1.0
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)
    resize: str = "crop"
    channels: int = 3
    bits: int = 8

    modality: ClassVar[str] = "image"
    movable: ClassVar[tuple[str, ...]] = ("none", "flip", "dihedral", "light")
    blendable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        ranges = {str(kind): (float(low), float(high)) for kind, (low, high) in dict(self.ranges).items()}
        object.__setattr__(self, "ranges", ranges)  # JSON has lists
        if not all(math.isfinite(high - low) and low < high for low, high in ranges.values()):
            raise ValueError(f"a range of pixels must rise: {ranges}")
        if self.size < 1 or not 0 < self.crop <= 1 or min(self.std) <= 0:
            raise ValueError(f"size must be positive, crop in (0, 1] and std positive: {self}")
        if self.interpolation not in decoding.INTERPOLATIONS:
            raise ValueError(
                f'interpolation "{self.interpolation}" is none of {", ".join(decoding.INTERPOLATIONS)}'
            )
        if self.resize not in decoding.RESIZES:
            raise ValueError(f'resize "{self.resize}" is none of {", ".join(decoding.RESIZES)}')
        if not 1 <= self.channels <= MOST_CHANNELS or self.bits not in planes.TOPS:
            raise ValueError(f"channels are 1 to {MOST_CHANNELS} and bits 8 or 16: {self}")
        if not self.channels == len(self.mean) == len(self.std):
            raise ValueError(f"mean and std have a value for each of {self.channels} channels: {self}")

    @property
    def policies(self) -> tuple[str, ...]:
        """Operations on colours of 8 bits are for RGB alone."""
        return self.movable if self.unusual else (*self.movable, "trivialaugment", "randaugment")

    @property
    def unusual(self) -> bool:
        """Whether pictures are anything else than 8-bit RGB."""
        return (self.channels, self.bits) != (3, 8)

    @property
    def top(self) -> int:
        """The greatest value of an encoded pixel."""
        return planes.TOPS[self.bits]

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, size, size)."""
        return (self.channels, self.size, self.size)

    @property
    def dtype(self) -> str:
        """Pixels 0..255, or 0..65535."""
        return f"uint{self.bits}"

    @property
    def fill(self) -> tuple[int, ...]:
        """The colour of a padded picture's bars: RGB's mean, nearly 0 once normalized, as in timm; else 0."""
        if self.channels != 3:  # their mean is known only when items are encoded
            return (0,) * self.channels
        return tuple(round(self.top * channel) for channel in self.mean)

    def of_pixels(self, channels: int, bits: int) -> ImageInput:
        """This input for other pictures; the mean of other channels than RGB is to be found by `fitted`."""
        same = channels == self.channels
        mean = self.mean if same else (sum(self.mean) / len(self.mean),) * channels
        std = self.std if same else (sum(self.std) / len(self.std),) * channels
        return replace(self, channels=channels, bits=bits, mean=mean, std=std)

    def fitted(self, encoded: NDArray[Any], train: NDArray[np.int64]) -> ImageInput:
        """With mean and deviation of each channel, of the training items, where they aren't RGB."""
        if self.channels == 3:
            return self
        sums, squares, count = np.zeros(self.channels), np.zeros(self.channels), 0
        for start in range(0, len(train), _AT_ONCE):
            pixels = np.asarray(encoded[train[start : start + _AT_ONCE]], np.float64) / self.top
            sums += pixels.sum(axis=(0, 2, 3))
            squares += np.square(pixels).sum(axis=(0, 2, 3))
            count += pixels[:, 0].size
        mean = sums / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        # A channel that is the same everywhere has nothing to tell, and must not become infinite.
        std = np.where(std > 1 / self.top, std, 1.0)
        return replace(self, mean=tuple(map(float, mean)), std=tuple(map(float, std)))

    def reading(self) -> Mapping[str, Any]:
        """Channels and bits, where they aren't RGB's."""
        return {"channels": self.channels, "bits": self.bits} if self.unusual else {}

    def encoding(self) -> Mapping[str, Any]:
        """All but the mean and deviation that `fitted` finds."""
        learned = () if self.channels == 3 else ("mean", "std")
        return {key: value for key, value in self.to_json().items() if key not in learned}

    def resized(self, resize: str) -> ImageInput:
        """This input with another way to make a picture a square."""
        return replace(self, resize=resize)

    def encode(self, item: object) -> NDArray[Any]:
        """Decode and resize (antialiased) to a square, in the way of `resize`: `dtype` (*`shape`)."""
        how: dict[str, Any] = {
            "size": self.size,
            "crop": self.crop,
            "interpolation": self.interpolation,
            "resize": self.resize,
            "fill": self.fill,
        }
        if self.unusual:
            pixels = planes.square(self._planes(item, self.top), top=self.top, **how)
        else:
            pixels = decoding.square(self.picture(item), **how)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def picture(self, item: object) -> Image.Image:
        """An item as a whole upright 8-bit RGB image, which `encode` takes the square of RGB from.

        Of other channels it shows the first three as RGB; of one or two the mean, as grey.

        Raises:
            DataError: it is broken.
        """
        if self.unusual:
            return planes.shown(self._planes(item, 255), 255)
        return decode(item, self.ranges)

    def shown(self, encoded: NDArray[Any]) -> Image.Image:
        """An encoded item as 8-bit RGB, of other channels as `picture` shows them."""
        return planes.shown(encoded.transpose(1, 2, 0), self.top)

    def _planes(self, item: object, top: int) -> NDArray[np.float32]:
        try:
            return planes.planes(item, channels=self.channels, ranges=self.ranges, top=top)  # type: ignore[arg-type]
        except decoding.Unreadable as error:
            raise DataError(str(error)) from error

    def survey(self, item: object) -> Mapping[str, Any]:
        """The kind of its pixels with their least and greatest value, where they are deeper than 8 bits."""
        try:
            channels = self.channels if self.unusual else None
            found = decoding.extent(item, channels=channels)  # type: ignore[arg-type]  # it refuses others
        except decoding.Unreadable:
            return {}
        return {kind: list(ends) for kind, ends in found.items()}

    def suited(self, surveys: Iterable[Mapping[str, Any]]) -> ImageInput:
        """With one range for each kind of deep pixel in a data set; ranges that it has already stay."""
        if self.ranges:
            return self
        found = decoding.ranges_of(surveys)
        return replace(self, ranges=found) if found else self

    def to_model(self, batch: Tensor) -> Tensor:
        """Encoded items (B, *`shape`) as float32 ``(x / top - mean) / std`` on the same device.

        On a CPU the result is channels-last, in which convolutions run 1.5 to 2.4 times faster.
        """
        channels_last = batch.device.type == "cpu" and batch.is_contiguous()
        layout = torch.channels_last if channels_last else torch.preserve_format
        pixels = batch.to(torch.float32, copy=True, memory_format=layout)
        mean = torch.tensor(self.mean, device=batch.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=batch.device).view(-1, 1, 1)
        return pixels.div_(self.top).sub_(mean).div_(std)

    def to_json(self) -> Mapping[str, Any]:
        """The constructor's arguments.

        What came to them later stands there only where it is no default, so that what was stored before
        keeps its key.
        """
        ranges = {kind: list(ends) for kind, ends in self.ranges.items()}
        values = {**asdict(self), "mean": list(self.mean), "std": list(self.std), "ranges": ranges}
        usual = {"ranges": {}, "resize": "crop", "channels": 3, "bits": 8}
        return {key: value for key, value in values.items() if key not in usual or value != usual[key]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ImageInput:
        """What `to_json` gave, as an input again."""
        return cls(**{**document, "mean": tuple(document["mean"]), "std": tuple(document["std"])})

    def draw(self, policy: str, count: int, *, seed: int, mirror: bool) -> Tensor | None:
        """Random parameters (count, P) float32, P depending on the policy; None for ``none``."""
        generator = torch.Generator().manual_seed(seed)
        if policy == "flip":
            return ((torch.rand(count, 1, generator=generator) < 0.5) & mirror).float()
        if policy == "dihedral":
            return augmentation.draw_dihedral(count, generator, mirror=mirror)
        if policy == "light":
            return augmentation.draw_light(count, generator, mirror=mirror)
        if policy == "trivialaugment":
            return augmentation.draw_trivialaugment(count, generator, mirror=mirror)
        if policy == "randaugment":
            return augmentation.draw_randaugment(count, generator, mirror=mirror)
        return super().draw(policy, count, seed=seed, mirror=mirror)

    def augment(self, batch: Tensor, policy: str, draws: Tensor) -> Tensor:
        """Encoded items, item i changed by row i alone, whatever else is in the batch.

        Colours are changed of RGB alone.
        """
        if policy == "light":
            # A few pictures at a time: what fits the processor's cache goes 3 times as fast.
            count = max(1, 200_000 // self.size**2) if batch.device.type == "cpu" else len(batch)
            pieces = torch.split(batch, count), torch.split(draws.to(batch.device), count)
            moved = [augmentation.light(*pair, top=self.top) for pair in zip(*pieces, strict=True)]
            return torch.cat(moved)
        if policy == "flip":
            return torch.where(draws.to(batch.device).bool()[:, :, None, None], batch.flip(-1), batch)
        if policy == "dihedral":
            return augmentation.dihedral(batch, draws.to(batch.device))
        if policy in ("trivialaugment", "randaugment"):
            rows = zip(batch, draws.tolist(), strict=True)
            return torch.stack([augmentation.operate_all(image, row) for image, row in rows])
        return super().augment(batch, policy, draws)

    def move(self, maps: Tensor, policy: str, draws: Tensor, *, unknown: int) -> Tensor:
        """uint8 (B, S, S), each moved as its picture is; nearest neighbours, since indices have no mean."""
        if policy == "flip":
            return torch.where(draws.to(maps.device).bool()[:, :, None], maps.flip(-1), maps)
        if policy == "dihedral":
            return augmentation.dihedral(maps, draws.to(maps.device))
        if policy == "light":
            return augmentation.light_maps(maps, draws.to(maps.device), unknown=unknown)
        return super().move(maps, policy, draws, unknown=unknown)

    def place(self, points: Tensor, policy: str, draws: Tensor) -> Tensor:
        """Points (B, N, 2), each moved as its picture is."""
        draws = draws.to(points.device)
        if policy == "flip":
            mirrored = torch.stack([1 - points[..., 0], points[..., 1]], dim=-1)
            return torch.where(draws.bool()[:, :, None], mirrored, points)
        if policy == "dihedral":
            return augmentation.dihedral_points(points, draws)
        if policy == "light":
            return augmentation.light_points(points, draws)
        return super().place(points, policy, draws)
