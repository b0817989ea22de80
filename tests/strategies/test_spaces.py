"""What every built-in strategy promises of its space."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from optuna.distributions import CategoricalDistribution

from tlsearch import registry
from tlsearch.contracts import Backbone, BackboneInfo, HeadStrategy, InputSpec, Pretrained, Recipe
from tlsearch.search import space as spaces
from tlsearch.testing import classes

BUILT_INS = ["linear_probe", "fine_tune", "joint_training", "feature_copy"]


@cache
def tiny() -> Pretrained:
    return registry.backbone("tiny/net", weights="pretrained", image_size=None)


class Words(InputSpec):
    """An input that knows no augmentation and can't be blended."""

    modality = "text"
    shape = (4,)
    dtype = "int64"

    def encode(self, item):
        raise NotImplementedError

    def to_model(self, batch):
        return batch

    def to_json(self):
        return {}


def infos() -> list[BackboneInfo]:
    return [tiny().info, replace(tiny().info, inputs=Words())]


@pytest.mark.parametrize("name", BUILT_INS)
@pytest.mark.parametrize("info", infos(), ids=["image", "text"])
def test_defaults_and_starts_lie_inside_the_space(name, info):
    strategy = registry.strategy(name)
    (branch,) = spaces.build({name: strategy}, [info], {}).branches
    starts = [dict(start) for start in strategy.starts(info)]
    assert starts[0] == dict(strategy.default(info))
    for start in starts:
        wanted = {
            hyperparameter
            for hyperparameter in branch.hyperparameters
            if branch.exists(hyperparameter, start)
        }
        assert set(start) == wanted, (
            "a start has one value for every hyperparameter that exists there, and no other"
        )
        for hyperparameter, value in start.items():
            distribution = branch.hyperparameters[hyperparameter]
            assert distribution._contains(distribution.to_internal_repr(value)), (hyperparameter, value)
    # Nothing had to be moved to fit.
    assert [dict(start) for start in branch.starts] == starts
    assert branch.heads == isinstance(strategy, HeadStrategy)


@pytest.mark.parametrize("name", BUILT_INS)
@pytest.mark.parametrize("info", infos(), ids=["image", "text"])
def test_every_point_of_a_space_is_a_recipe_that_the_input_can_follow(name, info):
    strategy = registry.strategy(name)
    (branch,) = spaces.build({name: strategy}, [info], {}).branches
    for choice in getattr(branch.hyperparameters.get("augmentation"), "choices", ["none"]):
        assert choice in info.inputs.policies or (choice == "mixup" and info.inputs.blendable)
    for params in [*branch.starts, next(spaces.grid(branch))]:
        recipe = strategy.recipe(params)
        assert isinstance(recipe, Recipe)
        assert recipe.batch_size >= 1
        assert recipe.learning_rate > 0


@pytest.mark.parametrize("name", BUILT_INS)
def test_the_prepared_model_gives_logits_and_depends_on_its_arguments_alone(name):
    strategy = registry.strategy(name)
    params = strategy.default(tiny().info)

    def built() -> Backbone:
        torch.manual_seed(3)
        model = Backbone(registry.backbone("tiny/net", weights="pretrained", image_size=None), *classes(4))
        strategy.prepare(model, params)
        return model.eval()

    model, other = built(), built()
    first, second = model.state_dict(), other.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)
    strategy.finish(model, params)
    if name != "feature_copy":  # which knows nothing before it is fitted
        assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 4)


def test_no_built_in_is_offered_source_data_but_joint_training():
    assert [name for name in BUILT_INS if registry.strategy(name).requires_source] == ["joint_training"]


def test_joint_training_never_blends_labels_of_two_label_sets():
    hyperparameter = registry.strategy("joint_training").space(tiny().info)["augmentation"]
    assert isinstance(hyperparameter, CategoricalDistribution)
    assert "mixup" not in hyperparameter.choices
