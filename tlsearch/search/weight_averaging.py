"""Finished models of one structure, and what averages of their weights are worth on the validation split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tlsearch import artifacts, registry
from tlsearch.contracts import Backbone, State
from tlsearch.errors import TrialError
from tlsearch.models.rebuild import fill
from tlsearch.records import Artifact, Costs, TrialRecord
from tlsearch.training import weights
from tlsearch.training.batch_source import BatchSource, Counts
from tlsearch.training.split_point import SplitPoint, find_split_point
from tlsearch.training.workspace import Workspace


@dataclass(frozen=True, slots=True)
class CompatibleTrials:
    """Trials whose finished models have the same tensors under the same names, best first."""

    backbone: str
    trials: tuple[TrialRecord, ...]


class SoupEvaluator:
    """Puts one state after another into a model and measures it.

    All layers that no member has changed are a frozen prefix: their outputs for the validation items are
    computed once and stored. No other split is within reach.
    """

    def __init__(self, workspace: Workspace, kin: CompatibleTrials) -> None:
        self.workspace = workspace
        self.pretrained = workspace.backbone(kin.backbone)
        data = workspace.data("data", self.pretrained.info.inputs)
        data = replace(data, indices={"val": data.indices["val"]})
        self.source: State = {f"trunk.{n}": t for n, t in self.pretrained.trunk.state_dict().items()}
        first = kin.trials[0]
        self.model = _finished(first, Backbone(self.pretrained, data.task, data.target_spec), self.source)
        self.model.to(device=workspace.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.changing = {name for trial in kin.trials for name in saved(trial)}
        _mark(self.model, self.changing)
        inputs = self.pretrained.info.inputs
        example = inputs.to_model(inputs.example(2)).to(workspace.device)
        self.split_point: SplitPoint = find_split_point(self.model, example)
        self.feed = BatchSource(
            data=data,
            inputs=data.inputs,
            split_point=self.split_point,
            store=workspace.store,
            policy="none",
            views=1,
            seed=workspace.assignment.spec.seed,
            device=workspace.device,
            limit_bytes=workspace.assignment.cache_bytes // 2,
            counts=Counts(),
        )

    def state(self, trial: TrialRecord) -> State:
        """All tensors of a finished trial's model."""
        return {**self.source, **saved(trial)}

    def scores(self, state: State) -> Mapping[str, float]:
        """Metrics on the validation split.

        Raises:
            TrialError: the state isn't one of this structure.
        """
        self._put(state)
        return self.feed.evaluate("val", self.split_point.eval_forward)

    def save(self, state: State, uri: str) -> Artifact:
        """Write a state as trials are written: what differs from the pretrained backbone."""
        self._put(state)
        return weights.save(uri, weights.changed(self.model, self.pretrained.trunk))

    def costs(self, members: Sequence[TrialRecord], seconds: float) -> Costs:
        """What a combination cost: its members, and the measuring."""
        counts, split_point = self.feed.counts, self.split_point
        return Costs(
            seconds=seconds + sum(member.costs.seconds for member in members),
            prefix_images=counts.prefix + sum(member.costs.prefix_images for member in members),
            suffix_images=counts.evaluated + sum(member.costs.suffix_images for member in members),
            flops=counts.prefix * split_point.prefix_flops
            + counts.evaluated * split_point.suffix_flops
            + sum(member.costs.flops for member in members),
            trainable_parameters=max(member.costs.trainable_parameters for member in members),
            total_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
        )

    def _put(self, state: State) -> None:
        own = self.model.state_dict()
        odd = sorted(set(own).symmetric_difference(state))
        odd += [name for name in own if name in state and own[name].shape != state[name].shape]
        if odd:
            raise TrialError(f"its state isn't of the members' structure: {odd[0]} is wrong or missing")
        # In place: the split point's suffix is made of these very tensors. The prefix is left alone.
        self.model.load_state_dict({name: state[name] for name in self.changing}, strict=False)


def kindred(trials: Sequence[TrialRecord], workspace: Workspace) -> list[CompatibleTrials]:
    """Trials in groups whose members can be averaged, each group's best first, the best group first.

    Args:
        trials: complete, best first; those whose weights are gone are left out.
        workspace: knows the backbones.
    """
    groups: dict[tuple[str, tuple[object, ...]], list[TrialRecord]] = {}
    for trial in trials:
        try:
            changed = saved(trial)
        except (TrialError, OSError):
            continue  # dropped since, or damaged
        source = workspace.backbone(trial.backbone).trunk.state_dict()
        own = {f"trunk.{name}": tensor for name, tensor in source.items()} | changed
        form = tuple(sorted((name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in own.items()))
        groups.setdefault((trial.backbone, form), []).append(trial)
    return [CompatibleTrials(backbone, tuple(members)) for (backbone, _), members in groups.items()]


def saved(trial: TrialRecord) -> dict[str, Tensor]:
    """Tensors that a trial's training changed.

    Raises:
        TrialError, OSError: its weights are gone, or aren't what was written.
    """
    if trial.artifact is None:
        raise TrialError(f"the weights of trial {trial.number} are gone")
    return load_file(artifacts.get(trial.artifact.uri, sha256=trial.artifact.sha256))


def _finished(trial: TrialRecord, model: Backbone, source: State) -> Backbone:
    registry.strategy(trial.strategy).restore(model, trial.params)
    model.release_source()
    fill(model, {**source, **saved(trial)}, complete=True)
    return model.eval()


def _mark(model: nn.Module, changed: set[str]) -> None:
    """Let train what may differ between states, with the modules whose buffers do."""
    model.requires_grad_(False)
    for path, module in model.named_modules():
        own = {f"{path}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)}
        buffers = {f"{path}.{name}".lstrip(".") for name, _ in module.named_buffers(recurse=False)}
        if not changed.isdisjoint(buffers):
            if not own:  # nothing here can be marked: everything runs anew
                model.requires_grad_(True)
                return
            module.requires_grad_(True)
        for name, parameter in module.named_parameters(recurse=False):
            if f"{path}.{name}".lstrip(".") in changed:
                parameter.requires_grad_(True)
