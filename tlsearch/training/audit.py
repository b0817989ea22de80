"""What a user should know of a data set before hours are spent on it: a document, and the sentences of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tlsearch.contracts.dataset import Samples
from tlsearch.training import duplicates
from tlsearch.training.arrays import ArrayStore
from tlsearch.training.data import Data

IMBALANCED = 3.0
"""Times that the largest class has as many items as the smallest: from here on, accuracy hides the latter."""
TINY = 10
"""Items below which what is measured on a class says little."""
EXAMPLES = 100
"""Items of a kind that are named in the document; all are counted."""
BALANCED = "balanced_accuracy"
_ORDER = ("train", "stop", "val", "test")
_VERSION = 1  # raise it when duplicates are found otherwise: what was stored before is then made anew


def examine(
    samples: Samples,
    data: Data,
    store: ArrayStore,
    *,
    metric: str,
    source: Mapping[str, Sequence[str]] | None = None,
    hashes: Sequence[str] = (),
    threads: int = 2,
) -> dict[str, Any]:
    """Look for what makes scores mean less than they seem to.

    Args:
        samples: as listed, for their names.
        data: the same, split and encoded.
        store: where what is costly to find is kept.
        metric: the study's.
        source: content hashes of the source data set with the names of their items, where there is one.
        hashes: of the samples' contents, to find these in the source data.
        threads: for comparing pictures.

    Returns:
        Plain data, as it is stored with the study. ``near_duplicates`` is None where items are no pictures.
    """
    audit = data.audit
    counts = {name: dict(audit.counts[name]) for name in _ORDER}
    totals = {label: sum(counts[name][label] for name in _ORDER) for label in data.classes}
    items = sum(totals.values())
    largest, smallest = max(totals, key=lambda name: totals[name]), min(totals, key=lambda name: totals[name])
    majority = totals[largest] / max(1, items)
    uneven = audit.imbalance >= IMBALANCED
    return {
        "items": items,
        "notes": list(samples.notes),
        "classes": len(data.classes),
        "counts": counts,
        "broken": _counted(list(data.broken)),
        "clashes": _counted([list(names) for names in audit.clashes]),
        "overlaps": _counted([list(names) for names in audit.overlaps]),
        "near_duplicates": _near_duplicates(samples, data, store, threads=threads),
        "source_copies": _counted(_source_copies(samples, data, hashes, source or {})),
        "imbalance": {
            "ratio": round(audit.imbalance, 2),
            "largest": largest,
            "smallest": smallest,
            "majority": round(majority, 4),
            "metric": metric,
            "proposed_metric": BALANCED if uneven and metric not in (BALANCED, "macro_f1") else None,
        },
        "tiny_classes": _counted([[label, count] for label, count in totals.items() if count < TINY]),
    }


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What of an audit is worth a line before the search, beside the warnings of the splits."""
    lines = []
    alike = found["near_duplicates"]
    if alike and alike["count"]:
        one = alike["examples"][0]
        other_label = f", {alike['other_label']} of them under another label" if alike["other_label"] else ""
        lines.append(
            f"{alike['items']} pictures of val and test have their like in another split{other_label}:"
            f" {one['item']} ({one['split']}) and {one['other']} ({one['other_split']}); scores may look"
            " better than they are"
        )
    if alike and alike["plain"]["count"]:
        plain = alike["plain"]
        lines.append(f"{plain['count']} pictures are of one plain colour, such as {plain['examples'][0]}")
    copies = found["source_copies"]
    if copies["count"]:
        item, other = copies["examples"][0]
        lines.append(
            f"{copies['count']} items of val and test stand in source_data too, such as {item} ({other}):"
            " scores will look better than they are"
        )
    uneven = found["imbalance"]
    if uneven["proposed_metric"]:
        lines.append(
            f'"{uneven["largest"]}" has {uneven["ratio"]:g} times the items of "{uneven["smallest"]}", and'
            f" always saying it scores an accuracy of {uneven['majority']:.2f}: objective:"
            f" {{metric: {uneven['proposed_metric']}}} counts every class alike"
        )
    tiny = found["tiny_classes"]
    if tiny["count"]:
        label, count = tiny["examples"][0]
        which = "1 class has" if tiny["count"] == 1 else f"{tiny['count']} classes have"
        lines.append(
            f'{which} fewer than {TINY} items, such as "{label}" ({count}): scores on them say little'
        )
    return lines


def _near_duplicates(
    samples: Samples, data: Data, store: ArrayStore, *, threads: int
) -> dict[str, Any] | None:
    shape = data.array.shape
    if data.array.dtype != np.uint8 or len(shape) != 4 or shape[1] != 3:
        return None  # no pictures
    identity = [_VERSION, data.key, {name: data.indices[name].tolist() for name in _ORDER}]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def search(_: object) -> dict[str, Any]:
        found = duplicates.find(data.array, data.indices, threads=threads)
        pairs = [
            [pair.index, pair.split, pair.other, pair.other_split, pair.distance] for pair in found.pairs
        ]
        return {
            "pairs": pairs,
            "plain": list(found.plain),
            "limit": found.limit,
            "compared": found.compared,
        }

    notes = store.get_or_build(key, [], search).meta
    pairs = notes["pairs"]
    between: dict[str, int] = {}
    for _, split, _, other_split, _ in pairs:
        between[f"{other_split}-{split}"] = between.get(f"{other_split}-{split}", 0) + 1
    return {
        "count": len(pairs),
        "items": len({index for index, *_ in pairs}),
        "between": between,
        "other_label": sum(bool(data.labels[one] != data.labels[other]) for one, _, other, *_ in pairs),
        "compared": notes["compared"],
        "limit": round(notes["limit"], 4),
        "examples": [
            {
                "item": samples.names[one],
                "split": split,
                "label": data.classes[data.labels[one]],
                "other": samples.names[other],
                "other_split": other_split,
                "other_label": data.classes[data.labels[other]],
                "distance": round(distance, 4),
            }
            for one, split, other, other_split, distance in pairs[:EXAMPLES]
        ],
        "plain": _counted([samples.names[index] for index in notes["plain"]]),
    }


def _source_copies(
    samples: Samples, data: Data, hashes: Sequence[str], source: Mapping[str, Sequence[str]]
) -> list[list[str]]:
    held_out = np.concatenate([data.indices["val"], data.indices["test"]]).tolist() if source else []
    return [[samples.names[index], source[hashes[index]][0]] for index in held_out if hashes[index] in source]


def _counted(found: Sequence[Any]) -> dict[str, Any]:
    return {"count": len(found), "examples": list(found[:EXAMPLES])}
