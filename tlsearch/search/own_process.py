"""Which trials the search runs in its own process: the first heads, and all of a short search.

Ray and its workers take ten seconds before a trial begins, most of them imports. Heads on small data take
less: their features are computed once, and stored for all trials that freeze the same layers. So for these
seconds a `LocalBackend` fits heads of tlsearch's own strategies, as long as they are short; the code of
other packages may end the process that it runs in. The work is what a Ray worker would have been given. A
search of nothing else starts Ray only if these seconds do not suffice.

Of a minute or two, what workers take to start is a fifth: then everything runs here, one trial after the
other on all cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

import torch

from tlsearch import registry
from tlsearch.contracts import HeadStrategy, Strategy
from tlsearch.records import Point
from tlsearch.search.backends.local import LocalBackend
from tlsearch.search.setup import Prepared
from tlsearch.spec import StudySpec
from tlsearch.training.workspace import WorkerConfig, data_key

MOST_OPERATIONS = 2.5e11
"""Floating-point operations of the backbone, about four seconds of one core; more is for workers."""
SECONDS = 10.0
"""What a first worker would take to be there; later turns are for workers."""
SHORT = 120.0
"""Seconds of a search that has no worker."""
TOLD = "workers take too long to start for so little time: trials run in this process, one by one"
"""What is said of it."""


def is_short(spec: StudySpec, *, spent: float) -> bool:
    """Whether a search on this machine isn't worth starting workers for.

    Args:
        spec: the study; one that says what trials get, or how many run at once, has workers.
        spent: seconds of earlier drivers.
    """
    minutes, resources = spec.budget.minutes, spec.resources
    as_usual = resources.cpus_per_trial == 1 and resources.concurrent is None
    return minutes is not None and 60 * minutes - spent <= SHORT and as_usual and _on_cpus(spec)


def may_be_all(spec: StudySpec, strategies: Mapping[str, Strategy]) -> bool:
    """Whether each strategy is one whose trials the driver fits itself where data are small."""
    return _on_cpus(spec) and all(_suits(strategy, name) for name, strategy in strategies.items())


def _on_cpus(spec: StudySpec) -> bool:
    """Whether no trial gets a GPU, where features of small data are a matter of a moment for workers, too."""
    return spec.resources.gpus_per_trial == 0 or not torch.cuda.is_available()


def _suits(strategy: Strategy, name: str) -> TypeGuard[HeadStrategy]:
    ours = registry.version_of(registry.STRATEGIES, name).distribution == "tlsearch"
    return ours and isinstance(strategy, HeadStrategy)


def backend(prepared: Prepared, assignment: WorkerConfig) -> LocalBackend | None:
    """What runs the first heads of a study here, for a while; None where workers are to do it."""
    if not _on_cpus(prepared.spec):
        return None
    return LocalBackend(assignment, accepts=_Mine(prepared), seconds=SECONDS)


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
        views = 1 if policy == "none" else self.prepared.spec.search.views_of(policy, heads=True)
        return info.flops * (views * len(items["train"]) + len(items["stop"]) + len(items["val"]))
