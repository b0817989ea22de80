"""L2-SP: weights are drawn to where they started, not to zero."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from tlsearch.contracts import Backbone, Recipe, number
from tlsearch.records import Params
from tlsearch_regularized.strength import Regularized


class L2SP(Regularized):
    """Fine-tuning with a pull on the trunk towards the pretrained weights (Li et al. 2018).

    loss = CE + alpha/2 |w - w0|^2 + beta/2 |head|^2 (arXiv:1802.01483, section 3).
    """

    precedence = 20
    strengths = {"alpha": 0.01, "beta": 0.01}

    def recipe(self, params: Params) -> Recipe:
        """No weight decay beside a pull: that would draw the trunk to zero at the same time."""
        recipe = super().recipe(params)
        return replace(recipe, weight_decay=0.0) if number(params, "alpha") > 0 else recipe

    def penalty(self, model: Backbone, params: Params) -> Tensor | None:
        """Both halves; frozen parameters are where they started."""
        alpha, beta = number(params, "alpha"), number(params, "beta")
        trunk = [(n, p) for n, p in model.trunk.named_parameters() if p.requires_grad and alpha > 0]
        squares = [alpha / 2 * (p - model.reference[n]).square().sum() for n, p in trunk]
        squares += [beta / 2 * p.square().sum() for p in model.head.parameters() if beta > 0]
        return sum(squares[1:], squares[0]) if squares else None
