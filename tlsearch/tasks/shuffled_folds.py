"""Folds in which something is fitted to held-out items and measured on others of them."""

from __future__ import annotations

import torch
from torch import Tensor

FOLDS = 5


def shuffled_folds(items: int) -> Tensor:
    """The fold of each item (N,), from 0 on: shuffled, as items may stand in the order of their classes."""
    order = torch.randperm(items, generator=torch.Generator().manual_seed(0))
    folds = torch.empty_like(order)
    folds[order] = torch.arange(items) % FOLDS
    return folds
