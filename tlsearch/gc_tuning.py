"""Imported by processes that are all ours: garbage is collected rarely.

torch, timm and Ray make a million objects that live to the end. At Python's own thresholds the collector
walks through all of them again and again while they are imported (1.4 of 5.3 s), and once more at the end of
the process (1.9 s), unless `spare` exempts them.
"""

from __future__ import annotations

import gc

THRESHOLDS = (100_000, 20, 50)
"""Python's own are 700, 10, 10 until 3.11, and 2,000, 10, 0 from 3.13 on."""

gc.set_threshold(*THRESHOLDS)


def spare() -> None:
    """Exempt all that is there now; called at the end of a process, it ends at once."""
    gc.freeze()
