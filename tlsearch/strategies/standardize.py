"""Features of zero mean and unit deviation, as learners in closed form want them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

RIDGE_PATH = tuple(float(strength) for strength in np.logspace(-2, 6, 17))
"""Strengths that ridge chooses among; on standardized features the best one grows with their number."""


class Standardize(nn.Module):
    """Shift and scale features (B, D) to the training items' zero mean and unit deviation."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def forward(self, features: Tensor) -> Tensor:
        """Standardized features."""
        return (features - self.mean) / self.scale


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Means and deviations (D,) of features (N, D)."""
    mean, scale = features.mean(dim=0), features.std(dim=0)
    # A feature that is constant but for rounding tells nothing, and must not where it isn't constant.
    return mean, torch.where(scale > 1e-6 * (1 + mean.abs()), scale, torch.inf)
