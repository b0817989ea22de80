"""An evaluator that keeps what it is given, where outputs are small."""

from __future__ import annotations

import torch
from torch import Tensor

from tlsearch.contracts import Evaluator


class KeptOutputs(Evaluator):
    """Keeps outputs (B, ...) and targets (B, ...): scores are then the same however items were batched."""

    def __init__(self) -> None:
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take a batch."""
        self._outputs.append(outputs.detach().float().cpu())
        self._targets.append(targets.cpu())

    def kept(self) -> tuple[Tensor, Tensor]:
        """All outputs, float32, and all targets."""
        return torch.cat(self._outputs), torch.cat(self._targets)
