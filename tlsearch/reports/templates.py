"""Pages are made of templates, whose every value is text unless it is said to be more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsearch.counts import plural

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> Environment:
    """What reads the templates of ``page/``; a value that is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("tlsearch.reports", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["plural"] = plural
    return made
