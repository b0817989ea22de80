"""torchvision's classifiers: the head taken off, published layouts, and no network."""

from __future__ import annotations

import time

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from tlsearch.backbones.torchvision import TorchvisionBackbones
from tlsearch.errors import InputError, UnknownNameError, WeightsError


def load(variant, *, weights="random", image_size=64):
    return TorchvisionBackbones().load(variant, weights=weights, image_size=image_size)


def test_alexnet_loses_its_sixth_classifier_layer_and_nothing_else():
    loaded = load("alexnet", image_size=None)
    info = loaded.info
    assert (info.head, info.width, info.inputs.size) == ("classifier.6", 4096, 224)
    assert info.group_names[-1] == "classifier.4"
    assert info.flops == pytest.approx(1.42e9, rel=0.02)
    assert info.parameters == 61_100_840 - 4_097_000
    assert isinstance(loaded.trunk.classifier[6], nn.Identity)
    assert loaded.source_head is None


@pytest.mark.parametrize(
    ("variant", "head", "width"),
    [
        ("resnet18", "fc", 512),
        ("mobilenet_v3_small", "classifier.3", 1024),
        ("squeezenet1_1", "classifier.1", 512),
        ("googlenet", "fc", 1024),
        ("swin_t", "head", 768),
    ],
)
def test_trunks_put_out_features(variant, head, width):
    info = load(variant).info
    assert (info.name, info.head, info.width) == (f"torchvision/{variant}", head, width)


def test_dropout_before_the_head_goes_with_it_and_the_one_between_layers_stays():
    assert isinstance(load("mobilenet_v2").trunk.classifier[0], nn.Identity)
    alexnet = load("alexnet").trunk
    assert isinstance(alexnet.classifier[0], nn.Dropout)
    assert isinstance(alexnet.classifier[3], nn.Dropout)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_weights_from_a_file(tmp_path, ending):
    model = models.resnet18(weights=None).eval()
    path = tmp_path / f"weights.{ending}"
    if ending == "pth":
        torch.save(model.state_dict(), path)
    else:
        save_file(model.state_dict(), path)
    loaded = load("resnet18", weights=str(path))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.source_head(loaded.trunk(images)), model(images))


def test_a_classifier_of_another_size_is_dropped(tmp_path):
    save_file(models.resnet18(num_classes=7).state_dict(), tmp_path / "weights.safetensors")
    loaded = load("resnet18", weights=str(tmp_path / "weights.safetensors"))
    assert loaded.source_head is None
    assert loaded.info.weights_sha256 != load("resnet18").info.weights_sha256


def test_position_embeddings_follow_the_image_size(tmp_path):
    path = tmp_path / "vit.safetensors"
    save_file(models.vit_b_32(weights=None).state_dict(), path)
    loaded = load("vit_b_32", weights=str(path), image_size=64)
    assert loaded.trunk.encoder.pos_embedding.shape == (1, 1 + 4, 768)
    assert loaded.source_head is not None


def test_densenets_published_names_are_read(tmp_path):
    model = models.densenet121(weights=None).eval()
    old = {
        name.replace("norm1.", "norm.1.")
        .replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.")
        .replace("conv2.", "conv.2.")
        if "denselayer" in name
        else name: tensor
        for name, tensor in model.state_dict().items()
    }
    save_file(old, tmp_path / "densenet.safetensors")
    loaded = load("densenet121", weights=str(tmp_path / "densenet.safetensors"))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.source_head(loaded.trunk(images)), model(images))


def test_downloaded_weights_are_found_and_auxiliary_heads_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    model = models.googlenet(weights=None, aux_logits=True, transform_input=True, init_weights=False).eval()
    torch.save(model.state_dict(), folder / models.GoogLeNet_Weights.DEFAULT.url.rpartition("/")[2])
    loaded = load("googlenet", weights="pretrained")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.source_head(loaded.trunk(images)), model(images))


def test_a_file_of_another_model_is_refused_by_name(tmp_path):
    save_file(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match=r"missing \(conv1\.weight.*unexpected \(classifier\.1"):
        load("resnet18", weights=str(tmp_path / "weights.safetensors"))


def test_no_network_is_told_in_seconds_and_leaves_no_partial_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # Resolves to nothing anywhere, so that this holds on a machine with a network as well.
    weights = models.SqueezeNet1_1_Weights.DEFAULT
    monkeypatch.setattr(
        type(weights), "url", "https://download.invalid/squeezenet1_1-b8a52dc0.pth", raising=False
    )
    start = time.monotonic()
    with pytest.raises(
        WeightsError, match=r"torchvision/squeezenet1_1 can't be loaded from https://download\.invalid"
    ) as caught:
        load("squeezenet1_1", weights="pretrained")
    assert time.monotonic() - start < 30
    assert "weights: path" in caught.value.hint
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_unknown_name_is_guessed_at():
    with pytest.raises(UnknownNameError, match=r'"torchvision/alexnett".*Did you mean "torchvision/alexnet"'):
        load("alexnett")


@pytest.mark.parametrize(("variant", "size"), [("maxvit_t", 64), ("vit_b_32", 50), ("alexnet", 32)])
def test_a_size_that_the_model_cannot_take_is_named(variant, size):
    with pytest.raises(InputError, match=f"{variant} can't take images of {size} x {size}") as caught:
        load(variant, image_size=size)
    assert "224" in caught.value.hint
