"""A look at a study's labels before anything is searched: which are probably wrong, and whether more pay."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tlsearch.contracts import InputSpec
from tlsearch.errors import InputError
from tlsearch.files import cache_folder
from tlsearch.search import setup
from tlsearch.search.progress import Observer, Snapshot
from tlsearch.spec import StudySpec
from tlsearch.training import sources
from tlsearch.training.all_features import all_features
from tlsearch.training.learning_curve import LearningCurve, learning_curve
from tlsearch.training.listed import Listed
from tlsearch.training.memory import use_threads
from tlsearch.training.objective import task_of
from tlsearch.training.suspects import Suspect, out_of_fold, suspects
from tlsearch.training.workspace import Workspace

SHARES = ("accuracy", "balanced_accuracy", "macro_f1")


@dataclass(frozen=True, slots=True)
class Doubtful:
    """An item whose label may be wrong: its name, labels by name, its split, and the item itself."""

    name: str
    label: str
    suggested: str
    probability: float
    confident: bool
    split: str
    item: Any


@dataclass(frozen=True, slots=True)
class LabelAudit:
    """What was found.

    Attributes:
        items: that were looked at.
        backbone: whose features the heads were fitted to.
        doubtful: the most suspected first.
        recalls: of each class by heads that hadn't learned from the items, with its items.
        curve: None where items are few.
        inputs: how the backbone reads them.
    """

    items: int
    backbone: str
    doubtful: tuple[Doubtful, ...]
    recalls: dict[str, tuple[float, int]]
    curve: LearningCurve | None
    inputs: InputSpec

    @property
    def confident(self) -> int:
        """How many labels confident learning takes for wrong."""
        return sum(one.confident for one in self.doubtful)


def examine_labels(spec: StudySpec, *, observe: Observer) -> LabelAudit:
    """Fit heads to features of the first backbone and ask each of items that it hasn't learned from.

    Raises:
        InputError: the study is wrong, or its items aren't of one class each.
    """
    if not task_of(spec).probabilities:
        raise InputError("--labels looks for wrong classes, and this study's items aren't of one class each.")
    threads = max(1, len(os.sched_getaffinity(0)))
    cache = cache_folder()
    first = spec.model_copy(update={"backbones": spec.backbones[:1]})
    prepared = setup.prepare(first, cache=cache, threads=threads, observe=observe)
    listed = sources.listing(spec.data, task=spec.task, threads=threads)
    observe(Snapshot(phase="features of all items"))
    with tempfile.TemporaryDirectory(prefix="tlsearch-labels-") as folder:
        config = setup.assign(prepared, cache=cache, artifacts=folder, threads=threads, cuda=_cuda())
        data, features = all_features(Workspace(config), prepared.backbones[0].name)
    kept = np.sort(np.concatenate(list(data.indices.values())))
    labels = data.targets[kept]
    groups = listed.samples.groups
    units = [(groups[at] if groups is not None and groups[at] else listed.hashes[at]) for at in kept]
    rows, plain = features[kept], replace(data, task=listed.task)
    task, target_spec = plain.task, plain.target_spec
    use_threads(1)  # the products of a few heads are small: threads would wait for each other
    observe(Snapshot(phase="suspect labels"))
    told = out_of_fold(rows, labels, units, task=task, spec=target_spec)
    named = spec.objective.metric if spec.objective.metric in SHARES else SHARES[0]
    curve = learning_curve(
        rows,
        labels,
        units,
        task=task,
        spec=target_spec,
        metric=named,
        progress=lambda done, total: observe(Snapshot(phase="learning curve", done=done, total=total)),
    )
    right = told.argmax(axis=1) == labels
    splits = {int(at): name for name, indices in data.indices.items() for at in indices}
    found = [replace(one, index=int(kept[one.index])) for one in suspects(told, labels)]
    return LabelAudit(
        items=len(kept),
        backbone=prepared.backbones[0].name,
        doubtful=_named(found, listed, target_spec.names, splits),
        recalls={
            name: (float(right[labels == at].mean()), int((labels == at).sum()))
            for at, name in enumerate(target_spec.names)
            if (labels == at).any()
        },
        inputs=data.inputs,
        curve=curve,
    )


def _named(
    found: Sequence[Suspect], listed: Listed, names: Sequence[str], splits: dict[int, str]
) -> tuple[Doubtful, ...]:
    return tuple(
        Doubtful(
            name=str(listed.samples.names[one.index]),
            label=names[one.label],
            suggested=names[one.suggested],
            probability=one.probability,
            confident=one.confident,
            split=splits[one.index],
            item=listed.samples.items[one.index],
        )
        for one in found
    )


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
