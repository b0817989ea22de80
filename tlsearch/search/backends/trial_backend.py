"""The seam between the search and whatever runs its trials.

A backend asks the dispatcher for work, runs it, and hands back what comes of it. The search never asks a
backend for a result, and a backend knows neither sampler nor database.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tlsearch.records import EpochResult, Point


class Dispatcher(Protocol):
    """Where work is handed out and results come in: the search's side of the seam."""

    @property
    def deadline(self) -> float:
        """When work that is handed out now must have ended, as `time.time` counts."""

    @property
    def prune(self) -> bool:
        """Whether its trials may be stopped when others are better at the same epoch."""

    def next_turn(self) -> list[Point] | None:
        """Points for one worker; an empty list while there are none yet, None when there will be none."""

    def put_back(self, points: Sequence[Point]) -> None:
        """Take points back that were handed out and not begun; they are handed out next."""

    def record(self, results: Sequence[EpochResult]) -> None:
        """Take results as they come; a point's last one carries its outcome."""

    def ended(self, points: Sequence[Point], error: str | None) -> None:
        """Take note that a worker is done with its points, or died of ``error``."""

    def must_stop(self) -> bool:
        """Whether all work is to be stopped now."""


class TrialBackend(Protocol):
    """Runs trials, each through `training.trial.TrialRunner.run`."""

    def slots(self) -> int:
        """How many pieces of work it has room for, now; the dispatcher hands out no more than that."""

    def run(self, dispatcher: Dispatcher) -> None:
        """Run work until the dispatcher has none left or says stop.

        Every point that was handed out has then been told of by `Dispatcher.ended`, once. Points that were
        under way when it was told to stop may be left to the dispatcher.

        Raises:
            WorkError: the backend itself failed, not just a worker of it.
        """
