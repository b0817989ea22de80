"""``python -m tests.benchmarks.other_tasks``: numbers and sets of labels beside what a person trains by hand.

The peers are those of `quality`: one plain fit, the same on all labelled items with three seeds averaged, and
scikit-learn on features. The search gets the seconds that the three took, from the command to the verified
model. A line of JSON is printed for each split of each case; ``--out`` appends it to a file.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn import functional

from tests.benchmarks.command import searched
from tests.benchmarks.quality_peers import BACKBONE, Images, Network, refitted_three, single_fit, squares
from tests.benchmarks.quality_sets import PHOTOS, solar_cells

Row = tuple[Image.Image, dict[str, float]]


@dataclass(frozen=True)
class Case:
    """Pictures with targets, and how they are learned."""

    name: str
    task: str
    metric: str
    image_size: int
    flips: str
    labelled: int
    make: Callable[[], Iterator[Row]]


def _cells(target: Callable[[float, str], dict[str, float]]) -> Iterator[Row]:
    """Solar cells of `elpv-dataset`, by what is said of each: its defect's probability, and its type."""
    for picture, probability, kind in solar_cells():
        yield picture.convert("RGB"), target(probability, kind)


def _smears(target: Callable[[Counter[str]], dict[str, float]]) -> Iterator[Row]:
    """Blood cells of the folder that `PHOTOS` names, by the boxes of each field."""
    root = Path(os.environ[PHOTOS]) / "blood_cells"
    for file in sorted((root / "annotations").glob("*.xml")):
        found = Counter(str(one.findtext("name")) for one in ElementTree.parse(file).findall("object"))
        with Image.open(root / "images" / f"{file.stem}.jpg") as picture:
            yield picture.convert("RGB").resize((256, 256)), target(found)


CASES = (
    Case(
        *("solar cells, probability", "regression", "mae", 64, "both", 400),
        lambda: _cells(lambda probability, kind: {"probability": probability}),
    ),
    Case(
        *("solar cells, two labels", "multilabel", "map", 64, "both", 400),
        lambda: _cells(lambda probability, kind: {"defect": probability > 0.5, "mono": kind == "mono"}),
    ),
    Case(
        *("blood cells, red ones", "regression", "mae", 96, "both", 290),
        lambda: _smears(lambda found: {"red": found["RBC"]}),
    ),
    Case(
        *("blood cells, kinds", "multilabel", "map", 96, "both", 290),
        lambda: _smears(lambda found: {"red": found["RBC"] > 0, "platelets": found["Platelets"] > 0}),
    ),
)


