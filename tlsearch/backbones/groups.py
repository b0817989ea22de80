"""A trunk's parameters in groups from the input on: what freeze depth counts.

The general rule, for any network that doesn't bring its own, reads the module tree:

- a *layer* is a module with at most one weight (a parameter of two or more dimensions): a convolution or
  linear map, alone or together with its norm;
- a *block* is a module made of several layers, such as a residual block or an attention block;
- a *container* strings blocks or layers together: the network itself, a `Sequential` or `ModuleList` in
  it, and anything that holds a sequence of two or more blocks (a stage, an encoder).

Containers are opened, blocks are not. Every block and every layer in a container is one group, in order of
registration; norms that stand alone join the group before them, and a container's own parameters (class
tokens, position embeddings) the first group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_SEQUENCES = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def by_blocks(trunk: nn.Module) -> list[list[str]]:
    """Names of all parameters of a trunk, in one group for each block, by the rule above."""
    first: list[str] = []
    groups: list[list[str]] = []
    for name, module, opened in _blocks("", trunk):
        own = [
            f"{name}.{parameter}" if name else parameter
            for parameter, _ in module.named_parameters(recurse=not opened)
        ]
        if opened:
            first += own
        elif groups and _weights(module) == 0:
            groups[-1] += own
        elif own:
            groups.append(own)
    if first:
        groups[:1] = [first + group for group in groups[:1]] or [first]
    return groups


def with_names(groups: Sequence[Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    """Each group with a readable name: the largest modules that lie wholly in it, joined by ``+``."""
    owner = {parameter: index for index, group in enumerate(groups) for parameter in group}
    owners: dict[str, set[int]] = {}
    for parameter, index in owner.items():
        for prefix in _prefixes(parameter):
            owners.setdefault(prefix, set()).add(index)
    named: list[tuple[str, Sequence[str]]] = []
    for group in groups:
        members: dict[str, list[str]] = {}
        for parameter in group:
            whole = (prefix for prefix in _prefixes(parameter) if len(owners[prefix]) == 1)
            members.setdefault(next(whole, parameter), []).append(parameter)
        named.append(("+".join(_numbered(module, names) for module, names in members.items()), group))
    return named


def in_order(
    trunk: nn.Module, groups: Sequence[Sequence[str]], batch: Tensor
) -> tuple[Any, list[Sequence[str]]]:
    """Run a batch through a trunk and sort the groups by when their modules first ran.

    Registration order is execution order nearly everywhere, but a prefix of groups can only be computed
    once and kept where that is certain. A group of which nothing was seen to run keeps its place.

    Returns:
        What the trunk put out, and the groups from the input on.
    """
    first_run: dict[str, int] = {}

    def note(names: Sequence[str], module: nn.Module, inputs: object) -> None:
        position = len(first_run)
        for name in names:
            first_run.setdefault(name, position)

    hooks = []
    for prefix, module in trunk.named_modules():
        names = [f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)]
        if prefix and names:
            hooks.append(module.register_forward_pre_hook(partial(note, names)))
    try:
        with torch.no_grad():
            output = trunk(batch)
    finally:
        for hook in hooks:
            hook.remove()
    places: list[int] = []
    for group in groups:
        seen = [first_run[name] for name in group if name in first_run]
        places.append(min(seen) if seen else places[-1] if places else 0)
    order = sorted(range(len(groups)), key=places.__getitem__)
    return output, [groups[index] for index in order]


def _blocks(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module, bool]]:
    """Blocks, layers and opened containers (True) under a module, in order of registration."""
    opened = not name or (_weights(module) > 1 and _is_container(module))
    yield name, module, opened
    if opened:
        for child_name, child in module.named_children():
            yield from _blocks(f"{name}.{child_name}" if name else child_name, child)


def _is_container(module: nn.Module) -> bool:
    if type(module) in _SEQUENCES:
        return True
    return any(
        sum(_weights(item) > 1 for item in sequence.children()) > 1
        for sequence in module.modules()
        if isinstance(sequence, _SEQUENCES)
    )


def _weights(module: nn.Module) -> int:
    return sum(parameter.ndim > 1 for parameter in module.parameters())


def _prefixes(parameter: str) -> Iterator[str]:
    """Names of the modules around a parameter, outermost first."""
    parts = parameter.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts)))


def _numbered(module: str, parameters: Sequence[str]) -> str:
    """A stage with one block, ``stages.0``, is called after it, ``stages.0.0``, as other blocks are."""
    inner = [parameter.split(".")[module.count(".") + 1 : -1] for parameter in parameters]
    for parts in zip(*inner, strict=False):
        if len(set(parts)) > 1 or not parts[0].isdigit():
            break
        module += f".{parts[0]}"
    return module
