"""The end of a search: the winner reproduces its score, is refitted, and becomes the study's model."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from tlsearch import artifacts
from tlsearch.contracts import Backbone, InputSpec
from tlsearch.database.store import Lease, Store
from tlsearch.errors import BundleError, SearchError, VerificationError
from tlsearch.files import cache_folder
from tlsearch.models import abstention, bundle
from tlsearch.models.rebuild import of_trial
from tlsearch.records import HANDED_OUT, Artifact, ModelRecord, TrialRecord, TrialRole, TrialState
from tlsearch.search.finalists import Finalist
from tlsearch.search.refit import floor
from tlsearch.search.setup import Prepared
from tlsearch.search.verify import verify
from tlsearch.spec import StudySpec
from tlsearch.training import checkpoints
from tlsearch.training.trial import data_key

CANDIDATE = "candidate"
"""Folder of a bundle that is being verified."""
MODEL = "model-"
"""Folders of bundles that were; the number of the trial follows."""


@dataclass(frozen=True, slots=True)
class Finishing:
    """What the end of a study is done with.

    Attributes:
        store: the database.
        lease: of the study.
        prepared: the study.
        folder: place of the study's files; a bundle gets a folder of its own in it.
        provenance: what a bundle is to tell besides.
        stopping: why it is to be left for another time, or empty.
    """

    store: Store
    lease: Lease
    prepared: Prepared
    folder: str
    provenance: Mapping[str, Any]
    stopping: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Winner:
    """The finalist whose score was reproduced in a fresh process.

    Attributes:
        finalist: the trial with its runs.
        scores: on the validation split, from the raw items.
        calibration: as a bundle's description has it.
        flips: whether it is better on mirrored images besides.
    """

    finalist: Finalist
    scores: Mapping[str, float]
    calibration: Mapping[str, Any]
    flips: bool

    @property
    def trial(self) -> TrialRecord:
        """Of the search."""
        return self.finalist.trial


def choose(candidates: Sequence[Finalist], end: Finishing) -> tuple[Winner | None, list[str]]:
    """The first candidate that reproduces its score on the validation split; the test set stays closed.

    Args:
        candidates: from the winner on.
        end: of the study.

    Returns:
        The winner, None if it was to stop before; and a sentence for each candidate that was refused.

    Raises:
        SearchError: none does, the study's items aren't there as they were, or the bundle can't be written.
    """
    refused: list[str] = []
    for candidate in candidates:
        trial = candidate.trial
        try:
            place = _write(_candidate(end.folder), [trial], _described(candidate, end), end)
            told = _verified(place, end, [trial], test=False)
            flips = bool(told.get("flips"))
            return Winner(candidate, told["val"], told.get("calibration", {}), flips), refused
        except VerificationError as error:
            if end.stopping():
                return None, refused
            refused.append(f"trial {trial.number} was refused: {error.message}")
    raise SearchError("No model reproduces its recorded score.\n" + "\n".join(refused))


def hand_out(
    winner: Winner, refits: Sequence[TrialRecord], end: Finishing
) -> tuple[ModelRecord | None, list[str]]:
    """Make the refitted winner the study's model, or else the winner itself; the test set is opened for it.

    Args:
        winner: as it was chosen.
        refits: its recipe trained on all but the test items; may be empty.
        end: of the study.

    Returns:
        The model as it was pinned in the database, None if it was to stop before; and what is to be told.

    Raises:
        SearchError: neither reproduces its score, or the bundle can't be written.
    """
    told: list[str] = []
    for members in ([list(refits)] if refits else []) + [[winner.trial]]:
        try:
            return _handed_out(winner, members, end), told
        except VerificationError as error:
            if end.stopping():
                return None, told
            told.append(f"the {_named(members)} was refused: {error.message}")
    raise SearchError("No model reproduces its recorded score.\n" + "\n".join(told))


def _named(members: Sequence[TrialRecord]) -> str:
    refitted = members[0].role is TrialRole.REFIT
    return "refitted model" if refitted else f"model of trial {members[0].number}"


def _handed_out(winner: Winner, members: Sequence[TrialRecord], end: Finishing) -> ModelRecord:
    spec, trial, metric = end.prepared.spec, winner.trial, end.prepared.spec.objective.metric
    refitted = members[0].role is TrialRole.REFIT
    # Thresholds without the references that go with them: those are of the network that is looked at.
    described = {
        **_described(winner.finalist, end, members),
        "calibration": dict(winner.calibration),
        "flips": refitted and winner.flips,
    }
    place = _write(_candidate(end.folder), members, described, end)
    least = None
    if refitted:
        items = end.prepared.dataset.counts["val"]
        least = floor(winner.scores[metric], items=items, metric=end.prepared.metric)
    has_test = bool(end.prepared.dataset.counts.get("test"))
    openings = end.store.count_opening(end.lease) if has_test else 0
    try:
        scores = _verified(place, end, members, test=has_test, least=least)
    except VerificationError:
        if has_test:
            end.store.count_opening(end.lease, by=-1)  # refused before it was opened
        raise
    metrics = _metrics(winner, members, scores, openings, spec)
    manifest = {**described, "metrics": metrics}
    manifest["calibration"] = {**winner.calibration, **scores.get("calibration", {})}
    # Another winner gets another folder: the model of the database stays whole until this one replaces it.
    name = f"{MODEL}{trial.number:06d}" + (f"-{members[0].number:06d}" if refitted else "")
    beside = abstention.saved(place)
    artifact = _written(artifacts.join(end.folder, name), members, manifest, end, beside)
    record = ModelRecord(
        study=spec.study,
        trial=trial.number,
        uri=artifact.uri,
        sha256=artifact.sha256,
        bytes=artifact.bytes,
        verified=True,
        metrics=metrics,
        created=datetime.now(UTC),
    )
    end.store.pin_model(end.lease, record)
    return record


def _metrics(
    winner: Winner,
    members: Sequence[TrialRecord],
    scores: Mapping[str, Mapping[str, float]],
    openings: int,
    spec: StudySpec,
) -> dict[str, dict[str, float]]:
    """Scores by what they are of: ``val`` of the search's winner, ``test`` of the model handed out."""
    metric, finalist = spec.objective.metric, winner.finalist
    refitted = members[0].role is TrialRole.REFIT
    metrics = {
        "val": {
            **winner.scores,
            metric: winner.trial.value if winner.trial.value is not None else winner.scores[metric],
            f"{metric}_mean": finalist.mean,
            f"{metric}_standard_error": finalist.error,
            f"{metric}_expected": finalist.expected if finalist.expected is not None else finalist.mean,
            "seeds": float(len(finalist.values)),
        },
        HANDED_OUT: {
            "refitted": float(refitted),
            "members": float(len(members)),
            "flips": float(refitted and winner.flips),
            "test_openings": float(openings),
            **({f"{metric}_on_learned_validation_items": scores["val"][metric]} if refitted else {}),
        },
    }
    if "test" in scores:
        metrics["test"] = dict(scores["test"])
    return metrics


