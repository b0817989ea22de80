"""What the figures of a report share: plotly.js takes them, and each says in words what it shows.

Colours are names of CSS variables (``--s0``, ``--ink``, ...), which the page resolves: it may be light or
dark. Names of classes, strategies and backbones are escaped, since plotly reads a little HTML in texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tlsearch.contracts.figure import Figure, Trace, escape
from tlsearch.counts import plural
from tlsearch.records import TrialRecord, TrialState
from tlsearch.reports.evidence import Evidence
from tlsearch.reports.formatting import SHARES, depth, score

__all__ = [
    "Figure",
    "Trace",
    "colour",
    "done",
    "escape",
    "metric_words",
    "points",
    "shown",
    "value_axis",
]

COLOURS = 8
"""How many the page has for strategies."""
POINTS = 1500
"""Drawn for a strategy at most; of more, every second, third, ..."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up")


def colour(evidence: Evidence, strategy: str) -> str:
    """A strategy's colour, the same in all figures."""
    return f"--s{evidence.strategies.index(strategy) % COLOURS}"


def points(evidence: Evidence, trials: Sequence[TrialRecord], x: Any) -> list[Trace]:
    """One trace for each strategy; unfinished trials hollow, the winner ringed, failed ones absent."""
    traces: list[Trace] = []
    for position, strategy in enumerate(evidence.strategies):
        own = [
            t
            for t in trials
            if t.strategy == strategy
            and t.value is not None
            and t.state in (TrialState.COMPLETE, TrialState.PRUNED)
        ]
        if not own:
            continue
        own = own[:: math.ceil(len(own) / POINTS)]
        symbol = SYMBOLS[position // COLOURS % len(SYMBOLS)]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": escape(strategy),
                "x": [x(t) for t in own],
                "y": [t.value for t in own],
                "marker": {
                    "color": colour(evidence, strategy),
                    "size": 9,
                    "opacity": 0.85,
                    "symbol": [f"{symbol}-open" if _unfinished(t) else symbol for t in own],
                },
                "cliponaxis": False,
                "text": [_hover(evidence, t) for t in own],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    winner = evidence.winner
    if winner is not None and winner.value is not None and winner.number in {t.number for t in trials}:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "winner",
                "x": [x(winner)],
                "y": [winner.value],
                "marker": {
                    "symbol": "star",
                    "size": 15,
                    "color": colour(evidence, winner.strategy),
                    "line": {"color": "--ink", "width": 1.5},
                },
                "cliponaxis": False,
                "hoverinfo": "skip",
            }
        )
    return traces


def _hover(evidence: Evidence, trial: TrialRecord) -> str:
    frozen = f", {depth(trial)} frozen" if trial.freeze_depth is not None else ""
    return (
        f"<b>trial {trial.number}: {shown(evidence, trial.value)}</b><br>"
        f"{escape(trial.strategy)} on {escape(trial.backbone)}{frozen}<br>{trial.state.value.lower()}"
    )


def value_axis(evidence: Evidence, values: Sequence[float] | None = None) -> dict[str, Any]:
    """The metric's axis, cut where only outliers lie: a head at chance level must not squash the rest.

    Args:
        evidence: the study.
        values: what is drawn; those of all trials of the search where it is None.
    """
    title = metric_words(evidence)
    axis: dict[str, Any] = {"title": {"text": title}}
    drawn = [t.value for t in evidence.searched if t.state in _DRAWN and t.value is not None]
    if values is not None or not drawn:
        return axis | _share_axis(evidence, values or drawn)
    axis |= _share_axis(evidence, drawn)
    signed = sorted((-1 if evidence.minimize else 1) * (t.value or 0.0) for t in evidence.complete)
    if len(signed) >= 8:
        best, quarter = signed[-1], signed[len(signed) // 4]
        low = best - 2 * (best - quarter)
        below = sum(value < low for value in signed)
        if best > quarter and below and low - signed[0] > 0.25 * (best - low):
            ends = [low, best + 0.08 * (best - low)]
            axis["range"] = sorted(-end for end in ends) if evidence.minimize else ends
            axis["title"] = {"text": f"{title} ({plural(below, 'trial')} outside the plot)"}
    return axis


_DRAWN = (TrialState.COMPLETE, TrialState.PRUNED)


def _share_axis(evidence: Evidence, values: Sequence[float]) -> dict[str, Any]:
    """Percent from the least to the greatest value, within what a share can be."""
    if evidence.study.metric not in SHARES or not values:
        return {}
    low, high = min(values), max(values)
    room = max(0.02, 0.08 * (high - low))
    ends = [max(-0.2 * room, low - room), min(1 + 0.2 * room, high + room)]
    span = ends[1] - ends[0]
    return {"range": ends, "tickformat": ".0%" if span > 0.05 else ".1%" if span > 0.005 else ".2%"}


def _unfinished(trial: TrialRecord) -> bool:
    """Whether a trial trained for less than its length: its value says little of its hyperparameters."""
    return trial.state is TrialState.PRUNED or trial.cut_short


def done(trial: TrialRecord) -> bool:
    """Whether a trial has a value to be compared by."""
    return trial.state is TrialState.COMPLETE and trial.value is not None


def shown(evidence: Evidence, value: float | None) -> str:
    """A value of the study's metric for people."""
    return score(evidence.study.metric, value)


def metric_words(evidence: Evidence) -> str:
    """The metric as an axis is called."""
    return evidence.study.metric.replace("_", " ")
