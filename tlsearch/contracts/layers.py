"""What a trunk's layers put out on the way, pooled, for heads that look at more than the last features.

The outputs are caught by forward hooks, so a trunk is none the wiser: its names, weights and results stay as
they are, and a network that is traced, exported or run plainly gives the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
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


FINEST = 4
"""Pixels of the input to one of a feature map, at least: finer maps are large and say little."""


@dataclass(frozen=True, slots=True)
class Level:
    """A layer whose output is a feature map, or a sequence of patches that is one.

    Attributes:
        name: of the trunk's module.
        channels: of the map.
        side: its height and width.
        layout: ``nchw``, ``nhwc``, or ``tokens``: (B, others + side * side, channels).
    """

    name: str
    channels: int
    side: int
    layout: str = "nchw"

    def of(self, output: Any) -> Tensor:
        """What the layer put out as a map (B, channels, side, side)."""
        layer: Tensor = output[0] if isinstance(output, tuple) else output
        if self.layout == "nhwc":
            return layer.permute(0, 3, 1, 2)
        if self.layout == "tokens":  # class tokens and registers stand before the patches
            patches = layer[:, -self.side * self.side :].transpose(1, 2)
            return patches.reshape(-1, self.channels, self.side, self.side)
        return layer


def pyramid(trunk: nn.Module, groups: Sequence[Sequence[str]], example: Tensor) -> tuple[Level, ...]:
    """The last layer of each resolution, from fine to coarse; none for a trunk without maps.

    Blocks, and what is made of them, come before other layers. What a later layer writes into isn't taken: a
    hook would see it changed.

    Args:
        trunk: the network, in eval mode.
        groups: its parameter names, as freeze depth counts them.
        example: a batch of its input (B, 3, size, size).
    """
    parts = [name.split(".") for name in layers_of(trunk, groups)]
    blocks = {".".join(part[:length]) for part in parts for length in range(1, len(part) + 1)}
    found: dict[int, Level] = {}
    known = places(trunk, example)
    for wanted in (False, True):
        found |= {level.side: level for level in known if (level.name in blocks) is wanted}
    return tuple(found[side] for side in sorted(found, reverse=True))


def places(trunk: nn.Module, example: Tensor, run: Callable[[Tensor], Any] | None = None) -> list[Level]:
    """All modules whose outputs are feature maps or sequences of patches, in the order of their calls.

    Those that are called once, and whose outputs nobody writes into.

    Args:
        trunk: the network.
        example: a batch of its input.
        run: what calls it, where that is another.
    """
    seen: list[tuple[str, Level, Tensor, int]] = []

    def note(name: str, output: Any) -> None:
        layer = output[0] if isinstance(output, tuple) and output else output
        if isinstance(layer, Tensor) and (level := _level(name, layer)) is not None:
            seen.append((name, level, layer, layer._version))

    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
        for name, module in trunk.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            (run or trunk)(example)
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, *_ in seen]
    size = example.shape[-1]
    return [
        level
        for name, level, layer, version in seen
        if layer._version == version and names.count(name) == 1 and _is_place(level.side, size)
    ]


def _is_place(side: int, size: int) -> bool:
    """Whether a map may be one of places: its side is the input's over a whole number or over halvings.

    Attention between patches is square as well.
    """
    halvings = any(abs(side * 2**times - size) < 2**times for times in range(2, 8))
    return 1 < side <= size // FINEST and (size % side == 0 or halvings)


def _level(name: str, layer: Tensor) -> Level | None:
    if layer.ndim == 4 and layer.shape[2] == layer.shape[3]:
        return Level(name, layer.shape[1], layer.shape[2])
    if layer.ndim == 4 and layer.shape[1] == layer.shape[2]:
        return Level(name, layer.shape[3], layer.shape[1], "nhwc")
    if layer.ndim == 3:
        return Level(name, layer.shape[2], math.isqrt(layer.shape[1]), "tokens")
    return None


def _tops(trunk: nn.Module, group: frozenset[str]) -> list[str]:
    """The largest modules all of whose parameters are in the group."""
    tops: list[str] = []
    for path, module in trunk.named_modules():
        own = [f"{path}.{name}" for name, _ in module.named_parameters()]
        if path and own and group.issuperset(own) and not any(path.startswith(f"{top}.") for top in tops):
            tops.append(path)
    return tops
