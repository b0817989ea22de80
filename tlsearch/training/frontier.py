"""A model's frozen prefix and its trained suffix, found by tracing.

Nothing is declared: what trains is what has ``requires_grad``. The model is traced twice with `torch.fx`, in
eval mode and in the modes it trains in, and every node of either graph gets a digest of all that its value
depends on (operations, settings, weights). A node belongs to the prefix if it depends on no trained parameter
and its digest stands in both graphs; so whatever training makes random, or different, falls into the suffix.
The tensors that cross are the boundary, and their digests are the prefix's key: the same frozen computation
has the same key in any model, trial or process.
"""

from __future__ import annotations

import copy
import hashlib
import operator
import random
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from tlsearch.contracts.backbone import Backbone, hash_tensors

_LITERALS = (bool, int, float, str, torch.dtype, torch.device, torch.memory_format, type(None), type(...))
_IN_PLACE = {
    "iadd",
    "isub",
    "imul",
    "itruediv",
    "iand",
    "ior",
    "ixor",
    "imatmul",
    "ifloordiv",
    "imod",
    "ipow",
}
_CHEAP = 1e-3  # share of the model's operations that may be done again in every step to store fewer bytes


@dataclass(frozen=True, slots=True)
class BoundarySpec:
    """One tensor that crosses, for one item: its shape without the batch, and how it lies in memory."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool = False

    @property
    def bytes(self) -> int:
        """Size for one item."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def lay_out(self, tensor: Tensor) -> Tensor:
        """The same values in the memory format that stored ones come back in."""
        return tensor.contiguous(
            memory_format=torch.channels_last if self.channels_last else torch.contiguous_format
        )


@dataclass(eq=False)
class Frontier:
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
    """

    key: str
    boundary: tuple[BoundarySpec, ...]
    prefix_flops: float
    suffix_flops: float
    parameters: int
    frozen: bool
    reason: str
    resting: frozenset[str]
    _prefix: nn.Module | None
    _train: nn.Module
    _eval: nn.Module
    _cut: _Cut | None = None
    _channels_last: bool = False  # the memory format of the model's kernels
    _copies: bool = False  # the suffix writes into its inputs, which a caller may use twice

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
        with torch.no_grad(), _evaluating(self._prefix):
            (outputs,) = self._prefix(_laid_out(inputs, self._channels_last))
        return tuple(outputs)

    def train_forward(self, boundary: tuple[Tensor, ...]) -> Any:
        """What the model returns in training."""
        return self._train(*self._own(boundary))

    def eval_forward(self, boundary: tuple[Tensor, ...]) -> Any:
        """What the model returns in eval mode. Gradients flow unless the caller turns them off."""
        with _evaluating(self._eval):
            return self._eval(*self._own(boundary))

    def _own(self, boundary: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensor.clone() for tensor in boundary) if self._copies else boundary


def find_frontier(model: nn.Module, example: Tensor) -> Frontier:
    """Split a model where its frozen part ends.

    Never raises for a model that can't be traced or split: that one runs whole, and ``reason`` says why.

    Args:
        model: maps a batch of inputs to a tensor or a tuple of tensors; what trains has ``requires_grad``.
        example: a few inputs, on the model's device. One is enough.
    """
    with _as_it_was(model):
        try:
            (frontier,) = _split(model, example, [trainable_names(model)])
            if frontier.frozen:
                frontier = _checked(model, frontier, example)
        except _Unfit as error:
            return _whole(model, example, str(error))
        except Exception as error:  # noqa: BLE001 - a model may do anything while it is traced
            lines = str(error).strip().splitlines() or [""]
            return _whole(model, example, f"tracing failed: {type(error).__name__}: {lines[0]}")
        return (
            frontier
            if frontier.frozen
            else _whole(model, example, "no layer before the trained ones is frozen")
        )


def find_frontiers(
    model: nn.Module, example: Tensor, trained: Sequence[Collection[str]]
) -> tuple[list[Frontier], str]:
    """The frontiers a model would have if these parameters trained, found in one trace.

    Made for storing several in one pass over the data. Their keys are those that `find_frontier` gives a
    model that is marked so; their suffixes are not for training. What trains in ``model`` stays as it is.

    Args:
        model: as for `find_frontier`.
        example: as for `find_frontier`.
        trained: for each frontier the names of the parameters that would train; see `depth_marks`.

    Returns:
        The distinct frontiers that have a prefix, and why there are none (empty where there are).
    """
    with _as_it_was(model):
        try:
            found = _split(model, example, trained)
            kept = list({frontier.key: frontier for frontier in found if frontier.frozen}.values())
            if kept:
                _checked(model, max(kept, key=lambda one: one.prefix_flops), example, training=False)
        except _Unfit as error:
            return [], str(error)
        except Exception as error:  # noqa: BLE001 - a model may do anything while it is traced
            return [], f"tracing failed: {type(error).__name__}: {error}"
    return kept, "" if kept else "no layer before the trained ones is frozen"


def shared_prefix(frontiers: Sequence[Frontier]) -> Callable[[Tensor], tuple[tuple[Tensor, ...], ...]]:
    """One pass that gives the boundaries of several frontiers, all of one `find_frontiers` call."""
    if len(frontiers) == 1:
        only = frontiers[0]
        return lambda inputs: (only.prefix(inputs),)
    cuts = [frontier._cut for frontier in frontiers if frontier._cut is not None]
    if len(cuts) < len(frontiers) or any(cut.eval is not cuts[0].eval for cut in cuts):
        raise ValueError("these frontiers don't come from one call of find_frontiers")
    module = _prefix_module(cuts[0].eval, [cut.boundary for cut in cuts])

    def run(inputs: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        with torch.no_grad(), _evaluating(module):
            return tuple(module(_laid_out(inputs, frontiers[0]._channels_last)))

    return run


def trainable_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that train: while this stays the same, so does the frontier."""
    return frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def depth_marks(model: Backbone) -> list[frozenset[str]]:
    """What trains at each freeze depth of a backbone, from the first group frozen to all of them."""
    names = {name for name, _ in model.named_parameters()}
    marks = []
    for group in model.info.groups:
        names = names - {f"trunk.{name}" for name in group}
        marks.append(frozenset(names))
    return marks


