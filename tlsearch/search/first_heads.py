"""The first heads, fitted in the driver's own process while Ray comes up.

Ray and its workers take ten seconds before a trial begins, most of them imports. Heads on small data take
less: their features are computed once, and stored for all trials that freeze the same layers. So for so long
the driver takes turns itself, as long as they are heads of tlsearch's own strategies (another's code may end
the process that it runs in) and short. The turns are those that a worker would have had. A search of nothing
else starts Ray only if these seconds don't suffice.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeGuard

import torch

from tlsearch import registry
from tlsearch.contracts import HeadStrategy, Strategy
from tlsearch.records import Point
from tlsearch.search.relay import Relay
from tlsearch.search.setup import Prepared
from tlsearch.spec import StudySpec
from tlsearch.training.memory import use_threads
from tlsearch.training.trial import Assignment, Workbench, data_key

MOST_OPERATIONS = 2.5e11
"""Floating-point operations of the backbone, about four seconds of one core; more is for workers."""
SECONDS = 10.0
"""What a first worker would take to be there; later turns are for workers."""


def may_be_all(spec: StudySpec, strategies: Mapping[str, Strategy]) -> bool:
    """Whether each strategy is one whose trials the driver fits itself where data are small."""
    return _on_cpus(spec) and all(_suits(strategy, name) for name, strategy in strategies.items())


def _on_cpus(spec: StudySpec) -> bool:
    """Whether no trial gets a GPU, where features of small data are a matter of a moment for workers, too."""
    return spec.resources.gpus_per_trial == 0 or not torch.cuda.is_available()


def _suits(strategy: Strategy, name: str) -> TypeGuard[HeadStrategy]:
    ours = registry.version_of(registry.STRATEGIES, name).distribution == "tlsearch"
    return ours and isinstance(strategy, HeadStrategy)


def take(relay: Relay, *, prepared: Prepared, assignment: Assignment) -> None:
    """Run turns here until there is one that isn't for us, which stays on the desk, or for long enough."""
    if not _on_cpus(prepared.spec):
        return
    until = time.monotonic() + SECONDS
    threads = torch.get_num_threads()
    bench: Workbench | None = None
    mine = _Mine(prepared)
    try:
        while time.monotonic() < until and not relay.must_stop():
            turn = relay.next_turn()
            if not turn:
                return
            points = [point for point in turn if mine(point)]
            others = [point for point in turn if point not in points]
            if others:
                relay.put_back(others)
            if points:
                bench = bench or Workbench(assignment)
                for results in bench.run(points, deadline=relay.deadline):
                    relay.record([replace(result, node=socket.gethostname()) for result in results])
                relay.ended(points, None)
            if others:
                return
    finally:
        if bench is not None:
            use_threads(threads)  # as before the workbench, which set them


class _Mine:
    """Whether a point is for the driver; those that take the same features as one before it cost nothing."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.operations: dict[tuple[str, str], float] = {}

    def __call__(self, point: Point) -> bool:
        strategy = self.prepared.strategies[point.strategy]
        if not _suits(strategy, point.strategy):
            return False
        policy = strategy.recipe(point.params).augmentation
        known = {**self.operations, (point.backbone, policy): self._operations(point.backbone, policy)}
        if sum(known.values()) > MOST_OPERATIONS:
            return False
        self.operations = known
        return True

    def _operations(self, backbone: str, policy: str) -> float:
        info = next(info for info in self.prepared.backbones if info.name == backbone)
        items = self.prepared.data[data_key("data", info.inputs)].indices
        views = 1 if policy == "none" else self.prepared.spec.search.views
        return info.flops * (views * len(items["train"]) + len(items["stop"]) + len(items["val"]))
