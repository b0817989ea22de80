"""Freeze groups: every parameter once, from the input on, blocks whole."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn
from torchvision import models

from tlsearch.backbones.groups import by_blocks, in_order, with_names
from tlsearch.backbones.torchvision import find_head

NAMES = models.list_models(module=models)
# RegNets can't be built without data, and the largest take minutes to initialise.
SKIPPED = [name for name in NAMES if name.startswith("regnet") and name.endswith(("16gf", "32gf", "128gf"))]


def shapes_only(name: str) -> nn.Module:
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    device = contextlib.nullcontext() if name.startswith("regnet") else torch.device("meta")
    with device:
        model = models.get_model(name, weights=None, **options).eval()
    model.set_submodule(find_head(model), nn.Identity())
    return model


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SKIPPED])
def test_groups_of_every_torchvision_classifier_run_in_order(name):
    model = shapes_only(name)
    groups = by_blocks(model)
    device = next(model.parameters()).device
    size = 299 if name == "inception_v3" else 224
    features, ordered = in_order(model, groups, torch.zeros(1, 3, size, size, device=device))

    assert sorted(p for group in groups for p in group) == sorted(p for p, _ in model.named_parameters())
    assert ordered == groups
    assert features.ndim == 2
    assert len(groups) >= 7
    names = [readable for readable, _ in with_names(groups)]
    assert len(set(names)) == len(names)


def test_alexnet_counts_its_seven_layers():
    named = with_names(by_blocks(shapes_only("alexnet")))
    assert [readable for readable, _ in named] == [
        *("features.0", "features.3", "features.6", "features.8", "features.10"),
        *("classifier.1", "classifier.4"),
    ]


@pytest.mark.parametrize(
    ("name", "first", "second", "last"),
    [
        ("resnet18", "conv1+bn1", "layer1.0", "layer4.1"),
        ("vgg11_bn", "features.0+features.1", "features.4+features.5", "classifier.3"),
        ("efficientnet_b0", "features.0", "features.1.0", "features.8"),
        ("swin_t", "features.0", "features.1.0", "features.7.1+norm"),
        (
            "vit_b_16",
            "class_token+encoder.pos_embedding+conv_proj",
            "encoder.layers.encoder_layer_0",
            "encoder.layers.encoder_layer_11+encoder.ln",
        ),
    ],
)
def test_blocks_stay_whole(name, first, second, last):
    named = [readable for readable, _ in with_names(by_blocks(shapes_only(name)))]
    assert (named[0], named[1], named[-1]) == (first, second, last)


def test_groups_are_sorted_by_execution_not_registration():
    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late = nn.Linear(3, 4)
            self.early = nn.Linear(3, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.late(self.early(inputs))

    trunk = Swapped()
    _, ordered = in_order(trunk, by_blocks(trunk), torch.zeros(1, 3))
    assert [readable for readable, _ in with_names(ordered)] == ["early", "late"]
