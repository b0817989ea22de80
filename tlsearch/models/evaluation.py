"""How good a model is on labelled items that it may never have seen."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlsearch import plugin_faults, registry
from tlsearch.contracts import Samples
from tlsearch.contracts.dataset import raw_for, usable
from tlsearch.errors import DataError, did_you_mean
from tlsearch.items import content_hash
from tlsearch.models import abstaining
from tlsearch.models.model import Model
from tlsearch.records import StudyItems

CHUNK = 1024
"""Items held in memory at once."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics on labelled items. ``per_class`` is each class's share of right answers (its recall).

    ``log_loss`` is of the network's own logits, as in the study's trials; ``calibrated_log_loss`` and
    ``calibration_error`` are of the probabilities that `predict` tells.

    ``seen`` counts items with the very bytes of one of the study's, by the split that it stands in there;
    None where the study's items aren't known. A picture that was saved again isn't counted.

    ``abstention`` has the risk at coverages and shares of verdicts, ``outsiders`` how well these are told
    from the items (see `models.abstaining`); None where the task has no verdicts, or no outsiders were given.
    """

    items: int
    metrics: Mapping[str, float]
    per_class: Mapping[str, float]
    broken: tuple[str, ...]
    seen: Mapping[str, int] | None = None
    abstention: Mapping[str, Any] | None = None
    outsiders: Mapping[str, Any] | None = None


def evaluate(
    model: Model,
    path: str | Path,
    *,
    split: str | None = None,
    options: Mapping[str, Any] | None = None,
    study: StudyItems | None = None,
    outsiders: Sequence[object] = (),
) -> Evaluation:
    """Score a model on a folder of class folders, or on a table of items (such as image paths) and labels.

    Args:
        model: the model.
        path: of the folder, or of a CSV, TSV or Parquet file.
        split: only items of this split, where the data names splits.
        options: a table's own keys, such as ``label_column``.
        study: the items that the model was searched with, to be found again.
        outsiders: items that are none of what the model knows.

    Raises:
        DataError: nothing usable is there, its classes are not the model's, or options that it can't have.
    """
    path = Path(path).expanduser()
    if not os.path.exists(path):  # which takes names that can't be for files that aren't there
        raise DataError(f"There is no {path} to evaluate on.")
    if options and path.is_dir():
        raise DataError(f"{path} is a folder: it has no {' and no '.join(options)}.")
    name = _source(model, path)
    source = registry.dataset(name)
    known = list(source.options.model_fields)
    for key in options or {}:
        if key not in known or key == "path":
            raise DataError(
                f'A table has no key "{key}". {did_you_mean(key, known)}'.rstrip(),
                hint=f"Keys: {', '.join(name for name in known if name != 'path')}.",
            )
    given = source.options.model_validate({"path": str(path.resolve()), **(options or {})})
    samples = plugin_faults.samples(name, given)
    samples = raw_for(model.task, samples, registry.task(source.task))
    return score_samples(model, samples, split=split, study=study, outsiders=outsiders)


def table_options(settings: Sequence[str]) -> dict[str, str | list[str]]:
    """``key=value`` words as a table's keys, repeated ones as lists; a root counts from where one stands.

    Raises:
        DataError: a word without an equals sign.
    """
    found: dict[str, str | list[str]] = {}
    for word in settings:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise DataError(f'"{word}" is no KEY=VALUE, such as label_column=species.')
        key = key.removeprefix("data.")  # as `run --set` calls it
        value = os.path.abspath(value) if key == "root" else value
        before = found.get(key)
        found[key] = value if before is None else [*([before] if isinstance(before, str) else before), value]
    return found


def _source(model: Model, path: Path) -> str:
    """Name of the source that lists what is at the path, as items of the model's kind."""
    modality = model.inputs.modality
    for name in registry.installed(registry.DATASETS):
        if not registry.problem(registry.DATASETS, name):
            own = registry.dataset(name)
            if own.task == model.manifest.task and own.modality == modality and own.suits(path):
                return name
    if modality == "image":
        return "folder" if path.is_dir() else "table"
    installed = registry.installed(registry.DATASETS)
    plugins = model.manifest.provenance.get("plugins")
    known = [plugin for plugin in (plugins if isinstance(plugins, list) else []) if isinstance(plugin, dict)]
    used = [plugin["name"] for plugin in known if plugin.get("name") in installed]
    for name in dict.fromkeys([*used, *installed]):  # the study's own before others
        if registry.problem(registry.DATASETS, name):
            continue
        source = registry.dataset(name)
        if source.modality == modality and "path" in source.options.model_fields:
            return name
    raise DataError(
        f"The model takes {modality} items, and no installed data set lists such items of a path.",
        hint="`tlsearch plugins datasets` lists what is installed.",
    )


