"""From listed samples to what a worker trains on: identified by content, split, audited, decoded once."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from tlsearch import registry
from tlsearch.contracts.dataset import SPLITS, Samples
from tlsearch.contracts.images import open_regular
from tlsearch.contracts.inputs import InputSpec
from tlsearch.errors import DataError, SpecError, did_you_mean
from tlsearch.spec import DataSpec
from tlsearch.training.arrays import ArraySpec, ArrayStore

IntArray = NDArray[np.int64]
Progress = Callable[[int, int], None]
Result = TypeVar("Result")

_ENCODING = 1  # raise it when decoding changes: arrays that were stored before are then made anew
_STOP_FROM = 5  # training items that a class needs before one of them is held out for early stopping


@dataclass(frozen=True, slots=True)
class Audit:
    """What the labels and splits look like.

    Attributes:
        counts: items per split (``train``, ``stop``, ``val``, ``test``) and class name.
        imbalance: items of the largest class over items of the smallest.
        clashes: names of identical items that carry different labels, one tuple for each content.
        overlaps: names of identical items that stand in different splits, because the data says so.
        warnings: sentences for the user.
    """

    counts: Mapping[str, Mapping[str, int]]
    imbalance: float
    clashes: tuple[tuple[str, ...], ...]
    overlaps: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]


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
        labels: (N,) indices into ``classes``.
        classes: names.
        indices: ascending, of ``train``, ``stop``, ``val`` and ``test``, without broken items.
        fingerprint: SHA-256 over contents and labels, whatever their order and paths.
        key: identifies ``array`` with the order of its rows; for what is stored row by row.
        mirror: whether a left-right flip leaves labels right.
        broken: ``name: reason`` of every item that was set aside.
        audit: of the splits as they were before broken items were taken out.
    """

    array: NDArray[Any]
    labels: IntArray
    classes: tuple[str, ...]
    indices: Mapping[str, IntArray]
    fingerprint: str
    key: str
    mirror: bool
    broken: tuple[str, ...]
    audit: Audit


def load_samples(described: DataSpec) -> Samples:
    """List the items of a data section, by the source plugin that it names.

    Raises:
        SpecError: keys that the source doesn't take.
        DataError: nothing usable is there.
    """
    source = registry.dataset(described.source)
    try:
        options = source.options.model_validate(described.options)
    except ValidationError as error:
        known = list(source.options.model_fields)
        problems = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            guess = did_you_mean(key, known) if problem["type"] == "extra_forbidden" else ""
            problems.append(f"{key}: {problem['msg']}. {guess}".rstrip())
        raise SpecError(
            f'data source "{described.source}": {"; ".join(problems)}',
            hint=f"It takes: {', '.join(known) or 'no keys of its own'}.",
        ) from None
    return source.load(options)


def load_data(
    described: DataSpec,
    inputs: InputSpec,
    store: ArrayStore,
    *,
    seed: int,
    threads: int = 2,
    progress: Progress | None = None,
) -> Data:
    """A data section of a study file, listed by its source and prepared for a backbone.

    Raises:
        SpecError: see `load_samples`.
        DataError: the source lists items of another modality than the backbone takes, or see `prepare`.
    """
    source = registry.dataset(described.source)
    if source.modality != inputs.modality:
        raise DataError(f'"{described.source}" lists {source.modality} items; {inputs.modality} is needed')
    flip = described.horizontal_flip
    return prepare(
        load_samples(described),
        inputs,
        store,
        val=described.split.val,
        test=described.split.test,
        stop=described.split.stop,
        seed=seed,
        mirror=source.mirror if flip is None else flip,
        threads=threads,
        max_broken=described.max_broken,
        progress=progress,
    )


