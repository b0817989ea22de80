"""A pretrained trunk for pictures of other channels than RGB: its first convolution takes as many.

The weights are adapted as timm's ``adapt_input_conv`` does
(https://github.com/huggingface/pytorch-image-models): for one channel those of red, green and blue are added
up, which gives for grey what RGB gave for it; for others they are repeated in turn and scaled by
3 / channels, so that activations stay as large as they were.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from tlsearch.contracts.backbone import Pretrained, count_flops, hash_tensors
from tlsearch.errors import InputError
from tlsearch.records import RGB, Pixels


def adapted(pretrained: Pretrained, pixels: Pixels) -> Pretrained:
    """A backbone that was just loaded, made to take pictures of so many channels and bits, in place.

    Raises:
        DataError: it takes no pictures.
        InputError: its first layer is no convolution of RGB, or it treats red, green and blue by themselves.
    """
    info = pretrained.info
    if pixels == RGB:
        return pretrained
    info = replace(info, inputs=info.inputs.of_pixels(pixels.channels, pixels.bits))
    if pixels.channels == RGB.channels:
        return replace(pretrained, info=info)
    trunk = pretrained.trunk
    first = [
        layer
        for layer in trunk.modules()
        if isinstance(layer, nn.Conv2d) and layer.in_channels == RGB.channels and layer.groups == 1
    ]
    for layer in first:
        weight = adapted_weight(layer.weight.detach(), pixels.channels)
        layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
        layer.in_channels = pixels.channels
    heard = _heard(trunk, info.inputs.to_model(info.inputs.example(1))) if first else None
    if heard is None or not bool(heard.all()):
        raise InputError(
            f"{info.name} can't take pictures of {pixels.channels} channels: its first layer is no "
            "convolution that can be adapted.",
            hint="Take another backbone, such as efficientnet_lite/lite0, a ResNet or a ViT; or leave "
            "data.channels out, if the pictures are RGB.",
        )
    info = replace(
        info,
        weights_sha256=hash_tensors(trunk.state_dict()),
        parameters=sum(parameter.numel() for parameter in trunk.parameters()),
        flops=count_flops(trunk, info.inputs),
    )
    return replace(pretrained, info=info)


def adapted_weight(weight: Tensor, channels: int) -> Tensor:
    """Weight (O, 3, H, W) of a convolution of RGB as one (O, channels, H, W)."""
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeated = weight.repeat(1, math.ceil(channels / RGB.channels), 1, 1)[:, :channels]
    return (repeated * (RGB.channels / channels)).contiguous()


def _heard(trunk: nn.Module, batch: Tensor) -> Tensor | None:
    """Which channels of a batch the trunk's features depend on; None where it can't take it."""
    batch = batch.clone().requires_grad_(True)
    try:
        with torch.enable_grad():
            features = trunk(batch)
            (gradient,) = torch.autograd.grad(features.square().sum(), batch)
    except (RuntimeError, LookupError, ValueError, AssertionError):
        return None
    return gradient.abs().sum(dim=(0, 2, 3)) > 0
