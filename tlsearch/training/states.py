"""Modes, buffers, marks and random numbers of a model, left as they were found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Leave modes and marks of the model as they are now."""
    marks = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with evaluating(model):
            yield
    finally:
        for parameter, trains in marks:
            parameter.requires_grad_(trains)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
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
def untouched(model: nn.Module, example: Tensor) -> Iterator[None]:
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
