"""Puts the tiny plugins on the path, where their entry points are found like anyone's."""

from __future__ import annotations

import sys
from pathlib import Path

TINY = str(Path(__file__).parents[1] / "tiny")
if TINY not in sys.path:
    sys.path.append(TINY)
