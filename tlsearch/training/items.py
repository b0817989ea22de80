"""The items of a study, fixed when it is prepared, and found again among what is there now."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tlsearch.counts import plural
from tlsearch.errors import StudyConflictError
from tlsearch.records import StudyItems, StudyRecord
from tlsearch.training.encoding import unreadable_hash
from tlsearch.training.listed import Listed
from tlsearch.training.splits import IntArray

NAMED = 3
"""Items that a sentence names."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A study's splits as indices of what is listed now; ``aside`` are of items that no split uses.

    ``new`` are those that the study which is extended doesn't have.
    """

    parts: Mapping[str, IntArray]
    aside: tuple[int, ...]
    new: tuple[int, ...] = ()

    def set_aside(self, broken: Iterable[int], listed: Listed) -> set[int]:
        """Indices of items that no split uses, where some can't be decoded.

        Raises:
            StudyConflictError: known items can't be decoded here that could be when the study was begun.
        """
        known = set(broken) - set(self.new)
        if lost := [str(listed.samples.names[index]) for index in sorted(known - set(self.aside))]:
            raise changed([("undecodable", lost)])
        return set(self.aside) | (set(broken) - known)


@dataclass(frozen=True, slots=True)
class Growth:
    """What extends a study's data.

    Attributes:
        listed: the data of now.
        parts: its splits.
        new: indices of the items that the study doesn't have, ascending.
        aside: indices of known items that couldn't be decoded.
        relabelled: name, target before and target now of each known item whose target has changed.
        names: of what its targets were, such as classes.
    """

    listed: Listed
    parts: Mapping[str, IntArray]
    new: tuple[int, ...]
    aside: tuple[int, ...]
    relabelled: tuple[tuple[str, str, str], ...]
    names: tuple[str, ...]

    @property
    def new_names(self) -> tuple[str, ...]:
        """Names of targets that the study doesn't know: new classes, say."""
        return tuple(name for name in self.listed.target_spec.names if name not in self.names)

    @property
    def carried(self) -> Carried:
        """The splits."""
        return Carried(self.parts, self.aside, self.new)


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
        labels=tuple(listed.identity(index) for index in range(len(samples.items))),
        splits=tuple(splits),
        aside=tuple(sorted(aside)),
        source=source.fingerprint if source is not None else "",
    )


def located(items: StudyItems, listed: Listed, *splits: str) -> list[int]:
    """Indices, among what is listed now, of a study's usable items of some splits, in the study's order.

    Items go by content and target, whatever they are called now; of copies the one of the same name is taken.

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
    parts = listed.split(seed=int(study.spec.get("seed", 0)))
    return fix(listed, parts, aside=(), source=None)


def carried(items: StudyItems, listed: Listed, source: Listed | None, *, study: str) -> Carried:
    """The splits of a study that goes on.

    Args:
        items: of the study.
        listed: its data as it is now.
        source: its source data.
        study: its name, for errors.

    Raises:
        StudyConflictError: that isn't exactly the study's data, or its own splits are others.
    """
    everything = range(len(items.names))
    indices = _located(items, listed, everything, extends=study)
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


def grown(items: StudyItems, names: Sequence[str], listed: Listed, *, seed: int) -> Growth:
    """A study's data with what was added to it: known items keep their splits, new ones are cut likewise.

    Args:
        items: of the study.
        names: of what its targets are.
        listed: its data as it is now.
        seed: of the study.

    Raises:
        StudyConflictError: items of the study aren't there, or not in their splits; nothing is new; or splits
            are by time.
        DataError: a new class is too small to be split; see `split`.
    """
    if listed.samples.times is not None:
        raise StudyConflictError(
            "The study's splits are by time: with newer items others are test items than those that it has.",
            hint="`tlsearch evaluate` tells how its model does on the new items; `tlsearch run` begins"
            " another study of all, split by time anew.",
        )
    everything = range(len(items.names))
    found = _found(items, listed, everything)
    taken = set(found.values())
    by_content: defaultdict[str, list[int]] = defaultdict(list)
    for index in range(len(listed.samples.items)):
        if index not in taken:
            by_content[listed.hashes[index]].append(index)
    relabelled = []
    for at in everything:
        if at not in found and (copies := by_content[items.hashes[at]]):
            found[at] = index = copies.pop(0)
            relabelled.append((str(listed.samples.names[index]), items.labels[at], listed.identity(index)))
    if not found:
        raise StudyConflictError(
            f"The data has none of the study's {len(items.names)} items: it is other data.",
            hint="Put new items beside the old ones; or search on other data with `tlsearch run`.",
        )
    # What couldn't be decoded may have been taken out since, or mended.
    if lost := [at for at in everything if at not in found and at not in items.aside]:
        raise _told(items, listed, lost, (), names=names, hint=COMPLETE)
    new = tuple(sorted(set(range(len(listed.samples.items))) - set(found.values())))
    if not new and not relabelled:
        unusable = listed.samples.broken
        others = "no others"
        if unusable:
            others += f" but {plural(len(unusable), 'item')} that can't be used ({unusable[0]})"
        raise StudyConflictError(
            f"Nothing is new: {listed.described.options.get('path', 'the data')} has the study's"
            f" {len(items.names)} items and {others}.",
            hint="Put new items beside the old ones first; or name the folder or table that has them.",
        )
    known = {index: items.splits[at] for at, index in found.items() if items.splits[at]}
    if listed.samples.splits is not None:
        places = {name: np.array([i for i in known if known[i] == name]) for name in set(known.values())}
        _refuse_moved(places, listed.samples.splits, listed.samples.names)
    parts = listed.split(seed=seed, known=known)
    aside = tuple(sorted(found[at] for at in items.aside if at in found))
    return Growth(listed, parts, new, aside, tuple(relabelled), tuple(names))


def _refuse_moved(parts: Mapping[str, IntArray], given: Sequence[str], names: Sequence[str]) -> None:
    """StudyConflictError where items stand in other splits of the data's own than they did."""
    brought = set(given)
    moved = []
    for name, indices in parts.items():
        own = "train" if name == "stop" or name not in brought else name  # cut from train
        moved += [index for index in indices.tolist() if given[index] != own]
    if moved:
        raise changed([("in another split", [str(names[index]) for index in sorted(moved)])])


