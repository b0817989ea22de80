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


def escape(text: str) -> str:
    """Text that plotly shows as it is: it reads a little HTML."""
    return html.escape(text, quote=False)
