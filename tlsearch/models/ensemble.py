"""Several finished networks on one backbone as one module: their predictions are averaged.

Averages of networks that were trained from several seeds are right more often than each of them
(Lakshminarayanan et al. 2017, arXiv:1612.01474), and those of different recipes err on different items
(Caruana et al. 2004). What members compute alike, because they froze the same layers, is computed once.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from tlsearch.contracts import Backbone, BackboneInfo, Task

_outputs: ContextVar[dict[str, Tensor]] = ContextVar("_outputs")
"""What layers that others read from put out in this pass; each thread has its own."""
SHARED, MEMBER = "shared.", "members."
"""What names of tensors begin with in a bundle of several members."""


@dataclass(frozen=True, slots=True)
class Part:
    """Members of one recipe, which follow each other; all parts of an ensemble weigh alike.

    Attributes:
        members: how many; they weigh alike.
        scale: what their outputs are multiplied by.
    """

    members: int
    scale: float = 1.0


class Ensemble(nn.Module):
    """Inputs to one prediction, as the task averages its members': classes by their mean probabilities.

    Attributes:
        info: of the members' backbone.
        outputs: how many.
        task: what is learned.
        members: the networks; layers that several have alike stand in the first of them only.
        parts: which of them are of one recipe; empty where all are.
        flips: whether each member also looks at the mirrored image, with the same weight.
        reused: how many layers of all further members are an earlier one's.
    """

    def __init__(
        self, members: Sequence[Backbone], *, parts: Sequence[Part] = (), flips: bool = False
    ) -> None:
        super().__init__()
        self.info: BackboneInfo = members[0].info
        self.outputs = members[0].outputs
        self.task = members[0].task
        self.parts = tuple(parts)
        self.flips = flips
        self.members = nn.ModuleList(members)
        inputs = self.info.inputs
        self.reused = share_frozen(self.members, inputs.to_model(inputs.example(2)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs (B, ...) of a batch of inputs."""
        return averaged(self.looks(inputs, mirrored=self.flips), self.task, self.parts)

    def features(self, inputs: Tensor) -> Tensor:
        """Features (B, width) of the first member's trunk."""
        token = _outputs.set({})
        try:
            found: Tensor = self.members[0].get_submodule("trunk")(inputs)
        finally:
            _outputs.reset(token)
        return found

    def looks(self, inputs: Tensor, *, mirrored: bool) -> Tensor:
        """Each member's own outputs (B, looks, members, ...) of the inputs as they are, then mirrored."""
        looks = [torch.stack(_run(self.members, inputs), dim=1)]
        if mirrored:
            told = [self.task.unmirrored(one) for one in _run(self.members, inputs.flip(-1))]
            looks.append(torch.stack(told, dim=1))
        return torch.stack(looks, dim=1)


def averaged(looks: Tensor, task: Task, parts: Sequence[Part] = ()) -> Tensor:
    """Outputs (B, ...) for looks (B, looks, members, ...) of the same items: by part, then over parts."""
    if len(parts) < 2:
        return task.average(looks.flatten(1, 2))
    own = torch.split(looks, [part.members for part in parts], dim=2)
    told = [task.average(part.scale * of.flatten(1, 2)) for part, of in zip(parts, own, strict=True)]
    return task.average(torch.stack(told, dim=1))


def _run(members: nn.ModuleList, inputs: Tensor) -> list[Tensor]:
    token = _outputs.set({})
    try:
        told = [member(inputs) for member in members]
    finally:
        _outputs.reset(token)
    return [one[0] if isinstance(one, tuple) else one for one in told]


# ------------------------------------------------------------------------------------- tensors in a bundle


