"""All that can be wrong with a study is found here, before anything is written or computed for long."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tlsearch import registry
from tlsearch.contracts import (
    BackboneInfo,
    Combination,
    InputSpec,
    Metric,
    Strategy,
    TargetSpec,
    Task,
)
from tlsearch.counts import plural
from tlsearch.files import cache_folder
from tlsearch.models.abstention import REFERENCES
from tlsearch.records import DatasetRecord, PluginVersion, StudyItems
from tlsearch.search.plugin_choice import resolve_combinations, resolve_strategies, usable, versions_of
from tlsearch.search.progress import Observer, Snapshot
from tlsearch.search.space import SearchSpace, build
from tlsearch.spec import StudySpec
from tlsearch.training import audit, items, sources
from tlsearch.training.arrays import ArrayStore
from tlsearch.training.data import Data, make_data
from tlsearch.training.earlier import Extended
from tlsearch.training.items import Growth
from tlsearch.training.listed import Listed
from tlsearch.training.objective import name_of, settled, task_of
from tlsearch.training.splits import IntArray
from tlsearch.training.workspace import WorkerConfig, data_key

CACHE_LIMIT = 50 * 2**30
"""Bytes of activations kept, unless the disk is too small for that."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A study whose names, data and ranges are known to be right.

    ``data`` holds, by `data_key`, what workers need of the data sets, without the arrays. ``items`` are those
    of the target data with their splits, fixed when the study was begun. ``audit`` is what `audit.examine`
    found in the target data. ``growth`` is what is new where a study is extended now.
    """

    spec: StudySpec
    task: Task
    strategies: Mapping[str, Strategy]
    combinations: Mapping[str, Combination]
    backbones: tuple[BackboneInfo, ...]
    space: SearchSpace
    dataset: DatasetRecord
    data: Mapping[str, Data]
    items: StudyItems
    audit: Mapping[str, Any]
    plugins: tuple[PluginVersion, ...]
    versions: Mapping[str, str]
    warnings: tuple[str, ...]
    growth: Growth | None = None

    @property
    def task_name(self) -> str:
        """What the task goes by."""
        return name_of(self.spec)

    @property
    def target_spec(self) -> TargetSpec:
        """What the target data's targets are."""
        return next(data.target_spec for key, data in self.data.items() if key.startswith("data|"))

    @property
    def metric(self) -> Metric:
        """What trials are compared by."""
        return self.task.metric(self.spec.objective.metric)

    @property
    def tie(self) -> Metric:
        """What tells apart trials of equal value."""
        return self.task.metric(self.task.tie_breaker)

    def backbone(self, name: str) -> BackboneInfo:
        """One of its backbones."""
        return next(info for info in self.backbones if info.name == name)

    @property
    def references(self) -> int:
        """Training items that a finished model looks at once, to know later what is none of them."""
        return min(self.dataset.counts.get("train", 0), REFERENCES) if self.task.abstains else 0


