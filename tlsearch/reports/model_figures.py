"""Figures of a model at work on the validation split."""

from __future__ import annotations

import numpy as np

from tlsearch.contracts.figure import matrix
from tlsearch.contracts.verdict import NONE, SURE, UNSURE
from tlsearch.counts import plural
from tlsearch.models.intervals import wilson
from tlsearch.reports.examination import Examination
from tlsearch.reports.figures import Figure, Trace, escape
from tlsearch.reports.formatting import shorten

CLASSES = 40
"""Above so many a matrix can't be read; the classes most confused are shown."""
SUREST = 0.9
"""Share of items whose mistakes are told."""


def confusion(found: Examination) -> Figure:
    """Which classes are confused with which."""
    counts, names = found.confusion, list(found.classes)
    part = ""
    if len(names) > CLASSES:
        wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
        chosen = np.sort(np.argsort(-wrong, kind="stable")[:CLASSES])
        counts, names = counts[np.ix_(chosen, chosen)], [names[index] for index in chosen]
        part = f" The {CLASSES} classes with most mistakes are shown, of {len(found.classes)}."
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    off = counts.copy()
    np.fill_diagonal(off, 0)
    row, column = np.unravel_index(int(off.argmax()), off.shape)
    finding = (
        f'Most often "{names[row]}" was taken for "{names[column]}" ({off[row, column]} of '
        f"{counts[row].sum()})."
        if off.max() > 0
        else "No item was taken for one of another class."
    )
    trace, axes, height = matrix(
        shares.round(4).tolist(),
        [shorten(name, 22) for name in names],
        [[str(cell) if cell else "" for cell in row] for row in counts.tolist()],
        across="predicted",
        down="true",
        hovertemplate="%{y} taken for %{x}: %{text}<extra></extra>",
    )
    return Figure(
        "confusion",
        "Confusion matrix",
        f"{finding} Rows are the true classes, columns the predictions; colour is the share of the row."
        + part,
        [trace],
        axes,
        height=height,
    )


def reliability(found: Examination) -> Figure:
    """Whether 90% sure means right in nine of ten."""
    shares = [b.right / b.count for b in found.bins]
    bounds = [wilson(b.right, b.count) for b in found.bins]
    mean_gap = sum(b.count * b.confidence - b.right for b in found.bins) / found.count
    way = "overconfident" if mean_gap > 0 else "underconfident"
    diagonal: Trace = {
        "type": "scatter",
        "mode": "lines",
        "name": "perfectly calibrated",
        "x": [0, 1],
        "y": [0, 1],
        "line": {"color": "--muted", "dash": "dot", "width": 1.5},
        "hoverinfo": "skip",
    }
    return Figure(
        "reliability",
        "Can its confidence be trusted?",
        f"On average the model is {way} by {abs(mean_gap):.1%}; its expected calibration error is "
        f"{found.calibration_error:.1%}. Larger dots hold more items; bars are 95% intervals.",
        [
            diagonal,
            {
                "type": "scatter",
                "mode": "markers",
                "name": "validation items",
                "x": [b.confidence for b in found.bins],
                "y": shares,
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [bound.high - share for bound, share in zip(bounds, shares, strict=True)],
                    "arrayminus": [share - bound.low for bound, share in zip(bounds, shares, strict=True)],
                    "color": "--muted",
                    "thickness": 1.5,
                    "width": 4,
                },
                "marker": {
                    "color": "--s0",
                    "size": [8 + 18 * (b.count / found.count) ** 0.5 for b in found.bins],
                },
                "text": [f"{b.right} of {b.count} right" for b in found.bins],
                "hovertemplate": "%{x:.0%} sure: %{text}<extra></extra>",
            },
        ],
        {
            "xaxis": {"title": {"text": "confidence"}, "range": [0, 1.04], "tickformat": ".0%"},
            "yaxis": {"title": {"text": "share right"}, "range": [0, 1.06], "tickformat": ".0%"},
        },
        height=360,
    )


def risk_coverage(found: Examination) -> Figure:
    """How many of the surest answers are wrong, and what the model says of its doubts."""
    coverage, risk = found.coverage, found.risk
    at = next(index for index, share in enumerate(coverage) if share >= SUREST - 1e-9)
    return Figure(
        "risk-coverage",
        "How many mistakes are left if it may abstain?",
        f"Of all answers {risk[-1]:.1%} are wrong; of the surest {SUREST:.0%} of them, {risk[at]:.1%}. "
        + _verdicts(found),
        [
            {
                "type": "scatter",
                "mode": "lines",
                "name": "validation items",
                "x": list(coverage),
                "y": list(risk),
                "line": {"color": "--s0", "width": 2},
                "hovertemplate": "of the surest %{x:.0%}: %{y:.1%} wrong<extra></extra>",
            }
        ],
        {
            "xaxis": {"title": {"text": "share answered"}, "range": [0, 1.02], "tickformat": ".0%"},
            "yaxis": {"title": {"text": "wrong among these"}, "rangemode": "tozero", "tickformat": ".1%"},
        },
        height=320,
    )


def _verdicts(found: Examination) -> str:
    """What the model that is handed out says of test items, or why it says nothing."""
    if found.silent:
        return f'The model can\'t say "{NONE}": {escape(found.silent)}.'
    known = found.abstention.get("test")
    if not known:
        return ""
    right = known.get("right of sure")
    told = f", of which {right:.1%} are right" if right is not None else ""
    return (
        f"Of {plural(known['items'], 'test item')} the study's model calls {known[SURE]:.1%} {SURE}{told}, "
        f"{known[UNSURE]:.1%} {UNSURE} and {known[NONE]:.1%} {NONE}."
    )
