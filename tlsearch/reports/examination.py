"""A study's model looked at closely on the validation split: what it confuses, how sure it is, how fast.

The test set stays closed: its scores are those that were recorded when the search opened it, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tlsearch.contracts import Figure, InputSpec, LinearRecipe, MapTask, PlaceTask
from tlsearch.contracts.images import ImageInput
from tlsearch.contracts.verdict import ABSTENTION
from tlsearch.errors import BundleError, DataError
from tlsearch.models import bundle, explanation
from tlsearch.models.abstaining import risk_coverage
from tlsearch.models.model import Model
from tlsearch.models.rebuild import of_trial, started_from
from tlsearch.records import ModelRecord, StudyItems, StudyRecord, TrialRecord
from tlsearch.reports.formatting import target as target_words
from tlsearch.reports.latency import milliseconds
from tlsearch.reports.pictures import THUMBNAIL, data_url, fitted
from tlsearch.reports.preprocessed import Overview, overview
from tlsearch.reports.telling import surest, telling
from tlsearch.search.measuring import calibrated
from tlsearch.spec import StudySpec, parse
from tlsearch.training import sources
from tlsearch.training.items import as_split, located
from tlsearch.training.listed import Listed

CHUNK = 512
"""Items held in memory at once."""
MISTAKES = 18
"""Pictures shown."""
BEST = 6
"""Of them, maps that are met best."""
SHOWN = 288
"""Longest side of a picture with a map on it, in pixels."""
MEASURED = 60
"""Pictures whose shape is looked at."""
BINS = 10
"""Of the reliability diagram."""
TEXT = 300
"""Characters shown of an item that is no picture."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One item that the model got wrong, or right by a hair. ``picture`` is a data URL, or empty."""

    name: str
    actual: str
    predicted: str
    probability: float
    probability_of_actual: float
    picture: str
    text: str

    @property
    def right(self) -> bool:
        """Whether the model got it right."""
        return self.actual == self.predicted


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about one confidence: how many, how sure on average, how many right."""

    count: int
    confidence: float
    right: int


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found.

    Attributes:
        classes: names.
        confusion: (classes, classes) counts, rows actual, columns predicted.
        bins: of the reliability diagram, empty ones left out.
        calibration_error: mean gap between confidence and share of right answers, weighted by count.
        shown: mistakes, the most confident first; then, where there are few, right answers by a hair.
        broken: items of the split that couldn't be read.
        latency_ms: of one item through the network, on one core of this machine.
        seen: what the network sees of the pictures; None where items are none.
        coverage: shares of the surest items, rising.
        risk: share of wrong answers among so many.
        abstention: what the model that is handed out remembers of its verdicts.
        silent: why it gives none; empty where it does, or isn't to.
        best: right answers, the surest first, where pictures show what they come from.
        explained: whether they do.
        unrefitted: whether it was found of the search's winner, not of what was refitted from it.
    """

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    bins: tuple[Bin, ...]
    calibration_error: float
    shown: tuple[Answer, ...]
    broken: int
    latency_ms: float
    seen: Overview | None
    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    abstention: Mapping[str, Any]
    silent: str
    best: tuple[Answer, ...] = ()
    explained: bool = False
    unrefitted: bool = False

    @property
    def count(self) -> int:
        """Items looked at."""
        return int(self.confusion.sum())

    @property
    def right(self) -> int:
        """Items that the model got right."""
        return int(self.confusion.trace())


@dataclass(frozen=True, slots=True)
class Outlier:
    """One item on which the model's loss is large: ``predicted`` and ``actual`` are the task's words."""

    name: str
    actual: str
    predicted: str
    picture: str
    text: str


@dataclass(frozen=True, slots=True)
class Look:
    """What was found of a model that doesn't put out probabilities.

    Attributes:
        figures: the task's.
        shown: items of the largest loss, from the largest on.
        count: items looked at.
        broken: items of the split that couldn't be read.
        latency_ms: of one item through the network, on one core of this machine.
        seen: what the network sees of the pictures; None where items are none.
        best: items of the smallest loss, where targets are maps.
        unrefitted: whether it was found of the search's winner, not of what was refitted from it.
    """

    figures: tuple[Figure, ...]
    shown: tuple[Outlier, ...]
    count: int
    broken: int
    latency_ms: float
    seen: Overview | None
    best: tuple[Outlier, ...] = ()
    unrefitted: bool = False


