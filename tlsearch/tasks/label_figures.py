"""Figures of a model of label sets at work: each label's figures, and which labels stand together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

from tlsearch.contracts import Figure, TargetSpec
from tlsearch.contracts.figure import Trace, escape, matrix
from tlsearch.counts import plural
from tlsearch.tasks.label_scores import average_precisions

LABELS = 40
"""Drawn at most: of more, those of most items."""

Flags = NDArray[np.bool_]


def figures(
    shares: NDArray[np.float64], true: Flags, spec: TargetSpec, thresholds: Sequence[float]
) -> list[Figure]:
    """Two figures of probabilities and targets (N, K)."""
    frequent = np.sort(np.argsort(-true.sum(axis=0), kind="stable")[:LABELS])
    names = [spec.names[at] for at in frequent]
    part = f" The {LABELS} labels of most items are shown, of {len(spec.names)}."
    more = part if len(spec.names) > LABELS else ""
    said = shares >= np.asarray(thresholds)
    found = [_each(names, shares[:, frequent], true[:, frequent], said[:, frequent], more)]
    if len(names) > 1:
        found.append(_together(names, true[:, frequent], said[:, frequent], more))
    return found


def _each(names: list[str], shares: NDArray[np.float64], true: Flags, said: Flags, more: str) -> Figure:
    precisions = average_precisions(shares, true.astype(np.float64))
    counts, share = true.sum(axis=0), true.mean(axis=0)
    rows = [
        precision_recall_fscore_support(true[:, at], said[:, at], average="binary", zero_division=0.0)[:2]
        for at in range(len(names))
    ]
    lacking = [name for at, name in enumerate(names) if at not in precisions]
    finding = "No label occurs among these items."
    if precisions:
        worst = min(precisions, key=lambda at: precisions[at])
        finding = (
            f"The mean average precision is {np.mean(list(precisions.values())):.3f}; lowest for "
            f'"{names[worst]}" ({precisions[worst]:.3f}, {plural(counts[worst], "item")}; by chance it would '
            f"be {share[worst]:.3f})."
        )
    if lacking:
        finding += f' Not measured, since no item has it: "{lacking[0]}"' + (
            f" and {len(lacking) - 1} more." if len(lacking) > 1 else "."
        )
    labels = [escape(name) for name in names]
    columns = {
        "average precision": [precisions.get(at) for at in range(len(names))],
        "precision": [float(row[0]) for row in rows],
        "recall": [float(row[1]) for row in rows],
        "share of items": share.tolist(),
    }
    colours = ("--s0", "--s1", "--s2", "--muted")
    traces: list[Trace] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": labels,
            "x": values,
            "marker": {"color": colour},
            "hovertemplate": f"%{{y}}: {name} %{{x:.3f}}<extra></extra>",
        }
        for (name, values), colour in zip(columns.items(), colours, strict=True)
    ]
    axes = {
        "barmode": "group",
        "xaxis": {"range": [0, 1]},
        "yaxis": {"type": "category", "autorange": "reversed"},
    }
    return Figure(
        "labels",
        "Each label",
        f"{finding} Precision and recall are at the label's threshold.{more}",
        traces,
        axes,
        height=max(300, 110 + 64 * len(names)),
    )


def _together(names: list[str], true: Flags, said: Flags, more: str) -> Figure:
    actual, predicted = _shares(true), _shares(said)
    gap = np.abs(actual - predicted)
    row, column = np.unravel_index(int(np.nanargmax(np.where(np.isnan(gap), -1, gap))), gap.shape)
    finding = "Labels are predicted together as often as they occur together."
    if gap[row, column] > 0:
        finding = (
            f'Of the items with "{names[row]}", {100 * actual[row, column]:.0f}% have "{names[column]}" '
            f"too; of those predicted to have it, {100 * predicted[row, column]:.0f}%. No other pair is "
            "further off."
        )
    trace, axes, height = matrix(
        [[None if np.isnan(cell) else round(float(cell), 4) for cell in line] for line in actual],
        names,
        [[_percent(cell) for cell in line] for line in actual],
        across="have this label too",
        down="of items with",
        customdata=[[_percent(cell) for cell in line] for line in predicted],
        hovertemplate="of items with %{y}, %{text} have %{x}; as predicted %{customdata}<extra></extra>",
    )
    return Figure("together", "Labels that occur together", finding + more, [trace], axes, height=height)


def _shares(flags: Flags) -> NDArray[np.float64]:
    """Of the items with the label of a row, the share with that of a column; NaN where there are none."""
    numbers = flags.astype(np.float64)
    together = numbers.T @ numbers
    counts = together.diagonal()[:, None]
    return np.where(counts > 0, together / np.maximum(1, counts), np.nan)


def _percent(cell: float) -> str:
    return "" if np.isnan(cell) else f"{100 * cell:.0f}%"
