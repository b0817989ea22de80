"""What describes targets: the names and facts that a study keeps, and the kinds by which splits are cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """What the targets of a data set are: plain data, as it is kept with studies and models.

    Attributes:
        names: of what a model puts out: classes, columns or labels, in their order.
        facts: what else the task needs to encode targets and to decode outputs, as JSON holds it.
    """

    names: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Strata:
    """Kinds of items, of which every split gets its share.

    Attributes:
        of: numbers of the kinds that each item belongs to; several for a set of labels.
        names: of the kinds.
        one: what a kind is called, such as ``class``.
        many: what several are called.
        required: whether every kind must stand in train and in each split that is cut.
        trained: numbers of kinds that must stand in train at least, where not all are required.

    Every item is of one kind at least.
    """

    of: Sequence[tuple[int, ...]]
    names: tuple[str, ...]
    one: str
    many: str
    required: bool = True
    trained: tuple[int, ...] = ()

    @property
    def needed(self) -> set[int]:
        """Numbers of the kinds that must stand in train."""
        return set(range(len(self.names))) if self.required else set(self.trained)
