"""All that can be wrong with a study is found here, before anything is written or computed for long."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import platformdirs

from tlsearch import registry
from tlsearch.contracts import BackboneInfo, Strategy
from tlsearch.errors import PluginError, SpecError
from tlsearch.records import DatasetRecord, PluginVersion
from tlsearch.search.declared import declared
from tlsearch.search.progress import Observer, Snapshot
from tlsearch.search.space import SearchSpace, build
from tlsearch.spec import StudySpec
from tlsearch.training import sources
from tlsearch.training.arrays import ArrayStore
from tlsearch.training.data import Data
from tlsearch.training.trial import data_key

CACHE_LIMIT = 50 * 2**30
"""Bytes of activations kept, unless the disk is too small for that."""
NONE_APPLIES = "No installed strategy applies to this study."


@dataclass(frozen=True, slots=True)
class Prepared:
    """A study whose names, data and ranges are known to be right.

    ``data`` holds, by `data_key`, what workers need of the data sets, without the arrays.
    """

    spec: StudySpec
    strategies: Mapping[str, Strategy]
    backbones: tuple[BackboneInfo, ...]
    space: SearchSpace
    dataset: DatasetRecord
    data: Mapping[str, Data]
    plugins: tuple[PluginVersion, ...]
    versions: Mapping[str, str]
    warnings: tuple[str, ...]


def prepare(spec: StudySpec, *, cache: Path, threads: int, observe: Observer) -> Prepared:
    """Resolve plugins, list and check the data, load each backbone once, decode every item once.

    Raises:
        InputError: whatever is wrong with the study; nothing was written but decoded items in the cache.
    """
    strategies, skipped = resolve_strategies(spec)
    for backbone in spec.backbones:  # names first: data may take long
        registry.backbone_family(backbone.name.partition("/")[0])
    listed = {"data": sources.listing(spec.data, threads=threads)}
    if spec.source_data is not None:
        listed["source_data"] = sources.listing(spec.source_data, section="source_data", threads=threads)
    observe(Snapshot(phase="load backbones", total=len(spec.backbones)))
    infos = []
    for done, backbone in enumerate(spec.backbones):
        loaded = registry.backbone(backbone.name, weights=backbone.weights, image_size=spec.data.image_size)
        infos.append(loaded.info)
        observe(Snapshot(phase="load backbones", done=done + 1, total=len(spec.backbones)))
    if spec.strategies is None:
        strategies, unusable = _usable(strategies, infos)
        skipped += unusable
    space = build(strategies, infos, spec.space)
    store = ArrayStore(cache / "items")
    data: dict[str, Data] = {}
    for section, items in listed.items():
        for info in infos:
            key = data_key(section, info.inputs)
            if key in data:
                continue
            encoded = sources.load(
                items,
                info.inputs,
                store,
                seed=spec.seed,
                threads=threads,
                progress=lambda done, total, name=section: observe(  # type: ignore[misc]
                    Snapshot(phase=f"decode {name}", done=done, total=total)
                ),
            )
            data[key] = replace(encoded, array=np.zeros(0))
    target = data[data_key("data", infos[0].inputs)]
    return Prepared(
        spec=spec,
        strategies=strategies,
        backbones=tuple(infos),
        space=space,
        dataset=DatasetRecord(
            fingerprint=target.fingerprint,
            source=spec.data.source,
            classes=target.classes,
            counts={name: len(indices) for name, indices in target.indices.items()},
            broken=target.broken,
        ),
        data=data,
        plugins=_plugins(spec, strategies),
        versions=_versions(),
        warnings=(*skipped, *_data_warnings(data)),
    )


def resolve_strategies(spec: StudySpec) -> tuple[dict[str, Strategy], list[str]]:
    """The strategies of a study: those that it names, or all that are installed and apply.

    Returns:
        Strategies by name, and a sentence for each that was left out.

    Raises:
        UnknownNameError, PluginError: a strategy that the study names can't be had.
        SpecError: one needs source data that the study doesn't have, or none is left.
    """
    if spec.strategies is not None:
        named = {name: registry.strategy(name) for name in spec.strategies}
        for name, strategy in named.items():
            if strategy.requires_source and spec.source_data is None:
                raise SpecError(
                    f'strategies: "{name}" trains on source data too, and the study has no source_data.',
                    hint="Add a source_data section, described like data, or leave the strategy out.",
                )
        return named, []
    found: dict[str, Strategy] = {}
    skipped = []
    for name in registry.installed(registry.STRATEGIES):
        try:
            strategy = registry.strategy(name)
        except PluginError as error:
            # A broken plugin that nobody asked for harms no other; but it is said.
            skipped.append(f"left out: {error.message}")
            continue
        if strategy.requires_source and spec.source_data is None:
            continue
        found[name] = strategy
    if not found:
        raise SpecError(NONE_APPLIES, hint="See `tlsearch strategies`.")
    return found, skipped


def _usable(
    strategies: Mapping[str, Strategy], backbones: Sequence[BackboneInfo]
) -> tuple[dict[str, Strategy], list[str]]:
    """Strategies that nobody named, without those whose space is wrong, and a sentence for each of these."""
    usable, skipped = {}, []
    for name, strategy in strategies.items():
        try:
            for info in backbones:
                declared(name, strategy, info)
        except PluginError as error:
            skipped.append(f"left out: {error.message}")
        else:
            usable[name] = strategy
    if not usable:
        raise SpecError(NONE_APPLIES, hint="\n".join(skipped))
    return usable, skipped


def cache_folder() -> Path:
    """Where decoded items and activations are kept: TLSEARCH_CACHE, or the user's cache folder."""
    given = os.environ.get("TLSEARCH_CACHE")
    return Path(given) if given else Path(platformdirs.user_cache_dir("tlsearch"))


def cache_limit(folder: Path) -> int:
    """Bytes that activations may take there: at most half of what the disk has free."""
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    return min(CACHE_LIMIT, shutil.disk_usage(existing).free // 2)


def _plugins(spec: StudySpec, strategies: Mapping[str, Strategy]) -> tuple[PluginVersion, ...]:
    used = [(registry.STRATEGIES, name) for name in strategies]
    families = dict.fromkeys(backbone.name.partition("/")[0] for backbone in spec.backbones)
    used += [(registry.BACKBONES, name) for name in families]
    used += [
        (registry.DATASETS, described.source)
        for described in (spec.data, spec.source_data)
        if described is not None
    ]
    return tuple(registry.version_of(group, name) for group, name in dict.fromkeys(used))


def _versions() -> dict[str, str]:
    packages = ("tlsearch", "torch", "torchvision", "timm", "ray", "optuna")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _data_warnings(data: Mapping[str, Data]) -> list[str]:
    warnings: list[str] = []
    for encoded in data.values():
        if encoded.broken:
            named = "; ".join(encoded.broken[:3])
            warnings.append(f"{len(encoded.broken)} broken items were set aside: {named}")
        warnings += encoded.audit.warnings
    return list(dict.fromkeys(warnings))
