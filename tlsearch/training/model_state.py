"""Copies of what training changes of a model: as it is now, and as it was in the best epoch so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from tlsearch.contracts import Backbone
from tlsearch.training.resume import FitState, best_tensors, trained_state
from tlsearch.training.trained_part import trainable_names


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of what training may have changed: trainable parameters and all buffers."""
    state = trained_state(model, trainable_names(model))
    return {name: tensor.detach().clone() for name, tensor in state.items()}


@dataclass
class BestEpoch:
    """The best epoch so far, by its scores on the stop split.

    Attributes:
        order: of two epochs, the one whose order is greater is better; None before the first.
        epoch: which one it is.
        kept: its scores on the validation split.
        state: the model as it was then.
    """

    order: tuple[float, float] | None = None
    epoch: int = 0
    kept: Mapping[str, float] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)

    def restore(self, state: FitState, model: Backbone) -> None:
        """Take what was the best when the state was captured."""
        facts = state.facts["best"]
        self.order, self.epoch, self.kept = tuple(facts["order"]), facts["epoch"], facts["kept"]
        device = next(model.parameters()).device
        self.state = snapshot(model) if self.epoch == state.epoch else best_tensors(state, device)
