"""Which layers of a network are its feature maps."""

from __future__ import annotations

import pytest
import torch

from tlsearch import registry
from tlsearch.contracts import Backbone, TargetSpec
from tlsearch.contracts.layers import pyramid
from tlsearch.training.split_point import find_split_point

FACTS = {"values": [0, 1], "ignore": [], "threshold": None, "size": 32}
SPEC = TargetSpec(("ground", "crack"), FACTS)


def built(name: str, size: int):
    return registry.backbone(name, weights="random", image_size=size)


@pytest.mark.parametrize(
    ("name", "size", "sides", "channels"),
    [
        ("timm/resnet18", 64, [16, 8, 4, 2], [64, 128, 256, 512]),
        ("torchvision/densenet121", 64, [16, 8, 4, 2], [256, 512, 1024, 1024]),
        ("timm/vit_tiny_patch16_224", 64, [4], [192]),
        ("timm/swin_tiny_patch4_window7_224", 224, [56, 28, 14, 7], [96, 192, 384, 768]),
        ("torchvision/vgg11", 64, [16, 8, 4, 2], [256, 512, 512, 512]),
    ],
)
def test_the_last_layer_of_each_resolution(name, size, sides, channels):
    pretrained = built(name, size)
    example = pretrained.info.inputs.to_model(pretrained.info.inputs.example(1))
    levels = pyramid(pretrained.trunk.eval(), pretrained.info.groups, example)
    assert [level.side for level in levels] == sides
    assert [level.channels for level in levels] == channels


@pytest.mark.parametrize("depth", [0.5, 1.0])
def test_frozen_maps_are_a_prefix_like_any_other(depth):
    pretrained = built("timm/resnet18", 64)
    model = Backbone(pretrained, registry.task("segmentation"), SPEC).eval()
    model.freeze(depth)
    batch = pretrained.info.inputs.to_model(pretrained.info.inputs.example(2))
    split = find_split_point(model, batch)
    assert split.frozen, split.reason
    assert len(split.boundary) > 1
    model.eval()  # finding the split point has run it in training mode
    with torch.no_grad():
        expected, found = model(batch), split.eval_forward(split.prefix(batch))
    assert expected.shape == (2, 2, 32, 32)
    assert torch.allclose(found, expected, atol=1e-5)
