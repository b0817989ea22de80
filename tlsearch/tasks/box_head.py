"""A light detector: feature maps of several resolutions to classes and boxes at each place of one map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tlsearch.contracts import Level
from tlsearch.tasks.pyramid_decoder import WIDTH, PyramidDecoder

GROUPS = 8
CELLS = 1.5
"""Places on a side of a small box, at least: the coarsest map that has as many is taken."""
DEPTH = 2
"""Convolutions before the classes, and as many before the boxes."""
PRIOR = 0.01
"""What classes start at: most places show nothing (Lin et al. 2017, arXiv:1708.02002)."""
BOX = 5
"""Outputs of a place besides its classes: centreness, and distances to a box's four sides."""
FARTHEST = 5.0
"""Exponent that distances stop at, so that a first wild step can't overflow."""


class BoxHead(nn.Module):
    """One stage without anchors: FCOS (Tian et al. 2019, arXiv:1904.01355) at a single resolution.

    The pyramid's maps are merged into one, of whose places a small box covers more than one. Each place
    tells its classes, how central it is in its object, and how far the object's four sides are.
    """

    def __init__(
        self, levels: Sequence[Level], classes: int, *, usual: float, small: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        fine = [at for at, level in enumerate(levels) if level.side * small >= CELLS]
        self.first = max(fine, default=0)
        kept = levels[self.first :]
        self.usual = usual
        self.merge = PyramidDecoder(kept, WIDTH, size=kept[0].side, dropout=dropout)
        self.class_tower, self.box_tower = _tower(), _tower()
        self.classify = nn.Conv2d(WIDTH, classes, 1)
        self.centre = nn.Conv2d(WIDTH, 1, 1)
        self.reach = nn.Conv2d(WIDTH, 4, 1)
        for layer in (self.classify, self.centre, self.reach):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # there is one
        nn.init.constant_(self.classify.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def forward(self, *maps: Tensor) -> Tensor:
        """(B, classes + 5, S, S) of maps, the finest first.

        Logits of the classes, the logit of centreness, and the distances to a box's left, top, right and
        bottom as shares of the picture's sides.
        """
        merged = self.merge(*maps[self.first :])
        boxes = self.box_tower(merged)
        distances = self.reach(boxes).clamp(max=FARTHEST).exp() * (self.usual / 2)
        return torch.cat([self.classify(self.class_tower(merged)), self.centre(boxes), distances], dim=1)


def _tower() -> nn.Sequential:
    layers: list[nn.Module] = [nn.GroupNorm(GROUPS, WIDTH), nn.ReLU()]
    for _ in range(DEPTH):
        layers += [
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            nn.GroupNorm(GROUPS, WIDTH),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def places(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (S,) of a map's places, as shares of the picture's side: along x, and along y."""
    height, width = outputs.shape[-2:]
    x = (torch.arange(width, device=outputs.device, dtype=outputs.dtype) + 0.5) / width
    y = (torch.arange(height, device=outputs.device, dtype=outputs.dtype) + 0.5) / height
    return x, y


def boxes(outputs: Tensor) -> Tensor:
    """The box that each place tells (B, 4, S, S): left, top, right, bottom as shares of the sides."""
    x, y = places(outputs)
    left, top, right, bottom = outputs[:, -4:].unbind(dim=1)
    return torch.stack([x - left, y[:, None] - top, x + right, y[:, None] + bottom], dim=1)