def _described(finalist: Finalist, end: Finishing, members: Sequence[TrialRecord] = ()) -> dict[str, Any]:
    """What a bundle says of itself but for what is measured on it."""
    trial, prepared = finalist.trial, end.prepared
    built = members[0] if members else trial
    refitted = built.role is TrialRole.REFIT
    return {
        "task": prepared.task_name,
        "classes": list(prepared.target_spec.names),
        "facts": dict(prepared.target_spec.facts),
        "image_size": prepared.spec.data.image_size,
        "inputs": dict(_inputs(prepared, built.backbone).to_json()),
        "strategy": built.strategy,
        "params": dict(built.params),
        "metrics": {"val": dict(trial.metrics)},
        "trained_on": ["train", "stop", "val"] if refitted else ["train"],
        "provenance": {
            **end.provenance,
            "trial": trial.number,
            "seed": trial.seed,
            "freeze_depth": trial.freeze_depth,
            "groups": trial.groups,
            "refits": [{"trial": one.number, "seed": one.seed} for one in members] if refitted else [],
            "fingerprint": prepared.dataset.fingerprint,
            "versions": dict(prepared.versions),
            "plugins": [
                {"group": p.group, "name": p.name, "distribution": p.distribution, "version": p.version}
                for p in prepared.plugins
            ],
        },
    }


