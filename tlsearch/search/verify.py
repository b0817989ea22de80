"""Run in a process of its own: does a bundle reproduce its validation score from the raw items?

Only then is the test set opened, and the temperature fitted on the validation split. Nothing of the search's
caches is used: items are read, decoded and pushed through the whole model, as they will be when the model is
used.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
    values: Sequence[float | None],
    test: bool,
    least: float | None = None,
    stopping: Callable[[], str] = str,
) -> dict[str, Any]:
    """Scores of a bundle on the validation split, and on the test split if asked, from a fresh process.

    Args:
        bundle: its folder.
        spec: the study, as `StudySpec.to_json` gives it.
        metric: the study's.
        values: what was recorded of each member for the validation split.
        test: whether to open the test split, after all else was found to be right.
        least: the metric that the whole model must reach on the validation split.
        stopping: why it is to be broken off, or empty.

    Returns:
        ``val`` and, where it was opened, ``test``: metric names to values. ``calibration``: what the bundle's
        description is to say of it. ``flips``: whether mirrored images besides make it better.

    Raises:
        VerificationError: a recorded value isn't reproduced or the least one isn't reached, and the test
            split is closed; or the model doesn't load, or it was broken off.
    """
    question = {"metric": metric, "values": list(values), "test": test, "least": least}
    request = json.dumps({"bundle": str(bundle), "spec": spec, **question})
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


def _scores(bundle: Path, answer: Mapping[str, Any]) -> dict[str, Any]:
    """What `_answer` told, for the process that asked."""
    if "error" in answer:
        raise VerificationError(f"The model of {bundle} can't be verified: {answer['error']}")
    scores: dict[str, Any] = answer["scores"]
    return scores


def tolerance(metric: str, count: int) -> float:
    """How far a reproduced score may be off: rounding may turn one item, and shifts a loss a little."""
    return 1e-3 if metric == "log_loss" else 1.5 / max(1, count)


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    from tlsearch.metrics import MINIMIZED, score
    from tlsearch.models import bundle, calibration
    from tlsearch.models.ensemble import Ensemble, averaged
    from tlsearch.spec import parse

    spec = parse(request["spec"])
    model = bundle.load(Path(request["bundle"]), device="cuda" if torch.cuda.is_available() else "cpu")
    listed, parts = split_items(spec)
    metric, network = request["metric"], model.network
    ensemble = network if isinstance(network, Ensemble) else Ensemble([network])
    mirrors = listed.mirror and model.inputs.modality == "image"

    def outputs(name: str, *, mirrored: bool) -> tuple[Tensor, Tensor]:
        """Logits (N, looks, members, classes) and labels (N,)."""
        indices = parts[name].tolist()
        labels, logits = [], []
        for start in range(0, len(indices), CHUNK):
            chunk = indices[start : start + CHUNK]
            looks = partial(ensemble.looks, mirrored=mirrored)
            kept, values, _ = model.readable([listed.samples.items[index] for index in chunk], looks)
            labels += [listed.samples.labels[chunk[position]] for position in kept]
            logits.append(torch.from_numpy(values))
        return torch.cat(logits), torch.tensor(labels)

    told, labels = outputs("val", mirrored=mirrors or ensemble.flips)
    off = tolerance(metric, len(parts["val"]))
    for number, value in enumerate(request["values"]):
        found = score(told[:, 0, number], labels)[metric]
        if abs(found - value) > off:
            which = f" of member {number + 1}" if len(request["values"]) > 1 else ""
            return {
                "error": f"{metric}{which} on the validation split is {found:.6g}, "
                f"and {value:.6g} was recorded"
            }
    looks = 1 + ensemble.flips
    own = averaged(told[:, :looks])
    measured: dict[str, Any] = {"val": dict(score(own, labels))}
    least, reached = request["least"], measured["val"][metric]
    if least is not None and (reached > least if metric in MINIMIZED else reached < least):
        return {
            "error": f"{metric} is {reached:.6g} on validation items that it has learned from, "
            f"and {least:.6g} is the least to be expected"
        }
    if mirrors:
        measured["flips"] = _better(
            score(averaged(told), labels), score(averaged(told[:, :1]), labels), metric
        )
    fitted = calibration.fit(own, labels)
    measured["calibration"] = {} if least is not None else fitted.to_json()
    if request["test"] and len(parts["test"]):
        logits, labels = outputs("test", mirrored=ensemble.flips)
        own = averaged(logits)
        measured["test"] = dict(score(own, labels))
        temperature = fitted.temperature if least is None else model.temperature
        measured["calibration"] |= {
            "test_items": len(labels),
            "test_error_before": calibration.expected_error(own.softmax(dim=1), labels),
            "test_error_after": calibration.expected_error((own / temperature).softmax(dim=1), labels),
        }
    return {"scores": measured}


def _better(one: Mapping[str, float], other: Mapping[str, float], metric: str) -> bool:
    """Whether a model is worth twice the work: not worse by the metric, and surer of what is right."""
    from tlsearch.metrics import rank

    return rank(one, metric)[0] >= rank(other, metric)[0] and one["log_loss"] < other["log_loss"]


def split_items(spec: StudySpec) -> tuple[Listed, Mapping[str, NDArray[np.int64]]]:
    """The items of a study's data, and which of them stand in which split; none is decoded.

    Raises:
        InputError: the data isn't there, or isn't what the study says.
    """
    from tlsearch.training import sources
    from tlsearch.training.splits import split

    listed = sources.listing(spec.data)
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
