"""Figures that compare strategies and backbones, each by the best of its trials."""

from __future__ import annotations

from collections.abc import Sequence

from tlsearch.counts import plural
from tlsearch.models.intervals import wilson
from tlsearch.records import TrialRecord
from tlsearch.reports.evidence import Evidence
from tlsearch.reports.figures import Figure, Trace, colour, escape, shown, value_axis
from tlsearch.reports.formatting import SHARES, shorten


def branches(evidence: Evidence) -> Figure | None:
    """All values of each strategy, or of each backbone where there is one strategy, with the best of each.

    Where there are several of both, `heat_map` compares them.
    """
    backbones = _backbones(evidence)
    if not evidence.complete or (len(backbones) > 1) == (len(evidence.strategies) > 1):
        return None
    by_strategy = len(backbones) == 1
    kinds = evidence.strategies if by_strategy else backbones

    def of(trial: TrialRecord) -> str:
        return trial.strategy if by_strategy else trial.backbone

    leaders = [evidence.best_of([t for t in evidence.complete if of(t) == kind]) for kind in kinds]
    best = [trial for trial in leaders if trial is not None]
    best.sort(key=lambda trial: (1 if evidence.minimize else -1) * (trial.value or 0.0))
    traces: list[Trace] = []
    for leader in best:
        own = [t for t in evidence.complete if of(t) == of(leader)]
        label, shade = escape(shorten(of(leader))), colour(evidence, leader.strategy)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [t.value for t in own],
                "y": [label] * len(own),
                "marker": {
                    "color": shade,
                    "size": [14 if t is leader else 8 for t in own],
                    "opacity": [1 if t is leader else 0.4 for t in own],
                },
                "cliponaxis": False,
                "text": [f"trial {t.number}: {shown(evidence, t.value)}" for t in own],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    kind = "strategy" if by_strategy else "backbone"
    finding = lead(evidence, [(of(trial), trial) for trial in best])
    return Figure(
        "branches",
        f"The best of each {kind}",
        f"{finding} Each dot is a trial; the large one is the best.",
        traces,
        {
            "xaxis": value_axis(evidence),
            "yaxis": {"autorange": "reversed", "type": "category", "showgrid": False},
            "showlegend": False,
        },
        height=max(240, 100 + 36 * len(best)),
    )


def heat_map(evidence: Evidence) -> Figure | None:
    """The best value of each strategy on each backbone, where there are several of both."""
    backbones = _backbones(evidence)
    if not evidence.complete or len(backbones) == 1 or len(evidence.strategies) == 1:
        return None
    cells: list[list[TrialRecord | None]] = []
    for strategy in evidence.strategies:
        row = []
        for backbone in backbones:
            here = [t for t in evidence.complete if (t.strategy, t.backbone) == (strategy, backbone)]
            row.append(evidence.best_of(here))
        cells.append(row)
    tried = [
        [
            sum((t.strategy, t.backbone) == (strategy, backbone) for t in evidence.searched)
            for backbone in backbones
        ]
        for strategy in evidence.strategies
    ]
    best = [cell for row in cells for cell in row if cell is not None]
    best.sort(key=lambda trial: (1 if evidence.minimize else -1) * (trial.value or 0.0))
    finding = lead(evidence, [(f"{trial.strategy} on {trial.backbone}", trial) for trial in best])
    return Figure(
        "heat",
        "Strategy by backbone",
        f"{finding} Each cell shows the best of its trials; in empty cells none has finished.",
        [
            {
                "type": "heatmap",
                "x": [escape(shorten(name.partition("/")[2] or name)) for name in backbones],
                "y": [escape(name) for name in evidence.strategies],
                "z": [[cell.value if cell else None for cell in row] for row in cells],
                "text": [
                    [
                        f"{shown(evidence, cell.value)}<br>{plural(count, 'trial')}" if cell else ""
                        for cell, count in zip(row, counts, strict=True)
                    ]
                    for row, counts in zip(cells, tried, strict=True)
                ],
                "texttemplate": "%{text}",
                "hoverinfo": "skip",
                "colorscale": "heat",
                "reversescale": evidence.minimize,
                "showscale": False,
                "xgap": 3,
                "ygap": 3,
            }
        ],
        {"xaxis": {"type": "category"}, "yaxis": {"type": "category", "autorange": "reversed"}},
        height=90 + 58 * len(evidence.strategies),
    )


def lead(evidence: Evidence, best: Sequence[tuple[str, TrialRecord]]) -> str:
    """Who leads, from names and the best trial of each, the best first; nobody where they tie."""
    values = [shown(evidence, trial.value) for _, trial in best]
    first = [name for (name, _), value in zip(best, values, strict=True) if value == values[0]]
    if len(first) == len(best) > 1:
        return f"All tie at {values[0]}: these validation items can't tell them apart."
    if len(first) > 1:
        return f"{', '.join(first[:-1])} and {first[-1]} tie at {values[0]}."
    if len(best) == 1:
        return f"Only {first[0]} has finished trials; its best is {values[0]}."
    told = f"{first[0]} leads with {values[0]}, ahead of {best[1][0]} ({values[1]})."
    if _within_noise(evidence, best[0][1], best[1][1]):
        told += " The difference may be chance."
    if cut := [name for name, trial in best if trial.cut_short]:
        told += f" The time budget cut {' and '.join(cut)} short: with more minutes it may be otherwise."
    return told


def _within_noise(evidence: Evidence, one: TrialRecord, other: TrialRecord) -> bool:
    """Whether a value lies in the 95% interval of another, as shares of the validation items."""
    items = evidence.dataset.counts.get("val", 0)
    if evidence.study.metric not in SHARES or not items or one.value is None or other.value is None:
        return False
    interval = wilson(one.value * items, items)
    return interval.low <= other.value <= interval.high


def _backbones(evidence: Evidence) -> list[str]:
    return list(dict.fromkeys(trial.backbone for trial in evidence.searched))
