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
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlsearch.errors import (
    InputError,
    SearchError,
    StudyConflictError,
    TlsearchError,
    VerificationError,
)
from tlsearch.files import temporary_folder
from tlsearch.records import StudyItems
from tlsearch.search import mixing, resampling
from tlsearch.search.scored import Scored

if TYPE_CHECKING:
    from torch import Tensor

    from tlsearch.contracts import Metric, Scores, Task
    from tlsearch.models.model import Model
    from tlsearch.spec import AbstainSpec
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
    values: Sequence[float | None],
    test: bool,
    least: float | None = None,
    mix: Sequence[int] | None = None,
    stopping: Callable[[], str] = str,
) -> dict[str, Any]:
    """Scores of a bundle on the validation split, and on the test split if asked, from a fresh process.

    Args:
        bundle: its folder.
        spec: the study, as `StudySpec.to_json` gives it.
        items: of the study's data, as `Prepared.items` and `Store.items` have them.
        metric: the study's.
        values: what was recorded of each member for the validation split.
        test: whether to open the test split, after all else was found to be right.
        least: the metric that the whole model must reach on the validation split.
        mix: the members are finalists, the winner first, and these positions those that are likely to gain
            most by a refit. All but ``mix`` of what is returned is then of the winner alone.
        stopping: why it is to be broken off, or empty.

    Returns:
        ``val`` and, where it was opened, ``test``: metric names to values; with ``_low`` and ``_high`` at the
        end of a name, the ends of a test score's 95% interval; and ``groups``, in how many of these the
        split's items come, where they do. ``calibration``: what the bundle's
        description is to say of it; the features that its verdicts go by lie beside the bundle then, as
        `abstention.saved` finds them. ``flips``: whether mirrored images besides make it better. ``mix``,
        where the mean of several finalists is better than the winner: ``members``, their positions, and
        ``scales``, with ``val``, ``calibration`` and ``flips`` of that mean. ``left_out``: positions of
        finalists whose value isn't reproduced, and why.

    Raises:
        VerificationError: a recorded value isn't reproduced or the least one isn't reached, and the test
            split is closed; or the model doesn't load, or it was broken off.
        SearchError: the items aren't there as they were, so that no model can be verified.
    """
    question = {
        "metric": metric,
        "values": list(values),
        "test": test,
        "least": least,
        "mix": None if mix is None else list(mix),
    }
    request = json.dumps({"bundle": str(bundle), "spec": spec, **question, "items": items.to_json()})
    command = [sys.executable, "-m", "tlsearch.search.verify"]
    pipe = subprocess.PIPE
    # A file, as `communicate` drops what it couldn't write into a pipe before its time was out.
    with tempfile.TemporaryFile("w+", encoding="utf-8", dir=temporary_folder()) as asked:
        asked.write(request)
        asked.seek(0)
        with subprocess.Popen(command, stdin=asked, stdout=pipe, stderr=pipe, text=True) as process:
            while True:
                try:
                    output, errors = process.communicate(timeout=LOOK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
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
    if "changed" in answer:
        raise SearchError(f"The model can't be verified. {answer['changed']}", hint=answer["hint"])
    if "error" in answer:
        raise VerificationError(f"The model of {bundle} can't be verified: {answer['error']}")
    scores: dict[str, Any] = answer["scores"]
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
    try:
        measure = _measured if request.get("mix") is None else _mixed
        return measure(model, listed, StudyItems.from_json(request["items"]), request, spec.abstain)
    except StudyConflictError as error:
        return {"changed": error.message, "hint": error.hint}


def _measured(
    model: Model, listed: Listed, items: StudyItems, request: Mapping[str, Any], abstain: AbstainSpec
) -> dict[str, Any]:
    from tlsearch.search import verdicts

    task = listed.task
    metric, least = task.metric(request["metric"]), request["least"]
    mirrors = listed.mirror and model.inputs.modality == "image"
    members = len(request["values"])
    scored = _score(model, listed, items, "val", members=members, mirrored=mirrors, keep=least is None)
    for number, value in enumerate(request["values"]):
        which = f" of member {number + 1}" if len(request["values"]) > 1 else ""
        if error := _differs(metric, scored.members[number], value, items=scored.items, which=which):
            return {"error": error}
    measured: dict[str, Any] = {"val": {**scored.own, **resampling.counted(_groups(listed, items, "val"))}}
    if least is not None and metric.signed(measured["val"][metric.name]) < metric.signed(least):
        return {
            "error": f"{metric.name} is {measured['val'][metric.name]:.6g} on validation items that it has"
            f" learned from, below the {least:.6g} to be expected"
        }
    if mirrors:
        flipped, plain = (task.rank(one, metric.name) for one in (scored.mirrored, scored.plain))
        measured["flips"] = _worth_twice(flipped, plain)
    # What has learned from these items is surer of them than of others: nothing is fitted to that.
    measured["calibration"] = dict(scored.remembered) if least is None else {}
    if scored.kept:
        measured["calibration"] |= _calibrated(*scored.kept, task, metric.name)
    if task.abstains:
        known = {**model.manifest.calibration, **measured["calibration"]}
        measured["calibration"] |= verdicts.fitted(model, listed, items, scored, known, abstain)
    if request["test"] and items.of("test"):
        scored = _score(model, listed, items, "test", members=0, mirrored=False, keep=True)
        measured["test"] = dict(scored.own)
        known = {**model.manifest.calibration, **measured["calibration"]}
        if scored.kept:
            # At what was chosen on validation items, where anything was: not at what is best on the test's.
            measured["test"] = dict(task.score_calibrated(*scored.kept, model.target_spec, known))
            groups = _groups(listed, items, "test")
            measured["test"] |= resampling.of_scores(model, *scored.kept, known, groups)
            measured["calibration"] |= task.check_calibration(*scored.kept, known)
            if task.abstains:
                measured["calibration"] |= verdicts.checked(model, scored, known)
    return {"scores": measured}


def _groups(listed: Listed, items: StudyItems, split: str) -> list[str] | None:
    """The group of each item of a split, in its order."""
    from tlsearch.training.items import located

    groups = listed.samples.groups
    return None if groups is None else [str(groups[index] or "") for index in located(items, listed, split)]


def _differs(metric: Metric, scores: Scores, value: float, *, items: int, which: str) -> str:
    """Why a recorded value isn't reproduced, or empty."""
    found = scores[metric.name]
    if metric.same(found, value, items=items):
        return ""
    return f"{metric.name}{which} on the validation split is {found:.6g}, and {value:.6g} was recorded"


def _calibrated(outputs: Tensor, targets: Tensor, task: Task, metric: str) -> dict[str, Any]:
    """What a bundle's description is to say of held-out items' outputs (N, ...)."""
    fitted = dict(task.calibrate(outputs, targets))
    return fitted | dict(task.rebalance(outputs, targets, fitted, metric))


def _mixed(
    model: Model, listed: Listed, items: StudyItems, request: Mapping[str, Any], abstain: AbstainSpec
) -> dict[str, Any]:
    """`_measured` of the first member alone, and of what is better when others are averaged with it."""
    import torch

    from tlsearch.models.ensemble import Part, averaged
    from tlsearch.search import verdicts

    task, spec = listed.task, model.target_spec
    metric, values = task.metric(request["metric"]), request["values"]
    mirrors = listed.mirror and model.inputs.modality == "image"
    seen: list[Tensor] | None = [] if task.abstains else None
    told = list(_looks(model, listed, items, "val", mirrored=mirrors, seen=seen))
    looks, targets = torch.cat([one for one, _ in told]), torch.cat([one for _, one in told])
    errors = [
        _differs(metric, task.score(looks[:, 0, at], targets, spec), value, items=len(targets), which="")
        for at, value in enumerate(values)
    ]
    if errors[0]:
        return {"error": errors[0]}

    def measured(positions: Sequence[int], parts: Sequence[Part]) -> tuple[Scored, dict[str, Any]]:
        own = looks[:, :, list(positions)]
        outputs = averaged(own[:, :1], task, parts)
        plain = task.score(outputs, targets, spec)
        both = task.score(averaged(own, task, parts), targets, spec) if mirrors else {}
        features = torch.cat(seen) if seen else None  # of the first member, which all means begin with
        scored = Scored(len(targets), plain, [], plain, both, (outputs, targets), {}, features)
        found: dict[str, Any] = {"val": {**plain, **resampling.counted(_groups(listed, items, "val"))}}
        if mirrors:
            found["flips"] = _worth_twice(task.rank(both, metric.name), task.rank(plain, metric.name))
        return scored, found | {"calibration": _calibrated(outputs, targets, task, metric.name)}

    scored, answer = measured([0], [])
    if task.abstains:
        known = verdicts.fitted(model, listed, items, scored, answer["calibration"], abstain)
        answer["calibration"] |= known
    answer["left_out"] = {at: error for at, error in enumerate(errors) if error}
    able = [at for at, error in enumerate(errors) if not error]
    welcome = [place for place, at in enumerate(able) if at in request["mix"]]
    chosen = mixing.choose([looks[:, 0, at] for at in able], targets, task, welcome=welcome)
    if len(chosen) > 1:
        positions = [able[one.position] for one in chosen]
        scales = [one.scale for one in chosen]
        scored, mean = measured(positions, [Part(1, scale) for scale in scales])
        if task.abstains:
            mean["calibration"] |= verdicts.of_mean(model, scored, mean["calibration"], abstain, alone=known)
        answer["mix"] = {"members": positions, "scales": scales, **mean}
    return {"scores": answer}


def _worth_twice(flipped: tuple[float, float], plain: tuple[float, float]) -> bool:
    """Whether mirrored images, which cost as much again, are better by the metric and its tie breaker."""
    return flipped[0] > plain[0] and flipped[1] > plain[1]


def _score(
    model: Model,
    listed: Listed,
    items: StudyItems,
    split: str,
    *,
    members: int,
    mirrored: bool,
    keep: bool,
) -> Scored:
    """Measure a model on exactly the items of a split, a few at a time.

    Args:
        model: the bundle's.
        listed: the data.
        items: the study's.
        split: of the items.
        members: so many networks are also measured alone.
        mirrored: whether to measure them on mirror images besides.
        keep: whether outputs are kept, where the task calibrates.

    Raises:
        StudyConflictError: some items aren't there as they were, or can't be read.
    """
    import torch

    from tlsearch.models.ensemble import Ensemble, averaged

    parts = model.network.parts if isinstance(model.network, Ensemble) else ()
    task, spec, flips = model.task, model.target_spec, model.manifest.flips
    own, plain, both = task.evaluator(spec), task.evaluator(spec), task.evaluator(spec)
    alone = [task.evaluator(spec) for _ in range(members)]
    kept: list[tuple[Tensor, Tensor]] = []
    seen: list[Tensor] | None = [] if keep and task.abstains else None
    count = 0
    for looks, targets in _looks(model, listed, items, split, mirrored=mirrored or flips, seen=seen):
        outputs = averaged(looks[:, : 1 + flips], task, parts)
        own.update(outputs, targets)
        for number, evaluator in enumerate(alone):
            evaluator.update(looks[:, 0, number], targets)
        if mirrored:
            plain.update(averaged(looks[:, :1], task, parts), targets)
            both.update(averaged(looks, task, parts), targets)
        if keep and task.calibrates:
            kept.append((outputs, targets))
        count += len(targets)
    outputs_of, targets_of = zip(*kept, strict=True) if kept else ((), ())
    return Scored(
        items=count,
        own=own.compute(),
        members=[evaluator.compute() for evaluator in alone],
        plain=plain.compute() if mirrored else {},
        mirrored=both.compute() if mirrored else {},
        kept=(torch.cat(outputs_of), torch.cat(targets_of)) if kept else None,
        remembered=own.calibration(),
        features=torch.cat(seen) if seen else None,
    )


def _looks(
    model: Model,
    listed: Listed,
    items: StudyItems,
    split: str,
    *,
    mirrored: bool,
    seen: list[Tensor] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs (n, looks, members, ...) and targets (n, ...) of exactly the items of a split, a few at a time.

    Features of the same items go into ``seen``, where it is given.

    Raises:
        StudyConflictError: some aren't there as they were, or, at the end, can't be read.
    """
    import torch

    from tlsearch.models.abstention import with_features
    from tlsearch.models.ensemble import Ensemble
    from tlsearch.training.items import changed, located

    network = model.network if isinstance(model.network, Ensemble) else Ensemble([model.network])
    indices = located(items, listed, split)
    unreadable: list[str] = []
    chunk_size = min(CHUNK, model.task.at_once)

    def run(inputs: Tensor) -> Tensor:
        looks = partial(network.looks, mirrored=mirrored)
        if seen is None:
            return looks(inputs)
        outputs, features = with_features(network, looks, inputs)
        seen.append(features.float().cpu())
        return outputs

    for start in range(0, len(indices), chunk_size):
        chunk = indices[start : start + chunk_size]
        kept, values, errors = model.readable([listed.samples.items[index] for index in chunk], run)
        unreadable += [str(listed.samples.names[chunk[at]]) for at in sorted(errors)]
        if kept and not unreadable:
            told = [listed.plain(chunk[at]) for at in kept]
            yield torch.from_numpy(values), torch.from_numpy(model.task.encode(told, model.target_spec))
    if unreadable:
        raise changed([("unreadable", unreadable)])


if __name__ == "__main__":
    from tlsearch import gc_tuning

    try:
        result = _answer(json.load(sys.stdin))
    except TlsearchError as error:
        result = {"error": str(error)}
    print(json.dumps(result))
    gc_tuning.spare()
