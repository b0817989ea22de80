"""LP-FT: first the head on frozen features, then everything from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.distributions import FloatDistribution, IntDistribution

from tlsearch.contracts import Backbone, BackboneInfo, FineTuning, Space, number, rate_factor
from tlsearch.records import Params
from tlsearch_staged.norms import NORMS, thaw


class LPFT(FineTuning):
    """A linear probe for the first epochs, then fine-tuning from it (Kumar et al. 2022, section 3.4).

    A random head sends large gradients through the trunk and distorts its features; a fitted one doesn't
    (arXiv:2202.10054). While the trunk rests, its features are served from the store.
    """

    def space(self, backbone: BackboneInfo) -> Space:
        """Fine-tuning's hyperparameters, with gentler learning rates, and those of the probe."""
        return {
            **super().space(backbone),
            "learning_rate": FloatDistribution(3e-7, 1e-2 * rate_factor(backbone), log=True),
            "head_epochs": IntDistribution(1, 3),
            "batch_norm": NORMS,
            "head_learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """Two epochs for the head, then all groups, the head no faster than they."""
        return {
            **super().default(backbone),
            "freeze_depth": 0.0,
            "learning_rate": 3e-4 * rate_factor(backbone),
            "head_multiplier": 1.0,
            "head_epochs": 2,
            "batch_norm": "frozen",
            "head_learning_rate": 1e-2,
        }

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """The default, and the paper's gentler rate after a longer probe."""
        default = self.default(backbone)
        return [default, {**default, "learning_rate": 3e-5 * rate_factor(backbone), "head_epochs": 3}]

    def grace(self, epochs: int, params: Params) -> int:
        """The probe, and one epoch in which the trunk has only begun to move."""
        return _probing(epochs, params) + 1

    def on_epoch(self, model: Backbone, epoch: int, epochs: int, params: Params) -> None:
        """The trunk rests while the head is fitted; the last epoch at least is for all."""
        probing = epoch <= _probing(epochs, params)
        thaw(model, 1.0 if probing else number(params, "freeze_depth"), params)

    def param_groups(self, model: Backbone, params: Params) -> list[dict[str, Any]]:
        """The head alone at its own rate while the trunk rests, then fine-tuning's groups."""
        if not any(parameter.requires_grad for parameter in model.trunk.parameters()):
            params = {**params, "learning_rate": params["head_learning_rate"], "head_multiplier": 1.0}
        return super().param_groups(model, params)


def _probing(epochs: int, params: Params) -> int:
    """Epochs for the head alone; of one epoch in all that one."""
    return max(1, min(int(number(params, "head_epochs")), epochs - 1))
