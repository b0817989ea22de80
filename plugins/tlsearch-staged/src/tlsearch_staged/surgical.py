"""Surgical fine-tuning: one contiguous block of the network trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.distributions import IntDistribution

from tlsearch.contracts import Backbone, BackboneInfo, FineTuning, Space, number
from tlsearch.records import Params

BLOCKS = 4
_NOT_USED = ("freeze_depth", "lr_ratio")


class Surgical(FineTuning):
    """One of four blocks of groups and the head train, the rest rests (Lee et al. 2023, section 2).

    Which block helps depends on the shift: the first for other inputs, the last for other outputs
    (arXiv:2210.11466).
    """

    def space(self, backbone: BackboneInfo) -> Space:
        """Fine-tuning's without depth and decay, and which block trains, 1 nearest to the input."""
        hyperparameters = {
            name: hyperparameter
            for name, hyperparameter in super().space(backbone).items()
            if name not in _NOT_USED
        }
        return {**hyperparameters, "block": IntDistribution(1, min(BLOCKS, len(backbone.groups)))}

    def default(self, backbone: BackboneInfo) -> Params:
        """The last block: a new task is a shift of the outputs."""
        hyperparameters = {
            name: value for name, value in super().default(backbone).items() if name not in _NOT_USED
        }
        return {**hyperparameters, "block": min(BLOCKS, len(backbone.groups))}

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """The last block and the first."""
        default = self.default(backbone)
        return [default, {**default, "block": 1}]

    def prepare(self, model: Backbone, params: Params) -> None:
        """Freeze everything but the block and a fresh head."""
        model.freeze(1.0)
        groups = model.info.groups
        blocks, block = min(BLOCKS, len(groups)), int(number(params, "block"))
        first, end = ((block - step) * len(groups) // blocks for step in (1, 0))
        parameters = dict(model.trunk.named_parameters())
        for name in (name for group in groups[first:end] for name in group):
            parameters[name].requires_grad_(True)
        model.head = model.new_head(dropout=number(params, "dropout"))

    def param_groups(self, model: Backbone, params: Params) -> list[dict[str, Any]]:
        """One rate for the block, another for the head."""
        return super().param_groups(model, {**params, "lr_ratio": 1.0})
