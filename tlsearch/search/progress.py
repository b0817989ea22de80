"""What an observer of a running search is told: frozen snapshots, never callbacks into the search."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tlsearch.records import Outcome, Point, TrialState


@dataclass(frozen=True, slots=True)
class Best:
    """The best trial so far."""

    point: Point
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a search stands.

    Attributes:
        phase: what is going on, such as ``search`` or ``confirm the best``.
        done: steps of the phase that are done (trials, images).
        total: steps in all; None where nobody knows.
        counts: trials of the search by state.
        best: of the search, so far.
        leading: the best value seen so far, also in an epoch of a trial that isn't over.
        by_strategy: the best value of each strategy.
        seconds_left: of the wall-clock budget; None without one.
        per_minute: trials that ended, by this driver in this phase; None before the first.
        cached: how many of the trials that ended were trained with cached activations.
        note: a sentence worth a line of its own (a fallback, a trial that failed), or empty.
    """

    phase: str
    done: int = 0
    total: int | None = None
    counts: Mapping[TrialState, int] = field(default_factory=dict)
    best: Best | None = None
    leading: float | None = None
    by_strategy: Mapping[str, float] = field(default_factory=dict)
    seconds_left: float | None = None
    per_minute: float | None = None
    cached: int = 0
    note: str = ""


Observer = Callable[[Snapshot], None]


def warn(snapshot: Snapshot) -> None:
    """The observer of Python callers: what the data or a model gives to worry about becomes a warning."""
    if snapshot.note and snapshot.phase in ("check", "verify the winner"):
        warnings.warn(snapshot.note, UserWarning, stacklevel=2)


def silent(snapshot: Snapshot) -> None:
    """The observer that doesn't look."""
