"""A plain detector beside a study of boxes: torchvision's FCOS on the same weights, splits and minutes.

    python -m tests.benchmarks.detection FOLDER --minutes 8

What somebody writes by hand: train on all but the test pictures for these minutes, then measure once.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from tlsearch import registry
from tlsearch.contracts.images import ImageInput, decode
from tlsearch.tasks.box_scores import BoxEvaluator

BACKBONE = "efficientnet_lite/lite0"
BATCH, RATE, CHANNELS = 16, 1e-3, 64


class Pyramid(nn.Module):
    """Feature maps of strides 8 to 128, as torchvision's FCOS takes them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        pretrained = registry.backbone(BACKBONE, weights="pretrained", image_size=size)
        self.trunk = pretrained.trunk
        inputs = pretrained.info.inputs
        assert isinstance(inputs, ImageInput)
        self.inputs = inputs
        self.found: dict[str, Tensor] = {}
        blocks = [f"blocks.{at}" for at in (2, 4, 6)]
        for name in blocks:
            self.trunk.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, name=name: self.found.__setitem__(name, output)
            )
        with torch.no_grad():
            self.trunk(inputs.to_model(inputs.example(1)))
        channels = [self.found[name].shape[1] for name in blocks]
        self.fpn = FeaturePyramidNetwork(channels, CHANNELS, LastLevelP6P7(CHANNELS, CHANNELS))
        self.out_channels = CHANNELS

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Maps by level."""
        self.trunk(pictures)
        maps: dict[str, Tensor] = self.fpn(dict(self.found))
        return maps


def detector(classes: int, size: int) -> FCOS:
    """torchvision's FCOS with its own head and anchors, on pictures of about ``size`` squared pixels."""
    body = Pyramid(size)
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
    return FCOS(
        body,
        classes,
        min_size=size,
        max_size=2 * size,
        image_mean=list(body.inputs.mean),
        image_std=list(body.inputs.std),
        anchor_generator=anchors,
    )


def main() -> None:
    """Train for the minutes, counted from here, and print the scores of the test split."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    began = time.monotonic()
    torch.manual_seed(words.seed)
    chance = np.random.default_rng(words.seed)
    source = registry.dataset("boxes")
    data = source.load(source.options.model_validate({"path": str(words.folder)}))
    assert data.spec is not None
    assert data.splits is not None
    # Read once, at the size that they are trained at.
    pictures = [torch.from_numpy(np.array(decode(p).resize((words.size, words.size)))) for p in data.items]
    pictures = [picture.permute(2, 0, 1).float() / 255 for picture in pictures]
    boxes = [torch.from_numpy(rows[rows[:, 0] >= 0]) for rows in np.asarray(data.targets)]
    train = [at for at, split in enumerate(data.splits) if split != "test"]
    test = [at for at, split in enumerate(data.splits) if split == "test"]
    model = detector(len(data.spec.names), words.size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-2)
    share = updates = 0.0
    while share < 1:
        for index in np.array_split(chance.permutation(train), math.ceil(len(train) / BATCH)):
            share = (time.monotonic() - began) / (60 * words.minutes)
            if share >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1, (updates + 1) / 20) * (1 + math.cos(math.pi * min(1, share))) / 2
            given, wanted = [], []
            for at in index:
                mirrored = chance.random() < 0.5
                own = boxes[at][:, 1:].clone()
                if mirrored:
                    own[:, [0, 2]] = 1 - own[:, [2, 0]]
                given.append(pictures[at].flip(-1) if mirrored else pictures[at])
                wanted.append({"boxes": own * words.size, "labels": boxes[at][:, 0].long()})
            model.train()
            losses = sum(model(given, wanted).values())
            optimizer.zero_grad()
            losses.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10)
            optimizer.step()
            updates += 1
    trained = time.monotonic() - began
    evaluator = BoxEvaluator(data.spec.names)
    model.eval()
    with torch.inference_mode():
        for at in test:
            (told,) = model([pictures[at]])
            rows = [told["labels"][:, None], told["boxes"] / words.size, told["scores"][:, None]]
            evaluator.found.append(torch.cat(rows, dim=1).numpy()[:100])
            own = boxes[at].numpy()
            evaluator.actual.append(np.column_stack([own, np.ones(len(own), np.float32)]))
    scores = {name: round(value, 4) for name, value in evaluator.compute().items()}
    print(
        json.dumps(
            {"updates": updates, "seconds": round(trained), **scores, "by_class": evaluator.by_class()}
        )
    )


if __name__ == "__main__":
    main()
