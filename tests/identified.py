"""Samples as a data section would list them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tlsearch.contracts import Samples, Task
from tlsearch.contracts.dataset import encoded
from tlsearch.spec import DataSpec
from tlsearch.spec.sections import SplitSpec
from tlsearch.training.listed import Listed, fingerprint


def identified(
    samples: Samples, task: Task, *, val: float = 0.2, test: float = 0.2, mirror: bool = True, **section: Any
) -> Listed:
    """Samples with shares for validation and test, and further keys of the section such as ``max_broken``.

    ``val`` may be 0, which no section may have, for samples that bring their own splits.
    """
    split = SplitSpec.model_construct(val=val, test=test, stop=0.1)
    described = DataSpec(source="here", **section).model_copy(update={"split": split})
    targets, spec = encoded(task, samples)
    known = replace(samples, targets=targets, spec=spec)
    return Listed(described, known, "image", mirror, *fingerprint(known, task), task)