AS_IT_WAS = (
    "Put it back as it was and run the study again, or give the study another name: scores on other data"
    " can't be compared."
)
EXTEND = (
    "Scores on other data can't be compared. `tlsearch study extend {study}` takes new items in; or put it"
    " back as it was, or give the study another name."
)
COMPLETE = (
    "Put it back: a study is extended with all of its items there. `tlsearch run` begins another study of"
    " other data."
)


def changed(findings: Sequence[tuple[str, Sequence[str]]], *, hint: str = AS_IT_WAS) -> StudyConflictError:
    """The error for a study whose data isn't what it was: what happened, and to which items."""
    told = []
    for what, names in findings:
        if names:
            some = ", ".join(str(name) for name in names[:NAMED])
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            told.append(f"{len(names)} {'items' if len(names) > 1 else 'item'} {what} ({some}{more})")
    return StudyConflictError(
        f"The data has changed since the study was begun: {'; '.join(told)}.",
        hint=hint,
    )


def _located(items: StudyItems, listed: Listed, wanted: Sequence[int], *, extends: str = "") -> list[int]:
    """Indices of wanted positions; with a study's name, items that it doesn't know are refused."""
    found = _found(items, listed, wanted)
    taken, samples = set(found.values()), listed.samples
    lost = [at for at in wanted if at not in found]
    extra = [str(samples.names[i]) for i in range(len(samples.items)) if extends and i not in taken]
    if lost or extra:
        hint = AS_IT_WAS if lost else EXTEND.format(study=shlex.quote(extends))
        raise _told(items, listed, lost, extra, hint=hint)
    return [found[at] for at in wanted]


def _found(items: StudyItems, listed: Listed, wanted: Sequence[int]) -> dict[int, int]:
    """Indices of what is listed now, by positions of a study's items; without those that aren't there."""
    samples = listed.samples
    by_name: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    by_content: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for index in range(len(samples.items) - 1, -1, -1):  # so that the first is popped first
        content = listed.hashes[index], listed.identity(index)
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
    return found


def _told(
    items: StudyItems,
    listed: Listed,
    lost: Sequence[int],
    extra: Sequence[str],
    *,
    names: Sequence[str] = (),
    hint: str,
) -> StudyConflictError:
    """The error for items that aren't there as they were; a class of ``names`` that has none left is told."""
    now = {str(name): index for index, name in enumerate(listed.samples.names)}
    left = {items.labels[at] for at in set(range(len(items.names))) - set(lost)}
    gone: dict[str, list[str]] = {name: [] for name in names if name not in left}
    missing: list[str] = []
    other, unreadable, relabelled = [], [], []
    for at in lost:
        name = items.names[at]
        if name not in now:
            gone.get(items.labels[at], missing).append(name)
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
            *((f'of "{label}" missing, which are all of it', all_of_it) for label, all_of_it in gone.items()),
            ("missing", missing),
            ("changed", other),
            ("unreadable", unreadable),
            ("of another class", relabelled),
            ("added", new),
        ],
        hint=hint,
    )
