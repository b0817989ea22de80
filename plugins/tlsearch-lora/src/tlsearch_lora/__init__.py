"""LoRA and DoRA, by peft, on the linear layers and convolutions of a trunk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import nn

from tlsearch.contracts import Backbone, BackboneInfo, FineTuning, Space, number, opaque, split_decay
from tlsearch.records import Params


class LoRA(FineTuning):
    """Low-rank updates of frozen weights, W + 2BA with A and B of rank r (Hu et al. 2021, section 4.1).

    arXiv:2106.09685. Merged into the weights when training ends: the model is then a plain one.
    """

    precedence = 30
    dora: ClassVar[bool] = False

    def space(self, backbone: BackboneInfo) -> Space:
        """Fine-tuning's hyperparameters and the rank; groups below ``freeze_depth`` get no adapters."""
        hyperparameters = {
            name: hyperparameter
            for name, hyperparameter in super().space(backbone).items()
            if name != "lr_ratio"
        }
        return {
            **hyperparameters,
            "rank": CategoricalDistribution([4, 8, 16]),
            "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """Rank 8 everywhere, at 1e-3."""
        hyperparameters = {
            name: value for name, value in super().default(backbone).items() if name != "lr_ratio"
        }
        return {**hyperparameters, "freeze_depth": 0.0, "rank": 8, "learning_rate": 1e-3}

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """The default, and the upper half of the groups alone."""
        default = self.default(backbone)
        return [default, {**default, "freeze_depth": 0.5}]

    def prepare(self, model: Backbone, params: Params) -> None:
        """Put adapters into every layer above the freeze depth that can have one."""
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        super().prepare(model, params)
        names = [name for name, module in model.trunk.named_modules() if _adaptable(module)]
        model.trunk.requires_grad_(False)
        if not names:
            return
        rank = int(number(params, "rank"))
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            # As one pattern: peft takes names in a list for endings of other names.
            target_modules="|".join(map(re.escape, names)),
            use_dora=self.dora,
        )
        inject_adapter_in_model(config, model.trunk)
        for module in model.trunk.modules():
            if isinstance(module, BaseTunerLayer):
                opaque(module)

    def param_groups(self, model: Backbone, params: Params) -> list[dict[str, Any]]:
        """One rate for the adapters, another for the head; DoRA's magnitudes don't decay."""
        recipe = self.recipe(params)
        rate, decay = recipe.learning_rate, recipe.weight_decay
        trained = [(name, p) for name, p in model.trunk.named_parameters() if p.requires_grad]
        matrices = [p for name, p in trained if "magnitude" not in name]
        magnitudes = [p for name, p in trained if "magnitude" in name]
        return [
            *split_decay(matrices, lr=rate, weight_decay=decay),
            *split_decay(magnitudes, lr=rate, weight_decay=0.0),
            *split_decay(
                list(model.head.parameters()),
                lr=rate * number(params, "head_multiplier"),
                weight_decay=decay,
            ),
        ]

    def finish(self, model: Backbone, params: Params) -> None:
        """Merge the adapters into the weights they stand beside."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, module in list(model.trunk.named_modules()):
            if isinstance(module, BaseTunerLayer):
                module.merge()
                model.trunk.set_submodule(name, module.get_base_layer())

    def restore(self, model: Backbone, params: Params) -> None:
        """A finished model is fine-tuning's: peft isn't needed to load it."""
        super().prepare(model, params)


class DoRA(LoRA):
    """LoRA with a trained magnitude for each output, m (W + 2BA) / |W + 2BA| (Liu et al. 2024, equation 5).

    arXiv:2402.09353.
    """

    precedence = 50
    dora = True

    def on_epoch(self, model: Backbone, epoch: int, epochs: int, params: Params) -> None:
        """Lay the factors out in rows, as peft reads them; the model was put into channels-last format."""
        for name, parameter in model.trunk.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.contiguous()


def _adaptable(module: nn.Module) -> bool:
    """A plain layer that trains, whose weights act linearly and all at once.

    Subclasses may standardize their weights or pad by the input's size; depthwise and grouped convolutions
    have nothing to gain from a low rank, and peft can't merge them.
    """
    if type(module) is nn.Conv2d:
        plain = module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
        return plain and module.weight.requires_grad
    return type(module) is nn.Linear and module.weight.requires_grad
