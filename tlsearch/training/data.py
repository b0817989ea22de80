"""From listed samples to what a worker trains on: identified by content, split, audited, decoded once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlsearch.contracts.dataset import Samples, encoded
from tlsearch.contracts.inputs import InputSpec
from tlsearch.contracts.target import Strata, TargetSpec
from tlsearch.contracts.task import Task
from tlsearch.errors import DataError
from tlsearch.training.arrays import ArrayStore
from tlsearch.training.earlier import Earlier, Extended
from tlsearch.training.encoding import Progress, encode, hash_of, in_threads, suited
from tlsearch.training.splits import Audit, IntArray, audit, split, units_of

RESHUFFLED_BELOW = 1_000
"""Items outside the test split below which repeated runs draw splits of their own: with few items one split's
luck is greater than that of a seed (Nagler et al. 2024, arXiv:2405.15393)."""


@dataclass(frozen=True, slots=True)
class Data:
    """What a worker needs of one data set under one `InputSpec`.

    Attributes:
        array: encoded items (N, *shape), memory-mapped; a broken item's row is zero.
        targets: (N, ...), as the task encodes them: class indices (N,), say.
        target_spec: what they are.
        indices: ascending, of ``train``, ``stop``, ``val`` and ``test``, without broken items.
        fingerprint: SHA-256 over contents and targets, whatever their order and paths.
        key: identifies ``array`` with the order of its rows; for what is stored row by row.
        mirror: whether a left-right flip leaves targets right.
        inputs: how the items were encoded: the backbone's, as it suits this data.
        broken: ``name: reason`` of every item that was set aside.
        audit: of the splits as they were before broken items were taken out.
        parts: ``indices`` as they were before that.
        aside: indices of the broken items.
        task: what is learned.
        units: (N,) numbers of what must stay in one split, where another split may be drawn of the items
            outside test; None where they are many, or the data comes with a validation split of its own.
        earlier: what the study that this one extends stored of these items; None where it extends none.
    """

    array: NDArray[Any]
    targets: NDArray[Any]
    target_spec: TargetSpec
    indices: Mapping[str, IntArray]
    fingerprint: str
    key: str
    mirror: bool
    inputs: InputSpec
    broken: tuple[str, ...]
    audit: Audit
    parts: Mapping[str, IntArray]
    aside: tuple[int, ...]
    task: Task
    units: IntArray | None = None
    earlier: Earlier | None = None

    def plain(self, index: int) -> Any:
        """An item's target as people read it."""
        return self.task.shown(self.targets[index], self.target_spec)

    def columns(self, index: IntArray) -> Tensor:
        """Targets of items as numbers (n, K)."""
        return self.task.columns(torch.from_numpy(self.targets[index]), self.target_spec)

    @property
    def strata(self) -> Strata:
        """Kinds of items by which they are split."""
        return self.task.strata(self.targets, self.target_spec)


def prepare(
    samples: Samples,
    inputs: InputSpec,
    store: ArrayStore,
    *,
    task: Task,
    val: float,
    test: float,
    stop: float = 0.1,
    seed: int,
    mirror: bool,
    threads: int = 2,
    max_broken: float = 0.05,
    max_overlap: float = 0.05,
    hashed: tuple[str, list[str]] | None = None,
    parts: Mapping[str, IntArray] | None = None,
    extended: Extended | None = None,
    progress: Progress | None = None,
) -> Data:
    """Identify, split, audit and encode.

    Args:
        samples: the listed items.
        inputs: the backbone's.
        store: where encoded items are kept.
        task: what is learned.
        val: share of all items, see `split`; ``test`` and ``stop`` likewise.
        test: see `split`.
        stop: see `split`.
        seed: see `split`.
        mirror: whether flips are harmless.
        threads: for hashing and decoding.
        max_broken: share of broken items above which the data is refused.
        max_overlap: share of val, or of test, that may be copies of items of train.
        hashed: what `fingerprint` gave for these samples, where it is known already.
        parts: splits that were made before; they are cut anew where there are none.
        extended: the study that this one extends: what it stored is not encoded again.
        progress: called with (items done, items) while decoding.

    Raises:
        DataError: too many broken or copied items, a class or split that has none left, or see `split`.
    """
    identity, hashes = hashed if hashed is not None else fingerprint(samples, task, threads=threads)
    targets, spec = encoded(task, samples)
    strata = task.strata(targets, spec)
    if parts is None:
        parts = split(samples, hashes, strata, val=val, test=test, stop=stop, seed=seed)
    inputs = suited(samples, inputs, store, fingerprint=identity, hashes=hashes, threads=threads)
    stored = encode(
        samples,
        inputs,
        store,
        fingerprint=identity,
        hashes=hashes,
        threads=threads,
        extended=extended,
        progress=progress,
    )
    broken = (*samples.broken, *(f"{samples.names[index]}: {why}" for index, why in stored.broken.items()))
    _check_broken(broken, len(samples.items) + len(samples.broken), limit=max_broken)
    aside = np.array(sorted(stored.broken), dtype=np.int64)
    kept = {name: np.setdiff1d(indices, aside) for name, indices in parts.items()}
    _check_overlap(samples, hashes, kept, limit=max_overlap)
    _check_left(kept, parts, {"train": 1.0, "stop": stop, "val": val, "test": test}, strata, broken)
    return Data(
        array=stored.array,
        targets=targets,
        target_spec=spec,
        indices=kept,
        fingerprint=identity,
        key=stored.key,
        mirror=mirror,
        inputs=inputs.fitted(stored.array, kept["train"]),
        broken=broken,
        audit=audit(samples, hashes, parts, strata, lambda index: task.plain(targets[index], spec)),
        task=task.fitted(spec).counted(targets[kept["train"]], spec),
        parts=parts,
        aside=tuple(sorted(stored.broken)),
        units=_units(samples, hashes, strata, kept) if val > 0 else None,
        earlier=stored.earlier,
    )


