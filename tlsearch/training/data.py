"""From listed samples to what a worker trains on: identified by content, split, audited, decoded once."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlsearch.contracts.dataset import Samples, encoded
from tlsearch.contracts.inputs import InputSpec
from tlsearch.contracts.target import Strata, TargetSpec
from tlsearch.contracts.task import Task
from tlsearch.errors import DataError
from tlsearch.items import content_hash
from tlsearch.training.arrays import ArraySpec, ArrayStore
from tlsearch.training.earlier import Earlier, Extended, earlier
from tlsearch.training.splits import Audit, IntArray, audit, split, units_of

Progress = Callable[[int, int], None]
Result = TypeVar("Result")

RESHUFFLED_BELOW = 1_000
"""Items outside the test split below which repeated runs draw splits of their own: with few items one split's
luck is greater than that of a seed (Nagler et al. 2024, arXiv:2405.15393)."""
_SURVEY = 1  # raise it when surveys change
_ENCODING = 1  # raise it when decoding changes: arrays that were stored before are then made anew


@dataclass(frozen=True, slots=True)
class Encoded:
    """Every item as an array: (N, *shape), memory-mapped and read-only.

    ``broken`` maps the indices of items that can't be decoded to the reason; their rows are zero.
    ``key`` identifies the array: contents, order and encoding.
    """

    array: NDArray[Any]
    broken: Mapping[int, str]
    key: str


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
    before = None
    if extended is not None:
        own = encoding_key(extended.fingerprint, extended.items.hashes, inputs)
        before = earlier(extended, hashes, key=own)
    stored = encode(
        samples,
        inputs,
        store,
        fingerprint=identity,
        hashes=hashes,
        threads=threads,
        before=before,
        progress=progress,
    )
    broken = (*samples.broken, *(f"{samples.names[index]}: {why}" for index, why in stored.broken.items()))
    _check_broken(broken, len(samples.items) + len(samples.broken), limit=max_broken)
    aside = np.array(sorted(stored.broken), dtype=np.int64)
    kept = {name: np.setdiff1d(indices, aside) for name, indices in parts.items()}
    wanted = {"train": 1.0, "stop": stop, "val": val, "test": test}
    for name, indices in kept.items():
        if len(indices) == 0 and (wanted[name] > 0 or len(parts[name]) > 0):
            hint = _first(broken) or f"Add items, or change the share that goes there: data.split.{name}."
            raise DataError(f"no usable item is left in {name}", hint=hint)
    _check_overlap(samples, hashes, kept, limit=max_overlap)
    trained = {stratum for index in kept["train"].tolist() for stratum in strata.of[index]}
    if missing := sorted(strata.needed - trained):
        raise DataError(
            f'{strata.one} "{strata.names[missing[0]]}" has no usable item in train',
            hint=_first(broken) or None,
        )
    return Data(
        array=stored.array,
        targets=targets,
        target_spec=spec,
        indices=kept,
        fingerprint=identity,
        key=stored.key,
        mirror=mirror,
        inputs=inputs,
        broken=broken,
        audit=audit(samples, hashes, parts, strata, lambda index: task.plain(targets[index], spec)),
        task=task.fitted(spec).counted(targets[kept["train"]], spec),
        parts=parts,
        aside=tuple(sorted(stored.broken)),
        units=_units(samples, hashes, strata, kept) if val > 0 else None,
        earlier=before,
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
        return [_hash(samples, index) for index in range(start, end)]

    chunks = _in_threads(hash_some, len(samples.items), threads=threads)
    hashes = [digest for _, chunk in sorted(chunks) for digest in chunk]
    targets, spec = encoded(task, samples)
    lines = sorted(
        json.dumps([content, task.plain(target, spec)])
        for content, target in zip(hashes, targets, strict=True)
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest(), hashes


def _hash(samples: Samples, index: int) -> str:
    name = samples.names[index]
    try:
        return content_hash(samples.items[index])
    except TypeError as error:
        raise DataError(f"{name} is {error}") from error
    except (DataError, OSError):
        return unreadable_hash(name)


def unreadable_hash(name: str) -> str:
    """What stands for the content of an item that can't be read."""
    return hashlib.sha256(json.dumps(["unreadable", name]).encode()).hexdigest()


