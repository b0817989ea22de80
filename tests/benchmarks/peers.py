"""The scripts that people write, as good as we could make them: same images, split, weights, threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional

from tlsearch import registry

BACKBONE = "efficientnet_lite/lite0"
SPACE = {
    "freeze": tune.uniform(0.0, 1.0),
    "lr": tune.loguniform(1e-5, 1e-2),
    "weight_decay": tune.loguniform(1e-6, 1e-1),
    "dropout": tune.uniform(0.0, 0.5),
}


@dataclass(frozen=True)
class Images:
    """Decoded images (N, 3, S, S) uint8 with labels, by split."""

    train: tuple[np.ndarray, np.ndarray]
    val: tuple[np.ndarray, np.ndarray]
    size: int
    classes: int


@dataclass
class Trajectory:
    """When which validation accuracy was reached, in seconds from the start, and by which configuration."""

    began: float = field(default_factory=time.perf_counter)
    points: list[tuple[float, float, dict[str, Any]]] = field(default_factory=list)

    def reached(self, value: float, config: dict[str, Any] | None = None) -> None:
        """Note a value, now."""
        self.points.append((time.perf_counter() - self.began, value, config or {}))

    @property
    def best(self) -> float:
        """The highest value."""
        return max(value for _, value, _ in self.points)

    @property
    def seconds(self) -> float:
        """When the last value came."""
        return self.points[-1][0]

    def seconds_to(self, target: float) -> float:
        """When the target was reached first; infinite if it never was."""
        return min((moment for moment, value, _ in self.points if value >= target), default=float("inf"))

    def first(self, target: float) -> dict[str, Any]:
        """The configuration that reached the target first."""
        return next(config for _, value, config in self.points if value >= target)


class Network:
    """lite0 with a new head, trained the plain way: every image through every layer in every epoch."""

    def __init__(self, config: dict[str, Any], images: Images, seed: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        loaded = registry.backbone(BACKBONE, weights="pretrained", image_size=images.size)
        self.inputs, self.images, self.seed = loaded.info.inputs, images, seed
        head = nn.Sequential(nn.Dropout(config["dropout"]), nn.Linear(loaded.info.width, images.classes))
        self.model = nn.Sequential(loaded.trunk, head).to(memory_format=torch.channels_last)
        frozen = round(config["freeze"] * len(loaded.info.groups))
        parameters = dict(loaded.trunk.named_parameters())
        for names in loaded.info.groups[:frozen]:
            for name in names:
                parameters[name].requires_grad_(False)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=config["lr"], weight_decay=config["weight_decay"])

    def epoch(self, number: int, epochs: int) -> float:
        """Train an epoch; the validation accuracy."""
        array, labels = self.images.train
        order = np.random.default_rng((self.seed, number)).permutation(len(labels))
        self.model.train()
        for module in self.model.modules():  # frozen BatchNorm must not drift
            own = list(module.parameters(recurse=False))
            if own and not any(p.requires_grad for p in own):
                module.eval()
        steps = -(-len(order) // 32)
        for step, start in enumerate(range(0, len(order), 32)):
            index = order[start : start + 32]
            done = ((number - 1) * steps + step) / (epochs * steps)
            for group in self.optimizer.param_groups:
                group.setdefault("base", group["lr"])
                group["lr"] = group["base"] * 0.5 * (1 + np.cos(np.pi * done))
            self.optimizer.zero_grad()
            logits = self.model(self.inputs.to_model(torch.from_numpy(array[index])))
            functional.cross_entropy(logits, torch.from_numpy(labels[index])).backward()
            self.optimizer.step()
        return self.accuracy()

    def accuracy(self) -> float:
        """On the validation split."""
        array, labels = self.images.val
        self.model.eval()
        right = 0
        with torch.inference_mode():
            for start in range(0, len(labels), 256):
                batch = self.inputs.to_model(torch.from_numpy(array[start : start + 256]))
                right += int((self.model(batch).argmax(1).numpy() == labels[start : start + 256]).sum())
        return right / len(labels)


def train_function(config: dict[str, Any], images: Images, epochs: int, seed: int) -> None:
    """A function trainable: a process for each trial."""
    network = Network(config, images, seed)
    for number in range(1, epochs + 1):
        tune.report({"accuracy": network.epoch(number, epochs), "epoch": number})


class TrainClass(tune.Trainable):
    """A class trainable, whose processes are reused."""

    def setup(self, config: dict[str, Any], images: Images, epochs: int, seed: int) -> None:
        """Build the network."""
        self.images, self.epochs, self.seed = images, epochs, seed
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Another trial in the same process."""
        self.network = Network(new_config, self.images, self.seed)
        self.number = 0
        return True

    def step(self) -> dict[str, Any]:
        """An epoch."""
        self.number += 1
        accuracy = self.network.epoch(self.number, self.epochs)
        return {"accuracy": accuracy, "epoch": self.number, "done": self.number == self.epochs}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""


