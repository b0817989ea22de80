"""BatchNorm in networks that thaw while they train."""

from __future__ import annotations

from optuna.distributions import CategoricalDistribution
from torch import nn

from tlsearch.contracts import Backbone
from tlsearch.records import Params

NORMS = CategoricalDistribution(["frozen", "trained"])
"""Whether BatchNorm keeps its statistics and scales when the layers around it start to train.

A BatchNorm that starts to train goes over from stored statistics to those of the batch, and the layers above
it, fitted to the former, no longer fit.
"""


def thaw(model: Backbone, depth: float, params: Params) -> None:
    """Let the groups above a freeze depth train, BatchNorm by the hyperparameter ``batch_norm``."""
    model.freeze(depth)
    if params["batch_norm"] == "frozen":
        for module in model.trunk.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.requires_grad_(False)
