"""From listed samples to what a worker trains on: identified by content, split, audited, decoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlsearch.contracts.dataset import Samples
from tlsearch.contracts.inputs import InputSpec
from tlsearch.contracts.target import Strata, TargetSpec
from tlsearch.contracts.task import Task
from tlsearch.errors import DataError
from tlsearch.training.arrays import ArrayStore
from tlsearch.training.earlier import Earlier, Extended
from tlsearch.training.encoding import Progress, encode, suited
from tlsearch.training.listed import Listed
from tlsearch.training.splits import Audit, IntArray, audit, units_of

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


def make_data(
    listed: Listed,
    inputs: InputSpec,
    store: ArrayStore,
    *,
    seed: int,
    threads: int = 2,
    parts: Mapping[str, IntArray] | None = None,
    extended: Extended | None = None,
    progress: Progress | None = None,
) -> Data:
    """Split, audit and encode listed items for a backbone's input.

    Args:
        listed: the items.
        inputs: the backbone's.
        store: where encoded items are kept.
        seed: see `split`.
        threads: for hashing and decoding.
        parts: splits that were made before; they are cut anew where there are none.
        extended: the study that this one extends: what it stored is not encoded again.
        progress: called with (items done, items) while decoding.

    Raises:
        DataError: the items are of another kind than the backbone takes, too many are broken or copied, a
            class or split has none left, or see `split`.
    """
    described, samples, task, hashes = listed.described, listed.samples, listed.task, listed.hashes
    if listed.modality != inputs.modality:
        raise DataError(
            f'The data source "{described.source}" holds {listed.modality} items; '
            f"the backbone takes {inputs.modality}."
        )
    if (resize := described.resize or task.resize) is not None:
        inputs = inputs.resized(resize)
    targets, spec, shares = np.asarray(samples.targets), listed.target_spec, described.split
    strata = listed.strata
    if parts is None:
        parts = listed.split(seed=seed)
    inputs = suited(samples, inputs, store, fingerprint=listed.fingerprint, hashes=hashes, threads=threads)
    stored = encode(
        samples,
        inputs,
        store,
        fingerprint=listed.fingerprint,
        hashes=hashes,
        threads=threads,
        extended=extended,
        progress=progress,
    )
    broken = (*samples.broken, *(f"{samples.names[index]}: {why}" for index, why in stored.broken.items()))
    _check_broken(broken, len(samples.items) + len(samples.broken), limit=described.max_broken)
    aside = np.array(sorted(stored.broken), dtype=np.int64)
    kept = {name: np.setdiff1d(indices, aside) for name, indices in parts.items()}
    _check_overlap(samples, hashes, kept, limit=described.max_overlap)
    _check_left(kept, parts, {"train": 1.0, **shares.model_dump()}, strata, broken)
    return Data(
        array=stored.array,
        targets=targets,
        target_spec=spec,
        indices=kept,
        fingerprint=listed.fingerprint,
        key=stored.key,
        mirror=listed.mirror,
        inputs=inputs.fitted(stored.array, kept["train"]),
        broken=broken,
        audit=audit(samples, hashes, parts, strata, lambda index: task.plain(targets[index], spec)),
        task=task.fitted(spec).counted(targets[kept["train"]], spec),
        parts=parts,
        aside=tuple(sorted(stored.broken)),
        units=_units(samples, hashes, strata, kept) if shares.val > 0 else None,
        earlier=stored.earlier,
    )


def _units(
    samples: Samples, hashes: Sequence[str], strata: Strata, kept: Mapping[str, IntArray]
) -> IntArray | None:
    pool = np.sort(np.concatenate([kept[name] for name in ("train", "stop", "val")]))
    if len(pool) >= RESHUFFLED_BELOW or "val" in (samples.splits or ()):
        return None
    return units_of(samples, hashes, strata, pool)


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