def score_samples(
    model: Model,
    samples: Samples,
    *,
    split: str | None = None,
    study: StudyItems | None = None,
    outsiders: Sequence[object] = (),
) -> Evaluation:
    """Score a model on listed items, whose classes go by name.

    Raises:
        DataError: a class that the model doesn't know, or no readable item.
    """
    task = model.task
    samples = usable(task, samples)
    spec = samples.spec
    raw = samples.targets if spec is None else [task.plain(target, spec) for target in samples.targets]
    targets = task.encode(raw, model.target_spec)
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
    rows: list[int] = []
    looks: list[NDArray[np.float32]] = []
    broken = list(samples.broken)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        at_once = min(CHUNK, task.at_once)
        for start in range(0, len(chosen), at_once):
            chunk = chosen[start : start + at_once]
            kept, values, errors = model.readable([samples.items[index] for index in chunk], model.look)
            read = [chunk[position] for position in kept]
            rows.extend(read)
            broken.extend(f"{samples.names[chunk[position]]}: {why}" for position, why in errors.items())
            if read:
                if task.abstains:
                    looks.append(values)
                yield torch.from_numpy(model.outputs_of(values)), torch.from_numpy(targets[read])

    found = batches()
    first = next(found, None)
    if first is None:
        raise DataError("No item can be read.", hint="; ".join(broken[:3]) or None)
    metrics, per_name = task.evaluate_batches(
        itertools.chain([first], found), model.target_spec, model.manifest.calibration
    )
    seen = None if study is None else _seen((samples.items[row] for row in rows), study)
    doubts, far = _doubts(model, np.concatenate(looks), targets[rows]) if looks else (None, None)
    others = None
    if outsiders:
        others = abstaining.of_outsiders(model, outsiders, np.zeros(0) if far is None else far)
    return Evaluation(len(rows), metrics, per_name, tuple(broken), seen, doubts, others)


def _doubts(
    model: Model, looks: NDArray[np.float32], targets: NDArray[Any]
) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """Figures of what the model says of its own doubts, and distances (N,), of what `Model.look` found."""
    decoded, distances, verdicts = model.apart(looks)
    answers = model.task.answers(decoded, model.target_spec, model.manifest.calibration)
    wanted = [model.task.plain(target, model.target_spec) for target in targets]
    right = np.asarray([one == other for one, other in zip(answers, wanted, strict=True)])
    return abstaining.of_own(verdicts, decoded.max(axis=1), right), distances


def _seen(items: Iterable[Any], study: StudyItems) -> dict[str, int]:
    """How many items have the content of one of a study's, by the split that it is in there."""
    # Of copies in several splits, the one that tells most counts: the last written here.
    order = ("test", "val", "stop", "train")
    known: dict[str, str] = {}
    for split in order:
        known |= {study.hashes[at]: split for at in study.of(split)}
    counts = Counter(known.get(_content(item), "") for item in items)
    return {split: counts[split] for split in reversed(order) if counts[split]}


def _content(item: Any) -> str:
    """What `content_hash` tells, as a study keeps it; empty where that can't be told."""
    try:
        return content_hash(item)
    except (DataError, OSError, TypeError):
        return ""