def prepare(
    samples: Samples,
    inputs: InputSpec,
    store: ArrayStore,
    *,
    val: float,
    test: float,
    stop: float = 0.1,
    seed: int,
    mirror: bool,
    threads: int = 2,
    max_broken: float = 0.05,
    hashed: tuple[str, list[str]] | None = None,
    progress: Progress | None = None,
) -> Data:
    """Identify, split, audit and encode.

    Args:
        samples: the listed items.
        inputs: the backbone's.
        store: where encoded items are kept.
        val: share of all items, see `split`; ``test`` and ``stop`` likewise.
        test: see `split`.
        stop: see `split`.
        seed: see `split`.
        mirror: whether flips are harmless.
        threads: for hashing and decoding.
        max_broken: share of broken items above which the data is refused.
        hashed: what `fingerprint` gave for these samples, where it is known already.
        progress: called with (items done, items) while decoding.

    Raises:
        DataError: too many broken items, a class or split that has none left, or see `split`.
    """
    identity, hashes = hashed if hashed is not None else fingerprint(samples, threads=threads)
    parts = split(samples, hashes, val=val, test=test, stop=stop, seed=seed)
    encoded = encode(
        samples, inputs, store, fingerprint=identity, hashes=hashes, threads=threads, progress=progress
    )
    broken = (*samples.broken, *(f"{samples.names[index]}: {why}" for index, why in encoded.broken.items()))
    _check_broken(broken, len(samples.items) + len(samples.broken), limit=max_broken)
    labels = np.asarray(samples.labels, dtype=np.int64)
    aside = np.array(sorted(encoded.broken), dtype=np.int64)
    kept = {name: np.setdiff1d(indices, aside) for name, indices in parts.items()}
    wanted = {"train": 1.0, "stop": stop, "val": val, "test": test}
    for name, indices in kept.items():
        if len(indices) == 0 and (wanted[name] > 0 or len(parts[name]) > 0):
            raise DataError(f"no usable item is left in {name}", hint=_first(broken) or None)
    if missing := sorted(set(range(len(samples.classes))) - set(labels[kept["train"]].tolist())):
        raise DataError(
            f'class "{samples.classes[missing[0]]}" has no usable item in train', hint=_first(broken) or None
        )
    return Data(
        array=encoded.array,
        labels=labels,
        classes=samples.classes,
        indices=kept,
        fingerprint=identity,
        key=encoded.key,
        mirror=mirror,
        broken=broken,
        audit=audit(samples, hashes, parts),
    )


def fingerprint(samples: Samples, *, threads: int = 2) -> tuple[str, list[str]]:
    """SHA-256 over all contents and class names, and the SHA-256 of each item's content in their order.

    The first doesn't depend on the order or the paths of the items. An item that can't be read counts by
    its name; decoding will set it aside.
    """

    def hash_some(start: int, end: int) -> list[str]:
        return [_hash(samples, index) for index in range(start, end)]

    chunks = _in_threads(hash_some, len(samples.items), threads=threads)
    hashes = [digest for _, chunk in sorted(chunks) for digest in chunk]
    pairs = zip(hashes, (samples.classes[label] for label in samples.labels), strict=True)
    lines = sorted(json.dumps(pair) for pair in pairs)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest(), hashes


def _hash(samples: Samples, index: int) -> str:
    try:
        item = samples.items[index]
        if isinstance(item, Path):
            with open_regular(item) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    except (DataError, OSError):
        return hashlib.sha256(json.dumps(["unreadable", samples.names[index]]).encode()).hexdigest()
    if isinstance(item, np.ndarray):
        digest = hashlib.sha256(f"{item.dtype.str}{item.shape}".encode())
        digest.update(np.ascontiguousarray(item).data)
        return digest.hexdigest()
    if isinstance(item, str):
        item = item.encode("utf-8", "surrogatepass")
    if not isinstance(item, bytes):
        raise DataError(f"{samples.names[index]} is a {type(item).__name__}; no path, array, text or bytes")
    return hashlib.sha256(item).hexdigest()


