"""Which items train, stop, select and test: cut by content, so that the same files fall the same anywhere."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlsearch.contracts.dataset import SPLITS, Samples
from tlsearch.contracts.target import Strata
from tlsearch.counts import plural
from tlsearch.errors import DataError
from tlsearch.names import alike
from tlsearch.tables import is_number

IntArray = NDArray[np.int64]

_STOP_FROM = 5  # training items that a class needs before one of them is held out for early stopping


@dataclass(frozen=True, slots=True)
class Audit:
    """What the targets and splits look like.

    Attributes:
        counts: items per split (``train``, ``stop``, ``val``, ``test``) and kind, such as a class.
        imbalance: items of the largest kind over items of the smallest.
        clashes: names of identical items that carry different targets, one tuple for each content.
        overlaps: names of identical items that stand in different splits, because the data says so.
        warnings: sentences for the user.
    """

    counts: Mapping[str, Mapping[str, int]]
    imbalance: float
    clashes: tuple[tuple[str, ...], ...]
    overlaps: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]


def split(
    samples: Samples,
    hashes: Sequence[str],
    strata: Strata,
    *,
    val: float,
    test: float,
    stop: float,
    seed: int,
    known: Mapping[int, str] = MappingProxyType({}),
) -> dict[str, IntArray]:
    """Ascending indices of ``train``, ``stop``, ``val``, ``test``; the same files always fall the same way.

    Splits that the data comes with are kept, and only missing ones are cut from its train. What is cut is
    stratified: kinds of items (classes, say) are served from the rarest on, each by the salted hash of its
    contents. Items of one content or group move together. ``stop`` decides when to stop training; cut from
    what is left for train, it is never what models are selected by.

    Tiny kinds: each gives at least one item, or group, to every split that is cut and keeps one in train.
    A kind gives to ``stop`` from 5 training items on; only if no class has so many, from 2.

    Args:
        samples: the items; an empty group is none.
        hashes: of their contents.
        strata: the kinds.
        val: share of the data's train, or of all items where it has no splits; 0 cuts none.
        test: likewise.
        stop: share of what is then left for train.
        seed: salt; another one gives other splits.
        known: the splits that items stay in, by index. The others are cut so that all together have the
            shares; what moves together with a known item goes where that is.

    Raises:
        DataError: impossible shares, no train, or a kind too small to stand in train and every split cut;
            or items that move together are known to stand in several splits.
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
    units = _units(samples, hashes, strata, parts["train"], seed=seed)
    parts |= _cut(units, shares, strata, stop=stop, known=_places(units, known, samples))
    return {name: parts[name] for name in ("train", "stop", "val", "test")}


def _cut(
    units: Sequence[_Unit],
    shares: Mapping[str, float],
    strata: Strata,
    *,
    stop: float,
    known: Sequence[str] | None = None,
) -> dict[str, IntArray]:
    """Indices of ``train``, ``stop`` and every share; ``known`` are places of units, empty for new ones."""
    known = known if known is not None else [""] * len(units)
    places = _assign(units, shares, strata, known=["train" if name == "stop" else name for name in known])
    parts = {name: _members(units, places, name) for name in shares}
    kept = [number for number, place in enumerate(places) if place == "train"]
    left, before = [units[number] for number in kept], [known[number] for number in kept]
    places = [name or "train" for name in before]
    for smallest in (_STOP_FROM, 2) if stop > 0 else ():
        if "stop" not in places:
            places = _assign(left, {"stop": stop}, strata, smallest=smallest, known=before)
    return {"train": _members(left, places, "train"), "stop": _members(left, places, "stop"), **parts}


def _places(units: Sequence[_Unit], known: Mapping[int, str], samples: Samples) -> list[str]:
    """Where each unit stands by its known items; empty where it has none."""
    found = []
    for unit in units:
        names = sorted({known[index] for index in unit.items if index in known})
        if len(names) > 1:
            new = [samples.names[index] for index in unit.items if index not in known]
            raise DataError(
                f"{new[0] if new else samples.names[unit.items[0]]} belongs together with items of"
                f" {' and '.join(names)}, by its group or content",
                hint="Give it a group of its own, or leave it out.",
            )
        found.append(names[0] if names else "")
    return found


def units_of(samples: Samples, hashes: Sequence[str], strata: Strata, indices: IntArray) -> IntArray:
    """For every item (N,) the number of the unit that it moves with, by content; -1 outside ``indices``."""
    numbers = np.full(len(samples.items), -1, dtype=np.int64)
    for number, unit in enumerate(_units(samples, hashes, strata, indices, seed=0)):
        numbers[list(unit.items)] = number
    return numbers


def reshuffled(
    units: IntArray,
    strata: Strata,
    pool: IntArray,
    *,
    val: float,
    stop: float,
    seed: int,
) -> dict[str, IntArray]:
    """Another ``train``, ``stop`` and ``val`` of the same items, stratified as in `split`.

    Args:
        units: as `units_of` numbers them.
        strata: kinds of all items.
        pool: ascending indices of the items to split.
        val: share of them.
        stop: share of what is left for train.
        seed: salt.
    """
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index in pool.tolist():
        members[int(units[index])].append(index)
    drawn = [
        _Unit(
            hashlib.sha256(f"again {seed} {number}".encode()).hexdigest(),
            tuple(items),
            Counter(kind for index in items for kind in strata.of[index]),
        )
        for number, items in members.items()
    ]
    drawn.sort(key=lambda unit: unit.key)
    return _cut(drawn, {"val": val}, strata, stop=stop)


