"""A data section of a study file -> encoded, split data, by way of its source plugin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from tlsearch import artifacts, plugin_faults, registry
from tlsearch.contracts import Samples
from tlsearch.contracts.dataset import encoded, raw_for, usable
from tlsearch.errors import SpecError
from tlsearch.spec import DataSpec, complaint, unknown_option
from tlsearch.training import fetching, item_groups, item_times
from tlsearch.training.corrections import corrected
from tlsearch.training.listed import Listed, fingerprint
from tlsearch.training.splits import units_of

PLACES = ("path", "root")
"""Keys of a source that may name a place in an object store."""


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
    samples = raw_for(learned, loaded(described, section), registry.task(source.task))
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
    samples = loaded(described)
    if (spec := samples.spec) is None:
        return list(samples.targets)
    own = registry.task(registry.dataset(described.source).task)
    return [own.plain(target, spec) for target in samples.targets]


def loaded(described: DataSpec, section: str = "data") -> Samples:
    """What the source of a data section lists, given its keys.

    Raises:
        UnknownNameError, SpecError, DataError: as `listing`.
    """
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
    return plugin_faults.samples(described.source, options)
