"""Nodes of a cluster as a study sees them, and whether any of them can run its trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tlsearch.spec import StudySpec


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a cluster, by the name that its people gave it and by what Ray was told that it has."""

    id: str
    name: str
    cpus: float
    gpus: float
    memory: float
    accelerator: str

    @property
    def kind(self) -> tuple[object, ...]:
        """Equal for nodes on which a batch fits or doesn't fit alike."""
        return self.cpus, self.gpus, round(self.memory / 2**30), self.accelerator


@dataclass(frozen=True, slots=True)
class Failure:
    """What is wrong where, and what to do about it."""

    node: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.node}: {self.problem} {self.remedy}"


def unfit(spec: StudySpec, found: Sequence[Node]) -> list[Failure]:
    """Nothing where some node has what a trial asks for."""
    asked = spec.resources
    gpus = asked.gpus_per_trial or 0.0
    if any(node.cpus >= asked.cpus_per_trial and node.gpus >= gpus for node in found):
        return []
    has = "; ".join(f"{node.name} has {node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in found)
    return [
        Failure(
            "every node",
            f"a trial asks for {asked.cpus_per_trial} CPUs and {gpus:g} GPUs, and no node has both: {has}.",
            "Lower resources.cpus_per_trial or resources.gpus_per_trial, or add a node that has them.",
        )
    ]
