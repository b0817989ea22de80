"""Does an export predict as the model does? From files, in a process that can't import tlsearch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tlsearch.contracts.images import ImageInput
from tlsearch.counts import plural
from tlsearch.errors import DataError, ExportError
from tlsearch.files import scratch
from tlsearch.models import abstention
from tlsearch.models.model import Model

PICTURES = 16
"""Files that an export is tried on."""
TOLERANCE = 1e-3
"""How far a probability may be off, or another output, in the deviation of its targets."""
SECONDS = 600
CLOSE = 0.01
"""A distance that is so close to the limit may lie on its other side."""
LOOSE = 0.1
"""The same where another library resizes, which may round pixels otherwise."""
_EXCEPTION = re.compile(r"[\w.]+(Error|Exception)\b")
_RUNNER = """
import json, runpy, sys
folder, blocked, *paths = sys.argv[1:]
if blocked:
    sys.modules[blocked] = None
sys.path.insert(0, folder)
script = runpy.run_path(f"{folder}/predict.py")
ways = [name for name in ("probabilities", "by_timm") if name in script]
found = {name: script[name](paths).tolist() for name in ways}
if "verdict" in script["HOW"]["outputs"]:
    found["verdict"] = script["answers"](paths)[1].tolist()
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """What an export was tried on, and how it went.

    Attributes:
        pictures: how many files.
        source: what kind of files they were.
        difference: the largest difference of a probability, or of another output.
    """

    pictures: int
    source: str
    difference: float


@contextmanager
def files(items: Sequence[object], inputs: ImageInput) -> Iterator[tuple[list[Path], str]]:
    """Readable pictures as files, and what they are; noise where there are none.

    Arrays are written as PNG, which keeps every pixel, or as NumPy files where they aren't 8-bit RGB.
    """
    with scratch("export") as folder:
        kept: list[Path] = []
        for item in items:
            if len(kept) == PICTURES:
                break
            try:
                picture = inputs.picture(item)
            except DataError:
                continue
            path = Path(folder) / f"{len(kept)}{'.npy' if inputs.unusual else '.png'}"
            kept.append(item if isinstance(item, Path) else path)
            if isinstance(item, np.ndarray) and inputs.unusual:
                np.save(path, item)
            elif isinstance(item, bytes) and inputs.unusual:
                path.write_bytes(item)
            elif not isinstance(item, Path):
                picture.save(path)
        source = "given pictures"
        if not kept:
            source = "generated noise"
            kept = list(_noise(Path(folder), inputs))
        yield [path.resolve() for path in kept], source


def try_out(folder: Path, script: str, model: Model, pictures: Sequence[Path], source: str) -> Trial:
    """Compare an exported folder's predictions with the model's.

    Args:
        folder: of the export.
        script: what predicts in it.
        model: what it was made from.
        pictures: files to predict.
        source: what they are.

    Raises:
        ExportError: it doesn't run, or predicts otherwise.
    """
    _, seen, _ = model.readable(pictures, model.look)
    expected, distances, _ = model.apart(seen)
    told = _predict(folder, pictures, alone=script != "predict_bundle.py")
    if "verdict" in told:
        _compare_verdicts(model, told["probabilities"], distances, told.pop("verdict"))
    differences = {
        way: _compare(model, expected, found, LOOSE if way == "by_timm" else TOLERANCE)
        for way, found in told.items()
    }
    return Trial(len(pictures), source, differences["probabilities"])


def check_runs(folder: Path, model: Model, pictures: Sequence[Path]) -> None:
    """See that an export which may predict a little otherwise runs, and puts out what such a model does.

    Raises:
        ExportError: it doesn't.
    """
    found = _predict(folder, pictures, alone=True)["probabilities"]
    expected = (len(pictures), len(model.target_spec.names))
    if found.shape[:2] != expected or not np.isfinite(found).all():
        raise ExportError(f"The export gives outputs of shape {found.shape}, or none that are finite.")


def _compare(
    model: Model, expected: NDArray[np.float32], found: NDArray[np.float64], allowed: float
) -> float:
    """The largest difference."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        raise ExportError(f"The export gives outputs of shape {found.shape} instead of {expected.shape}.")
    difference, wrong = model.task.disagreement(expected, found, model.target_spec, allowed=allowed)
    if wrong:
        raise ExportError(f"The export and the model disagree: {wrong}.")
    return difference


def _compare_verdicts(
    model: Model,
    decoded: NDArray[np.float64],
    distances: NDArray[np.float32] | None,
    found: NDArray[np.float64],
) -> None:
    """Verdicts must be those that follow from the export's own probabilities and the model's distances."""
    far = None if distances is None else torch.from_numpy(distances)
    rows = torch.from_numpy(decoded.astype(np.float32))
    expected = abstention.verdicts(model.task, rows, far, model.manifest.calibration).numpy()
    close = np.zeros(len(found), bool) if distances is None else abs(distances - 1) < CLOSE
    wrong = int(((found != expected) & ~close).sum())
    if wrong:
        raise ExportError(f"The export and the model disagree on {wrong} of {plural(len(found), 'verdict')}.")


def _predict(folder: Path, pictures: Sequence[Path], *, alone: bool) -> dict[str, NDArray[np.float64]]:
    words = [str(folder.resolve()), "tlsearch" if alone else "", *map(str, pictures)]
    command = [sys.executable, "-c", _RUNNER, *words]
    try:
        # From the folder of the export, so that nothing is imported from where the user stands.
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, cwd=folder, check=False
        )
    except subprocess.TimeoutExpired:
        raise ExportError(
            f"The export took over {SECONDS} s for {plural(len(pictures), 'picture')}."
        ) from None
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        # The last line that names an exception: hints may follow it.
        wrong = next((line for line in reversed(told) if _EXCEPTION.match(line)), told[-1])
        raise ExportError(f"The export can't be run: {wrong}")
    ways = json.loads(done.stdout.splitlines()[-1])
    return {name: np.asarray(rows, dtype=np.float64) for name, rows in ways.items()}


def _noise(folder: Path, inputs: ImageInput) -> Iterator[Path]:
    """Smooth noise of other shapes than the model's, so that resizing and cutting are tried too."""
    rng, size = np.random.default_rng(0), inputs.size
    for number in range(PICTURES):
        height, width = rng.integers(max(2, size // 2), 2 * size, 2)
        if inputs.unusual:
            path = folder / f"noise-{number}.npy"
            small = rng.integers(0, 256, (4, 4, inputs.channels), dtype=np.uint8)
            np.save(path, small.repeat(-(-height // 4), axis=0).repeat(-(-width // 4), axis=1))
            yield path
            continue
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        path = folder / f"noise-{number}.png"
        Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC).save(path)
        yield path
