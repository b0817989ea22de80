from __future__ import annotations

import numpy as np
import pytest
import torch
from tlsearch_light import BitFit, Head2Toe, NormTuning, RanPAC
from tlsearch_light.head2toe import relevance
from tlsearch_light.ranpac import STRENGTHS
from torch import nn

from tlsearch.contracts import Backbone, HeadPoint, HeadTask, Pretrained, describe
from tlsearch.testing import StrategyContract, classes, tiny_cnn, tiny_vit
from tlsearch.training.trained_part import set_modes


class TestBitFit(StrategyContract):
    strategy = "bitfit"


class TestNormTuning(StrategyContract):
    strategy = "norm_tuning"


class TestRanPAC(StrategyContract):
    strategy = "ranpac"
    params = {"size": 512}


class TestHead2Toe(StrategyContract):
    strategy = "head2toe"


def trained(strategy, pretrained, **changes):
    """Names of the trunk's parameters that train."""
    model = Backbone(pretrained, *classes(10))
    strategy.prepare(model, {**strategy.default(model.info), **changes})
    assert all(parameter.requires_grad for parameter in model.head.parameters())
    return {name for name, parameter in model.trunk.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
def test_bitfit_trains_the_biases(make):
    pretrained = make()
    names = [name for name, _ in pretrained.trunk.named_parameters()]
    assert trained(BitFit(), pretrained) == {name for name in names if name.endswith(".bias")}
    assert trained(BitFit(), pretrained, freeze_depth=1.0) == set()


def test_norm_tuning_trains_scales_and_shifts():
    found = trained(NormTuning(), tiny_vit())
    norms = [f"blocks.{i}.norm{j}" for i in range(3) for j in (1, 2)] + ["norm"]
    assert found == {f"{norm}.{kind}" for norm in norms for kind in ("weight", "bias")}
    upper = trained(NormTuning(), tiny_vit(), freeze_depth=0.5)  # patch embedding and first block rest
    assert upper == {name for name in found if not name.startswith("blocks.0")}


def test_norm_tuning_knows_norms_that_others_have_written():
    class RmsNormOfMine(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))
            self.table = nn.Parameter(torch.ones(4, 4))

    class NormAct(nn.Sequential):
        pass

    trunk = nn.Sequential(NormAct(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)), RmsNormOfMine(), nn.Linear(4, 4))
    assert NormTuning().chosen(trunk) == {"0.1.weight", "0.1.bias", "1.weight"}


@pytest.mark.parametrize("statistics", ["source", "target"])
@pytest.mark.parametrize("strategy", [BitFit(), NormTuning()])
def test_whose_statistics_batch_norm_uses(strategy, statistics):
    pretrained = batch_norms()
    model = Backbone(pretrained, *classes(10))
    params = {**strategy.default(model.info), "dropout": 0.0, "statistics": statistics}
    strategy.prepare(model, params)
    set_modes(model)
    images = torch.randn(8, 3, 16, 16)
    model(images).sum().backward()
    norm, before = model.trunk[1], pretrained.trunk[1]
    assert norm.bias.grad is not None
    assert torch.equal(norm.running_mean, before.running_mean) == (statistics == "source")
    strategy.finish(model, params)
    assert [type(module) for module in model.trunk] == [type(module) for module in pretrained.trunk]
    assert model.train().trunk[1].training


def batch_norms():
    """A convolution and its BatchNorm."""
    trunk = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    names = [name for name, _ in trunk.named_parameters()]
    info = describe(
        "testing/bn",
        trunk,
        weights="random",
        inputs=tiny_cnn().info.inputs,
        groups=[("all", names)],
        width=8,
        head="none",
    )
    return Pretrained(info, trunk.eval())


