"""Which box each place of a map is to tell, and the loss of what it tells instead."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from tlsearch.tasks import box_head

RADIUS = 1.5
"""Places around a box's centre, in each direction, that are to tell it."""
LEAST = 0.05
"""Centreness at least: places of a tiny box may lie beside it, and are to tell it all the same."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What places are to tell.

    Attributes:
        classes: (B, C, S, S) of 0 and 1.
        positive: (B, S, S) whether a place has a box.
        boxes: (P, 4) of the places that have one.
        centreness: (P,) of these.
    """

    classes: Tensor
    positive: Tensor
    boxes: Tensor
    centreness: Tensor


def wanted(outputs: Tensor, targets: Tensor) -> Wanted:
    """Share boxes (B, M, 5) out among the places of outputs (B, C + 5, S, S).

    A place belongs to the smallest box that it lies in and near the centre of (Tian et al. 2019,
    arXiv:1904.01355, with centre sampling); the place that holds a box's centre always counts as such.
    """
    classes = outputs.shape[1] - box_head.BOX
    x, y = box_head.places(outputs)
    side_x, side_y = 1 / outputs.shape[-1], 1 / outputs.shape[-2]
    targets = targets.to(outputs.dtype)
    present = targets[..., 0] >= 0  # (B, M)
    left, top, right, bottom = (edge[..., None] for edge in targets[..., 1:].unbind(dim=-1))

    def along(place: Tensor, low: Tensor, high: Tensor, side: float) -> Tensor:
        """Whether places are inside and near enough to the centre, or the nearest to it (B, M, S)."""
        from_centre = (place - (low + high) / 2).abs()
        inside = (place > low) & (place < high) & (from_centre < RADIUS * side)
        nearest = from_centre <= from_centre.min(dim=-1, keepdim=True).values
        return inside | nearest

    near_x = along(x, left, right, side_x)
    near_y = along(y, top, bottom, side_y)
    near = (near_y[..., :, None] & near_x[..., None, :]) & present[..., None, None]
    area = ((right - left) * (bottom - top))[..., None]
    smallest, which = torch.where(near, area, torch.inf).min(dim=1)  # (B, S, S)
    positive = smallest.isfinite()
    item, row, column = positive.nonzero(as_tuple=True)
    chosen = targets[item, which[positive]]
    wanted_classes = torch.zeros_like(outputs[:, :classes])
    wanted_classes[item, chosen[:, 0].long(), row, column] = 1
    return Wanted(wanted_classes, positive, chosen[:, 1:], _centreness(chosen[:, 1:], x[column], y[row]))


def _centreness(found: Tensor, x: Tensor, y: Tensor) -> Tensor:
    left, top, right, bottom = found.unbind(dim=-1)
    across = torch.stack([x - left, right - x]).clamp(min=0)
    down = torch.stack([y - top, bottom - y]).clamp(min=0)
    shares = [pair.min(dim=0).values / pair.max(dim=0).values.clamp(min=1e-9) for pair in (across, down)]
    return (shares[0] * shares[1]).sqrt().clamp(min=LEAST)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Focal loss of the classes, generalized IoU loss of the boxes, cross-entropy of centreness; a scalar.

    Lin et al. 2017 (arXiv:1708.02002), Rezatofighi et al. 2019 (arXiv:1902.09630), Tian et al. 2019. Each is
    per place that has a box; boxes are weighed by how central their place is.
    """
    outputs = outputs.float()
    found = wanted(outputs, targets)
    classes = found.classes.shape[1]
    count = max(1, len(found.boxes))
    focal = sigmoid_focal_loss(outputs[:, :classes], found.classes, reduction="sum") / count
    told = box_head.boxes(outputs).movedim(1, -1)[found.positive]
    overlap = generalized_box_iou_loss(told, found.boxes, reduction="none") * found.centreness
    centre = functional.binary_cross_entropy_with_logits(
        outputs[:, classes][found.positive], found.centreness, reduction="sum"
    )
    return focal + overlap.sum() / found.centreness.sum().clamp(min=1e-6) + centre / count
