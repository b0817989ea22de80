"""Points -> an iterator of results: what a worker does, from trial to trial."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tlsearch import registry
from tlsearch.contracts import HeadStrategy
from tlsearch.records import EpochResult, Point
from tlsearch.training.failures import FAILURES, failed
from tlsearch.training.gradient_trials import train
from tlsearch.training.head_trials import fit_heads
from tlsearch.training.workspace import Workspace


class TrialRunner(Workspace):
    """A worker's workspace, in which it runs one batch of points after another."""

    def run(self, points: Sequence[Point], *, deadline: float = math.inf) -> Iterator[list[EpochResult]]:
        """Train points, which share backbone and strategy; several only for a head strategy.

        Every point's last result carries its outcome; what goes wrong in a trial ends that trial as FAILED,
        with the reason. Nothing is raised but what a stopped worker raises.

        Args:
            points: at least one.
            deadline: as `time.time` counts.
        """
        try:
            strategy = registry.strategy(points[0].strategy)
            if isinstance(strategy, HeadStrategy):
                yield from fit_heads(self, strategy, points)
            else:
                yield from train(self, strategy, points[0], deadline=deadline)
        except FAILURES as error:  # a trial's failure is a result
            yield [failed(point, error) for point in points]