def set_modes(model: nn.Module, frontier: Frontier | None = None) -> None:
    """Put every module in the mode it trains in.

    A module with parameters is in training mode if any of them trains: a frozen BatchNorm must not move its
    statistics. One without goes with its parent, except that what only the prefix uses stays in eval mode.
    """
    model.train()
    _set_modes(model, inherited=True)
    for name in frontier.resting if frontier else ():
        model.get_submodule(name).eval()


def _set_modes(module: nn.Module, *, inherited: bool) -> None:
    marks = [parameter.requires_grad for parameter in module.parameters()]
    module.train(any(marks) if marks else inherited)  # not by the flag: some modules drop caches in train()
    for child in module.children():
        _set_modes(child, inherited=module.training)


# ---------------------------------------------------------------------------------------------- tracing


class _Unfit(Exception):
    """The model can't be split; the message is the reason."""


class _Root(nn.Module):
    """Holds the model: hides its optional arguments from the tracer, and takes the tracer's constants."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Any:
        return self.model(inputs)


class _Tracer(fx.Tracer):
    """Traces as timm and torchvision do, with timm's leaf modules and functions where timm is in use."""

    def __init__(self) -> None:
        self.leaves: tuple[type[nn.Module], ...] = ()
        functions: tuple[Callable[..., Any], ...] = ()
        if "timm.layers" in sys.modules:
            from timm.layers import get_notrace_functions, get_notrace_modules

            self.leaves, functions = tuple(get_notrace_modules()), tuple(get_notrace_functions())
        super().__init__(autowrap_functions=functions)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)


