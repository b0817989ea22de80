"""A model's frozen prefix and its trained suffix, found by tracing.

Nothing is declared: what trains is what has ``requires_grad``. The model is traced twice with `torch.fx`, in
eval mode and in the modes it trains in, and every node of either graph gets a digest of all that its value
depends on (operations, settings, weights). A node belongs to the prefix if it depends on no trained parameter
and its digest stands in both graphs; so whatever training makes random, or different, falls into the suffix.
The tensors that cross are the boundary, and their digests are the prefix's key: the same frozen computation
has the same key in any model, trial or process.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tlsearch.training.graph_partition import (
    BoundarySpec,
    Cut,
    between_module,
    facts,
    prefix_module,
    suffix_module,
    two_sizes,
)
from tlsearch.training.states import as_it_was, evaluating, untouched
from tlsearch.training.tracing import Root, Trace, Unfit, digest, trace
from tlsearch.training.trained_part import mark, set_modes, trainable_names

__all__ = [
    "BoundarySpec",
    "Bridge",
    "SplitPoint",
    "bridge",
    "find_split_point",
    "find_split_points",
    "shared_prefix",
]


@dataclass(eq=False)
class SplitPoint:
    """Where a model's frozen part ends. ``train_forward(prefix(inputs))`` is the model in training.

    The suffix is made of the model's own modules, so training through it trains the model. Call `set_modes`
    before `train_forward`; `prefix` and `eval_forward` see to their modes themselves. Find it again after
    anything changed what trains, swapped a module, or moved the model to another device.

    Attributes:
        key: SHA-256 of the prefix's operations and weights; it knows nothing of the suffix or of names.
        boundary: the tensors that cross.
        prefix_flops: operations of the prefix for one item (a multiply-add is two).
        suffix_flops: operations of the suffix's forward pass for one item.
        parameters: of the whole model.
        frozen: whether there is a prefix worth storing.
        reason: why the model runs whole, or a remark on the split; empty where all is well.
        resting: names of parameterless modules that stay in eval mode, since only the prefix uses them.
        mark: which of the sets that `find_split_points` was given it is of; of equal split points, the last
            one's.
    """

    key: str
    boundary: tuple[BoundarySpec, ...]
    prefix_flops: float
    suffix_flops: float
    parameters: int
    frozen: bool
    reason: str
    resting: frozenset[str]
    _model: nn.Module
    _cut: Cut | None = None
    _channels_last: bool = False  # the memory format of the model's kernels
    _copies: bool = False  # the suffix writes into its inputs, which a caller may use twice
    mark: int = 0
    _read: tuple[tuple[Tensor, int], ...] = ()  # the prefix's weights when the key was made

    # Made when they are asked for: of the many split points of `find_split_points`, most are only stored.

    @cached_property
    def _prefix(self) -> nn.Module | None:
        return prefix_module(self._cut.eval, [self._cut.boundary]) if self._cut is not None else None

    @cached_property
    def _train(self) -> nn.Module:
        return suffix_module(self._cut, self._cut.train) if self._cut is not None else self._model

    @cached_property
    def _eval(self) -> nn.Module:
        return suffix_module(self._cut, self._cut.eval) if self._cut is not None else self._model

    @property
    def stale(self) -> bool:
        """Whether a weight of the prefix changed since the key was made."""
        return any(parameter._version != version for parameter, version in self._read)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the boundary's tensors without the batch."""
        return tuple(spec.shape for spec in self.boundary)

    @property
    def bytes_per_item(self) -> int:
        """Bytes of the boundary for one item."""
        return sum(spec.bytes for spec in self.boundary)

    def prefix(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The boundary (each B, *shape) of a batch of inputs; no gradients, eval mode."""
        if self._prefix is None:
            return (_laid_out(inputs, self._channels_last),)
        with torch.no_grad(), evaluating(self._prefix):
            (outputs,) = self._prefix(_laid_out(inputs, self._channels_last))
        return tuple(outputs)

    def train_forward(self, boundary: tuple[Tensor, ...]) -> Any:
        """What the model returns in training."""
        return self._train(*self._own(boundary))

    def eval_forward(self, boundary: tuple[Tensor, ...]) -> Any:
        """What the model returns in eval mode. Gradients flow unless the caller turns them off."""
        with evaluating(self._eval):
            return self._eval(*self._own(boundary))

    def _own(self, boundary: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensor.clone() for tensor in boundary) if self._copies else boundary


def find_split_point(model: nn.Module, example: Tensor) -> SplitPoint:
    """Split a model where its frozen part ends.

    Never raises for a model that can't be traced or split: that one runs whole, and ``reason`` says why.

    Args:
        model: maps a batch of inputs to a tensor or a tuple of tensors; what trains has ``requires_grad``.
        example: a few inputs, on the model's device. One is enough.
    """
    with as_it_was(model):
        try:
            (split_point,) = _split(model, example, [trainable_names(model)])
            if split_point.frozen:
                split_point.reason, split_point._copies = _check(model, split_point, example)
        except Unfit as error:
            return _whole(model, example, str(error))
        except Exception as error:  # noqa: BLE001 - a model may do anything while it is traced
            lines = str(error).strip().splitlines() or [""]
            return _whole(model, example, f"tracing failed: {type(error).__name__}: {lines[0]}")
        return (
            split_point
            if split_point.frozen
            else _whole(model, example, "no layer before the trained ones is frozen")
        )


def find_split_points(
    model: nn.Module, example: Tensor, trained: Sequence[Collection[str]]
) -> tuple[list[SplitPoint], str]:
    """The split points a model would have if these parameters trained, found in one trace.

    Made for storing several in one pass over the data. Their keys are those that `find_split_point` gives a
    model that is marked so; their suffixes are not for training. What trains in ``model`` stays as it is.

    Args:
        model: as for `find_split_point`.
        example: as for `find_split_point`.
        trained: for each split point the names of the parameters that would train; see `depth_marks`.

    Returns:
        The distinct split points that have a prefix, and why there are none (empty where there are).
    """
    with as_it_was(model):
        try:
            found = [replace(one, mark=mark) for mark, one in enumerate(_split(model, example, trained))]
            kept = list(
                {split_point.key: split_point for split_point in found if split_point.frozen}.values()
            )
            if kept:
                _check(model, max(kept, key=lambda one: one.prefix_flops), example, training=False)
        except Unfit as error:
            return [], str(error)
        except Exception as error:  # noqa: BLE001 - a model may do anything while it is traced
            return [], f"tracing failed: {type(error).__name__}: {error}"
    return kept, "" if kept else "no layer before the trained ones is frozen"


def shared_prefix(split_points: Sequence[SplitPoint]) -> Callable[[Tensor], tuple[tuple[Tensor, ...], ...]]:
    """One pass that gives the boundaries of several split points, all of one `find_split_points` call."""
    if len(split_points) == 1:
        only = split_points[0]
        return lambda inputs: (only.prefix(inputs),)
    cuts = [split_point._cut for split_point in split_points if split_point._cut is not None]
    if len(cuts) < len(split_points) or any(cut.eval is not cuts[0].eval for cut in cuts):
        raise ValueError("these split points don't come from one call of find_split_points")
    module = prefix_module(cuts[0].eval, [cut.boundary for cut in cuts])

    def run(inputs: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        with torch.no_grad(), evaluating(module):
            return tuple(module(_laid_out(inputs, split_points[0]._channels_last)))

    return run


@dataclass(frozen=True, slots=True, eq=False)
class Bridge:
    """The frozen layers between two split points of one model; ``flops`` are theirs, for one item."""

    flops: float
    _module: nn.Module

    def __call__(self, boundary: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The upper boundary, given the lower one; no gradients, eval mode."""
        with torch.no_grad(), evaluating(self._module):
            return tuple(self._module(*boundary))


def bridge(lower: SplitPoint, upper: SplitPoint) -> Bridge | None:
    """What leads from a split point to a deeper one of the same `find_split_points` call, if anything."""
    if lower._cut is None or upper._cut is None or lower._cut.eval is not upper._cut.eval:
        return None
    found = between_module(lower._cut, upper._cut)
    return Bridge(*found) if found is not None else None


# ---------------------------------------------------------------------------------------------- splitting


def _split(model: nn.Module, example: Tensor, marks: Sequence[Collection[str]]) -> list[SplitPoint]:
    """A split point for each set of trained parameters, unchecked."""
    root, known = Root(model), dict[int, str]()
    model.eval()
    whole = trace(root)
    variants = []
    for trained in marks:
        mark(model, trained)
        in_eval = whole.trained()
        train, resting = _trace_training(model, root)
        digest(train, train.trained(), known)
        variants.append((in_eval, train, resting))
    model.eval()
    digest(whole, set.intersection(*(in_eval for in_eval, _, _ in variants)), known)
    known_facts = facts(whole, _laid_out(example, _channels_last(model)))
    split_points = []
    for in_eval, train, resting in variants:
        frozen = {key for node, key in whole.digests.items() if node not in in_eval}
        cut = Cut(whole, train, known_facts, frozen & set(train.digests.values())).cheapest()
        split_points.append(_assemble(model, cut, resting))
    return split_points


def _trace_training(model: nn.Module, root: Root) -> tuple[Trace, frozenset[str]]:
    """The graph in the modes the model trains in, and the names of the modules that rest."""
    set_modes(model)
    traced = trace(root)
    resting = traced.resting(traced.trained())
    for path in resting:
        root.get_submodule(path).eval()
    if resting - {node.target for node in traced.graph.nodes}:  # a leaf's mode isn't baked into the graph
        traced = trace(root)
    return traced, frozenset(path.removeprefix("model.") for path in resting)


def _assemble(model: nn.Module, cut: Cut, resting: frozenset[str]) -> SplitPoint:
    prefix_nodes = cut.eval.ancestors([cut.facts[d].node for d in cut.boundary], stop=lambda node: False)
    read = [weight for node in prefix_nodes for weight in cut.eval.weights(node)]
    if not read and not any(cut.eval.flops[node] for node in prefix_nodes):
        return SplitPoint("", (), 0.0, 0.0, 0, False, "", resting, model)
    done = [node for node in cut.suffix(cut.eval) if cut.fed(cut.eval, node) is None]
    return SplitPoint(
        key=hashlib.sha256("|".join(cut.boundary).encode()).hexdigest(),
        boundary=cut.specs(),
        prefix_flops=sum(cut.eval.flops[node] for node in prefix_nodes),
        suffix_flops=sum(cut.eval.flops.get(node, 0.0) for node in done),
        parameters=_count(model),
        frozen=True,
        reason="",
        resting=resting,
        _model=model,
        _cut=cut,
        _channels_last=_channels_last(model),
        _read=tuple((weight, weight._version) for weight in read),
    )


# ---------------------------------------------------------------------------------------------- checking


def _check(
    model: nn.Module, split_point: SplitPoint, example: Tensor, *, training: bool = True
) -> tuple[str, bool]:
    """Whether the split point does on the example what the whole model does.

    Returns:
        A remark, empty where outputs are equal; and whether a suffix writes into its inputs.

    Raises:
        Unfit: it doesn't.
    """
    small, large = two_sizes(_laid_out(example, _channels_last(model)))
    few, many = (
        [spec.lay_out(t).clone() for spec, t in zip(split_point.boundary, split_point.prefix(x), strict=True)]
        for x in (small, large)
    )
    for one, two in zip(few, many, strict=True):
        if not torch.allclose(one.float(), two[: len(one)].float(), rtol=1e-2, atol=1e-3, equal_nan=True):
            raise Unfit("an item's boundary depends on the other items of its batch")
    with torch.no_grad():
        given = tuple(tensor.clone() for tensor in few)
        model.eval()
        exact = _agree(model(small), split_point.eval_forward(given), "in eval mode")
        copies = not all(map(torch.equal, few, given))
        if training:
            set_modes(model, split_point.resting)
            given = tuple(tensor.clone() for tensor in many)
            with untouched(model, large):
                expected = model(large)
            with untouched(model, large):
                exact &= _agree(expected, split_point.train_forward(given), "in training mode")
            copies |= not all(map(torch.equal, many, given))
    return "" if exact else "split outputs equal the whole model's only to 1e-5", copies


def _agree(expected: Any, actual: Any, when: str) -> bool:
    """Whether outputs are equal (True) or only close (False).

    Raises:
        Unfit: they aren't even close.
    """
    pairs = list(zip(_tensors(expected), _tensors(actual), strict=True))
    if all(torch.equal(one, two) for one, two in pairs):
        return True
    # By the outputs' own scale: a fresh head's are so small that a wrong trunk would pass for rounding.
    if all(torch.allclose(one, two, rtol=0, atol=1e-5 * float(one.abs().max())) for one, two in pairs):
        return False
    gap = max(float((one - two).abs().max()) for one, two in pairs)
    raise Unfit(f"the split model differs from the whole one by {gap:.2g} {when}")


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = output.values()
    return [tensor for item in output for tensor in _tensors(item)] if isinstance(output, Iterable) else []


def _whole(model: nn.Module, example: Tensor, reason: str) -> SplitPoint:
    """The split point of a model that runs from its input on."""
    model.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(example[:1])
    return SplitPoint(
        key=hashlib.sha256(b"input").hexdigest(),
        boundary=(BoundarySpec(tuple(example.shape[1:]), example.dtype),),
        prefix_flops=0.0,
        suffix_flops=float(counter.get_total_flops()),
        parameters=_count(model),
        frozen=False,
        reason=reason,
        resting=frozenset(),
        _model=model,
        _channels_last=_channels_last(model),
    )


# ------------------------------------------------------------------------------------------------ details


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _channels_last(model: nn.Module) -> bool:
    """Whether the model's kernels are in channels_last memory format."""
    kernels = [weight for weight in model.parameters() if weight.ndim == 4]
    return any(w.is_contiguous(memory_format=torch.channels_last) and not w.is_contiguous() for w in kernels)


def _laid_out(inputs: Tensor, channels_last: bool) -> Tensor:
    wanted = torch.channels_last if channels_last and inputs.ndim == 4 else torch.contiguous_format
    return inputs.contiguous(memory_format=wanted)
