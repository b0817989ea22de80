"""How long one item takes through a network, here."""

from __future__ import annotations

import time
from typing import Any

import torch

from tlsearch import registry
from tlsearch.errors import TlsearchError
from tlsearch.records import Pixels

RUNS, SECONDS = 30, 3.0
"""A latency is the fastest of so many runs, or of as many as this time allows: others may be at work here."""


def backbone_latency(name: str, *, image_size: int | None, pixels: Pixels) -> float | None:
    """Milliseconds for one item through a backbone, here; None where it can't be built.

    Weights don't matter to it: they are random, so that nothing is fetched.
    """
    try:
        pretrained = registry.backbone(name, weights="random", image_size=image_size, pixels=pixels)
    except (TlsearchError, ImportError, RuntimeError, ValueError):
        return None
    return milliseconds(pretrained.trunk, pretrained.info.inputs)


def milliseconds(network: Any, inputs: Any) -> float:
    """Milliseconds for one item through a network, on one core of this machine."""
    batch = inputs.to_model(inputs.example(1))
    network.eval()
    took: list[float] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other wherever other programs are at work
    try:
        with torch.inference_mode():
            for _ in range(2):  # the first runs choose kernels and fill caches
                network(batch)
            until = time.perf_counter() + SECONDS
            while len(took) < RUNS and (len(took) < 3 or time.perf_counter() < until):
                began = time.perf_counter()
                network(batch)
                took.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return 1000 * min(took)
