"""What an observer of a running search is told: frozen snapshots, never callbacks into the search."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tlsearch.records import Outcome, Point, TrialState

STATES = {
    TrialState.PRUNED: "pruned (behind others at the same epoch)",
    TrialState.CANCELLED: "interrupted (to run again)",
}
"""States that need a word of explanation."""


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

    @property
    def remark(self) -> bool:
        """Whether it is no more than a note: no phase has begun with it, and none has gone on."""
        return bool(self.note) and self.total is None and not self.counts


Observer = Callable[[Snapshot], None]


def warn(snapshot: Snapshot) -> None:
    """The observer of Python callers: what the data or a model gives to worry about becomes a warning."""
    if snapshot.note and snapshot.phase in ("check", "verify the winner"):
        warnings.warn(snapshot.note, UserWarning, stacklevel=2)


def silent(snapshot: Snapshot) -> None:
    """The observer that doesn't look."""


def describe(snapshot: Snapshot) -> list[str]:
    """A snapshot in phrases: phase and progress, counts, best, strategies, time left."""
    total = f"/{snapshot.total}" if snapshot.total is not None else ""
    phrases = [f"{snapshot.phase} {snapshot.done}{total}" if snapshot.total else snapshot.phase]
    counts = [
        f"{snapshot.counts[state]} {STATES.get(state, state.value.lower())}"
        for state in TrialState
        if snapshot.counts.get(state)
    ]
    if counts:
        phrases.append(", ".join(counts))
    if snapshot.best is not None and snapshot.best.outcome.value is not None:
        point, outcome = snapshot.best.point, snapshot.best.outcome
        known = outcome.groups and outcome.freeze_depth is not None
        depth = f", freeze depth {outcome.freeze_depth}/{outcome.groups}" if known else ""
        phrases.append(
            f"best {outcome.value:.4f}: trial {point.number}, {point.strategy} on {point.backbone}{depth}"
        )
    if len(snapshot.by_strategy) > 1:
        phrases.append(", ".join(f"{name} {value:.4f}" for name, value in snapshot.by_strategy.items()))
    speed = []
    if snapshot.per_minute is not None:
        speed.append(f"{snapshot.per_minute:.3g} trials a minute")
    if snapshot.cached:
        speed.append(f"{snapshot.cached} with cached activations")
    if speed:
        phrases.append(", ".join(speed))
    if snapshot.seconds_left is not None:
        minutes, seconds = divmod(max(0, int(snapshot.seconds_left)), 60)
        phrases.append(f"{minutes}:{seconds:02d} left")
    return phrases
