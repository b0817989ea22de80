"""Heat maps: places add up to the logit; transformers show patches; what can't be explained says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tlsearch import registry
from tlsearch.contracts import Backbone
from tlsearch.errors import InputError
from tlsearch.models.ensemble import Ensemble
from tlsearch.models.explanation import Explainer, drawn
from tlsearch.models.manifest import Manifest
from tlsearch.models.model import Model
from tlsearch.testing import classes

SIZES = {
    "efficientnet_lite/lite0": 128,
    "timm/vit_tiny_patch16_224": 64,
    "timm/swin_tiny_patch4_window7_224": 224,
    "torchvision/resnet18": 128,
}


def network_of(backbone: str, *, seed: int = 0, outputs: int = 3) -> Backbone:
    torch.manual_seed(seed)
    weights = "pretrained" if backbone.startswith("efficientnet") else "random"
    made = registry.backbone(backbone, weights=weights, image_size=SIZES.get(backbone))
    network = Backbone(made, *classes(outputs))
    nn.init.normal_(network.head.linear.weight, std=0.5)
    network.release_source()
    return network.eval().requires_grad_(False)


def model_of(network, *, task: str = "classification") -> Model:
    names = tuple("abcdefgh"[: network.outputs])
    manifest = Manifest(
        4, names, network.info.name, None, {}, "fine_tune", {}, "", 0, {}, {}, {}, "", task=task
    )
    return Model(network, network.info.inputs, manifest, Path())


def picture(size: int = 90) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (size, size + 20, 3), dtype=np.uint8)


@pytest.mark.parametrize("backbone", ["efficientnet_lite/lite0", "torchvision/resnet18"])
def test_places_of_the_last_layer_add_up_to_the_logit(backbone):
    model = model_of(network_of(backbone))
    explainer = Explainer(model)
    explainer.heat(picture(), 1)
    inputs = model.inputs.to_model(torch.from_numpy(model.encode(picture())[None]))
    added = float(explainer._attributed(explainer._level, inputs, 1).sum())
    with torch.no_grad():
        logit = float(model.network(inputs)[0, 1] - model.network.head.linear.bias[1])
    assert added == pytest.approx(logit, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("backbone", ["timm/vit_tiny_patch16_224", "timm/swin_tiny_patch4_window7_224"])
def test_transformers_show_their_patches(backbone):
    model = model_of(network_of(backbone, outputs=2))
    explainer = Explainer(model)
    heat = explainer.heat(picture(), 0)
    other = explainer.heat(picture(), 1)
    assert heat.shape[0] == heat.shape[1] >= 4
    assert max(heat.max(), other.max()) == pytest.approx(1)
    assert min(heat.min(), other.min()) >= 0
    assert not np.allclose(heat, other)


def test_an_average_of_networks_is_explained_and_drawn_beside_the_picture():
    network = Ensemble([network_of("efficientnet_lite/lite0", seed=seed) for seed in (0, 1)], flips=True)
    assert network.reused
    explainer = Explainer(model_of(network))
    image = drawn(explainer, picture()[..., 0], 2)  # a grey one
    assert image.size == (2 * 128 + 4, 128)
    pixels = np.asarray(image).astype(int)
    assert (pixels[:, :128] != pixels[:, -128:]).any()


@pytest.mark.parametrize(
    ("resize", "size"), [("crop", (320, 320)), ("pad", (320, 320)), ("squash", (320, 160))]
)
def test_a_large_picture_is_drawn_in_its_own_detail_and_proportions(resize, size):
    model = model_of(network_of("efficientnet_lite/lite0"))
    model.inputs = replace(model.inputs, resize=resize)
    large = np.random.default_rng(0).integers(0, 256, (400, 800, 3), dtype=np.uint8)
    image = drawn(Explainer(model), large, 0)
    assert image.size == (2 * size[0] + 4, size[1])


def test_what_can_not_be_explained_says_so(monkeypatch):
    model = model_of(network_of("efficientnet_lite/lite0"))
    model.network.head = Vote()
    with pytest.raises(InputError, match="none of its spatial layers has a gradient"):
        Explainer(model).heat(picture(), 0)
    numbers = model_of(network_of("efficientnet_lite/lite0"), task="regression")
    with pytest.raises(InputError, match="Only classifiers of images"):
        Explainer(numbers)
    monkeypatch.setattr("tlsearch.models.explanation.installed", lambda: False)
    with pytest.raises(InputError, match="captum") as caught:
        Explainer(model)
    assert "tlsearch[explain]" in str(caught.value.hint)


class Vote(nn.Module):
    """Like nearest neighbours: counts, which have no gradient."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features[:, :3] > 0).float()
