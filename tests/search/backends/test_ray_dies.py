"""Ray's own processes die under a search, which says so at once and goes on by the same command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tiny_study
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[3]


def title(process: psutil.Process) -> str:
    """The command line of a process; empty of one that has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def started(process: psutil.Process) -> list[psutil.Process]:
    """What a search has started, once a worker of it trains."""
    while True:
        family = process.children(recursive=True)
        if any(told.startswith("ray::") and "Train" in told for told in map(title, family)):
            return family
        assert process.status() != psutil.STATUS_ZOMBIE, "it ended before a worker trained"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["raylet", pytest.param("gcs_server", marks=pytest.mark.long)])
def test_the_death_of_rays_own_process_is_one_error_and_the_same_command_goes_on(tmp_path, victim):
    study = tiny_study.document(
        tiny_study.colours(tmp_path / "pictures"),
        strategies=["fine_tune"],
        budget={"trials": 2, "epochs": 20},
    )
    with (tmp_path / "study.yaml").open("w") as file:
        YAML(typ="safe").dump(study, file)
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'tiny'}"}
    env |= {"TLSEARCH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tlsearch", "run", str(tmp_path / "study.yaml"), "--json"]
    options = {"env": env, "cwd": tmp_path, "text": True, "stdout": -1, "stderr": -1}
    with subprocess.Popen(command, **options) as process:
        (found,) = [one for one in started(psutil.Process(process.pid)) if one.name() == victim]
        found.kill()
        out, err = process.communicate(timeout=550)
    assert process.returncode == 1, err
    assert f"Error: Ray's own process {victim} died" in err
    assert "Run the same command again" in err
    assert out == "", "nothing of Ray's on stdout"
    for words in ("(raylet)", "state-dump", "Traceback", "OOM"):
        assert words not in err
    again = subprocess.run(command, timeout=550, check=False, **options)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("{"), "nothing but the answer on stdout, however workers were ended"
    assert "(raylet)" not in again.stderr
