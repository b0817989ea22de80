"""Tables for notebooks: plain HTML that any of them shows."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def facts(title: str, rows: Sequence[tuple[str, object]]) -> str:
    """Names with values below a title; rows whose value is None or empty are left out."""
    told = [(name, value) for name, value in rows if value is not None and value != ""]
    body = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(_shown(value))}</td></tr>" for name, value in told
    )
    return f"<table><caption>{escape(title)}</caption><tbody>{body}</tbody></table>"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows below column headings and a title."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_shown(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