def prepare(
    spec: StudySpec,
    *,
    cache: Path,
    threads: int,
    observe: Observer,
    checked: Callable[[Mapping[str, Strategy]], None] = lambda strategies: None,
    begun: StudyItems | None = None,
    extended: Extended | None = None,
) -> Prepared:
    """Resolve plugins, list and check the data, load each backbone once, decode every item once.

    Args:
        spec: the study.
        cache: folder of decoded items.
        threads: that decode.
        observe: told how it goes.
        checked: given the strategies once plugins and data are known to be there, before what takes long.
        begun: the items of a study that is gone on with; its splits are kept, and its data must be the same.
        extended: the study that this one extends: what it computed of its items isn't computed again. Where
            nobody has begun this one, the data must be that one's with something new.

    Raises:
        InputError: whatever is wrong with the study; nothing was written but decoded items in the cache.
        StudyConflictError: the data isn't what it was when the study was begun; or nothing of it is new.
    """
    spec = settled(spec)
    strategies, skipped = resolve_strategies(spec)
    combinations, left_out = resolve_combinations(spec)
    skipped += left_out
    for family in spec.families:  # names first: data may take long
        registry.backbone_family(family)
    listed = _listed(spec, threads=threads)
    carried = growth = None
    if begun is not None:
        carried = items.carried(begun, listed["data"], listed.get("source_data"), study=spec.study)
    elif extended is not None:
        growth = items.grown(extended.items, extended.names, listed["data"], seed=spec.seed)
        carried = growth.carried
    checked(strategies)
    infos = _backbones(spec, observe=observe)
    if spec.strategies is None:
        strategies, unusable = usable(strategies, infos)
        skipped += unusable
    # Where the study says how many epochs a trial has, its length is no longer searched.
    learned, metric = listed["data"].learned, spec.objective.metric
    fixed = {**learned.fixed, **({"length": 1.0} if spec.budget.epochs else {})}
    space = build(strategies, infos, spec.space, task=learned, metric=metric, fixed=fixed)
    data, found = _data(
        spec, listed, infos, cache, carried=carried, extended=extended, threads=threads, observe=observe
    )
    target = data[data_key("data", infos[0].inputs)]
    kept = begun or items.fix(listed["data"], target.parts, target.aside, listed.get("source_data"))
    return Prepared(
        spec=spec,
        task=task_of(spec),
        strategies=strategies,
        combinations=combinations,
        backbones=tuple(infos),
        space=space,
        dataset=DatasetRecord(
            fingerprint=target.fingerprint,
            source=spec.data.source,
            classes=target.target_spec.names,
            counts={name: len(indices) for name, indices in target.indices.items()},
            broken=target.broken,
        ),
        data=data,
        items=kept,
        audit=found,
        plugins=versions_of(spec, strategies, combinations),
        versions=_versions(),
        warnings=(*skipped, *_notes(listed), *_data_warnings(data), *audit.sentences(found)),
        growth=growth,
    )


def _backbones(spec: StudySpec, *, observe: Observer) -> list[BackboneInfo]:
    """What the study's backbones are, each loaded once."""
    observe(Snapshot(phase="load backbones", total=len(spec.backbones)))
    infos = []
    for done, backbone in enumerate(spec.backbones):
        loaded = registry.backbone(
            backbone.name, weights=backbone.weights, image_size=spec.data.image_size, pixels=spec.data.pixels
        )
        infos.append(loaded.info)
        observe(Snapshot(phase="load backbones", done=done + 1, total=len(spec.backbones)))
    return infos


def assign(prepared: Prepared, *, cache: Path, artifacts: str, threads: int, cuda: bool) -> WorkerConfig:
    """What every trial of a prepared study shares, on a machine whose cache is that folder."""
    return WorkerConfig(
        spec=prepared.spec,
        cache=cache.resolve(),
        artifacts=artifacts,
        cache_bytes=cache_limit(cache),
        threads=threads,
        cuda=cuda,
        data=prepared.data,
    )


@dataclass(frozen=True, slots=True)
class FirstLook:
    """A study's data, listed, split and decoded, before anything is known of the study's database."""

    listed: Mapping[str, Listed]
    data: Data
    store: ArrayStore
    threads: int


def look(spec: StudySpec, *, observe: Observer) -> FirstLook:
    """List, split and decode a study's target data as the first backbone takes it, without its weights.

    Raises:
        InputError: the data can't be searched on.
    """
    threads = max(1, len(os.sched_getaffinity(0)))
    first = spec.backbones[0]
    registry.backbone_family(first.name.partition("/")[0])
    listed = _listed(spec, threads=threads)
    # Its weights are no matter here: the backbone only says what it takes.
    info = registry.backbone(
        first.name, weights="random", image_size=spec.data.image_size, pixels=spec.data.pixels
    ).info
    store = ArrayStore(cache_folder() / "items")
    data = _decoded(
        "data", listed["data"], info.inputs, store, seed=spec.seed, threads=threads, observe=observe
    )
    return FirstLook(listed, data, store, threads)


def examine(spec: StudySpec, *, observe: Observer) -> dict[str, Any]:
    """Only look at a study's data, as `prepare` does: its audit, with ``warnings`` in sentences.

    Raises:
        InputError: the data can't be searched on.
    """
    spec = settled(spec)
    seen = look(spec, observe=observe)
    found = _examined(spec, seen.listed, seen.data, seen.store, threads=seen.threads, observe=observe)
    warnings = [*_notes(seen.listed), *_data_warnings({"data": seen.data}), *audit.sentences(found)]
    return {**found, "warnings": warnings}


