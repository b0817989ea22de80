"""What a backbone plugin implements, and what strategies are given to work on."""

from __future__ import annotations

import abc
import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tlsearch.contracts.inputs import InputSpec
from tlsearch.contracts.layers import LayerPool, Level, Tap, collecting, layers_of, pyramid
from tlsearch.contracts.maps import PlaceTask
from tlsearch.contracts.target import TargetSpec
from tlsearch.contracts.task import Task
from tlsearch.errors import InputError


@dataclass(frozen=True, slots=True)
class BackboneInfo:
    """Everything about a backbone that isn't a tensor.

    Attributes:
        name: ``family/variant``, as in a study file.
        weights: what was asked for: ``pretrained``, ``random`` or a file.
        weights_sha256: over the trunk's names and tensors, so that equal weights are equal anywhere.
        inputs: how items become its input.
        groups: the trunk's parameter names in groups from the input on; freeze depth counts these.
        group_names: a readable name for each group, such as ``blocks.3.1``.
        width: features per item that the trunk puts out.
        parameters: of the trunk.
        flops: floating point operations of the trunk's forward pass for one item (a multiply-add is two).
        head: name of the classifier that the head stands in for, inside the original model.
        architecture: JSON that a saved model carries for `BackboneFamily.structure`, where the name isn't
            enough to build it by.
    """

    name: str
    weights: str
    weights_sha256: str
    inputs: InputSpec
    groups: tuple[tuple[str, ...], ...]
    group_names: tuple[str, ...]
    width: int
    parameters: int
    flops: float
    head: str
    architecture: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A loaded backbone: ``trunk`` maps a batch of inputs to features (B, width).

    ``source_head`` is the classifier that the weights came with (features to source logits), where
    there was one.
    """

    info: BackboneInfo
    trunk: nn.Module
    source_head: nn.Module | None = None


class LinearHead(nn.Module):
    """Dropout, then one linear layer: features (B, width) to outputs (B, outputs).

    Starts at small weights and zero bias, so that the first steps don't shake the trunk.
    """

    def __init__(self, width: int, outputs: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, outputs)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Outputs (B, outputs) of features (B, width)."""
        # Without dropout it must not be an operation either: one that changes nothing would belong to the
        # frozen prefix, whose outputs could then not be shared with other heads.
        outputs: Tensor = self.linear(self.dropout(features) if self.dropout.p else features)
        return outputs


