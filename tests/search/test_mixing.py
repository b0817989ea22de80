"""Which finalists are averaged with the winner, on outputs whose truth is known."""

from __future__ import annotations

import pytest
import torch

from tlsearch import registry
from tlsearch.search.mixing import choose
from tlsearch.testing import classes

GENERATOR = torch.Generator().manual_seed(0)
TARGETS = torch.randint(0, 4, (200,), generator=GENERATOR)


def outputs(strength: float, *, seed: int, scale: float = 1.0) -> torch.Tensor:
    """Logits whose noise is their own: the stronger, the more often right."""
    noise = torch.randn(200, 4, generator=torch.Generator().manual_seed(seed))
    return scale * (noise + strength * torch.nn.functional.one_hot(TARGETS, 4))


def positions(*told: torch.Tensor, welcome: tuple[int, ...] = ()) -> list[int]:
    task, _ = classes(4)
    return [one.position for one in choose(told, TARGETS, task, welcome=welcome)]


def test_what_errs_on_other_items_is_averaged() -> None:
    assert positions(outputs(2, seed=1), outputs(2, seed=2)) == [0, 1]


def test_the_winner_stays_alone_beside_itself_and_beside_what_knows_nothing() -> None:
    assert positions(outputs(2, seed=1), outputs(2, seed=1)) == [0]
    assert positions(outputs(2, seed=1), outputs(0, seed=2)) == [0]


def test_the_most_useful_comes_first() -> None:
    assert positions(outputs(2, seed=1), outputs(1.5, seed=2), outputs(2.5, seed=3))[:2] == [0, 2]


def test_who_is_welcome_is_left_out_only_where_it_is_clearly_worse() -> None:
    """Two like the winner in all but a little: of no use, and no harm."""
    winner = outputs(3, seed=1)
    near = winner + 0.3 * torch.randn(200, 4, generator=torch.Generator().manual_seed(9)) - 0.0
    assert positions(winner, near) == [0]
    assert positions(winner, near, welcome=(1,)) == [0, 1]
    assert positions(winner, outputs(0, seed=2), welcome=(1,)) == [0]


def test_one_that_is_too_sure_is_scaled_before_it_has_its_way() -> None:
    task, _ = classes(4)
    plain = choose([outputs(2, seed=1), outputs(2, seed=2)], TARGETS, task)
    sure = choose([outputs(2, seed=1), outputs(2, seed=2, scale=10.0)], TARGETS, task)
    assert [one.position for one in sure] == [0, 1]
    assert sure[1].scale == pytest.approx(plain[1].scale / 10, rel=1e-3)


@pytest.mark.parametrize("name", ["regression", "multilabel"])
def test_numbers_and_sets_of_labels_are_averaged_as_well(name: str) -> None:
    task = registry.task(name)
    truth = torch.rand(60, 2, generator=torch.Generator().manual_seed(3)).round()
    told = [
        8 * (truth - 0.5) + 3 * torch.randn(60, 2, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 2)
    ]
    if name == "regression":
        told = [truth + torch.randn(60, 2, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    assert [(one.position, one.scale) for one in choose(told, truth, task)] == [(0, 1.0), (1, 1.0)]
