"""``python -m tests.benchmarks.quality``: is a search's model better than what a person trains by hand?

Every method gets the same files, splits, weights and image size, on the same machine; test items are seen by
nobody before its model is there. A search gets a multiple of the seconds that the single fit took on the same
items, from the command to the verified model. Results go to ``results/quality.json`` cell by cell: a run that
was broken off goes on where it was left. The table (``results/quality.md``) is made of it.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.benchmarks.command import searched
from tests.benchmarks.quality_peers import BACKBONE, PEERS, read
from tests.benchmarks.quality_sets import CASES, Case
from tests.benchmarks.strategies import _read, _write

OUT = Path(__file__).parent / "results" / "quality.json"
TIMES = (1, 3, 10)
SINGLE = "single fit"

Cell = dict[str, Any]


def main() -> None:
    """Run what is missing, one cell after another; then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--items", type=int, action="append", help="labelled images; all sizes by default")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--method", action="append", choices=[*PEERS, *map(_ours, TIMES)])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--folder", type=Path, help="where files are made; a temporary one by default")
    parser.add_argument("--table", action="store_true", help="run nothing: write the table, and print it")
    arguments = parser.parse_args()
    cells: dict[str, Cell] = _read(arguments.out)
    if not arguments.table:
        with tempfile.TemporaryDirectory(prefix="tlsearch-quality-") as name:
            for key, cell in _missing(cells, arguments, arguments.folder or Path(name)):
                cells[key] = cell
                _write(arguments.out, cells)
                print(f"{key}: {cell['test']:.4f} in {cell['seconds']:.0f} s", file=sys.stderr, flush=True)
    text = table(cells)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def _ours(times: int) -> str:
    return f"tlsearch, {times} times the single fit"


def _missing(cells: dict[str, Cell], chosen: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Cell]]:
    for seed in range(chosen.splits):  # by split first: after a part of the time every case has been tried
        for case in CASES:
            if chosen.case and case.name not in chosen.case:
                continue
            if why := case.missing():
                print(f"{case.name}: left out: {why}", file=sys.stderr)
                continue
            for items in case.items:
                if not chosen.items or items in chosen.items:
                    yield from _row(cells, chosen, folder, case, items, seed)


def _row(
    cells: dict[str, Cell], chosen: argparse.Namespace, folder: Path, case: Case, items: int, seed: int
) -> Iterator[tuple[str, Cell]]:
    made = case.table(folder, items=items, seed=seed)
    images = None
    wanted = chosen.method or [*PEERS, *map(_ours, TIMES)]
    for method in sorted({SINGLE, *wanted}, key=[*PEERS, *map(_ours, TIMES)].index):
        key = f"{case.name} | {items} | {seed} | {method}"
        if key in cells:
            continue
        if method in PEERS:
            images = images or read(made, size=case.image_size, flips=case.flips)
            score = PEERS[method](images, seed)
            yield key, {"test": score.test, "seconds": score.seconds}
        else:
            times = next(times for times in TIMES if _ours(times) == method)
            single = cells[f"{case.name} | {items} | {seed} | {SINGLE}"]["seconds"]
            yield key, _search(case, made, seconds=times * single, seed=seed)


def _search(case: Case, made: Path, *, seconds: float, seed: int) -> Cell:
    """With the defaults for whatever isn't the comparison's own."""
    study = {
        "study": "quality",
        "data": {"source": "table", "path": str(made), "image_size": case.image_size},
        "backbones": [BACKBONE],
        "budget": {"trials": 1000, "minutes": seconds / 60},
        "seed": seed,
    }
    with tempfile.TemporaryDirectory(prefix="tlsearch-quality-run-") as name:
        told = searched(study, Path(name))
        return {
            "test": _tested(told.best["model"]["uri"], made),
            "seconds": told.seconds,
            "minutes": seconds / 60,
            "best": told.best,
            "trials": dict(sorted(Counter(trial["strategy"] for trial in told.trials).items())),
            "notes": told.notes,
        }


def _tested(bundle: str, made: Path) -> float:
    import tlsearch

    frame = pd.read_csv(made, dtype=str).query("split == 'test'")
    said = tlsearch.load(bundle).predict([made.parent / file for file in frame["image"]])
    return float((np.asarray(said) == frame["label"].to_numpy()).mean())


def table(cells: dict[str, Cell]) -> str:
    """Test accuracy of each method, mean and standard error over splits; then the paired differences."""
    methods = [*PEERS, *map(_ours, TIMES)]
    rows: dict[str, dict[str, list[tuple[int, Cell]]]] = {}
    for key, cell in cells.items():
        case, items, seed, method = key.split(" | ")
        rows.setdefault(f"{case}, {items}", {}).setdefault(method, []).append((int(seed), cell))
    lines = [f"| set, labelled images | {' | '.join(methods)} |", "|---|" + "--:|" * len(methods)]
    for name, found in rows.items():
        told = [_mean([cell["test"] for _, cell in found[m]]) if m in found else "-" for m in methods]
        lines.append(f"| {name} | {' | '.join(told)} |")
    lines += [
        "",
        "Points of test accuracy more than the single fit on the same splits, and its errors gone:",
        "",
    ]
    lines += [
        "| method | sets | difference | errors gone | seconds, as multiples of the single fit's |",
        "|---|--:|--:|--:|--:|",
    ]
    for method in methods[1:]:
        differences, gone, seconds = [], [], []
        for found in rows.values():
            single = dict(found.get(SINGLE, []))
            for seed, cell in found.get(method, []):
                differences.append(100 * (cell["test"] - single[seed]["test"]))
                gone.append((1 - single[seed]["test"], 1 - cell["test"]))
                seconds.append(cell["seconds"] / single[seed]["seconds"])
        if differences:
            share = 1 - sum(mine for _, mine in gone) / max(1e-9, sum(theirs for theirs, _ in gone))
            lines.append(
                f"| {method} | {len(differences)} | {_mean(differences, 2)} | {share:.0%} | "
                f"{statistics.median(seconds):.1f} |"
            )
    return "\n".join(lines) + "\n"


def _mean(values: list[float], digits: int = 4) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.{digits}f} ± {error:.{digits}f}"


if __name__ == "__main__":
    main()
