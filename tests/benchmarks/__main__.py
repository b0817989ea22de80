"""``python -m tests.benchmarks [--quick] [NAME...]``: run benchmarks, print a table, write JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.measure import Result

NAMES = (
    "startup",
    "heads",
    "cached_fine_tuning",
    "sampler",
    "database",
    "decoding",
    "backbone_work",
    "orchestration",
    "cluster",
    "time_to_accuracy",
)
OUT = Path(__file__).parent / "results"


def main() -> None:
    """Each benchmark in a process of its own, so that none warms another's caches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer pairs, smaller images")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(NAMES))
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]}")
    OUT.mkdir(exist_ok=True)
    if arguments.here:
        _run(arguments.names[0], arguments.quick)
        return
    for name in arguments.names or NAMES:
        command = [sys.executable, "-m", "tests.benchmarks", "--here", name]
        done = subprocess.run([*command, *(["--quick"] if arguments.quick else [])], check=False)
        if done.returncode:
            print(f"{name}: failed with exit code {done.returncode}", flush=True)
    print(f"\n{table()}")


def _run(name: str, quick: bool) -> None:
    module = importlib.import_module(f"tests.benchmarks.{name}")
    results = []
    for result in module.run(quick):
        results.append(result)
        mark = {True: "reached", False: "NOT reached", None: ""}[result.reached]
        print(f"{result.benchmark} | {result.case} | {result.value} | {result.target} {mark}", flush=True)
    document = {
        "benchmark": name,
        "quick": quick,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "results": [asdict(result) for result in results],
    }
    (OUT / f"{name}.json").write_text(json.dumps(document, indent=2, default=str) + "\n")


def table() -> str:
    """All stored results as a Markdown table, for the README."""
    lines = ["| what | case | measured | to reach | |", "|---|---|---|---|---|"]
    for name in NAMES:
        path = OUT / f"{name}.json"
        if not path.exists():
            continue
        for entry in json.loads(path.read_text())["results"]:
            result = Result(**entry)
            mark = {True: "yes", False: "**no**", None: ""}[result.reached]
            lines.append(
                f"| {result.benchmark} | {result.case} | {result.value} | {result.target} | {mark} |"
            )
    text = "\n".join(lines) + "\n"
    (OUT / "table.md").write_text(text)
    return text


if __name__ == "__main__":
    main()