def examine(
    record: StudyRecord, model: ModelRecord, items: StudyItems | None, *, winner: TrialRecord | None = None
) -> Examination | Look:
    """Run the model over the validation split, from the raw items.

    A model that has learned from that split would be told too good: the search's winner is run, which hasn't.

    Args:
        record: the study.
        model: its model.
        winner: the trial that the model was refitted from.
        items: of the study; None where an older version began it, and the split is made once more.

    Raises:
        BundleError: the bundle isn't there, or isn't the one recorded.
        InputError: the data can't be read, or its plugin isn't installed.
        StudyConflictError: the data isn't what was searched on.
    """
    spec = parse(record.spec)
    loaded = bundle.load(model.uri)
    if loaded.manifest.sha256 != model.sha256:
        raise BundleError(f"{model.uri} holds another model than the one recorded.")
    latency, silent = milliseconds(loaded.network, loaded.inputs), loaded.silent
    abstention = loaded.manifest.calibration.get(ABSTENTION, {})
    unrefitted = "val" in loaded.manifest.trained_on
    if unrefitted:
        loaded = _unrefitted(loaded, winner, spec)
    listed = sources.listing(spec.data, task=spec.task)
    items = items or as_split(listed, record)
    chosen = located(items, listed, "val")
    aside = sum(items.splits[at] == "val" for at in items.aside)
    if not loaded.task.probabilities:
        metric = record.metric if unrefitted else None
        return _look(loaded, listed, chosen, aside=aside, latency=latency, metric=metric)
    kept, outputs = _outputs(loaded, listed, chosen)
    actual, broken = np.asarray(listed.samples.targets)[kept], len(chosen) - len(kept) + aside
    if unrefitted:
        loaded = _calibrated(loaded, outputs, actual, record.metric)
    shares_of = loaded.probabilities(outputs).astype(np.float64)
    predicted = shares_of.argmax(axis=1)
    bins = _bins(shares_of.max(axis=1), predicted == actual)
    count = len(loaded.classes)
    explainer = explanation.explainer(loaded)
    coverage, risk = risk_coverage(shares_of.max(axis=1), predicted == actual)
    return Examination(
        classes=loaded.classes,
        confusion=np.bincount(actual * count + predicted, minlength=count * count).reshape(count, count),
        bins=bins,
        calibration_error=sum(abs(b.count * b.confidence - b.right) for b in bins) / len(kept),
        shown=tuple(
            _answer(listed, kept[row], shares_of[row], loaded, explainer)
            for row in telling(shares_of, actual, predicted, most=MISTAKES)
        ),
        best=tuple(
            _answer(listed, kept[row], shares_of[row], loaded, explainer)
            for row in (surest(shares_of, actual, predicted, most=BEST) if explainer else ())
        ),
        explained=explainer is not None,
        broken=broken,
        latency_ms=latency,
        seen=_seen(listed, kept, loaded.inputs),
        coverage=tuple(coverage.tolist()),
        risk=tuple(risk.tolist()),
        abstention=abstention,
        silent=silent,
        unrefitted=unrefitted,
    )


def _outputs(model: Model, listed: Listed, chosen: Sequence[int]) -> tuple[list[int], NDArray[np.float32]]:
    """Those of the items at ``chosen`` that can be read, and the network's outputs for them."""
    kept: list[int] = []
    parts_of: list[NDArray[np.float32]] = []
    for start in range(0, len(chosen), CHUNK):
        chunk = chosen[start : start + CHUNK]
        readable, outputs, _ = model.readable([listed.samples.items[index] for index in chunk])
        kept += [chunk[position] for position in readable]
        parts_of.append(outputs)
    if not kept:
        raise DataError("no item of the validation split can be read")
    return kept, np.concatenate(parts_of)


