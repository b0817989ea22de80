"""A data section of a study file -> encoded, split data, by way of its source plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from tlsearch import artifacts, registry
from tlsearch.contracts import InputSpec, Samples, Strata, TargetSpec, Task
from tlsearch.contracts.dataset import encoded, raw_for, usable
from tlsearch.errors import DataError, SpecError
from tlsearch.spec import DataSpec, complaint, unknown_option
from tlsearch.training import fetching, item_groups, item_times
from tlsearch.training.arrays import ArrayStore
from tlsearch.training.corrections import corrected
from tlsearch.training.data import Data, fingerprint, prepare
from tlsearch.training.earlier import Extended
from tlsearch.training.splits import IntArray, units_of

PLACES = ("path", "root")
"""Keys of a source that may name a place in an object store."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Items of a data section, identified but not yet decoded."""

    described: DataSpec
    samples: Samples
    modality: str
    mirror: bool
    fingerprint: str
    hashes: list[str]
    task: Task

    @property
    def target_spec(self) -> TargetSpec:
        """What the targets are."""
        if self.samples.spec is None:
            raise ValueError("the targets weren't described")
        return self.samples.spec

    @property
    def learned(self) -> Task:
        """The task as it learns such targets, before they are split."""
        spec = self.target_spec
        return self.task.fitted(spec).counted(np.asarray(self.samples.targets), spec)

    @property
    def strata(self) -> Strata:
        """Kinds of items by which they are split."""
        return self.task.strata(np.asarray(self.samples.targets), self.target_spec)

    def plain(self, index: int) -> Any:
        """An item's target as people read it."""
        return self.task.plain(self.samples.targets[index], self.target_spec)

    def identity(self, index: int) -> str:
        """An item's target as text, equal for equal targets."""
        return self.task.identity(self.samples.targets[index], self.target_spec)


def listing(
    described: DataSpec, *, section: str = "data", task: str | None = None, threads: int = 2
) -> Listed:
    """List and identify the items of a data section.

    Args:
        described: the section.
        section: its name, for errors.
        task: what is learned; what the source is for, where it is None.
        threads: that read items.

    Raises:
        UnknownNameError: no such source.
        SpecError: a key that the source doesn't take, or a value that it can't have.
        DataError: nothing usable is there.
    """
    source = registry.dataset(described.source)
    learned = registry.task(task or source.task)
    if None not in (described.resize, learned.resize) and described.resize != learned.resize:
        raise SpecError(
            f"{section}.resize: {task or source.task} takes {learned.resize} alone, not {described.resize}.",
            hint="Leave it out.",
        )
    samples = raw_for(learned, _samples(described, section), registry.task(source.task))
    samples = usable(learned, samples)
    if described.corrected is not None:
        if not learned.probabilities:
            raise SpecError(
                f"{section}.corrected: a class name corrects a label, and {task or source.task} has others.",
                hint="Leave it out.",
            )
        samples = corrected(samples, learned, Path(described.corrected))
    if described.groups is not None:
        samples = item_groups.grouped(samples, described.groups, section=section)
    if described.time is not None:
        samples = item_times.by_exif(samples, section=section)
    targets, spec = encoded(learned, samples)
    samples = replace(samples, targets=targets, spec=spec)
    mirror = source.mirror if described.horizontal_flip is None else described.horizontal_flip
    identity, hashes = fingerprint(samples, learned, threads=threads)
    if samples.times is not None:
        strata, shares = learned.strata(np.asarray(targets), spec), described.split
        units = units_of(samples, hashes, strata, np.arange(len(hashes)))
        samples = item_times.split(samples, units, val=shares.val, test=shares.test, section=section)
    return Listed(described, samples, source.modality, mirror, identity, hashes, learned)


def raw_targets(described: DataSpec) -> list[Any]:
    """Targets of a data section as people read them, before it is known what is to learn them.

    Raises:
        UnknownNameError, SpecError, DataError: as `listing`.
    """
    samples = _samples(described, "data")
    if (spec := samples.spec) is None:
        return list(samples.targets)
    own = registry.task(registry.dataset(described.source).task)
    return [own.plain(target, spec) for target in samples.targets]


def _samples(described: DataSpec, section: str) -> Samples:
    """What the source of a data section lists, given its keys."""
    source = registry.dataset(described.source)
    given = {
        key: str(fetching.local(value)) if key in PLACES and artifacts.is_remote(str(value)) else value
        for key, value in described.options.items()
    }
    try:
        options = source.options.model_validate(given)
    except ValidationError as error:
        known = list(source.options.model_fields)
        problems = []
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                text = unknown_option(name, known)
            elif problem["type"] == "missing":
                text = f'is missing; the source "{described.source}" needs it.'
            else:
                text = complaint(problem)
            problems.append(f"{section}.{name}: {text}")
        raise SpecError("\n".join(problems)) from None
    return source.load(options)


def load(
    listed: Listed,
    inputs: InputSpec,
    store: ArrayStore,
    *,
    seed: int,
    threads: int = 2,
    parts: Mapping[str, IntArray] | None = None,
    extended: Extended | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Data:
    """Split and encode listed items for a backbone's input; ``parts`` are splits that were made before.

    Of items of the study that is ``extended``, what that stored is taken.

    Raises:
        DataError: the items are of another kind than the backbone takes, or see `data.prepare`.
    """
    if listed.modality != inputs.modality:
        raise DataError(
            f'The data source "{listed.described.source}" holds {listed.modality} items; '
            f"the backbone takes {inputs.modality}."
        )
    resize = listed.described.resize or listed.task.resize
    if resize is not None:
        inputs = inputs.resized(resize)
    split = listed.described.split
    return prepare(
        listed.samples,
        inputs,
        store,
        task=listed.task,
        val=split.val,
        test=split.test,
        stop=split.stop,
        seed=seed,
        mirror=listed.mirror,
        threads=threads,
        max_broken=listed.described.max_broken,
        max_overlap=listed.described.max_overlap,
        hashed=(listed.fingerprint, listed.hashes),
        parts=parts,
        extended=extended,
        progress=progress,
    )
