"""What the process of `verify` does: it measures a bundle on the raw items of a study.

Nothing of the search's caches is used: items are read, decoded and pushed through the whole model, as they
will be when the model is used. They are the very items that the study was prepared with, found by their
content: where some are missing, changed or unreadable, nothing is measured.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlsearch.errors import InputError, StudyConflictError, TlsearchError
from tlsearch.records import StudyItems
from tlsearch.search import mixing, resampling
from tlsearch.search.scored import Scored

if TYPE_CHECKING:
    from torch import Tensor

    from tlsearch.contracts import Metric, Scores, Task
    from tlsearch.models.ensemble import Part
    from tlsearch.models.model import Model
    from tlsearch.spec import AbstainSpec
    from tlsearch.training.listed import Listed

CHUNK = 256
"""Items held in memory at once."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is measured, and on what.

    Attributes:
        model: the bundle's.
        listed: the data.
        items: the study's.
        measured: told how many more items of a split were run through the model.
    """

    model: Model
    listed: Listed
    items: StudyItems
    measured: Callable[[int], None]

    @property
    def mirrors(self) -> bool:
        """Whether mirrored images are looked at besides."""
        return self.listed.mirror and self.model.inputs.modality == "image"


def answer(request: Mapping[str, Any], *, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Answer what `verify` asks.

    Args:
        request: as it was sent.
        progress: told how many items were measured, of how many.

    Returns:
        ``scores``, as `verify` gives them; or ``error``: why the bundle is refused; or ``changed``, with a
        ``hint``: why nothing can be measured.
    """
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
    total = sum(len(items.of(split)) for split in ("val", "test")[: 1 + request["test"]])
    done = 0

    def measured(many: int) -> None:
        nonlocal done
        done += many
        progress(done, total)

    measure = _measured if request.get("mix") is None else _mixed
    try:
        return measure(Asked(model, listed, items, measured), request, spec.abstain)
    except StudyConflictError as error:
        return {"changed": error.message, "hint": error.hint}


def _measured(asked: Asked, request: Mapping[str, Any], abstain: AbstainSpec) -> dict[str, Any]:
    from tlsearch.search import verdicts

    model, listed, items, task = asked.model, asked.listed, asked.items, asked.listed.task
    metric, least = task.metric(request["metric"]), request["least"]
    members = len(request["values"])
    mirrored = asked.mirrors
    scored = _score(asked, "val", members=members, mirrored=mirrored, keep=least is None)
    for number, value in enumerate(request["values"]):
        which = f" of member {number + 1}" if len(request["values"]) > 1 else ""
        if error := _differs(metric, scored.members[number], value, items=scored.items, which=which):
            return {"error": error}
    found: dict[str, Any] = {"val": {**scored.own, **resampling.counted(_groups(asked, "val"))}}
    if least is not None and metric.signed(found["val"][metric.name]) < metric.signed(least):
        return {
            "error": f"{metric.name} is {found['val'][metric.name]:.6g} on validation items that it has"
            f" learned from, below the {least:.6g} to be expected"
        }
    if mirrored:
        flipped, plain = (task.rank(one, metric.name) for one in (scored.mirrored, scored.plain))
        found["flips"] = _worth_twice(flipped, plain)
    # What has learned from these items is surer of them than of others: nothing is fitted to that.
    found["calibration"] = dict(scored.remembered) if least is None else {}
    if scored.kept:
        found["calibration"] |= calibrated(*scored.kept, task, metric.name)
    if task.abstains:
        known = {**model.manifest.calibration, **found["calibration"]}
        found["calibration"] |= verdicts.fitted(model, listed, items, scored, known, abstain)
    if request["test"] and items.of("test"):
        scored = _score(asked, "test", members=0, mirrored=False, keep=True)
        found["test"] = dict(scored.own)
        known = {**model.manifest.calibration, **found["calibration"]}
        if scored.kept:
            # At what was chosen on validation items, where anything was: not at what is best on the test's.
            found["test"] = dict(task.score_calibrated(*scored.kept, model.target_spec, known))
            found["test"] |= resampling.of_scores(model, *scored.kept, known, _groups(asked, "test"))
            found["calibration"] |= task.check_calibration(*scored.kept, known)
            if task.abstains:
                found["calibration"] |= verdicts.checked(model, scored, known)
    return {"scores": found}


def _groups(asked: Asked, split: str) -> list[str] | None:
    """The group of each item of a split, in its order."""
    from tlsearch.training.items import located

    groups = asked.listed.samples.groups
    if groups is None:
        return None
    return [str(groups[index] or "") for index in located(asked.items, asked.listed, split)]