def _seen(listed: Listed, kept: Sequence[int], inputs: InputSpec) -> Overview | None:
    if not isinstance(inputs, ImageInput):
        return None
    some = kept[:: max(1, len(kept) // MEASURED)]
    return overview(inputs, [(listed.samples.names[index], listed.samples.items[index]) for index in some])


def _look(
    model: Model, listed: Listed, chosen: Sequence[int], *, aside: int, latency: float, metric: str | None
) -> Look:
    """Items at ``chosen`` as the model answers them: outputs a few at a time, answers of all.

    It is calibrated on them where a ``metric`` is given.
    """
    task, spec = model.task, model.target_spec
    recipe = LinearRecipe(learning_rate=0.0)
    kept: list[int] = []
    parts_of, targets_of, losses = list[NDArray[Any]](), list[NDArray[Any]](), list[float]()
    at_once = min(CHUNK, task.at_once)
    for start in range(0, len(chosen), at_once):
        chunk = chosen[start : start + at_once]
        readable, outputs, _ = model.readable([listed.samples.items[index] for index in chunk])
        if not readable:
            continue
        read = [chunk[position] for position in readable]
        targets = task.encode([listed.plain(index) for index in read], spec)
        pairs = zip(torch.from_numpy(outputs), torch.from_numpy(targets), strict=True)
        losses += [float(task.loss(made[None], wanted[None], recipe)) for made, wanted in pairs]
        # Outputs of maps are large, and no calibration needs those of all items.
        parts_of.append(outputs if task.calibrates else _decoded(model, outputs))
        targets_of.append(targets)
        kept += read
    if not kept:
        raise DataError("no item of the validation split can be read")
    told, actual = np.concatenate(parts_of), np.concatenate(targets_of)
    if task.calibrates:
        model = _calibrated(model, told, actual, metric) if metric else model
        told = _decoded(model, told)
    order = np.argsort(losses, kind="stable")[::-1].tolist()
    best = order[::-1][:BEST] if isinstance(task, PlaceTask) else []
    shown, met = (
        tuple(_shown(model, listed, kept[row], told[row], actual[row]) for row in rows)
        for rows in (order[: MISTAKES - len(best)], best)
    )
    return Look(
        figures=tuple(task.figures(told, actual, spec, model.manifest.calibration)),
        shown=shown,
        count=len(kept),
        broken=len(chosen) - len(kept) + aside,
        latency_ms=latency,
        seen=_seen(listed, kept, model.inputs),
        best=met,
        unrefitted=metric is not None,
    )


def _decoded(model: Model, outputs: NDArray[np.float32]) -> NDArray[Any]:
    told = model.probabilities(outputs)
    return told.astype(np.uint8) if isinstance(model.task, MapTask) else told


def _shown(model: Model, listed: Listed, index: int, answer: NDArray[Any], target: NDArray[Any]) -> Outlier:
    """An item with what the model says of it; places are shown on its picture, beside the true ones."""
    task, spec = model.task, model.target_spec
    item, calibration = listed.samples.items[index], model.manifest.calibration
    picture, actual = "", target_words(listed.plain(index))
    if isinstance(task, PlaceTask) and isinstance(model.inputs, ImageInput):
        whole = model.inputs.picture(item)
        whole.thumbnail((SHOWN, SHOWN))
        picture = data_url(
            explanation.beside(*(task.laid_over(whole, one, spec, calibration) for one in (answer, target)))
        )
        actual = task.say(task.predict(target, spec, calibration), top=1)
    elif isinstance(model.inputs, ImageInput):
        picture = thumbnail(item, model.inputs)
    return Outlier(
        name=listed.samples.names[index],
        actual=actual,
        predicted=task.say(task.predict(answer, spec, calibration), top=1),
        picture=picture,
        text=item[:TEXT] if isinstance(item, str) and listed.modality != "image" else "",
    )


def _unrefitted(model: Model, winner: TrialRecord | None, spec: StudySpec) -> Model:
    """The winner as it was when it was chosen, in the place of the model that was refitted from it."""
    try:
        if winner is None:
            raise FileNotFoundError("the trial isn't known")
        network = of_trial(winner, started_from(winner, spec), task=model.task, spec=model.target_spec)
    except OSError as error:
        raise DataError(
            f"the model was trained on the validation split too, and of the trial that won on it {error}"
        ) from error
    return Model(network, model.inputs, model.manifest, model.folder)


def _calibrated(model: Model, outputs: NDArray[Any], targets: NDArray[Any], metric: str) -> Model:
    """The search's winner with what the search fitted to it on these items.

    The description that it comes with is that of the model that is handed out: where this is a mean of
    several recipes, its thresholds, temperature or margins are those of the mean.
    """
    if not model.task.calibrates:
        return model
    fitted = calibrated(torch.from_numpy(outputs), torch.from_numpy(targets), model.task, metric)
    return Model(model.network, model.inputs, replace(model.manifest, calibration=fitted), model.folder)


def _bins(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[Bin, ...]:
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return tuple(
        Bin(
            int(inside.sum()),
            float(confidence[inside].mean()),
            int(right[inside].sum()),
        )
        for inside in (which == index for index in range(BINS))
        if inside.any()
    )


def _answer(
    listed: Listed,
    index: int,
    shares: NDArray[np.float64],
    model: Model,
    explainer: explanation.Explainer | None,
) -> Answer:
    item = listed.samples.items[index]
    label = listed.samples.labels[index]
    best, classes, inputs = int(shares.argmax()), model.target_spec.names, model.inputs
    picture = thumbnail(item, inputs) if isinstance(inputs, ImageInput) else ""
    if explainer is not None:
        picture = data_url(fitted(explanation.drawn(explainer, item, best), 2 * THUMBNAIL))
    return Answer(
        name=listed.samples.names[index],
        actual=classes[label],
        predicted=classes[best],
        probability=float(shares[best]),
        probability_of_actual=float(shares[label]),
        picture=picture,
        text=item[:TEXT] if isinstance(item, str) and listed.modality != "image" else "",
    )


def thumbnail(item: object, inputs: ImageInput) -> str:
    """A small JPEG as a data URL."""
    return data_url(fitted(inputs.picture(item)))
