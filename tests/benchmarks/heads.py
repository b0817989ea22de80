"""Linear heads trained together, beside a loop over the heads."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.nn import functional

from tests.benchmarks.measure import Result, paired
from tlsearch.contracts import LinearRecipe, TargetSpec
from tlsearch.tasks.classification import Classification
from tlsearch.training.heads import BATCH, TARGET_STEPS, schedule, train_linear


def spec_of(classes: int) -> TargetSpec:
    return TargetSpec(tuple(map(str, range(classes))))


TOGETHER = 128
FEW = 4
"""Heads that the loop trains; its time is scaled up."""


def run(quick: bool) -> Iterator[Result]:
    """CPU time of many heads in one product against one head after the other, with the same updates."""
    torch.set_num_threads(1)
    for count in (1132, 5000):
        yield _compare(count, width=1280, classes=10, pairs=3 if quick else 5)


def _compare(count: int, *, width: int, classes: int, pairs: int) -> Result:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, count, width, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    recipes = [
        LinearRecipe(learning_rate=10 ** (-4 + 3 * index / TOGETHER), weight_decay=0.1 * index)
        for index in range(TOGETHER)
    ]

    def train(chosen: list[LinearRecipe]) -> list[torch.nn.Module]:
        stop = features[0, :128], labels[:128]
        return train_linear(
            features,
            labels,
            *stop,
            task=Classification(),
            spec=spec_of(classes),
            recipes=chosen,
        )

    def loop() -> None:
        for recipe in recipes[:FEW]:
            _alone(features[0], labels, recipe, classes)

    ratio = paired(lambda: train(recipes), loop, pairs=pairs)
    scale = TOGETHER / FEW
    with torch.no_grad():
        together, alone = train(recipes)[5](features[0]), train([recipes[5]])[0](features[0])
    gap = float((together - alone).abs().max())
    return Result(
        "heads by the dozen",
        f"{TOGETHER} heads on {count} x {width} features",
        f"{ratio.median * scale:.1f} times less CPU ({ratio.low * scale:.1f}-{ratio.high * scale:.1f}); "
        f"logits differ from a head alone by {gap:.1e}",
        "15 times, logits within 1e-4",
        ratio.median * scale >= 15 and gap <= 1e-4,
        {"ratio": ratio.median * scale, "gap": gap},
    )


def _alone(
    features: torch.Tensor, labels: torch.Tensor, recipe: LinearRecipe, classes: int
) -> torch.nn.Linear:
    """The loop that one would write: autograd and AdamW on mini-batches, with the same schedule."""
    mean, scale = features.mean(dim=0), features.std(dim=0, unbiased=False).clamp_min(1e-6)
    standardized = (features - mean) / scale
    head = torch.nn.Linear(features.shape[1], classes)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps_per_epoch = math.ceil(len(features) / BATCH)
    epochs = min(60, max(10, round(TARGET_STEPS / steps_per_epoch)))
    generator = torch.Generator().manual_seed(recipe.seed)
    step = 0
    for _ in range(epochs):
        order = torch.randperm(len(features), generator=generator)
        for start in range(0, len(features), BATCH):
            index = order[start : start + BATCH]
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * schedule(step, epochs * steps_per_epoch)
            optimizer.zero_grad()
            functional.cross_entropy(head(standardized[index]), labels[index]).backward()
            optimizer.step()
        with torch.no_grad():
            functional.cross_entropy(head(standardized[:128]), labels[:128])
    return head
