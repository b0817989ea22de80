"""What came of measuring a model on a split of a study's items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the process that only asks for scores doesn't import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of a model on a split.

    Attributes:
        items: of the split.
        own: of the model as it predicts.
        members: of each network alone.
        plain: of all networks on the items as they are.
        mirrored: of all networks on these and their mirror images.
        kept: outputs and targets of all items, for a task that calibrates.
        remembered: what the evaluator has for the model's calibration.
        features: of the same items, as the first network's head is given them, where the task abstains.
    """

    items: int
    own: Mapping[str, float]
    members: Sequence[Mapping[str, float]]
    plain: Mapping[str, float]
    mirrored: Mapping[str, float]
    kept: tuple[Tensor, Tensor] | None
    remembered: Mapping[str, Any]
    features: Tensor | None
