"""What a data set plugin implements: list the items, say their labels."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

SPLITS = ("train", "val", "test")


class DatasetOptions(BaseModel):
    """Base of a source's own keys in the study file's ``data`` section; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NoOptions(DatasetOptions):
    """For a source that takes none."""


Options = TypeVar("Options", bound=DatasetOptions)


@dataclass(frozen=True, slots=True)
class Samples:
    """Labelled items, not yet decoded. All sequences are as long as ``items``.

    Attributes:
        items: what the backbone's `InputSpec` encodes: a ``Path``, a uint8 array (H, W) or (H, W, 3),
            a string. May be lazy: only ``len`` and indexing are used, each item at least twice.
        labels: index into ``classes`` of every item.
        classes: names, in the order of their indices.
        names: how to call an item when it is broken, such as its path inside the data set.
        splits: ``train``, ``val`` or ``test`` of every item, where the data says so; else None, and
            items are split by content.
        groups: items of one group (a patient, a scene) never stand in two splits; None where there are none.
        broken: names of items that can't even be listed, with the reason.
        notes: sentences on how the data was understood and what of it was left out, for the user.
    """

    items: Sequence[Any]
    labels: Sequence[int]
    classes: tuple[str, ...]
    names: Sequence[str]
    splits: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    broken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class DatasetSource(abc.ABC, Generic[Options]):
    """A plugin that lists labelled items. Its entry point's name is the study file's ``source``."""

    api_version: ClassVar[int] = 1
    modality: ClassVar[str] = "image"
    task: ClassVar[str] = "classification"
    """What its targets are for, where a study file doesn't say."""
    options: ClassVar[type[DatasetOptions]] = NoOptions
    mirror: ClassVar[bool] = True
    """Whether a left-right flip leaves labels right; the study file's ``horizontal_flip`` overrides it."""

    @abc.abstractmethod
    def load(self, options: Options) -> Samples:
        """List the items.

        Paths in ``options`` are absolute by then: the study file's folder was put before relative ones.

        Raises:
            DataError: nothing usable is there; the message names what and where.
        """
