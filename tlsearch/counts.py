"""Counts as people read them."""

from __future__ import annotations


def plural(count: int, what: str, many: str = "") -> str:
    """``1 trial``, ``2 trials``; ``many`` is the plural where it isn't made with an s."""
    return f"{count:,} {what if count == 1 else many or f'{what}s'}"
