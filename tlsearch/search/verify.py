"""Run in a process of its own: does a bundle reproduce its validation score from the raw items?

Only then is the test set opened, and the temperature fitted on the validation split. Nothing of the search's
caches is used: items are read, decoded and pushed through the whole model, as they will be when the model is
used.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlsearch.errors import TlsearchError, VerificationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from tlsearch.spec import StudySpec
    from tlsearch.training.sources import Listed

CHUNK = 1024
"""Items held in memory at once."""
LOOK_SECONDS = 0.2
"""How often the measuring process is looked after."""


def verify(
    bundle: Path,
    *,
    spec: Mapping[str, Any],
    metric: str,
    value: float,
    stopping: Callable[[], str] = str,
) -> dict[str, dict[str, float]]:
    """Scores of a bundle on the validation and test splits, measured in a fresh process.

    Args:
        bundle: its folder.
        spec: the study, as `StudySpec.to_json` gives it.
        metric: the study's.
        value: what was recorded for the validation split.
        stopping: why it is to be broken off, or empty.

    Returns:
        ``val`` and, where the data has one, ``test``: metric names to values. ``calibration``: what the
        bundle's description is to say of it.

    Raises:
        VerificationError: the recorded value isn't reproduced, the model doesn't load, or it was broken off.
    """
    request = json.dumps({"bundle": str(bundle), "spec": spec, "metric": metric, "value": value})
    command = [sys.executable, "-m", "tlsearch.search.verify"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        waiting: str | None = request
        while True:
            try:
                output, errors = process.communicate(waiting, timeout=LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                waiting = None  # it was sent
            if stopping():
                process.kill()
    try:
        answer = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        tail = errors.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise VerificationError(f"The model of {bundle} can't be verified: {tail[0]}") from None
    return _scores(bundle, answer)


def _scores(bundle: Path, answer: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What `_answer` told, for the process that asked."""
    if "error" in answer:
        raise VerificationError(f"The model of {bundle} can't be verified: {answer['error']}")
    scores: dict[str, dict[str, float]] = answer["scores"]
    return scores


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    from tlsearch.models import bundle, calibration
    from tlsearch.spec import parse
    from tlsearch.training.objective import task_of

    spec = parse(request["spec"])
    task = task_of(spec)
    metric = task.metric(request["metric"])
    model = bundle.load(Path(request["bundle"]), device="cuda" if torch.cuda.is_available() else "cpu")
    listed, parts = split_items(spec)

    def outputs(name: str) -> tuple[Tensor, Tensor]:
        indices = parts[name].tolist()
        labels, logits = [], []
        for start in range(0, len(indices), CHUNK):
            chunk = indices[start : start + CHUNK]
            kept, values, _ = model.readable([listed.samples.items[index] for index in chunk])
            labels += [listed.samples.labels[chunk[position]] for position in kept]
            logits.append(torch.from_numpy(values))
        return torch.cat(logits), torch.tensor(labels)

    told = outputs("val")
    measured = {"val": dict(task.score(*told, listed.target_spec))}
    value = measured["val"][metric.name]
    if abs(value - request["value"]) > metric.tolerance(len(parts["val"])):
        return {
            "error": f"{metric.name} on the validation split is {value:.6g}, and"
            f" {request['value']:.6g} was recorded"
        }
    fitted = calibration.fit(*told)
    measured["calibration"] = fitted.to_json()
    if len(parts["test"]):
        logits, labels = outputs("test")
        measured["test"] = dict(task.score(logits, labels, listed.target_spec))
        measured["calibration"] |= {
            "test_items": len(labels),
            "test_error_before": calibration.expected_error(logits.softmax(dim=1), labels),
            "test_error_after": calibration.expected_error(
                (logits / fitted.temperature).softmax(dim=1), labels
            ),
        }
    return {"scores": measured}


def split_items(spec: StudySpec) -> tuple[Listed, Mapping[str, NDArray[np.int64]]]:
    """The items of a study's data, and which of them stand in which split; none is decoded.

    Raises:
        InputError: the data isn't there, or isn't what the study says.
    """
    from tlsearch.training import sources
    from tlsearch.training.splits import split

    listed = sources.listing(spec.data, task=spec.task)
    shares = spec.data.split
    parts = split(
        listed.samples, listed.hashes, val=shares.val, test=shares.test, stop=shares.stop, seed=spec.seed
    )
    return listed, parts


if __name__ == "__main__":
    from tlsearch import rare_gc

    try:
        result = _answer(json.load(sys.stdin))
    except TlsearchError as error:
        result = {"error": str(error)}
    print(json.dumps(result))
    rare_gc.spare()
