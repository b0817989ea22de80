"""What an experienced person writes by hand, on the same files, splits and weights; both cores are theirs."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

from tlsearch import registry

BACKBONE = "efficientnet_lite/lite0"
UPDATES, BATCH = 300, 32


def accuracy(shares: Tensor, labels: Tensor) -> float:
    """The share of items whose most probable class (of shares (N, classes)) is theirs."""
    return float((shares.argmax(1) == labels).float().mean())


def shares(logits: Tensor) -> Tensor:
    """Class probabilities."""
    return logits.softmax(1)


@dataclass(frozen=True)
class Images:
    """A table's pictures (N, 3, S, S) uint8 and targets, by split: label indices (N,) if not said otherwise.

    Attributes:
        splits: pictures and targets.
        outputs: how many a network needs.
        size: S.
        flips: which ways pictures may be flipped.
        loss: of outputs and targets.
        decode: outputs to predictions, which are averaged.
        score: of predictions and targets.
    """

    splits: dict[str, tuple[Tensor, Tensor]]
    outputs: int
    size: int
    flips: str
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy
    decode: Callable[[Tensor], Tensor] = shares
    score: Callable[[Tensor, Tensor], float] = accuracy

    def of(self, *names: str) -> tuple[Tensor, Tensor]:
        """The items of some splits."""
        return (
            torch.cat([self.splits[name][0] for name in names]),
            torch.cat([self.splits[name][1] for name in names]),
        )


@dataclass(frozen=True)
class Score:
    """What a method came to: test accuracy, and seconds from reading files to the model that was tested."""

    test: float
    seconds: float


def read(table: Path, *, size: int, flips: str) -> Images:
    """Read a table's pictures, resized to squares."""
    frame = pd.read_csv(table, dtype=str)
    names = sorted(set(frame["label"]))
    splits = {}
    for split, rows in frame.groupby("split"):
        labels = [names.index(label) for label in rows["label"]]
        files = [table.parent / file for file in rows["image"]]
        splits[str(split)] = squares(files, size), torch.tensor(labels)
    return Images(splits, len(names), size, flips)


def squares(files: Sequence[Path], size: int) -> Tensor:
    """Pictures (N, 3, size, size) uint8."""
    pictures = []
    for file in files:
        with Image.open(file) as picture:
            small = picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            pictures.append(np.asarray(small).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(pictures))


class Network:
    """The backbone under a new linear head."""

    def __init__(self, images: Images, seed: int) -> None:
        torch.set_num_threads(2)
        torch.manual_seed(seed)
        loaded = registry.backbone(BACKBONE, weights="pretrained", image_size=images.size)
        self.images, self.inputs, self.groups = images, loaded.info.inputs, loaded.info.groups
        self.trunk, self.head = loaded.trunk, nn.Linear(loaded.info.width, images.outputs)
        self.model = nn.Sequential(self.trunk, self.head).to(memory_format=torch.channels_last)

    def rates(self, *, trunk: float, head: float, decay: float, frozen: float) -> list[dict[str, object]]:
        """Parameter groups: first layers frozen, rates that fall by ``decay`` a layer towards the input."""
        parameters = dict(self.trunk.named_parameters())
        held = int(frozen * len(self.groups))
        made: list[dict[str, object]] = [{"params": list(self.head.parameters()), "lr": head}]
        for index, names in enumerate(self.groups):
            own = [parameters[name] for name in names]
            for parameter in own:
                parameter.requires_grad_(index >= held)
            if index >= held:
                made.append({"params": own, "lr": trunk * decay ** (len(self.groups) - 1 - index)})
        return made

    def train(
        self,
        split: tuple[Tensor, Tensor],
        optimizer: torch.optim.Optimizer,
        *,
        updates: int,
        seed: int,
        after_pass: Callable[[], bool] = lambda: False,
    ) -> None:
        """Cosine with warm-up, flips; ``after_pass`` answers whether it is enough."""
        pictures, targets = split
        generator = torch.Generator().manual_seed(seed)
        peaks = [group["lr"] for group in optimizer.param_groups]
        warm = max(1, updates // 20)
        step = 0
        while step < updates:
            order = torch.randperm(len(targets), generator=generator)
            for start in range(0, max(BATCH, len(order) - len(order) % BATCH), BATCH):
                self._train_mode()
                index = order[start : start + BATCH]
                done = step / updates
                rate = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * done))
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * rate
                optimizer.zero_grad()
                logits = self.model(self.inputs.to_model(self._flipped(pictures[index], generator)))
                self.images.loss(logits, targets[index]).backward()
                optimizer.step()
                step += 1
                if step == updates:
                    break
            if after_pass():
                return

    def _train_mode(self) -> None:
        self.model.train()
        for module in self.model.modules():  # frozen BatchNorm must not drift
            own = list(module.parameters(recurse=False))
            if own and not any(p.requires_grad for p in own):
                module.eval()

    def _flipped(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        for way, axis in (("horizontal", 3), ("vertical", 2)):
            if self.images.flips in (way, "both"):
                turned = torch.rand(len(batch), generator=generator) < 0.5
                batch = torch.where(turned[:, None, None, None], batch.flip(axis), batch)
        return batch

    def score(self, split: str) -> float:
        """Of the predictions for a split."""
        pictures, targets = self.images.splits[split]
        return self.images.score(self.predictions(pictures), targets)

    def features(self, split: str) -> np.ndarray:
        """What the trunk makes of a split, (N, width)."""
        self.trunk.eval()
        with torch.inference_mode():
            parts = [
                self.trunk(self.inputs.to_model(part)) for part in self.images.splits[split][0].split(256)
            ]
        return torch.cat(parts).numpy()

    def predictions(self, pictures: Tensor, *, flipped: bool = False) -> Tensor:
        """(N, outputs); the mean over flips where asked."""
        self.model.eval()
        axes: list[tuple[int, ...]] = [()]
        if flipped and self.images.flips in ("horizontal", "both"):
            axes.append((3,))
        if flipped and self.images.flips == "both":
            axes += [(2,), (2, 3)]
        with torch.inference_mode():
            return torch.stack(
                [
                    torch.cat(
                        [
                            self.images.decode(self.model(self.inputs.to_model(part.flip(ways))))
                            for part in pictures.split(256)
                        ]
                    )
                    for ways in axes
                ]
            ).mean(0)


def _fit(images: Images, splits: Sequence[str], seed: int, updates: int) -> Network:
    network = Network(images, seed)
    groups = network.rates(trunk=1e-3, head=2e-3, decay=1.0, frozen=1 / 3)
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-2)
    network.train(images.of(*splits), optimizer, updates=updates, seed=seed)
    return network


