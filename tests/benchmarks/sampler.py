"""CPU milliseconds to propose a trial, with a long history behind it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from tests.benchmarks.bench import BACKBONE
from tests.benchmarks.measure import Result
from tlsearch import registry
from tlsearch.records import TrialState
from tlsearch.search.sampler import Sampler
from tlsearch.search.space import build


def run(quick: bool) -> Iterator[Result]:
    """Asks at several lengths of history; random values stand for results, since only time is measured."""
    info = registry.backbone(BACKBONE, weights="random", image_size=64).info
    space = build({"fine_tune": registry.strategy("fine_tune")}, [info], {})
    sampler = Sampler(space, kind="tpe", minimize=False, seed=0)
    values = random.Random(0)
    number = 0
    for length in (100, 1_000) if quick else (100, 1_000, 10_000):
        while number < length:
            number = _trial(sampler, number, values)
        began = time.process_time()
        for _ in range(100):
            number = _trial(sampler, number, values)
        milliseconds = (time.process_time() - began) * 10
        yield Result(
            "proposing",
            f"after {length:,} trials",
            f"{milliseconds:.1f} ms a trial, ask and tell",
            "5 ms, flat from 100 to 10,000",
            milliseconds <= 5,
            {"milliseconds": milliseconds},
        )


def _trial(sampler: Sampler, number: int, values: random.Random) -> int:
    sampler.ask(number, most=1, heads=1)
    sampler.tell(number, TrialState.COMPLETE, values.random())
    return number + 1
