from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tlsearch_regularized import BSS, DELTA, L2SP

from tlsearch import registry
from tlsearch.contracts import Backbone, Batch
from tlsearch.testing import classes
from tlsearch.training.stepper import Stepper, new_optimizer

CNN, VIT = "timm/tf_efficientnet_lite0", "timm/vit_tiny_patch16_224"
NAMES = ["l2_sp", "bss", "delta"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_it_learns_and_the_saved_model_is_the_trained_one(bench, name):
    worker = bench()
    worker.learns_and_reloads(worker.point(CNN, name))


@pytest.mark.parametrize("name", NAMES)
def test_at_strength_zero_it_is_fine_tuning(bench, name):
    worker = bench(1)
    states = []
    for strategy in ("fine_tune", name):
        zero = dict.fromkeys(getattr(registry.strategy(strategy), "strengths", ()), 0.0)
        outcome = worker.outcome(worker.point(CNN, strategy, freeze_depth=0.7, **zero))
        states.append((load_file(Path(outcome.artifact.uri)), dict(outcome.metrics)))
    (plain, metrics), (zero, others) = states
    assert metrics == others
    assert list(plain) == list(zero)
    assert all(torch.equal(plain[name], zero[name]) for name in plain)


@pytest.mark.parametrize("name", NAMES)
def test_a_strength_changes_what_is_learned(bench, name):
    worker = bench(1)
    losses = set()
    for strength in (0.0, 0.1):
        hyperparameters = dict.fromkeys(registry.strategy(name).strengths, strength)
        point = worker.point(CNN, name, freeze_depth=0.7, weight_decay=0.0, **hyperparameters)
        losses.add(worker.outcome(point).metrics["log_loss"])
    assert len(losses) == 2


def model_of(bench, strategy, **changes):
    torch.manual_seed(0)
    pretrained = bench().backbone(CNN)
    model = Backbone(pretrained, *classes(10))
    params = {**strategy.default(model.info), "dropout": 0.0, "label_smoothing": 0.0, **changes}
    strategy.prepare(model, params)
    return model.eval(), params


def moved(model):
    with torch.no_grad():
        for parameter in model.trunk.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
    return model


def batch():
    torch.manual_seed(1)
    return Batch((torch.randn(6, 3, 32, 32),), torch.arange(6), 1, registry.task("classification"))


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_l2_sp_pulls_back_by_the_same_share_however_large_gradients_are(bench, scale):
    strategy = L2SP()
    model, params = model_of(bench, strategy, pull=10.0, learning_rate=0.01, freeze_depth=0.0)
    start = {name: tensor.clone() for name, tensor in model.trunk.named_parameters()}
    moved(model)
    away = {name: parameter.detach() - start[name] for name, parameter in model.trunk.named_parameters()}
    optimizer = new_optimizer(strategy.recipe(params), strategy.param_groups(model, params))
    stepper = Stepper(model, strategy, params, optimizer, batch_size=6)
    steps = []
    for pulled in (False, True):
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if not pulled:
            for group in optimizer.param_groups:
                group["held"] = group.pop("origin", None)
        optimizer.zero_grad()
        forward = SimpleNamespace(train_forward=lambda inputs: scale * model(*inputs))
        stepper.step(forward, batch(), 1.0)
        steps.append({name: p.detach().clone() for name, p in model.trunk.named_parameters()})
        model.load_state_dict(state)
        optimizer.state.clear()
        for group in optimizer.param_groups:
            if group.get("held") is not None:
                group["origin"] = group.pop("held")
    for name in away:
        # A tenth of the way back from where the optimizer's own step led.
        expected = steps[0][name].lerp(start[name], 0.1)
        torch.testing.assert_close(steps[1][name], expected, atol=1e-5, rtol=1e-4)


def test_l2_sp_stands_in_for_weight_decay_of_the_trunk(bench):
    model, params = model_of(bench, L2SP(), weight_decay=0.1)
    trunk = {id(parameter) for parameter in model.trunk.parameters()}
    for pull, decays in ((1.0, {0.0}), (0.0, {0.0, 0.1})):
        groups = L2SP().param_groups(model, {**params, "pull": pull})
        assert {g["weight_decay"] for g in groups if id(g["params"][0]) in trunk} == decays
        assert 0.1 in {g["weight_decay"] for g in groups if id(g["params"][0]) not in trunk}


def test_bss_is_the_smallest_singular_values(bench):
    strategy = BSS()
    for k in (1, 3):
        model, params = model_of(bench, strategy, strength=0.1, k=k)
        given = batch()
        loss = strategy.loss(lambda inputs, model=model: model(*inputs), given, params)
        features = model.trunk(*given.inputs)
        values = np.linalg.svd(features.detach().double().numpy(), compute_uv=False)
        entropy = torch.nn.functional.cross_entropy(model.head.head(features), given.targets)
        expected = float(entropy.detach()) + 0.1 * (np.sort(values)[:k] ** 2).sum()
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
        loss.backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        assert all(torch.isfinite(p.grad).all() for p in trained)


def test_delta_is_the_distance_of_the_features(bench):
    strategy = DELTA()
    model, params = model_of(bench, strategy, strength=0.1)
    given = batch()

    def term():
        _, features, source = model(*given.inputs)
        return strategy.term(params, features, source), features, source

    assert float(term()[0].detach()) == 0
    before = model.trunk(*given.inputs).detach()
    moved(model)
    value, features, source = term()
    assert torch.equal(source, before)
    assert not source.requires_grad
    expected = (features - before).square().sum() / 6
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("depth", [0.0, 0.7])
@pytest.mark.slow
def test_no_image_goes_through_deltas_source_network_twice(bench, depth):
    worker = bench(1)
    data = worker.data("data", worker.backbone(CNN).info.inputs)
    seen = sum(len(data.indices[name]) for name in ("train", "stop", "val"))
    point = worker.point(CNN, "delta", freeze_depth=depth, augmentation="none")
    outcomes = [worker.outcome(point) for _ in range(2)]
    assert [outcome.cache for outcome in outcomes] == ["prefix"] * 2
    assert outcomes[0].costs.prefix_images in (0, seen)  # none, where another test came before
    assert outcomes[1].costs.prefix_images == 0
    uncached = bench(1, cached=False).outcome(point)
    assert uncached.cache.startswith("none")
    assert uncached.metrics["log_loss"] == pytest.approx(outcomes[0].metrics["log_loss"], abs=1e-3)
