"""What `make check-gpu` says where there is nothing to check, and that it would check something elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: make check-gpu uses it")
def test_without_a_gpu_it_says_that_nothing_was_checked():
    done = subprocess.run(
        [sys.executable, "-m", "tests.check_gpu"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 2
    assert "No GPU" in done.stderr
    assert "nothing was checked" in done.stderr


def test_all_that_only_a_gpu_shows_is_marked():
    folders = ["tests/training/test_device.py", "tests/models/export/test_write.py"]
    words = ["-m", "gpu", "--collect-only", "-q", *folders]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], capture_output=True, text=True, cwd=ROOT, check=False
    )
    for what in ("mixed_precision", "share_of_the_memory", "stay_on_the_device", "loaded_beforehand"):
        assert what in done.stdout, done.stdout
    for what in ("memory_runs_out", "on_another_device"):
        assert what in done.stdout, done.stdout
