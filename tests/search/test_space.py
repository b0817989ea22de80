from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tlsearch import registry
from tlsearch.errors import SpecError
from tlsearch.search import space as spaces
from tlsearch.spec import Override, parse

INFO = registry.backbone("tiny/net", weights="pretrained", image_size=None).info
NAMES = ("linear_probe", "fine_tune", "feature_copy")


def built(
    overrides: dict[str, object] | None = None, *, backbones=(INFO,), names=NAMES
) -> spaces.SearchSpace:
    """The space of a study whose file has these overrides."""
    study = parse(
        {"study": "a", "data": {"source": "d"}, "backbones": ["tiny/net"], "space": overrides or {}}
    )
    return spaces.build({name: registry.strategy(name) for name in names}, backbones, study.space)


def hyperparameter(overrides: dict[str, object], name: str, strategy: str = "fine_tune"):
    return built(overrides).branch("tiny/net", strategy).hyperparameters[name]


def refused(overrides: dict[str, object]) -> str:
    with pytest.raises(SpecError) as caught:
        built(overrides)
    return str(caught.value)


def test_one_branch_for_each_backbone_and_strategy():
    other = replace(INFO, name="tiny/other")
    space = built(backbones=(INFO, other))
    assert [(b.backbone, b.strategy) for b in space.branches] == [
        (backbone, strategy) for backbone in ("tiny/net", "tiny/other") for strategy in NAMES
    ]
    assert space.strategies == list(NAMES)
    assert space.backbones == ["tiny/net", "tiny/other"]
    assert [b.heads for b in space.branches[:3]] == [True, False, True]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (0.1, CategoricalDistribution([0.1])),
        (0, CategoricalDistribution([0.0])),
        ({"value": 0.25}, CategoricalDistribution([0.25])),
        ([0, 0.5], CategoricalDistribution([0.0, 0.5])),
        ({"high": 0.3}, FloatDistribution(0.0, 0.3)),
        ({"low": 0.1, "high": 0.3, "log": True}, FloatDistribution(0.1, 0.3, log=True)),
        ({"low": 0.0, "high": 0.4, "step": 0.1}, FloatDistribution(0.0, 0.4, step=0.1)),
        ({"low": 0.2, "high": 0.2}, FloatDistribution(0.2, 0.2)),
    ],
)
def test_a_hyperparameter_is_fixed_narrowed_or_widened(override, expected):
    given_ = hyperparameter({"fine_tune.dropout": override}, "dropout")
    assert given_ == expected
    if isinstance(expected, CategoricalDistribution):
        assert [type(choice) for choice in given_.choices] == [float] * len(expected.choices)


def test_whole_numbers_stay_whole():
    assert hyperparameter({"fine_tune.batch_size": {"high": 64}}, "batch_size") == IntDistribution(32, 64)
    assert hyperparameter(
        {"fine_tune.batch_size": {"low": 8.0, "high": 64.0, "log": True}}, "batch_size"
    ) == (IntDistribution(8, 64, log=True))
    fixed = hyperparameter({"fine_tune.batch_size": 16.0}, "batch_size")
    assert fixed == CategoricalDistribution([16])
    assert type(fixed.choices[0]) is int


def test_choices_may_be_widened():
    assert hyperparameter({"fine_tune.optimizer": ["adamw", "sgd"]}, "optimizer") == CategoricalDistribution(
        ["adamw", "sgd"]
    )


def test_a_log_range_keeps_what_is_not_said():
    narrowed = hyperparameter({"fine_tune.learning_rate": {"high": 1e-3}}, "learning_rate")
    assert narrowed == FloatDistribution(1e-5, 1e-3, log=True)
    plain = hyperparameter({"fine_tune.learning_rate": {"log": False}}, "learning_rate")
    assert plain == FloatDistribution(1e-5, 1e-2)


