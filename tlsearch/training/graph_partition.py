"""Where a traced model's frozen part ends, and the modules on either side of the cut.

The graph is run at two batch sizes to learn what each node puts out; of all places to cut, the one that
stores the fewest bytes is taken.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from tlsearch.training.tracing import LITERALS, Trace

_CHEAP = 1e-3  # share of the model's operations that may be done again in every step to store fewer bytes
_OPAQUE = object()


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


@dataclass(frozen=True, slots=True)
class _Seen:
    """A tensor that a node put out for some number of rows."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool


class _Probe(fx.Interpreter):
    """Runs a graph's wanted nodes and notes what each put out and how many operations it took."""

    def __init__(self, trace: Trace, wanted: Collection[fx.Node]) -> None:
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
    return value if isinstance(value, LITERALS) else _OPAQUE


def _probe(trace: Trace, inputs: Tensor, wanted: Collection[fx.Node]) -> _Probe:
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
class Fact:
    """What is known of a node that both graphs share: storable (``spec``), a ``literal``, or neither."""

    node: fx.Node
    flops: float
    varies: bool  # depends on the input
    spec: BoundarySpec | None = None
    literal: Any = _OPAQUE


def facts(trace: Trace, example: Tensor) -> dict[str, Fact]:
    """What is known of every node with a digest, by digest; also notes the operations in the trace."""
    small, large = two_sizes(example)
    rows = len(small), len(large)
    few = _probe(trace, small, set(trace.graph.nodes))
    many = _probe(trace, large, trace.digests.keys())
    found: dict[str, Fact] = {}
    varying: set[fx.Node] = set()
    for node, digest in trace.digests.items():
        if node.op == "placeholder" or any(source in varying for source in node.all_input_nodes):
            varying.add(node)
        fact = Fact(node, few.flops[node] / rows[0], node in varying)
        one, two = few.seen[node], many.seen[node]
        if not isinstance(one, _Seen):
            fact.literal = _literal(one, two, rows)
        elif (
            one.shape == (rows[0], *two.shape[1:]) and two.shape[:1] == rows[1:] and not one.dtype.is_complex
        ):
            fact.spec = BoundarySpec(one.shape[1:], one.dtype, one.channels_last)
        found.setdefault(digest, fact)
    trace.flops = {node: flops / rows[0] for node, flops in few.flops.items()}
    return found


def two_sizes(example: Tensor) -> tuple[Tensor, Tensor]:
    """The example as two batches, the second an item longer."""
    small = example[:2]
    return small, torch.cat([small, example[:1]])


@dataclass(frozen=True, eq=False)
class Cut:
    """Where the prefix ends. Nodes go by their digests, so that one cut fits both graphs."""

    eval: Trace
    train: Trace
    facts: Mapping[str, Fact]
    shared: Collection[str]
    again: frozenset[str] = frozenset()  # frozen nodes that the suffix does itself, to store fewer bytes
    boundary: tuple[str, ...] = ()

    def fed(self, trace: Trace, node: fx.Node) -> str | None:
        """The digest of a node that the suffix needn't compute, because it is stored or a literal."""
        digest = trace.digests.get(node)
        if digest is None or digest not in self.shared or digest in self.again:
            return None
        fact = self.facts[digest]
        return digest if fact.varies and (fact.spec is not None or fact.literal is not _OPAQUE) else None

    def suffix(self, trace: Trace) -> set[fx.Node]:
        """Nodes that the suffix computes, or is fed."""
        return trace.ancestors(
            [trace.graph.output_node()], stop=lambda node: self.fed(trace, node) is not None
        )

    def drawn(self) -> Cut:
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

    def cheapest(self) -> Cut:
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


def prefix_module(trace: Trace, boundaries: Sequence[Sequence[str]]) -> fx.GraphModule:
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


def suffix_module(cut: Cut, trace: Trace) -> fx.GraphModule:
    """A module that maps the boundary's tensors to the model's output, in the mode of the trace."""
    graph = fx.Graph()
    _copy_fed(graph, cut, trace, cut.suffix(trace))
    return fx.GraphModule(trace.root, graph, "Suffix")


def between_module(lower: Cut, upper: Cut) -> tuple[float, fx.GraphModule] | None:
    """A module that maps a cut's boundary to a deeper one's, and its operations for one item.

    Both cuts are of the same trace in eval mode. None where the upper boundary needs what the lower cut
    doesn't store.
    """
    trace = lower.eval
    first = {digest: node for node, digest in reversed(trace.digests.items())}
    targets = [first[digest] for digest in upper.boundary]
    needed = trace.ancestors(targets, stop=lambda node: lower.fed(trace, node) is not None)
    done = [node for node in needed if lower.fed(trace, node) is None]
    stored = {digest for node in needed if (digest := lower.fed(trace, node))} - set(lower.boundary)
    if any(node.op == "placeholder" for node in done) or any(lower.facts[d].spec for d in stored):
        return None
    graph = fx.Graph()
    env = _copy_fed(graph, lower, trace, needed)
    graph.output(tuple(env[node] for node in targets))
    flops = sum(trace.flops.get(node, 0.0) for node in done)
    return flops, fx.GraphModule(trace.root, graph, "Between")


def _copy_fed(graph: fx.Graph, cut: Cut, trace: Trace, needed: Collection[fx.Node]) -> dict[fx.Node, Any]:
    """Copy nodes into a graph whose inputs are the boundary's tensors; returns what became of each node."""
    feeds = {digest: graph.placeholder(f"boundary_{index}") for index, digest in enumerate(cut.boundary)}
    rows = graph.call_method("size", (next(iter(feeds.values())), 0))
    env: dict[fx.Node, Any] = {}
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
    return env


def _spelled(graph: fx.Graph, literal: Any, rows: fx.Node) -> Any:
    if isinstance(literal, tuple):
        return tuple(_spelled(graph, part, rows) for part in literal)
    if isinstance(literal, _Rows):
        return rows if literal.times == 1 else graph.call_function(operator.mul, (rows, literal.times))
    return literal