def split(
    samples: Samples, hashes: Sequence[str], *, val: float, test: float, stop: float, seed: int
) -> dict[str, IntArray]:
    """Ascending indices of ``train``, ``stop``, ``val``, ``test``; the same files always fall the same way.

    Splits that the data comes with are kept, and only missing ones are cut from its train. What is cut is
    stratified: classes are served from the rarest on, each by the salted hash of its contents. Items of one
    content or group move together. ``stop`` decides when to stop training; cut from what is left for
    train, it is never what models are selected by.

    Tiny classes: each gives at least one item, or group, to every split that is cut and keeps one in train.
    A class gives to ``stop`` from 5 training items on; only if no class has so many, from 2.

    Args:
        samples: the items; an empty group is none.
        hashes: of their contents.
        val: share of the data's train, or of all items where it has no splits; 0 cuts none.
        test: likewise.
        stop: share of what is then left for train.
        seed: salt; another one gives other splits.

    Raises:
        DataError: impossible shares, no train, or a class too small to stand in train and every split cut.
    """
    if min(val, test, stop) < 0 or val + test >= 1 or stop >= 1:
        raise DataError(
            f"val {val:g} and test {test:g} must leave something for train, as must stop {stop:g}"
        )
    given = np.asarray(samples.splits if samples.splits is not None else ["train"] * len(samples.items))
    parts = {name: np.flatnonzero(given == name) for name in SPLITS}
    if samples.splits is not None and len(parts["train"]) == 0:
        raise DataError(
            'no item has the split "train"', hint="val and test are cut from train where missing."
        )
    shares = {
        name: share for name, share in (("test", test), ("val", val)) if share > 0 and len(parts[name]) == 0
    }
    units = _units(samples, hashes, parts["train"], seed=seed)
    places = _assign(units, shares, samples.classes)
    for name in shares:
        parts[name] = _members(units, places, name)
    left = [unit for unit, place in zip(units, places, strict=True) if place == "train"]
    places = ["train"] * len(left)
    for smallest in (_STOP_FROM, 2) if stop > 0 else ():
        if "stop" not in places:
            places = _assign(left, {"stop": stop}, samples.classes, smallest=smallest)
    train, held_out = _members(left, places, "train"), _members(left, places, "stop")
    return {"train": train, "stop": held_out, "val": parts["val"], "test": parts["test"]}


@dataclass(frozen=True, slots=True)
class _Unit:
    """Items that must stay together; ``counts`` are per label."""

    key: str
    items: tuple[int, ...]
    counts: Mapping[int, int]


def _units(samples: Samples, hashes: Sequence[str], pool: IntArray, *, seed: int) -> list[_Unit]:
    """Units of the items in a pool, ordered by salted content."""
    parent: dict[str, str] = {}  # contents and groups are the nodes of a forest, items its edges

    def root(node: str) -> str:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    groups = samples.groups
    for index in pool:
        content = root(hashes[index])
        if groups is not None and groups[index]:
            parent[content] = root(f"group {groups[index]}")
    members: defaultdict[str, list[int]] = defaultdict(list)
    for index in pool.tolist():
        members[root(hashes[index])].append(index)
    units = []
    for items in members.values():
        first = min(hashes[index] for index in items)
        key = hashlib.sha256(f"{seed} {first}".encode()).hexdigest()
        units.append(_Unit(key, tuple(items), Counter(int(samples.labels[index]) for index in items)))
    return sorted(units, key=lambda unit: unit.key)


def _assign(
    units: Sequence[_Unit], shares: Mapping[str, float], classes: Sequence[str], *, smallest: int = 0
) -> list[str]:
    """A split for every unit: one of ``shares``, or train.

    Iterative stratification (Sechidis et al. 2011): the rarest class is served first, so that groups of
    several classes can't use it up. With ``smallest``, classes of fewer items needn't stand in a share.
    """
    holders: defaultdict[int, list[int]] = defaultdict(list)
    for number, unit in enumerate(units):
        for label in unit.counts:
            holders[label].append(number)
    places = [""] * len(units)
    have: Counter[tuple[str, int]] = Counter()

    def place(number: int, name: str) -> None:
        places[number] = name
        for label, count in units[number].counts.items():
            have[name, label] += count

    for label, holding in sorted(holders.items(), key=lambda pair: (len(pair[1]), pair[0])):
        if not smallest and len(holding) <= len(shares):
            raise DataError(
                f'class "{classes[label]}" has {len(holding)} distinct items or groups to be split, and'
                f" {len(shares) + 1} are needed: one each for {', '.join(('train', *shares))}",
                hint="Add items, remove the class, or bring splits of your own.",
            )
        pool = [number for number in holding if not places[number]]
        total = sum(units[number].counts[label] for number in holding)
        waiting = [name for name in (*shares, "train") if not have[name, label]]
        for name, share in shares.items():
            want = max(int(total >= smallest), int(share * total + 0.5)) - have[name, label]
            waiting = [other for other in waiting if other != name]
            sizes = [units[number].counts[label] for number in pool]
            for position in _choose(sizes, want, spare=len(pool) - len(waiting)):
                place(pool[position], name)
            pool = [number for number in pool if not places[number]]
        for number in pool:
            place(number, "train")
    for label in holders if not smallest else ():
        if lacking := [name for name in (*shares, "train") if not have[name, label]]:
            raise DataError(
                f'class "{classes[label]}" can\'t stand in {lacking[0]}: it shares all its groups or contents'
                " with other classes",
                hint="Bring splits of your own, or groups that hold one class each.",
            )
    return places