def _units(
    samples: Samples, hashes: Sequence[str], strata: Strata, kept: Mapping[str, IntArray]
) -> IntArray | None:
    pool = np.sort(np.concatenate([kept[name] for name in ("train", "stop", "val")]))
    if len(pool) >= RESHUFFLED_BELOW or "val" in (samples.splits or ()):
        return None
    return units_of(samples, hashes, strata, pool)


def fingerprint(samples: Samples, task: Task, *, threads: int = 2) -> tuple[str, list[str]]:
    """SHA-256 over all contents and targets, and the SHA-256 of each item's content in their order.

    The first doesn't depend on the order or the paths of the items. An item that can't be read counts by
    its name; decoding will set it aside.
    """

    def hash_some(start: int, end: int) -> list[str]:
        return [hash_of(samples, index) for index in range(start, end)]

    chunks = in_threads(hash_some, len(samples.items), threads=threads)
    hashes = [digest for _, chunk in sorted(chunks) for digest in chunk]
    targets, spec = encoded(task, samples)
    lines = sorted(
        json.dumps([content, task.plain(target, spec)])
        for content, target in zip(hashes, targets, strict=True)
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest(), hashes


def _check_broken(broken: Sequence[str], count: int, *, limit: float) -> None:
    if len(broken) > limit * count:
        raise DataError(
            f"{len(broken)} of {count} items are broken ({len(broken) / count:.1%}); up to {limit:.0%} are"
            " set aside",
            hint=_first(broken),
        )


def _check_overlap(
    samples: Samples, hashes: Sequence[str], parts: Mapping[str, IntArray], *, limit: float
) -> None:
    """Refuse held-out data that was trained on: a copy or two happen, a folder taken twice must not."""
    trained = {
        hashes[index]: samples.names[index] for name in ("train", "stop") for index in parts[name].tolist()
    }
    for name in ("val", "test"):
        copies = [index for index in parts[name].tolist() if hashes[index] in trained]
        if len(copies) > limit * len(parts[name]):
            raise DataError(
                f"{len(copies)} of {len(parts[name])} items of {name} are copies of items of train; up to"
                f" {limit:.0%} are taken",
                hint=f"{_first([f'{samples.names[i]} is {trained[hashes[i]]}' for i in copies])}\n"
                f"Take them out of {name}, or raise max_overlap: scores then look better than they are.",
            )


def _check_left(
    kept: Mapping[str, IntArray],
    parts: Mapping[str, IntArray],
    wanted: Mapping[str, float],
    strata: Strata,
    broken: Sequence[str],
) -> None:
    """Refuse splits that have lost all that was to be in them to broken items."""
    for name, indices in kept.items():
        if len(indices) == 0 and (wanted[name] > 0 or len(parts[name]) > 0):
            hint = _first(broken) or f"Add items, or change the share that goes there: data.split.{name}."
            raise DataError(f"no usable item is left in {name}", hint=hint)
    trained = {stratum for index in kept["train"].tolist() for stratum in strata.of[index]}
    if missing := sorted(strata.needed - trained):
        raise DataError(
            f'{strata.one} "{strata.names[missing[0]]}" has no usable item in train',
            hint=_first(broken) or None,
        )


def _first(broken: Sequence[str]) -> str:
    rest = f"\n... and {len(broken) - 5} more" if len(broken) > 5 else ""
    return "\n".join(broken[:5]) + rest
