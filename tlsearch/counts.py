"""Counts, and kinds of values, as people read them."""

from __future__ import annotations

_SPOKEN_WITH_A_VOWEL = ("a", "e", "i", "o", "un", "nd")
"""How names of types begin before which stands ``an``: an int, an ndarray, but a uint8."""


def plural(count: int, what: str, many: str = "") -> str:
    """``1 trial``, ``2 trials``; ``many`` is the plural where it isn't made with an s."""
    return f"{count:,} {what if count == 1 else many or f'{what}s'}"


def kind_of(value: object) -> str:
    """The type of a value with its article: ``an int``, ``a list``."""
    name = type(value).__name__
    return f"{'an' if name.lower().startswith(_SPOKEN_WITH_A_VOWEL) else 'a'} {name}"
