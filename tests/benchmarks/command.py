"""The command that anybody gives, timed: a study in a folder, with a database and a cache of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Searched:
    """What a search came to: seconds of the command, `best` and `trials` as JSON, and its last lines."""

    seconds: float
    best: dict[str, Any]
    trials: list[dict[str, Any]]
    notes: list[str]


def searched(study: dict[str, Any], folder: Path) -> Searched:
    """Run a study's file in an empty folder, from the command to the verified model.

    Raises:
        RuntimeError: the command failed.
    """
    (folder / "study.yaml").write_text(json.dumps(study))
    places = {"TLSEARCH_CACHE": str(folder / "cache"), "TLSEARCH_DB": f"sqlite:///{folder / 'studies.db'}"}
    command = [sys.executable, "-m", "tlsearch"]

    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*command, *words], env={**os.environ, **places}, cwd=folder, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(
                f"tlsearch {' '.join(words)}: exit code {done.returncode}\n{done.stderr[-3000:]}"
            )
        return done

    began = time.perf_counter()
    told = ran("run", "study.yaml")
    seconds = time.perf_counter() - began
    best, trials = (json.loads(ran(what, study["study"], "--json").stdout) for what in ("best", "trials"))
    return Searched(seconds, best, trials, [line for line in told.stderr.splitlines() if line.strip()][-25:])