def ray_script(images: Images, *, trials: int, epochs: int, seed: int, reuse: bool) -> Trajectory:
    """Ray Tune with OptunaSearch and ASHA; ``reuse`` keeps processes warm."""
    trajectory = Trajectory()
    ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    trainable = TrainClass if reuse else train_function

    class Watch(tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any) -> None:
            trajectory.reached(result["accuracy"], trial.config)

    try:
        tune.Tuner(
            tune.with_resources(
                tune.with_parameters(trainable, images=images, epochs=epochs, seed=seed), {"cpu": 1}
            ),
            param_space=SPACE,
            tune_config=tune.TuneConfig(
                metric="accuracy",
                mode="max",
                num_samples=trials,
                search_alg=ConcurrencyLimiter(OptunaSearch(seed=seed), 2),
                scheduler=ASHAScheduler(time_attr="epoch", max_t=epochs, grace_period=min(2, epochs)),
                reuse_actors=reuse,
            ),
            run_config=tune.RunConfig(callbacks=[Watch()], verbose=0),
        ).fit()
    finally:
        ray.shutdown()
    return trajectory


def one_epoch_keep_best(images: Images, *, trials: int, epochs: int, seed: int) -> Trajectory:
    """One epoch each at random, then the best three to the end: the hardest simple peer; one process."""
    trajectory = Trajectory()
    generator = np.random.default_rng(seed)
    tried = []
    for _ in range(trials):
        config = {
            "freeze": generator.uniform(0, 1),
            "lr": 10 ** generator.uniform(-5, -2),
            "weight_decay": 10 ** generator.uniform(-6, -1),
            "dropout": generator.uniform(0, 0.5),
        }
        network = Network(config, images, seed)
        torch.set_num_threads(2)  # it has the machine to itself
        accuracy = network.epoch(1, epochs)
        trajectory.reached(accuracy)
        tried.append((accuracy, len(tried), network))
        tried = sorted(tried, key=lambda entry: -entry[0])[:3]
    for _, _, network in tried:
        for number in range(2, epochs + 1):
            trajectory.reached(network.epoch(number, epochs))
    return trajectory


def known_beforehand(images: Images, config: dict[str, Any], *, epochs: int, seed: int) -> Trajectory:
    """No search: one configuration, in one process that has the machine to itself."""
    trajectory = Trajectory()
    network = Network(config, images, seed)
    torch.set_num_threads(2)
    for number in range(1, epochs + 1):
        trajectory.reached(network.epoch(number, epochs))
    return trajectory


def features_and_scikit_learn(images: Images) -> Trajectory:
    """Features once, then a grid of logistic regressions."""
    trajectory = Trajectory()
    torch.set_num_threads(2)
    loaded = registry.backbone(BACKBONE, weights="pretrained", image_size=images.size)
    trunk = loaded.trunk.eval().to(memory_format=torch.channels_last)

    def features(array: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            parts = [
                trunk(loaded.info.inputs.to_model(torch.from_numpy(array[start : start + 256])))
                for start in range(0, len(array), 256)
            ]
        return torch.cat(parts).numpy()

    train, val = features(images.train[0]), features(images.val[0])
    mean, scale = train.mean(0), train.std(0) + 1e-6
    for strength in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        model = LogisticRegression(C=strength, max_iter=300).fit((train - mean) / scale, images.train[1])
        trajectory.reached(float(model.score((val - mean) / scale, images.val[1])))
    return trajectory


Peer = Callable[[], Trajectory]
