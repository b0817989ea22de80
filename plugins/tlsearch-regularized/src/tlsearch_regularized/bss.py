"""Batch spectral shrinkage: features that transfer badly are pressed down."""

from __future__ import annotations

import torch
from optuna.distributions import IntDistribution
from torch import Tensor

from tlsearch.contracts import BackboneInfo, Space, number
from tlsearch.records import Params
from tlsearch_regularized.strength import OnFeatures


class BSS(OnFeatures):
    """Fine-tuning that shrinks the smallest singular values of a batch's features (Chen et al. 2019).

    loss = CE + strength * (sum of the k smallest squared singular values of the features, (B, width)).
    NeurIPS 2019, section 4.
    """

    strengths = {"strength": 1e-3}

    def space(self, backbone: BackboneInfo) -> Space:
        """``k`` is the paper's 1 until a study widens it."""
        return {**super().space(backbone), "k": IntDistribution(1, 1)}

    def default(self, backbone: BackboneInfo) -> Params:
        """The paper's values."""
        return {**super().default(backbone), "k": 1}

    def term(self, params: Params, *features: Tensor) -> Tensor:
        """Singular values come in falling order."""
        return torch.linalg.svdvals(features[0].float())[-int(number(params, "k")) :].square().sum()
