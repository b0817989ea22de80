from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from tlsearch import registry
from tlsearch.contracts import Backbone, Batch
from tlsearch.strategies.joint_training import coral

TASK = registry.task("classification")


def prepared(**changes: object) -> tuple[Backbone, dict[str, object]]:
    strategy = registry.strategy("joint_training")
    torch.manual_seed(0)
    pretrained = registry.backbone("tiny/net", weights="pretrained", image_size=None)
    model = Backbone(pretrained, classes=3, source_classes=5)
    params = {**strategy.default(model.info), "dropout": 0.0, **changes}
    strategy.prepare(model, params)
    return model.eval(), params


def batch() -> Batch:
    torch.manual_seed(1)
    source = Batch((torch.randn(6, 3, 16, 16),), torch.randint(0, 5, (6,)), 1, TASK)
    return Batch((torch.randn(4, 3, 16, 16),), torch.randint(0, 3, (4,)), 1, TASK, source)


@pytest.mark.parametrize("domain", [0.0, 0.1])
def test_the_loss_is_the_weighted_sum_of_its_parts(domain):
    model, params = prepared(source_weight=0.3, domain_weight=domain, label_smoothing=0.1)
    given = batch()
    loss = registry.strategy("joint_training").loss(lambda inputs: model(*inputs), given, params)
    here, there = model.trunk(given.inputs[0]), model.trunk(given.source.inputs[0])
    expected = functional.cross_entropy(model.head.target(here), given.targets, label_smoothing=0.1)
    expected = expected + 0.3 * functional.cross_entropy(model.head.source(there), given.source.targets)
    a, b = np.cov(here.detach().numpy().T), np.cov(there.detach().numpy().T)
    expected = expected + domain * float(((a - b) ** 2).sum()) / (4 * 16**2)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    loss.backward()
    for head in (model.head.target, model.head.source):
        assert all(parameter.grad is not None for parameter in head.parameters())


def test_coral_is_zero_between_equals_and_grows_with_spread():
    features = torch.randn(50, 8)
    assert float(coral(features, features + 3)) == pytest.approx(0, abs=1e-9)
    assert float(coral(features, 3 * features)) > float(coral(features, 2 * features)) > 0


def test_without_a_source_batch_it_says_so():
    model, params = prepared()
    with pytest.raises(ValueError, match="source batch"):
        registry.strategy("joint_training").loss(
            lambda inputs: model(*inputs),
            Batch((torch.zeros(2, 3, 16, 16),), torch.tensor([0, 1]), 1, TASK),
            params,
        )


def test_the_finished_model_has_the_targets_head_alone():
    model, params = prepared()
    images = torch.randn(3, 3, 16, 16)
    logits = model(images)[0]
    registry.strategy("joint_training").finish(model, params)
    assert torch.equal(model(images), logits)
    assert not any("source" in name for name in model.state_dict())
    registry.strategy("joint_training").finish(model, params)  # again, as when a model is rebuilt
    assert torch.equal(model(images), logits)


def test_a_model_is_rebuilt_where_no_source_is_described():
    strategy = registry.strategy("joint_training")
    model, params = prepared()
    strategy.finish(model, params)
    other = Backbone(registry.backbone("tiny/net", weights="pretrained", image_size=None), classes=3)
    strategy.prepare(other, params)
    strategy.finish(other, params)
    other.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(other.eval()(images), model(images))
