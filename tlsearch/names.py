"""Names that come from outside: of files, classes and splits, as they are stored, shown and understood."""

from __future__ import annotations

import re
import unicodedata

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks of writing direction, which make a text look like another one."""
_ESCAPED = ("Cc", "Cs", "Zl", "Zp")
STUDY_LETTERS = 80
STUDY_BYTES = 160
"""Of a study's name in UTF-8: files that are called by it have endings and marks besides, of 255 in all."""
STUDY_NAMING = (
    "must begin with a letter or digit, and hold only these, dots, hyphens and underscores, up to"
    f" {STUDY_LETTERS} characters ({STUDY_BYTES} bytes)"
)
"""What `is_study_name` wants, as users are told."""

_SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validate", "validation", "dev", "devel", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout", "heldout"),
}
_SPLIT_OF = {name: split for split, names in _SPLITS.items() for name in names}
_FILLING = re.compile(r"(?<=.)(set|data|dataset|split|images?|imgs?)$")


def printable(text: str) -> str:
    """A text as one that can be printed and stored: valid UTF-8, on one line, no orders to a terminal."""
    try:
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a pair, which no file name gives
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(
        ascii(c)[1:-1] if unicodedata.category(c) in _ESCAPED or c in _TURNING else c for c in text
    )


def class_name(text: str) -> str:
    """A label as the name of a class: printable, without blanks around it, accents in their composed form.

    macOS stores an accent apart from its letter (NFD) and most others together (NFC); they look the same.
    """
    return printable(composed(text).strip())


def composed(text: str) -> str:
    """A text with its accents in their composed form (NFC), whatever keyboard or file system it came from."""
    return unicodedata.normalize("NFC", text)


def is_study_name(text: str) -> bool:
    """Whether a text may be the name of a study, which is also that of files and folders.

    It holds letters of any script, digits, dots, hyphens and underscores, and begins with a letter or digit.
    """
    return (
        text == composed(text)
        and unicodedata.category(text[:1] or " ")[0] in "LN"
        and all(map(_names_studies, text))
        and len(text) <= STUDY_LETTERS
        and len(text.encode()) <= STUDY_BYTES
    )


def study_name(text: str) -> str:
    """A text made the name of a study, a hyphen for whatever none may hold; empty where nothing is left."""
    kept = "".join(c if _names_studies(c) else "\0" for c in composed(text))
    name = (
        re.sub("\0+", "-", kept).strip("-._")[:STUDY_LETTERS].encode()[:STUDY_BYTES].decode(errors="ignore")
    )
    return name if is_study_name(name) else ""


def _names_studies(character: str) -> bool:
    return character in "._-" or unicodedata.category(character)[0] in "LMN"


def split_of(name: str) -> str | None:
    """The split that people mean by a name: ``train``, ``val``, ``test``, or None for any other.

    Case doesn't matter, nor what says that it is a set: ``Training``, ``test_set``, ``dev-images``.
    """
    word = re.sub(r"[\W_]+", "", name.casefold())
    known = _SPLIT_OF.get(word)
    return known if known is not None else _SPLIT_OF.get(_FILLING.sub("", word))


_NUMBER = re.compile(r"[+-]?\d{1,15}([.,]\d{1,15})?")


def alike(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Pairs of names that differ in case, blanks or hyphens alone, or are one number; not single letters."""
    seen: dict[str, str] = {}
    pairs = []
    for name in names:
        written = unicodedata.normalize("NFKC", name).casefold().strip()
        number = _NUMBER.fullmatch(written)
        key = str(float(written.replace(",", "."))) if number else re.sub(r"[\s_-]+", " ", written).strip()
        other = seen.setdefault(key, name)
        if other != name and len(key) > 1:
            pairs.append((other, name))
    return pairs
