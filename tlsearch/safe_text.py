"""Texts from outside (labels, file names, reasons) as terminals, spreadsheets and Markdown may have them."""

from __future__ import annotations

import re

from tlsearch.names import printable

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|!~$&])")


def for_terminal(text: str) -> str:
    """Lines without what a terminal would take for orders; that is shown as escapes, such as ``\\x1b``."""
    return "\n".join(printable(line) for line in text.split("\n"))


def for_csv(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: such texts get an apostrophe in front.

    See https://owasp.org/www-community/attacks/CSV_Injection. Control characters are shown as escapes, the
    ends of lines too: many readers of CSV take one for the end of a row.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if value.startswith(_FORMULA) else text


def for_markdown(text: str) -> str:
    """A text on one line whose characters all stand for themselves."""
    return _MARKUP.sub(r"\\\1", printable(text))


def for_code(text: str) -> str:
    """The same as a span of code in Markdown, in which nothing can be escaped."""
    return f"`{printable(text).replace('`', chr(39))}`"
