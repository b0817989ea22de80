"""Many linear heads at once: one matrix product trains all of them on the same stored features.

A head alone leaves most of a machine's arithmetic unused. Here the weights of H heads stand side by side in
one (D, H * C) matrix; the forward pass and the gradient of a batch are two matrix products, whatever H is.
Each head gets the updates that it would get alone: same batches, same dropout draws, its own hyperparameters.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import LinearRecipe, TargetSpec, Task

BATCH = 64
TARGET_STEPS = 1000
"""Steps after which a linear head on standardized features has settled."""
STATE_BYTES = 512 * 2**20
"""Weights, moments and gradients of the heads trained together stay under this."""
WARM_UP = 0.1


def train_linear(
    features: Tensor,
    labels: Tensor,
    stop_features: Tensor,
    stop_labels: Tensor,
    *,
    task: Task,
    spec: TargetSpec,
    recipes: Sequence[LinearRecipe],
) -> list[nn.Module]:
    """Train one linear head for each recipe with AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101).

    Features are standardized inside; the shift and scale are folded into the returned weights. Each head is
    the one with the lowest loss on the stop items over all epochs.

    Args:
        features: (K, N, D), K stored views of N items; epoch e trains on view e mod K.
        labels: (N, ...), as the task encodes them.
        stop_features: (M, D), M may be 0: then the last epoch is kept.
        stop_labels: (M, ...).
        task: what is learned; it knows the losses and their gradients.
        spec: what the targets are.
        recipes: one for each head.

    Returns:
        ``nn.Linear`` modules, in the order of the recipes.
    """
    mean = features[0].mean(dim=0)
    scale = features[0].std(dim=0, unbiased=False)
    # A feature that is constant but for rounding tells nothing: scaled up, it would drown all others on items
    # where it isn't constant.
    scale = torch.where(scale > 1e-6 * (1 + mean.abs()), scale, torch.inf)
    views = (features - mean) / scale
    stop = (stop_features - mean) / scale

    # Heads of one seed and dropout see the same inputs, which is what lets one product serve them all.
    together: dict[tuple[int, float], list[int]] = defaultdict(list)
    for index, recipe in enumerate(recipes):
        together[(recipe.seed, recipe.dropout)].append(index)
    width, outputs = features.shape[2], len(spec.names)
    at_once = max(1, STATE_BYTES // (5 * 4 * width * outputs))

    heads: dict[int, nn.Module] = {}
    for (seed, dropout), indices in together.items():
        for start in range(0, len(indices), at_once):
            chunk = indices[start : start + at_once]
            weight, bias = _train_together(
                views,
                labels,
                stop,
                stop_labels,
                task=task,
                outputs=outputs,
                recipes=[recipes[index] for index in chunk],
                seed=seed,
                dropout=dropout,
            )
            for position, index in enumerate(chunk):
                heads[index] = _folded(weight[:, position], bias[position], mean, scale)
    return [heads[index] for index in range(len(recipes))]


def _train_together(
    views: Tensor,
    labels: Tensor,
    stop: Tensor,
    stop_labels: Tensor,
    *,
    task: Task,
    outputs: int,
    recipes: Sequence[LinearRecipe],
    seed: int,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Weights (D, H, C) and biases (H, C) of H heads that share batches and dropout draws."""
    count, width = views.shape[1:]
    steps_per_epoch = math.ceil(count / BATCH)
    epochs = min(60, max(10, round(TARGET_STEPS / steps_per_epoch)))
    heads = _Heads(width, outputs, recipes, task=task, device=views.device, steps=epochs * steps_per_epoch)
    generator = torch.Generator().manual_seed(seed)
    ones = torch.ones(count, 1, device=views.device)
    with_one = [torch.cat([view, ones], dim=1) for view in views]
    stop_with_one = functional.pad(stop, (0, 1), value=1.0)
    for epoch in range(epochs):
        order = torch.randperm(count, generator=generator).to(views.device)
        for start in range(0, count, BATCH):
            index = order[start : start + BATCH]
            batch = with_one[epoch % len(views)][index]
            if dropout > 0:
                kept = torch.rand(len(index), width, generator=generator).to(views.device) >= dropout
                batch[:, :-1] *= kept / (1 - dropout)
            heads.step(batch, labels[index])
        if len(stop):
            heads.keep_better(stop_with_one, stop_labels)
    return heads.best_weights()


