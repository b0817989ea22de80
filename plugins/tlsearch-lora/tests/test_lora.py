from __future__ import annotations

import sys

import pytest
import torch
from tlsearch_lora import DoRA, LoRA
from torch import nn

from tlsearch import registry
from tlsearch.contracts import Backbone
from tlsearch.testing import classes

CNN, VIT = "timm/tf_efficientnet_lite0", "timm/vit_tiny_patch16_224"
NAMES = ["lora", "dora"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_it_learns_and_the_saved_model_is_the_trained_one(bench, name):
    worker = bench()
    worker.learns_and_reloads(worker.point(CNN, name))


def prepared(strategy, backbone, size=32, **changes):
    torch.manual_seed(0)
    pretrained = registry.backbone(backbone, weights="random", image_size=size)
    model = Backbone(pretrained, *classes(10))
    params = {**strategy.default(model.info), "rank": 4, **changes}
    strategy.prepare(model, params)
    return model.eval(), params


def adapters(model):
    return {name: p for name, p in model.trunk.named_parameters() if "lora_" in name}


def adapted(model):
    """Names of the layers that have an adapter."""
    return {name.partition(".lora_")[0] for name in adapters(model)}


@pytest.mark.parametrize("kind", [LoRA, DoRA])
@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        (CNN, 32),
        (VIT, 32),
        ("timm/resnet18", 32),
        ("timm/convnext_atto", 32),
        ("timm/swin_tiny_patch4_window7_224", 64),
        ("torchvision/resnet18", 32),
    ],
)
def test_the_merged_model_is_the_trained_one(kind, backbone, size):
    strategy = kind()
    model, params = prepared(strategy, backbone, size)
    images = torch.randn(3, *model.info.inputs.shape)
    plain = Backbone(registry.backbone(backbone, weights="random", image_size=size), *classes(10))
    plain.trunk.load_state_dict(model.reference)
    with torch.no_grad():
        start = plain.eval().trunk(images)
        torch.testing.assert_close(
            model.trunk(images), start, rtol=1e-4, atol=1e-5 * float(start.abs().max())
        )
        for parameter in adapters(model).values():
            parameter.add_(0.02 * torch.randn_like(parameter))
        before = model.trunk(images)
        scale = float(before.abs().max())
        assert float((before - start).abs().max()) > 0.01 * scale
        strategy.finish(model, params)
        torch.testing.assert_close(model.trunk(images), before, rtol=0, atol=1e-5 * scale)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]


@pytest.mark.parametrize("name", NAMES)
def test_only_factors_magnitudes_and_the_head_train(name):
    model, params = prepared(registry.strategy(name), CNN)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if "lora_" in n or n.startswith("head.")}
    groups = registry.strategy(name).param_groups(model, {**params, "weight_decay": 0.1})
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for n, p in adapters(model).items():
        assert decays[id(p)] == (0.0 if "magnitude" in n else 0.1)


def test_layers_that_a_low_rank_does_not_fit_are_left_out():
    model, _ = prepared(LoRA(), CNN)
    plain = registry.backbone(CNN, weights="random", image_size=32).trunk
    layers = {n: m for n, m in plain.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    depthwise = {n for n, m in layers.items() if m.groups > 1}
    assert depthwise
    # The stem pads by the size of its input.
    assert adapted(model) == set(layers) - depthwise - {"conv_stem"}
    vit, _ = prepared(LoRA(), VIT)
    assert "patch_embed.proj" in adapted(vit)
    assert {"blocks.0.attn.qkv", "blocks.11.mlp.fc2"} <= adapted(vit)


def test_rank_and_scale(bench):
    model, _ = prepared(LoRA(), VIT, rank=16)
    layer = model.trunk.blocks[0].attn.qkv
    assert layer.lora_A["default"].weight.shape == (16, 192)
    assert layer.scaling["default"] == 2.0


@pytest.mark.parametrize("depth", [0.5, 1.0])
def test_groups_below_the_freeze_depth_get_no_adapter(depth):
    model, _ = prepared(LoRA(), VIT, freeze_depth=depth)
    below = model.info.groups[: round(depth * 13)]
    assert not adapted(model) & {name.rpartition(".")[0] for names in below for name in names}
    assert bool(adapted(model)) == (depth < 1)
    assert all(p.requires_grad for p in model.head.parameters())


@pytest.mark.slow
def test_the_frozen_prefix_is_fine_tunings_own(bench):
    worker = bench(1)
    worker.outcome(worker.point(VIT, "fine_tune", freeze_depth=0.5))
    point = worker.point(VIT, "lora", freeze_depth=0.5)
    outcome = worker.outcome(point)
    assert (outcome.cache, outcome.costs.prefix_images) == ("prefix", 0)
    uncached = bench(1, cached=False).outcome(point)
    assert uncached.metrics["log_loss"] == pytest.approx(outcome.metrics["log_loss"], abs=1e-3)


def test_a_saved_model_loads_without_peft(bench, monkeypatch):
    worker = bench(1)
    point = worker.point(CNN, "dora", freeze_depth=0.7)
    outcome = worker.outcome(point)
    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "peft", None)
    again = worker.rebuilt(point, outcome)
    assert worker.log_loss(again) == pytest.approx(outcome.metrics["log_loss"], abs=1e-4)
