"""All that a training loop needs to go on after an epoch as if nothing had happened: tensors and facts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MODEL, BEST, OPTIMIZER, RANDOM = "model", "best", "optimizer", "random"
"""What a tensor of a `FitState` belongs to: the first part of its name."""


@dataclass(frozen=True, slots=True)
class FitState:
    """Where training stands after an epoch. By value: nothing of it changes when training goes on.

    Attributes:
        epoch: the last one that was trained.
        tensors: by ``<what>|<name>``, on the CPU.
        facts: whatever JSON can hold.
    """

    epoch: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def trained_state(model: nn.Module, trained: Collection[str]) -> dict[str, Tensor]:
    """What training may have changed: the parameters of these names and all buffers; no copies."""
    frozen = {name for name, _ in model.named_parameters()} - set(trained)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def capture(
    epoch: int,
    *,
    model: nn.Module,
    trained: Collection[str],
    optimizer: torch.optim.Optimizer,
    best: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> FitState | None:
    """The state after an epoch; None where something trains that isn't the model's, and so wouldn't be there.

    Args:
        epoch: that one.
        model: as it is.
        trained: names of all parameters that trained until now.
        optimizer: of the model's parameters.
        best: the best epoch's tensors, where it was another one.
        facts: what else there is to know.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    if not names.keys() >= optimizer.state.keys():
        return None
    tensors = {f"{MODEL}|{name}": tensor for name, tensor in trained_state(model, trained).items()}
    tensors |= {f"{BEST}|{name}": tensor for name, tensor in best.items()}
    numbers: dict[str, dict[str, Any]] = {}
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            if isinstance(value, Tensor):
                tensors[f"{OPTIMIZER}|{key}|{names[parameter]}"] = value
            else:
                numbers.setdefault(names[parameter], {})[key] = value
    tensors[f"{RANDOM}|cpu"] = torch.get_rng_state()
    device = next(model.parameters()).device
    if device.type == "cuda":
        tensors[f"{RANDOM}|cuda"] = torch.cuda.get_rng_state(device)
    # `copy` is needed where the tensor is on the CPU already.
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    return FitState(epoch, copies, {**facts, "numbers": numbers})


def restore_model(state: FitState, model: nn.Module) -> None:
    """Give the model the values that it had; what trains must be marked already.

    Raises:
        ValueError: they are another model's.
    """
    own = model.state_dict()
    values = _part(state, MODEL)
    if any(name not in own or own[name].shape != value.shape for name, value in values.items()):
        raise ValueError("the checkpoint is another model's")
    model.load_state_dict(values, strict=False)


def restore_optimizer(state: FitState, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer the moments that it had."""
    parameters = dict(model.named_parameters())
    for name, value in _part(state, OPTIMIZER).items():
        key, _, owner = name.partition("|")
        parameter = parameters[owner]
        if value.shape == parameter.shape and key != "step":
            # Fused kernels walk parameter and moments alike: the layout must be the parameter's.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        optimizer.state[parameter][key] = value.to(parameter.device)
    for owner, numbers in state.facts["numbers"].items():
        optimizer.state[parameters[owner]].update(numbers)


def restore_random(state: FitState, device: torch.device) -> None:
    """Let random numbers go on where they were."""
    torch.set_rng_state(state.tensors[f"{RANDOM}|cpu"])
    if device.type == "cuda" and f"{RANDOM}|cuda" in state.tensors:
        torch.cuda.set_rng_state(state.tensors[f"{RANDOM}|cuda"], device)


def best_tensors(state: FitState, device: torch.device) -> dict[str, Tensor]:
    """The best epoch's tensors; empty where the last epoch was the best."""
    return {name: tensor.to(device) for name, tensor in _part(state, BEST).items()}


def _part(state: FitState, what: str) -> dict[str, Tensor]:
    return {
        name[len(what) + 1 :]: tensor for name, tensor in state.tensors.items() if name.startswith(f"{what}|")
    }
