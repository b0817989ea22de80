"""What both share: a source network beside the model while it trains, and its classifier."""

from __future__ import annotations

import abc
import copy
from collections.abc import Sequence

from torch import Tensor, nn

from tlsearch.contracts import Backbone, BackboneInfo, Batch, FineTuning, Forward, number
from tlsearch.errors import TrialError
from tlsearch.records import Params


class Taught(FineTuning, abc.ABC):
    """Fine-tuning with ``strength * term`` in the loss; at strength zero fine-tuning, number for number.

    The head that trains holds the target's head as ``head`` and returns a tuple; the target's alone is left
    when training is over.
    """

    @abc.abstractmethod
    def taught_head(self, model: Backbone, params: Params) -> nn.Module:
        """The head that trains: takes features and source features, returns logits and more tensors."""

    @abc.abstractmethod
    def term(self, outputs: Sequence[Tensor], batch: Batch, params: Params) -> Tensor:
        """What is to be small, a scalar, of the tensors that the head returns after the logits."""

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """The default alone: fine-tuning itself tries the other depths."""
        return [self.default(backbone)]

    def prepare(self, model: Backbone, params: Params) -> None:
        """The source network runs beside the model; its features are stored like any frozen prefix."""
        super().prepare(model, params)
        if number(params, "strength") > 0:
            model.head = self.taught_head(model, params)
            model.keep_source()

    def loss(self, model: Forward, batch: Batch, params: Params) -> Tensor:
        """Cross-entropy and the term."""
        outputs = model(batch.inputs)
        loss = super().loss(lambda inputs: outputs, batch, params)
        strength = number(params, "strength")
        return loss + strength * self.term(outputs[1:], batch, params) if strength > 0 else loss

    def finish(self, model: Backbone, params: Params) -> None:
        """Keep the target's head alone and leave the source network behind."""
        model.source_trunk = None
        if isinstance(inner := getattr(model.head, "head", None), nn.Module):
            model.head = inner

    def restore(self, model: Backbone, params: Params) -> None:
        """A finished model is a fine-tuned one; no source network is needed for it."""
        super().prepare(model, params)


def has_classifier(backbone: BackboneInfo) -> bool:
    """Whether the weights are likely to have come with a classifier that means something."""
    return backbone.head not in ("", "none") and backbone.weights != "random"


def classifier(model: Backbone, *, trains: bool) -> nn.Module:
    """A copy of the source network's classifier: features to source logits.

    Raises:
        TrialError: there is none.
    """
    if model.source_head is None:
        raise TrialError(
            f"{model.info.name} with weights {model.info.weights} brings no classifier of its source classes"
        )
    return copy.deepcopy(model.source_head).requires_grad_(trains)