def joined(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Members' tensors under one name each; those that are equal in all members once."""
    first = states[0]
    equal = {
        name
        for name, tensor in first.items()
        if all(name in state and torch.equal(tensor, state[name]) for state in states[1:])
    }
    own = {
        f"{MEMBER}{number}.{name}": tensor
        for number, state in enumerate(states)
        for name, tensor in state.items()
        if name not in equal
    }
    return {**{f"{SHARED}{name}": first[name] for name in equal}, **own}


def separated(state: Mapping[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """What `joined` was given; equal tensors are the same ones."""
    shared = {name.removeprefix(SHARED): t for name, t in state.items() if name.startswith(SHARED)}
    found = []
    for number in range(count):
        prefix = f"{MEMBER}{number}."
        own = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        found.append({**shared, **own})
    return found


# ----------------------------------------------------------------------------- frozen layers computed once


class _Kept(nn.Module):
    """A frozen layer of one member, whose output others read."""

    def __init__(self, layer: nn.Module, key: str, *, copies: bool) -> None:
        super().__init__()
        self.layer = layer
        self.key = key
        self.copies = copies

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's output."""
        output: Tensor = self.layer(inputs)
        _outputs.get()[self.key] = output.clone() if self.copies else output
        return output


class _Read(nn.Module):
    """In the place of the same layer in another member."""

    def __init__(self, key: str, *, copies: bool) -> None:
        super().__init__()
        self.key = key
        self.copies = copies

    def forward(self, inputs: Tensor) -> Tensor:
        """What the other member's layer put out."""
        output = _outputs.get()[self.key]
        return output.clone() if self.copies else output


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A layer's only call: what went in and came out, and a copy of that, for others may write into it."""

    name: str
    inputs: Tensor
    output: Tensor
    value: Tensor
    version: int
    layers: int

    @property
    def written(self) -> bool:
        """Whether anybody wrote into the output."""
        return self.output._version != self.version


@dataclass(frozen=True, slots=True, eq=False)
class _Shared:
    """What a member need not compute.

    Attributes:
        source: position of an earlier member that puts out the same.
        calls: its outermost layers that do, in the order of their calls.
        passed: names of those whose output goes straight into the next one, so that nobody reads it.
    """

    source: int
    calls: Sequence[_Call]
    passed: Collection[str]


@torch.inference_mode(mode=False)
@torch.no_grad()
def share_frozen(members: nn.ModuleList, example: Tensor) -> int:
    """Let each member read what an earlier one's layers put out, where it is the same.

    Which layers these are is found by looking: a layer counts where it puts out the very same in both. Heads
    share the whole backbone, and networks that were fine-tuned the layers that stayed as they were. If the
    members then don't compute what they computed before, everything stays as it was.

    Args:
        members: on one backbone, in eval mode.
        example: a batch of inputs.

    Returns:
        How many layers read, in all members.
    """
    if len(members) < 2:
        return 0
    example = example.to(next(members.parameters()).device)
    expected = _run(members, example)
    shared = _shared(members, example)
    for plan in (shared, {at: replace(one, passed=()) for at, one in shared.items()}):
        before: list[tuple[nn.Module, str, nn.Module]] = []
        with contextlib.suppress(Exception):  # a network may do anything with a layer's output
            _swap(members, plan, before)
            if all(map(torch.equal, _run(members, example), expected)):
                return sum(len(one.calls) for one in plan.values())
        for owner, leaf, layer in reversed(before):
            setattr(owner, leaf, layer)
    return 0


def _shared(members: nn.ModuleList, example: Tensor) -> dict[int, _Shared]:
    """What each member has in common with the earlier one that it has most in common with, by position."""
    told = [_calls(member, example) for member in members]
    # What looks at them, as a head that takes features from all layers does, must find them called.
    looked = {
        name for member in members for name, layer in member.named_modules() if layer._forward_hooks and name
    }
    found = {}
    for position in range(1, len(members)):
        common = [_common(told[source], told[position], looked) for source in range(position)]
        source = max(range(position), key=lambda at: (sum(one.layers for one in common[at]), -at))
        if calls := common[source]:
            straight = {one.name for one, two in itertools.pairwise(calls) if two.inputs is one.output}
            found[position] = _Shared(source, calls, straight - looked)
    return found


def _common(first: Mapping[str, _Call], other: Mapping[str, _Call], looked: Collection[str]) -> list[_Call]:
    """The first member's outermost layers that put out the same in another, in the order of their calls."""
    same = [
        name
        for name, call in first.items()
        if name in other
        and torch.equal(call.value, other[name].value)
        and not any(inner.startswith(f"{name}.") for inner in looked)
    ]
    return [first[name] for name in same if not any(name.startswith(f"{outer}.") for outer in same)]


def _calls(member: nn.Module, example: Tensor) -> dict[str, _Call]:
    """Calls of all layers from one tensor to another that are called once, by name."""
    found: dict[str, _Call] = {}
    odd: set[str] = set()

    def note(name: str, module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        if name in found or len(inputs) != 1 or not isinstance(inputs[0], Tensor):
            odd.add(name)
        elif isinstance(output, Tensor):
            layers = sum(1 for _ in module.modules())
            found[name] = _Call(name, inputs[0], output, output.clone(), output._version, layers)

    handles = [
        module.register_forward_hook(partial(note, name)) for name, module in member.named_modules() if name
    ]
    try:
        member(example)
    finally:
        for handle in handles:
            handle.remove()
    return {name: call for name, call in found.items() if name not in odd}


def _swap(
    members: nn.ModuleList, plan: Mapping[int, _Shared], before: list[tuple[nn.Module, str, nn.Module]]
) -> None:
    """Put readers into the places of shared layers; ``before`` gets what stood there, with owner and name.

    What is inside of a layer is changed before the layer itself, which is put into another one.
    """

    def put(position: int, name: str, new: Callable[[nn.Module], nn.Module]) -> None:
        path, _, leaf = name.rpartition(".")
        owner = members[position].get_submodule(path)
        layer = owner.get_submodule(leaf)
        before.append((owner, leaf, layer))
        setattr(owner, leaf, new(layer).eval())

    def reader(call: _Call, key: str | None, layer: nn.Module) -> nn.Module:
        made = nn.Identity() if key is None else _Read(key, copies=call.written)
        made._forward_hooks = layer._forward_hooks  # of a head that looks at all layers
        return made

    kept: dict[tuple[int, str], _Call] = {}
    for position, shared in plan.items():
        for call in shared.calls:
            key = None if call.name in shared.passed else f"{shared.source}.{call.name}"
            put(position, call.name, partial(reader, call, key))
            if key is not None:
                kept[shared.source, call.name] = call
    for (source, name), call in sorted(kept.items(), key=lambda one: -one[0][1].count(".")):
        put(source, name, partial(_Kept, key=f"{source}.{name}", copies=call.written))