def single_fit(images: Images, seed: int) -> Score:
    """One plain recipe: a third frozen, AdamW 1e-3, weight decay 1e-2, 300 updates, flips."""
    began = time.perf_counter()
    network = _fit(images, ["train"], seed, UPDATES)
    seconds = time.perf_counter() - began
    return Score(network.score("test"), seconds)


def refitted_three(images: Images, seed: int) -> Score:
    """The same recipe on training and validation items, three seeds averaged, flips at test time."""
    began = time.perf_counter()
    updates = round(UPDATES * len(images.of("train", "val")[1]) / len(images.splits["train"][1]))
    networks = [_fit(images, ["train", "val"], 3 * seed + number, updates) for number in range(3)]
    seconds = time.perf_counter() - began
    pictures, labels = images.splits["test"]
    mean = torch.stack([network.predictions(pictures, flipped=True) for network in networks]).mean(0)
    return Score(images.score(mean, labels), seconds)


def medium_recipe(images: Images, seed: int) -> Score:
    """AutoGluon's medium preset: rate 4e-4, times 0.9 a layer, 20 passes, patience 10, soup of 3."""
    began = time.perf_counter()
    network = Network(images, seed)
    optimizer = torch.optim.AdamW(
        network.rates(trunk=4e-4, head=4e-4, decay=0.9, frozen=0.0), weight_decay=1e-3
    )
    kept: list[tuple[float, int, dict[str, Tensor]]] = []
    passes = 0

    def look() -> bool:
        nonlocal passes
        passes += 1
        value = network.score("val")
        kept.append((value, -passes, copy.deepcopy(network.model.state_dict())))
        kept.sort(key=lambda entry: (-entry[0], -entry[1]))
        del kept[3:]
        return passes >= -kept[0][1] + 10

    steps = max(1, len(images.splits["train"][1]) // BATCH)
    network.train(images.of("train"), optimizer, updates=20 * steps, seed=seed, after_pass=look)
    mean = {
        name: torch.stack([state[name].double() for *_, state in kept]).mean(0).to(value.dtype)
        for name, value in kept[0][2].items()
    }
    network.model.load_state_dict(mean)
    seconds = time.perf_counter() - began
    return Score(network.score("test"), seconds)


def one_pass_keep_best(images: Images, seed: int) -> Score:
    """Eight random configurations for a sixth of the updates, the best two to the end."""
    began = time.perf_counter()
    chance = np.random.default_rng(seed)
    tried = []
    for number in range(8):
        network = Network(images, seed)
        rate, frozen = 10 ** chance.uniform(-4, -2), chance.uniform(0, 1)
        groups = network.rates(trunk=rate, head=2 * rate, decay=1.0, frozen=frozen)
        optimizer = torch.optim.AdamW(groups, weight_decay=1e-2)
        network.train(images.of("train"), optimizer, updates=UPDATES // 6, seed=seed)
        tried.append((network.score("val"), -number, rate, frozen))
    finals = []
    for *_, rate, frozen in sorted(tried, reverse=True)[:2]:
        network = Network(images, seed)
        groups = network.rates(trunk=rate, head=2 * rate, decay=1.0, frozen=frozen)
        network.train(
            images.of("train"), torch.optim.AdamW(groups, weight_decay=1e-2), updates=UPDATES, seed=seed
        )
        finals.append((network.score("val"), len(finals), network))
    seconds = time.perf_counter() - began
    best = max(finals)[2]
    return Score(best.score("test"), seconds)


def scikit_learn(images: Images, seed: int) -> Score:
    """Features once, a grid of logistic regressions on them."""
    began = time.perf_counter()
    network = Network(images, seed)
    train, val = network.features("train"), network.features("val")
    mean, scale = train.mean(0), train.std(0) + 1e-6
    best: tuple[float, float, LogisticRegression] | None = None
    for strength in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        model = LogisticRegression(C=strength, max_iter=300)
        model.fit((train - mean) / scale, images.splits["train"][1].numpy())
        value = float(model.score((val - mean) / scale, images.splits["val"][1].numpy()))
        if best is None or value > best[0]:
            best = value, strength, model
    seconds = time.perf_counter() - began
    assert best is not None
    labels = images.splits["test"][1].numpy()
    return Score(float(best[2].score((network.features("test") - mean) / scale, labels)), seconds)


PEERS: dict[str, Callable[[Images, int], Score]] = {
    "single fit": single_fit,
    "refitted, three averaged": refitted_three,
    "AutoGluon's medium recipe": medium_recipe,
    "a pass each, keep the best": one_pass_keep_best,
    "scikit-learn on features": scikit_learn,
}