def test_one_override_for_all_strategies_and_one_that_goes_before_it():
    space = built({"*.dropout": 0.0, "fine_tune.dropout": 0.5})
    assert space.branch("tiny/net", "linear_probe").hyperparameters["dropout"] == CategoricalDistribution(
        [0.0]
    )
    assert space.branch("tiny/net", "fine_tune").hyperparameters["dropout"] == CategoricalDistribution([0.5])
    for overrides in (
        {"fine_tune.dropout": 0.5, "*.dropout": 0.0},
        {"*.dropout": 0.0, "fine_tune.dropout": 0.5},
    ):
        assert hyperparameter(overrides, "dropout") == CategoricalDistribution([0.5])
    assert hyperparameter({"*.svm.C": 1.0}, "svm.C", "feature_copy") == CategoricalDistribution([1.0])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            {"fine_tune.lerning_rate": 1.0},
            'no hyperparameter "fine_tune.lerning_rate" in this study. Did you mean "fine_tune.learning_rate',
        ),
        ({"learning_rate": 1.0}, 'no hyperparameter "learning_rate"'),
        ({"*.lr": 1.0}, 'no hyperparameter "*.lr"'),
        ({"joint_training.dropout": 0.1}, 'no hyperparameter "joint_training.dropout"'),
        ({"fine_tune.learning_rate": "fast"}, "must be a finite number, not 'fast'"),
        ({"fine_tune.learning_rate": True}, "must be a finite number, not True"),
        ({"fine_tune.learning_rate": 0.0}, "must be above 0"),
        ({"fine_tune.learning_rate": [1e-3, -1.0]}, "must be above 0"),
        ({"fine_tune.learning_rate": {"low": 1.0}}, "fine_tune.learning_rate"),
        ({"fine_tune.learning_rate": {"high": 1e-9}}, "fine_tune.learning_rate"),
        ({"fine_tune.weight_decay": {"low": 0.0}}, "fine_tune.weight_decay"),
        ({"fine_tune.dropout": {"log": True}}, "fine_tune.dropout"),
        ({"fine_tune.dropout": {"step": -0.1}}, "fine_tune.dropout"),
        ({"fine_tune.dropout": {"step": 0.1, "log": True, "low": 0.1}}, "fine_tune.dropout"),
        ({"fine_tune.batch_size": 1.5}, "must be a whole number, not 1.5"),
        ({"fine_tune.batch_size": {"low": 0.5}}, "must be a whole number, not 0.5"),
        ({"fine_tune.optimizer": {"low": 1}}, "is a choice among ['adamw'], not a range"),
        ({"fine_tune.optimizer": 3}, "must be of type str, not 3"),
        ({"linear_probe.dropout": "no"}, "must be of type float, not 'no'"),
        ({"fine_tune.freeze_depth": {"high": 2.0}}, "fraction between 0 and 1, not 2"),
        ({"fine_tune.freeze_depth": 7}, "fraction between 0 and 1, not 7"),
        ({"fine_tune.freeze_depth": [0.5, -0.5]}, "fraction between 0 and 1"),
        ({"*.freeze_depth": {"low": -0.5}}, "fraction between 0 and 1"),
    ],
)
def test_a_wrong_override_is_told(overrides, said):
    assert said in refused(overrides)


def test_starting_points_follow_a_narrowed_space():
    space = built(
        {
            "fine_tune.freeze_depth": {"low": 0.6},
            "fine_tune.learning_rate": {"low": 1e-5, "high": 1e-4},
            "fine_tune.augmentation": ["light"],
            "fine_tune.dropout": {"low": 0.0, "high": 0.4, "step": 0.2},
            "feature_copy.learner": "svm",
        }
    )
    branch = space.branch("tiny/net", "fine_tune")
    assert branch.starts
    for start in branch.starts:
        for name, value in start.items():
            assert branch.hyperparameters[name]._contains(
                branch.hyperparameters[name].to_internal_repr(value)
            ), (name, value)
    assert [start["freeze_depth"] for start in branch.starts] == [0.6, 0.75, 0.6, 0.6]
    assert {start["learning_rate"] for start in branch.starts} == {1e-4}
    assert {start["augmentation"] for start in branch.starts} == {"light"}
    (start,) = space.branch("tiny/net", "feature_copy").starts
    assert start["learner"] == "svm"
    assert set(start) == {"learner", "svm.C", "svm.gamma"}


