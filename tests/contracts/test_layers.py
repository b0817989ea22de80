"""Heads that look at all layers: what they are given, and that a trace gives it, too."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

from tlsearch.contracts import Backbone
from tlsearch.contracts.layers import LayerPool, layers_of
from tlsearch.testing import classes, tiny_cnn, tiny_vit
from tlsearch.training.split_point import find_split_point


def tapped(make=tiny_cnn, cells: int = 1) -> Backbone:
    model = Backbone(make(), *classes(3))
    model.tap(cells)
    model.head = nn.Identity()
    return model.eval()


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
def test_the_features_are_the_layers_outputs_averaged_and_the_trunks(make):
    model, found = tapped(make), {}
    for name in model.layers:
        model.trunk.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: found.update({name: output})
        )
    features = model(images())
    means = [o.mean(dim=(2, 3)) if o.ndim == 4 else o.mean(dim=1) for o in found.values()]
    expected = torch.cat([*means, model.trunk(images())], dim=1)
    assert len(means) >= len(model.info.groups)
    assert features.shape[1] == model.width
    torch.testing.assert_close(features, expected)


def test_a_trunk_is_none_the_wiser():
    pretrained = tiny_cnn()
    plain, model = Backbone(pretrained, *classes(3)).eval(), tapped()
    assert list(model.trunk.state_dict()) == list(plain.trunk.state_dict())
    assert torch.equal(model.trunk(images()), plain.trunk(images()))
    assert not any(module.training for module in model.modules())
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images()), model(images()))


@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
@pytest.mark.parametrize("cells", [1, 4])
def test_a_trace_gives_the_same(make, cells):
    model = tapped(make, cells)
    model.freeze(1.0)
    model.head = nn.Linear(model.width, 3)
    split_point = find_split_point(model.eval(), images(2))
    assert split_point.frozen, split_point.reason
    assert split_point.shapes == ((model.width,),)
    model.eval()
    with torch.no_grad():
        assert torch.allclose(
            split_point.eval_forward(split_point.prefix(images())), model(images()), atol=1e-6
        )


def test_a_tapped_leaf_is_seen_in_a_trace():
    model = Backbone(tiny_cnn(), *classes(3))
    leaves = layers_of(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), [["0.weight", "0.bias"]])
    assert leaves == ["0"]
    trunk = nn.Sequential(nn.Conv2d(3, model.info.width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.trunk = trunk
    object.__setattr__(model, "info", _with_groups(model.info, [("0.weight", "0.bias")]))
    model.freeze(1.0)
    assert model.tap(1) == 2 * model.info.width
    model.head = nn.Linear(model.width, 3)
    split_point = find_split_point(model.eval(), images(2))
    assert split_point.frozen, split_point.reason
    assert split_point.shapes == ((model.width,),)


def _with_groups(info, groups):
    from dataclasses import replace

    return replace(info, groups=tuple(groups), group_names=("all",))


def test_threads_do_not_see_each_others_layers():
    model = tapped(tiny_vit, 4)
    batches = [images(3) + shift for shift in range(4)]
    expected = [model(batch) for batch in batches]
    wrong: list[int] = []

    def ask(number: int) -> None:
        for _ in range(20):
            with torch.no_grad():
                if not torch.equal(model(batches[number]), expected[number]):
                    wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("shape", "cells", "width"),
    [
        ((2, 8, 6, 6), 1, 8),
        ((2, 8, 6, 6), 4, 32),
        ((2, 8, 6, 6), 5, 32),
        ((2, 6, 6, 8), 4, 32),  # channels last
        ((2, 8, 1, 1), 4, 8),
        ((2, 5, 8), 1, 8),
        ((2, 5, 8), 4, 32),
        ((2, 3, 8), 4, 24),
        ((2, 8), 4, 8),
    ],
)
def test_pooling_keeps_channels_apart(shape, cells, width):
    output = torch.randn(shape)
    pooled = LayerPool(cells)(output)
    assert pooled.shape == (2, width)
    assert torch.equal(LayerPool(cells)((output, None)), pooled)
    if cells == 1:
        axes = (2, 3) if len(shape) == 4 else (1,)
        torch.testing.assert_close(pooled, output.mean(dim=axes))


def test_layers_are_tapped_once():
    model = tapped()
    with pytest.raises(ValueError, match="pooled once"):
        model.tap(1)
    with pytest.raises(ValueError, match="not 0"):
        Backbone(tiny_cnn(), *classes(3)).tap(0)
