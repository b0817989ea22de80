"""Weights from files and over the network: read safely, and never replaced by random ones in silence."""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import socket
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tlsearch.errors import WeightsError, did_you_mean

OFFLINE_HINT = (
    "Without a network: give a file (`weights: path/to/model.safetensors`), use weights that were downloaded "
    "before (copy the cache, set HF_HOME or TORCH_HOME; HF_HUB_OFFLINE=1 asks no hub), a folder "
    "(`timm/local-dir:PATH`), or a package that carries its weights, such as tlsearch-efficientnet-lite."
)

# What training scripts wrap a state dict in; averaged weights first.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_PREFIXES = ("_orig_mod.", "module.", "_orig_mod.")


def read_state(weights: str) -> OrderedDict[str, Tensor]:
    """The tensors in a ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file; runs no code that is in it.

    Raises:
        WeightsError: there is no such file, it isn't a checkpoint, or it holds more than tensors.
    """
    path = Path(weights).expanduser()
    if not os.path.isfile(path):  # which takes names that can't be for files that aren't there
        guess = did_you_mean(weights, ["pretrained", "random"])
        raise WeightsError(
            f'There is no weights file "{weights}".' + (f" {guess}" if guess else ""),
            hint='Weights are "pretrained", "random", or a .safetensors, .pth, .pt or .bin file.',
        )
    try:
        if path.suffix == ".safetensors":
            loaded: object = load_file(path)
        else:
            # timm's and others' training scripts store their arguments beside the weights.
            with torch.serialization.safe_globals([argparse.Namespace]):
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} isn't a checkpoint, or holds more than tensors: loading it could run code, so it isn't "
            "loaded.",
            hint="If you trust it, save its state_dict as .safetensors and give that file.",
        ) from error
    except Exception as error:  # torch's readers raise almost anything on damaged files
        raise WeightsError(f"{path} can't be read as a checkpoint: {first_line(error)}") from error
    return _unwrapped(loaded, path)


def misfit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """What is wrong with a state dict, naming a few keys; empty where names and shapes agree."""
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    reshaped = [
        f"{name} {tuple(tensor.shape)} for {tuple(expected[name].shape)}"
        for name, tensor in state.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in kinds.items()
        if names
    )


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def default_init() -> Iterator[None]:
    """Random weights that are the same in every process; the caller's random state stays untouched.

    Workers build a backbone each for themselves and must agree on it, and so must caches of its features.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@contextlib.contextmanager
def network_patience(seconds: float = 15.0) -> Iterator[None]:
    """Let no socket that is opened inside wait for longer: `torch.hub` itself sets no time limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _unwrapped(loaded: Any, path: Path) -> OrderedDict[str, Tensor]:
    if isinstance(loaded, Mapping):
        key = next((key for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        loaded = loaded if key is None else loaded[key]
    tensors = isinstance(loaded, Mapping) and all(isinstance(value, Tensor) for value in loaded.values())
    if not tensors or not loaded:
        raise WeightsError(
            f"{path} holds no state dict (names with tensors).",
            hint="Save one with `torch.save(model.state_dict(), path)` or `safetensors.torch.save_file`.",
        )
    state = OrderedDict((_without_wrappers(name), tensor) for name, tensor in loaded.items())
    if hasattr(loaded, "_metadata"):  # versions of modules, which some need to read older layouts
        state._metadata = loaded._metadata  # type: ignore[attr-defined]
    return state


def _without_wrappers(name: str) -> str:
    for prefix in _PREFIXES:  # of torch.compile and DistributedDataParallel, around each other
        name = name.removeprefix(prefix)
    return name
