"""What every `TrialBackend` must do, whoever wrote it: the tests that its own test class inherits."""

from __future__ import annotations

import abc
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tlsearch.records import EpochResult, Point, TrialState
from tlsearch.search.backends.trial_backend import TrialBackend
from tlsearch.spec import StudySpec, parse
from tlsearch.training.workspace import WorkerConfig

UNKNOWN = "no_such_strategy"
"""A trial of it fails at once, with a reason: what the strategy does is not what is tested here."""


class RecordingDispatcher:
    """A `Dispatcher` of given pieces of work that keeps what it is told.

    Args:
        work: pieces of work, each the points of one worker.
        pause: before the second piece is handed out, so many questions are answered with "not yet".
        most: results after which everything is to stop.
    """

    prune = False
    deadline = math.inf

    def __init__(self, work: Sequence[list[Point]], *, pause: int = 0, most: float = math.inf) -> None:
        self.left = list(work)
        self.pause = pause
        self.most = most
        self.open: dict[int, Point] = {}
        self.results: list[EpochResult] = []
        self.done: list[int] = []
        self.errors: list[str] = []

    def next_turn(self) -> list[Point] | None:
        """The next piece of work."""
        if not self.left:
            return [] if self.open else None
        if self.open and self.pause:
            self.pause -= 1
            return []
        points = self.left.pop(0)
        self.open.update({point.number: point for point in points})
        return points

    def put_back(self, points: Sequence[Point]) -> None:
        """Hand them out next."""
        for point in points:
            del self.open[point.number]
        self.left.insert(0, list(points))

    def record(self, results: Sequence[EpochResult]) -> None:
        """Keep them."""
        self.results += results

    def ended(self, points: Sequence[Point], error: str | None) -> None:
        """Keep who ended, and of what."""
        self.done += [point.number for point in points]
        self.errors += [error] if error is not None else []
        for point in points:
            self.open.pop(point.number, None)

    def must_stop(self) -> bool:
        """Whether there are results enough."""
        return len(self.results) >= self.most


class TrialBackendContract(abc.ABC):
    """Inherit it and say how a backend is made."""

    @abc.abstractmethod
    def backend(self, spec: StudySpec, assignment: WorkerConfig) -> TrialBackend:
        """The backend under test, for two trials at once if it can have so many."""

    def run(self, dispatcher: RecordingDispatcher, folder: Path) -> RecordingDispatcher:
        """Have the backend run all of the dispatcher's work."""
        spec = parse({"study": "contract", "data": {"source": "digits"}, "backbones": ["none/none"]})
        assignment = WorkerConfig(
            spec=spec,
            cache=folder / "cache",
            artifacts=str(folder / "artifacts"),
            cache_bytes=0,
            threads=1,
            cuda=False,
        )
        self.backend(spec, assignment).run(dispatcher)
        return dispatcher

    def test_every_point_is_told_of_and_ends_once(self, tmp_path: Path) -> None:
        """Several points of one piece of work, too; nothing is left open."""
        work = [_points(0, 1), _points(1, 3), _points(4, 1), _points(5, 2)]
        told = self.run(RecordingDispatcher(work, pause=3), tmp_path)
        assert Counter(told.done) == Counter(range(7))
        assert sorted(result.number for result in told.results) == list(range(7))
        assert not told.open
        assert not told.left
        assert not told.errors

    def test_a_trial_that_fails_is_a_result_with_its_reason(self, tmp_path: Path) -> None:
        """No worker dies of it, and the others go on."""
        told = self.run(RecordingDispatcher([_points(0, 1), _points(1, 1)]), tmp_path)
        outcomes = [result.outcome for result in told.results]
        assert [outcome.state for outcome in outcomes if outcome] == [TrialState.FAILED] * 2
        assert all(outcome and UNKNOWN in outcome.reason for outcome in outcomes)
        assert all(result.node for result in told.results), "a result tells where it was computed"

    def test_it_stops_when_it_is_told_to(self, tmp_path: Path) -> None:
        """What was not handed out is not begun; what it leaves open, the dispatcher ends."""
        told = self.run(RecordingDispatcher([_points(number, 1) for number in range(40)], most=2), tmp_path)
        assert 2 <= len(told.results) < 40
        assert told.left


def _points(first: int, count: int) -> list[Point]:
    return [Point(first + offset, "none/none", UNKNOWN, {}, seed=0) for offset in range(count)]
