"""Counts of faults and failures, the bound that they support, and the table in the documentation.

``python -m tests.chaos.results`` writes the table of `docs/reliability.md` from the files in ``results/``.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.marked import put

FOLDER = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- table: made by python -m tests.chaos.results -->", "<!-- end of table -->"


@dataclass(frozen=True, slots=True)
class Repetition:
    """What became of a test: how many faults of a kind landed, and whether anything didn't hold."""

    fault: str
    landed: int
    failed: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """All repetitions of a fault."""

    repetitions: int
    failures: int
    seconds: float


def tally(told: Iterable[Repetition]) -> dict[str, Row]:
    """Repetitions by fault. A test that fails counts as one failure, and as a repetition at least."""
    rows: dict[str, Row] = {}
    for one in told:
        row = rows.get(one.fault, Row(0, 0, 0.0))
        rows[one.fault] = Row(
            row.repetitions + max(one.landed, int(one.failed)),
            row.failures + one.failed,
            row.seconds + one.seconds,
        )
    return rows


def bound(repetitions: int, failures: int) -> float:
    """The share of failures that isn't exceeded with 95 % confidence.

    Without a failure it is the rule of three, 3/n (Hanley and Lippman-Hand 1983); with some, Wilson's upper
    limit of one side (1927).
    """
    if repetitions == 0:
        return 1.0
    if failures == 0:
        return min(1.0, 3 / repetitions)
    z = 1.645
    share = failures / repetitions
    middle = share + z * z / (2 * repetitions)
    spread = z * math.sqrt(share * (1 - share) / repetitions + z * z / (4 * repetitions**2))
    return min(1.0, (middle + spread) / (1 + z * z / repetitions))


def table(rows: Mapping[str, Row]) -> str:
    """A table in Markdown."""
    lines = ["| fault | repetitions | failures | at most, with 95 % confidence |", "|---|--:|--:|--:|"]
    for name, row in rows.items():
        limit = bound(row.repetitions, row.failures)
        lines.append(f"| {name} | {row.repetitions} | {row.failures} | {limit:.0%} |")
    return "\n".join(lines)


def store(path: Path, rows: Mapping[str, Row], *, seed: int) -> None:
    """Write a run's counts to a file; what another run counted of other faults stays in it."""
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    about = {
        "day": f"{datetime.now(UTC):%Y-%m-%d}",
        "seed": seed,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    for name, row in rows.items():
        known[name] = {
            "repetitions": row.repetitions,
            "failures": row.failures,
            "seconds": round(row.seconds, 1),
            **about,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


def load(path: Path) -> dict[str, Row]:
    """The counts of a file."""
    known = json.loads(path.read_text())
    return {
        name: Row(row["repetitions"], row["failures"], row["seconds"]) for name, row in sorted(known.items())
    }


def write_page() -> None:
    """Put the table into the documentation, between its two marks."""
    rows = load(FOLDER / "chaos.json")
    put(PAGE, table(rows), begin=BEGIN, end=END)
    print(table(rows))


if __name__ == "__main__":
    write_page()
