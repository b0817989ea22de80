"""How far a phase of a study is: trials by how they ended, their pace, what failed."""

from __future__ import annotations

import time
from collections import deque

from tlsearch.records import Outcome, Point, TrialState


class Tally:
    """Counts the trials of a phase.

    Attributes:
        counts: trials by state, those of earlier drivers included.
        done: trials that ended and won't run again.
        cached: trials that were trained with cached activations.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys(TrialState, 0)
        self.done = 0
        self.cached = 0
        self._before = 0
        self._begun = time.monotonic()
        self._failures: deque[str] = deque()

    def inherit(self, outcome: Outcome) -> None:
        """Take note of a trial that ended before this driver began."""
        self._count(outcome)
        self.done += 1
        self._before += 1

    def end(self, point: Point, outcome: Outcome) -> None:
        """Take note of how a trial ended."""
        self._count(outcome)
        self.done += outcome.state is not TrialState.CANCELLED  # it will run again
        if outcome.state is TrialState.FAILED:
            self._failures.append(f"trial {point.number} ({point.strategy}): {outcome.reason}")

    def _count(self, outcome: Outcome) -> None:
        self.counts[outcome.state] += 1
        self.cached += outcome.cache.startswith("prefix")

    @property
    def per_minute(self) -> float | None:
        """Trials that this driver has ended, by the minute; None before the first."""
        ended = self.done - self._before
        return ended / ((time.monotonic() - self._begun) / 60) if ended else None

    def failure(self) -> str:
        """The next sentence on a trial that failed; empty where all were told."""
        return self._failures.popleft() if self._failures else ""
