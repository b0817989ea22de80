"""A strategy whose space is wrong is found before the search starts, and harms no other."""

from __future__ import annotations

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tlsearch import registry, spec
from tlsearch.contracts import FineTuning
from tlsearch.errors import PluginError, SpecError
from tlsearch.search import setup
from tlsearch.search.progress import silent
from tlsearch.search.space import build
from tlsearch.testing import installed, tiny_cnn

INFO = tiny_cnn().info


class Given(FineTuning):
    """Has the space and the default that it is given."""

    def __init__(self, space=None, default=None, starts=None):
        self.own = space if space is not None else {"rate": FloatDistribution(0.1, 1.0)}
        self.point = default if default is not None else {"rate": 0.5}
        self.others = starts

    def space(self, backbone):
        return self.own

    def default(self, backbone):
        return self.point

    def starts(self, backbone):
        return [self.point] if self.others is None else self.others


CHOICE = CategoricalDistribution(["a", "b"])
RATE = FloatDistribution(0.1, 1.0)


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        (Given(space=[RATE]), "space() returned a list, not a dict of Optuna distributions"),
        (Given(space=None, default=[0.5]), "default: is a list, not a dict"),
        (
            Given(space={"rate": (0.1, 1.0)}),
            "space()['rate'] is a tuple; right are Optuna's FloatDistribution",
        ),
        (Given(space={"my rate": RATE}), "a hyperparameter 'my rate'; a name is letters"),
        (Given(space={3: RATE}), "a hyperparameter 3"),
        (Given(space={"": RATE}), "a hyperparameter ''"),
        (Given(space={"a.": RATE, "kind": CHOICE}), "a hyperparameter 'a.'"),
        (
            Given(space={"c.rate": RATE, "kind": CHOICE}),
            'which is for "c", and no choice is that',
        ),
        (Given(space={"freeze_depth": IntDistribution(0, 9)}), "freeze_depth is a fraction between 0 and 1"),
        (Given(default={"rate": 2.0}), "default: rate=2.0 is outside FloatDistribution"),
        (Given(default={"rate": "much"}), "default: rate='much' is outside"),
        (Given(default={"rate": True}), "default: rate=True is outside"),
        (Given(default={}), 'default: has no value for "rate"'),
        (Given(default={"rate": 0.5, "more": 1}), 'a value for "more", which isn\'t in the space'),
        (Given(starts=[{"rate": 0.5}, {"rate": 9.0}]), "starts[1]: rate=9.0 is outside"),
        (Given(starts=3), "TypeError: 'int' object is not iterable"),
        (
            Given(space={"kind": CHOICE, "a.rate": RATE}, default={"kind": "b", "a.rate": 0.5}),
            'a value for "a.rate", which doesn\'t exist there',
        ),
        (
            Given(space={"kind": CategoricalDistribution([1, 2])}, default={"kind": True}),
            "kind=True is outside",
        ),
    ],
)
def test_what_is_wrong_with_a_space_is_said(strategy, said):
    with pytest.raises(PluginError) as caught:
        build({"given": strategy}, [INFO], {})
    assert said in caught.value.message
    assert "strategy 'given'" in caught.value.message
    assert "testing/cnn" in caught.value.message


def test_conditional_hyperparameters_and_none_are_fine():
    conditional = Given(space={"kind": CHOICE, "a.rate": RATE}, default={"kind": "a", "a.rate": 0.5})
    space = build({"one": conditional, "none": Given(space={}, default={})}, [INFO], {})
    assert [dict(branch.starts[0]) for branch in space.branches] == [{"kind": "a", "a.rate": 0.5}, {}]


class Broken(FineTuning):
    def space(self, backbone):
        raise RuntimeError("no luck\nat all")


class Exiting(FineTuning):
    def space(self, backbone):
        raise SystemExit(3)


def prepared(tmp_path, **changes):
    document = {"study": "s", "data": {"source": "testing_digits"}, "backbones": ["testing/cnn"], **changes}
    return setup.prepare(spec.parse(document), cache=tmp_path, threads=1, observe=silent)


def test_the_rest_is_searched_where_the_study_names_none(tmp_path):
    with installed(strategies={"broken": Broken, "exiting": Exiting}):
        found = prepared(tmp_path)
        assert {"fine_tune", "linear_probe"} <= set(found.strategies)
        assert not {"broken", "exiting"} & set(found.strategies)
        assert not {"broken", "exiting"} & {plugin.name for plugin in found.plugins}
        told = " ".join(found.warnings)
        assert "left out: The strategy 'broken' of tlsearch-under-test 1.0 can't be searched" in told
        assert "RuntimeError: no luck." in told
        assert "SystemExit: 3" in told
        with pytest.raises(PluginError, match=r"'broken' of tlsearch-under-test 1\.0") as caught:
            prepared(tmp_path, strategies=["fine_tune", "broken"])
        assert "tlsearch plugins check broken" in str(caught.value)
        assert caught.value.exit_code == 2


def test_if_none_is_left_the_reasons_are_given(tmp_path, monkeypatch):
    with installed(strategies={"broken": Broken}):
        only = {"broken": registry.installed(registry.STRATEGIES)["broken"]}
        real = registry.installed
        monkeypatch.setattr(
            registry, "installed", lambda group: only if group == registry.STRATEGIES else real(group)
        )
        with pytest.raises(SpecError, match="No installed strategy applies") as caught:
            prepared(tmp_path)
        assert "no luck" in str(caught.value)
        monkeypatch.undo()
