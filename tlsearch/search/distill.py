"""A single small network that answers as a study's model does, as a bundle like any other.

It is trained twice. First without the validation items, which then tell how good it is, and set its
temperature and what it is unsure by; then, with the same recipe, on all items but the test split's, as a
study's winner is.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tlsearch import registry
from tlsearch.contracts import BackboneInfo, Task
from tlsearch.contracts.combination import members_of
from tlsearch.database.store import Store
from tlsearch.errors import InputError, SearchError, TrialError, VerificationError
from tlsearch.files import cache_folder, scratch
from tlsearch.models import abstention, bundle
from tlsearch.models.model import Model
from tlsearch.models.rebuild import rebuild
from tlsearch.records import (
    CUT_SHORT,
    HANDED_OUT,
    Outcome,
    Params,
    Point,
    StudyRecord,
    TrialRecord,
    TrialRole,
    TrialState,
)
from tlsearch.search import model_files, setup
from tlsearch.search.progress import Observer, Snapshot, silent
from tlsearch.search.refit import floor
from tlsearch.search.registration import begun_with
from tlsearch.search.verify import verify
from tlsearch.spec import DataSpec, StudySpec, parse
from tlsearch.spec.sections import BACKBONE_SHAPE
from tlsearch.training.distillation import STRATEGY, Distilling, TaughtWorkspace
from tlsearch.training.gradient_trials import train

LONGER = 2.0
"""A student trains so many times as long as a trial would: it is given more to learn (Beyer et al. 2022)."""
VIEWS = 8
"""Augmented views of the items at least, at each of which the teacher looks once."""


def distill(
    study: str,
    teacher: Model,
    *,
    database: str,
    folder: Path,
    backbone: str | None = None,
    weights: str | None = None,
    minutes: float | None = None,
    observe: Observer = silent,
) -> Model:
    """Train a student of a study's model and write it as a bundle.

    Args:
        study: its name.
        teacher: its model.
        database: URL of the study database.
        folder: where the bundle goes.
        backbone: of the student; None takes the study's smallest.
        weights: what it starts from; None takes the study's for that backbone, or pretrained ones.
        minutes: in all; None lets both trainings take what they need.
        observe: told how it goes.

    Raises:
        InputError: the task has no loss by a teacher's outputs, the backbone or its weights can't be had, or
            the study's data isn't there as it was.
        WorkError: the student can't be trained, or doesn't reproduce its score.
    """
    deadline = time.time() + 60 * minutes if minutes is not None else math.inf
    if type(teacher.task).distillation is Task.distillation:
        raise InputError(
            f"A model of task {teacher.manifest.task} can't be distilled: the task doesn't compare outputs "
            "with a teacher's.",
            hint="`tlsearch export --precision int8` makes any model smaller.",
        )
    with Store.open(database) as store:
        record = store.study(study)
        tried = store.trials(
            study,
            states=[TrialState.COMPLETE],
            strategy=STRATEGY,
            role=TrialRole.SEARCH,
            sort="value",
            descending=record.direction == "maximize",
        )
    spec = _spec(record, backbone, weights)
    threads, cache = max(1, len(os.sched_getaffinity(0))), cache_folder()
    prepared = setup.prepare(
        spec, cache=cache, threads=threads, observe=observe, begun=begun_with(spec, database)
    )
    with scratch("distill") as made:
        cuda = torch.cuda.is_available()
        config = setup.assign(prepared, cache=cache, artifacts=made, threads=threads, cuda=cuda)
        workspace = TaughtWorkspace(config, teacher=teacher.network, teacher_inputs=teacher.inputs)
        if teacher.manifest.members == 1 and teacher.manifest.backbone == prepared.backbones[0].name:
            told = f"the model of {study} is one network on {teacher.manifest.backbone}, as the student is"
            observe(Snapshot(phase="train the student", note=f"{told}: --backbone takes a smaller one"))
        student = _Student(prepared, workspace, teacher, _params(tried, prepared.backbones[0]), observe)
        return student.written(folder, deadline)


def _spec(record: StudyRecord, backbone: str | None, weights: str | None) -> StudySpec:
    """The study with the student's backbone alone."""
    own = parse(record.spec)
    known = {one.name: one.weights for one in own.backbones}
    if backbone is not None and not re.fullmatch(BACKBONE_SHAPE, backbone):
        meant = registry.families_of(backbone)
        raise InputError(
            f'backbone "{backbone}" is no name such as efficientnet_lite/lite0.'
            + (f' Did you mean "{meant[0]}"?' if meant else ""),
            hint="The option --backbone takes a family and a variant; `tlsearch backbones` lists them.",
        )
    name = backbone or _smallest(list(known), own.data)
    described = {
        **record.spec,
        "backbones": [{"name": name, "weights": weights or known.get(name, "pretrained")}],
        "strategies": [STRATEGY],
        "space": {},
        "search": {**own.to_json()["search"], "views": max(VIEWS, own.search.views or 0)},
    }
    return parse(described)


def _smallest(names: list[str], data: DataSpec) -> str:
    if len(names) == 1:
        return names[0]
    # Weights don't matter to operations.
    infos = [
        registry.backbone(name, weights="random", image_size=data.image_size, pixels=data.pixels).info
        for name in names
    ]
    return min(infos, key=lambda info: info.flops).name


