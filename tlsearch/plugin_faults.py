"""Errors that come up in a plugin's code, told as the plugin's and not as the product's."""

from __future__ import annotations

from tlsearch import registry
from tlsearch.contracts import DatasetOptions, Samples
from tlsearch.errors import DataError, TlsearchError
from tlsearch.frames import own_frame

OWN = "tlsearch"
"""The package whose plugins are ours: an error in them is ours, too."""


def origin(group: str, name: str, error: BaseException) -> str:
    """Where in a plugin's code an error came up, as a text to go behind it; empty where nowhere."""
    plugin = registry.installed(group).get(name)
    place = own_frame(error, plugin.target.partition(":")[0]) if plugin else ""
    return f" at {place}" if place else ""


def samples(name: str, options: DatasetOptions) -> Samples:
    """What the data set source of that name lists.

    Raises:
        DataError: nothing usable is there, or the source of another package failed.
    """
    source = registry.dataset(name)
    try:
        return source.load(options)
    except TlsearchError:
        raise
    except Exception as error:
        if registry.version_of(registry.DATASETS, name).distribution == OWN:
            raise
        what = f"{type(error).__name__}: {error}{origin(registry.DATASETS, name, error)}"
        raise DataError(
            f"The {registry.described(registry.DATASETS, name)} failed: {what}.",
            hint="Look at the data and at what the study file says of it; if both are right, the error is in "
            "the plugin: tell its author.",
        ) from error
