"""``tlsearch look``: a page of what the network sees of a study's pictures, before anything is searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tlsearch import registry
from tlsearch.contracts.dataset import Samples
from tlsearch.contracts.images import ImageInput
from tlsearch.errors import InputError
from tlsearch.files import write_page
from tlsearch.reports import templates
from tlsearch.reports.pictures import data_url, fitted
from tlsearch.reports.preprocessed import Overview, Seen, looker, overview
from tlsearch.search import setup
from tlsearch.search.progress import Observer
from tlsearch.spec import StudySpec
from tlsearch.training import item_times
from tlsearch.training.data import Data
from tlsearch.training.objective import settled

KINDS = 24
"""Classes of which pictures are shown."""
MEASURED = 200
"""Pictures whose shape is looked at, evenly from all."""
AUGMENTED = 4
"""Pictures that are shown augmented, and how often each with every policy: one more."""
SPLITS = {"train": "Training", "stop": "Early stopping", "val": "Validation", "test": "Test"}
POLICIES = {
    "flip": "mirrored at random",
    "dihedral": "turned by quarters and mirrored at random",
    "light": "a random crop, rotated by up to 10 degrees, with changed brightness and contrast",
    "trivialaugment": "one operation of any strength (Mueller and Hutter 2021)",
    "randaugment": "two operations of medium strength (Cubuk et al. 2020)",
}
"""Augmentation policies in words."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Pictures of one class, by the name of their split."""

    name: str
    pictures: Mapping[str, Sequence[Seen]]
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Policy:
    """Rows of pictures as data URLs: each as the network takes it, then augmented a few times."""

    name: str
    words: str
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Looked:
    """What `write` wrote, and what is to be known of it."""

    path: Path
    overview: Overview


def write(spec: StudySpec, path: Path, *, each: int, observe: Observer) -> Looked:
    """Decode a study's data as the search would, and write a page of it.

    Args:
        spec: the study.
        path: of the page.
        each: pictures of a class and split.
        observe: told how it goes.

    Raises:
        InputError: the items are no pictures, the data can't be searched on, or the page can't be written.
    """
    from markupsafe import Markup

    if (modality := registry.dataset(spec.data.source).modality) != "image":
        raise InputError(
            f"`look` shows pictures; the items of {spec.data.source} are of the kind {modality}."
        )
    looked = setup.look(settled(spec), observe=observe)
    data, samples = looked.data, looked.listed["data"].samples
    if not isinstance(data.inputs, ImageInput):
        raise InputError(f"`look` can't show the preprocessing of {spec.backbones[0].name}.")
    indices = np.sort(np.concatenate(list(data.indices.values())))
    some = indices[:: max(1, len(indices) // MEASURED)].tolist()
    found = overview(data.inputs, [(samples.names[index], samples.items[index]) for index in some])
    if times := item_times.ranges(samples, data.parts):
        found = replace(found, sentences=(*found.sentences, f"{item_times.sentence(times)}."))
    strata = data.strata
    page = (
        templates.environment()
        .get_template("look.html.j2")
        .render(
            study=spec.study,
            backbone=spec.backbones[0].name,
            found=found,
            one=strata.one,
            many=strata.many,
            kinds=_kinds(samples, data, data.inputs, each=each),
            left_out=max(0, len(strata.names) - KINDS),
            splits={name: words for name, words in SPLITS.items() if len(data.indices[name])},
            policies=_policies(data, data.inputs),
            mirror=data.mirror,
            broken=data.broken,
            css=Markup((Path(__file__).parent / "page" / "report.css").read_text(encoding="utf-8")),
        )
    )
    write_page(path, page)
    return Looked(path, found)


def _kinds(samples: Samples, data: Data, inputs: ImageInput, *, each: int) -> list[Kind]:
    strata, show = data.strata, looker(inputs)
    kinds = []
    for number, name in enumerate(strata.names[:KINDS]):
        own = {
            split: [index for index in indices.tolist() if number in strata.of[index]]
            for split, indices in data.indices.items()
        }
        pictures = {
            split: [
                show(samples.names[index], samples.items[index], data.array[index])
                for index in _evenly(found, each)
            ]
            for split, found in own.items()
        }
        kinds.append(Kind(str(name), pictures, {split: len(found) for split, found in own.items()}))
    return kinds


def _policies(data: Data, inputs: ImageInput) -> list[Policy]:
    """Training pictures under each policy that changes them."""
    chosen = _evenly(data.indices["train"].tolist(), AUGMENTED)
    batch = torch.from_numpy(np.stack([data.array[index] for index in chosen]))
    policies = []
    for name in inputs.policies:
        if name == "none" or (name == "flip" and not data.mirror):
            continue
        columns: list[Any] = [batch]
        for seed in range(AUGMENTED + 1):
            draws = inputs.draw(name, len(batch), seed=seed, mirror=data.mirror)
            if draws is not None:
                columns.append(inputs.augment(batch, name, draws))
        rows = [
            [data_url(fitted(inputs.shown(column[row].numpy()))) for column in columns]
            for row in range(len(batch))
        ]
        policies.append(Policy(name, POLICIES.get(name, ""), rows))
    return policies


def _evenly(found: Sequence[int], count: int) -> list[int]:
    return [found[round(place)] for place in np.linspace(0, len(found) - 1, min(count, len(found)))]
