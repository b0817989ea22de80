"""How a model is trained, as a strategy's hyperparameters say it."""

from __future__ import annotations

from dataclasses import dataclass

from tlsearch.records import Params

API_VERSION = 2
"""Version of these contracts; a plugin written for one that isn't in `SPOKEN` is refused with a sentence."""
SPOKEN = (1, 2)
"""Version 1 knew classes alone: its data sets list ``labels`` and ``classes``, which are read as targets."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the training loop needs to know; read from the hyperparameters of these names where they exist.

    ``loss`` is the name of one of the task's losses; its usual one where it is empty. ``balance`` is one of
    the task's ways to make up for unequal classes; none where it is empty.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    optimizer: str = "adamw"
    batch_size: int = 32
    label_smoothing: float = 0.0
    loss: str = ""
    balance: str = ""
    augmentation: str = "none"
    source_share: float = 0.5
    patience: int = 0
    length: float = 1.0

    @classmethod
    def from_params(cls, params: Params) -> Recipe:
        """The recipe that a strategy's hyperparameters spell; those of other names are the strategy's own."""
        known = {name: params[name] for name in cls.__dataclass_fields__ if name in params}
        return cls(**known)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class LinearRecipe:
    """How to train one linear head on stored features (AdamW, cosine schedule, full epochs)."""

    learning_rate: float
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    dropout: float = 0.0
    seed: int = 0
    loss: str = ""
    balance: str = ""
