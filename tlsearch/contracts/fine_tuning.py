"""The public base of gradient strategies: freeze the first groups, train the rest and a new head.

A plugin of ten lines subclasses `FineTuning` and overrides one hook.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tlsearch.contracts.backbone import Backbone, BackboneInfo
from tlsearch.contracts.strategy import Space, Strategy, split_decay
from tlsearch.records import Params

_ATTENTION = re.compile(r"qkv|in_proj|query|\b[qk]_(proj|lin)\b")
"""Names that the weights of attention have in timm, torchvision and transformers."""


class FineTuning(Strategy):
    """Fine-tuning with freeze depth, lower learning rates towards the input and the usual regularization.

    Ranges for AdamW at batch 32-64 with a cosine schedule: learning rate as in Kornblith et al. 2019
    (arXiv:1805.08974, appendix) and Li et al. 2020 (arXiv:2002.11770), ten times lower for transformers
    (Dosovitskiy et al. 2021, arXiv:2010.11929, appendix B). Layer-wise rates as in Clark et al. 2020
    (ELECTRA, arXiv:2003.10555, appendix A), but over the whole network: a factor per layer would reach
    1e-3 over 17 groups and 1e-11 over 60.
    """

    task_loss = True

    def space(self, backbone: BackboneInfo) -> Space:
        """The hyperparameters of fine-tuning; ``optimizer`` and ``batch_size`` are fixed until a study widens
        them.

        ``lr_ratio`` is the first group's learning rate over the last group's. ``length`` multiplies the
        usual number of updates.
        """
        policies = [policy for policy in backbone.inputs.policies if policy != "none"]
        mixup = ["mixup"] if backbone.inputs.blendable else []
        slower = rate_factor(backbone)
        return {
            "freeze_depth": FloatDistribution(0.0, 1.0),
            "learning_rate": FloatDistribution(1e-5 * slower, 1e-2 * slower, log=True),
            "head_multiplier": FloatDistribution(1.0, 10.0, log=True),
            "lr_ratio": FloatDistribution(0.01, 1.0, log=True),
            "weight_decay": FloatDistribution(1e-6, 1e-1, log=True),
            "dropout": FloatDistribution(0.0, 0.5),
            "label_smoothing": FloatDistribution(0.0, 0.2),
            "augmentation": CategoricalDistribution(["none", *policies, *mixup]),
            "length": FloatDistribution(0.5, 2.0, log=True),
            "optimizer": CategoricalDistribution(["adamw"]),
            "batch_size": IntDistribution(32, 32),
            "patience": IntDistribution(5, 5),
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """The first third of the groups frozen, the rest at 1e-3, with a head that learns twice as fast."""
        return {
            "freeze_depth": 0.33,
            "learning_rate": 1e-3 * rate_factor(backbone),
            "head_multiplier": 2.0,
            "lr_ratio": 1.0,
            "weight_decay": 1e-2,
            "dropout": 0.0,
            "label_smoothing": 0.0,
            "augmentation": _first_of(("light", "flip"), backbone),
            "length": 1.0,
            "optimizer": "adamw",
            "batch_size": 32,
            "patience": 5,
        }

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """The default; three quarters frozen, in a third of the time; all trained, boldly; turned; gently.

        Where most is frozen, pictures are only mirrored: training takes less time than to store many views.

        The default is right where images are few and like the pretrained ones; where they are far from those
        (digits, X-rays), training everything at a high rate is better, and the search is to see that early.
        What is seen from above or through a microscope may be turned, too; only scores tell whether.
        """
        default = self.default(backbone)
        rate = 1e-3 * rate_factor(backbone)
        varied = _first_of(("light",), backbone)
        turned = [{**default, "augmentation": "dihedral"}] if "dihedral" in backbone.inputs.policies else []
        return [
            default,
            {**default, "freeze_depth": 0.75, "augmentation": _first_of(("flip", "light"), backbone)},
            {**default, "freeze_depth": 0.0, "learning_rate": 2 * rate, "augmentation": varied},
            *turned,
            {**default, "freeze_depth": 0.5, "lr_ratio": 0.3, "augmentation": varied, "length": 2.0},
            {**default, "freeze_depth": 0.0, "learning_rate": 0.3 * rate, "lr_ratio": 0.1},
        ]

    def prepare(self, model: Backbone, params: Params) -> None:
        """Freeze the first groups and put a fresh head on."""
        model.freeze(number(params, "freeze_depth"))
        model.head = model.new_head(dropout=number(params, "dropout"))

    def param_groups(self, model: Backbone, params: Params) -> list[dict[str, Any]]:
        """One learning rate per group: the head's, then each group's smaller the nearer to the input."""
        recipe = self.recipe(params)
        steps = max(1, len(model.info.groups) - 1)
        # Points of earlier versions have a factor for each group.
        decay = number(params, "layer_decay") if "layer_decay" in params else _step(params, steps)
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


def rate_factor(backbone: BackboneInfo) -> float:
    """By how much usual learning rates differ from a convolutional network's: a tenth for transformers."""
    attends = any(_ATTENTION.search(name) for group in backbone.groups for name in group)
    return 0.1 if attends else 1.0


def _step(params: Params, steps: int) -> float:
    """The factor from a group to the one before it."""
    return float(number(params, "lr_ratio") ** (1 / steps))


def _first_of(policies: Sequence[str], backbone: BackboneInfo) -> str:
    """The first of some augmentation policies that the backbone's input knows."""
    return next((policy for policy in policies if policy in backbone.inputs.policies), "none")


def number(params: Params, name: str) -> float:
    """A hyperparameter's value as a number.

    Raises:
        TypeError: the hyperparameter holds something else.
    """
    value = params[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {value!r}")
    return float(value)
