"""A figure of a report as plain data, which plotly.js draws.

Colours are names of CSS variables (``--s0``, ``--ink``, ``--muted``, ...), which the page resolves: it may be
light or dark.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Trace = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: traces and layout for plotly, title and finding for people."""

    name: str
    title: str
    finding: str
    traces: Sequence[Trace]
    layout: Mapping[str, Any] = field(default_factory=dict)
    height: int = 340

    def to_json(self) -> dict[str, Any]:
        """What the page's script draws."""
        return {"name": self.name, "traces": self.traces, "layout": self.layout, "height": self.height}


NUMBERED = 15
"""Rows up to which the cells of a `matrix` have numbers in them."""


def matrix(
    shares: Sequence[Sequence[float | None]],
    labels: Sequence[str],
    text: Sequence[Sequence[str]],
    *,
    across: str,
    down: str,
    **more: Any,
) -> tuple[Trace, Mapping[str, Any], int]:
    """A heat map of shares from 0 to 1 with the same names across and down: trace, layout and height.

    Args:
        shares: by row and column; None for an empty cell.
        labels: of rows and columns.
        text: in the cells, where there is room for it.
        across: what columns are.
        down: what rows are.
        more: of the trace, such as its ``hovertemplate``.
    """
    numbered = len(labels) <= NUMBERED
    names, gap = [escape(label) for label in labels], 2 if numbered else 0
    trace = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": shares,
        "text": text,
        "texttemplate": "%{text}" if numbered else "",
        "colorscale": "heat",
        "zmin": 0,
        "zmax": 1,
        "showscale": False,
        "xgap": gap,
        "ygap": gap,
        **more,
    }
    axes = {
        "xaxis": {"type": "category", "side": "bottom", "title": {"text": across}},
        "yaxis": {"type": "category", "autorange": "reversed", "title": {"text": down}},
    }
    return trace, axes, max(300, min(760, 110 + len(labels) * (44 if numbered else 16)))


def escape(text: str) -> str:
    """Text that plotly shows as it is: it reads a little HTML."""
    return html.escape(text, quote=False)
