from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tlsearch_cotuning import CoTuning, Distillation
from torch.nn import functional

from tlsearch import registry
from tlsearch.contracts import Backbone, Batch, FineTuning
from tlsearch.errors import TrialError
from tlsearch.testing import StrategyContract, classes, tiny_cnn, tiny_task, tiny_vit
from tlsearch.training.split_point import find_split_point


class TestCoTuning(StrategyContract):
    strategy = "co_tuning"


class TestDistillation(StrategyContract):
    strategy = "distillation"
    params = {"teacher": "logits", "logits.temperature": 2.0}


def prepared(strategy, pretrained=None, **changes):
    torch.manual_seed(0)
    model = Backbone(pretrained or tiny_cnn(), *classes(10))
    params = {**strategy.default(model.info), "dropout": 0.0, "label_smoothing": 0.0, **changes}
    strategy.prepare(model, params)
    return model.eval(), params


def moved(model):
    with torch.no_grad():
        for parameter in model.trunk.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


def batches():
    task = tiny_task()
    learned = registry.task("classification")
    return [Batch((task.inputs[i : i + 50],), task.labels[i : i + 50], 1, learned) for i in range(0, 200, 50)]


def entropy(model, batch):
    """Cross-entropy of the target's head alone."""
    return functional.cross_entropy(model.head.head(model.trunk(*batch.inputs)), batch.targets)


def test_the_relation_is_the_mean_of_the_source_networks_predictions_by_class():
    strategy, pretrained = CoTuning(), tiny_cnn()
    model, params = prepared(strategy, pretrained, strength=2.3)
    moved(model)
    *_, last = [(batch, strategy.loss(lambda x: model(*x), batch, params)) for batch in batches()]
    task = tiny_task()
    with torch.no_grad():
        answers = pretrained.source_head(pretrained.trunk(task.inputs)).softmax(dim=1)
        relation = torch.stack([answers[task.labels == label].mean(dim=0) for label in range(10)])
        batch, loss = last
        own = model.head.source(model.trunk(*batch.inputs)).log_softmax(dim=1)
        expected = entropy(model, batch) - 2.3 * (relation[batch.targets] * own).sum(dim=1).mean()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.head.source.parameters())
    assert all(parameter.grad is None for parameter in model.head.judge.parameters())


@pytest.mark.parametrize("depth", [0.0, 0.5])
def test_the_relation_is_kept_in_the_model_that_the_training_loop_splits(depth):
    strategy = CoTuning()
    model, params = prepared(strategy, freeze_depth=depth)
    batch = batches()[0]
    split_point = find_split_point(model, batch.inputs[0][:2])
    assert split_point.frozen, "the source network lies before what trains"
    assert model.head.relation.sum() == 0
    stored = replace(batch, inputs=split_point.prefix(batch.inputs[0]))
    for count in (50, 100):
        strategy.loss(split_point.train_forward, stored, params)
        assert float(model.head.relation.sum()) == pytest.approx(count, rel=1e-5)


def test_co_tuning_takes_blended_targets():
    strategy = CoTuning()
    losses = []
    for blended in (False, True):
        model, params = prepared(strategy)
        batch = batches()[0]
        if blended:
            batch = replace(batch, targets=functional.one_hot(batch.targets, 10).float())
        losses.append(float(strategy.loss(lambda x, model=model: model(*x), batch, params).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_source_classifier_learns_at_the_trunks_rate():
    model, params = prepared(CoTuning(), learning_rate=1e-3, head_multiplier=10.0)
    groups = CoTuning().param_groups(model, params)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert {rates[id(parameter)] for parameter in model.head.source.parameters()} == {1e-3}
    assert {rates[id(parameter)] for parameter in model.head.head.parameters()} == {1e-2}


@pytest.mark.parametrize("teacher", ["features", "logits"])
def test_distillation_is_the_distance_from_the_source_network(teacher):
    strategy, pretrained = Distillation(), tiny_vit()
    hyperparameters = {"strength": 0.3, "teacher": teacher, "logits.temperature": 2.0}
    model, params = prepared(strategy, pretrained, **hyperparameters)
    batch = batches()[0]

    def term():
        return strategy.loss(lambda x: model(*x), batch, params) - entropy(model, batch)

    assert float(term().detach()) == pytest.approx(0, abs=1e-5)
    moved(model)
    with torch.no_grad():
        own, before = model.trunk(*batch.inputs), pretrained.trunk(*batch.inputs)
        if teacher == "features":
            expected = 2 - 2 * functional.cosine_similarity(own, before).mean()
        else:
            p, q = ((pretrained.source_head(features) / 2).softmax(dim=1) for features in (before, own))
            expected = 4 * (p * (p / q).log()).sum(dim=1).mean()
    assert expected > 1e-3
    assert float(term().detach()) == pytest.approx(0.3 * float(expected), rel=1e-3)


@pytest.mark.parametrize("strategy", [CoTuning(), Distillation()])
def test_at_strength_zero_it_is_fine_tuning(strategy):
    model, params = prepared(strategy, strength=0.0)
    plain, _ = prepared(FineTuning())
    assert list(model.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(one, plain.state_dict()[name]) for name, one in model.state_dict().items())
    batch = batches()[0]
    losses = [
        kind.loss(lambda x, m=m: m(*x), batch, params)
        for kind, m in ((strategy, model), (FineTuning(), plain))
    ]
    assert torch.equal(*losses)


def test_without_a_source_classifier():
    pretrained = tiny_cnn()
    headless = replace(pretrained, info=replace(pretrained.info, head="none"), source_head=None)
    for strategy in (CoTuning(), Distillation()):
        model, params = prepared(strategy, headless)  # what it offers there can be trained
        strategy.loss(lambda x, m=model: m(*x), batches()[0], params)
    assert CoTuning().space(headless.info)["strength"].choices == (0.0,)
    assert Distillation().space(headless.info)["teacher"].choices == ("features",)
    with pytest.raises(TrialError, match="no classifier"):
        prepared(CoTuning(), headless, strength=1.0)
