"""Items that are none of what a model knows: those far from all that it was trained on.

Sun et al. 2022 (arXiv:2204.06507): the distance of an item's features, of length 1, to the k-th nearest of
the training items. It is told as a multiple of a limit, which held-out items set: a stated share of them lies
beyond.

The limit is measured on the search's winner, which hasn't learned from the validation items. A refit has: its
features of them would set too narrow a limit. So the limit is kept as a multiple of a scale, the median
distance of the references among themselves, which both networks were trained on; in the refit's features it
is that multiple of the refit's own scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import Backbone, Task
from tlsearch.contracts.verdict import ABSTENTION
from tlsearch.models.ensemble import Ensemble
from tlsearch.models.manifest import Manifest

NEIGHBOURS = 1
"""The distance to the k-th nearest reference counts. The nearest told left out digits and kinds of damage
best (AUROC 0.67 and 0.85; 0.62 and 0.54 for k = 5; 0.66 and 0.69 for Mahalanobis); all tell clothes."""
REFERENCES = 1000
"""Training items at most whose features go with a model: 2 bytes for each of their numbers."""
LEAST = 1e-3
"""Smallest ratio: of copies all distances are 0."""
TENSOR = "abstention.references"
"""Name of the references among a bundle's tensors."""
FILE = "references.safetensors"
"""Where they lie between being measured and being written."""
BEFORE = "it was made by an older tlsearch, without verdicts"
"""Why a bundle without a word about it can't."""
LOST = "the features that it compares items with are missing"
"""Why one with thresholds alone can't."""

_passing: ContextVar[list[Tensor] | None] = ContextVar("_passing", default=None)
"""What the first network's trunk puts out in this pass; each thread has its own."""


def _note(module: nn.Module, inputs: Any, output: Any) -> None:
    found = _passing.get()
    if found is not None:
        found.append(output)


def with_features(
    network: Backbone | Ensemble, run: Callable[[Tensor], Tensor], inputs: Tensor
) -> tuple[Tensor, Tensor]:
    """What ``run`` puts out, and features (B, width) of the inputs as the first network's head is given them.

    Args:
        network: that ``run`` pushes the inputs through, as they are at first.
        run: of inputs to anything.
        inputs: a batch.
    """
    first: Any = network.members[0] if isinstance(network, Ensemble) else network
    found: list[Tensor] = []
    token = _passing.set(found)
    handle = first.get_submodule("trunk").register_forward_hook(_note)
    try:
        outputs = run(inputs)
    finally:
        handle.remove()
        _passing.reset(token)
    return outputs, found[0].flatten(1)


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """Features (N, width), each of length 1, that an item is compared with.

    Attributes:
        features: of training items.
        neighbours: the distance to the nearest but so many counts.
    """

    features: Tensor
    neighbours: int

    def distances(self, features: Tensor) -> Tensor:
        """Distances (B,) of features (B, width), from 0 to 2."""
        likeness = functional.normalize(features.float(), dim=1) @ self.features.to(features.device).T
        kth = likeness.topk(self.neighbours, dim=1).values[:, -1]
        return (2 - 2 * kth).clamp_min(0).sqrt()

    def scale(self) -> float:
        """The median of the references' distances to their neighbours, themselves left out."""
        likeness = self.features @ self.features.T
        likeness.fill_diagonal_(-math.inf)
        kth = likeness.topk(self.neighbours, dim=1).values[:, -1]
        return max(1e-6, float((2 - 2 * kth).clamp_min(0).sqrt().median()))


def references(features: Tensor) -> References | None:
    """Those of training items' features (N, width); None of fewer than two."""
    if len(features) < 2:
        return None
    stored = functional.normalize(features.float(), dim=1).half().float()  # as a bundle keeps them
    return References(stored, min(NEIGHBOURS, len(features) - 1))


def limit(known: References, held_out: Tensor, *, beyond: float) -> dict[str, Any]:
    """What a bundle's description is to say of the limit; ``ratio`` is the limit by the references' scale.

    Args:
        known: features of training items.
        held_out: features (N, width) of items that the network hasn't learned from.
        beyond: share of such items that may lie beyond the limit; with few items 1/(N+1) may.
    """
    ordered = known.distances(held_out).sort().values
    count = len(ordered)
    place = min(count, math.ceil((count + 1) * (1 - beyond)))
    return {
        "ratio": max(LEAST, float(ordered[place - 1]) / known.scale()),
        "allowed": max(beyond, 1 - place / (count + 1)),
        "items": count,
        **measure(known),
    }


def measure(known: References) -> dict[str, Any]:
    """What of the description depends on the references."""
    return {
        "scale": known.scale(),
        "references": len(known.features),
        "neighbours": known.neighbours,
    }


@dataclass(frozen=True, slots=True, eq=False)
class Familiar:
    """How far items are from what a model was trained on, in multiples of a limit.

    Attributes:
        references: of the model.
        limit: distance beyond which an item is none of what the model knows.
    """

    references: References
    limit: float

    def look(self, network: Backbone | Ensemble, inputs: Tensor) -> Tensor:
        """Outputs (B, n) of a batch, and as one more column the distance: above 1 it is beyond the limit."""
        outputs, features = with_features(network, network, inputs)
        distances = self.references.distances(features) / self.limit
        return torch.cat([outputs, distances[:, None].to(outputs)], dim=1)


def verdicts(task: Task, decoded: Tensor, distances: Tensor | None, calibration: Mapping[str, Any]) -> Tensor:
    """Numbers of `VERDICTS` (N,) of decoded outputs (N, ...) and distances (N,), multiples of the limit."""
    unsure = task.unsure(decoded, calibration).long()
    return unsure if distances is None else torch.where(distances > 1, 2, unsure)


def why_not(task: Task, manifest: Manifest, known: Familiar | None) -> str:
    """Why a model gives no verdict, or never "none of these"; empty where it does, or was told not to."""
    told = manifest.calibration.get(ABSTENTION)
    if not task.abstains:
        return ""
    if told is None:
        return BEFORE
    return LOST if "outsiders" in told and known is None else str(told.get("why", ""))


def gives_verdicts(manifest: Manifest) -> bool:
    """Whether there is anything to tell sure from unsure or none by."""
    known = manifest.calibration.get(ABSTENTION, {})
    return "candidates" in known or "outsiders" in known


def familiar(manifest: Manifest, features: Tensor | None) -> Familiar | None:
    """Of a loaded bundle.

    Raises:
        ValueError: the description and the tensor don't go together.
    """
    known = manifest.calibration.get(ABSTENTION, {}).get("outsiders")
    if known is None or features is None:
        return None
    neighbours = known["neighbours"]
    if features.ndim != 2 or not 1 <= neighbours <= len(features) or not features.isfinite().all():
        raise ValueError(f"references of the shape {tuple(features.shape)} for {neighbours} neighbours")
    return Familiar(References(features.float(), neighbours), known["ratio"] * known["scale"])


def save(known: References, folder: Path) -> None:
    """Put references beside a bundle that is being verified."""
    save_file({TENSOR: known.features.half().contiguous()}, folder / FILE)


def saved(folder: Path) -> dict[str, Tensor]:
    """What `save` put there, by name; empty where it put nothing."""
    return load_file(folder / FILE) if (folder / FILE).is_file() else {}
