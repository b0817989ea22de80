"""Fine-tuning from stored activations, beside the same loop from the images.

With the share c of the operations frozen, the uncached epoch costs (3 - 2c) F and the cached one 3 (1 - c) F:
frozen layers skip the backward pass anyhow. So (3 - 2c) / (3 (1 - c)) is the most that there is to gain.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tests.benchmarks.bench import Bench, bench
from tests.benchmarks.measure import Result, paired
from tlsearch.contracts import Batch
from tlsearch.training.stepper import Stepper
from tlsearch.training.trained_part import set_modes

DEPTHS = (0.3, 0.5, 0.7, 0.85, 0.95)


def run(quick: bool) -> Iterator[Result]:
    """At several freeze depths: the gain against its limit, and how far the logits are apart."""
    size = 64 if quick else 128
    made = bench({"source": "digits", "image_size": size})
    default = _default(made)
    for depth in DEPTHS:
        params = {**default, "freeze_depth": depth}
        cached = _Epoch(made, params, cached=True, batches=8)
        whole = _Epoch(made, params, cached=False, batches=8)
        share = cached.split_point.prefix_flops / made.pretrained.info.flops
        limit = (3 - 2 * share) / (3 * (1 - share))
        ratio = paired(cached, whole, pairs=3 if quick else 5)
        gap = max(
            float((one - two).abs().max()) for one, two in zip(cached.logits(), whole.logits(), strict=True)
        )
        yield Result(
            "cached fine-tuning",
            f"lite0 at {size} px, freeze depth {depth}",
            f"{ratio} times faster; {ratio.median / limit:.0%} of the limit {limit:.2f}; "
            f"logits differ by {gap:.1e}",
            "90 % of the limit, logits within 1e-4",
            ratio.median >= 0.9 * limit and gap <= 1e-4,
            {"share": share, "limit": limit, "ratio": ratio.median, "gap": gap},
        )


def _default(made: Bench) -> dict[str, object]:
    from tlsearch import registry

    return {**registry.strategy("fine_tune").default(made.pretrained.info), "dropout": 0.0}


class _Epoch:
    """Some training batches of one epoch; called again it goes on training."""

    def __init__(self, made: Bench, params: dict[str, object], *, cached: bool, batches: int) -> None:
        self.strategy, self.model = made.model("fine_tune", params)  # type: ignore[arg-type]
        self.split_point, self.feed = made.feed(self.model, cached=cached)
        self.batches = batches
        recipe = self.strategy.recipe(params)  # type: ignore[arg-type]
        groups = self.strategy.param_groups(self.model, params)  # type: ignore[arg-type]
        for group in groups:
            group["base_lr"] = group["lr"]
        optimizer = torch.optim.AdamW(groups, fused=True)
        self.stepper = Stepper(self.model, self.strategy, params, optimizer, batch_size=recipe.batch_size)  # type: ignore[arg-type]
        self.epoch = 0
        self.feed.fetch(self.feed.data.indices["train"][:1], 0)  # stores the activations

    def __call__(self) -> None:
        self.epoch += 1
        set_modes(self.model, self.split_point.resting)
        for number, (inputs, targets) in enumerate(self.feed.train(self.epoch, batch_size=32, seed=0)):
            if number == self.batches:
                break
            self.stepper.step(self.split_point, Batch(inputs, targets, self.epoch, self.feed.data.task), 0.1)

    def logits(self) -> list[torch.Tensor]:
        """Of the validation split, after as many steps as both have taken."""
        self.model.eval()
        return [torch.cat([one for one, _ in self.feed.outputs("val", self.split_point.eval_forward)])]
