"""The end of a search: the best few are confirmed, the winner becomes a bundle that reproduces its score."""

from __future__ import annotations

import hashlib
import math
import shutil
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tlsearch import artifacts
from tlsearch.contracts import InputSpec
from tlsearch.contracts.combination import members_of
from tlsearch.database.store import Lease, Store
from tlsearch.errors import BundleError, SearchError, VerificationError
from tlsearch.files import cache_folder
from tlsearch.models import bundle
from tlsearch.models.rebuild import rebuild
from tlsearch.records import ModelRecord, Point, TrialRecord, TrialRole, TrialState
from tlsearch.search.setup import Prepared
from tlsearch.search.verify import verify
from tlsearch.training import checkpoints
from tlsearch.training.trial import data_key

CANDIDATE = "candidate"
"""Folder of a bundle that is being verified."""
MODEL = "model-"
"""Folders of bundles that were; the number of the trial follows."""


@dataclass(frozen=True, slots=True)
class Finalist:
    """A trial with the values of all seeds that it was run with, its own first."""

    trial: TrialRecord
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def error(self) -> float:
        """Standard error of the mean; 0 for a single seed."""
        if len(self.values) < 2:
            return 0.0
        return statistics.stdev(self.values) / math.sqrt(len(self.values))

    @property
    def cost(self) -> tuple[float, float, float]:
        """What using and training it costs: parameters, trained parameters, seconds."""
        costs = self.trial.costs
        return costs.total_parameters, costs.trainable_parameters, costs.seconds


def confirmations(
    finalists: Sequence[TrialRecord], existing: Sequence[TrialRecord], *, seeds: int, first_number: int
) -> list[Point]:
    """Points that repeat finalists with fresh seeds, less those that are there already.

    Args:
        finalists: the best trials of the search.
        existing: CONFIRM trials of the study; those that didn't end by themselves run again.
        seeds: how many fresh seeds for each.
        first_number: of the trials to be added.
    """
    points: list[Point] = []
    number = first_number
    for finalist in finalists:
        known = {trial.seed: trial for trial in existing if trial.confirms == finalist.number}
        for offset in range(1, seeds + 1):
            seed = finalist.seed + offset
            trial = known.get(seed)
            if trial is None:
                points.append(
                    Point(
                        number=number,
                        backbone=finalist.backbone,
                        strategy=finalist.strategy,
                        params=finalist.params,
                        seed=seed,
                        role=TrialRole.CONFIRM,
                        confirms=finalist.number,
                    )
                )
                number += 1
            elif trial.state in (TrialState.RUNNING, TrialState.CANCELLED):
                points.append(again(trial))
    return points


def again(trial: TrialRecord) -> Point:
    """The point of a trial that didn't end by itself, for another attempt."""
    point = trial.point
    return Point(
        number=point.number,
        backbone=point.backbone,
        strategy=point.strategy,
        params=point.params,
        seed=point.seed,
        attempt=point.attempt + 1,
        role=point.role,
        confirms=point.confirms,
    )


def ranked(
    finalists: Sequence[TrialRecord],
    confirmed: Sequence[TrialRecord],
    *,
    minimize: bool,
    combined: Sequence[TrialRecord] = (),
) -> list[Finalist]:
    """Finalists from the winner on: by mean, and within one standard error of the best the cheaper first.

    Those that time left with a single seed come last where others were repeated: one value may be luck. A
    combined trial has one value, on which it was chosen. It is taken to gain over each seed of its first
    member what it gained over that member itself; where that is no finalist, over the best one.
    """
    candidates = []
    for trial in finalists:
        values = [
            other.value
            for other in confirmed
            if other.confirms == trial.number and other.state is TrialState.COMPLETE
        ]
        own = [trial.value, *values]
        candidates.append(Finalist(trial, tuple(value for value in own if value is not None)))
    sign = 1 if minimize else -1
    repeated = any(len(finalist.values) > 1 for finalist in candidates)

    def place(finalist: Finalist) -> tuple[bool, float, tuple[float, float, float]]:
        return repeated and len(finalist.values) < 2, sign * finalist.mean, finalist.cost

    candidates.sort(key=place)
    candidates += _combined(combined, candidates, confirmed)
    candidates.sort(key=place)
    best = candidates[0]
    tied = [
        f
        for f in candidates
        if place(f)[0] == place(best)[0] and (abs(f.mean - best.mean) <= best.error or f.mean == best.mean)
    ]
    rest = [f for f in candidates if f not in tied]
    return sorted(tied, key=lambda finalist: finalist.cost) + rest


