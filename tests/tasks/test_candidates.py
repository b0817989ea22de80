"""Conformal sets have the true class as often as they say."""

from __future__ import annotations

import pytest
import torch

from tlsearch.tasks.candidates import candidates, fit


def probabilities(count: int, seed: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shares = (2 * torch.randn(count, classes, generator=generator)).softmax(dim=1)
    return shares, torch.multinomial(shares, 1, generator=generator)[:, 0]


@pytest.mark.parametrize("classes", [2, 30])
@pytest.mark.parametrize("missed", [0.05, 0.2])
def test_new_items_have_their_class_among_the_candidates(classes, missed):
    covered = []
    for seed in range(30):
        known = fit(*probabilities(200, seed, classes), missed=missed)
        assert known["coverage"] == pytest.approx(1 - missed)
        shares, targets = probabilities(1000, 1000 + seed, classes)
        held = candidates(shares, {"abstention": {"candidates": known}})
        covered.append(held[torch.arange(1000), targets].double().mean())
    assert abs(float(torch.stack(covered).mean()) - (1 - missed)) < 0.012


def test_few_items_promise_less():
    known = fit(*probabilities(4, 0, 3), missed=0.05)
    assert known["coverage"] == pytest.approx(0.8)
    assert candidates(torch.ones(1, 3) / 3, {}) is None
