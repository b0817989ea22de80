"""The built-in strategies keep the contract; strategies that break it are told so, check by check."""

from __future__ import annotations

import itertools

import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import nn

from tlsearch import registry
from tlsearch.contracts import FineTuning, HeadStrategy, Strategy
from tlsearch.errors import UnknownNameError
from tlsearch.testing import StrategyContract, check_strategy, fixtures
from tlsearch.testing.contract import results
from tlsearch.testing.given import misspelt_hooks


class TestFineTune(StrategyContract):
    strategy = "fine_tune"


class TestJointTraining(StrategyContract):
    strategy = "joint_training"
    epochs = 6
    test_reloads_in_another_process = None  # one gradient and one head strategy are enough for that


class TestLinearProbe(StrategyContract):
    strategy = "linear_probe"


class TestFeatureCopy(StrategyContract):
    strategy = "feature_copy"
    test_reloads_in_another_process = None


def said(strategy: Strategy, check: str, **values: object) -> str:
    """What a check says of a strategy; fails where it says nothing."""
    contract = type(
        "Broken", (StrategyContract,), {"strategy": strategy, "epochs": 2, "above": 0.0, **values}
    )
    contract.setup_class()
    try:
        with pytest.raises(AssertionError) as caught:
            getattr(contract(), f"test_{check}")()
    finally:
        contract.teardown_class()
    return str(caught.value)


class ListSpace(FineTuning):
    def space(self, backbone):
        return [FloatDistribution(0, 1)]


class OutsideDefault(FineTuning):
    def default(self, backbone):
        return {**super().default(backbone), "dropout": 0.9}


class OutsideStart(FineTuning):
    def starts(self, backbone):
        return [self.default(backbone), {"dropout": 0.1}]


class OddRecipe(FineTuning):
    def space(self, backbone):
        return {**super().space(backbone), "augmentation": CategoricalDistribution(["none", "spin"])}

    def default(self, backbone):
        return {**super().default(backbone), "augmentation": "none"}

    def starts(self, backbone):
        return [self.default(backbone)]


class Counting(FineTuning):
    """Depends on how often it was called."""

    calls = itertools.count()

    def prepare(self, model, params):
        super().prepare(model, params)
        model.freeze(next(self.calls) % 3 / 2)


class Drawing(FineTuning):
    """Draws what it doesn't save."""

    def prepare(self, model, params):
        super().prepare(model, params)
        with torch.random.fork_rng():
            torch.seed()
            nn.init.normal_(model.head.linear.weight)


class Writing(FineTuning):
    def prepare(self, model, params):
        params["dropout"] = 0.0
        super().prepare(model, params)


class Idle(FineTuning):
    def prepare(self, model, params):
        super().prepare(model, params)
        model.requires_grad_(False)


class Forgetful(FineTuning):
    """Gives the optimizer the head alone."""

    def param_groups(self, model, params):
        return [{"params": list(model.head.parameters()), "lr": 1e-3, "weight_decay": 0.0}]


class Lazy(FineTuning):
    def loss(self, model, batch, params):
        return 0.0 * super().loss(model, batch, params)


class Raising(FineTuning):
    def loss(self, model, batch, params):
        raise RuntimeError("fell over")


class Twice(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, features):
        return self.head(features), features


class Unfinished(FineTuning):
    """Leaves its tuple behind."""

    def prepare(self, model, params):
        super().prepare(model, params)
        model.head = Twice(model.head)


class Scaled(nn.Module):
    """Has a number that isn't in its state."""

    def __init__(self, head):
        super().__init__()
        self.head = head
        self.scale = 1.0

    def forward(self, features):
        return self.head(features) * self.scale


class Unsaved(FineTuning):
    def prepare(self, model, params):
        super().prepare(model, params)
        model.head = Scaled(model.head)

    def on_epoch(self, model, epoch, epochs, params):
        model.head.scale = 1.0 + epoch


class Moody(FineTuning):
    """Trains otherwise each time."""

    runs = itertools.count(1)

    def on_epoch(self, model, epoch, epochs, params):
        if epoch == 1:
            self.factor = next(self.runs)

    def penalty(self, model, params):
        return self.factor * model.head.linear.weight.square().sum()


class First(HeadStrategy):
    """Fits all heads as the first."""

    def space(self, backbone):
        return {"scale": FloatDistribution(0.1, 10.0)}

    def default(self, backbone):
        return {"scale": 10.0}

    def fit_heads(self, task, points):
        means = torch.stack([task.features[0][task.labels == c].mean(dim=0) for c in range(task.classes)])
        heads = [nn.Linear(means.shape[1], task.classes) for _ in points]
        for head in heads:
            with torch.no_grad():
                head.weight.copy_(means * points[0].params["scale"])
        return heads