def _combined(
    combined: Sequence[TrialRecord], finalists: Sequence[Finalist], confirmed: Sequence[TrialRecord]
) -> list[Finalist]:
    """Combined trials beside finalists, which stand best first."""
    runs = {finalist.trial.number: (finalist.trial, finalist) for finalist in finalists}
    for trial in confirmed:
        if trial.confirms in runs:
            runs[trial.number] = (trial, runs[trial.confirms][1])
    found = []
    for trial in combined:
        run, base = runs.get(members_of(trial.params)[0], (finalists[0].trial, finalists[0]))
        if trial.value is not None and run.value is not None:
            gain = trial.value - run.value
            found.append(Finalist(trial, tuple(value + gain for value in base.values)))
    return found


def promote(
    candidates: Sequence[Finalist],
    *,
    store: Store,
    lease: Lease,
    prepared: Prepared,
    folder: str,
    provenance: Mapping[str, Any],
    stopping: Callable[[], str],
) -> tuple[ModelRecord | None, list[str]]:
    """Make the first candidate that reproduces its score the study's model.

    Args:
        candidates: from the winner on.
        store: the database.
        lease: of the study.
        prepared: the study.
        folder: place of the study's files; the bundle gets a folder of its own in it.
        provenance: what the bundle is to tell besides.
        stopping: why it is to be left for another time, or empty.

    Returns:
        The model as it was pinned in the database, None if it was to stop before; and a sentence for each
        candidate that was refused.

    Raises:
        SearchError: none does, or the bundle can't be written.
    """
    refused: list[str] = []
    for candidate in candidates:
        try:
            return _promote(
                candidate,
                store=store,
                lease=lease,
                prepared=prepared,
                folder=folder,
                provenance=provenance,
                stopping=stopping,
            ), refused
        except VerificationError as error:
            if stopping():
                return None, refused
            refused.append(f"trial {candidate.trial.number} was refused: {error.message}")
        except OSError as error:
            raise SearchError(
                f"The model of trial {candidate.trial.number} can't be written: {error}",
                hint="Make room or make it writable; the same command goes on from there.",
            ) from error
    raise SearchError("No model reproduces its recorded score.\n" + "\n".join(refused))


def _promote(
    finalist: Finalist,
    *,
    store: Store,
    lease: Lease,
    prepared: Prepared,
    folder: str,
    provenance: Mapping[str, Any],
    stopping: Callable[[], str],
) -> ModelRecord:
    trial, spec = finalist.trial, prepared.spec
    metric = spec.objective.metric
    if trial.artifact is None or trial.value is None:
        raise VerificationError(f"the weights of trial {trial.number} are gone")
    try:
        weights = artifacts.get(trial.artifact.uri, sha256=trial.artifact.sha256)
    except OSError as error:
        raise VerificationError(str(error)) from error
    network = rebuild(
        backbone=trial.backbone,
        weights=next(b.weights for b in spec.backbones if b.name == trial.backbone),
        image_size=spec.data.image_size,
        strategy=trial.strategy,
        params=trial.params,
        classes=len(prepared.dataset.classes),
        state=load_file(weights),
    )
    manifest: dict[str, Any] = {
        "classes": list(prepared.dataset.classes),
        "image_size": spec.data.image_size,
        "inputs": dict(_inputs(prepared, trial.backbone).to_json()),
        "strategy": trial.strategy,
        "params": dict(trial.params),
        "metrics": {"val": dict(trial.metrics)},
        "provenance": {
            **provenance,
            "trial": trial.number,
            "seed": trial.seed,
            "freeze_depth": trial.freeze_depth,
            "groups": trial.groups,
            "fingerprint": prepared.dataset.fingerprint,
            "versions": dict(prepared.versions),
            "plugins": [
                {"group": p.group, "name": p.name, "distribution": p.distribution, "version": p.version}
                for p in prepared.plugins
            ],
        },
    }
    candidate = _candidate(folder)
    bundle.write(candidate, network=network, manifest=manifest)
    scores = verify(candidate, spec=spec.to_json(), metric=metric, value=trial.value, stopping=stopping)
    over_seeds = {
        f"{metric}_mean": finalist.mean,
        f"{metric}_standard_error": finalist.error,
        "seeds": float(len(finalist.values)),
    }
    metrics = {"val": {**scores["val"], metric: trial.value, **over_seeds}}
    if "test" in scores:
        metrics["test"] = scores["test"]
    manifest["calibration"] = scores.get("calibration", {})
    # Another winner gets another folder: the model of the database stays whole until this one replaces it.
    place = artifacts.join(folder, f"{MODEL}{trial.number:06d}")
    artifact = bundle.write(place, network=network, manifest={**manifest, "metrics": metrics})
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
    store.pin_model(lease, record)
    return record


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
