"""A model's graph, traced with `torch.fx`, and a digest for every node of all that its value depends on.

The same digest stands for the same value in any graph, model or process.
"""

from __future__ import annotations

import copy
import hashlib
import random
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from tlsearch.contracts.backbone import hash_tensors
from tlsearch.contracts.layers import Tap

# Types of the values that a graph or a module's settings may hold as constants.
LITERALS = (bool, int, float, str, torch.dtype, torch.device, torch.memory_format, type(None), type(...))
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


class Unfit(Exception):
    """The model can't be split; the message is the reason."""


class Root(nn.Module):
    """Holds the model: hides its optional arguments from the tracer, and takes the tracer's constants."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Any:
        """What the model returns."""
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
        known = isinstance(m, self.leaves) or getattr(m, "opaque", False)
        return known or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        for hook in m._forward_hooks.values():
            if isinstance(hook, Tap):  # a leaf isn't run, and neither are its hooks
                hook(m, args, output)
        return output


@dataclass(eq=False)
class Trace:
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


ATTEMPTS = 3
"""At the first, another thread may have drawn from the process's random generators; hardly at all of them."""


def trace(root: Root) -> Trace:
    """The model's graph in the modes it is in now, without digests; raises `Unfit`."""
    for _ in range(ATTEMPTS):
        before = torch.get_rng_state(), random.getstate()
        with _attributes_kept(root.model):
            graph = _Tracer().trace(root)
        if torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate():
            return Trace(root, graph)
    raise Unfit("it draws random numbers that a trace would fix for ever")


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


# ---------------------------------------------------------------------------------------------- digests


def digest(trace: Trace, skip: Collection[fx.Node], known: dict[int, str]) -> None:
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
            and (isinstance(value, (*LITERALS, tuple)) or callable(value))
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
