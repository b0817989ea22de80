"""``python -m tests.benchmarks.strategies``: every installed strategy under equal budgets, several seeds.

Results go to ``results/strategies.json`` cell by cell: a run that was broken off goes on where it was left.
A cell whose case has other settings now is run anew. The tables (``results/strategies.md``) are made of it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tests.benchmarks.strategy_cells import CASES, QUICK, Bench, Case
from tests.benchmarks.strategy_tables import document, front, sections
from tests.marked import put
from tlsearch import registry

OUT = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- made by make bench-strategies ARGS=--sections -->", "<!-- end -->"

Cell = dict[str, Any]


def main() -> None:
    """Run what is missing, one cell after another; then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="digits at 32 pixels, 2 trials of 1 epoch, one seed"
    )
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--strategy", action="append", choices=list(registry.installed(registry.STRATEGIES)))
    parser.add_argument("--seeds", type=int, help="at most so many of each case")
    parser.add_argument("--hours", type=float, default=float("inf"), help="begin no cell after so many")
    parser.add_argument("--again", action="store_true", help="run what is chosen even where it is done")
    parser.add_argument("--out", type=Path, default=OUT / "strategies.json")
    parser.add_argument("--tables", action="store_true", help="run nothing: write the tables, and print them")
    parser.add_argument(
        "--sections",
        action="store_true",
        help="run nothing: write the sections of docs/benchmarks.md and the plugins' READMEs",
    )
    arguments = parser.parse_args()
    cases = (QUICK,) if arguments.quick else CASES
    if arguments.quick and arguments.out == OUT / "strategies.json":
        arguments.out = Path(tempfile.gettempdir()) / "tlsearch-strategies-quick.json"
    cells = _read(arguments.out)
    if arguments.sections:
        for package, text in sections(cells, cases).items():
            if (page := ROOT / "plugins" / package / "README.md").exists():
                put(page, text, begin=BEGIN, end=END)
        put(ROOT / "docs" / "benchmarks.md", front(cells, cases), begin=BEGIN, end=END)
        return
    if not arguments.tables:
        chosen = [case for case in cases if not arguments.case or case.name in arguments.case]
        try:
            with FileLock(f"{arguments.out}.lock", timeout=0):
                _run(cells, chosen, arguments)
        except Timeout:
            parser.error(f"another run is writing {arguments.out}")
    text = document(cells, cases)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def _run(cells: dict[str, Cell], cases: list[Case], arguments: argparse.Namespace) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    strategies = arguments.strategy or list(registry.installed(registry.STRATEGIES))
    ends = time.time() + 3600 * arguments.hours
    wanted = []
    for case in cases:
        if why := case.missing():
            print(f"{case.name}: left out: {why}", file=sys.stderr)
            continue
        seeds = range(min(case.seeds, arguments.seeds or case.seeds))
        # By seed first: after a part of the time, every strategy has been tried.
        wanted += [(case, strategy, seed) for seed in seeds for strategy in strategies]
    left = [
        (case, strategy, seed)
        for case, strategy, seed in wanted
        if arguments.again or not _stands(cells.get(_key(case, strategy, seed)), case)
    ]
    print(f"{len(wanted) - len(left)} of {len(wanted)} cells are done", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="tlsearch-bench-") as folder:
        bench = Bench(Path(folder))
        for done, (case, strategy, seed) in enumerate(left, start=1):
            if time.time() > ends:
                break
            try:
                cell = bench.run(case, strategy, seed)
            except KeyboardInterrupt:
                print("interrupted: the same command goes on from here", file=sys.stderr)
                break
            cells[_key(case, strategy, seed)] = cell
            _write(arguments.out, cells)
            told = cell.get("error") or f"{cell['test']:.4f}"
            print(
                f"{done}/{len(left)} {case.name}, {strategy}, seed {seed}: {told} ({cell['cpu_seconds']} s)",
                file=sys.stderr,
                flush=True,
            )


def _key(case: Case, strategy: str, seed: int) -> str:
    return f"{case.name} | {strategy} | {seed}"


def _stands(cell: Cell | None, case: Case) -> bool:
    """Whether a cell needn't be run again: failures are, since they may have been the machine's."""
    return cell is not None and "error" not in cell and cell["settings"] == case.settings


def _read(path: Path) -> dict[str, Cell]:
    return json.loads(path.read_text()) if path.exists() else {}


def _write(path: Path, cells: dict[str, Cell]) -> None:
    """Whole or not at all: the run may end at any moment."""
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(dict(sorted(cells.items())), indent=1) + "\n")
    draft.replace(path)


if __name__ == "__main__":
    main()
