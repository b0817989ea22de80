"""The items of a study, fixed when it is prepared, and found again among what is there now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tlsearch.errors import StudyConflictError
from tlsearch.records import StudyItems, StudyRecord
from tlsearch.training.data import unreadable_hash
from tlsearch.training.sources import Listed
from tlsearch.training.splits import IntArray, split

NAMED = 3
"""Items that a sentence names."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A study's splits as indices of what is listed now; ``aside`` are of items that no split uses."""

    parts: Mapping[str, IntArray]
    aside: tuple[int, ...]

    def refuse_undecodable(self, broken: Iterable[int], listed: Listed) -> None:
        """StudyConflictError where items can't be decoded here that could be when the study was begun."""
        lost = [str(listed.samples.names[index]) for index in sorted(set(broken) - set(self.aside))]
        if lost:
            raise changed([("undecodable", lost)])


def fix(
    listed: Listed, parts: Mapping[str, IntArray], aside: Iterable[int], source: Listed | None
) -> StudyItems:
    """The items of a study's data with their splits, as they are from now on.

    Args:
        listed: the data.
        parts: indices of every split, of ``aside`` as well.
        aside: indices of items that can't be decoded.
        source: the source data, where the study has some.
    """
    samples = listed.samples
    splits = [""] * len(samples.items)
    for name, indices in parts.items():
        for index in indices.tolist():
            splits[index] = name
    return StudyItems(
        names=tuple(str(name) for name in samples.names),
        hashes=tuple(listed.hashes),
        labels=tuple(samples.classes[label] for label in samples.labels),
        splits=tuple(splits),
        aside=tuple(sorted(aside)),
        source=source.fingerprint if source is not None else "",
    )


def located(items: StudyItems, listed: Listed, *splits: str) -> list[int]:
    """Indices, among what is listed now, of a study's usable items of some splits, in the study's order.

    Items go by content and class, whatever they are called now; of copies the one of the same name is taken.

    Raises:
        StudyConflictError: some aren't there as they were; it says how many, and names a few.
    """
    return _located(items, listed, items.of(*splits))


def as_split(listed: Listed, study: StudyRecord) -> StudyItems:
    """The items of a study that a version began which stored none: split as it was, if the data is the same.

    Raises:
        StudyConflictError: it isn't.
    """
    if listed.fingerprint != study.fingerprint:
        raise StudyConflictError("The data has changed since the study was begun.")
    shares, seed = listed.described.split, int(study.spec.get("seed", 0))
    samples, hashes = listed.samples, listed.hashes
    return fix(
        listed,
        split(samples, hashes, val=shares.val, test=shares.test, stop=shares.stop, seed=seed),
        aside=(),
        source=None,
    )


def carried(items: StudyItems, listed: Listed, source: Listed | None) -> Carried:
    """The splits of a study that goes on.

    Args:
        items: of the study.
        listed: its data as it is now.
        source: its source data.

    Raises:
        StudyConflictError: that isn't exactly the study's data, or its own splits are others.
    """
    everything = range(len(items.names))
    indices = _located(items, listed, everything, added=True)
    if items.source != (source.fingerprint if source is not None else ""):
        raise StudyConflictError(
            "The source data has changed since the study was begun.",
            hint="Put it back as it was, or give the study another name.",
        )
    kept: dict[str, list[int]] = {name: [] for name in ("train", "stop", "val", "test")}
    for at, index in zip(everything, indices, strict=True):
        if items.splits[at]:
            kept[items.splits[at]].append(index)
    parts = {name: np.array(sorted(found), dtype=np.int64) for name, found in kept.items()}
    if listed.samples.splits is not None:  # whoever moves items to other splits wants them there
        _refuse_moved(parts, listed.samples.splits, listed.samples.names)
    return Carried(parts, tuple(sorted(indices[at] for at in items.aside)))


def _refuse_moved(parts: Mapping[str, IntArray], given: Sequence[str], names: Sequence[str]) -> None:
    """StudyConflictError where items stand in other splits of the data's own than they did."""
    brought = set(given)
    moved = []
    for name, indices in parts.items():
        own = "train" if name == "stop" or name not in brought else name  # cut from train
        moved += [index for index in indices.tolist() if given[index] != own]
    if moved:
        raise changed([("in another split", [str(names[index]) for index in sorted(moved)])])


def changed(findings: Sequence[tuple[str, Sequence[str]]]) -> StudyConflictError:
    """The error for a study whose data isn't what it was: what happened, and to which items."""
    told = []
    for what, names in findings:
        if names:
            some = ", ".join(str(name) for name in names[:NAMED])
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            told.append(f"{len(names)} {'items' if len(names) > 1 else 'item'} {what} ({some}{more})")
    return StudyConflictError(
        f"The data has changed since the study was begun: {'; '.join(told)}.",
        hint="Put it back as it was and run the study again, or give the study another name: scores on "
        "other data can't be compared.",
    )


def _located(items: StudyItems, listed: Listed, wanted: Sequence[int], *, added: bool = False) -> list[int]:
    samples = listed.samples
    by_name: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    by_content: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for index in range(len(samples.items) - 1, -1, -1):  # so that the first is popped first
        content = listed.hashes[index], samples.classes[samples.labels[index]]
        by_name[(*content, str(samples.names[index]))].append(index)
        by_content[content].append(index)
    found: dict[int, int] = {}
    for at in wanted:
        if named := by_name[items.hashes[at], items.labels[at], items.names[at]]:
            found[at] = named.pop()
    taken = set(found.values())
    for at in wanted:  # the others were renamed
        copies = by_content[items.hashes[at], items.labels[at]]
        while at not in found and copies:
            if (index := copies.pop()) not in taken:
                found[at] = index
                taken.add(index)
    lost = [at for at in wanted if at not in found]
    extra = [str(samples.names[i]) for i in range(len(samples.items)) if added and i not in taken]
    if lost or extra:
        raise _told(items, listed, lost, extra)
    return [found[at] for at in wanted]


def _told(items: StudyItems, listed: Listed, lost: Sequence[int], extra: Sequence[str]) -> StudyConflictError:
    now = {str(name): index for index, name in enumerate(listed.samples.names)}
    missing, other, unreadable, relabelled = [], [], [], []
    for at in lost:
        name = items.names[at]
        if name not in now:
            missing.append(name)
        elif listed.hashes[now[name]] == unreadable_hash(name):
            unreadable.append(name)
        elif listed.hashes[now[name]] == items.hashes[at]:
            relabelled.append(name)
        else:
            other.append(name)
    known = set(items.names)
    new = [name for name in extra if name not in known]
    return changed(
        [
            ("missing", missing),
            ("changed", other),
            ("unreadable", unreadable),
            ("of another class", relabelled),
            ("added", new),
        ]
    )
