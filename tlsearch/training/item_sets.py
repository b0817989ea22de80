"""Which items a trial trains on, stops by and is scored on; none of the test split, whatever its role."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tlsearch.records import Point, TrialRole
from tlsearch.training.data import Data
from tlsearch.training.splits import IntArray, reshuffled

NOT_TEST = ("train", "stop", "val")


def items_of(data: Data, point: Point, *, heads: bool) -> Data:
    """The data as a point's trial sees it.

    Args:
        data: as the study split it.
        point: what is trained. A CONFIRM point trains on a split of its seed where data are small. A REFIT
            point trains on all but the test items, and its validation score, on items that it learned from,
            only shows that training went well.
        heads: whether it is a head, which is fitted by stop items: these are left out of a refit's training.
    """
    if point.role is TrialRole.REFIT:
        kept = ("train", "val") if heads else NOT_TEST
        train = np.sort(np.concatenate([data.indices[name] for name in kept]))
        stop = data.indices["stop"] if heads else data.indices["stop"][:0]
        return replace(data, indices={**data.indices, "train": train, "stop": stop})
    if point.role is TrialRole.CONFIRM and reshuffles(data):
        return replace(data, indices=_drawn(data, point.seed))
    return data


def reshuffles(data: Data) -> bool:
    """Whether repeated runs draw splits of their own."""
    return data.units is not None


def key_of(data: Data, point: Point) -> tuple[TrialRole, int]:
    """Tells apart points that see other items."""
    draws = point.role is TrialRole.CONFIRM and reshuffles(data)
    return (TrialRole.SEARCH if point.role is TrialRole.CONFIRM and not draws else point.role), (
        point.seed if draws else 0
    )


def _drawn(data: Data, seed: int) -> dict[str, IntArray]:
    if data.units is None:
        raise ValueError("no other split is to be drawn of these items")
    pool = np.sort(np.concatenate([data.indices[name] for name in NOT_TEST]))
    parts = reshuffled(
        data.units,
        data.labels,
        pool,
        val=len(data.indices["val"]) / len(pool),
        stop=len(data.indices["stop"]) / max(1, len(pool) - len(data.indices["val"])),
        classes=data.classes,
        seed=seed,
    )
    return {**data.indices, **parts}
