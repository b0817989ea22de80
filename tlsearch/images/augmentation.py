"""Random changes of pictures that leave their class as it is, drawn beforehand for all items at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision weigh them


def draw_light(count: int, generator: torch.Generator, *, mirror: bool) -> Tensor:
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


def light(batch: Tensor, draws: Tensor, *, top: int = 255) -> Tensor:
    """Pixels (B, C, S, S) from 0 to ``top``, each changed by its row of `draw_light`.

    Brightness and contrast are those of RGB: other channels are only moved.
    """
    a, b, c, d, e, f, brightness, contrast = draws.view(-1, 8, 1, 1).unbind(1)
    size = batch.shape[-1]
    x = (torch.arange(size, device=batch.device) * 2 + 1) / size - 1
    y = x[:, None]
    # Element by element, and the mean from integers: a matrix product or a float sum may round otherwise
    # in another batch.
    grid = torch.stack([a * x + b * y + c, d * x + e * y + f], dim=-1)
    pixels = functional.grid_sample(
        batch.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    if batch.shape[1] == len(_GREY):
        weights = torch.tensor(_GREY, device=batch.device) / size**2
        sums = batch.sum(dim=(2, 3), dtype=torch.int64).float() * weights
        grey = (sums[:, 0] + sums[:, 1] + sums[:, 2])[:, None, None, None] * brightness[:, None]
        pixels.mul_((brightness * contrast)[:, None]).add_(grey * (1 - contrast[:, None]))
    return pixels.round_().clamp_(0, top).to(batch.dtype)


def light_maps(maps: Tensor, draws: Tensor, *, unknown: int) -> Tensor:
    """uint8 (B, S, S), each moved by its row of `draw_light` as `light` moves pictures.

    A picture goes on mirrored beyond its border; what is there isn't known to be what it seems, so that a map
    has ``unknown`` there.
    """
    a, b, c, d, e, f = draws.view(-1, 8, 1, 1).unbind(1)[:6]
    size = maps.shape[-1]
    x = (torch.arange(size, device=maps.device) * 2 + 1) / size - 1
    y = x[:, None]
    grid = torch.stack([a * x + b * y + c, d * x + e * y + f], dim=-1)
    # Shifted, so that the zeros that stand for what lies outside are told from class 0.
    shifted = (maps.float() + 1)[:, None]
    moved = functional.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    outside = moved[:, 0] == 0
    return (moved[:, 0] - 1).clamp_(min=0).to(torch.uint8).masked_fill_(outside, unknown)


def light_points(points: Tensor, draws: Tensor) -> Tensor:
    """Points (B, N, 2), x and y as shares of the side, each moved by its row of `draw_light`."""
    a, b, c, d, e, f = draws.view(-1, 8, 1).unbind(1)[:6]
    x, y = (2 * points - 1 - torch.stack([c, f], dim=-1)).unbind(-1)
    # The rows say where a pixel of the result comes from; a point goes the other way.
    determinant = a * e - b * d
    moved = torch.stack([e * x - b * y, a * y - d * x], dim=-1) / determinant[..., None]
    return (moved + 1) / 2


OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color"),
    *("contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)


def draw_randaugment(count: int, generator: torch.Generator, *, mirror: bool) -> Tensor:
    """Rows of (operation, level, operation, level, flip); a level is signed, 9 of 30 give or take a half."""
    operations = torch.randint(len(OPERATIONS), (count, 2), generator=generator).float()
    strengths = (9 + 0.5 * torch.randn(count, 2, generator=generator)).clamp(0, 30) / 30
    signs = torch.randint(2, (count, 2), generator=generator) * 2 - 1
    flips = (torch.rand(count, generator=generator) < 0.5).float() * mirror
    levels = strengths * signs
    return torch.stack([operations[:, 0], levels[:, 0], operations[:, 1], levels[:, 1], flips], dim=1)


def draw_dihedral(count: int, generator: torch.Generator, *, mirror: bool) -> Tensor:
    """Rows of (quarter turns, mirrored): a square's eight symmetries, without ``mirror`` its four turns."""
    turns = torch.randint(4, (count, 1), generator=generator)
    return torch.cat([turns, (torch.rand(count, 1, generator=generator) < 0.5) & mirror], dim=1).float()


def dihedral(batch: Tensor, draws: Tensor) -> Tensor:
    """Squares (B, ..., S, S), each mirrored and then turned to the left by its row of `draw_dihedral`."""
    turns, mirrored = draws.view(-1, 2, *[1] * (batch.ndim - 1)).unbind(1)
    upright = torch.where(mirrored.bool(), batch.flip(-1), batch)
    turned = upright
    for quarter in (1, 2, 3):
        turned = torch.where(turns == quarter, torch.rot90(upright, quarter, (-2, -1)), turned)
    return turned


def dihedral_points(points: Tensor, draws: Tensor) -> Tensor:
    """Points (B, N, 2), x and y as shares of the side, each moved by its row of `draw_dihedral`."""
    turns, mirrored = draws.view(-1, 2, 1, 1).unbind(1)
    x, y = points.unbind(-1)
    moved = torch.where(mirrored.bool(), torch.stack([1 - x, y], dim=-1), points)
    for quarter in (1, 2, 3):
        x, y = moved.unbind(-1)
        moved = torch.where(turns >= quarter, torch.stack([y, 1 - x], dim=-1), moved)
    return moved


def draw_trivialaugment(count: int, generator: torch.Generator, *, mirror: bool) -> Tensor:
    """Rows of (operation, level, flip): one operation, at any strength (Mueller and Hutter 2021).

    arXiv:2103.10158; the strengths are those of RandAugment's range, not of their "wide" one.
    """
    operations = torch.randint(len(OPERATIONS), (count,), generator=generator).float()
    levels = 2 * torch.rand(count, generator=generator) - 1
    flips = (torch.rand(count, generator=generator) < 0.5).float() * mirror
    return torch.stack([operations, levels, flips], dim=1)


def operate_all(image: Tensor, row: list[float]) -> Tensor:
    """One image changed by pairs of an operation and its level, then flipped where the row says so.

    Two operations make RandAugment with N = 2, M = 9 (Cubuk et al. 2020, arXiv:1909.13719), by torchvision's
    operations.
    """
    *pairs, flip = row
    for index, level in zip(pairs[::2], pairs[1::2], strict=True):
        image = _operate(image, OPERATIONS[int(index)], level)
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
