"""Seconds to within half a point of the plain script's final best, beside the scripts that people write."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.benchmarks import peers
from tests.benchmarks.bench import BACKBONE, FASHION, bench
from tests.benchmarks.measure import Result
from tlsearch.search import study
from tlsearch.search.progress import Snapshot
from tlsearch.spec import parse

CASES = {
    "digits at 64 px": {"source": "digits", "image_size": 64},
    "Fashion-MNIST, 2,000 items at 96 px": {
        "source": "fashion_mnist",
        "path": FASHION,
        "train_items": 2_000,
        "image_size": 96,
    },
    "digits at 128 px": {"source": "digits", "image_size": 128},
}


def run(quick: bool) -> Iterator[Result]:
    """Every case with several seeds; a case whose data isn't on this machine is left out, and said so."""
    trials, epochs = (8, 4) if quick else (20, 6)
    for name, data in list(CASES.items())[: 1 if quick else None]:
        if "path" in data and not Path(str(data["path"])).exists():
            yield Result("time to accuracy", name, f"left out: {data['path']} isn't here")
            continue
        for seed in range(1 if quick else 5):
            yield from _compare(name, data, trials=trials, epochs=epochs, seed=seed)


def _compare(name: str, data: dict[str, object], *, trials: int, epochs: int, seed: int) -> Iterator[Result]:
    images = _images(data, seed)
    plain = peers.ray_script(images, trials=trials, epochs=epochs, seed=seed, reuse=False)
    target = plain.best - 0.005
    reuse = peers.ray_script(images, trials=trials, epochs=epochs, seed=seed, reuse=True)
    quick = peers.one_epoch_keep_best(images, trials=trials, epochs=epochs, seed=seed)
    linear = peers.features_and_scikit_learn(images)
    ours = _ours(data, trials=trials, epochs=epochs, seed=seed)
    mine = ours.seconds_to(target)
    for peer, trajectory, wanted in (
        ("the plain script", plain, 20.0),
        ("its reuse_actors variant", reuse, 10.0),
        ("one epoch, keep the best", quick, 3.0),
    ):
        theirs = trajectory.seconds_to(target)
        yield Result(
            "time to accuracy",
            f"{name}, seed {seed}: {target:.4f}, against {peer}",
            f"{theirs / mine:.1f} times faster ({mine:.0f} s and {theirs:.0f} s; "
            f"best in the end {ours.best:.4f} and {trajectory.best:.4f})",
            f"{wanted:.0f} times",
            theirs / mine >= wanted,
        )
    mine, theirs = ours.seconds_to(linear.best), linear.seconds_to(linear.best)
    yield Result(
        "time to accuracy",
        f"{name}, seed {seed}: {linear.best:.4f}, against scikit-learn on features",
        f"{mine / theirs:.1f} times its time ({mine:.0f} s and {theirs:.0f} s)",
        "1.1 times",
        mine / theirs <= 1.1,
    )


def _ours(data: dict[str, object], *, trials: int, epochs: int, seed: int) -> peers.Trajectory:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TLSEARCH_CACHE"] = str(folder / "cache")
        spec = parse(
            {
                "study": "race",
                "data": data,
                "backbones": [BACKBONE],
                "strategies": ["linear_probe", "feature_copy", "fine_tune"],
                "budget": {"trials": trials, "epochs": epochs},
                "search": {"finalists": 1, "confirm_seeds": 0},
                "seed": seed,
            }
        )
        trajectory = peers.Trajectory()

        def watch(snapshot: Snapshot) -> None:
            if snapshot.phase == "search" and snapshot.leading is not None:
                trajectory.reached(snapshot.leading)

        study.run(
            spec,
            database=f"sqlite:///{folder / 'race.db'}",
            artifacts=folder / "artifacts",
            observe=watch,
        )
    return trajectory


def _images(data: dict[str, object], seed: int) -> peers.Images:
    made = bench(dict(data), seed=seed)
    parts = {
        name: (
            np.ascontiguousarray(made.data.array[made.data.indices[name]]),
            made.data.labels[made.data.indices[name]],
        )
        for name in ("train", "stop", "val")
    }
    # The peers hold nothing out for early stopping: they train on those items too.
    train = tuple(np.concatenate([parts["train"][i], parts["stop"][i]]) for i in (0, 1))
    return peers.Images(
        train=(train[0], train[1]),
        val=parts["val"],
        size=made.data.array.shape[-1],
        classes=len(made.data.classes),
    )
