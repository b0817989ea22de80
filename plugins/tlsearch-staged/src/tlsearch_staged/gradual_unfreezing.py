"""Gradual unfreezing: one more group trains in every epoch, from the head down."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.distributions import FloatDistribution, IntDistribution

from tlsearch.contracts import Backbone, BackboneInfo, FineTuning, Space, frozen_groups, number
from tlsearch.records import Params
from tlsearch_staged.norms import NORMS, thaw

FACTOR = 2.6


class GradualUnfreezing(FineTuning):
    """First the head, then one more group an epoch, each 2.6 times slower than the one above it.

    Howard and Ruder 2018 (ULMFiT, arXiv:1801.06146, section 3.2 for the rates, 3.3 for the unfreezing).
    """

    def space(self, backbone: BackboneInfo) -> Space:
        """Fine-tuning's knobs; ``freeze_depth`` is what stays frozen to the end."""
        return {
            **super().space(backbone),
            "layer_decay": FloatDistribution(1 / FACTOR, 1.0),
            "groups_per_epoch": IntDistribution(1, 4),
            "batch_norm": NORMS,
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """The paper's factor and pace, at fine-tuning's learning rate."""
        return {
            **super().default(backbone),
            "freeze_depth": 0.0,
            "head_multiplier": FACTOR,
            "layer_decay": 1 / FACTOR,
            "groups_per_epoch": 1,
            "batch_norm": "frozen",
        }

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """The default, and a faster pace with flatter rates, for networks of many groups."""
        default = self.default(backbone)
        return [default, {**default, "layer_decay": 0.8, "groups_per_epoch": 4}]

    def on_epoch(self, model: Backbone, epoch: int, params: Params) -> None:
        """The head alone in epoch 1; from then on more groups, down to the freeze depth."""
        count = len(model.info.groups)
        thawed = (epoch - 1) * int(number(params, "groups_per_epoch"))
        lowest = frozen_groups(number(params, "freeze_depth"), count)
        thaw(model, max(lowest, count - thawed) / count, params)
