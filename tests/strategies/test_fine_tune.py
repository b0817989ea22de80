from __future__ import annotations

import pytest
import torch

from tlsearch import registry
from tlsearch.contracts import Backbone, Recipe
from tlsearch.testing import classes


def prepared(**changes: object) -> tuple[Backbone, dict[str, object]]:
    strategy = registry.strategy("fine_tune")
    model = Backbone(registry.backbone("tiny/net", weights="pretrained", image_size=None), *classes(4))
    params = {**strategy.default(model.info), **changes}
    strategy.prepare(model, params)
    return model, params


@pytest.mark.parametrize(("depth", "frozen"), [(0.0, 0), (0.3, 1), (0.34, 1), (0.5, 2), (0.75, 2), (1.0, 3)])
def test_the_first_groups_are_frozen_and_the_rest_trains(depth, frozen):
    model, _ = prepared(freeze_depth=depth)
    for name, parameter in model.trunk.named_parameters():
        assert parameter.requires_grad == (int(name.split(".")[1]) >= frozen)
    assert all(parameter.requires_grad for parameter in model.head.parameters())


def test_a_later_depth_thaws_what_an_earlier_one_froze():
    model, _ = prepared(freeze_depth=1.0)
    assert model.freeze(0.0) == 0
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("depth", [-0.1, 1.1, float("nan")])
def test_a_depth_that_is_no_fraction_is_refused(depth):
    with pytest.raises(ValueError, match="fraction between 0 and 1"):
        prepared(freeze_depth=depth)


@pytest.mark.parametrize(
    "fall", [{"lr_ratio": 0.25}, {"layer_decay": 0.5}], ids=["whole", "earlier versions"]
)
def test_learning_rates_fall_towards_the_input(fall):
    model, params = prepared(
        freeze_depth=0.3, learning_rate=0.01, head_multiplier=4.0, weight_decay=0.1, **fall
    )
    groups = registry.strategy("fine_tune").param_groups(model, params)
    rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    decay_of = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sorted(rate_of) == sorted(id(p) for p in trained.values())
    assert sum(len(group["params"]) for group in groups) == len(trained)
    expected = {"trunk.blocks.1": 0.005, "trunk.blocks.2": 0.01, "head": 0.04}
    for name, parameter in trained.items():
        place = next(key for key in expected if name.startswith(key))
        assert rate_of[id(parameter)] == pytest.approx(expected[place])
        # Biases and the norms' scales don't decay.
        assert decay_of[id(parameter)] == (0.1 if parameter.ndim > 1 else 0.0)


def test_transformers_learn_at_a_tenth_of_the_rate():
    strategy = registry.strategy("fine_tune")
    cnn, vit, swin = (
        registry.backbone(name, weights="random", image_size=size).info
        for name, size in (
            ("timm/tf_efficientnet_lite0", 32),
            ("timm/vit_tiny_patch16_224", 32),
            ("torchvision/swin_t", None),
        )
    )
    for info in (vit, swin):
        assert strategy.default(info)["learning_rate"] == pytest.approx(1e-4)
        assert strategy.space(info)["learning_rate"].high == pytest.approx(1e-3)
    assert strategy.default(cnn)["learning_rate"] == pytest.approx(1e-3)


def test_the_recipe_is_read_from_the_hyperparameters():
    strategy = registry.strategy("fine_tune")
    _, params = prepared(batch_size=16, optimizer="sgd", patience=2, label_smoothing=0.1)
    recipe = strategy.recipe(params)
    assert recipe == Recipe(
        learning_rate=1e-3,
        weight_decay=1e-2,
        optimizer="sgd",
        batch_size=16,
        label_smoothing=0.1,
        augmentation="light",
        patience=2,
    )


def test_the_head_starts_small_so_that_the_trunk_is_not_shaken():
    model, params = prepared()
    logits = model.eval()(torch.randn(64, 3, 16, 16))
    assert logits.abs().max() < 0.5
    assert params["dropout"] == model.head.dropout.p
