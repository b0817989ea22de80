"""A saved model's structure from its description, and its tensors put back into it."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tlsearch import artifacts, registry
from tlsearch.contracts import Backbone, Pretrained, TargetSpec, Task
from tlsearch.contracts.combination import structure_of
from tlsearch.errors import BundleError
from tlsearch.records import RGB, Params, Pixels, TrialRecord
from tlsearch.spec import StudySpec


def rebuild(
    *,
    backbone: str,
    weights: str,
    image_size: int | None,
    strategy: str,
    params: Params,
    task: Task,
    spec: TargetSpec,
    state: Mapping[str, Tensor],
    complete: bool = False,
    pixels: Pixels = RGB,
) -> Backbone:
    """The finished model of a trial, on the weights that the trial started from.

    Args:
        backbone: its whole name.
        weights: what the trial started from.
        image_size: as the study's data section had it.
        strategy: name of the strategy that prepared it, or of the combination that it came from.
        params: the trial's.
        task: what it was trained for.
        spec: what the targets are.
        state: tensors by name; those of the trunk may be missing where training left them as they were.
        complete: whether none may be missing.
        pixels: as the study's data section had them.

    Raises:
        UnknownNameError: the plugin of the backbone or strategy isn't installed.
        WeightsError: the weights can't be had.
        BundleError: the tensors don't fit the structure.
    """
    pretrained = registry.backbone(backbone, weights=weights, image_size=image_size, pixels=pixels)
    return restored(
        pretrained, strategy=strategy, params=params, task=task, spec=spec, state=state, complete=complete
    )


def restored(
    pretrained: Pretrained,
    *,
    strategy: str,
    params: Params,
    task: Task,
    spec: TargetSpec,
    state: Mapping[str, Tensor],
    complete: bool,
) -> Backbone:
    """The finished model that ``state`` was saved from; arguments and errors are those of `rebuild`.

    ``pretrained`` may be a mere structure where ``state`` is complete.
    """
    strategy, params = structure_of(strategy, params)
    plugin = registry.strategy(strategy)
    model = Backbone(pretrained, task, spec)
    plugin.restore(model, params)
    model.release_source()
    fill(model, state, complete=complete)
    return model.eval().requires_grad_(False)


def packages_of(provenance: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """Distributions, with versions, that the plugins of these names came from when the model was made."""
    plugins = provenance.get("plugins")
    return sorted(
        {
            f"{plugin.get('distribution')} {plugin.get('version')}"
            for plugin in (plugins if isinstance(plugins, list) else [])
            if isinstance(plugin, dict) and plugin.get("name") in names
        }
    )


def started_from(trial: TrialRecord, study: StudySpec) -> Pretrained:
    """The backbone that a trial of a study began with.

    Raises:
        UnknownNameError: its plugin isn't installed.
        WeightsError: the weights can't be had.
    """
    weights = {backbone.name: backbone.weights for backbone in study.backbones}
    return registry.backbone(
        trial.backbone,
        weights=weights.get(trial.backbone, "pretrained"),
        image_size=study.data.image_size,
        pixels=study.data.pixels,
    )


def of_trial(trial: TrialRecord, pretrained: Pretrained, *, task: Task, spec: TargetSpec) -> Backbone:
    """The finished model of a trial whose weights are kept.

    Args:
        trial: complete.
        pretrained: its backbone with the weights that it started from; becomes part of the model.
        task: the study's.
        spec: what the targets are.

    Raises:
        OSError: the weights are gone, or not what was written.
    """
    if trial.artifact is None:
        raise FileNotFoundError(f"the weights of trial {trial.number} are gone")
    return restored(
        pretrained,
        strategy=trial.strategy,
        params=trial.params,
        task=task,
        spec=spec,
        state=load_file(artifacts.get(trial.artifact.uri, sha256=trial.artifact.sha256)),
        complete=False,
    )


def fill(model: nn.Module, state: Mapping[str, Tensor], *, complete: bool) -> None:
    """Put saved tensors into a model; buffers take the size that they were saved with.

    Args:
        model: of the same structure.
        state: tensors by name.
        complete: whether ``state`` must hold every tensor; else the trunk's may be missing.

    Raises:
        BundleError: names or shapes don't fit.
    """
    for name, tensor in state.items():
        owner_name, _, leaf = name.rpartition(".")
        try:
            owner = model.get_submodule(owner_name)
        except AttributeError:
            continue  # reported below as unexpected
        if leaf in owner._buffers and owner._buffers[leaf] is not None:
            owner._buffers[leaf] = torch.empty_like(tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = model.load_state_dict(dict(state), strict=False)
        except RuntimeError as error:
            raise BundleError(f"The saved weights don't fit the model: {error}") from None
    missing = [name for name in result.missing_keys if complete or not name.startswith("trunk.")]
    if missing or result.unexpected_keys:
        odd = [
            *(f"missing {name}" for name in missing),
            *(f"unexpected {name}" for name in result.unexpected_keys),
        ]
        raise BundleError(
            f"The saved weights don't fit the model: {', '.join(odd[:6])}.",
            hint="Was the model made by another version of a plugin? `tlsearch plugins` lists versions.",
        )
