"""How long the command line makes its user wait before anything happens."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.benchmarks.measure import Result


def run(quick: bool) -> Iterator[Result]:
    """Wall seconds of ``--help``, from the start of the process to its end."""
    command = [sys.executable, "-m", "tlsearch", "--help"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    seconds = []
    for _ in range(5 if quick else 11):
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - began)
    middle = statistics.median(seconds)
    yield Result(
        "start",
        "tlsearch --help",
        f"{middle:.3f} s ({min(seconds):.3f}-{max(seconds):.3f})",
        "0.25 s",
        middle <= 0.25,
    )
