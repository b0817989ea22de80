"""Splits by time: a model is used on later items than those it learned from, and is measured so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tlsearch.contracts import Samples
from tlsearch.contracts.dataset import without
from tlsearch.errors import DataError, SpecError
from tlsearch.training.item_groups import taken
from tlsearch.training.splits import IntArray

DAY = 86400


def by_exif(samples: Samples, *, section: str) -> Samples:
    """Samples with the times at which pictures were taken; those that don't say so are among the broken ones.

    Raises:
        SpecError: the data has times of its own.
        DataError: no picture says so.
    """
    if samples.times is not None:
        raise SpecError(
            f"{section}.time: the data has times of its own.",
            hint="Leave it out, or the time_column.",
        )
    found = [taken(item) if isinstance(item, str | Path) else None for item in samples.items]
    wrong = {at: "it doesn't say when it was taken" for at, one in enumerate(found) if one is None}
    if len(wrong) == len(found):
        raise DataError(
            f"{section}.time: no item says when it was taken (EXIF's DateTimeOriginal).",
            hint="Leave it out, or name the column of a table with dates as time_column.",
        )
    return replace(without(samples, wrong), times=[one[1] for one in found if one is not None])


def split(samples: Samples, units: IntArray, *, val: float, test: float, section: str) -> Samples:
    """Samples with splits: the newest are test, those before them val, the rest train.

    What was made at one time stands in one split, and so does each unit, by its newest item.

    Args:
        samples: with times.
        units: numbers (N,) of what must stay in one split.
        val: share of the items, as nearly as times allow.
        test: likewise; 0 for none.
        section: of the study file, for errors.

    Raises:
        SpecError: the data has splits of its own.
        DataError: there are fewer times than splits.
    """
    if samples.splits is not None:
        raise SpecError(
            f"{section}: the data has splits of its own, and is to be split by time.",
            hint="Leave the time out, or say split_column: null.",
        )
    times = np.asarray(samples.times, dtype=np.float64)
    newest = np.full(int(units.max()) + 1, -np.inf)
    np.maximum.at(newest, units, times)
    moments = newest[units]  # of each item's unit
    shares = {name: share for name, share in (("test", test), ("val", val)) if share > 0}
    steps, sizes = np.unique(moments, return_counts=True)
    if len(steps) <= len(shares):
        raise DataError(
            f"{section}: all items are of {len(steps)} different times (or groups), and {len(shares) + 1} are"
            " needed to split them by time.",
            hint="Leave the time out, or take a column with more of them.",
        )
    splits = np.full(len(times), "train", dtype=object)
    end = len(steps)
    for left, (name, share) in zip(range(len(shares), 0, -1), shares.items(), strict=True):
        # Of the newest 1, 2, ... times those that come nearest to the share; some must be left for the rest.
        reached = np.cumsum(sizes[left:end][::-1])
        begin = end - 1 - int(np.abs(reached - share * len(times)).argmin())
        splits[(moments >= steps[begin]) & (splits == "train")] = name
        end = begin
    return replace(samples, splits=splits.tolist())


def ranges(samples: Samples, parts: Mapping[str, IntArray]) -> dict[str, list[str]]:
    """The oldest and the newest item's time of each split as texts; nothing where there are no times."""
    if samples.times is None:
        return {}
    times = np.asarray(samples.times, dtype=np.float64)
    whole = bool((times % DAY == 0).all())
    sides = {"train": ("train", "stop"), "val": ("val",), "test": ("test",)}
    found = {side: np.concatenate([times[parts[name]] for name in names]) for side, names in sides.items()}
    return {
        side: [_text(float(end), whole=whole) for end in (moments.min(), moments.max())]
        for side, moments in found.items()
        if len(moments)
    }


def sentence(found: Mapping[str, Sequence[str]]) -> str:
    """The same in words."""
    told = [f"{side} {first} to {last}" for side, (first, last) in found.items()]
    return f"Split by time: {', '.join(told)}"


def _text(moment: float, *, whole: bool) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d" if whole else "%Y-%m-%d %H:%M")