class Backbone(nn.Module):
    """A pretrained trunk with a new head for a task's targets: what a strategy prepares.

    ``forward`` maps a batch of inputs to the task's outputs, such as logits (B, classes). The trunk is a
    copy: ``pretrained`` is never trained, and strategies look back at it through `reference`, `keep_source`
    and `source_head`.

    Attributes:
        info: of the backbone.
        task: what is learned.
        target_spec: what its targets are.
        source_spec: what those of the study's source data are, or None where there is none.
        trunk: inputs to features (B, width).
        source_trunk: None, or after `keep_source` the pretrained trunk.
        head: features (B, width) to outputs; after `keep_source` it is given the source features as well.
        width: features per item that the head is given: the trunk's own, after `tap` those of all layers.
        layers: names of the trunk's modules that are tapped; none before `tap`.
        levels: the feature maps that the head is given in the place of features, from fine to coarse, where
            the task tells places; else none.
    """

    def __init__(
        self, pretrained: Pretrained, task: Task, spec: TargetSpec, source: TargetSpec | None = None
    ) -> None:
        super().__init__()
        self.info = pretrained.info
        self.task = task
        self.target_spec = spec
        self.source_spec = source
        self.trunk = copy.deepcopy(pretrained.trunk)
        self.source_trunk: nn.Module | None = None
        self.width = pretrained.info.width
        self.layers: tuple[str, ...] = ()
        self.pool: LayerPool | None = None
        self.levels: tuple[Level, ...] = self._pyramid() if isinstance(task, PlaceTask) else ()
        self.head: nn.Module = self.new_head()
        # Outside the module tree on purpose: it is a teacher, not a part of the model.
        self._pretrained: Pretrained | None = pretrained
        self._reference: Mapping[str, Tensor] = {}

    @property
    def outputs(self) -> int:
        """How many numbers a vector head puts out: one for each class, say."""
        return len(self.target_spec.names)

    def new_head(self, *, dropout: float = 0.0) -> nn.Module:
        """A fresh head, as the task makes it, for the trunk's features or feature maps."""
        if isinstance(self.task, PlaceTask):
            return self.task.map_head(self.levels, self.target_spec, dropout=dropout)
        return self.task.head(self.info.width, self.target_spec, dropout=dropout)

    @property
    def source_head(self) -> nn.Module | None:
        """The classifier that the weights came with; not a part of this module's parameters."""
        return self._pretrained.source_head if self._pretrained else None

    @property
    def reference(self) -> Mapping[str, Tensor]:
        """The pretrained trunk's tensors by name, on this model's device; to be read only.

        They are no part of the model. On the CPU they are the pretrained trunk's own, not copies.
        """
        device = next(self.parameters()).device
        if self._pretrained and all(tensor.device != device for tensor in self._reference.values()):
            state = self._pretrained.trunk.state_dict()
            self._reference = {name: tensor.to(device) for name, tensor in state.items()}
        return self._reference

    def keep_source(self) -> None:
        """Run the pretrained trunk, frozen, beside the one that trains, as `source_trunk`.

        The head is then called with two tensors, the features and the source features (each (B, width)).
        These depend on nothing that trains, so they are found, stored and shared like any frozen prefix: no
        item goes through the source trunk twice. `Strategy.finish` sets ``source_trunk`` to None again.
        """
        if self._pretrained is None:
            raise ValueError("the pretrained trunk was released: this is a finished model")
        self.source_trunk = copy.deepcopy(self._pretrained.trunk).requires_grad_(False).eval()

    def tap(self, cells: int) -> int:
        """Let the head look at all layers: their pooled outputs come before the features, side by side.

        Args:
            cells: of the image (a square number) or sequence that each layer's output is averaged over; 1
                averages over all of it.

        Returns:
            The new ``width``.
        """
        if cells < 1 or self.layers:
            raise ValueError(f"layers are pooled once, into 1 cell or more, not {cells}")
        self.pool = LayerPool(cells)
        for name in layers_of(self.trunk, self.info.groups):
            self.trunk.get_submodule(name).register_forward_hook(Tap(name))
        device = next(self.parameters()).device
        example = self.info.inputs.to_model(self.info.inputs.example(1)).to(device)
        training = self.trunk.training
        with torch.no_grad(), collecting() as found:
            self.trunk.eval()(example)
        self.trunk.train(training)
        self.layers = tuple(found)
        self.width += sum(self.pool(output).shape[1] for output in found.values())
        return self.width

    def release_source(self) -> None:
        """Let go of the pretrained network, as a finished model does: nothing looks back from there."""
        self._pretrained, self._reference = None, {}

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs of a batch of inputs."""
        features = self._maps(inputs) if self.levels else [self._features(inputs)]
        if self.source_trunk is not None:
            features.append(self.source_trunk(inputs))
        outputs: Tensor = self.head(*features)
        return outputs

    def _pyramid(self) -> tuple[Level, ...]:
        """Tap the trunk's feature maps.

        Raises:
            InputError: it has none.
        """
        example = self.info.inputs.to_model(self.info.inputs.example(1))
        example = example.to(next(self.trunk.parameters()).device)
        training = self.trunk.training
        levels = pyramid(self.trunk.eval(), self.info.groups, example)
        self.trunk.train(training)
        if not levels:
            raise InputError(
                f"{self.info.name} has no feature maps at this image size, which places are told from.",
                hint="Take a convolutional network or a vision transformer, and images of 64 pixels or more.",
            )
        for level in levels:
            self.trunk.get_submodule(level.name).register_forward_hook(Tap(level.name))
        return levels

    def _maps(self, inputs: Tensor) -> list[Tensor]:
        with collecting() as found:
            self.trunk(inputs)
        return [level.of(found[level.name]) for level in self.levels]

    def _features(self, inputs: Tensor) -> Tensor:
        if self.pool is None:
            features: Tensor = self.trunk(inputs)
            return features
        with collecting() as found:
            features = self.trunk(inputs)
        return torch.cat([*(self.pool(found[name]) for name in self.layers), features], dim=1)

    def freeze(self, depth: float) -> int:
        """Freeze the first ``round(depth * n)`` of the trunk's n groups; the rest trains.

        Args:
            depth: a fraction, 0 (all trains) to 1 (only the head trains).

        Returns:
            How many groups are frozen.
        """
        count = frozen_groups(depth, len(self.info.groups))
        parameters = dict(self.trunk.named_parameters())
        for index, names in enumerate(self.info.groups):
            for name in names:
                parameters[name].requires_grad_(index >= count)
        return count


def frozen_groups(depth: float, groups: int) -> int:
    """How many of the groups a freeze depth (a fraction) freezes.

    Raises:
        ValueError: it isn't between 0 and 1.
    """
    if not 0 <= depth <= 1:
        raise ValueError(f"freeze depth is a fraction between 0 and 1, not {depth}")
    return round(depth * groups)


def opaque(module: nn.Module) -> nn.Module:
    """Mark a module that `torch.fx` can't look into, such as an adapter whose code asks for dtypes.

    Where the frozen part of a model is looked for, it counts as one operation. Returns the module.
    """
    module.opaque = True  # type: ignore[assignment]
    return module


class BackboneFamily(abc.ABC):
    """A plugin that brings backbones. Its entry point's name is the part before the slash."""

    api_version: ClassVar[int] = 1
    """The version of the contracts that it was written for."""

    @abc.abstractmethod
    def names(self) -> Sequence[str]:
        """The variants it knows, without the family's name; others may be accepted too."""

    @abc.abstractmethod
    def load(self, variant: str, *, weights: str, image_size: int | None) -> Pretrained:
        """Build one.

        Args:
            variant: the part of the name after the slash.
            weights: ``"pretrained"`` (from a package or hub), ``"random"``, or a file's path.
            image_size: height and width in pixels, or None for the model's own.

        Raises:
            UnknownNameError: no such variant.
            WeightsError: the weights can't be had or don't fit; never silently random ones.
        """

    def structure(
        self, variant: str, *, image_size: int | None, architecture: Mapping[str, Any]
    ) -> Pretrained:
        """Build one whose weights don't matter: a saved model's go into it.

        What it is given may be anybody's. It asks no network and opens no file that the arguments name. Where
        random weights take more than the variant's name, `BackboneInfo.architecture` says what, and comes
        back here.

        Args:
            variant: the part of the name after the slash.
            image_size: as in `load`.
            architecture: what `BackboneInfo.architecture` said when the model was saved.

        Raises:
            UnknownNameError: no such variant.
        """
        return self.load(variant, weights="random", image_size=image_size)


