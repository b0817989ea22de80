"""Pages with a part that a program writes, between two marks."""

from __future__ import annotations

from pathlib import Path


def put(page: Path, text: str, *, begin: str, end: str) -> None:
    """Write a page's part anew.

    Raises:
        ValueError: the page hasn't both marks, once each.
    """
    before, after = page.read_text(encoding="utf-8").split(begin)
    _, after = after.split(end)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
