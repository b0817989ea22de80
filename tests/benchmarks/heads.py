"""Linear heads trained together, beside a loop over the heads."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.nn import functional

from tests.benchmarks.measure import Result, paired
from tlsearch.contracts import LinearRecipe
from tlsearch.training.heads import BATCH, TARGET_STEPS, schedule, train_linear

TOGETHER = 128


def run(quick: bool) -> Iterator[Result]:
    """CPU time of many heads in one product against one head after the other, with the same updates."""
    torch.set_num_threads(1)
    for count, width, classes in ((1132, 1280, 10), (5000, 1280, 10)):
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(1, count, width, generator=generator)
        labels = torch.randint(0, classes, (count,), generator=generator)
        stop, stop_labels = features[0, :128], labels[:128]
        recipes = [
            LinearRecipe(learning_rate=10 ** (-4 + 3 * index / TOGETHER), weight_decay=0.1 * index)
            for index in range(TOGETHER)
        ]
        together = train_linear(features, labels, stop, stop_labels, classes=classes, recipes=recipes)
        alone = _alone(features[0], labels, recipes[5], classes)
        ours = lambda: train_linear(  # noqa: E731
            features, labels, stop, stop_labels, classes=classes, recipes=recipes
        )
        few = 4
        theirs = lambda: [_alone(features[0], labels, r, classes) for r in recipes[:few]]  # noqa: E731
        ratio = paired(ours, theirs, pairs=3 if quick else 5)
        scale = TOGETHER / few
        same = train_linear(features, labels, stop, stop_labels, classes=classes, recipes=[recipes[5]])
        with torch.no_grad():
            gap = float((together[5](features[0]) - same[0](features[0])).abs().max())
        del alone
        yield Result(
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
