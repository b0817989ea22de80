"""Figures of what a better value costs: size and latency, with the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tlsearch.records import TrialRecord
from tlsearch.reports.evidence import Evidence
from tlsearch.reports.figures import (
    Figure,
    Trace,
    points,
    shown,
    value_axis,
)
from tlsearch.reports.formatting import number

SAME = 1.1
"""Costs that differ by less than this factor aren't compared."""


def against_size(evidence: Evidence) -> Figure | None:
    """Value against the model's parameters, with the trials that no smaller one beats."""
    trials = [t for t in evidence.complete if t.costs.total_parameters]
    return _pareto(
        evidence,
        trials,
        {t.number: float(t.costs.total_parameters) for t in trials},
        name="size",
        title="Score against size",
        axis="parameters",
        unit="parameters",
    )


def against_latency(evidence: Evidence, backbones: Mapping[str, float]) -> Figure | None:
    """Value against milliseconds for one item through the backbone."""
    trials = [t for t in evidence.complete if t.backbone in backbones]
    return _pareto(
        evidence,
        trials,
        {t.number: backbones[t.backbone] for t in trials},
        name="latency",
        title="Score against latency",
        axis="ms per item, on one core here",
        unit="ms",
    )


def _pareto(
    evidence: Evidence,
    trials: Sequence[TrialRecord],
    cost: Mapping[int, float],
    *,
    name: str,
    title: str,
    axis: str,
    unit: str,
) -> Figure | None:
    if not trials or max(cost.values()) < SAME * min(cost.values()):
        return None  # all cost about the same: there is nothing to choose from
    sign = 1 if evidence.minimize else -1
    front: list[TrialRecord] = []
    for trial in sorted(trials, key=lambda t: (cost[t.number], sign * (t.value or 0.0), t.number)):
        if not front or evidence.better(trial.value or 0.0, front[-1].value or 0.0):
            front.append(trial)
    first, last = front[0], front[-1]
    told = f"{shown(evidence, last.value)} takes {_cost(cost[last.number], unit)}"
    if cost[first.number] > 0.9 * cost[last.number]:
        told += "; no cheaper model is nearly as good"
    else:
        told += f"; {shown(evidence, first.value)} costs only {_cost(cost[first.number], unit)}"
    lowest, highest = min(cost.values()), max(cost.values())
    line: Trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "best at its cost",
        "x": [cost[t.number] for t in front],
        "y": [t.value for t in front],
        "line": {"shape": "hv", "color": "--ink", "width": 1.5},
        "marker": {"symbol": "circle-open", "size": 14, "color": "--ink"},
        "cliponaxis": False,
        "hoverinfo": "skip",
    }
    wide = highest / lowest > 20
    xaxis: dict[str, Any] = {"title": {"text": axis}}
    if wide:
        xaxis["type"] = "log"
    elif highest / lowest < 1.5:
        xaxis["range"] = [0, highest * 1.15]
    return Figure(
        name,
        title,
        f"{told}.",
        [*points(evidence, trials, lambda t: cost[t.number]), line],
        {"xaxis": xaxis, "yaxis": value_axis(evidence)},
    )


def _cost(value: float, unit: str) -> str:
    return f"{value:.1f} ms" if unit == "ms" else f"{number(value)} {unit}"
