from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import LinearRecipe, TargetSpec
from tlsearch.tasks.classification import Classification
from tlsearch.training import heads
from tlsearch.training.heads import schedule, train_linear

TASK = Classification()
SPEC = TargetSpec(("a", "b", "c"))

CLASSES, WIDTH = 3, 6


def clouds(count: int, *, spread: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(99)) * 2
    labels = torch.arange(count) % CLASSES
    return centres[labels] + spread * torch.randn(count, WIDTH, generator=generator) + 5, labels


def train(
    recipes: list[LinearRecipe], *, features: Tensor | None = None, stop: int = 40, count: int = 300
) -> list[nn.Module]:
    x, y = clouds(count, spread=2.0)
    stop_x, stop_y = clouds(stop, spread=2.0, seed=1)
    views = features if features is not None else x[None]
    return train_linear(views, y, stop_x, stop_y, task=TASK, spec=SPEC, recipes=recipes)


def logits(head: nn.Module) -> Tensor:
    with torch.inference_mode():
        return head(clouds(200, spread=2.0, seed=2)[0])


RECIPES = [
    LinearRecipe(
        learning_rate=rate, weight_decay=decay, label_smoothing=smoothing, dropout=dropout, seed=seed
    )
    for rate, decay, smoothing, dropout, seed in [
        *((1e-3, 0.0, 0.0, 0.0, 0), (1e-2, 1e-2, 0.1, 0.0, 0), (1e-1, 1.0, 0.0, 0.0, 0)),
        *(
            (1e-2, 0.0, 0.0, 0.25, 0),
            (1e-3, 0.1, 0.2, 0.25, 0),
            (1e-2, 1e-2, 0.0, 0.0, 5),
            (3e-3, 0, 0, 0.5, 5),
        ),
    ]
]


def test_heads_trained_together_are_those_trained_alone():
    together = train(RECIPES)
    assert len(together) == len(RECIPES)
    for recipe, head in zip(RECIPES, together, strict=True):
        (alone,) = train([recipe])
        torch.testing.assert_close(logits(head), logits(alone), atol=1e-4, rtol=1e-4)


