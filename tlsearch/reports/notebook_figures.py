"""The report's figures as plotly figures, for notebooks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlsearch.database.store import Store
from tlsearch.reports import html
from tlsearch.reports.evidence import gather
from tlsearch.reports.importance import importances

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

STOPS = (0, 0.35, 0.7, 1)
"""Of a heat map's colours, as on the page."""


def of_search(url: str, study: str) -> dict[str, Figure]:
    """Figures of a study's search by name, in the report's light colours."""
    from plotly.graph_objects import Figure

    with Store.open(url) as store:
        evidence = gather(store, study)
    found, _ = importances(evidence)
    colours = _colours()
    figures = {}
    for figure in html.of_search(evidence, found):
        if figure is not None:
            layout = {
                **_resolved(figure.layout, colours),
                "template": "plotly_white",
                "title": {"text": figure.title, "subtitle": {"text": figure.finding}},
                "height": figure.height + 120,
            }
            figures[figure.name] = Figure(data=_resolved(figure.traces, colours), layout=layout)
    return figures


def _colours() -> Mapping[str, str]:
    """The page's colours in light, by the names of their CSS variables."""
    css = (Path(__file__).parent / "page" / "report.css").read_text(encoding="utf-8")
    light = css.partition("@media")[0]
    return dict(re.findall(r"(--[a-z0-9]+): (#[0-9a-f]+)", light))


def _resolved(value: Any, colours: Mapping[str, str]) -> Any:
    """A figure's data with colours in the place of variables, as the page's script does it."""
    if isinstance(value, Mapping):
        return {key: _resolved(inner, colours) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(inner, colours) for inner in value]
    if value == "heat":
        return [[stop, colours[f"--heat{number}"]] for number, stop in enumerate(STOPS)]
    return colours.get(value, value) if isinstance(value, str) else value