class _Heads:
    """Linear heads that are trained side by side, and the best weights that each has had.

    The bias is a last row of the weights under a constant feature: one product computes both. Weights are
    kept divided by their head's learning rate, so that one fused AdamW of rate 1 serves all heads. Outputs
    stand before heads, since what runs along heads is vectorized.
    """

    def __init__(
        self,
        width: int,
        outputs: int,
        recipes: Sequence[LinearRecipe],
        *,
        task: Task,
        device: torch.device,
        steps: int,
    ) -> None:
        self.task = task
        self.recipes = recipes
        self.steps = steps
        self.taken = 0
        self.shape = (outputs, len(recipes))
        self.rate = torch.tensor([recipe.learning_rate for recipe in recipes], device=device)
        self.decay = torch.tensor([recipe.weight_decay for recipe in recipes], device=device)
        self.decays = any(recipe.weight_decay for recipe in recipes)
        scaled = nn.Parameter(torch.zeros(width + 1, *self.shape, device=device))
        scaled.grad = torch.empty_like(scaled)
        self.weights = scaled.detach()
        self.flat, self.slope = self.weights.view(width + 1, -1), scaled.grad.view(width + 1, -1)
        self.optimizer = torch.optim.AdamW([scaled], lr=1.0, weight_decay=0.0, fused=True)
        self.best = torch.zeros_like(self.weights)
        self.best_loss = torch.full((len(recipes),), math.inf, device=device)

    def step(self, batch: Tensor, labels: Tensor) -> None:
        """Update all heads on a batch (B, D + 1)."""
        made = (batch @ self.flat).view(len(batch), *self.shape)
        made *= self.rate
        gradient = self.task.output_gradient(made, labels, self.recipes)
        torch.mm(batch.T, gradient.reshape(len(batch), -1), out=self.slope)
        self.taken += 1
        factor = schedule(self.taken, self.steps)
        if self.decays:
            # AdamW would overshoot zero where rate times decay is above 1, and diverge above 2.
            self.weights[:-1].mul_((1 - factor * self.rate * self.decay).clamp_min(0))
        self.optimizer.param_groups[0]["lr"] = factor
        self.optimizer.step()

    def keep_better(self, items: Tensor, labels: Tensor) -> None:
        """Keep the weights of each head whose loss on items (M, D + 1) is lower than ever."""
        made = (items @ self.flat).view(len(items), *self.shape) * self.rate
        losses = self.task.stop_losses(made, labels, self.recipes)
        better = losses < self.best_loss
        self.best_loss = torch.where(better, losses, self.best_loss)
        self.best[..., better] = self.weights[..., better]

    def best_weights(self) -> tuple[Tensor, Tensor]:
        """Weights (D, H, C) and biases (H, C)."""
        # A head whose loss was never finite keeps its last weights, and is told as FAILED by its score.
        never = torch.isinf(self.best_loss)
        self.best[..., never] = self.weights[..., never]
        weights = (self.best * self.rate).transpose(1, 2)
        return weights[:-1], weights[-1]


def schedule(step: float, steps: int) -> float:
    """Factor of the learning rate at a step (from 1): linear warm-up over a tenth, then half a cosine."""
    warm_up = max(1, round(WARM_UP * steps))
    if step <= warm_up:
        return step / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _folded(weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor) -> nn.Linear:
    """Weights (D, C) on standardized features as a module on plain ones."""
    head = nn.Linear(weight.shape[0], weight.shape[1], device=weight.device)
    with torch.no_grad():
        folded = weight / scale.unsqueeze(1)
        head.weight.copy_(folded.T)
        head.bias.copy_(bias - mean @ folded)
    return head
