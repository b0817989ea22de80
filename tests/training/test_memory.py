from __future__ import annotations

import json
import os
import subprocess
import sys

THREADS = """
import json, sys
import numpy, scipy.linalg, sklearn, torch
from threadpoolctl import threadpool_info
from tlsearch.training.memory import use_threads

use_threads(int(sys.argv[1]))
print(json.dumps([torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())]))
"""


def test_no_library_takes_more_threads_than_a_trial_was_given() -> None:
    for given in (1, 2):
        told = subprocess.run(
            [sys.executable, "-c", THREADS, str(given)],
            env={**os.environ, "OMP_NUM_THREADS": "3"},
            capture_output=True,
            text=True,
            check=True,
            timeout=550,
        )
        pools = json.loads(told.stdout)
        assert len(pools) > 1, "no BLAS was looked at"
        assert set(pools) == {given}