def _differs(metric: Metric, scores: Scores, value: float, *, items: int, which: str) -> str:
    """Why a recorded value isn't reproduced, or empty."""
    found = scores[metric.name]
    if metric.same(found, value, items=items):
        return ""
    return f"{metric.name}{which} on the validation split is {found:.6g}, and {value:.6g} was recorded"


def calibrated(outputs: Tensor, targets: Tensor, task: Task, metric: str) -> dict[str, Any]:
    """What a bundle's description is to say of held-out items' outputs (N, ...)."""
    fitted = dict(task.calibrate(outputs, targets))
    return fitted | dict(task.rebalance(outputs, targets, fitted, metric))


def _mixed(asked: Asked, request: Mapping[str, Any], abstain: AbstainSpec) -> dict[str, Any]:
    """`_measured` of the first member alone, and of what is better when others are averaged with it."""
    import torch

    from tlsearch.models.ensemble import Part, averaged
    from tlsearch.search import verdicts

    model, task, spec, mirrors = asked.model, asked.listed.task, asked.model.target_spec, asked.mirrors
    metric, values = task.metric(request["metric"]), request["values"]
    seen: list[Tensor] | None = [] if task.abstains else None
    told = list(_looks(asked, "val", mirrored=mirrors, seen=seen))
    looks, targets = torch.cat([one for one, _ in told]), torch.cat([one for _, one in told])
    units = resampling.counted(_groups(asked, "val"))
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
        found: dict[str, Any] = {"val": {**plain, **units}}
        if mirrors:
            found["flips"] = _worth_twice(task.rank(both, metric.name), task.rank(plain, metric.name))
        return scored, found | {"calibration": calibrated(outputs, targets, task, metric.name)}

    scored, answer = measured([0], [])
    if task.abstains:
        known = verdicts.fitted(model, asked.listed, asked.items, scored, answer["calibration"], abstain)
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


def _score(asked: Asked, split: str, *, members: int, mirrored: bool, keep: bool) -> Scored:
    """Measure a model on exactly the items of a split, a few at a time.

    Args:
        asked: the model and the items.
        split: of the items.
        members: so many networks are also measured alone.
        mirrored: whether to measure them on mirror images besides.
        keep: whether outputs are kept, where the task calibrates.

    Raises:
        StudyConflictError: some items aren't there as they were, or can't be read.
    """
    import torch

    from tlsearch.models.ensemble import Ensemble, averaged

    model, task, spec = asked.model, asked.model.task, asked.model.target_spec
    parts = model.network.parts if isinstance(model.network, Ensemble) else ()
    flips = model.manifest.flips
    own, plain, both = task.evaluator(spec), task.evaluator(spec), task.evaluator(spec)
    alone = [task.evaluator(spec) for _ in range(members)]
    kept: list[tuple[Tensor, Tensor]] = []
    seen: list[Tensor] | None = [] if keep and task.abstains else None
    count = 0
    for looks, targets in _looks(asked, split, mirrored=mirrored or flips, seen=seen):
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
    asked: Asked, split: str, *, mirrored: bool, seen: list[Tensor] | None = None
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

    model, listed = asked.model, asked.listed
    network = model.network if isinstance(model.network, Ensemble) else Ensemble([model.network])
    indices = located(asked.items, listed, split)
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
        asked.measured(len(chunk))
        if kept and not unreadable:
            told = [listed.plain(chunk[at]) for at in kept]
            yield torch.from_numpy(values), torch.from_numpy(model.task.encode(told, model.target_spec))
    if unreadable:
        raise changed([("unreadable", unreadable)])


def _tell(done: int, total: int) -> None:
    print(json.dumps({"done": done, "total": total}), flush=True)


def _import_ahead(families: Sequence[str]) -> None:
    """What an answer needs and takes seconds to import: here, nobody waits for it yet."""
    import torchvision.transforms.v2  # noqa: F401

    from tlsearch import registry
    from tlsearch.models import bundle  # noqa: F401
    from tlsearch.training import sources  # noqa: F401

    for family in families:
        with contextlib.suppress(TlsearchError):  # whoever asks is told
            registry.backbone_family(family)


def _main() -> None:
    """Answer what the files hold whose names come line by line, until no more do."""
    for line in sys.stdin:
        try:
            asked = json.loads(Path(json.loads(line)).read_text(encoding="utf-8"))
            result = answer(asked, progress=_tell)
        except TlsearchError as error:
            result = {"error": str(error)}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    from tlsearch import gc_tuning

    _import_ahead(sys.argv[1:])
    _main()
    gc_tuning.spare()