@dataclass(eq=False)
class _Trace:
    """A graph, the modules it calls, and a digest for every node that depends on nothing trained."""

    root: nn.Module
    graph: fx.Graph
    digests: dict[fx.Node, str] = field(default_factory=dict)
    flops: dict[fx.Node, float] = field(default_factory=dict)  # for one item; of the eval graph only

    def weights(self, node: fx.Node) -> list[Tensor]:
        """Parameters that the node itself uses."""
        if node.op == "call_module":
            return list(self.root.get_submodule(str(node.target)).parameters())
        if node.op == "get_attr":
            tensor = self.attribute(node)
            return [tensor] if isinstance(tensor, nn.Parameter) else []
        return []

    def attribute(self, node: fx.Node) -> Any:
        """What a ``get_attr`` node gets."""
        owner, _, name = str(node.target).rpartition(".")
        return getattr(self.root.get_submodule(owner), name)

    def trained(self) -> set[fx.Node]:
        """Nodes that depend on a parameter that trains."""
        found: set[fx.Node] = set()
        for node in self.graph.nodes:
            own = any(weight.requires_grad for weight in self.weights(node))
            if own or any(source in found for source in node.all_input_nodes):
                found.add(node)
        return found

    def ancestors(self, targets: Collection[fx.Node], stop: Callable[[fx.Node], bool]) -> set[fx.Node]:
        """The targets and all they need, not looking behind nodes where ``stop`` holds.

        What writes into a needed value is needed too, even if nobody uses its result.
        """
        found: set[fx.Node] = set()
        waiting = list(targets)
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                if not stop(node):
                    waiting += node.all_input_nodes
                    waiting += [user for user in node.users if self.writes(user, node)]
        return found

    def writes(self, node: fx.Node, target: fx.Node) -> bool:
        """Whether the node changes the target's value in place."""
        if not node.args or node.args[0] is not target:
            return False
        if node.op == "call_module":
            return bool(getattr(self.root.get_submodule(str(node.target)), "inplace", False))
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        written = name.endswith("_") and not name.endswith("__")
        return written or name in _IN_PLACE or node.kwargs.get("inplace") is True

    def resting(self, trained: set[fx.Node]) -> set[str]:
        """Paths of parameterless modules all of whose work is followed by frozen layers with weights."""
        layers = [node for node in self.graph.nodes if self.weights(node)]
        users = [user for node in layers if node.op == "get_attr" for user in node.users]
        frozen = [node for node in (*layers, *users) if node not in trained]
        settled = self.ancestors(frozen, stop=lambda node: False)
        used: dict[str, bool] = {}
        for node in self.graph.nodes:
            owners = {path for path, _ in node.meta.get("nn_module_stack", {}).values()}
            owners |= {str(node.target)} if node.op == "call_module" else set()
            for path in owners:
                used[path] = used.get(path, True) and node in settled
        return {path for path, all_settled in used.items() if all_settled and self._rests(path)}

    def _rests(self, path: str) -> bool:
        module = self.root.get_submodule(path)
        return module.training and next(module.parameters(), None) is None


def _trace(root: _Root) -> _Trace:
    before = torch.get_rng_state(), random.getstate()
    with _attributes_kept(root.model):
        graph = _Tracer().trace(root)
    if not torch.equal(before[0], torch.get_rng_state()) or before[1] != random.getstate():
        raise _Unfit("it draws random numbers that a trace would fix for ever")
    return _Trace(root, graph)


# ---------------------------------------------------------------------------------------------- digests


def _digest(trace: _Trace, skip: Collection[fx.Node], known: dict[int, str]) -> None:
    """Give every node that isn't skipped a digest of all that its value depends on."""
    names = trace.digests
    for node in trace.graph.nodes:
        if node in skip or node.op == "output" or any(s not in names for s in node.all_input_nodes):
            continue
        if node.op == "placeholder":
            names[node] = "input"
            continue
        if node.op == "call_module":
            what = _module_content(trace.root.get_submodule(str(node.target)), known)
        elif node.op == "get_attr":
            what = _tensor_digest(trace.attribute(node), known)
        else:
            what = _title(node.target) if callable(node.target) else str(node.target)
        text = f"{node.op}|{what}|{_spell(node.args, names)}|{_spell(node.kwargs, names)}"
        names[node] = hashlib.sha256(text.encode()).hexdigest()


def _spell(argument: Any, names: Mapping[fx.Node, str]) -> str:
    if isinstance(argument, fx.Node):
        return names[argument]
    if isinstance(argument, tuple | list):
        return f"({','.join(_spell(item, names) for item in argument)})"
    if isinstance(argument, Mapping):
        return f"{{{','.join(f'{key}={_spell(argument[key], names)}' for key in sorted(argument))}}}"
    if isinstance(argument, slice):
        return f"slice{_spell((argument.start, argument.stop, argument.step), names)}"
    return _title(argument) if callable(argument) else repr(argument)


