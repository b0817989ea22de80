"""Gradual unfreezing: more groups train in every epoch, from the head down."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna.distributions import FloatDistribution

from tlsearch.contracts import Backbone, BackboneInfo, FineTuning, Space, frozen_groups, number
from tlsearch.records import Params
from tlsearch_staged.norms import NORMS, thaw

FACTOR = 2.6
RATIO = FACTOR**-3
"""The rate of the paper's first group of four over that of its last."""


class GradualUnfreezing(FineTuning):
    """First the head, then more groups in every epoch, each slower than the one above it.

    Howard and Ruder 2018 (ULMFiT, arXiv:1801.06146, section 3.2 for the rates, 3.3 for the unfreezing). Their
    one group an epoch and a factor of 2.6 between groups suit four groups: here the pace is such that all
    train after a share of the epochs, and the rates fall as far over the whole network.
    """

    def space(self, backbone: BackboneInfo) -> Space:
        """Fine-tuning's hyperparameters; ``freeze_depth`` is what stays frozen to the end."""
        return {
            **super().space(backbone),
            "lr_ratio": FloatDistribution(RATIO / 10, 1.0, log=True),
            "thawed_after": FloatDistribution(0.2, 0.8),
            "batch_norm": NORMS,
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """The paper's fall of rates at fine-tuning's own rate; all groups train in half of the epochs."""
        return {
            **super().default(backbone),
            "freeze_depth": 0.0,
            "head_multiplier": FACTOR,
            "lr_ratio": RATIO,
            "thawed_after": 0.5,
            "batch_norm": "frozen",
        }

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """The default, and a faster pace with flatter rates, for networks of many groups."""
        default = self.default(backbone)
        return [default, {**default, "lr_ratio": 0.3, "thawed_after": 0.25}]

    def grace(self, epochs: int, params: Params) -> int:
        """While groups thaw."""
        return _thawing(epochs, params)

    def on_epoch(self, model: Backbone, epoch: int, epochs: int, params: Params) -> None:
        """The head alone in epoch 1; from then on more groups, down to the freeze depth."""
        count = len(model.info.groups)
        lowest = frozen_groups(number(params, "freeze_depth"), count)
        thawed = min(1.0, (epoch - 1) / _thawing(epochs, params)) * (count - lowest)
        thaw(model, (count - math.ceil(thawed)) / count, params)


def _thawing(epochs: int, params: Params) -> int:
    """Epochs until all groups above the freeze depth train."""
    return max(1, round(number(params, "thawed_after") * (epochs - 1)))
