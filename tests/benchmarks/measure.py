"""Fair comparisons on a noisy machine: in turn, in one process group, ratios of pairs, counted work."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Timed:
    """What one run took, in seconds."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Ratio:
    """Median of pairwise ratios, with the smallest and the largest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Result:
    """One line of the report.

    ``target`` is what was to be reached; ``reached`` says whether it was, None where there is none.
    """

    benchmark: str
    case: str
    value: str
    target: str = ""
    reached: bool | None = None
    detail: dict[str, object] = field(default_factory=dict)


def timed(work: Callable[[], object]) -> Timed:
    """CPU seconds of this process (all threads), and wall seconds."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    after, ended = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Timed(cpu, ended - began)


def paired(
    ours: Callable[[], object], peer: Callable[[], object], *, pairs: int = 5, wall: bool = False
) -> Ratio:
    """How many times longer the peer takes: run in turn, after one warm-up of each."""
    ours()
    peer()
    ratios = []
    for _ in range(pairs):
        mine, theirs = timed(ours), timed(peer)
        ratios.append(theirs.wall / mine.wall if wall else theirs.cpu / mine.cpu)
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))