def test_starts_that_become_equal_are_one():
    branch = built(
        {
            "fine_tune.freeze_depth": 0.5,
            "*.learning_rate": 1e-3,
            "fine_tune.lr_ratio": 1.0,
            "fine_tune.augmentation": "none",
            "fine_tune.length": 1.0,
        }
    ).branch("tiny/net", "fine_tune")
    assert len(branch.starts) == 1


def test_a_conditional_hyperparameter_exists_where_its_choice_was_made():
    branch = built().branch("tiny/net", "feature_copy")
    assert branch.exists("learner", {})
    assert branch.exists("svm.C", {"learner": "svm"})
    assert not branch.exists("svm.C", {"learner": "knn"})
    assert not branch.exists("svm.C", {})
    assert branch.ordered()[0] == "learner"


def test_a_grid_goes_through_every_combination_once():
    branch = built({"feature_copy.knn.k": {"low": 1, "high": 2}}).branch("tiny/net", "feature_copy")
    points = list(spaces.grid(branch))
    assert len(points) == 3 + 2 + 3 + 9  # logistic C; k 1 and 2; ridge, nearest mean, lda; svm C x gamma
    assert len({str(sorted(point.items())) for point in points}) == len(points)
    assert [point for point in points if point["learner"] == "lda"] == [{"learner": "lda"}]
    strengths = [point["logistic.C"] for point in points if point["learner"] == "logistic"]
    assert strengths == pytest.approx([1e-5, 1e-2, 1e1])


@given(
    st.floats(1e-6, 1e3),
    st.floats(1e-6, 1e3),
    st.booleans(),
    st.booleans(),
    st.integers(1, 12),
)
@settings(max_examples=100, deadline=None)
def test_grid_values_lie_in_their_range(low, high, log, whole, points):
    low, high = min(low, high), max(low, high)
    if whole:
        distribution = IntDistribution(max(1, int(low)), max(1, int(high)), log=log)
    else:
        distribution = FloatDistribution(low, high, log=log)
    values = spaces._values(distribution, max(2, points))
    assert values == sorted(set(values))
    for value in values:
        assert distribution._contains(distribution.to_internal_repr(value))
    assert values[0] == pytest.approx(distribution.low)
    assert values[-1] == pytest.approx(distribution.high)


def test_an_override_is_plain_data():
    assert Override.model_validate(3) == Override(value=3)
    assert Override.model_validate([1, 2]) == Override(choices=(1, 2))


@pytest.mark.parametrize(
    ("task", "losses"),
    [("classification", None), ("regression", ("huber", "mse")), ("multilabel", ("bce", "weighted_bce"))],
)
def test_the_losses_of_the_task_are_searched_and_what_it_has_no_use_for_is_not(task, losses):
    learned = registry.task(task)
    strategies = {name: registry.strategy(name).for_task(task) for name in NAMES}
    space = spaces.build(strategies, [INFO], {}, task=learned)
    for strategy in ("linear_probe", "fine_tune"):
        branch = space.branch("tiny/net", strategy)
        assert getattr(branch.hyperparameters.get("loss"), "choices", None) == losses
        assert all(start.get("loss") == (losses and losses[0]) for start in branch.starts)
        smoothing = branch.hyperparameters["label_smoothing"]
        assert smoothing.single() == (not learned.smooths) == (task != "classification")
    assert "loss" not in space.branch("tiny/net", "feature_copy").hyperparameters
    if losses:
        study = {"fine_tune.loss": Override(value=losses[1])}
        (branch,) = spaces.build({"fine_tune": strategies["fine_tune"]}, [INFO], study, task=learned).branches
        assert all(start["loss"] == losses[1] for start in branch.starts)
