"""A trial's weights on disk: what training changed, and nothing that the pretrained backbone already has."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tlsearch import artifacts
from tlsearch.records import Artifact


def changed(model: nn.Module, trunk: nn.Module) -> dict[str, Tensor]:
    """State of a finished model, without the tensors that equal the pretrained trunk's.

    Args:
        model: whose trunk is called ``trunk``.
        trunk: the pretrained one, untouched.
    """
    original = {f"trunk.{name}": tensor for name, tensor in trunk.state_dict().items()}
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name not in original or not torch.equal(tensor.cpu(), original[name].cpu())
    }


def save(uri: str, state: Mapping[str, Tensor]) -> Artifact:
    """Write tensors as safetensors to a file that appears whole or not at all.

    Raises:
        OSError: the disk is full, or the place can't be written to; nothing half-written stays.
    """
    # Tensors that share memory can't be written as they are; equal copies can.
    own = {name: tensor.clone() for name, tensor in state.items()}
    return artifacts.put(uri, lambda draft: save_file(own, draft))
