"""Processes that know nothing of the test, forked off one that has imported torch and timm already.

That one is the fork server of `multiprocessing`; importing both anew takes seconds of CPU each time.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["timm", "torchvision.transforms.v2", "tlsearch.models.rebuild", "tlsearch.testing.trial_harness"]
)


def run(
    command: Sequence[str], *, env: Mapping[str, str], timeout: float, **_: Any
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run` does with ``python -m MODULE ...``, all that is printed as ``stderr``.

    Raises:
        subprocess.TimeoutExpired: it takes longer.
    """
    python, option, *words = command
    assert (python, option) == (sys.executable, "-m")
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said.txt"
        process = _CONTEXT.Process(target=_become, args=(words, dict(env), os.getcwd(), said))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(command), timeout)
        return subprocess.CompletedProcess(command, process.exitcode or 0, "", said.read_text())


def _become(words: Sequence[str], env: Mapping[str, str], folder: str, said: Path) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    path = [entry for entry in env.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = dict.fromkeys([*path, *sys.path])
    with said.open("w") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