def test_little_memory_changes_nothing(monkeypatch):
    before = train(RECIPES)
    monkeypatch.setattr(heads, "STATE_BYTES", 1)  # one head at a time
    for head, other in zip(before, train(RECIPES), strict=True):
        torch.testing.assert_close(logits(head), logits(other), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("recipe", [RECIPES[1], RECIPES[2], RECIPES[4]])
@pytest.mark.parametrize("count", [100, 600])  # less than a batch; some
def test_a_head_gets_the_updates_of_torchs_own_adamw(recipe, count):
    x, y = clouds(count, spread=2.0)
    (head,) = train([recipe], stop=0, count=count)

    mean, scale = x.mean(dim=0), x.std(dim=0, unbiased=False)
    linear = nn.Linear(WIDTH, CLASSES)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.AdamW(
        [
            {"params": [linear.weight], "weight_decay": recipe.weight_decay},
            {"params": [linear.bias], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
    )
    per_epoch = math.ceil(count / heads.BATCH)
    epochs = min(60, max(10, round(heads.TARGET_STEPS / per_epoch)))
    generator = torch.Generator().manual_seed(recipe.seed)
    step = 0
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        for index in order.split(heads.BATCH):
            batch = (x[index] - mean) / scale
            if recipe.dropout:
                kept = torch.rand(len(index), WIDTH, generator=generator) >= recipe.dropout
                batch = batch * kept / (1 - recipe.dropout)
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * schedule(step, epochs * per_epoch)
            optimizer.zero_grad()
            smoothing = recipe.label_smoothing
            functional.cross_entropy(linear(batch), y[index], label_smoothing=smoothing).backward()
            optimizer.step()
    new, _ = clouds(200, spread=2.0, seed=2)
    torch.testing.assert_close(logits(head), linear((new - mean) / scale).detach(), atol=2e-3, rtol=2e-3)


def test_a_separable_problem_is_learned():
    x, y = clouds(300, spread=0.2)
    (head,) = train_linear(
        x[None], y, x[:30], y[:30], task=TASK, spec=SPEC, recipes=[LinearRecipe(learning_rate=1e-2)]
    )
    new, labels = clouds(200, spread=0.2, seed=7)
    assert bool((head(new).argmax(dim=1) == labels).all())


def test_the_scale_of_features_does_not_matter():
    x, y = clouds(300, spread=2.0)
    recipes = [LinearRecipe(learning_rate=1e-2)]
    stop = clouds(30, spread=2.0, seed=1)
    factor = torch.tensor([1e-3, 1.0, 1e3, 10.0, 0.1, 1.0])
    (plain,) = train_linear(x[None], y, *stop, task=TASK, spec=SPEC, recipes=recipes)
    (other,) = train_linear(
        (x * factor)[None], y, stop[0] * factor, stop[1], task=TASK, spec=SPEC, recipes=recipes
    )
    torch.testing.assert_close(plain(x), other(x * factor), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e4])
def test_a_constant_feature_is_ignored(constant):
    x, y = clouds(300, spread=2.0)
    stop_x, stop_y = clouds(30, spread=2.0, seed=1)
    recipes = [LinearRecipe(learning_rate=1e-1)]

    def with_one_more(features: Tensor, value: float) -> Tensor:
        return torch.cat([features, torch.full((len(features), 1), value)], dim=1)

    (plain,) = train_linear(x[None], y, stop_x, stop_y, task=TASK, spec=SPEC, recipes=recipes)
    (head,) = train_linear(
        with_one_more(x, constant)[None],
        y,
        with_one_more(stop_x, constant),
        stop_y,
        task=TASK,
        spec=SPEC,
        recipes=recipes,
    )
    # It may wake up on items that training never saw.
    for value in (constant, constant + 1):
        torch.testing.assert_close(head(with_one_more(x, value)), plain(x), atol=1e-3, rtol=1e-3)


def test_without_stop_items_the_last_epoch_is_kept():
    (head,) = train([LinearRecipe(learning_rate=1e-2)], stop=0)
    new, labels = clouds(200, spread=2.0, seed=2)
    assert (head(new).argmax(dim=1) == labels).float().mean() > 0.7


def test_with_stop_items_the_best_epoch_is_kept():
    x, y = clouds(40, spread=4.0)
    stop_x, stop_y = clouds(200, spread=4.0, seed=1)
    recipe = LinearRecipe(learning_rate=0.1)  # far too much for forty items: it overfits
    (best,) = train_linear(x[None], y, stop_x, stop_y, task=TASK, spec=SPEC, recipes=[recipe])
    (last,) = train_linear(x[None], y, stop_x[:0], stop_y[:0], task=TASK, spec=SPEC, recipes=[recipe])
    losses = [float(functional.cross_entropy(head(stop_x), stop_y).detach()) for head in (best, last)]
    assert losses[0] < losses[1] - 0.01


def test_epochs_take_turns_at_the_views():
    x, y = clouds(300, spread=2.0)
    recipe = [LinearRecipe(learning_rate=1e-2)]
    stop = clouds(0)
    one, two = x, x + torch.randn(x.shape, generator=torch.Generator().manual_seed(3))

    def trained(*views: Tensor) -> Tensor:
        (head,) = train_linear(torch.stack(views), y, *stop, task=TASK, spec=SPEC, recipes=recipe)
        return head(x).detach()

    assert torch.equal(trained(one, one), trained(one))
    assert not torch.allclose(trained(one, two), trained(one), atol=1e-3)
    assert not torch.allclose(trained(one, two), trained(two), atol=1e-3)


def test_the_seed_decides_the_order_and_nothing_else_does():
    recipe, other = (LinearRecipe(learning_rate=1e-1, seed=seed) for seed in (3, 4))
    torch.manual_seed(1)
    (first,) = train([recipe])
    torch.manual_seed(2)
    (again,), (third,) = train([recipe]), train([other])
    assert torch.equal(logits(first), logits(again))
    assert not torch.equal(logits(first), logits(third))


def test_any_decay_shrinks_and_none_diverges():
    strong = [LinearRecipe(learning_rate=0.1, weight_decay=decay) for decay in (0.0, 1.0, 10.0, 100.0)]
    sizes = [float(head.weight.detach().norm()) for head in train(strong, stop=0)]
    assert all(math.isfinite(size) for size in sizes)
    assert sizes == sorted(sizes, reverse=True)


def test_one_head_that_diverges_leaves_the_others_alone():
    good = LinearRecipe(learning_rate=1e-2)
    (alone,) = train([good])
    together = train([good, LinearRecipe(learning_rate=1e38), good])
    for head in (together[0], together[2]):
        torch.testing.assert_close(logits(head), logits(alone), atol=1e-4, rtol=1e-4)


def test_schedule_warms_up_and_comes_to_rest():
    factors = [schedule(step, 100) for step in range(1, 101)]
    assert factors[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert max(factors) == 1
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert factors[-1] == pytest.approx(0, abs=1e-9)
    assert schedule(1, 1) == 1
