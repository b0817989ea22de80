"""Where Ray needs to write."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
from tlsearch.errors import WorkError
from tlsearch.search import ray_cluster

try:
    ray_cluster.start(address=None)
except WorkError as error:
    print(error)
"""


def test_a_home_that_is_no_folder_is_named_with_what_to_do():
    env = {**os.environ, "HOME": "/dev/null"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=env, capture_output=True, text=True, timeout=550, check=False
    )
    assert "/dev/null/.ray: Not a directory" in done.stdout, done.stderr
    assert "set HOME" in done.stdout
    assert "busy" not in done.stdout
