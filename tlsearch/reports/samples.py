"""Pictures of a study that a model can be tried on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tlsearch.database.store import Store
from tlsearch.errors import InputError
from tlsearch.models import bundle
from tlsearch.models.bundle import Model

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
        study: name of a study, or a bundle's folder, which has no data.
        url: of the study database.
        model: whose data fingerprint the study's data must still have.
        given: files or folders to take instead.
        told: gets a sentence where the data can't be had.
    """
    if given:
        return _some([item for word in given for _, item in model.inputs.find(str(word))]), "given images"
    if os.path.isfile(Path(study) / bundle.MANIFEST):  # False too for names that no file can have
        told("A bundle has no data: the export is tried on generated noise (--images names pictures).")
        return [], ""
    from tlsearch.search.verify import split_items
    from tlsearch.spec import parse

    try:
        with Store.open(url) as store:
            spec = parse(store.study(study).spec)
        listed, parts = split_items(spec)
    except InputError as error:
        told(f"The study's images can't be had ({error.message}); the export is tried on generated noise.")
        return [], ""
    items = listed.samples.items
    same = listed.fingerprint == model.manifest.provenance.get("fingerprint")
    kind = "validation images" if same else "images where the study's data was, which has changed"
    return _some([items[index] for index in parts["val"].tolist()]), kind


def _some(items: Sequence[object]) -> list[object]:
    step = max(1, len(items) // ENOUGH)
    return list(items[::step])[:ENOUGH]
