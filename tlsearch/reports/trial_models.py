"""Any trial of a study whose weights are kept as a model, besides the one that the study hands out."""

from __future__ import annotations

from pathlib import Path

from tlsearch.contracts import Backbone
from tlsearch.database.store import Store
from tlsearch.errors import InputError
from tlsearch.models import bundle
from tlsearch.models.export import as_timm
from tlsearch.models.model import Model
from tlsearch.models.rebuild import of_trial, started_from
from tlsearch.records import TrialRecord, TrialRole, TrialState
from tlsearch.spec import parse


def model_of_trial(url: str, study: str, number: int, *, winner: Model, folder: Path) -> Model:
    """The model of one trial, uncalibrated and with its validation scores alone, as a bundle in a folder.

    Args:
        url: of the study database.
        study: its name.
        number: of the trial.
        winner: the study's model, which knows its classes and how pictures are read.
        folder: where the bundle goes.

    Raises:
        UnknownNameError: no such trial.
        InputError: its weights aren't kept.
    """
    with Store.open(url) as store:
        trial = store.trial(study, number)
    network = _network(url, study, trial, winner)
    inputs = dict(winner.manifest.inputs)
    if trial.backbone != winner.manifest.backbone:
        known = network.info.inputs.to_json()  # all else is the backbone's, and these the data's
        # The mean of other channels than RGB is that of the training items, whatever the backbone.
        own = ("ranges", "resize", *(("mean", "std") if winner.manifest.pixels.channels != 3 else ()))
        inputs = {**known, **{key: inputs[key] for key in own if key in inputs}}
    manifest = winner.manifest
    described = {
        "task": manifest.task,
        "classes": list(winner.target_spec.names),
        "facts": dict(manifest.facts),
        "image_size": manifest.image_size,
        "inputs": inputs,
        "strategy": trial.strategy,
        "params": dict(trial.params),
        "metrics": {"val": dict(trial.metrics)},
        "calibration": {},
        "trained_on": ["train"],
        "provenance": {
            **manifest.provenance,
            "trial": trial.number,
            "seed": trial.seed,
            "freeze_depth": trial.freeze_depth,
            "groups": trial.groups,
            "refits": [],
        },
    }
    bundle.write(folder, network=network, manifest=described)
    return bundle.load(folder)


def best_for_timm(url: str, study: str, *, winner: Model) -> TrialRecord | None:
    """The best trial whose weights are kept and that timm can hold; None where there is none."""
    try:
        as_timm.check_kind(winner)
    except InputError:
        return None  # it can hold none of the study
    with Store.open(url) as store:
        minimize = store.study(study).direction == "minimize"
        trials = store.trials(study, states=[TrialState.COMPLETE], sort="value", descending=not minimize)
    for trial in trials:
        if trial.role is not TrialRole.SEARCH or trial.artifact is None:
            continue
        try:
            as_timm.fits(_network(url, study, trial, winner), strategy=trial.strategy)
        except (InputError, OSError):
            continue
        return trial
    return None


def _network(url: str, study: str, trial: TrialRecord, winner: Model) -> Backbone:
    with Store.open(url) as store:
        spec = parse(store.study(study).spec)
    try:
        return of_trial(trial, started_from(trial, spec), task=winner.task, spec=winner.target_spec)
    except OSError as error:
        raise InputError(
            f"Trial {trial.number} can't be loaded as a model: {error}.",
            hint=f"Only the best keep their weights (search.keep): `tlsearch trials {study} --sort value`.",
        ) from None
