from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tlsearch.models.manifest import temperature_of
from tlsearch.tasks.temperature import best_temperature, expected_error, fit


def drawn(count: int = 4000, classes: int = 5, sharpness: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose softmax tells the truth at temperature ``sharpness``, and labels drawn from it."""
    generator = torch.Generator().manual_seed(0)
    honest = 2 * torch.randn(count, classes, generator=generator)
    labels = torch.multinomial(honest.softmax(dim=1), 1, generator=generator)[:, 0]
    return honest * sharpness, labels


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(sharpness):
    logits, labels = drawn(sharpness=sharpness)
    assert best_temperature(logits.double(), labels) == pytest.approx(sharpness, rel=0.08)
    fitted = fit(logits, labels)
    assert fitted.temperature == pytest.approx(sharpness, rel=0.08)
    assert fitted.log_loss_after <= fitted.log_loss_before + 1e-6
    assert fitted.error_after < 0.03
    if sharpness != 1:
        assert fitted.error_before > 2 * fitted.error_after


def test_no_other_temperature_is_better():
    logits, labels = drawn(sharpness=3.0)
    fitted = fit(logits, labels)

    def loss(temperature: float) -> float:
        return float(functional.cross_entropy(logits / temperature, labels))

    best = min((math.exp(step / 100) for step in range(-300, 400)), key=loss)
    assert fitted.temperature == pytest.approx(best, rel=0.02)


@given(st.integers(1, 40), st.integers(2, 6), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_few_items_that_are_all_right_make_no_certainty(count, classes, seed):
    labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))
    logits = 8.0 * functional.one_hot(labels, classes).double()
    told = (logits / best_temperature(logits, labels)).softmax(dim=1).max(dim=1).values
    assert told.allclose(torch.tensor((count + 1) / (count + 2), dtype=torch.float64), atol=1e-3)


@pytest.mark.parametrize("count", [1, 5, 18, 29])
def test_too_few_items_give_no_temperature(count):
    fitted = fit(*drawn(count, sharpness=3.0))
    assert (fitted.used, fitted.temperature, fitted.items) == (False, 1.0, count)
    assert str(count) in fitted.why
    assert fitted.error_after == fitted.error_before


@pytest.mark.parametrize("classes", [2, 10])
def test_a_temperature_seldom_harms_and_helps_where_one_is_needed(classes):
    logits, labels = drawn(40 * 60, classes)
    everything = functional.cross_entropy(logits, labels)

    def loss(sharpness: float) -> tuple[float, int]:
        fits = [fit(sharpness * a, b) for a, b in zip(logits.split(60), labels.split(60), strict=True)]
        losses = [functional.cross_entropy(sharpness * logits / one.temperature, labels) for one in fits]
        return float(torch.stack(losses).mean()), sum(one.used for one in fits)

    without_need, used = loss(1.0)
    assert without_need < everything + 0.006
    assert used < 20
    with_need, used = loss(3.0)
    assert with_need < functional.cross_entropy(3.0 * logits, labels) - 0.1
    assert used > 30


def test_the_error_by_chance_is_that_of_a_model_whose_probabilities_are_exact():
    few, many = fit(*drawn(60)), fit(*drawn(6000))
    assert few.error_by_chance > 0.05
    assert many.error_by_chance < 0.02
    assert many.error_before == pytest.approx(many.error_by_chance, abs=0.01)


def test_the_error_is_that_of_its_definition():
    # Two bins: confidence 0.9 of which half is right, and 0.6 of which all is.
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    labels = torch.tensor([0, 1, 0, 1])
    assert expected_error(probabilities, labels) == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)
    assert expected_error(torch.eye(3), torch.arange(3)) == 0


def test_a_description_without_it_means_one():
    assert temperature_of({}) == 1
    for wrong in (0, -1.0, math.inf, math.nan, "1", None, True):
        with pytest.raises(ValueError, match="temperature"):
            temperature_of({"temperature": wrong})
