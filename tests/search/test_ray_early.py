"""Ray starts in the background while the data is looked at: neither is in the other's way."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def test_products_of_matrices_end_while_ray_forks() -> None:
    """OpenBLAS ends its threads before a fork; a product that had begun with them used to wait for ever."""
    program = textwrap.dedent(
        """
        import scipy.linalg
        import numpy as np
        import threadpoolctl
        from tlsearch.search import ray_cluster

        def blas():
            pools = threadpoolctl.threadpool_info()
            return {pool["num_threads"] for pool in pools if pool["user_api"] == "blas"}

        threadpoolctl.threadpool_limits(2, user_api="blas")
        ray_cluster.start_early()
        assert blas() == {1}, blas()
        matrix = np.ones((400, 400))
        products = 0
        while not ray_cluster._early[0].done():
            matrix @ matrix
            products += 1
        ray_cluster.start(address=None)
        assert blas() == {2}, blas()
        matrix @ matrix
        ray_cluster.stop()
        assert blas() == {2}, blas()
        print("products", products)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=550, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 0
