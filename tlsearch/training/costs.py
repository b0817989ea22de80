"""What a trial used, from what was counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from torch import nn

from tlsearch.records import Costs
from tlsearch.training.batch_source import Counts
from tlsearch.training.resume import FitState
from tlsearch.training.split_point import SplitPoint


def with_costs(snapshot: Callable[[], FitState | None], costs: Callable[[int], Costs]) -> FitState | None:
    """A snapshot that knows what the trial cost so far, for the trial that goes on from there."""
    state = snapshot()
    return state and replace(state, facts={**state.facts, "costs": asdict(costs(0))})


def count_costs(
    spans: Sequence[tuple[SplitPoint, Counts]], model: nn.Module, began: float, before: Costs, trainable: int
) -> Costs:
    """What was done at each split point since ``began`` and before; who unfreezes has several."""
    return Costs(
        seconds=before.seconds + time.perf_counter() - began,
        prefix_images=before.prefix_images + sum(count.prefix for _, count in spans),
        suffix_images=before.suffix_images + sum(count.trained + count.evaluated for _, count in spans),
        flops=before.flops
        + sum(
            count.frozen_flops + (3 * count.trained + count.evaluated) * split_point.suffix_flops
            for split_point, count in spans
        ),
        trainable_parameters=trainable,
        total_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
