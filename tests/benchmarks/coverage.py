"""``python -m tests.benchmarks.coverage``: do scores and intervals say what is true?

Many small searches, each on other labelled items of the same pictures. The model that one hands out is then
asked about some thousand items that neither it nor the search has seen: its share of right answers there is
taken for the truth. Beside it stand what the search says: the winner's value on validation items, the same
corrected for having been chosen, and the 95% interval of the test score. Results go to
``results/coverage.json`` search by search: a run that was broken off goes on where it was left.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import tlsearch
from tests.benchmarks.quality import _mean
from tests.benchmarks.quality_peers import BACKBONE
from tests.benchmarks.quality_sets import CASES, Case
from tests.benchmarks.strategies import _read, _write
from tlsearch.reports.intervals import of_items
from tlsearch.search import study as studies
from tlsearch.search.progress import silent
from tlsearch.spec import parse

OUT = Path(__file__).parent / "results" / "coverage.json"
LABELLED, TEST = 150, 100
"""Labelled images of a search, of which a quarter are validation items; and its test items."""
SETS = ("digits", "fashion", "solar cells")
PIXELS = 32
HEADS = ["linear_probe", "feature_copy"]
"""The core's heads: what is asked for here is the choosing, whatever was trained."""

Cell = dict[str, float]


def main() -> None:
    """Run the searches that are missing; then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="searches of each set")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true", help="run nothing: write the table, and print it")
    arguments = parser.parse_args()
    cells: dict[str, Cell] = _read(arguments.out)
    with tempfile.TemporaryDirectory(prefix="tlsearch-coverage-") as folder:
        for seed in range(0 if arguments.table else arguments.seeds):
            for case in (case for case in CASES if case.name in SETS and not case.missing()):
                key = f"{case.name} | {seed}"
                if key not in cells:
                    cells[key] = _searched(case, Path(folder), seed)
                    _write(arguments.out, cells)
                    print(f"{key}: {cells[key]}", file=sys.stderr, flush=True)
    text = table(cells)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def _searched(case: Case, folder: Path, seed: int) -> Cell:
    """What one search says of its model, and what is true of it."""
    made = case.table(folder, items=LABELLED, seed=seed)
    frame = pd.read_csv(made, dtype=str)
    rest = frame[frame["split"] == "test"]
    own = rest.sample(TEST, random_state=seed)
    unseen = rest.drop(own.index)
    table = made.with_name(f"{made.stem}-search.csv")
    pd.concat([frame[frame["split"] != "test"], own]).to_csv(table, index=False)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        study: dict[str, Any] = {
            "study": "coverage",
            "data": {"source": "table", "path": str(table), "image_size": PIXELS},
            "backbones": [BACKBONE],
            "strategies": HEADS,
            "budget": {"trials": 40},
            "search": {"refit": False},
            "seed": seed,
        }
        result = studies.run(
            parse(study),
            database=f"sqlite:///{place}/studies.db",
            artifacts=f"{place}/artifacts",
            observe=silent,
            local=True,
        )
        assert result.model is not None
        said = tlsearch.load(result.model.uri).predict([made.parent / file for file in unseen["image"]])
        scores = result.model.metrics
        interval = of_items(scores["test"], "accuracy", TEST)
        assert interval is not None
        return {
            "truth": float((np.asarray(said) == unseen["label"].to_numpy()).mean()),
            "value": scores["val"]["accuracy"],
            "expected": scores["val"]["accuracy_expected"],
            "test": scores["test"]["accuracy"],
            "low": interval.low,
            "high": interval.high,
        }


def table(cells: dict[str, Cell]) -> str:
    """How often the truth lies in the interval, and by how much validation scores are too good."""
    lines = [
        f"Searches of 40 heads; {LABELLED} labelled images, a quarter of them for validation; {TEST} test",
        "images; the truth is the accuracy on some thousand others. Points, mean and standard error.",
        "",
        "| set | searches | truth | winner's value - truth | corrected - truth | test - truth | intervals |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    names = [*dict.fromkeys(key.split(" | ")[0] for key in cells), ""]
    for name in names:
        found = [cell for key, cell in cells.items() if not name or key.startswith(f"{name} | ")]
        held = sum(cell["low"] <= cell["truth"] <= cell["high"] for cell in found)
        differences = [
            _mean([100 * (cell[which] - cell["truth"]) for cell in found], 1)
            for which in ("value", "expected", "test")
        ]
        truth = _mean([100 * cell["truth"] for cell in found], 1)
        told = [name or "all", str(len(found)), truth, *differences, f"{held} of {len(found)} hold it"]
        lines.append(f"| {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
