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
from tlsearch.images import augmentation, decoding


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


@dataclass(frozen=True)
class ImageInput(InputSpec):
    """Square RGB input of a vision backbone.

    Attributes:
        size: side of the square, in pixels.
        mean: per channel, of pixels scaled to 0..1.
        std: likewise.
        interpolation: ``bicubic``, ``bilinear`` or ``nearest``.
        crop: the shorter side is resized to ``size / crop``, then the centre is cut out.
        ranges: for each kind of pixel deeper than 8 bits, the values that become black and white, as
            `tlsearch.images.decoding.ranges_of` finds them in a data set; what lies outside is clipped.
        resize: how a picture becomes a square: ``crop``, ``pad`` with the colour `fill`, or ``squash``; see
            `tlsearch.images.decoding.square`.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop: float = 1.0
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)
    resize: str = "crop"

    modality: ClassVar[str] = "image"
    movable: ClassVar[tuple[str, ...]] = ("none", "flip", "dihedral", "light")
    policies: ClassVar[tuple[str, ...]] = (*movable, "trivialaugment", "randaugment")
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

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, size, size)."""
        return (3, self.size, self.size)

    @property
    def dtype(self) -> str:
        """Pixels 0..255."""
        return "uint8"

    @property
    def fill(self) -> tuple[int, ...]:
        """The colour of a padded picture's bars: the channels' mean, nearly 0 once normalized, as in timm."""
        return tuple(round(255 * channel) for channel in self.mean)

    def resized(self, resize: str) -> ImageInput:
        """This input with another way to make a picture a square."""
        return replace(self, resize=resize)

    def encode(self, item: object) -> NDArray[np.uint8]:
        """Decode and resize (antialiased) to a square, in the way of `resize`: uint8 (3, size, size)."""
        pixels = decoding.square(
            self.picture(item),
            size=self.size,
            crop=self.crop,
            interpolation=self.interpolation,
            resize=self.resize,
            fill=self.fill,
        )
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def picture(self, item: object) -> Image.Image:
        """An item as the whole upright 8-bit RGB image that `encode` takes its square from.

        Raises:
            DataError: it is broken.
        """
        return decode(item, self.ranges)

    def survey(self, item: object) -> Mapping[str, Any]:
        """The kind of its pixels with their least and greatest value, where they are deeper than 8 bits."""
        try:
            found = decoding.extent(item)  # type: ignore[arg-type]  # extent refuses what it can't take
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
        """The constructor's arguments.

        What came to them later stands there only where it is no default, so that what was stored before
        keeps its key.
        """
        ranges = {kind: list(ends) for kind, ends in self.ranges.items()}
        values = {**asdict(self), "mean": list(self.mean), "std": list(self.std), "ranges": ranges}
        usual = {"ranges": {}, "resize": "crop"}
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
        """uint8 (B, 3, size, size), item i changed by row i alone, whatever else is in the batch."""
        if policy == "light":
            # A few pictures at a time: what fits the processor's cache goes 3 times as fast.
            count = max(1, 200_000 // self.size**2) if batch.device.type == "cpu" else len(batch)
            pieces = torch.split(batch, count), torch.split(draws.to(batch.device), count)
            return torch.cat([augmentation.light(*pair) for pair in zip(*pieces, strict=True)])
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
