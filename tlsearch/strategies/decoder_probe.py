"""Decoder probe: the backbone is fixed, and a decoder is trained on its feature maps."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.distributions import CategoricalDistribution

from tlsearch.contracts import BackboneInfo, Space, rate_factor
from tlsearch.records import Params
from tlsearch.strategies.fine_tune import FineTune


class DecoderProbe(FineTune):
    """Fine-tuning with all of the backbone frozen: its maps are stored, and read by every further trial.

    What a linear probe is to classes (Kornblith et al. 2019, arXiv:1805.08974), this is to masks and boxes.
    """

    tasks = ("segmentation", "detection")
    precedence = 0

    def space(self, backbone: BackboneInfo) -> Space:
        """That of fine-tuning, without what only matters where the backbone trains."""
        return {
            **super().space(backbone),
            "freeze_depth": CategoricalDistribution([1.0]),
            "lr_ratio": CategoricalDistribution([1.0]),
            "head_multiplier": CategoricalDistribution([2.0]),
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """Everything frozen; a decoder that starts from nothing takes larger steps than a backbone does."""
        frozen = {"freeze_depth": 1.0, "lr_ratio": 1.0, "head_multiplier": 2.0}
        return {**super().default(backbone), **frozen, "learning_rate": 4e-3 * rate_factor(backbone)}

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """The default, and the same for twice as long with more augmentation."""
        default = self.default(backbone)
        return [default, {**default, "augmentation": "light", "length": 2.0}]