def describe(
    name: str,
    trunk: nn.Module,
    *,
    weights: str,
    inputs: InputSpec,
    groups: Sequence[tuple[str, Sequence[str]]],
    width: int,
    head: str,
) -> BackboneInfo:
    """The `BackboneInfo` of a trunk: counts its parameters and operations and hashes its weights.

    Args:
        name: ``family/variant``.
        trunk: maps a batch of inputs to features (B, width).
        weights: what was asked for.
        inputs: how items become its input.
        groups: (readable name, parameter names) from the input on; every parameter exactly once.
        width: features per item.
        head: name of the classifier inside the original model.

    Raises:
        ValueError: the groups don't partition the trunk's parameters.
    """
    listed = [parameter for _, names in groups for parameter in names]
    present = {parameter for parameter, _ in trunk.named_parameters()}
    if sorted(listed) != sorted(present):
        odd = sorted(present.symmetric_difference(listed)) or ["(one is listed twice)"]
        raise ValueError(f"groups of {name} don't partition its parameters: {', '.join(odd[:5])}")
    return BackboneInfo(
        name=name,
        weights=weights,
        weights_sha256=hash_tensors(trunk.state_dict()),
        inputs=inputs,
        groups=tuple(tuple(names) for _, names in groups),
        group_names=tuple(readable for readable, _ in groups),
        width=width,
        parameters=sum(parameter.numel() for parameter in trunk.parameters()),
        flops=count_flops(trunk, inputs),
        head=head,
    )


def hash_tensors(state: Mapping[str, Any]) -> str:
    """SHA-256 over the names, shapes, dtypes and bytes of a state dict."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor: Tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        # Through bytes, since NumPy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def count_flops(module: nn.Module, inputs: InputSpec) -> float:
    """Floating point operations of one forward pass for one item, as torch's own counter sees them."""
    from torch.utils.flop_counter import FlopCounterMode

    was_training = module.training
    module.eval()
    device = next(module.parameters()).device
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(inputs.to_model(inputs.example(1)).to(device))
    module.train(was_training)
    return float(counter.get_total_flops())
