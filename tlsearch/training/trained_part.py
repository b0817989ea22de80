"""Which parameters of a model train, and the modes that follow from it."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from tlsearch.contracts import Backbone


def trainable_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that train: while this stays the same, so does the split point."""
    return frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def mark(model: nn.Module, trained: Collection[str]) -> None:
    """Let the parameters of these names train, and no others."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def depth_marks(model: Backbone) -> list[frozenset[str]]:
    """What trains at each freeze depth of a backbone, from the first group frozen to all of them.

    Outside the trunk what trains now does so at any depth.
    """
    names = {name for name, p in model.named_parameters() if p.requires_grad or name.startswith("trunk.")}
    marks = []
    for group in model.info.groups:
        names = names - {f"trunk.{name}" for name in group}
        marks.append(frozenset(names))
    return marks


def set_modes(model: nn.Module, resting: Collection[str] = ()) -> None:
    """Put every module in the mode it trains in.

    A module with parameters is in training mode if any of them trains: a frozen BatchNorm must not move its
    statistics. One without goes with its parent, except that what only the prefix uses stays in eval mode.

    Args:
        model: some of whose parameters train.
        resting: names of modules without parameters that stay in eval mode, see `SplitPoint.resting`.
    """
    model.train()
    _set_modes(model, inherited=True)
    for name in resting:
        model.get_submodule(name).eval()


def _set_modes(module: nn.Module, *, inherited: bool) -> None:
    marks = [parameter.requires_grad for parameter in module.parameters()]
    module.train(any(marks) if marks else inherited)  # not by the flag: some modules drop caches in train()
    for child in module.children():
        _set_modes(child, inherited=module.training)