def _choose(sizes: Sequence[int], want: int, *, spare: int) -> list[int]:
    """Positions, in order, that add up to ``want`` or less; the smallest one where all are larger."""
    chosen: list[int] = []
    for position, size in enumerate(sizes):
        if len(chosen) < spare and size <= want:
            chosen.append(position)
            want -= size
    if not chosen and want > 0 and spare > 0:
        return [min(range(len(sizes)), key=lambda position: sizes[position])]
    return chosen


def _members(units: Sequence[_Unit], places: Sequence[str], name: str) -> IntArray:
    chosen = (unit.items for unit, place in zip(units, places, strict=True) if place == name)
    return np.array(sorted(index for items in chosen for index in items), dtype=np.int64)


def audit(samples: Samples, hashes: Sequence[str], splits: Mapping[str, IntArray]) -> Audit:
    """Count, and look for identical items under different labels or in different splits."""
    where = {index: name for name, indices in splits.items() for index in indices.tolist()}
    copies: defaultdict[str, list[int]] = defaultdict(list)
    for index, content in enumerate(hashes):
        copies[content].append(index)
    repeated = [indices for indices in copies.values() if len(indices) > 1]
    clashes = [some for some in repeated if len({samples.labels[index] for index in some}) > 1]
    # stop is a part of train, and cut so that nothing stands in both
    sides = {index: "train" if name == "stop" else name for index, name in where.items()}
    overlaps = [some for some in repeated if len({sides[index] for index in some if index in sides}) > 1]
    counts = {
        name: {
            label: int(count)
            for label, count in zip(
                samples.classes,
                np.bincount(np.asarray(samples.labels)[indices], minlength=len(samples.classes)),
                strict=True,
            )
        }
        for name, indices in splits.items()
    }
    totals = {label: sum(count[label] for count in counts.values()) for label in samples.classes}
    largest, smallest = (
        max(totals, key=lambda label: totals[label]),
        min(totals, key=lambda label: totals[label]),
    )
    imbalance = totals[largest] / max(1, totals[smallest])

    def named(groups: Sequence[Sequence[int]]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(samples.names[index] for index in some) for some in groups)

    warnings = []
    if clashes:
        warnings.append(
            f"{len(clashes)} images appear under different labels, such as"
            f" {' and '.join(named(clashes)[0][:2])}"
        )
    if overlaps:
        warnings.append(
            f"{len(overlaps)} images stand in more than one split of the data, such as"
            f" {' and '.join(named(overlaps)[0][:2])}: scores will look better than they are"
        )
    for name in ("val", "test"):
        lacking = [label for label, count in counts.get(name, {}).items() if count == 0]
        if lacking and len(splits[name]):
            warnings.append(f'{name} has no item of {len(lacking)} classes, such as "{lacking[0]}"')
    if imbalance >= 10:
        warnings.append(
            f'classes are imbalanced: "{largest}" has {totals[largest]} items,'
            f' "{smallest}" has {totals[smallest]}'
        )
    return Audit(counts, imbalance, named(clashes), named(overlaps), tuple(warnings))


def encode(
    samples: Samples,
    inputs: InputSpec,
    store: ArrayStore,
    *,
    fingerprint: str,
    hashes: Sequence[str],
    threads: int = 2,
    progress: Progress | None = None,
) -> Encoded:
    """Encode every item into the store, or open what is there already.

    Raises:
        OSError: the disk is full.
    """
    kind = f"{type(inputs).__module__}.{type(inputs).__qualname__}"
    identity = [_ENCODING, fingerprint, list(hashes), kind, inputs.to_json()]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    count = len(samples.items)

    def fill(arrays: Sequence[NDArray[Any]]) -> Mapping[str, Any]:
        def encode_some(start: int, end: int) -> dict[str, str]:
            broken = {}
            for index in range(start, end):
                try:
                    arrays[0][index] = inputs.encode(samples.items[index])
                except DataError as error:
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

    entry = store.get_or_build(key, [ArraySpec((count, *inputs.shape), inputs.dtype)], fill)
    reasons = {int(index): reason for index, reason in entry.meta["broken"].items()}
    return Encoded(entry.arrays[0], dict(sorted(reasons.items())), key)


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


def _first(broken: Sequence[str]) -> str:
    rest = f"\n... and {len(broken) - 5} more" if len(broken) > 5 else ""
    return "\n".join(broken[:5]) + rest
