"""URLs as they may be printed and stored: without passwords, and not at all where one may hide in them.

A password with an unescaped ``@``, ``/``, ``#`` or ``?`` looks like another part of the URL. So what isn't
well-formed throughout is never shown.
"""

from __future__ import annotations

import re

ESCAPES = "In a password write @ as %40, / as %2F, : as %3A, # as %23, ? as %3F, % as %25."
NOT_SHOWN = "(not shown: it may hold a password)"

_PLAIN = r"(?:[A-Za-z0-9_.~+!*'-]|%[0-9A-Fa-f]{2})"
_WELL_FORMED = re.compile(
    rf"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{{0,30}})://"
    rf"(?:(?P<user>{_PLAIN}*)(?P<password>:[^@/?#\s]*)?@)?"
    rf"(?P<place>(?:\[[0-9A-Fa-f:.]+\]|{_PLAIN}*)(?::(?P<port>\d{{1,5}}))?(?:/(?:{_PLAIN}|/)*)?)"
    r"(?P<query>\?[^@#]*)?"
)
_WORDS = re.compile(r"[\w./~ \\-]*")
"""A path or a name: nothing in it parts a user from a password."""


def public(url: str) -> str:
    """A URL, or what was meant as one, fit to be shown: password and options left out, or `NOT_SHOWN`."""
    if "://" not in url:
        return url if _WORDS.fullmatch(url) else NOT_SHOWN
    found = _WELL_FORMED.fullmatch(url)
    if found is None or int(found["port"] or 0) > 65535:
        return NOT_SHOWN
    login = "" if found["user"] is None else f"{found['user']}{':***' if found['password'] else ''}@"
    return f"{found['scheme']}://{login}{found['place']}{'?...' if found['query'] else ''}"


def may_hold_password(url: str) -> bool:
    """Whether there is a password in a URL, or may be one in what is no well-formed URL."""
    found = _WELL_FORMED.fullmatch(url)
    if found is None or int(found["port"] or 0) > 65535:
        authority = re.sub(r"\[[^\]]*\]", "", re.split(r"[/?#]", url.partition("://")[2])[0])
        return ":" in authority  # an @ behind the first slash may be a file's name
    return (
        bool(found["password"]) or re.search(r"(?i)(pass|secret|token|key)", found["query"] or "") is not None
    )