def _params(tried: list[TrialRecord], backbone: BackboneInfo) -> Params:
    """Those of the study's best such trial on that backbone, else the default; always with augmentation.

    The teacher knows the very training items too well: it teaches most on others that are like them.
    """
    found = [one.params for one in tried if one.backbone == backbone.name and not members_of(one.params)]
    params = dict(found[0] if found else registry.strategy(STRATEGY).default(backbone))
    if params["augmentation"] in ("none", "mixup") and "light" in backbone.inputs.policies:
        params["augmentation"] = "light"
    length = params.get("length", 1.0)
    assert isinstance(length, int | float)
    return {**params, "length": LONGER * length}


@dataclass
class _Student:
    """A student in the making.

    Attributes:
        prepared: the study, with its backbone alone.
        workspace: in which it is trained.
        teacher: the study's model.
        params: hyperparameters.
        observe: told how it goes.
        looked: seconds that it took to verify it.
    """

    prepared: setup.Prepared
    workspace: TaughtWorkspace
    teacher: Model
    params: Params
    observe: Observer
    looked: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.made = Path(self.workspace.assignment.artifacts)
        self.metric = self.prepared.metric.name

    def written(self, folder: Path, deadline: float) -> Model:
        """Train it twice, verify it, write it."""
        point = Point(
            number=0,
            backbone=self.prepared.backbones[0].name,
            strategy=STRATEGY,
            params=self.params,
            seed=self.prepared.spec.seed,
        )
        now = time.time()
        first = self._trained(point, now + (deadline - now) / 2, phase="train the student")
        if first.reason.startswith(CUT_SHORT):
            note = f"There was little time to train the student ({first.reason}): give it more --minutes."
            self.observe(Snapshot(phase="train the student", note=note))
        place = self.made / "first"
        before = self._verified(place, first, {}, test=False)
        again = replace(point, number=1, role=TrialRole.REFIT)
        refit = self._trained(again, deadline - 2 * self.looked, phase="train it on all labels")
        counts = self.prepared.dataset.counts
        least = floor(before["val"][self.metric], items=counts["val"], metric=self.prepared.metric)
        has_test = bool(counts.get("test"))
        try:
            if refit.reason.startswith(CUT_SHORT):
                raise VerificationError("there was no time to train it")
            chosen, place = refit, self.made / "refit"
            after = self._verified(place, refit, before["calibration"], test=has_test, least=least)
        except VerificationError as error:
            note = f"The student that learned from all labels is left out: {error.message}"
            self.observe(Snapshot(phase="verify the student", note=note))
            chosen, place = first, self.made / "first"
            after = self._verified(place, first, {}, test=has_test)
        told = {"refitted": float(chosen is refit), "members": 1.0}
        if chosen is refit:
            told[f"{self.metric}_on_learned_validation_items"] = after["val"][self.metric]
        metrics = {"val": before["val"], HANDED_OUT: told}
        metrics |= {"test": after["test"]} if "test" in after else {}
        calibration = {**before["calibration"], **after["calibration"]}
        self._write(folder, chosen, metrics, calibration, beside=abstention.saved(place))
        return bundle.load(folder)

    def _trained(self, point: Point, deadline: float, *, phase: str) -> Outcome:
        self.workspace.deadline = deadline
        for (result,) in train(self.workspace, Distilling(), point, deadline=deadline):
            self.observe(Snapshot(phase=phase, done=result.epoch, total=result.epochs))
            if result.outcome is not None:
                return result.outcome
        raise TrialError("the student's training had no end")

    def _verified(
        self,
        place: Path,
        outcome: Outcome,
        calibration: Mapping[str, Any],
        *,
        test: bool,
        least: float | None = None,
    ) -> dict[str, Any]:
        """Scores from a fresh process, which reads the bundle at the place."""
        self.observe(Snapshot(phase="verify the student"))
        self._write(place, outcome, {"val": dict(outcome.metrics)}, calibration)
        began = time.time()
        found = verify(
            place,
            spec=self.prepared.spec.to_json(),
            items=self.prepared.items,
            metric=self.metric,
            values=[outcome.value],
            test=test,
            least=least,
            progress=lambda done, total: self.observe(
                Snapshot(phase="verify the student", done=done, total=total or None)
            ),
        )
        self.looked = time.time() - began
        return found

    def _write(
        self,
        place: Path,
        outcome: Outcome,
        metrics: Mapping[str, Mapping[str, float]],
        calibration: Mapping[str, Any],
        beside: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write the bundle of a training's weights."""
        prepared, taught_by = self.prepared, self.teacher.manifest
        (described,) = prepared.spec.backbones
        if outcome.artifact is None:
            raise SearchError("the student's weights weren't kept")
        network = rebuild(
            backbone=described.name,
            weights=described.weights,
            image_size=prepared.spec.data.image_size,
            pixels=prepared.spec.data.pixels,
            strategy=STRATEGY,
            params=self.params,
            task=prepared.task,
            spec=prepared.target_spec,
            state=load_file(outcome.artifact.uri),
        )
        manifest = {
            **model_files.of_study(prepared, described.name),
            "strategy": STRATEGY,
            "params": dict(self.params),
            "metrics": {split: dict(scores) for split, scores in metrics.items()},
            "calibration": dict(calibration),
            "trained_on": ["train"],
            "provenance": {
                "study": prepared.spec.study,
                "distilled_from": {
                    "backbone": taught_by.backbone,
                    "members": taught_by.members,
                    "sha256": taught_by.sha256,
                },
                "seed": prepared.spec.seed,
                **model_files.made_with(prepared),
            },
        }
        if metrics.get(HANDED_OUT, {}).get("refitted"):
            manifest["trained_on"] = ["train", "stop", "val"]
        bundle.write(place, network=network, manifest=manifest, beside=beside)