@dataclass(frozen=True, slots=True)
class _Unit:
    """Items that must stay together; ``counts`` are per kind."""

    key: str
    items: tuple[int, ...]
    counts: Mapping[int, int]


def _units(
    samples: Samples, hashes: Sequence[str], strata: Strata, pool: IntArray, *, seed: int
) -> list[_Unit]:
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
        units.append(_Unit(key, tuple(items), Counter(kind for index in items for kind in strata.of[index])))
    return sorted(units, key=lambda unit: unit.key)


def _assign(
    units: Sequence[_Unit],
    shares: Mapping[str, float],
    strata: Strata,
    *,
    smallest: int = 0,
    known: Sequence[str],
) -> list[str]:
    """A split for every unit: one of ``shares``, or train; units that are ``known`` to have one keep it.

    Iterative stratification (Sechidis et al. 2011): the rarest kind is served first, so that groups of
    several kinds can't use it up. With ``smallest``, kinds of fewer items needn't stand in a share.
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

    for number, name in enumerate(known):
        if name:
            place(number, name)
    for label, holding in sorted(holders.items(), key=lambda pair: (len(pair[1]), pair[0])):
        if strata.required and not smallest and len(holding) <= len(shares):
            items = sum(units[number].counts[label] for number in holding)
            distinct = plural(len(holding), "distinct item or group", "distinct items or groups")
            raise DataError(
                f'{strata.one} "{strata.names[label]}" has {distinct} (of'
                f" {items}) to be split, and {len(shares) + 1} are needed: one each for"
                f" {', '.join(('train', *shares))}",
                hint=f"Add items, remove the {strata.one}, or bring splits of your own."
                + (" Amounts are learned with `task: regression`." if is_number(strata.names[label]) else ""),
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
    for label in holders if strata.required and not smallest else ():
        if lacking := [name for name in (*shares, "train") if not have[name, label]]:
            raise DataError(
                f'{strata.one} "{strata.names[label]}" can\'t stand in {lacking[0]}: it shares all its groups'
                f" or contents with other {strata.many}",
                hint=f"Bring splits of your own, or groups that hold one {strata.one} each.",
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


MISSING = frozenset({"na", "n/a", "#n/a", "nan", "<na>", "null"})
"""Names, in lower case, that R, Excel, pandas and databases write for what is missing."""


def written_alike(strata: Strata) -> list[str]:
    """Sentences on kinds of items that may be one, or none, by their names."""
    missing = [name for name in strata.names if name.casefold() in MISSING]
    return [
        *(
            f'the {strata.many} "{one}" and "{other}" are written nearly alike'
            for one, other in alike(strata.names)
        ),
        *(
            f'the {strata.one} "{name}" is how tools write a missing value: empty those cells, if it is one'
            for name in missing
        ),
    ]


def audit(
    samples: Samples,
    hashes: Sequence[str],
    splits: Mapping[str, IntArray],
    strata: Strata,
    plain: Callable[[int], Any],
) -> Audit:
    """Count, and look for identical items of different targets or in different splits.

    ``plain`` gives an item's target as JSON holds it.
    """
    where = {index: name for name, indices in splits.items() for index in indices.tolist()}
    copies: defaultdict[str, list[int]] = defaultdict(list)
    for index, content in enumerate(hashes):
        copies[content].append(index)
    repeated = [indices for indices in copies.values() if len(indices) > 1]
    clashes = [some for some in repeated if len({json.dumps(plain(index)) for index in some}) > 1]
    # stop is a part of train, and cut so that nothing stands in both
    sides = {index: "train" if name == "stop" else name for index, name in where.items()}
    overlaps = [some for some in repeated if len({sides[index] for index in some if index in sides}) > 1]
    counts: dict[str, dict[str, int]] = {}
    for name, indices in splits.items():
        found = Counter(kind for index in indices.tolist() for kind in strata.of[index])
        counts[name] = {label: found[kind] for kind, label in enumerate(strata.names)}
    totals = {label: sum(count[label] for count in counts.values()) for label in strata.names}
    largest, smallest = (
        max(totals, key=lambda label: totals[label]),
        min(totals, key=lambda label: totals[label]),
    )
    imbalance = totals[largest] / max(1, totals[smallest])

    def named(groups: Sequence[Sequence[int]]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(samples.names[index] for index in some) for some in groups)

    warnings = written_alike(strata)
    if clashes:
        warnings.append(
            f"{plural(len(clashes), 'item appears', 'items appear')} under different labels, such as"
            f" {' and '.join(named(clashes)[0][:2])}"
        )
    if overlaps:
        warnings.append(
            f"{plural(len(overlaps), 'item is', 'items are')} in more than one split of the data, such as"
            f" {' and '.join(named(overlaps)[0][:2])}: scores will look better than they are"
        )
    for name in ("val", "test"):
        lacking = [label for label, count in counts.get(name, {}).items() if count == 0]
        if lacking and len(splits[name]):
            warnings.append(
                f'{name} lacks {plural(len(lacking), strata.one, strata.many)}, such as "{lacking[0]}"'
            )
    return Audit(counts, imbalance, named(clashes), named(overlaps), tuple(warnings))