def _table(case: Case, folder: Path, seed: int) -> Path:
    """Files, and a table of them with train, val and test."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number, (picture, targets) in enumerate(case.make()):
        picture.save(folder / f"images/{number:05d}.png")
        rows.append({"image": f"images/{number:05d}.png", **{k: float(v) for k, v in targets.items()}})
    order = np.random.default_rng(seed).permutation(len(rows))
    train = case.labelled * 3 // 4
    for place, at in enumerate(order):
        rows[at]["split"] = "train" if place < train else "val" if place < case.labelled else "test"
    if case.task == "multilabel":
        rows = [{k: int(v) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    path = folder / "table.csv"
    pd.DataFrame([row for at, row in enumerate(rows) if at in set(order[:1_500])]).to_csv(path, index=False)
    return path


def _read(case: Case, table: Path) -> Images:
    frame = pd.read_csv(table)
    names = [name for name in frame.columns if name not in ("image", "split")]
    known = frame[frame["split"] != "test"][names].to_numpy(np.float32)
    mean, scale = torch.from_numpy(known.mean(0)), torch.from_numpy(known.std(0))
    splits = {}
    for split, rows in frame.groupby("split"):
        files = [table.parent / file for file in rows["image"]]
        splits[str(split)] = squares(files, case.image_size), torch.tensor(rows[names].to_numpy(np.float32))

    def huber(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.huber_loss(outputs, (targets - mean) / scale)

    def told(outputs: Tensor) -> Tensor:
        return outputs * scale + mean

    def error(said: Tensor, targets: Tensor) -> float:
        return float((said - targets).abs().mean())

    def precision(said: Tensor, targets: Tensor) -> float:
        return float(average_precision_score(targets.numpy(), said.numpy()))

    kind = (case.image_size, case.flips)
    if case.task == "regression":
        return Images(splits, len(names), *kind, huber, told, error)
    loss = functional.binary_cross_entropy_with_logits
    return Images(splits, len(names), *kind, loss, torch.sigmoid, precision)


def _scikit_learn(case: Case, images: Images) -> float:
    """On features of all but the test items: ridge by leave-one-out, logistic regression by validation."""
    network = Network(images, 0)
    found = {split: network.features(split) for split in images.splits}
    targets = {split: one.numpy() for split, (_, one) in images.splits.items()}
    both, known = (
        np.concatenate([found["train"], found["val"]]),
        np.concatenate([targets["train"], targets["val"]]),
    )
    mean, scale = both.mean(0), both.std(0) + 1e-6
    ready = {split: (one - mean) / scale for split, one in found.items()}
    both = (both - mean) / scale
    if case.task == "regression":
        model = RidgeCV(alphas=np.logspace(-1, 6, 29)).fit(both, known)
        said = np.asarray(model.predict(ready["test"])).reshape(targets["test"].shape)
        return images.score(torch.from_numpy(said), torch.from_numpy(targets["test"]))

    def fitted(strength: float, x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
        models = [LogisticRegression(C=strength, max_iter=300).fit(x, one) for one in y.T]
        return np.stack([model.predict_proba(at)[:, 1] for model in models], axis=1)

    def value(strength: float) -> float:
        said = fitted(strength, ready["train"], targets["train"], ready["val"])
        return float(average_precision_score(targets["val"], said))

    best = max((1e-4, 1e-3, 1e-2, 1e-1, 1.0), key=value)
    return float(average_precision_score(targets["test"], fitted(best, both, known, ready["test"])))


def _search(case: Case, table: Path, *, seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    columns = [name for name in pd.read_csv(table).columns if name not in ("image", "split")]
    data = {"source": "table", "path": str(table), "label_column": columns, "image_size": case.image_size}
    study = {
        "study": "task",
        "task": case.task,
        "data": data,
        "backbones": [BACKBONE],
        "budget": {"trials": 1000, "minutes": seconds / 60},
        "seed": seed,
    }
    folder.mkdir()
    told = searched(study, folder)
    value = told.best["metrics"]["test"][case.metric]
    return {"test": round(value, 4), "seconds": round(told.seconds), "recipe": told.best["strategy"]}


def main() -> None:
    """One line for each split of each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help="where files are made; a temporary one by default")
    words = parser.parse_args()
    for seed in range(words.splits):
        for case in CASES:
            if (words.case and case.name not in words.case) or (
                "blood" in case.name and PHOTOS not in os.environ
            ):
                continue
            with tempfile.TemporaryDirectory(dir=words.folder) as name:
                table = _table(case, Path(name) / "data", seed)
                images = _read(case, table)
                one, three = single_fit(images, seed), refitted_three(images, seed)
                told = {
                    "case": case.name,
                    "metric": case.metric,
                    "split": seed,
                    "single fit": [round(one.test, 4), round(one.seconds)],
                    "refitted three": [round(three.test, 4), round(three.seconds)],
                    "scikit-learn": round(_scikit_learn(case, images), 4),
                    "tlsearch": _search(
                        case, table, seconds=three.seconds, seed=seed, folder=Path(name) / "run"
                    ),
                }
            print(json.dumps(told), flush=True)
            if words.out:
                with words.out.open("a") as file:
                    file.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
