"""A classifier taken apart: its trunk, which puts out pooled features, and the head that it came with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tlsearch.backbones.checkpoints import first_line
from tlsearch.backbones.groups import in_order, with_names
from tlsearch.contracts.backbone import Pretrained, describe
from tlsearch.contracts.images import ImageInput
from tlsearch.errors import InputError


def split(
    name: str,
    model: nn.Module,
    *,
    inputs: ImageInput,
    weights: str,
    own_size: int,
    head_name: str,
    head: nn.Module | None,
    behead: Callable[[nn.Module], None],
    groups: Callable[[nn.Module], Sequence[Sequence[str]]],
) -> Pretrained:
    """Turn a whole classifier into a trunk and its source head, and try both on an image.

    Args:
        name: ``family/variant``.
        model: maps images to logits; becomes the trunk.
        inputs: how pictures become its input.
        weights: what was asked for.
        own_size: the image size that it was made for, for the error message.
        head_name: of the classifier inside the model.
        head: the classifier itself, kept where it gives the whole model's logits of the trunk's features;
            None where its weights mean nothing.
        behead: takes the classifier off the model, in place.
        groups: all parameters of the trunk in groups, roughly from the input on.

    Raises:
        InputError: the model can't take images of that size, or puts out no pooled features.
    """
    model.eval()
    batch = inputs.to_model(inputs.example(1))
    try:
        with torch.no_grad():
            logits = model(batch) if head is not None else None
        behead(model)
        features, ordered = in_order(model, groups(model), batch)
    except Exception as error:  # models say in many ways that they can't take a size
        raise cannot_take(name, inputs.size, own_size, error) from error
    if not isinstance(features, Tensor) or features.ndim != 2:
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(f"{name} puts out no feature vector per image, but {found}.")
    info = describe(
        name,
        model,
        weights=weights,
        inputs=inputs,
        groups=with_names(ordered),
        width=features.shape[1],
        head=head_name,
    )
    source_head = None if head is None else _as_head(head, features.shape[1])
    if source_head is not None and not _reproduces(source_head, features, logits):
        source_head = None  # several classifiers, or one with more behind it (SqueezeNet)
    return Pretrained(info=info, trunk=model, source_head=source_head)


def cannot_take(name: str, size: int, own_size: int, error: Exception) -> InputError:
    """The error for a model that can't be built for, or run on, images of a size."""
    return InputError(
        f"{name} can't take images of {size} x {size} pixels: {first_line(error)}",
        hint=f"Its own image_size is {own_size}; most others that work are multiples of 32.",
    )


def _as_head(head: nn.Module, width: int) -> nn.Module:
    """A classifier as a map of feature vectors: some are 1 x 1 convolutions."""
    if isinstance(head, nn.Conv2d):
        return nn.Sequential(nn.Unflatten(1, (width, 1, 1)), head, nn.Flatten(1)).eval()
    return head.eval()


def _reproduces(head: nn.Module, features: Tensor, logits: object) -> bool:
    try:
        with torch.no_grad():
            own = head(features)
    except (RuntimeError, LookupError, TypeError):  # NotImplementedError is a RuntimeError
        return False  # it takes something else, or is a list of classifiers
    return (
        isinstance(own, Tensor)
        and isinstance(logits, Tensor)
        and own.shape == logits.shape
        and torch.allclose(own, logits, rtol=1e-3, atol=1e-4)
    )
