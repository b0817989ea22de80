"""A study file for data that somebody has: looked at, measured, written with reasons beside the values."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tlsearch import registry
from tlsearch.errors import DataError
from tlsearch.spec import NAME_PATTERN, parse
from tlsearch.spec.presets import Preset
from tlsearch.training import sources

PREFERRED = ("efficientnet_lite/lite0", "timm/resnet18.a1_in1k", "torchvision/resnet18")
"""Backbones to begin with, the first whose family is installed; lite0 needs no hub."""
SIZES = (224, 160, 128, 96, 64)
SECONDS_AT_224 = 0.06
"""Of one core for one image in one epoch of lite0 with half of it frozen: measured on a server core."""
GPU_SPEED = 100.0
"""How much faster a GPU is than a core, to the order of magnitude."""
UNEQUAL = 3.0
"""From this ratio of the largest class to the smallest on, accuracy would reward ignoring the small ones."""
SMALL = 400
"""Below, a share of 0.15 is too few items to tell models apart."""
LOOKED_AT = 100
IMAGE_COLUMNS = ("image", "path", "file", "filename", "image_path", "filepath", "img")
LABEL_COLUMNS = ("label", "class", "target", "category", "y")


@dataclass(frozen=True, slots=True)
class Proposal:
    """A study file's text, and what it rests on."""

    study: str
    text: str
    items: int
    counts: dict[str, int]
    splits: dict[str, int]
    pixels: int | None
    metric: str
    broken: tuple[str, ...]
    notes: tuple[str, ...] = ()


def propose(data: Path, *, name: str | None, beside: Path, preset: Preset) -> Proposal:
    """Look at a folder of class folders, or at a table, and write a study file for it.

    Args:
        data: the folder or table.
        name: of the study; the data's own by default.
        beside: folder of the study file, which paths in it are relative to.
        preset: whose keys the study gets.

    Raises:
        DataError: there is nothing to search on; the message says what and where.
    """
    path = Path(os.path.relpath(data.resolve(), beside.resolve())).as_posix()
    section: dict[str, Any] = {"source": "folder" if data.is_dir() else "table", "path": path}
    if section["source"] == "table":
        section |= _columns(data)
    study = name or study_name(data)
    spec = parse({"study": study, "data": section, "backbones": [PREFERRED[0]]}, folder=beside)
    listed = sources.listing(spec.data, threads=max(1, len(os.sched_getaffinity(0))))
    samples = listed.samples
    counts = Counter(listed.identity(index) for index in range(len(samples.items)))
    pixels = _pixels(samples.items)
    size = _image_size(pixels, len(samples.items), preset.epoch_seconds)
    unequal = max(counts.values()) >= UNEQUAL * min(counts.values())
    metric = "balanced_accuracy" if unequal else "accuracy"
    text = _text(
        study=study,
        section=section,
        counts=counts,
        pixels=pixels,
        size=size,
        metric=metric,
        splits=samples.splits,
        preset=preset,
    )
    return Proposal(
        study=study,
        text=text,
        items=len(samples.items),
        counts=dict(counts),
        splits=dict(Counter(samples.splits or ())),
        pixels=pixels,
        metric=metric,
        broken=samples.broken,
        notes=samples.notes,
    )


def _text(
    *,
    study: str,
    section: dict[str, Any],
    counts: Counter[str],
    pixels: int | None,
    size: int | None,
    metric: str,
    splits: Sequence[str] | None,
    preset: Preset,
) -> str:
    items = sum(counts.values())
    largest, smallest = counts.most_common()[0], counts.most_common()[-1]
    data = [f"  {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in section.items()]
    if size is not None:
        why = "the images are small" if pixels is not None and size >= pixels else "quick on this machine"
        data.append(f"  image_size: {size}                 # {why}; the backbone's own is larger")
    share = 0.2 if items < SMALL else 0.15
    if splits is None:
        data.append(
            f"  split: {{val: {share}, test: {share}}}     # by content; copies never stand in two parts"
        )
    else:
        missing = " and ".join(name for name in ("val", "test") if name not in splits)
        cut = f"; {missing} is cut from train" if missing else ""
        data.append(f"  # It brings its own splits{cut}.")
    reason = (
        f"classes are unequal: {largest[1]} of {largest[0]}, {smallest[1]} of {smallest[0]}"
        if metric != "accuracy"
        else "classes are about equal; else balanced_accuracy or macro_f1"
    )
    return "\n".join(
        [
            f"# {items:,} items of {len(counts)} classes",
            f"study: {study}",
            "data:",
            *data,
            "backbones:                       # `tlsearch backbones` lists more",
            f"  - {_backbone()}",
            f"objective: {{metric: {metric}}}   # {reason}",
            *preset.lines(),
            "seed: 0",
            "",
        ]
    )


def _columns(table: Path) -> dict[str, str]:
    """Column options of a table that doesn't use the default names, where its own are plain enough."""
    from tlsearch.registry import dataset

    source = dataset("table")
    options = source.options.model_fields
    with table.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline().strip()
    known = re.split(r"[,\t]", header) if table.suffix.lower() in (".csv", ".tsv") else []
    found = {}
    for option, names in (("image_column", IMAGE_COLUMNS), ("label_column", LABEL_COLUMNS)):
        own = next((column for name in names for column in known if column.lower() == name), None)
        if own is not None and own != options[option].default:
            found[option] = own
    return found


def study_name(data: Path) -> str:
    """The name of a study of some data that is given none."""
    named = Path(os.path.abspath(data))  # as it was given: a link goes by its own name
    stem = named.stem if data.is_file() else named.name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:80]
    return name if re.match(NAME_PATTERN, name) else "study"


def _pixels(items: Sequence[Any]) -> int | None:
    """The median shorter side of some of the images; None where none can be read."""
    from PIL import Image, UnidentifiedImageError

    from tlsearch.images.decoding import FORMATS

    sides = []
    for index in range(0, len(items), max(1, len(items) // LOOKED_AT)):
        try:
            with Image.open(items[index], formats=FORMATS) as image:
                sides.append(min(image.size))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError):
            continue  # the run sets broken ones aside and names them
    return int(median(sides)) if sides else None


def _image_size(pixels: int | None, items: int, seconds: float) -> int | None:
    """The largest size that the images fill and this machine trains quickly; None for the backbone's own."""
    import torch

    speed = GPU_SPEED if torch.cuda.is_available() else len(os.sched_getaffinity(0))
    for size in SIZES:
        smaller = SIZES[min(SIZES.index(size) + 1, len(SIZES) - 1)]
        filled = pixels is None or pixels > smaller or size == SIZES[-1]
        if filled and items * SECONDS_AT_224 * (size / 224) ** 2 / speed <= seconds:
            return None if size == SIZES[0] else size
    return SIZES[-1]


def _backbone() -> str:
    families = registry.installed(registry.BACKBONES)
    for name in PREFERRED:
        if name.partition("/")[0] in families:
            return name
    raise DataError("No backbone is installed.", hint="pip install tlsearch-efficientnet-lite")
