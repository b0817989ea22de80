"""``tlsearch.toml``: what people would otherwise export in every shell.

The nearest one, from the working directory upwards, stands in for environment variables that aren't set:
``db`` for TLSEARCH_DB, ``artifacts``, ``cache``, ``address`` and so on. Relative paths count from its folder.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from tlsearch.errors import InputError, did_you_mean

NAME = "tlsearch.toml"
VARIABLES = {
    "db": "TLSEARCH_DB",
    "artifacts": "TLSEARCH_ARTIFACTS",
    "cache": "TLSEARCH_CACHE",
    "address": "TLSEARCH_ADDRESS",
    "plugins_allowed": "TLSEARCH_PLUGINS_ALLOWED",
    "plugin_seconds": "TLSEARCH_PLUGIN_SECONDS",
}
"""Keys, and the environment variables that they are a default of."""
SQLITE = "sqlite:///"


def apply() -> None:
    """Set the variables that the nearest ``tlsearch.toml`` has values for and that aren't set.

    Raises:
        InputError: it can't be read, or holds a key that nobody knows.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        path = folder / NAME
        if path.is_file():
            for key, value in _read(path).items():
                os.environ.setdefault(VARIABLES[key], _anchored(key, value, folder))
            return


def _read(path: Path) -> dict[str, str]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"Can't read {path}: {error}.") from None
    for key, value in found.items():
        if key not in VARIABLES:
            guess = did_you_mean(key, VARIABLES) or f"Known here: {', '.join(VARIABLES)}."
            raise InputError(f"{path}: {key}: unknown key. {guess}")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InputError(f"{path}: {key}: must be a string, not {type(value).__name__}.")
    return {key: str(value) for key, value in found.items()}


def _anchored(key: str, value: str, folder: Path) -> str:
    if key == "db" and value.startswith(SQLITE):
        return f"{SQLITE}{folder / Path(value.removeprefix(SQLITE)).expanduser()}"
    if key in ("artifacts", "cache") and "://" not in value:
        return str(folder / Path(value).expanduser())
    return value
