"""The workers that a study can have: what Ray's nodes offer, and what other studies leave of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tlsearch.database.store import Lease, Store
from tlsearch.errors import InputError
from tlsearch.search import ray_cluster
from tlsearch.search.fair_share import Share
from tlsearch.search.progress import Observer, Snapshot
from tlsearch.search.setup import Prepared
from tlsearch.search.trial_queue import is_heads
from tlsearch.spec import ResourcesSpec


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers that a study can have.

    Attributes:
        slots: trials at once, when it began.
        gpus: of each trial that trains by gradients.
        on_cpus: whether a strategy's trials take no GPU; None where all take the same.
        share: trials at once, now.
    """

    slots: int
    gpus: float
    on_cpus: Callable[[str], bool] | None
    share: Share


def refuse_more_than_here(resources: ResourcesSpec, *, address: str | None) -> None:
    """Refuse trials that this machine has no room for, where there is no cluster at an ``address``.

    Raises:
        InputError: one asks for more processors than there are.
    """
    here = os.cpu_count() or 1
    if address is None and resources.cpus_per_trial > here:
        raise InputError(
            f"resources.cpus_per_trial is {resources.cpus_per_trial}: this machine has {here} of them.",
            hint="Lower it, or name a cluster with --address.",
        )


def allocate(
    prepared: Prepared, *, store: Store, lease: Lease, address: str | None, observe: Observer
) -> Workers:
    """Start Ray, or join the cluster at ``address``, and see what it has for this study.

    Raises:
        WorkError: Ray doesn't come up, or has no room for a trial.
    """
    resources = prepared.spec.resources
    if not ray_cluster.started():
        observe(Snapshot(phase="start workers"))
    ray_cluster.start(address=address)
    gpus = resources.gpus_per_trial
    if gpus is None:
        gpus = 1.0 if ray_cluster.has_gpus() else 0.0
    heads = is_heads(prepared.strategies)
    # Nodes without a GPU, beside others that have one, can fit heads.
    free = partial(ray_cluster.slots_without_gpu, cpus_per_trial=resources.cpus_per_trial)
    mixed = gpus > 0 and any(map(heads, prepared.strategies)) and free() > 0

    def count() -> int:
        fit = ray_cluster.slots(cpus_per_trial=resources.cpus_per_trial, gpus_per_trial=gpus)
        return fit + free() if mixed else fit

    slots = count()
    cluster = ray_cluster.session() if address is not None else ""
    store.update_study(lease, cluster=cluster)
    return Workers(
        slots=min(slots, resources.concurrent or slots),
        gpus=gpus,
        on_cpus=heads if mixed else None,
        share=Share(store, lease, cluster=cluster, cap=resources.concurrent, slots=count),
    )
