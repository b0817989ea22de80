"""L2-SP: weights are drawn to where they started, not to zero."""

from __future__ import annotations

from typing import Any

from optuna.distributions import CategoricalDistribution

from tlsearch.contracts import Backbone, BackboneInfo, Space, number
from tlsearch.records import Params
from tlsearch_regularized.strength import Regularized

PULLS = (0.0, 0.1, 1.0, 10.0)


class L2SP(Regularized):
    """Fine-tuning with a pull on the trunk towards the pretrained weights (Li et al. 2018).

    The paper adds alpha/2 |w - w0|^2 to the loss of SGD (arXiv:1802.01483, section 3). Adam would divide its
    gradient by the size of all gradients, so here every step moves the weights by a share of the way back,
    learning rate times ``pull``, as AdamW does with weight decay. The head decays to zero, as always.
    """

    precedence = 60
    strengths = {"pull": 1.0}

    def space(self, backbone: BackboneInfo) -> Space:
        """Fine-tuning's and the pull: 1 takes back about a seventh of the way in a usual training."""
        return {**super().space(backbone), "pull": CategoricalDistribution(PULLS)}

    def param_groups(self, model: Backbone, params: Params) -> list[dict[str, Any]]:
        """The trunk's weights decay towards their start instead of zero."""
        groups = super().param_groups(model, params)
        pull = number(params, "pull")
        if pull == 0:
            return groups
        starts = {id(p): model.reference[name] for name, p in model.trunk.named_parameters()}
        for group in groups:
            if id(group["params"][0]) in starts:
                origin = [starts[id(parameter)] for parameter in group["params"]]
                group.update(weight_decay=0.0, origin=origin, pull=pull)
        return groups