def suited(
    samples: Samples,
    inputs: InputSpec,
    store: ArrayStore,
    *,
    fingerprint: str,
    hashes: Sequence[str],
    threads: int = 2,
) -> InputSpec:
    """An input as it suits a data set: what it must know of all items is found once and kept in the store."""
    if type(inputs).survey is InputSpec.survey:
        return inputs
    kind = f"{type(inputs).__module__}.{type(inputs).__qualname__}"
    identity = ["survey", _SURVEY, fingerprint, list(hashes), kind]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def survey_some(start: int, end: int) -> list[Mapping[str, Any]]:
        found = []
        for index in range(start, end):
            with contextlib.suppress(DataError):  # a broken item: encoding will name it
                found.append(inputs.survey(samples.items[index]))
        return [one for one in found if one]

    def fill(arrays: Sequence[NDArray[Any]]) -> Mapping[str, Any]:
        chunks = _in_threads(survey_some, len(samples.items), threads=threads)
        return {"found": [one for _, chunk in sorted(chunks, key=lambda pair: pair[0]) for one in chunk]}

    return inputs.suited(store.get_or_build(key, [], fill).meta["found"])


def encode(
    samples: Samples,
    inputs: InputSpec,
    store: ArrayStore,
    *,
    fingerprint: str,
    hashes: Sequence[str],
    threads: int = 2,
    before: Earlier | None = None,
    progress: Progress | None = None,
) -> Encoded:
    """Encode every item into the store, or open what is there already.

    Items that were encoded ``before`` are copied; ``progress`` counts the others.

    Raises:
        OSError: the disk is full.
    """
    key = encoding_key(fingerprint, hashes, inputs)

    def fill(arrays: Sequence[NDArray[Any]]) -> Mapping[str, Any]:
        todo = _copied(before, store, arrays[0]) if before is not None else range(len(samples.items))
        count = len(todo)

        def encode_some(start: int, end: int) -> dict[str, str]:
            broken = {}
            for index in todo[start:end]:
                try:
                    arrays[0][index] = inputs.encode(samples.items[index])
                except DataError as error:
                    if _hash(samples, index) != hashes[index]:  # or it would be kept as broken for good
                        raise DataError(
                            f"{samples.names[index]} changed while it was being read",
                            hint="Run it again when nothing writes to the data any more.",
                        ) from None
                    broken[str(index)] = error.message
                except Exception as error:  # not the item's fault: name it and let the error out
                    error.add_note(f"while encoding {samples.names[index]}")
                    raise
            return broken

        broken: dict[str, str] = {}
        done = 0
        # Closed at once if progress raises, so that no thread goes on writing into a draft that is gone.
        with contextlib.closing(_in_threads(encode_some, count, threads=threads)) as chunks:
            for start, some in chunks:
                broken |= some
                done += min(_CHUNK, count - start)
                if progress is not None:
                    progress(done, count)
        return {"broken": broken}

    entry = store.get_or_build(key, [ArraySpec((len(samples.items), *inputs.shape), inputs.dtype)], fill)
    reasons = {int(index): reason for index, reason in entry.meta["broken"].items()}
    return Encoded(entry.arrays[0], dict(sorted(reasons.items())), key)


def encoding_key(fingerprint: str, hashes: Sequence[str], inputs: InputSpec) -> str:
    """Identifies the encoded items of data with that fingerprint and contents in this order."""
    kind = f"{type(inputs).__module__}.{type(inputs).__qualname__}"
    identity = [_ENCODING, fingerprint, list(hashes), kind, inputs.to_json()]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _copied(before: Earlier, store: ArrayStore, array: NDArray[Any]) -> Sequence[int]:
    """Copy the items that were encoded before; answers the indices of those that are left to encode."""
    entry = store.open(before.key)
    if entry is None:
        return range(len(array))
    broken = {int(row) for row in entry.meta["broken"]}
    todo = []
    for index, row in enumerate(before.rows.tolist()):
        if row < 0 or row in broken:
            todo.append(index)
        else:
            array[index] = entry.arrays[0][row]
    return todo


_CHUNK = 64


def _in_threads(
    work: Callable[[int, int], Result], count: int, *, threads: int
) -> Generator[tuple[int, Result], None, None]:
    """Results of ``work(start, end)`` over pieces of ``range(count)``, each with its start, as they come."""
    executor = ThreadPoolExecutor(max(1, threads), thread_name_prefix="tlsearch-data")
    try:
        starts = range(0, count, _CHUNK)
        futures = {executor.submit(work, start, min(start + _CHUNK, count)): start for start in starts}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        executor.shutdown(cancel_futures=True)


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


def _first(broken: Sequence[str]) -> str:
    rest = f"\n... and {len(broken) - 5} more" if len(broken) > 5 else ""
    return "\n".join(broken[:5]) + rest
