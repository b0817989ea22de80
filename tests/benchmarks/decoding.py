"""One decode per image and search; memory of data and features, however many workers share them."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.benchmarks.measure import Result
from tlsearch.contracts.images import ImageInput
from tlsearch.spec import DataSpec
from tlsearch.training import sources
from tlsearch.training.arrays import ArrayStore
from tlsearch.training.data import make_data


class CountingInput(ImageInput):
    """The image input, counting what it encodes."""

    encoded = 0

    def encode(self, item: object) -> np.ndarray:
        """As always, and counted."""
        type(self).encoded += 1
        return super().encode(item)


def run(quick: bool) -> Iterator[Result]:
    """Real JPEG files, decoded by the code that searches use."""
    count = 200 if quick else 1_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise = np.random.default_rng(0)
        for index in range(count):
            target = folder / "images" / "ab"[index % 2] / f"{index}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(target)
        inputs = CountingInput(64, (0.5,) * 3, (0.5,) * 3)
        described = DataSpec.model_validate({"source": "folder", "path": str(folder / "images")})
        for _ in range(3):  # three backbones of one input, or three searches
            make_data(sources.listing(described), inputs, ArrayStore(folder / "store"), seed=0)
        yield Result(
            "data",
            f"{count} JPEG files, loaded three times",
            f"{CountingInput.encoded / count:.2f} decodes an image",
            "1",
            CountingInput.encoded == count,
        )
        megabytes = 32 if quick else 256
        array = np.lib.format.open_memmap(
            folder / "big.npy", mode="w+", dtype=np.uint8, shape=(megabytes, 2**20)
        )
        array[:] = 1
        array.flush()
        del array  # else this process shares the pages with the workers
        for workers in (1, 2, 8):
            context = multiprocessing.get_context("spawn")
            barrier, queue = context.Barrier(workers), context.Queue()
            processes = [
                context.Process(target=_touch, args=(str(folder / "big.npy"), barrier, queue))
                for _ in range(workers)
            ]
            for process in processes:
                process.start()
            shares = [queue.get() for _ in processes]
            for process in processes:
                process.join()
            ratio = sum(shares) / (megabytes * 2**20)
            yield Result(
                "data",
                f"{workers} workers read {megabytes} MB of stored items",
                f"{ratio:.2f} times their bytes in memory",
                "1.1",
                ratio <= 1.1,
            )


def _touch(path: str, barrier: Any, queue: Any) -> None:
    """Read all of a stored array; tell this process's proportional share of its pages, in bytes."""
    array = np.load(path, mmap_mode="r")
    int(array.sum())
    barrier.wait()  # all have it mapped
    share, inside = 0.0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.endswith(path):
            inside = True
        elif inside and line.startswith("Pss:"):
            share += int(line.split()[1]) * 1024
            inside = False
    barrier.wait()  # nobody lets go before all have looked
    queue.put(share)
