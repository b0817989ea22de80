"""Which finalists' predictions are averaged with the winner's."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlsearch.contracts import Task

if TYPE_CHECKING:
    from torch import Tensor

LEAST_GAIN = 0.01
"""Share of the loss that a further recipe must take away: it makes predicting slower."""
CLEARLY = 2.0
"""Standard errors of the difference."""
BLOCKS = 1000
"""Parts of the items, at most, whose losses are told one by one."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A finalist whose predictions go into the mean: its position, and what its outputs are multiplied by."""

    position: int
    scale: float


def choose(
    outputs: Sequence[Tensor], targets: Tensor, task: Task, *, welcome: Collection[int] = ()
) -> list[Chosen]:
    """The winner, the best of those that are welcome, and each further one that lowers the loss of the mean.

    This is the forward selection of Caruana et al. 2004 (Ensemble Selection from Libraries of Models),
    without replacement. As the winner is the best of many, its own loss on these items is too good on
    average: one that is welcome is left out only where the mean with it is clearly worse.

    Args:
        outputs: of each finalist (N, ...), the winner's first.
        targets: theirs.
        task: what is learned; its loss says more than a count of right answers among few items.
        welcome: positions of those that gain more than others where they are trained anew on all items.
    """
    import torch

    scales = [task.scale(own, targets) for own in outputs]
    scaled = [scale * own for scale, own in zip(scales, outputs, strict=True)]

    def losses(positions: Sequence[int]) -> Tensor:
        mean = task.average(torch.stack([scaled[position] for position in positions], dim=1))
        return _losses(mean, targets, task)

    chosen, least = [0], losses([0])
    guests = {position: losses([0, position]) for position in welcome if position}
    if guests:
        guest, found = min(guests.items(), key=lambda one: float(one[1].mean()))
        if float((found - least).mean()) <= CLEARLY * _error(found - least):
            chosen, least = [0, guest], found
    while others := [position for position in range(len(outputs)) if position not in chosen]:
        means = {position: losses([*chosen, position]) for position in others}
        position, found = min(means.items(), key=lambda one: float(one[1].mean()))
        if float(found.mean()) >= float(least.mean()) - LEAST_GAIN * abs(float(least.mean())):
            break
        chosen, least = [*chosen, position], found
    return [Chosen(position, scales[position]) for position in chosen]


def _losses(outputs: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Losses of the items, or of blocks of as many items each, float64."""
    import torch

    size = math.ceil(len(targets) / BLOCKS)
    pairs = zip(torch.split(outputs.unsqueeze(-1), size), torch.split(targets, size), strict=True)
    return torch.cat([task.losses(*pair) for pair in pairs]).double()


def _error(differences: Tensor) -> float:
    """Standard error of their mean."""
    return float(differences.std()) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
