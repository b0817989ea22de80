"""Modules predict what scikit-learn's own estimators predict, on features that they haven't seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

from tlsearch import registry
from tlsearch.contracts import HeadPoint, HeadTask
from tlsearch.strategies.feature_copy import RIDGE_PATH

WIDTH = 12


def features(classes: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clouds, so that the learners have something to be unsure of."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(classes).normal(size=(classes, WIDTH))
    return (3 + centres[labels] + 1.2 * rng.normal(size=(count, WIDTH))) * np.arange(1, WIDTH + 1), labels


def task(x: np.ndarray, y: np.ndarray, classes: int) -> HeadTask:
    return HeadTask(
        features=torch.tensor(x, dtype=torch.float32)[None],
        labels=torch.tensor(y),
        stop_features=torch.zeros(0, x.shape[1]),
        stop_labels=torch.zeros(0, dtype=torch.int64),
        classes=classes,
        epochs=1,
        train_linear=lambda recipes: [],
    )


def fitted(x: np.ndarray, y: np.ndarray, classes: int, **params: object) -> nn.Module:
    (head,) = registry.strategy("feature_copy").fit_heads(task(x, y, classes), [HeadPoint(params, seed=0)])
    return head.eval()


def scaled(x: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # The sample's deviation, not the population's: a factor that is the same for all features.
    factor = np.sqrt(len(x) / (len(x) - 1))
    scaler = StandardScaler().fit(x)
    return scaler.transform(x) / factor, scaler.transform(new) / factor


def logits(head: nn.Module, x: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return head(torch.tensor(x, dtype=torch.float32)).double()


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("learner", ["logistic", "lda"])
def test_linear_learners_give_scikit_learns_probabilities(learner, classes):
    x, y = features(classes, 150, seed=0)
    new, _ = features(classes, 200, seed=1)
    head = fitted(x, y, classes, **{"learner": learner, "logistic.C": 0.05})
    train, test = scaled(x, new)
    model = (
        LogisticRegression(C=0.05, max_iter=300)
        if learner == "logistic"
        else LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    ).fit(train, y)
    shares = logits(head, new).softmax(dim=1).numpy()
    np.testing.assert_allclose(shares, model.predict_proba(test), atol=2e-4)


@pytest.mark.parametrize("classes", [2, 3, 30])
def test_ridge_decides_as_scikit_learns(classes):
    x, y = features(classes, 300, seed=0)
    new, _ = features(classes, 200, seed=1)
    train, test = scaled(x, new)
    model = RidgeClassifierCV(alphas=RIDGE_PATH).fit(train, y)
    found = logits(fitted(x, y, classes, learner="ridge"), new).argmax(dim=1).numpy()
    assert (found == model.predict(test)).mean() > 0.99


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(("C", "gamma"), [(1.0, 1.0), (100.0, 3.0), (0.1, 0.1)])
def test_the_support_vector_machine_decides_as_scikit_learns(classes, C, gamma):
    x, y = features(classes, 150, seed=0)
    new, _ = features(classes, 400, seed=1)
    head = fitted(x, y, classes, **{"learner": "svm", "svm.C": C, "svm.gamma": gamma})
    train, test = scaled(x, new)
    machine = SVC(C=C, gamma=gamma / WIDTH, break_ties=classes > 2, decision_function_shape="ovr").fit(
        train, y
    )
    scores = logits(head, new)
    assert (scores.argmax(dim=1).numpy() == machine.predict(test)).all()
    if classes > 2:
        np.testing.assert_allclose(scores.numpy(), machine.decision_function(test), atol=2e-4)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("k", [1, 7, 1000])
def test_neighbours_vote_by_similarity(classes, k):
    x, y = features(classes, 60, seed=0)
    new, _ = features(classes, 50, seed=1)
    x, new = x - x.mean(axis=0), new - x.mean(axis=0)  # so that directions differ
    head = fitted(x, y, classes, **{"learner": "knn", "knn.k": k})
    search = NearestNeighbors(n_neighbors=min(k, 60), metric="cosine").fit(x)
    distance, index = search.kneighbors(new)
    weights = np.exp((1 - distance) / 0.07)
    votes = np.zeros((50, classes))
    for row in range(50):
        np.add.at(votes[row], y[index[row]], weights[row])
    expected = votes / votes.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(logits(head, new).exp().numpy() - 1e-4, expected, atol=1e-3)
    assert torch.isfinite(logits(head, new)).all()


@pytest.mark.parametrize("learner", ["logistic", "lda", "svm", "knn"])
def test_a_feature_that_slept_in_training_turns_no_prediction(learner):
    x, y = features(3, 90, seed=0)
    new, _ = features(3, 60, seed=1)
    params = {"learner": learner, "logistic.C": 0.1, "svm.C": 1.0, "svm.gamma": 1.0, "knn.k": 5}
    plain = logits(fitted(x, y, 3, **params), new)
    for constant in (0.0, 0.1):
        asleep = np.concatenate([x, np.full((90, 1), constant)], axis=1)
        awake = np.concatenate([new, np.full((60, 1), constant + 0.5)], axis=1)
        # The width is a part of the machine's gamma.
        head = fitted(asleep, y, 3, **{**params, "svm.gamma": (WIDTH + 1) / WIDTH})
        agree = (logits(head, awake).argmax(dim=1) == plain.argmax(dim=1)).double().mean()
        assert agree > 0.95


def test_heads_of_one_batch_are_those_fitted_alone():
    x, y = features(4, 80, seed=0)
    points = [
        HeadPoint({"learner": "logistic", "logistic.C": 0.01}, 0),
        HeadPoint({"learner": "knn", "knn.k": 3}, 0),
        HeadPoint({"learner": "svm", "svm.C": 1.0, "svm.gamma": 1.0}, 0),
        HeadPoint({"learner": "lda"}, 0),
    ]
    strategy = registry.strategy("feature_copy")
    together = strategy.fit_heads(task(x, y, 4), points)
    for point, head in zip(points, together, strict=True):
        (alone,) = strategy.fit_heads(task(x, y, 4), [point])
        assert torch.equal(head(torch.tensor(x).float()), alone(torch.tensor(x).float()))


@pytest.mark.parametrize("learner", ["logistic", "lda", "svm", "knn"])
def test_an_unfitted_head_takes_what_was_learned(learner):
    x, y = features(3, 60, seed=0)
    params = {"learner": learner, "logistic.C": 0.1, "svm.C": 1.0, "svm.gamma": 1.0, "knn.k": 5}
    head = fitted(x, y, 3, **params)
    empty = registry.strategy("feature_copy").head(WIDTH, 3, params)
    assert list(empty.state_dict()) == list(head.state_dict())
