"""Operations of a whole search, counted, against the least that the same trials can do with.

The least: the frozen layers of the deepest shared split point once over each view of the items, then for each
trial what it trains (three times the suffix: forward, and backward twice as much) and evaluates.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.bench import BACKBONE
from tests.benchmarks.measure import Result
from tlsearch.database.store import Store
from tlsearch.records import TrialRecord
from tlsearch.search import study
from tlsearch.spec import parse


def run(quick: bool) -> Iterator[Result]:
    """Digits on lite0: a search, then a second study on the same data."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TLSEARCH_CACHE"] = str(folder / "cache")
        database = f"sqlite:///{folder / 'bench.db'}"
        trials = 8 if quick else 20
        for number in (1, 2):
            spec = parse(
                {
                    "study": f"work-{number}",
                    "data": {"source": "digits", "image_size": 64},
                    "backbones": [BACKBONE],
                    "strategies": ["linear_probe", "feature_copy", "fine_tune"],
                    "space": {
                        "*.augmentation": ["none"],
                        "fine_tune.freeze_depth": {"low": 0.3, "high": 1.0},
                    },
                    "budget": {"trials": trials, "epochs": 3},
                    "search": {"pruner": "none", "finalists": 1, "confirm_seeds": 0},
                    "seed": number - 1,
                }
            )
            # The same split, so that the second study wants nothing new of the frozen layers.
            spec = spec.model_copy(update={"seed": 0})
            study.run(spec, database=database, artifacts=folder / "artifacts")
            with Store.open(database) as store:
                found = store.trials(f"work-{number}")
                images = sum(trial.costs.prefix_images for trial in found)
                counts = store.dataset(store.study(f"work-{number}").fingerprint).counts
            if number == 2:
                yield Result(
                    "backbone work",
                    "a second study on the same data",
                    f"{images} images through frozen layers",
                    "0",
                    images == 0,
                )
                continue
            items = counts["train"] + counts["stop"] + counts["val"]
            done = sum(trial.costs.flops for trial in found)
            least = _once(found) * items + sum(_own(trial) for trial in found)
            ratio = done / least
            yield Result(
                "backbone work",
                f"{len(found)} trials on digits at 64 px",
                f"{ratio:.4f} times the least; {images} images through frozen layers, {items} items",
                "1.01",
                ratio <= 1.01,
                {"ratio": ratio, "prefix_images": images, "items": items},
            )


def _once(trials: list[TrialRecord]) -> float:
    """Operations of the deepest frozen prefix for one item: the trunk, since heads freeze all of it."""
    from tlsearch import registry

    return registry.backbone(BACKBONE, weights="random", image_size=64).info.flops if trials else 0.0


def _own(trial: TrialRecord) -> float:
    """Operations of a trial's own part: all that it did but the pass through its prefix."""
    costs = trial.costs
    if costs.prefix_images == 0:
        return costs.flops
    from tlsearch import registry

    # The trial that stored the activations has the shared pass in its count.
    info = registry.backbone(BACKBONE, weights="random", image_size=64).info
    return max(0.0, costs.flops - costs.prefix_images * info.flops)
