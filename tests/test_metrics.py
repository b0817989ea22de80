from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from tlsearch.metrics import rank, score


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
