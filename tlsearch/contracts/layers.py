"""What a trunk's layers put out on the way, pooled, for heads that look at more than the last features.

The outputs are caught by forward hooks, so a trunk is none the wiser: its names, weights and results stay as
they are, and a network that is traced, exported or run plainly gives the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

_collected: ContextVar[dict[str, Any] | None] = ContextVar("_collected", default=None)
"""Where outputs go during one forward pass; each thread has its own."""


class Tap:
    """A forward hook that hands a module's output to whoever collects."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Changes nothing."""
        collected = _collected.get()
        if collected is not None:
            collected[self.name] = output


@contextmanager
def collecting() -> Iterator[Mapping[str, Any]]:
    """Outputs of tapped modules that are called inside, by name."""
    found: dict[str, Any] = {}
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


class LayerPool(nn.Module):
    """A layer's output, averaged over some cells of the image or the sequence: (B, cells * channels).

    At most ``cells`` of them. Maps are (B, C, H, W) or (B, H, W, C) with H = W, sequences (B, T, C); of a
    tuple the first tensor counts.
    """

    opaque = True  # it asks for shapes, which a trace doesn't know

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, output: Any) -> Tensor:
        """Features of a layer."""
        layer: Tensor = output if isinstance(output, Tensor) else output[0]
        if layer.ndim == 4:
            if layer.shape[1] == layer.shape[2] != layer.shape[3]:
                layer = layer.permute(0, 3, 1, 2)
            side = max(1, min(math.isqrt(self.cells), *layer.shape[2:]))
            layer = functional.adaptive_avg_pool2d(layer, side)
        elif layer.ndim == 3:
            layer = functional.adaptive_avg_pool1d(layer.transpose(1, 2), min(self.cells, layer.shape[1]))
        return layer.flatten(1).float()


def layers_of(trunk: nn.Module, groups: Sequence[Sequence[str]]) -> list[str]:
    """Names of the modules whose outputs stand for the layers: a group's blocks, and the last of its modules.

    Args:
        trunk: the network.
        groups: its parameter names, as freeze depth counts them.
    """
    found: list[str] = []
    for names in groups:
        tops = _tops(trunk, frozenset(names))
        found += [name for name in tops if name == tops[-1] or any(trunk.get_submodule(name).children())]
    return found


def _tops(trunk: nn.Module, group: frozenset[str]) -> list[str]:
    """The largest modules all of whose parameters are in the group."""
    tops: list[str] = []
    for path, module in trunk.named_modules():
        own = [f"{path}.{name}" for name, _ in module.named_parameters()]
        if path and own and group.issuperset(own) and not any(path.startswith(f"{top}.") for top in tops):
            tops.append(path)
    return tops
