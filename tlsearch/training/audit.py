"""What a user should know of a data set before hours are spent on it: a document, and the sentences of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tlsearch import registry
from tlsearch.contracts.dataset import Samples
from tlsearch.contracts.task import EARLIEST
from tlsearch.counts import plural
from tlsearch.training import duplicates, item_times
from tlsearch.training.arrays import ArrayStore
from tlsearch.training.data import Data

EXAMPLES = 100
"""Items of a kind that are named in the document; all are counted."""
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
    found = data.task.findings(counts, metric)
    return {
        "items": sum(len(indices) for indices in data.parts.values()),
        "notes": list(samples.notes),
        "counts": counts,
        "kind": data.strata.one,
        "kinds": data.strata.many,
        "broken": _counted(list(data.broken)),
        "clashes": _counted([list(names) for names in audit.clashes]),
        "overlaps": _counted([list(names) for names in audit.overlaps]),
        "near_duplicates": _near_duplicates(samples, data, store, threads=threads),
        "source_copies": _counted(_source_copies(samples, data, hashes, source or {})),
        "times": item_times.ranges(samples, data.parts),
        "baseline": _baseline(data),
        **found,
        "remarks": data.task.remarks(found),
    }


def _baseline(data: Data) -> dict[str, Any] | None:
    """What one answer for all items scores on val and test: models' scores are read beside it."""
    found = data.task.constant(data.targets[data.indices["train"]], data.target_spec)
    if found is None:
        return None
    words, outputs = found
    scores = {}
    for split in ("val", "test"):
        evaluator = data.task.evaluator(data.target_spec)
        for start in range(0, len(data.indices[split]), data.task.at_once):
            targets = data.targets[data.indices[split][start : start + data.task.at_once]]
            evaluator.update(outputs.expand(len(targets), *outputs.shape[1:]), torch.from_numpy(targets))
        if len(data.indices[split]):
            values = evaluator.compute().items()
            scores[split] = {name: float(value) for name, value in values if math.isfinite(value)}
    return {"words": words, "scores": scores}


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What of an audit is worth a line before the search, beside the warnings of the splits."""
    lines = [item_times.sentence(found["times"])] if found.get("times") else []
    alike = found["near_duplicates"]
    if alike and alike["count"]:
        one = alike["examples"][0]
        other_label = f", {alike['other_label']} of them under another label" if alike["other_label"] else ""
        lines.append(
            f"{plural(alike['items'], 'picture')} of val and test with a near-duplicate in another split"
            f"{other_label}: {one['item']} ({one['split']}) and {one['other']} ({one['other_split']});"
            " scores may look better than they are"
        )
    if alike and alike["plain"]["count"]:
        plain = alike["plain"]
        pictures = plural(plain["count"], "picture is", "pictures are")
        lines.append(f"{pictures} of one plain colour, such as {plain['examples'][0]}")
    copies = found["source_copies"]
    if copies["count"]:
        item, other = copies["examples"][0]
        lines.append(
            f"{plural(copies['count'], 'item')} of val and test also in source_data, such as {item} ({other})"
            ": scores will look better than they are"
        )
    remarks = found["remarks"] if "remarks" in found else registry.task(EARLIEST).remarks(found)
    return [*lines, *remarks]


def _near_duplicates(
    samples: Samples, data: Data, store: ArrayStore, *, threads: int
) -> dict[str, Any] | None:
    shape = data.array.shape
    if data.array.dtype not in (np.uint8, np.uint16) or len(shape) != 4:
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
        "other_label": len({one for one, _, other, *_ in pairs if data.plain(one) != data.plain(other)})
        if data.strata.required
        else 0,  # numbers, and sets of labels, differ a little where pictures do
        "compared": notes["compared"],
        "limit": round(notes["limit"], 4),
        "examples": [
            {
                "item": samples.names[one],
                "split": split,
                "label": data.plain(one),
                "other": samples.names[other],
                "other_split": other_split,
                "other_label": data.plain(other),
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
