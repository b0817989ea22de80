"""Figures of a model of numbers at work: predicted against true, and what is left over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlsearch.contracts import Figure, TargetSpec
from tlsearch.contracts.figure import Trace, escape

POINTS = 2000
"""Items drawn at most; of more, every second, third, ..."""

Array = NDArray[np.float64]


def figures(said: Array, true: Array, spec: TargetSpec, calibration: Mapping[str, Any]) -> list[Figure]:
    """Two figures for each column, of numbers (N, K) in the user's unit."""
    found = []
    margins = [None] * len(spec.names)
    if "margin" in calibration:
        margins = (np.asarray(calibration["margin"]) * np.asarray(spec.facts["scale"])).tolist()
    for at, name in enumerate(spec.names):
        suffix = f"-{at}" if at else ""
        found.append(
            _predicted(f"predicted{suffix}", name, said[:, at], true[:, at], margins[at], calibration)
        )
        found.append(_residuals(f"residuals{suffix}", name, said[:, at], true[:, at]))
    return found


def _predicted(
    called: str, name: str, said: Array, true: Array, margin: float | None, calibration: Mapping[str, Any]
) -> Figure:
    error, spread = float(np.abs(said - true).mean()), float(np.abs(true - np.median(true)).mean())
    finding = f"Predictions are off by {error:.4g} on average; always saying the median, by {spread:.4g}."
    low, high = float(min(said.min(), true.min())), float(max(said.max(), true.max()))
    traces: list[Trace] = [_line("perfect prediction", [low, high], [low, high], dash="solid")]
    if margin is not None:
        inside = float((np.abs(said - true) <= margin * (1 + 1e-6)).mean())
        share = 100 * calibration["coverage"]
        finding += (
            f" Intervals of ±{margin:.4g} are made to contain {share:.0f}% of new items' numbers; here they"
            f" contain {100 * inside:.0f}%."
        )
        # Both ends are one line with a gap: one name in the legend, one button.
        ends = [low - margin, high - margin, None, low + margin, high + margin]
        traces.append(_line(f"{share:.0f}% interval", [low, high, None, low, high], ends))
    traces.append(_points(true, said, f"{escape(name)} %{{x:.4g}}, predicted %{{y:.4g}}"))
    axes = {
        "xaxis": {"title": {"text": f"{escape(name)}, true"}},
        "yaxis": {"title": {"text": "predicted"}},
    }
    return Figure(called, f"Predicted against true: {name}", finding, traces, axes, height=420)


def _residuals(called: str, name: str, said: Array, true: Array) -> Figure:
    left = said - true
    mean, deviation = float(left.mean()), float(left.std())
    sure = 2 * deviation / max(1, len(left)) ** 0.5
    way = "too high" if mean > 0 else "too low"
    finding = (
        f"On average predictions are {abs(mean):.3g} {way}"
        + (", which may be chance" if abs(mean) <= sure else ", more than chance explains")
        + ". A slope or a funnel shape shows where the model is worse."
    )
    ends = [float(said.min()), float(said.max())]
    traces = [
        _line("no error", ends, [0.0, 0.0]),
        _points(said, left, "predicted %{x:.4g}, off by %{y:.4g}"),
    ]
    axes = {
        "xaxis": {"title": {"text": f"{escape(name)}, predicted"}},
        "yaxis": {"title": {"text": "predicted less true"}},
    }
    return Figure(called, f"Residuals: {name}", finding, traces, axes, height=420)


def _line(name: str, x: Sequence[float | None], y: Sequence[float | None], *, dash: str = "dot") -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": list(x),
        "y": list(y),
        "line": {"color": "--muted", "dash": dash, "width": 1.5},
        "hoverinfo": "skip",
    }


def _points(x: Array, y: Array, told: str) -> Trace:
    step = -(-len(x) // POINTS)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "validation items",
        "x": x[::step].tolist(),
        "y": y[::step].tolist(),
        "marker": {"color": "--s0", "size": 7, "opacity": 0.6},
        "hovertemplate": f"{told}<extra></extra>",
    }