class Many(First):
    """Takes it that there are more than two classes."""

    def fit_heads(self, task, points):
        heads = super().fit_heads(task, points)
        if task.classes == 2:
            heads = [nn.Linear(head.in_features, 1) for head in heads]
        return heads


class Turned(First):
    """Takes the first of two classes for the second."""

    def fit_heads(self, task, points):
        heads = super().fit_heads(task, points)
        for head in heads if task.classes == 2 else ():
            between, middle = head.weight[0] - head.weight[1], task.features[0].mean(dim=0)
            with torch.no_grad():
                head.weight.copy_(torch.stack([-between, between]))
                head.bias.copy_(-head.weight @ middle)
        return heads


class Vain(First):
    requires_source = True


class Misspelt(FineTuning):
    def penality(self, model, params):
        return None

    def ranges(self):
        """A method of its own, called like no hook."""


class MisspeltHeads(First):
    def heads(self, width, outputs, params):
        return nn.Linear(width, outputs)


@pytest.mark.parametrize(
    ("strategy", "check", "wanted"),
    [
        (Misspelt(), "hooks", "penality is no hook: did you mean penalty?"),
        (MisspeltHeads(), "hooks", "heads is no hook: did you mean head?"),
        (ListSpace(), "space_and_starts", "space() returned a list, not a dict"),
        (OutsideDefault(), "space_and_starts", "default: dropout=0.9 is outside FloatDistribution"),
        (OutsideStart(), "space_and_starts", 'starts[1]: has no value for "augmentation"'),
        (OddRecipe(), "recipes", 'no augmentation "spin"'),
        (Counting(), "prepare", "marks other parameters the second time"),
        (Drawing(), "prepare", "makes other values of ['head.linear.weight'] under the same seed"),
        (Idle(), "prepare", "marks nothing to train"),
        (Forgetful(), "prepare", "leaves out trunk.blocks"),
        (Raising(), "trains", "failed: RuntimeError: fell over"),
        (Unfinished(), "finish", "returns a tuple, not a tensor of logits"),
        (Unsaved(), "reloads", "saved and reloaded: logits differ by"),
        (Moody(), "cache_is_exact", "with and without the cache: logits differ by"),
        (Moody(), "same_seed_same_model", "trained twice: logits differ by"),
        (Many(), "any_number_of_classes", "of 2 equal classes"),
        (Turned(), "any_number_of_classes", "worse than chance"),
        (Vain(), "source_data", "requires_source is vain"),
        (First(), "many_heads_at_once", "alone and with others: logits differ by"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Strategy) else None,
)
def test_a_broken_strategy_is_told_what_is_wrong(strategy, check, wanted):
    assert wanted in said(strategy, check)


def test_what_never_learns_is_no_better_than_chance():
    message = said(Lazy(), "trains", above=0.25)
    assert "0.25 is wanted, chance is 0.1" in message


def test_params_that_are_written_to_are_read_only():
    contract = type("Broken", (StrategyContract,), {"strategy": Writing()})
    contract.setup_class()
    try:
        with pytest.raises(TypeError, match="does not support item assignment"):
            contract().test_prepare()
    finally:
        contract.teardown_class()


def test_results_come_without_pytest(capsys):
    class Printing(StrategyContract):
        strategy = Raising()

        def test_more_of_my_own(self):
            print("loud")
            self.note("found it")

    done = {result.check: result for result in results(Printing)}
    assert list(done) == [name.removeprefix("test_").replace("_", " ") for name in Printing.checks()]
    assert done["space and starts"].ok
    assert not done["trains"].ok
    assert "(strategy 'strategy_under_test' of tlsearch-under-test 1.0)" in done["trains"].message
    assert done["more of my own"].message == "found it"
    assert done["many heads at once"].message == "not checked: it is no head strategy"
    assert all(result.seconds >= 0 for result in done.values())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "loud" in captured.err


def test_a_name_that_is_not_installed():
    with pytest.raises(UnknownNameError, match="fine_tune"):
        check_strategy("fine_tun")


def test_a_strategy_that_does_not_load_fails_one_check():
    class Newer(FineTuning):
        api_version = 3

    with fixtures.installed(strategies={"newer": Newer}):
        (result,) = check_strategy("newer")
    assert (result.check, result.ok) == ("loads", False)
    assert "newer" in result.message


def test_nothing_stays_installed_and_no_file_is_left():
    contract = type("Good", (StrategyContract,), {"strategy": "fine_tune"})
    contract.setup_class()
    folder = contract._folder
    assert "testing" in registry.installed(registry.BACKBONES)
    contract.teardown_class()
    assert "testing" not in registry.installed(registry.BACKBONES)
    assert not folder.exists()


def test_no_strategy_here_has_a_method_called_nearly_as_a_hook_is():
    for name in registry.installed(registry.STRATEGIES):
        assert misspelt_hooks(type(registry.strategy(name))) == {}, name
