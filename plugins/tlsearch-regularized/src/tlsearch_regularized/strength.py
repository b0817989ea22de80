"""What the three share: a strength to choose, and a term of the loss that looks at the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from optuna.distributions import CategoricalDistribution
from torch import Tensor, nn

from tlsearch.contracts import Backbone, BackboneInfo, Batch, FineTuning, Forward, Space, number
from tlsearch.records import Params

STRENGTHS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)


class Regularized(FineTuning):
    """Fine-tuning with strengths to choose. At zero it is fine-tuning, number for number."""

    strengths: ClassVar[Mapping[str, float]]
    """The hyperparameters, with the paper's values."""

    def space(self, backbone: BackboneInfo) -> Space:
        """Fine-tuning's hyperparameters and the strengths, which may be zero."""
        return {
            **super().space(backbone),
            **{name: CategoricalDistribution(STRENGTHS) for name in self.strengths},
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """Fine-tuning's default at the paper's strengths."""
        return {**super().default(backbone), **self.strengths}

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """The default alone: fine-tuning itself tries the other depths."""
        return [self.default(backbone)]


class FeaturesToo(nn.Module):
    """A head that also returns the features it was given."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, classes) of the first features, then all features."""
        return (self.head(features[0]), *features)


class OnFeatures(Regularized):
    """Adds ``strength * term(features)`` to the loss."""

    def term(self, params: Params, *features: Tensor) -> Tensor:
        """What is to be small, a scalar, of a batch's features (each (B, width))."""
        raise NotImplementedError

    def prepare(self, model: Backbone, params: Params) -> None:
        """Fine-tuning's model, whose head lets the features through."""
        super().prepare(model, params)
        if number(params, "strength") > 0:
            model.head = FeaturesToo(model.head)

    def loss(self, model: Forward, batch: Batch, params: Params) -> Tensor:
        """Cross-entropy and the term."""
        outputs = model(batch.inputs)
        loss = super().loss(lambda inputs: outputs, batch, params)
        strength = number(params, "strength")
        return loss + strength * self.term(params, *outputs[1:]) if strength > 0 else loss

    def finish(self, model: Backbone, params: Params) -> None:
        """Keep the head alone."""
        if isinstance(model.head, FeaturesToo):
            model.head = model.head.head