def _title(thing: Any) -> str:
    """A function's or class's full name, with its package's version, since another may compute otherwise."""
    place = getattr(thing, "__module__", None) or ""
    package = sys.modules.get(place.partition(".")[0])
    return f"{place}.{getattr(thing, '__qualname__', repr(thing))}@{getattr(package, '__version__', '')}"


def _module_content(module: nn.Module, known: dict[int, str]) -> str:
    """Class, settings, mode where it matters, and weights of a leaf module and all inside it."""
    lines = []
    for path, part in module.named_modules():
        settings = {
            name: _spell(value, {})
            for name, value in vars(part).items()
            if name[0] != "_"
            and name != "training"
            and (isinstance(value, (*_LITERALS, tuple)) or callable(value))
        }
        mode = "training" if part.training and _mode_matters(part) else ""
        lines.append(f"{path}|{_title(type(part))}|{sorted(settings.items())}|{mode}")
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    lines += [f"{path}|{_tensor_digest(tensor, known)}" for path, tensor in sorted(tensors.items())]
    return "\n".join(lines)


def _mode_matters(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return module.dropout > 0
    return isinstance(module, nn.modules.batchnorm._NormBase | nn.RReLU)


def _tensor_digest(tensor: Any, known: dict[int, str]) -> str:
    if not isinstance(tensor, Tensor):
        return repr(tensor)
    if id(tensor) not in known:
        known[id(tensor)] = hash_tensors({"": tensor})
    return known[id(tensor)]


# ---------------------------------------------------------------------------------------------- cutting

_OPAQUE = object()


@dataclass(frozen=True, slots=True)
class _Seen:
    """A tensor that a node put out for some number of rows."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool


class _Probe(fx.Interpreter):
    """Runs a graph's wanted nodes and notes what each put out and how many operations it took."""

    def __init__(self, trace: _Trace, wanted: Collection[fx.Node]) -> None:
        super().__init__(trace.root, graph=trace.graph)
        self.wanted = wanted
        self.seen: dict[fx.Node, Any] = {}
        self.flops: dict[fx.Node, int] = {}
        self.counter = FlopCounterMode(display=False)

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "output" or n not in self.wanted:
            return None
        before = self.counter.get_total_flops()
        value = super().run_node(n)
        self.flops[n] = self.counter.get_total_flops() - before
        self.seen[n] = _note(value)
        return value


def _note(value: Any) -> Any:
    if isinstance(value, Tensor):
        last = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
        return _Seen(tuple(value.shape), value.dtype, last and not value.is_contiguous())
    if isinstance(value, tuple | list):
        notes = tuple(_note(item) for item in value)
        return _OPAQUE if any(note is _OPAQUE or isinstance(note, _Seen) for note in notes) else notes
    return value if isinstance(value, _LITERALS) else _OPAQUE


def _probe(trace: _Trace, inputs: Tensor, wanted: Collection[fx.Node]) -> _Probe:
    probe = _Probe(trace, wanted)
    with torch.no_grad(), probe.counter:
        probe.run(inputs)
    return probe


@dataclass(frozen=True, slots=True)
class _Rows:
    """An int that grows with the batch: so many times the number of rows."""

    times: int


def _literal(few: Any, many: Any, rows: tuple[int, int]) -> Any:
    """What a value seen at two batch sizes is for any: a constant, `_Rows`, a tuple of these, or opaque."""
    if isinstance(few, tuple) and isinstance(many, tuple) and len(few) == len(many):
        parts = tuple(_literal(*pair, rows) for pair in zip(few, many, strict=True))
        return _OPAQUE if any(part is _OPAQUE for part in parts) else parts
    if isinstance(few, _Seen) or few is _OPAQUE or many is _OPAQUE:
        return _OPAQUE
    if type(few) is type(many) and few == many:
        return few
    if type(few) is int and type(many) is int and few % rows[0] == 0 and few * rows[1] == many * rows[0]:
        return _Rows(few // rows[0])
    return _OPAQUE


@dataclass(slots=True)
class _Fact:
    """What is known of a node that both graphs share: storable (``spec``), a ``literal``, or neither."""

    node: fx.Node
    flops: float
    varies: bool  # depends on the input
    spec: BoundarySpec | None = None
    literal: Any = _OPAQUE


def _facts(trace: _Trace, example: Tensor) -> dict[str, _Fact]:
    small, large = _two_sizes(example)
    rows = len(small), len(large)
    few = _probe(trace, small, set(trace.graph.nodes))
    many = _probe(trace, large, trace.digests.keys())
    facts: dict[str, _Fact] = {}
    varying: set[fx.Node] = set()
    for node, digest in trace.digests.items():
        if node.op == "placeholder" or any(source in varying for source in node.all_input_nodes):
            varying.add(node)
        fact = _Fact(node, few.flops[node] / rows[0], node in varying)
        one, two = few.seen[node], many.seen[node]
        if not isinstance(one, _Seen):
            fact.literal = _literal(one, two, rows)
        elif (
            one.shape == (rows[0], *two.shape[1:]) and two.shape[:1] == rows[1:] and not one.dtype.is_complex
        ):
            fact.spec = BoundarySpec(one.shape[1:], one.dtype, one.channels_last)
        facts.setdefault(digest, fact)
    trace.flops = {node: flops / rows[0] for node, flops in few.flops.items()}
    return facts


def _two_sizes(example: Tensor) -> tuple[Tensor, Tensor]:
    small = example[:2]
    return small, torch.cat([small, example[:1]])


@dataclass(frozen=True, eq=False)
class _Cut:
    """Where the prefix ends. Nodes go by their digests, so that one cut fits both graphs."""

    eval: _Trace
    train: _Trace
    facts: Mapping[str, _Fact]
    shared: Collection[str]
    again: frozenset[str] = frozenset()  # frozen nodes that the suffix does itself, to store fewer bytes
    boundary: tuple[str, ...] = ()

    def fed(self, trace: _Trace, node: fx.Node) -> str | None:
        """The digest of a node that the suffix needn't compute, because it is stored or a literal."""
        digest = trace.digests.get(node)
        if digest is None or digest not in self.shared or digest in self.again:
            return None
        fact = self.facts[digest]
        return digest if fact.varies and (fact.spec is not None or fact.literal is not _OPAQUE) else None

    def suffix(self, trace: _Trace) -> set[fx.Node]:
        """Nodes that the suffix computes, or is fed."""
        return trace.ancestors(
            [trace.graph.output_node()], stop=lambda node: self.fed(trace, node) is not None
        )

    def drawn(self) -> _Cut:
        """The cut with its boundary: all tensors that either graph's suffix is fed."""
        needed = {
            digest
            for trace in (self.eval, self.train)
            for node in self.suffix(trace)
            if (digest := self.fed(trace, node)) and self.facts[digest].spec is not None
        }
        return replace(self, boundary=tuple(digest for digest in self.facts if digest in needed))

    def cost(self) -> tuple[int, int]:
        """Bytes stored for one item, then the number of tensors."""
        return sum(spec.bytes for spec in self.specs()), len(self.boundary)

    def specs(self) -> tuple[BoundarySpec, ...]:
        """Of the boundary's tensors."""
        specs = (self.facts[digest].spec for digest in self.boundary)
        return tuple(spec for spec in specs if spec is not None)

    def cheapest(self) -> _Cut:
        """The cut moved towards the input past cheap nodes, as long as that saves bytes."""
        best, spare = self.drawn(), _CHEAP * sum(self.eval.flops.values())
        tried: set[str] = set()
        while candidates := [digest for digest in best.boundary if digest not in tried and digest != "input"]:
            tried.add(candidates[-1])
            if self.facts[candidates[-1]].flops > spare:
                continue
            moved = replace(best, again=best.again | {candidates[-1]}).drawn()
            if moved.cost() < best.cost():
                best, tried, spare = moved, set(), spare - self.facts[candidates[-1]].flops
        return best


def _prefix_module(trace: _Trace, boundaries: Sequence[Sequence[str]]) -> fx.GraphModule:
    """A module that maps inputs to a tuple of boundaries, each a tuple of tensors."""
    first = {digest: node for node, digest in reversed(trace.digests.items())}
    targets = [[first[digest] for digest in boundary] for boundary in boundaries]
    needed = trace.ancestors([node for nodes in targets for node in nodes], stop=lambda node: False)
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in trace.graph.nodes:
        if node in needed or node.op == "placeholder":
            env[node] = graph.node_copy(node, env.__getitem__)
    graph.output(tuple(tuple(env[node] for node in nodes) for nodes in targets))
    return fx.GraphModule(trace.root, graph, "Prefix")


def _suffix_module(cut: _Cut, trace: _Trace) -> fx.GraphModule:
    """A module that maps the boundary's tensors to the model's output, in the mode of the trace."""
    graph = fx.Graph()
    feeds = {digest: graph.placeholder(f"boundary_{index}") for index, digest in enumerate(cut.boundary)}
    rows = graph.call_method("size", (next(iter(feeds.values())), 0))
    env: dict[fx.Node, Any] = {}
    needed = cut.suffix(trace)
    for node in trace.graph.nodes:
        if node not in needed:
            continue
        digest = cut.fed(trace, node)
        if digest is None:
            env[node] = graph.node_copy(node, env.__getitem__)
        else:
            env[node] = feeds[digest] if digest in feeds else _spelled(graph, cut.facts[digest].literal, rows)
    if not rows.users:
        graph.erase_node(rows)
    return fx.GraphModule(trace.root, graph, "Suffix")


def _spelled(graph: fx.Graph, literal: Any, rows: fx.Node) -> Any:
    if isinstance(literal, tuple):
        return tuple(_spelled(graph, part, rows) for part in literal)
    if isinstance(literal, _Rows):
        return rows if literal.times == 1 else graph.call_function(operator.mul, (rows, literal.times))
    return literal


def _split(model: nn.Module, example: Tensor, marks: Sequence[Collection[str]]) -> list[Frontier]:
    """A frontier for each set of trained parameters, unchecked."""
    root, known = _Root(model), dict[int, str]()
    model.eval()
    whole = _trace(root)
    variants = []
    for trained in marks:
        _mark(model, trained)
        in_eval = whole.trained()
        train, resting = _trace_training(model, root)
        _digest(train, train.trained(), known)
        variants.append((in_eval, train, resting))
    model.eval()
    _digest(whole, set.intersection(*(in_eval for in_eval, _, _ in variants)), known)
    facts = _facts(whole, _laid_out(example, _channels_last(model)))
    frontiers = []
    for in_eval, train, resting in variants:
        frozen = {digest for node, digest in whole.digests.items() if node not in in_eval}
        cut = _Cut(whole, train, facts, frozen & set(train.digests.values())).cheapest()
        frontiers.append(_assemble(model, cut, resting))
    return frontiers


def _trace_training(model: nn.Module, root: _Root) -> tuple[_Trace, frozenset[str]]:
    """The graph in the modes the model trains in, and the names of the modules that rest."""
    set_modes(model)
    trace = _trace(root)
    resting = trace.resting(trace.trained())
    for path in resting:
        root.get_submodule(path).eval()
    if resting - {node.target for node in trace.graph.nodes}:  # a leaf's mode isn't baked into the graph
        trace = _trace(root)
    return trace, frozenset(path.removeprefix("model.") for path in resting)


def _assemble(model: nn.Module, cut: _Cut, resting: frozenset[str]) -> Frontier:
    prefix_nodes = cut.eval.ancestors([cut.facts[d].node for d in cut.boundary], stop=lambda node: False)
    frozen = any(cut.eval.weights(node) or cut.eval.flops[node] for node in prefix_nodes)
    if not frozen:
        return Frontier("", (), 0.0, 0.0, 0, False, "", resting, None, model, model)
    done = [node for node in cut.suffix(cut.eval) if cut.fed(cut.eval, node) is None]
    return Frontier(
        key=hashlib.sha256("|".join(cut.boundary).encode()).hexdigest(),
        boundary=cut.specs(),
        prefix_flops=sum(cut.eval.flops[node] for node in prefix_nodes),
        suffix_flops=sum(cut.eval.flops.get(node, 0.0) for node in done),
        parameters=_count(model),
        frozen=True,
        reason="",
        resting=resting,
        _prefix=_prefix_module(cut.eval, [cut.boundary]),
        _train=_suffix_module(cut, cut.train),
        _eval=_suffix_module(cut, cut.eval),
        _cut=cut,
        _channels_last=_channels_last(model),
    )


# ---------------------------------------------------------------------------------------------- checking


def _checked(model: nn.Module, frontier: Frontier, example: Tensor, *, training: bool = True) -> Frontier:
    """The frontier, if it does on the example what the whole model does.

    Raises:
        _Unfit: it doesn't.
    """
    small, large = _two_sizes(_laid_out(example, _channels_last(model)))
    few, many = (
        [spec.lay_out(t).clone() for spec, t in zip(frontier.boundary, frontier.prefix(x), strict=True)]
        for x in (small, large)
    )
    for one, two in zip(few, many, strict=True):
        if not torch.allclose(one.float(), two[: len(one)].float(), rtol=1e-2, atol=1e-3, equal_nan=True):
            raise _Unfit("an item's boundary depends on the other items of its batch")
    with torch.no_grad():
        given = tuple(tensor.clone() for tensor in few)
        model.eval()
        exact = _agree(model(small), frontier.eval_forward(given), "in eval mode")
        copies = not all(map(torch.equal, few, given))
        if training:
            set_modes(model, frontier)
            given = tuple(tensor.clone() for tensor in many)
            with _untouched(model, large):
                expected = model(large)
            with _untouched(model, large):
                exact &= _agree(expected, frontier.train_forward(given), "in training mode")
            copies |= not all(map(torch.equal, many, given))
    remark = "" if exact else "split outputs equal the whole model's only to 1e-5"
    return replace(frontier, reason=remark, _copies=copies)


def _agree(expected: Any, actual: Any, when: str) -> bool:
    """Whether outputs are equal (True) or only close (False).

    Raises:
        _Unfit: they aren't even close.
    """
    pairs = list(zip(_tensors(expected), _tensors(actual), strict=True))
    if all(torch.equal(one, two) for one, two in pairs):
        return True
    # By the outputs' own scale: a fresh head's are so small that a wrong trunk would pass for rounding.
    if all(torch.allclose(one, two, rtol=0, atol=1e-5 * float(one.abs().max())) for one, two in pairs):
        return False
    gap = max(float((one - two).abs().max()) for one, two in pairs)
    raise _Unfit(f"the split model differs from the whole one by {gap:.2g} {when}")


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = output.values()
    return [tensor for item in output for tensor in _tensors(item)] if isinstance(output, Iterable) else []


def _whole(model: nn.Module, example: Tensor, reason: str) -> Frontier:
    """The frontier of a model that runs from its input on."""
    model.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(example[:1])
    return Frontier(
        key=hashlib.sha256(b"input").hexdigest(),
        boundary=(BoundarySpec(tuple(example.shape[1:]), example.dtype),),
        prefix_flops=0.0,
        suffix_flops=float(counter.get_total_flops()),
        parameters=_count(model),
        frozen=False,
        reason=reason,
        resting=frozenset(),
        _prefix=None,
        _train=model,
        _eval=model,
        _channels_last=_channels_last(model),
    )


# ------------------------------------------------------------------------------------- states left as found


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Leave modes and marks of the model as they are now."""
    marks = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with _evaluating(model):
            yield
    finally:
        for parameter, trains in marks:
            parameter.requires_grad_(trains)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """In eval mode inside, and as before afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    if not any(training for _, training in modes):
        yield
        return
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            if training:
                part.train()  # some modules cache weights in eval mode and forget them here
        for part, training in modes:
            part.training = training


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """Give modules back what tracing writes into their attributes: caches would keep symbols for values."""
    kept = [(vars(module), dict(vars(module))) for module in model.modules()]
    caches = [
        (value, copy.copy(value)) for _, before in kept for value in before.values() if type(value) is dict
    ]
    try:
        yield
    finally:
        for now, before in kept:
            now.clear()
            now.update(before)
        for cache, content in caches:
            cache.clear()
            cache.update(content)


@contextmanager
def _untouched(model: nn.Module, example: Tensor) -> Iterator[None]:
    """Run with fixed random numbers; afterwards buffers and generators are as before."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = [example.device] if example.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        try:
            yield
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _mark(model: nn.Module, trained: Collection[str]) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def _channels_last(model: nn.Module) -> bool:
    """Whether the model's kernels are in channels_last memory format."""
    kernels = [weight for weight in model.parameters() if weight.ndim == 4]
    return any(w.is_contiguous(memory_format=torch.channels_last) and not w.is_contiguous() for w in kernels)


def _laid_out(inputs: Tensor, channels_last: bool) -> Tensor:
    wanted = torch.channels_last if channels_last and inputs.ndim == 4 else torch.contiguous_format
    return inputs.contiguous(memory_format=wanted)
