"""Joint training: one trunk, two heads, source and target data together."""

from __future__ import annotations

from typing import ClassVar

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import (
    Backbone,
    BackboneInfo,
    Batch,
    FineTuning,
    Forward,
    LinearHead,
    Space,
    joined,
    number,
)
from tlsearch.records import Params


class TwoHeads(nn.Module):
    """Target and source classifiers on the same features."""

    def __init__(self, target: nn.Module, source: nn.Module) -> None:
        super().__init__()
        self.target = target
        self.source = source

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Target logits (B, classes), source logits (B, source classes), and the features (B, width)."""
        return self.target(features), self.source(features), features


class JointTraining(FineTuning):
    """Fine-tuning on target and source at once, with a weighted loss and an optional domain loss.

    loss = CE(target) + w * CE(source) + d * CORAL(target features, source features), the last as in Sun and
    Saenko 2016 (Deep CORAL, arXiv:1607.01719, equation 1).
    """

    tasks = ("classification",)

    precedence = 15
    requires_source: ClassVar[bool] = True

    def space(self, backbone: BackboneInfo) -> Space:
        """Fine-tuning's hyperparameters, the weights of the losses, and the source's share of a batch."""
        return {
            **super().space(backbone),
            # Mixed labels of two label sets have no meaning.
            "augmentation": CategoricalDistribution(
                [policy for policy in backbone.inputs.policies if policy != "mixup"]
            ),
            "source_weight": FloatDistribution(0.01, 1.0, log=True),
            "source_share": FloatDistribution(0.25, 0.5),
            "domain_weight": CategoricalDistribution([0.0, 0.1, 1.0]),
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """Fine-tuning's default with a light pull from the source and no domain loss."""
        return {
            **super().default(backbone),
            "source_weight": 0.1,
            "source_share": 0.5,
            "domain_weight": 0.0,
        }

    def prepare(self, model: Backbone, params: Params) -> None:
        """Fine-tuning's model with a second head for the source's classes."""
        super().prepare(model, params)
        # A saved model is rebuilt where no source data is described; its source head is dropped anyway.
        outputs = len(model.source_spec.names) if model.source_spec else 1
        source = LinearHead(model.info.width, outputs, dropout=number(params, "dropout"))
        model.head = TwoHeads(model.head, source)

    def loss(self, model: Forward, batch: Batch, params: Params) -> Tensor:
        """Both cross-entropies, weighted, and the distance between the domains' features."""
        if batch.source is None:
            raise ValueError("joint training was given no source batch")
        target_logits, source_logits, features = model(joined(batch))
        count = len(batch.targets)
        loss = batch.task.loss(target_logits[:count], batch.targets, self.recipe(params))
        source = functional.cross_entropy(source_logits[count:], batch.source.targets)
        loss = loss + number(params, "source_weight") * source
        domain_weight = number(params, "domain_weight")
        if domain_weight > 0:
            loss = loss + domain_weight * coral(features[:count], features[count:])
        return loss

    def finish(self, model: Backbone, params: Params) -> None:
        """Keep the target's head alone."""
        if isinstance(model.head, TwoHeads):
            model.head = model.head.target


def coral(target: Tensor, source: Tensor) -> Tensor:
    """Squared Frobenius distance of two feature covariances over 4 d^2 (features: (B, d))."""
    distance = torch.cov(target.T) - torch.cov(source.T)
    return distance.square().sum() / (4 * target.shape[1] ** 2)
