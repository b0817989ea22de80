"""Pictures of a study that a model can be tried on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlsearch.database.store import Store, exists
from tlsearch.errors import InputError, StudyConflictError
from tlsearch.models import bundle
from tlsearch.models.model import Model

if TYPE_CHECKING:
    from tlsearch.models.export.inference_graph import Material

ENOUGH = 32
"""Items, evenly from the whole split; some may be broken."""


def held_out(
    study: str,
    url: str,
    model: Model,
    *,
    given: Sequence[Path] = (),
    told: Callable[[str], None] = lambda line: None,
) -> tuple[list[object], str]:
    """Items to try a model on, and what they are; none where the study's data can't be reached.

    Args:
        study: name of a study, or a bundle's folder, which has the data of the study that it came from, where
            this database knows that.
        url: of the study database.
        model: what is tried.
        given: files or folders to take instead.
        told: gets a sentence where the data can't be had.
    """
    if given:
        return _some([item for word in given for _, item in model.inputs.find(str(word))]), "given images"
    study = _origin(study, url)
    if not study:
        told("A bundle comes without data: the export is checked on random noise (or give --images).")
        return [], ""
    from tlsearch.spec import parse
    from tlsearch.training import sources
    from tlsearch.training.items import as_split, located

    try:
        with Store.open(url) as store:
            record, items = store.study(study), store.items(study)
        spec = parse(record.spec)
        listed = sources.listing(spec.data, task=spec.task)
    except InputError as error:
        told(f"The study's images can't be read ({error.message}); the export is checked on random noise.")
        return [], ""
    raw = listed.samples.items
    try:
        indices = located(items or as_split(listed, record), listed, "val")
    except StudyConflictError:
        return _some(raw), "images from the study's data folder, which has changed"
    return _some([raw[index] for index in indices]), "validation images"


def material(study: str, url: str, *, training: int) -> Material:
    """What another precision takes: items that set ranges, and whole splits to be scored on.

    Args:
        study: as for `held_out`; of a bundle whose study isn't known there is nothing.
        url: of the study database.
        training: items at most that set ranges, evenly from all.

    Raises:
        InputError: the data can't be read.
        StudyConflictError: it isn't there as it was.
    """
    from tlsearch.models.export.inference_graph import Material
    from tlsearch.spec import parse
    from tlsearch.training import sources
    from tlsearch.training.items import as_split, located

    study = _origin(study, url)
    if not study:
        return Material((), {}, "")
    with Store.open(url) as store:
        record, known = store.study(study), store.items(study)
    spec = parse(record.spec)
    listed = sources.listing(spec.data, task=spec.task)
    items = known or as_split(listed, record)
    train = located(items, listed, "train")
    step = max(1, len(train) // training)
    splits = {}
    for split in ("val", "test"):
        if indices := located(items, listed, split):
            splits[split] = (
                [listed.samples.items[index] for index in indices],
                [listed.plain(index) for index in indices],
            )
    some = [listed.samples.items[index] for index in train[::step][:training]]
    return Material(some, splits, record.metric)


def all_items(study: str, url: str) -> tuple[list[str], list[object], list[Any]]:
    """Names, items and labels of a study's data, as they are now.

    Raises:
        InputError: it is a bundle's folder, which has no data; or the data can't be read.
    """
    from tlsearch.spec import parse
    from tlsearch.training import sources

    if os.path.isfile(Path(study) / bundle.MANIFEST):
        raise InputError(
            "A bundle comes without data to search.", hint="Name images or folders with --among."
        )
    with Store.open(url) as store:
        spec = parse(store.study(study).spec)
    listed = sources.listing(spec.data, task=spec.task)
    names = [str(name) for name in listed.samples.names]
    return names, list(listed.samples.items), [listed.plain(at) for at in range(len(names))]


def _origin(study: str, url: str) -> str:
    """The study of that name, or the one that a bundle's folder came from; empty where that isn't known."""
    if not os.path.isfile(Path(study) / bundle.MANIFEST):  # False too for names that no file can have
        return study
    known = bundle.read_manifest(Path(study)).provenance
    name, fingerprint = str(known.get("study", "")), known.get("fingerprint")
    if not name or not exists(url):
        return ""
    with Store.open(url) as store:
        record = store.find_study(name)
    return name if record is not None and record.fingerprint == fingerprint else ""


def _some(items: Sequence[object]) -> list[object]:
    step = max(1, len(items) // ENOUGH)
    return list(items[::step])[:ENOUGH]
