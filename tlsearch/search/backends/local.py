"""Trials in the search's own process, one epoch of each after the other: no Ray, no other process.

For heads on small data, which are done before a worker has started; for tests; and for authors of
strategies, whose breakpoints work here. No trial is stopped for being worse than others.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from tlsearch.contracts import Pretrained
from tlsearch.records import EpochResult, Point
from tlsearch.search.backends.trial_backend import Dispatcher
from tlsearch.training.memory import use_threads
from tlsearch.training.trial import TrialRunner
from tlsearch.training.workspace import WorkerConfig

Running = tuple[list[Point], Iterator[list[EpochResult]]]


class LocalBackend:
    """A `TrialBackend` in this process.

    Args:
        assignment: what every trial of the study shares.
        at_once: pieces of work that are under way at a time.
        accepts: tells whether a point may run here; work with others is put back, and the run ends.
        seconds: after so many, no new work begins.
        loaded: backbones by name that stay loaded from one study to the next.
    """

    def __init__(
        self,
        assignment: WorkerConfig,
        *,
        at_once: int = 1,
        accepts: Callable[[Point], bool] = lambda point: True,
        seconds: float = math.inf,
        loaded: dict[str, Pretrained] | None = None,
    ) -> None:
        self._assignment = assignment
        self._at_once = at_once
        self._accepts = accepts
        self._seconds = seconds
        self._loaded = {} if loaded is None else loaded
        self._bench: TrialRunner | None = None

    def slots(self) -> int:
        """As many as it was made for."""
        return self._at_once

    def run(self, dispatcher: Dispatcher) -> None:
        """Run work until there is none left, until it is to stop, or until some is not for this process."""
        until = time.monotonic() + self._seconds
        threads = torch.get_num_threads()
        running: list[Running] = []
        more = True
        try:
            while not dispatcher.must_stop():
                while more and len(running) < self._at_once:
                    points = dispatcher.next_turn() if time.monotonic() < until else None
                    more = points is not None
                    if not points:
                        break
                    more = self._start(dispatcher, points, running)
                if not running:
                    return
                for work in list(running):
                    self._step(dispatcher, running, work)
        finally:
            for points, _ in running:
                dispatcher.ended(points, None)
            if self._bench is not None:
                use_threads(threads)  # as before the runner, which set them

    def _start(self, dispatcher: Dispatcher, points: list[Point], running: list[Running]) -> bool:
        """Begin a piece of work; answers whether all of it is for this process."""
        mine = [point for point in points if self._accepts(point)]
        others = [point for point in points if point not in mine]
        if others:
            dispatcher.put_back(others)
        if mine:
            self._bench = self._bench or TrialRunner(self._assignment, _backbones=self._loaded)
            running.append((mine, self._bench.run(mine, deadline=dispatcher.deadline)))
        return not others

    def _step(self, dispatcher: Dispatcher, running: list[Running], work: Running) -> None:
        """Let one piece of work come to its next results."""
        points, results = work
        told = next(results, None)
        if told is not None:
            dispatcher.record([replace(result, node=socket.gethostname()) for result in told])
            return
        running.remove(work)
        dispatcher.ended(points, None)
