"""BitFit and norm tuning: fine-tuning of the parameters of one kind, and of the head."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import nn

from tlsearch.contracts import Backbone, BackboneInfo, FineTuning, Space
from tlsearch.records import Params

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


class Part(FineTuning, abc.ABC):
    """Fine-tuning in which only parameters of one kind train, above the freeze depth, and the head."""

    @abc.abstractmethod
    def chosen(self, trunk: nn.Module) -> set[str]:
        """Names of the trunk's parameters that may train."""

    def space(self, backbone: BackboneInfo) -> Space:
        """Fine-tuning's, without the ratio of rates, at the higher rates that few parameters want."""
        hyperparameters = {
            name: hyperparameter
            for name, hyperparameter in super().space(backbone).items()
            if name != "lr_ratio"
        }
        return {
            **hyperparameters,
            "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
            "head_multiplier": FloatDistribution(0.1, 3.0, log=True),
            "statistics": CategoricalDistribution(["source", "target"]),
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """All of that kind at 1e-2, the head at the same rate; BatchNorm goes on using what it has stored."""
        hyperparameters = {
            name: value for name, value in super().default(backbone).items() if name != "lr_ratio"
        }
        few: Params = {
            "freeze_depth": 0.0,
            "learning_rate": 1e-2,
            "head_multiplier": 1.0,
            "statistics": "source",
        }
        return {**hyperparameters, **few}

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """The default, and a gentler one."""
        default = self.default(backbone)
        return [default, {**default, "learning_rate": 1e-3, "head_multiplier": 3.0}]

    def prepare(self, model: Backbone, params: Params) -> None:
        """Freeze what is below the depth or of another kind, and put a fresh head on."""
        super().prepare(model, params)
        chosen = self.chosen(model.trunk)
        for name, parameter in model.trunk.named_parameters():
            if name not in chosen:
                parameter.requires_grad_(False)
        if params["statistics"] == "source":
            for module in model.trunk.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    _become(module, _resting(type(module)))

    def finish(self, model: Backbone, params: Params) -> None:
        """Make BatchNorm what it was."""
        for module in model.trunk.modules():
            if isinstance(module, _Resting):
                _become(module, type(module).__bases__[1])

    def param_groups(self, model: Backbone, params: Params) -> list[dict[str, Any]]:
        """One rate for the trunk, another for the head; weight decay is the head's alone."""
        return super().param_groups(model, {**params, "lr_ratio": 1.0})


class _Resting(nn.Module):
    """Stays in eval mode: a BatchNorm that normalizes by stored statistics while scale and shift train."""

    def train(self, mode: bool = True) -> Any:
        """Eval mode, whatever is asked for."""
        return super().train(False)


def _resting(kind: type[nn.Module]) -> type[nn.Module]:
    """A kind of BatchNorm, and `_Resting`."""
    return type(f"Resting{kind.__name__}", (_Resting, kind), {"__module__": kind.__module__})


def _become(module: nn.Module, kind: type) -> None:
    """Another class for the same object, whose attributes stay as they are."""
    object.__setattr__(module, "__class__", kind)


class BitFit(Part):
    """Biases and the head train (Ben Zaken, Ravfogel and Goldberg 2022, arXiv:2106.10199)."""

    def chosen(self, trunk: nn.Module) -> set[str]:
        """All biases, those of norms too; tables of position biases are weights."""
        return {name for name, _ in trunk.named_parameters() if name.endswith("bias")}


class NormTuning(Part):
    """Scales and shifts of norms and the head train.

    Frankle, Schwab and Morcos 2021 (arXiv:2003.00152) for BatchNorm, Zhao et al. 2024 (arXiv:2312.11420) for
    LayerNorm.
    """

    def chosen(self, trunk: nn.Module) -> set[str]:
        """Affine parameters of norms, torch's and those that others have written."""
        return {
            f"{path}.{name}" if path else name
            for path, module in trunk.named_modules()
            for name, parameter in module.named_parameters(recurse=False)
            if isinstance(module, _NORMS) or ("norm" in type(module).__name__.lower() and parameter.ndim <= 1)
        }
