from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from tlsearch.contracts import LinearRecipe, Metric
from tlsearch.errors import SpecError
from tlsearch.tasks.classification import Classification
from tlsearch.testing.fixtures import score

TASK = Classification()
rank = TASK.rank


@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 10_000))
@settings(max_examples=80, deadline=None)
def test_scores_are_those_of_scikit_learn(classes, count, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes)) * 3
    labels = rng.integers(0, classes, count)
    scores = score(torch.tensor(logits), torch.tensor(labels))
    predicted = logits.argmax(axis=1)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    present = np.unique(labels)
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    recalls = sk.recall_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert scores["balanced_accuracy"] == pytest.approx(recalls)
    f1 = sk.f1_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert scores["macro_f1"] == pytest.approx(f1)
    loss = sk.log_loss(labels, shares, labels=range(classes))
    assert scores["log_loss"] == pytest.approx(loss, abs=1e-5)


def test_a_class_that_does_not_occur_has_no_part_in_the_means():
    logits = torch.eye(3)[[0, 0, 1, 2]] * 5
    scores = score(logits, torch.tensor([0, 0, 1, 1]))
    assert scores["balanced_accuracy"] == pytest.approx(0.75)
    assert scores["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)


def test_a_better_majority_class_does_not_hide_a_lost_one():
    logits = torch.zeros(100, 2)
    logits[:, 0] = 1
    labels = torch.tensor([0] * 95 + [1] * 5)
    scores = score(logits, labels)
    assert scores["accuracy"] == pytest.approx(0.95)
    assert scores["balanced_accuracy"] == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_type_will_do(dtype):
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]], dtype=dtype, requires_grad=True)
    assert score(logits, torch.tensor([0, 1]))["accuracy"] == 1


def test_logits_that_are_not_finite_never_score_well():
    logits = torch.full((4, 3), torch.nan)
    assert math.isnan(score(logits, torch.tensor([0, 1, 2, 0]))["log_loss"])
    assert score(torch.full((2, 3), torch.inf), torch.tensor([0, 1]))["log_loss"] != 0


def scores(accuracy: float, loss: float) -> dict[str, float]:
    return {"accuracy": accuracy, "log_loss": loss}


def test_rank_is_larger_for_the_better():
    assert rank(scores(0.9, 5.0), "accuracy") > rank(scores(0.8, 0.1), "accuracy")
    assert rank(scores(0.9, 0.1), "accuracy") > rank(scores(0.9, 0.2), "accuracy")
    assert rank(scores(0.1, 0.1), "log_loss") > rank(scores(0.9, 0.2), "log_loss")


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rank_puts_what_is_not_finite_last(metric, bad):
    worst = rank({**scores(0.5, 0.5), metric: bad, "log_loss": bad}, metric)
    assert rank(scores(0.0, 99.0), metric) > worst


def test_metrics_say_what_is_better_and_how_far_rounding_goes():
    names = [metric.name for metric in TASK.metrics]
    assert names == ["accuracy", "balanced_accuracy", "macro_f1", "log_loss"]
    assert TASK.metric("") is TASK.metrics[0]
    assert {metric.name for metric in TASK.metrics if metric.minimize} == {"log_loss"}
    assert TASK.metric("accuracy").tolerance(100) == pytest.approx(0.015)
    assert TASK.metric("log_loss").tolerance(100) == pytest.approx(1e-3)
    assert Metric("error", minimize=True).direction == "minimize"


def test_an_unknown_metric_is_refused_with_the_nearest():
    with pytest.raises(SpecError, match=r'"accurracy" here\. Did you mean "accuracy"') as caught:
        TASK.metric("accurracy")
    assert "log_loss" in str(caught.value.hint)


def test_batches_do_not_change_a_score():
    logits, labels = torch.randn(50, 4), torch.randint(0, 4, (50,))
    whole = score(logits, labels)
    evaluator = TASK.evaluator(TASK.describe(["a", "b", "c", "d"]))
    for start in range(0, 50, 7):
        evaluator.update(logits[start : start + 7], labels[start : start + 7])
    assert evaluator.compute() == whole


def test_the_gradient_in_closed_form_is_that_of_the_loss():
    outputs, labels = torch.randn(9, 4, 3), torch.randint(0, 4, (9,))
    recipes = [LinearRecipe(1e-3, label_smoothing=smoothing) for smoothing in (0.0, 0.1, 0.3)]
    plain = super(Classification, TASK)
    by_autograd = plain.output_gradient(outputs, labels, recipes)
    torch.testing.assert_close(TASK.output_gradient(outputs.clone(), labels, recipes), by_autograd)
    torch.testing.assert_close(TASK.losses(outputs, labels), plain.losses(outputs, labels))


def test_names_become_indices_and_back():
    spec = TASK.describe(["b", "a", "b"])
    assert spec.names == ("a", "b")
    encoded = TASK.encode(["b", "a", "b"], spec)
    assert encoded.tolist() == [1, 0, 1]
    assert TASK.encode(encoded, spec).tolist() == [1, 0, 1]
    assert [TASK.plain(one, spec) for one in encoded] == ["b", "a", "b"]
    assert TASK.strata(encoded, spec).of == [(1,), (0,), (1,)]
