"""The public base of gradient strategies: freeze the first groups, train the rest and a new head.

A plugin of ten lines subclasses `FineTuning` and overrides one hook.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tlsearch.contracts.backbone import Backbone, BackboneInfo
from tlsearch.contracts.strategy import Space, Strategy, split_decay
from tlsearch.records import Params


class FineTuning(Strategy):
    """Fine-tuning with freeze depth, layer-wise learning-rate decay and the usual regularization.

    Ranges for AdamW at batch 32-64 with a cosine schedule: learning rate as in Kornblith et al. 2019
    (arXiv:1805.08974, appendix) and Li et al. 2020 (arXiv:2002.11770); layer decay as in Clark et al. 2020
    (ELECTRA, arXiv:2003.10555, appendix A).
    """

    def space(self, backbone: BackboneInfo) -> Space:
        """The knobs of fine-tuning; ``optimizer`` and ``batch_size`` are fixed until a study widens them."""
        policies = [policy for policy in backbone.inputs.policies if policy != "none"]
        mixup = ["mixup"] if backbone.inputs.blendable else []
        return {
            "freeze_depth": FloatDistribution(0.0, 1.0),
            "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
            "head_multiplier": FloatDistribution(1.0, 10.0, log=True),
            "layer_decay": FloatDistribution(0.65, 1.0),
            "weight_decay": FloatDistribution(1e-6, 1e-1, log=True),
            "dropout": FloatDistribution(0.0, 0.5),
            "label_smoothing": FloatDistribution(0.0, 0.2),
            "augmentation": CategoricalDistribution(["none", *policies, *mixup]),
            "optimizer": CategoricalDistribution(["adamw"]),
            "batch_size": IntDistribution(32, 32),
            "patience": IntDistribution(5, 5),
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """The first third of the groups frozen, the rest at 1.5e-3, with a head that learns twice as fast.

        No decay over layers: CNNs have many groups, and in a few epochs the deeper ones would hardly move.
        """
        return {
            "freeze_depth": 0.3,
            "learning_rate": 1.5e-3,
            "head_multiplier": 2.0,
            "layer_decay": 1.0,
            "weight_decay": 1e-3,
            "dropout": 0.1,
            "label_smoothing": 0.05,
            "augmentation": "none",
            "optimizer": "adamw",
            "batch_size": 32,
            "patience": 5,
        }

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """The default; half frozen, with decay; all trained, boldly, then gently; three quarters frozen.

        The default is right where images are few and like the pretrained ones; where they are far from those
        (digits, X-rays), training everything at a high rate is better, and the search is to see that early.
        """
        default = self.default(backbone)
        return [
            default,
            {**default, "freeze_depth": 0.5, "learning_rate": 1e-3, "layer_decay": 0.9},
            {**default, "freeze_depth": 0.0, "learning_rate": 3e-3},
            {**default, "freeze_depth": 0.0, "learning_rate": 3e-4, "layer_decay": 0.75},
            {**default, "freeze_depth": 0.75, "learning_rate": 1e-3},
        ]

    def prepare(self, model: Backbone, params: Params) -> None:
        """Freeze the first groups and put a fresh head on."""
        model.freeze(number(params, "freeze_depth"))
        model.head = model.new_head(dropout=number(params, "dropout"))

    def param_groups(self, model: Backbone, params: Params) -> list[dict[str, Any]]:
        """One learning rate per group: the head's, then each group's smaller the nearer to the input."""
        recipe = self.recipe(params)
        decay = number(params, "layer_decay")
        trunk = dict(model.trunk.named_parameters())
        optimizer_groups: list[dict[str, Any]] = []
        count = len(model.info.groups)
        for index, names in enumerate(model.info.groups):
            trained = [trunk[name] for name in names if trunk[name].requires_grad]
            rate = recipe.learning_rate * decay ** (count - 1 - index)
            optimizer_groups += split_decay(trained, lr=rate, weight_decay=recipe.weight_decay)
        inside = {id(parameter) for parameter in trunk.values()}
        heads = [p for p in model.parameters() if id(p) not in inside and p.requires_grad]
        rate = recipe.learning_rate * number(params, "head_multiplier")
        optimizer_groups += split_decay(heads, lr=rate, weight_decay=recipe.weight_decay)
        return optimizer_groups


def number(params: Params, name: str) -> float:
    """A knob's value as a number.

    Raises:
        TypeError: the knob holds something else.
    """
    value = params[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {value!r}")
    return float(value)
