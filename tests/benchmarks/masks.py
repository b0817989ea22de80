"""A plain U-Net beside a study of masks: the same weights, items, size and minutes.

    python -m tests.benchmarks.masks STUDY --db sqlite:///tlsearch.db --data FOLDER --minutes 5

What somebody writes by hand with ``segmentation_models_pytorch`` (``pip install --no-deps``): train all of it
on all but the study's test pictures for these minutes, then measure once.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as plain
import torch
from torch import nn
from torch.nn import functional

import tlsearch
from tlsearch import registry
from tlsearch.contracts.images import ImageInput
from tlsearch.tasks.segmentation import MaskEvaluator

BATCH, RATE = 16, 1e-3


def network(classes: int) -> nn.Module:
    """The usual U-Net on EfficientNet-Lite0 with the weights that `tlsearch` starts from."""
    from tlsearch_efficientnet_lite import EfficientNetLite

    model = plain.Unet("tu-tf_efficientnet_lite0", encoder_weights=None, classes=classes)
    told = model.encoder.model.load_state_dict(EfficientNetLite().published("lite0"), strict=False)
    assert not told.missing_keys
    return model.to(memory_format=torch.channels_last)


def main() -> None:
    """Train for the minutes, counted from here, and print the scores of the test split."""
    parser = argparse.ArgumentParser()
    parser.add_argument("study")
    parser.add_argument("--db", default="sqlite:///tlsearch.db")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    began = time.monotonic()
    torch.manual_seed(words.seed)
    with tlsearch.open(words.db) as studies:
        items = studies.store.items(words.study)
    assert items is not None
    test = {items.names[at] for at in items.of("test")}
    source = registry.dataset("masks")
    data = source.load(source.options.model_validate({"path": str(words.data)}))
    assert data.spec is not None
    inputs = registry.backbone("efficientnet_lite/lite0", weights="random", image_size=words.size).info.inputs
    assert isinstance(inputs, ImageInput)
    inputs = inputs.resized("squash")
    pictures = torch.from_numpy(np.stack([inputs.encode(item) for item in data.items]))
    masks = torch.from_numpy(np.asarray(data.targets))
    tests = np.array([name in test for name in data.names])
    train, held_out = torch.from_numpy(np.flatnonzero(~tests)), torch.from_numpy(np.flatnonzero(tests))
    model, side = network(len(data.spec.names)), masks.shape[-1]
    dice = plain.losses.DiceLoss("multiclass", ignore_index=255)

    def outputs(chosen: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(model(inputs.to_model(chosen)), size=(side, side), mode="bilinear")

    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-2)
    share, updates = 0.0, 0
    while share < 1:
        for index in train[torch.randperm(len(train))].split(BATCH):
            share = (time.monotonic() - began) / (60 * words.minutes)
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1, (updates + 1) / 20) * (1 + math.cos(math.pi * min(1, share))) / 2
            mirrored = torch.rand(len(index), 1, 1) < 0.5
            wanted = torch.where(mirrored, masks[index].flip(-1), masks[index]).long()
            given = outputs(torch.where(mirrored[:, None], pictures[index].flip(-1), pictures[index]))
            loss = functional.cross_entropy(given, wanted, ignore_index=255) + dice(given, wanted)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            updates += 1
            if share >= 1:
                break
    trained = time.monotonic() - began
    evaluator = MaskEvaluator(len(data.spec.names))
    model.eval()
    with torch.inference_mode():
        for index in held_out.split(BATCH):
            evaluator.update(outputs(pictures[index]), masks[index])
    scores = {name: round(value, 4) for name, value in evaluator.compute().items()}
    overlaps = evaluator.overlaps(data.spec.names)
    print(json.dumps({"updates": updates, "seconds": round(trained), **scores, "by_class": overlaps}))


if __name__ == "__main__":
    main()
