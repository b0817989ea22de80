"""Backbones for pictures of other channels: the first convolution is adapted, as timm does it."""

from __future__ import annotations

import pytest
import torch
from timm.models import adapt_input_conv

from tlsearch import registry
from tlsearch.contracts.first_layer import adapted_weight
from tlsearch.errors import InputError
from tlsearch.records import Pixels

SIZES = {
    "tiny/net": 16,
    "timm/resnet18": 64,
    "timm/vit_tiny_patch16_224": None,
    "torchvision/resnet18": 64,
}


def loaded(name: str, pixels: Pixels):
    return registry.backbone(name, weights="random", image_size=SIZES[name], pixels=pixels)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 13])
def test_weights_are_those_of_timm(channels):
    weight = torch.randn(8, 3, 3, 3)
    assert torch.allclose(adapted_weight(weight, channels), adapt_input_conv(channels, weight))


@pytest.mark.parametrize("name", SIZES)
def test_a_backbone_of_any_family_takes_five_channels(name):
    plain, five = loaded(name, Pixels()), loaded(name, Pixels(5, 16))
    info = five.info
    assert (info.inputs.channels, info.inputs.bits) == (5, 16)
    assert info.groups == plain.info.groups
    assert info.width == plain.info.width
    assert info.weights_sha256 != plain.info.weights_sha256
    assert info.parameters > plain.info.parameters
    batch = info.inputs.to_model(info.inputs.example(2))
    assert five.trunk(batch).shape == (2, info.width)


@pytest.mark.parametrize("name", SIZES)
def test_grey_as_one_channel_gives_the_features_of_grey_as_rgb(name):
    plain, one = loaded(name, Pixels()), loaded(name, Pixels(1))
    size = plain.info.inputs.size
    grey = torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = plain.trunk(grey.expand(-1, 3, -1, -1)), one.trunk(grey)
    assert torch.allclose(expected, found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["torchvision/inception_v3", "timm/tresnet_m"])
def test_a_backbone_whose_first_layer_is_no_convolution_of_rgb_is_refused(name):
    with pytest.raises(InputError, match=f"{name} can't take pictures of 5 channels"):
        registry.backbone(name, weights="random", image_size=128, pixels=Pixels(5))


def test_rgb_is_left_as_it_is():
    plain, deep = loaded("tiny/net", Pixels()), loaded("tiny/net", Pixels(3, 16))
    assert deep.info.weights_sha256 == plain.info.weights_sha256
    assert deep.info.inputs.dtype == "uint16"
    assert plain.info.inputs.dtype == "uint8"