def _verified(
    place: Path,
    end: Finishing,
    members: Sequence[TrialRecord],
    *,
    test: bool,
    least: float | None = None,
) -> dict[str, Any]:
    values = [member.value for member in members]
    if None in values:
        raise VerificationError(f"trial {members[0].number} has no score")
    spec = end.prepared.spec
    return verify(
        place,
        spec=spec.to_json(),
        items=end.prepared.items,
        metric=spec.objective.metric,
        values=values,
        test=test,
        least=least,
        stopping=end.stopping,
    )


def _write(place: Path, members: Sequence[TrialRecord], manifest: Mapping[str, Any], end: Finishing) -> Path:
    _written(place, members, manifest, end)
    return place


def _written(
    place: str | Path,
    members: Sequence[TrialRecord],
    manifest: Mapping[str, Any],
    end: Finishing,
    beside: Mapping[str, Tensor] | None = None,
) -> Artifact:
    networks = [_network(member, end) for member in members]
    try:
        return bundle.write(place, network=networks, manifest=manifest, beside=beside)
    except OSError as error:
        raise SearchError(
            f"The model of trial {members[0].number} can't be written: {error}",
            hint="Make room or make it writable; the same command goes on from there.",
        ) from error


def _network(trial: TrialRecord, end: Finishing) -> Backbone:
    """The finished model of a trial.

    Raises:
        VerificationError: its weights are gone, or not what was written.
    """
    spec = end.prepared.spec
    try:
        return of_trial(
            trial,
            weights=next(b.weights for b in spec.backbones if b.name == trial.backbone),
            image_size=spec.data.image_size,
            task=end.prepared.task,
            spec=end.prepared.target_spec,
        )
    except OSError as error:
        raise VerificationError(str(error)) from error


def intact(model: ModelRecord) -> bool:
    """Whether the files of a study's model are those that the database tells of."""
    try:
        return bundle.check(model.uri).sha256 == model.sha256
    except (BundleError, OSError):
        return False


def sweep(folder: str, trials: Iterable[TrialRecord], model: ModelRecord | None = None) -> None:
    """Delete what killed workers and drivers left among a study's files, and weights that nobody refers to.

    Checkpoints stay of trials that go on when the study is run again.

    Args:
        folder: place of the study's files; only its driver may do this.
        trials: all of the study.
        model: the study's; models made before it go. None leaves all models alone.
    """
    known = list(trials)
    wanted = {trial.artifact.uri for trial in known if trial.artifact is not None}
    for name in artifacts.listed(artifacts.join(folder, "trials")):
        uri = artifacts.join(folder, "trials", name)
        if uri not in wanted:
            artifacts.delete(uri)
    goes_on = {t.number for t in known if not t.state.final or t.state is TrialState.CANCELLED}
    for number in checkpoints.numbers(folder) - goes_on:
        checkpoints.drop(folder, number)
    shutil.rmtree(_candidate(folder), ignore_errors=True)
    if not artifacts.is_remote(folder):
        for draft in Path(folder).glob(".*"):
            shutil.rmtree(draft, ignore_errors=True)
    if model is not None:
        for name in {name.partition("/")[0] for name in artifacts.listed(folder)}:
            place = artifacts.join(folder, name)
            if name.startswith(MODEL) and place != artifacts.normal(model.uri):
                artifacts.delete_all(place)


def _inputs(prepared: Prepared, backbone: str) -> InputSpec:
    """How the study encoded its data for a backbone."""
    info = next(info for info in prepared.backbones if info.name == backbone)
    return prepared.data[data_key("data", info.inputs)].inputs


def _candidate(folder: str) -> Path:
    """Where a bundle is verified; a fresh process reads it there, so it is on this machine."""
    if artifacts.is_remote(folder):
        return cache_folder() / "candidates" / hashlib.sha256(folder.encode()).hexdigest() / CANDIDATE
    return Path(folder) / CANDIDATE
