"""What is known of a study's data, as a report tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tlsearch.records import DatasetRecord
from tlsearch.reports.formatting import target

SPLITS = ("train", "stop", "val", "test")
SHOWN = 100
"""Lines of a finding."""


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """Items of a class, by split in the report's order."""

    name: str
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """In all splits."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Finding:
    """A list of items that a user should look at."""

    title: str
    count: int
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DataFindings:
    """The data section of a report; parts are empty where an older study wrote no audit.

    ``kind`` and ``kinds`` are what the kinds of items are called by which it was split; ``by_class``
    counts them.
    """

    splits: tuple[str, ...]
    kind: str
    kinds: str
    by_class: tuple[ClassCounts, ...]
    warnings: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def largest(self) -> int:
        """Items of the largest class."""
        return max((row.total for row in self.by_class), default=0)

    @property
    def smallest(self) -> int:
        """Items of the smallest class."""
        return min((row.total for row in self.by_class), default=0)


def findings(dataset: DatasetRecord, audit: Mapping[str, Any]) -> DataFindings:
    """Put an audit into words.

    Args:
        dataset: the data.
        audit: the document that `tlsearch.training.audit` makes; any part may be missing.
    """
    splits = tuple(name for name in SPLITS if name in dataset.counts)
    counts = audit.get("counts") or {}
    kind = str(audit.get("kind", "class"))
    known = [name for name in splits if isinstance(counts.get(name), Mapping)]
    # Of classes also those that no item has, which an older audit doesn't count.
    names = dataset.classes if kind == "class" else tuple(counts.get("train", ()))
    by_class = tuple(
        ClassCounts(name, tuple(int(counts[split].get(name, 0)) for split in splits))
        for name in (names if known == list(splits) else ())
    )
    broken = {"count": len(dataset.broken), "examples": dataset.broken}
    return DataFindings(
        splits=splits,
        kind=kind,
        kinds=str(audit.get("kinds", "classes")),
        by_class=by_class,
        warnings=tuple(_warnings(audit)),
        findings=tuple(finding for finding in listed({**audit, "broken": broken}) if finding.count),
    )


def listed(audit: Mapping[str, Any]) -> list[Finding]:
    """What an audit found of each kind, under its title."""
    alike = audit.get("near_duplicates") or {}
    kinds = (
        ("Nearly the same picture in two splits", alike),
        ("Broken, set aside", audit.get("broken")),
        ("Identical items with different labels", audit.get("clashes")),
        ("Identical items in more than one split", audit.get("overlaps")),
        ("Also in the source data", audit.get("source_copies")),
        ("Pictures of a single colour", alike.get("plain")),
        ("Classes with few items", audit.get("tiny_classes")),
    )
    return [_finding(title, found) for title, found in kinds]


def _finding(title: str, found: Any) -> Finding:
    told = found if isinstance(found, Mapping) else {}
    lines = tuple(_line(example) for example in list(told.get("examples") or ())[:SHOWN])
    return Finding(title, int(told.get("count") or 0), lines)


def _line(example: Any) -> str:
    if isinstance(example, Mapping):
        one = f"{example.get('item')} ({example.get('split')}, {target(example.get('label'))})"
        other = f"{example.get('other')} ({example.get('other_split')}, {target(example.get('other_label'))})"
        apart = f", distance {example['distance']:.3f}" if "distance" in example else ""
        return f"{one} and {other}{apart}"
    if isinstance(example, list | tuple):
        return ": ".join(map(str, example)) if len(example) == 2 else " = ".join(map(str, example))
    return str(example)


def _warnings(audit: Mapping[str, Any]) -> list[str]:
    if isinstance(audit.get("warnings"), list):
        return [str(sentence) for sentence in audit["warnings"]]
    from tlsearch.training.audit import sentences

    try:
        return sentences(audit)
    except (KeyError, TypeError):  # written by a version that looked for other things
        return []
