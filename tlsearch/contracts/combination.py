"""What a combination plugin implements: one model out of several finished ones, after the search.

The core finds the models that fit together, scores what a combination proposes on the validation split and
writes the result down as a trial of its own. A combination only does arithmetic on weights.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from tlsearch.contracts.backbone import BackboneInfo
from tlsearch.contracts.recipe import API_VERSION
from tlsearch.records import Params, Scalar

State = Mapping[str, Tensor]
"""All parameters and buffers of a finished model by name; not to be written to."""

Score = tuple[float, float]
"""The study's metric and minus the log-loss, which breaks ties; the greater the better."""

MEMBERS, STRUCTURE = "members", "combined"
"""Reserved in the params of combined trials: the members' numbers, and the strategy of their structure."""


@dataclass(frozen=True, slots=True)
class Member:
    """A finished trial. ``state`` reads its weights, anew at each call."""

    number: int
    strategy: str
    params: Params
    score: Score
    state: Callable[[], State]


@dataclass(frozen=True, slots=True)
class CombinationTask:
    """Finished models of one backbone that have the same tensors under the same names.

    Attributes:
        backbone: theirs.
        members: best first; one at least. They may come from several strategies, hyperparameters and seeds.
        source: the pretrained trunk's tensors under the names that they have in a state; no head.
        score: measures a state on the validation split; never on the test split.
    """

    backbone: BackboneInfo
    members: Sequence[Member]
    source: State
    score: Callable[[State], Score]


@dataclass(frozen=True, slots=True)
class Combined:
    """A model out of others.

    Attributes:
        state: of the same names, shapes and dtypes as the members'.
        members: numbers of the trials that it was made of; its gain is told against the first.
        params: what else was chosen, for the record.
    """

    state: State
    members: tuple[int, ...]
    params: Params = field(default_factory=dict)


class Combination(abc.ABC):
    """One way to make a model out of finished ones of the same structure."""

    api_version: ClassVar[int] = API_VERSION
    """The version of the contracts that it was written for; the current one, unless it pins another."""

    @abc.abstractmethod
    def combine(self, task: CombinationTask) -> Combined | None:
        """The best model that can be made this way, or None where that is one of the members itself."""


def combined_params(combined: Combined, base: Member) -> dict[str, Scalar]:
    """Params of a combined trial: what was chosen, the members, and what its structure is rebuilt from."""
    return {
        **combined.params,
        MEMBERS: " ".join(str(number) for number in combined.members),
        STRUCTURE: base.strategy,
        **{f"{STRUCTURE}.{hyperparameter}": value for hyperparameter, value in base.params.items()},
    }


def members_of(params: Params) -> tuple[int, ...]:
    """Numbers of the trials that a combined one was made of; none where it is an ordinary one."""
    listed = params.get(MEMBERS) if STRUCTURE in params else None
    return tuple(int(number) for number in str(listed).split()) if listed else ()


def structure_of(strategy: str, params: Params) -> tuple[str, Params]:
    """Strategy and hyperparameters that a saved model is rebuilt from: a combined one's first member's."""
    if STRUCTURE not in params:
        return strategy, params
    own = f"{STRUCTURE}."
    hyperparameters = {key.removeprefix(own): value for key, value in params.items() if key.startswith(own)}
    return str(params[STRUCTURE]), hyperparameters