def rings(count, seed=0):
    """Two classes that no linear map tells apart: near the origin and away from it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    directions = nn.functional.normalize(torch.randn(count, 8, generator=generator), dim=1)
    radii = 1 + labels + 0.1 * torch.randn(count, generator=generator)
    return directions * radii[:, None], labels


def fitted(features, labels, size, *, kind="standardized"):
    task = HeadTask(
        features[None], labels, features[:0], labels[:0], int(labels.max()) + 1, 1, lambda recipes: []
    )
    point = HeadPoint({"size": size, "features": kind}, seed=3)
    (head,) = RanPAC().fit_heads(task, [point])
    return head


@pytest.mark.parametrize("kind", ["standardized", "raw"])
@pytest.mark.parametrize("count", [200, 800])  # fewer items than projected features, and more
def test_ranpac_learns_what_is_not_linear(count, kind):
    head = fitted(*rings(count), 512, kind=kind)
    features, labels = rings(500, seed=1)
    logits = head(features)
    assert (logits.argmax(dim=1) == labels).float().mean() > 0.9
    assert nn.functional.cross_entropy(logits, labels) < 0.35, "logits are scaled to be sure and right"


@pytest.mark.parametrize("count", [100, 600])
def test_ranpac_is_ridge_of_the_best_leave_one_out_error(count):
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = rings(count)
    head = fitted(features, labels, 256)
    projected = head.project(features).double().numpy()
    centred = projected - projected.mean(axis=0)
    rank = min(count - 1, 256)
    alphas = STRENGTHS.numpy() * np.square(centred).sum() / rank
    ridge = linear_model.RidgeCV(alphas=alphas).fit(projected, np.eye(2)[labels.numpy()])
    expected = ridge.predict(projected)
    logits = head(features).double().numpy()
    sharpness = np.ptp(logits) / np.ptp(expected)
    assert logits == pytest.approx(sharpness * expected, abs=1e-3 * sharpness)


def layered(count=400, seed=0):
    """Features of which two tell the three classes apart, one is constant, and the rest is noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    features = torch.randn(count, 20, generator=generator)
    features[:, 3] += 3.0 * (labels == 0)
    features[:, 10] = 100 * features[:, 10] + 300.0 * (labels == 1)
    features[:, 7] = 5.0
    return features, labels


@pytest.mark.parametrize("strength", [0.01, 0.1])
def test_the_lasso_finds_what_tells_the_classes_apart_at_any_scale(strength):
    scores = relevance(*layered(), 3, strength)
    assert set(scores.topk(2).indices.tolist()) == {3, 10}
    assert scores.argmin() == 7, "a constant tells nothing"
    assert scores.isfinite().all()


def test_the_lasso_is_at_its_minimum():
    features, labels = layered()
    count, strength = len(features), 0.1
    inputs = ((features - features.mean(0)) / features.std(0, unbiased=False))[:, [3, 10]].double()
    targets = nn.functional.one_hot(labels, 3).double()
    priors = targets.mean(0).log()
    most = (inputs.T @ (priors.softmax(0) - targets) / count).norm(dim=1).max()
    weights = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def objective():
        optimizer.zero_grad()
        fit = nn.functional.cross_entropy(inputs @ weights + priors, labels)
        loss = fit + strength * most * (weights.square().sum(1) + 1e-12).sqrt().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    found = relevance(features[:, [3, 10]], labels, 3, strength) - 2
    assert found.tolist() == pytest.approx(weights.detach().norm(dim=1).tolist(), rel=1e-3)


@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
def test_head2toe_is_given_every_layer_pooled_and_the_features(make):
    pretrained, strategy = make(), Head2Toe()
    images = torch.randn(5, 3, 16, 16)
    widths = []
    for cells in (1, 4):
        model = Backbone(pretrained, *classes(10)).eval()
        strategy.prepare(model, {**strategy.default(model.info), "cells": cells})
        assert len(model.layers) >= len(model.info.groups)
        model.head = nn.Identity()
        features = model(images)
        assert torch.equal(features[:, -model.info.width :], pretrained.trunk(images))
        assert features.shape[1] == model.width
        widths.append(model.width - model.info.width)
    assert widths[0] < widths[1] <= 4 * widths[0]
