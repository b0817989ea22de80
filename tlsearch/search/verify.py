"""Run in a process of its own: does a bundle reproduce its validation score from the raw items?

Only then is the test set opened, and the temperature fitted on the validation split. Nothing of the search's
caches is used: items are read, decoded and pushed through the whole model, as they will be when the model is
used. They are the very items that the study was prepared with, found by their content: where some are
missing, changed or unreadable, nothing is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlsearch.errors import (
    InputError,
    SearchError,
    StudyConflictError,
    TlsearchError,
    VerificationError,
)
from tlsearch.records import StudyItems

if TYPE_CHECKING:
    from torch import Tensor

    from tlsearch.models.bundle import Model
    from tlsearch.training.sources import Listed

CHUNK = 1024
"""Items held in memory at once."""
LOOK_SECONDS = 0.2
"""How often the measuring process is looked after."""


def verify(
    bundle: Path,
    *,
    spec: Mapping[str, Any],
    items: StudyItems,
    metric: str,
    value: float,
    stopping: Callable[[], str] = str,
) -> dict[str, dict[str, float]]:
    """Scores of a bundle on the validation and test splits, measured in a fresh process.

    Args:
        bundle: its folder.
        spec: the study, as `StudySpec.to_json` gives it.
        items: of the study's data, as `Prepared.items` and `Store.items` have them.
        metric: the study's.
        value: what was recorded for the validation split.
        stopping: why it is to be broken off, or empty.

    Returns:
        ``val`` and, where the data has one, ``test``: metric names to values. ``calibration``: what the
        bundle's description is to say of it.

    Raises:
        VerificationError: the recorded value isn't reproduced, the model doesn't load, or it was broken off.
        SearchError: the items aren't there as they were, so that no model can be verified.
    """
    question = {"bundle": str(bundle), "spec": spec, "metric": metric, "value": value}
    request = json.dumps({**question, "items": items.to_json()})
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
    if "changed" in answer:
        raise SearchError(f"The model can't be verified. {answer['changed']}", hint=answer["hint"])
    if "error" in answer:
        raise VerificationError(f"The model of {bundle} can't be verified: {answer['error']}")
    scores: dict[str, dict[str, float]] = answer["scores"]
    return scores


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    from tlsearch.models import bundle
    from tlsearch.spec import parse
    from tlsearch.training import sources

    spec = parse(request["spec"])
    model = bundle.load(Path(request["bundle"]), device="cuda" if torch.cuda.is_available() else "cpu")
    try:
        listed = sources.listing(spec.data, task=spec.task)
    except InputError as error:
        return {"changed": f"The data can't be listed any more: {error.message}", "hint": error.hint}
    items = StudyItems.from_json(request["items"])
    try:
        return _measured(model, listed, items, metric=request["metric"], value=request["value"])
    except StudyConflictError as error:
        return {"changed": error.message, "hint": error.hint}


def _measured(
    model: Model, listed: Listed, items: StudyItems, *, metric: str, value: float
) -> dict[str, Any]:
    from tlsearch.models import calibration

    task, spec = listed.task, listed.target_spec
    told = _outputs(model, listed, items, "val")
    measured = {"val": dict(task.score(*told, spec))}
    found = measured["val"][metric]
    if abs(found - value) > task.metric(metric).tolerance(len(told[1])):
        return {"error": f"{metric} on the validation split is {found:.6g}, and {value:.6g} was recorded"}
    fitted = calibration.fit(*told)
    measured["calibration"] = fitted.to_json()
    if items.of("test"):
        logits, labels = _outputs(model, listed, items, "test")
        measured["test"] = dict(task.score(logits, labels, spec))
        measured["calibration"] |= {
            "test_items": len(labels),
            "test_error_before": calibration.expected_error(logits.softmax(dim=1), labels),
            "test_error_after": calibration.expected_error(
                (logits / fitted.temperature).softmax(dim=1), labels
            ),
        }
    return {"scores": measured}


def _outputs(model: Model, listed: Listed, items: StudyItems, split: str) -> tuple[Tensor, Tensor]:
    """Outputs (N, ...) and targets (N, ...) of exactly the items of a split.

    Raises:
        StudyConflictError: some aren't there as they were, or can't be read.
    """
    import torch

    from tlsearch.training.items import changed, located

    indices = located(items, listed, split)
    logits, unreadable = [], []
    for start in range(0, len(indices), CHUNK):
        chunk = indices[start : start + CHUNK]
        _, values, errors = model.readable([listed.samples.items[index] for index in chunk])
        logits.append(torch.from_numpy(values))
        unreadable += [str(listed.samples.names[chunk[at]]) for at in sorted(errors)]
    if unreadable:
        raise changed([("unreadable", unreadable)])
    targets = model.task.encode([listed.plain(index) for index in indices], model.target_spec)
    return torch.cat(logits), torch.from_numpy(targets)


if __name__ == "__main__":
    from tlsearch import rare_gc

    try:
        result = _answer(json.load(sys.stdin))
    except TlsearchError as error:
        result = {"error": str(error)}
    print(json.dumps(result))
    rare_gc.spare()
