"""How many trials of a study may run at once where several studies share a cluster.

Ray places what it is given, first come, first served: a study that started earlier would keep every slot
until it ends. So each driver asks for no more than its share of the cluster, by the priorities of the studies
that run on it now, and looks again every few seconds. No driver tells another what to do, and no trial is
stopped for another study: a share that shrinks does so as trials end.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence

from tlsearch.database.store import Lease, Sharer, Store
from tlsearch.errors import WorkError

REFRESH_SECONDS = 5.0


class Share:
    """A study's trials at once: its part of what the cluster has now, and never more than its own cap."""

    def __init__(
        self, store: Store, lease: Lease, *, cluster: str, cap: int | None, slots: Callable[[], int]
    ) -> None:
        """``slots`` tells how many trials fit on the cluster; ``cluster`` is "" where nobody shares."""
        self.store = store
        self.lease = lease
        self.cluster = cluster
        self.cap = cap
        self.slots = slots
        self._looked = -math.inf
        self._total = 1
        self._found = 1

    def __call__(self) -> int:
        """How many now."""
        if time.monotonic() - self._looked > REFRESH_SECONDS:
            with contextlib.suppress(WorkError):  # its last worker went away; another may come
                self._total = self.slots()
            others = self.store.sharers(self.cluster) if self.cluster else []
            self._found = share(self._total, self.lease.study, others)
            if self.cap is not None:
                self._found = min(self._found, self.cap)
            self._looked = time.monotonic()
        return self._found


def share(total: int, study: str, sharers: Sequence[Sharer]) -> int:
    """The part of ``total`` slots that a study gets beside the others, at least 1.

    In proportion to priorities; what a study can't use for its cap goes to the others. Every driver
    computes the same from the same rows, so the parts add up to the total unless there are more studies
    than slots.
    """
    if study not in {sharer.study for sharer in sharers}:
        return max(1, total)
    open_ = {sharer.study: sharer for sharer in sharers}
    left = total
    while True:
        weight = sum(sharer.priority for sharer in open_.values())
        capped = [s for s in open_.values() if s.cap is not None and s.cap * weight <= left * s.priority]
        if not capped:
            break
        for sharer in capped:
            if sharer.study == study:
                return max(1, sharer.cap or 1)
            left -= sharer.cap or 0
            del open_[sharer.study]
    parts = {name: divmod(left * sharer.priority, weight) for name, sharer in open_.items()}
    spare = left - sum(whole for whole, _ in parts.values())
    first = sorted(parts, key=lambda name: (-parts[name][1], name))[:spare]
    return max(1, parts[study][0] + (study in first))
