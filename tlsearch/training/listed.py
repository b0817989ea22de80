"""Items of a data section that are identified, and not yet decoded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from tlsearch.contracts.dataset import Samples, encoded
from tlsearch.contracts.target import Strata, TargetSpec
from tlsearch.contracts.task import Task
from tlsearch.spec import DataSpec
from tlsearch.training import splits
from tlsearch.training.encoding import hash_of, in_threads
from tlsearch.training.splits import IntArray


@dataclass(frozen=True, slots=True)
class Listed:
    """A data section's items.

    Attributes:
        described: the section.
        samples: the items, with encoded targets and what these are.
        modality: of the items, such as ``image``.
        mirror: whether a left-right flip leaves targets right.
        fingerprint: SHA-256 over contents and targets, whatever their order and paths.
        hashes: SHA-256 of each item's content.
        task: what is learned.
    """

    described: DataSpec
    samples: Samples
    modality: str
    mirror: bool
    fingerprint: str
    hashes: list[str]
    task: Task

    @property
    def target_spec(self) -> TargetSpec:
        """What the targets are."""
        if self.samples.spec is None:
            raise ValueError("the targets weren't described")
        return self.samples.spec

    @property
    def learned(self) -> Task:
        """The task as it learns such targets, before they are split."""
        spec = self.target_spec
        return self.task.fitted(spec).counted(np.asarray(self.samples.targets), spec)

    @property
    def strata(self) -> Strata:
        """Kinds of items by which they are split."""
        return self.task.strata(np.asarray(self.samples.targets), self.target_spec)

    def split(self, *, seed: int, known: Mapping[int, str] = MappingProxyType({})) -> dict[str, IntArray]:
        """`splits.split` of these items, in the shares of the section."""
        shares = self.described.split
        return splits.split(
            self.samples,
            self.hashes,
            self.strata,
            val=shares.val,
            test=shares.test,
            stop=shares.stop,
            seed=seed,
            known=known,
        )

    def plain(self, index: int) -> Any:
        """An item's target as people read it."""
        return self.task.plain(self.samples.targets[index], self.target_spec)

    def identity(self, index: int) -> str:
        """An item's target as text, equal for equal targets."""
        return self.task.identity(self.samples.targets[index], self.target_spec)


def fingerprint(samples: Samples, task: Task, *, threads: int = 2) -> tuple[str, list[str]]:
    """SHA-256 over all contents and targets, and the SHA-256 of each item's content in their order.

    The first doesn't depend on the order or the paths of the items. An item that can't be read counts by
    its name; decoding will set it aside.
    """

    def hash_some(start: int, end: int) -> list[str]:
        return [hash_of(samples, index) for index in range(start, end)]

    chunks = in_threads(hash_some, len(samples.items), threads=threads)
    hashes = [digest for _, chunk in sorted(chunks) for digest in chunk]
    targets, spec = encoded(task, samples)
    lines = sorted(
        json.dumps([content, task.plain(target, spec)])
        for content, target in zip(hashes, targets, strict=True)
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest(), hashes
