"""What a data set plugin implements: list the items, say their targets."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from tlsearch.contracts.recipe import API_VERSION
from tlsearch.contracts.target import TargetSpec
from tlsearch.contracts.task import EARLIEST, Task

SPLITS = ("train", "val", "test")


class DatasetOptions(BaseModel):
    """Base of a source's own keys in the study file's ``data`` section; unknown keys are errors.

    A field is a ``Path`` where its text names a file or folder. What the keys ``path`` and ``root`` name is
    absolute by then, since the study file's folder was put before it; others hold what the study file says.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _paths(cls, given: Any) -> Any:
        """Texts as paths where a field wants these: a study file has no others, and pydantic is strict."""
        if not isinstance(given, dict):
            return given
        wanted = {name for name, field in cls.model_fields.items() if _wants_path(field.annotation)}
        return {key: _as_paths(value) if key in wanted else value for key, value in given.items()}


def _wants_path(annotation: Any) -> bool:
    """Whether paths are meant where texts are given: ``Path``, ``Path | None``, ``tuple[Path, ...]``."""
    inner = get_args(annotation)
    return annotation is Path or (str not in inner and any(_wants_path(one) for one in inner))


def _as_paths(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_as_paths(one) for one in value)
    return Path(value) if isinstance(value, str) else value


class NoOptions(DatasetOptions):
    """For a source that takes none."""


Options = TypeVar("Options", bound=DatasetOptions)


@dataclass(frozen=True, slots=True, init=False)
class Samples:
    """Items and their targets, not yet decoded. All sequences are as long as ``items``.

    Attributes:
        items: what the backbone's `InputSpec` encodes: a ``Path``, a uint8 array (H, W) or (H, W, 3),
            a string. May be lazy: only ``len`` and indexing are used, each item at least twice.
        targets: one of every item: raw, as `Task.describe` takes them, where there is no ``spec``; with one
            encoded by it (the index of a class).
        spec: what the targets are, such as the class names in the order of their indices; None where the
            task is to find out.
        names: how to call an item when it is broken, such as its path inside the data set.
        splits: ``train``, ``val`` or ``test`` of every item, where the data says so; else None, and
            items are split by content.
        groups: items of one group (a patient, a scene) never stand in two splits; None where there are none.
        times: when each item was made, in seconds since 1970; where they are given, the newest items are the
            test split, those before them val; None where nobody knows, or it is no matter.
        broken: names of items that can't even be listed, with the reason.
        notes: sentences on how the data was understood and what of it was left out, for the user.
        columns: what the data calls its targets, such as the label columns of a table.
    """

    items: Sequence[Any]
    targets: Sequence[Any] | NDArray[Any]
    spec: TargetSpec | None
    names: Sequence[str]
    splits: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    broken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    times: Sequence[float] | None = None

    def __init__(
        self,
        items: Sequence[Any],
        targets: Sequence[Any] | NDArray[Any] = (),
        spec: TargetSpec | Sequence[str] | None = None,
        names: Sequence[str] = (),
        splits: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        broken: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
        *,
        columns: Sequence[str] = (),
        times: Sequence[float] | None = None,
        labels: Sequence[int] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        """``labels`` and ``classes``: class targets and their names, as version 1 called them."""
        described = classes if classes is not None else spec
        if described is not None and not isinstance(described, TargetSpec):
            described = TargetSpec(tuple(described))
        given = {
            "items": items,
            "targets": labels if labels is not None else targets,
            "spec": described,
            "names": names,
            "splits": splits,
            "groups": groups,
            "broken": broken,
            "notes": notes,
            "columns": tuple(columns),
            "times": times,
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)

    @property
    def labels(self) -> Sequence[Any] | NDArray[Any]:
        """Class targets, as version 1 of the contract called them."""
        return self.targets

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or of what else the spec names; none where nobody knows yet."""
        return self.spec.names if self.spec is not None else ()


def raw_for(task: Task, samples: Samples, own: Task) -> Samples:
    """Samples with raw targets, as people read them, where another task is to learn them than they were for.

    Args:
        task: what is learned.
        samples: as their source listed them.
        own: the task that the source is for.
    """
    if samples.spec is None or type(task) is type(own):
        return samples
    spec = samples.spec
    return replace(samples, targets=[own.plain(target, spec) for target in samples.targets], spec=None)


def usable(task: Task, samples: Samples) -> Samples:
    """Samples without those whose raw target can't be learned from, which are among the broken ones then.

    Raises:
        DataError: hardly one can be learned from.
    """
    return without(samples, task.unusable(samples.targets) if samples.spec is None else {})


def without(samples: Samples, wrong: Mapping[int, str]) -> Samples:
    """Samples without those at some positions, which are among the broken ones then, each with its reason."""
    if not wrong:
        return samples
    kept = [position for position in range(len(samples.items)) if position not in wrong]

    def of_kept(values: Sequence[Any] | NDArray[Any]) -> list[Any]:
        return [values[position] for position in kept]

    return replace(
        samples,
        items=of_kept(samples.items),
        targets=of_kept(samples.targets),
        names=of_kept(samples.names),
        splits=None if samples.splits is None else of_kept(samples.splits),
        groups=None if samples.groups is None else of_kept(samples.groups),
        times=None if samples.times is None else of_kept(samples.times),
        broken=(*samples.broken, *(f"{samples.names[at]}: {why}" for at, why in wrong.items())),
    )


def encoded(task: Task, samples: Samples) -> tuple[NDArray[Any], TargetSpec]:
    """Targets as arrays (N, ...), and what they are.

    Raises:
        DataError: the task can't learn them.
    """
    if samples.spec is not None:
        return np.asarray(samples.targets), samples.spec
    spec = task.describe(samples.targets, samples.columns)
    return task.encode(samples.targets, spec), spec


class DatasetSource(abc.ABC, Generic[Options]):
    """A plugin that lists labelled items. Its entry point's name is the study file's ``source``."""

    api_version: ClassVar[int] = API_VERSION
    """The version of the contracts that it was written for; the current one, unless it pins another."""
    modality: ClassVar[str] = "image"
    """What its items are: backbones of that modality can take them."""
    task: ClassVar[str] = EARLIEST
    """What its targets are for, where a study file doesn't say."""
    options: ClassVar[type[DatasetOptions]] = NoOptions
    mirror: ClassVar[bool] = True
    """Whether a left-right flip leaves labels right; the study file's ``horizontal_flip`` overrides it."""

    @classmethod
    def suits(cls, path: Path) -> bool:
        """Whether what is at a path, a folder or a table, is laid out for this source and no general one."""
        return False

    @abc.abstractmethod
    def load(self, options: Options) -> Samples:
        """List the items.

        What the keys ``path`` and ``root`` name is absolute by then: the study file's folder was put before
        it. Paths in other keys count from the working directory, unless you make them count from ``path``.

        Raises:
            DataError: nothing usable is there; the message names what and where.
        """
