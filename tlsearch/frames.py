"""Where in a plugin's own code an error came up."""

from __future__ import annotations

import traceback
from pathlib import Path


def own_frame(error: BaseException, module: str) -> str:
    """The last frame of an error in a plugin's own package: ``my_plugin.py line 12 in loss``.

    Args:
        error: as it was caught.
        module: that the plugin's class is in.

    Returns:
        Where it was; empty where no frame lies in the package.
    """
    parts = module.split(".")
    own = parts[:2] if parts[0] == "tlsearch" else parts[:1]  # of tlsearch, only where its own plugins are
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).split(".")[: len(own)] == own:
            place = f"{Path(frame.f_code.co_filename).name} line {line} in {frame.f_code.co_name}"
    return place
