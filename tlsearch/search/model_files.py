"""A study's models as files: written, looked after, swept."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tlsearch import artifacts
from tlsearch.contracts import Backbone, InputSpec, Pretrained
from tlsearch.database.store import Lease, Store
from tlsearch.errors import BundleError, SearchError, VerificationError
from tlsearch.files import cache_folder
from tlsearch.models import bundle
from tlsearch.models.manifest import MemberRecipe
from tlsearch.models.rebuild import of_trial, started_from
from tlsearch.records import Artifact, ModelRecord, TrialRecord, TrialRole, TrialState
from tlsearch.search.measurer import Measurer
from tlsearch.search.setup import Prepared
from tlsearch.training import checkpoints
from tlsearch.training.workspace import data_key

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
        progress: told how many items were measured, of how many.
        measurer: the process that measures.
    """

    store: Store
    lease: Lease
    prepared: Prepared
    folder: str
    provenance: Mapping[str, Any]
    stopping: Callable[[], str]
    progress: Callable[[int, int], None]
    measurer: Measurer


@dataclass(frozen=True, slots=True)
class Share:
    """What one recipe brings into a model: networks, and what their outputs are multiplied by."""

    trials: tuple[TrialRecord, ...]
    scale: float = 1.0


def networks(shares: Sequence[Share]) -> list[TrialRecord]:
    """The trials whose weights become a model's members, in their order."""
    return [trial for share in shares for trial in share.trials]


def refitted(shares: Sequence[Share]) -> bool:
    """Whether any of it has learned from all items but the test split's."""
    return any(trial.role is TrialRole.REFIT for trial in networks(shares))


def described(trial: TrialRecord, shares: Sequence[Share], end: Finishing) -> dict[str, Any]:
    """What a bundle says of itself but for what is measured on it.

    Args:
        trial: of the search, whose recipe is the first share's.
        shares: what the model is made of.
        end: of the study.
    """
    prepared, members = end.prepared, networks(shares)
    built, again = members[0], [one for one in members if one.role is TrialRole.REFIT]
    recipes = [
        MemberRecipe(share.trials[0].strategy, dict(share.trials[0].params), len(share.trials), share.scale)
        for share in shares
    ]
    return {
        **of_study(prepared, built.backbone),
        "strategy": built.strategy,
        "params": dict(built.params),
        "metrics": {"val": dict(trial.metrics)},
        "recipes": [recipe.to_json() for recipe in recipes] if len(recipes) > 1 else [],
        "trained_on": ["train", "stop", "val"] if again else ["train"],
        "provenance": {
            **end.provenance,
            "trial": trial.number,
            "seed": trial.seed,
            "freeze_depth": trial.freeze_depth,
            "groups": trial.groups,
            "refits": [{"trial": one.number, "seed": one.seed} for one in again],
            **made_with(prepared),
        },
    }


def of_study(prepared: Prepared, backbone: str) -> dict[str, Any]:
    """What bundles of a study on one backbone say alike: what is learned, and how items are read."""
    return {
        "task": prepared.task_name,
        "classes": list(prepared.target_spec.names),
        "facts": dict(prepared.target_spec.facts),
        "image_size": prepared.spec.data.image_size,
        "inputs": dict(_inputs(prepared, backbone).to_json()),
    }


def made_with(prepared: Prepared) -> dict[str, Any]:
    """What all bundles of a study say of their origin: the data, and the packages."""
    return {
        "fingerprint": prepared.dataset.fingerprint,
        "versions": dict(prepared.versions),
        "plugins": [asdict(plugin) for plugin in prepared.plugins],
    }


def written(
    place: str | Path,
    shares: Sequence[Share],
    manifest: Mapping[str, Any],
    end: Finishing,
    beside: Mapping[str, Tensor] | None = None,
) -> Artifact:
    """Write a bundle.

    Raises:
        VerificationError: the weights of a trial are gone, or not what was written.
        SearchError: the bundle can't be written.
    """
    members = networks(shares)
    loaded: dict[str, Pretrained] = {}
    made = [_network(member, loaded, end) for member in members]
    try:
        return bundle.write(place, network=made, manifest=manifest, beside=beside)
    except OSError as error:
        raise SearchError(
            f"The model of trial {members[0].number} can't be written: {error}",
            hint="Free some space or make it writable, then run the same command again to continue.",
        ) from error


def _network(trial: TrialRecord, loaded: dict[str, Pretrained], end: Finishing) -> Backbone:
    """The finished model of a trial; its backbone is ``loaded`` once for all members that have it.

    Raises:
        VerificationError: its weights are gone, or not what was written.
    """
    try:
        if trial.backbone not in loaded:
            loaded[trial.backbone] = started_from(trial, end.prepared.spec)
        pretrained = copy.deepcopy(loaded[trial.backbone])
        return of_trial(trial, pretrained, task=end.prepared.task, spec=end.prepared.target_spec)
    except OSError as error:
        raise VerificationError(str(error)) from error


def _inputs(prepared: Prepared, backbone: str) -> InputSpec:
    """How the study encoded its data for a backbone."""
    return prepared.data[data_key("data", prepared.backbone(backbone).inputs)].inputs


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
    shutil.rmtree(candidate(folder), ignore_errors=True)
    if not artifacts.is_remote(folder):
        for draft in Path(folder).glob(".*"):
            shutil.rmtree(draft, ignore_errors=True)
    if model is not None:
        for name in {name.partition("/")[0] for name in artifacts.listed(folder)}:
            place = artifacts.join(folder, name)
            if name.startswith(MODEL) and place != artifacts.normal(model.uri):
                artifacts.delete_all(place)


def candidate(folder: str) -> Path:
    """Where a bundle is verified; a fresh process reads it there, so it is on this machine."""
    if artifacts.is_remote(folder):
        return cache_folder() / "candidates" / hashlib.sha256(folder.encode()).hexdigest() / CANDIDATE
    return Path(folder) / CANDIDATE
