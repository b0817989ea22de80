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
    device = views.device
    heads = len(recipes)
    rate = torch.tensor([recipe.learning_rate for recipe in recipes], device=device)
    decay = torch.tensor([recipe.weight_decay for recipe in recipes], device=device)
    decays = any(recipe.weight_decay for recipe in recipes)

    # The bias is a last row of the weights under a constant feature: one product computes both. Weights are
    # kept divided by their head's learning rate, so that one fused AdamW of rate 1 serves all heads. Outputs
    # stand before heads, since what runs along heads is vectorized.
    scaled = nn.Parameter(torch.zeros(width + 1, outputs, heads, device=device))
    scaled.grad = torch.empty_like(scaled)
    flat, slope = scaled.detach().view(width + 1, -1), scaled.grad.view(width + 1, -1)
    optimizer = torch.optim.AdamW([scaled], lr=1.0, weight_decay=0.0, fused=True)
    best = torch.zeros_like(scaled)
    best_loss = torch.full((heads,), math.inf, device=device)

    steps_per_epoch = math.ceil(count / BATCH)
    epochs = min(60, max(10, round(TARGET_STEPS / steps_per_epoch)))
    steps = epochs * steps_per_epoch
    generator = torch.Generator().manual_seed(seed)
    ones = torch.ones(count, 1, device=device)
    with_one = [torch.cat([view, ones], dim=1) for view in views]
    stop_with_one = functional.pad(stop, (0, 1), value=1.0)
    step = 0
    for epoch in range(epochs):
        order = torch.randperm(count, generator=generator).to(device)
        for start in range(0, count, BATCH):
            index = order[start : start + BATCH]
            batch = with_one[epoch % len(views)][index]
            if dropout > 0:
                kept = torch.rand(len(index), width, generator=generator).to(device) >= dropout
                batch[:, :-1] *= kept / (1 - dropout)
            made = (batch @ flat).view(len(index), outputs, heads)
            made *= rate
            gradient = task.output_gradient(made, labels[index], recipes)
            torch.mm(batch.T, gradient.reshape(len(index), -1), out=slope)
            step += 1
            factor = schedule(step, steps)
            if decays:
                # AdamW would overshoot zero where rate times decay is above 1, and diverge above 2.
                scaled.detach()[:-1].mul_((1 - factor * rate * decay).clamp_min(0))
            optimizer.param_groups[0]["lr"] = factor
            optimizer.step()
        if len(stop) == 0:
            continue
        made = (stop_with_one @ flat).view(len(stop), outputs, heads) * rate
        losses = task.stop_losses(made, stop_labels, recipes)
        better = losses < best_loss
        best_loss = torch.where(better, losses, best_loss)
        best[..., better] = scaled.detach()[..., better]
    # A head whose loss was never finite keeps its last weights, and is told as FAILED by its score.
    never = torch.isinf(best_loss)
    best[..., never] = scaled.detach()[..., never]
    weights = (best * rate).transpose(1, 2)
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
