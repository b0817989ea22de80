"""A light decoder: feature maps of several resolutions to one map of logits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import Level

WIDTH = 64
GROUPS = 8


class PyramidDecoder(nn.Module):
    """A feature pyramid from coarse to fine, then one linear layer for each place.

    As in feature pyramid networks (Lin et al. 2017, arXiv:1612.03144) and their use for segmentation
    (Kirillov et al. 2019, arXiv:1901.02446): each level is projected, the coarser sum is laid over it, and a
    convolution smooths what comes out. Group normalization doesn't depend on the batch, which may be small.
    """

    def __init__(self, levels: Sequence[Level], outputs: int, *, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.size = size
        self.sides = tuple(level.side for level in levels)
        self.lateral = nn.ModuleList(nn.Conv2d(level.channels, WIDTH, 1, bias=False) for level in levels)
        self.normed = nn.ModuleList(nn.GroupNorm(GROUPS, WIDTH) for _ in levels)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, WIDTH), nn.ReLU()
            )
            for _ in levels
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(WIDTH, outputs, 1)
        nn.init.normal_(self.classify.weight, std=0.01)
        if self.classify.bias is not None:
            nn.init.zeros_(self.classify.bias)

    def forward(self, *maps: Tensor) -> Tensor:
        """Logits (B, outputs, size, size) of maps (B, channels, side, side), the finest first."""
        merged = self._projected(len(self.sides) - 1, maps)
        merged = self.smooth[-1](merged)
        for at in range(len(self.sides) - 2, -1, -1):
            side = self.sides[at]
            coarse = functional.interpolate(merged, size=(side, side), mode="bilinear", align_corners=False)
            merged = self.smooth[at](self._projected(at, maps) + coarse)
        # Without dropout it is no operation either, as in every other head.
        logits = self.classify(self.dropout(merged) if self.dropout.p else merged)
        whole = (self.size, self.size)
        return functional.interpolate(logits, size=whole, mode="bilinear", align_corners=False)

    def _projected(self, at: int, maps: Sequence[Tensor]) -> Tensor:
        normed: Tensor = self.normed[at](self.lateral[at](maps[at]))
        return normed