def _listed(spec: StudySpec, *, threads: int) -> dict[str, Listed]:
    listed = {"data": sources.listing(spec.data, task=spec.task, threads=threads)}
    if spec.source_data is not None:
        listed["source_data"] = sources.listing(
            spec.source_data, section="source_data", task=spec.task, threads=threads
        )
    return listed


def _data(
    spec: StudySpec,
    listed: Mapping[str, Listed],
    infos: Sequence[BackboneInfo],
    cache: Path,
    *,
    carried: items.Carried | None,
    extended: Extended | None,
    threads: int,
    observe: Observer,
) -> tuple[dict[str, Data], dict[str, Any]]:
    """What workers need of the data sets under each backbone's input; what was found in the target data."""
    store = ArrayStore(cache / "items")
    data: dict[str, Data] = {}
    found: dict[str, Any] = {}
    for section, listing in listed.items():
        keys = {data_key(section, info.inputs): info.inputs for info in infos}
        for key, inputs in keys.items():
            encoded = _decoded(
                section,
                listing,
                inputs,
                store,
                seed=spec.seed,
                parts=carried.parts if carried is not None and section == "data" else None,
                extended=extended if section == "data" else None,
                threads=threads,
                observe=observe,
            )
            if not found:  # the target data comes first
                found = _examined(spec, listed, encoded, store, threads=threads, observe=observe)
            data[key] = replace(encoded, array=np.zeros(0))
        # What one backbone can't take is set aside for all: they are compared on the same items.
        aside = {index for key in keys for index in data[key].aside}
        if carried is not None and section == "data":
            aside = carried.set_aside(aside, listing)
        for key in keys:
            kept = {name: np.setdiff1d(indices, sorted(aside)) for name, indices in data[key].indices.items()}
            data[key] = replace(data[key], indices=kept, aside=tuple(sorted(aside)))
    return data, found


def _decoded(
    section: str,
    listed: Listed,
    inputs: InputSpec,
    store: ArrayStore,
    *,
    seed: int,
    parts: Mapping[str, IntArray] | None = None,
    extended: Extended | None = None,
    threads: int,
    observe: Observer,
) -> Data:
    def progress(done: int, total: int) -> None:
        observe(Snapshot(phase=f"decode {section}", done=done, total=total))

    return make_data(
        listed,
        inputs,
        store,
        seed=seed,
        threads=threads,
        parts=parts,
        extended=extended,
        progress=progress,
    )


def _examined(
    spec: StudySpec,
    listed: Mapping[str, Listed],
    data: Data,
    store: ArrayStore,
    *,
    threads: int,
    observe: Observer,
) -> dict[str, Any]:
    observe(Snapshot(phase="look at the data"))
    source: dict[str, list[str]] = {}
    if "source_data" in listed:
        for content, name in zip(
            listed["source_data"].hashes, listed["source_data"].samples.names, strict=True
        ):
            source.setdefault(content, []).append(name)
    return audit.examine(
        listed["data"].samples,
        data,
        store,
        metric=spec.objective.metric,
        source=source,
        hashes=listed["data"].hashes,
        threads=threads,
    )


def cache_limit(folder: Path) -> int:
    """Bytes that activations may take there: at most half of what the disk has free."""
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    return min(CACHE_LIMIT, shutil.disk_usage(existing).free // 2)


def _versions() -> dict[str, str]:
    packages = ("tlsearch", "torch", "torchvision", "timm", "ray", "optuna")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _notes(listed: Mapping[str, Listed]) -> list[str]:
    """How the data was understood, and what of it was left out."""
    return [
        note if section == "data" else f"{section}: {note}"
        for section, items in listed.items()
        for note in items.samples.notes
    ]


def _data_warnings(data: Mapping[str, Data]) -> list[str]:
    warnings: list[str] = []
    for encoded in data.values():
        if encoded.broken:
            named = "; ".join(encoded.broken[:3])
            warnings.append(f"{plural(len(encoded.broken), 'broken item')} set aside: {named}")
        warnings += encoded.audit.warnings
    return list(dict.fromkeys(warnings))
