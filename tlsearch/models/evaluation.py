"""How good a model is on labelled items that it may never have seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tlsearch import registry
from tlsearch.contracts import Samples
from tlsearch.errors import DataError
from tlsearch.metrics import score
from tlsearch.models.bundle import Model

CHUNK = 1024
"""Items held in memory at once."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics on labelled items. ``per_class`` is each class's share of right answers (its recall)."""

    items: int
    metrics: Mapping[str, float]
    per_class: Mapping[str, float]
    broken: tuple[str, ...]


def evaluate(model: Model, path: Path, *, split: str | None = None) -> Evaluation:
    """Score a model on a folder of class folders, or on a table of image paths and labels.

    Args:
        model: the model.
        path: of the folder, or of a CSV, TSV or Parquet file.
        split: only items of this split, where the data names splits.

    Raises:
        DataError: nothing usable is there, or its classes are not the model's.
    """
    if not path.exists():
        raise DataError(f"There is no {path} to evaluate on.")
    source = registry.dataset("folder" if path.is_dir() else "table")
    samples = source.load(source.options.model_validate({"path": str(path.resolve())}))
    return score_samples(model, samples, split=split)


def score_samples(model: Model, samples: Samples, *, split: str | None = None) -> Evaluation:
    """Score a model on listed items, whose classes go by name.

    Raises:
        DataError: a class that the model doesn't know, or no readable item.
    """
    unknown = sorted(set(samples.classes) - set(model.classes))
    if unknown:
        raise DataError(
            f"The model doesn't know the class {unknown[0]!r}"
            + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
            + ".",
            hint=f"It knows: {', '.join(model.classes[:20])}",
        )
    chosen = [
        index
        for index in range(len(samples.items))
        if split is None or (samples.splits is not None and samples.splits[index] == split)
    ]
    if not chosen and split is not None:
        names = sorted(set(samples.splits or ()))
        raise DataError(
            f'No item is in the split "{split}".',
            hint=f"There are: {', '.join(names)}." if names else "The data names no splits.",
        )
    index_of = {name: index for index, name in enumerate(model.classes)}
    labels: list[int] = []
    logits = []
    broken = list(samples.broken)
    for start in range(0, len(chosen), CHUNK):
        chunk = chosen[start : start + CHUNK]
        kept, values, errors = model.readable([samples.items[index] for index in chunk])
        labels += [index_of[samples.classes[samples.labels[chunk[position]]]] for position in kept]
        logits.append(torch.from_numpy(values))
        broken += [f"{samples.names[chunk[position]]}: {why}" for position, why in errors.items()]
    if not labels:
        raise DataError("No item can be read.", hint="; ".join(broken[:3]) or None)
    predicted, actual = torch.cat(logits), torch.tensor(labels)
    right = predicted.argmax(dim=1) == actual
    return Evaluation(
        items=len(labels),
        metrics=score(predicted, actual),
        per_class={
            name: float(right[actual == index].float().mean())
            for name, index in index_of.items()
            if bool((actual == index).any())
        },
        broken=tuple(broken),
    )


def image_paths(paths: Sequence[Path]) -> list[Path]:
    """Files as given, and the files inside the folders among them, in order.

    Raises:
        DataError: a path that isn't there, or a folder without files.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(inner for inner in path.rglob("*") if inner.is_file())
            if not inside:
                raise DataError(f"There is no file in {path}.")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"There is no file {path}.")
    return found
