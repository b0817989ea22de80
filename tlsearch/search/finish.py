"""The end of a search: the winner reproduces its score, is refitted, and becomes the study's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tlsearch import artifacts
from tlsearch.contracts.combination import structure_of
from tlsearch.errors import SearchError, VerificationError
from tlsearch.models import abstention
from tlsearch.records import HANDED_OUT, ModelRecord, TrialRecord
from tlsearch.search import model_files
from tlsearch.search.finalists import Finalist, trains
from tlsearch.search.model_files import Finishing, Share
from tlsearch.search.refit import floor, members_of
from tlsearch.search.verify import verify


@dataclass(frozen=True, slots=True)
class Mix:
    """Finalists whose mean prediction is better on the validation split than the winner's alone.

    Attributes:
        shares: of one trial each, the winner's first.
        scores: of the mean on the validation split.
        calibration: of the mean.
        flips: whether the mean is better on mirrored images besides.
    """

    shares: tuple[Share, ...]
    scores: Mapping[str, float]
    calibration: Mapping[str, Any]
    flips: bool

    @property
    def trials(self) -> tuple[TrialRecord, ...]:
        """Of the search, the winner first."""
        return tuple(share.trials[0] for share in self.shares)


@dataclass(frozen=True, slots=True)
class Winner:
    """The finalist whose score was reproduced in a fresh process.

    Attributes:
        finalist: the trial with its runs.
        scores: on the validation split, from the raw items.
        calibration: as a bundle's description has it.
        flips: whether it is better on mirrored images besides.
        mix: what is better than it alone; None where nothing is.
    """

    finalist: Finalist
    scores: Mapping[str, float]
    calibration: Mapping[str, Any]
    flips: bool
    mix: Mix | None = None

    @property
    def trial(self) -> TrialRecord:
        """Of the search."""
        return self.finalist.trial

    @property
    def recipes(self) -> tuple[TrialRecord, ...]:
        """The trials whose recipes are trained anew, its own first."""
        return self.mix.trials if self.mix is not None else (self.trial,)


def choose(candidates: Sequence[Finalist], end: Finishing) -> tuple[Winner | None, list[str]]:
    """The first candidate that reproduces its score on the validation split; the test set stays closed.

    The same process looks for candidates of other strategies that make it better where predictions are
    averaged.

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
        others = _companions(trial, candidates, end)
        for trials in ([[trial, *others]] if others else []) + [[trial]]:
            try:
                shares = [Share((one,)) for one in trials]
                place = model_files.candidate(end.folder)
                model_files.written(place, shares, model_files.described(trial, shares, end), end)
                told = _verified(place, end, trials, test=False, mix=_gaining(trials))
                for position, error in told.get("left_out", {}).items():  # JSON's keys are text
                    refused.append(f"trial {trials[int(position)].number} is not averaged: {error}")
                return Winner(candidate, *_known(told), mix=_mix(told, trials)), refused
            except VerificationError as error:
                if end.stopping():
                    return None, refused
                which = f"trial {trial.number}" + (" averaged with others" if len(trials) > 1 else "")
                refused.append(f"{which} was refused: {error.message}")
    raise SearchError("No model reproduces its recorded score.\n" + "\n".join(refused))


def _companions(winner: TrialRecord, candidates: Sequence[Finalist], end: Finishing) -> list[TrialRecord]:
    """The best of each other strategy on the winner's backbone whose weights are there."""
    search, task = end.prepared.spec.search, end.prepared.task
    # Outputs of all validation items stand in memory at once, as they do where a task calibrates.
    if not (search.refit and search.ensemble and search.members > 1) or not task.calibrates:
        return []
    found: dict[str, TrialRecord] = {}
    for candidate in candidates:
        trial = candidate.trial
        strategy, _ = structure_of(trial.strategy, trial.params)
        if trial.backbone == winner.backbone and trial.artifact is not None:
            found.setdefault(strategy, trial)
    found.pop(structure_of(winner.strategy, winner.params)[0], None)
    return list(found.values())


def _gaining(trials: Sequence[TrialRecord]) -> list[int] | None:
    """Positions of those that train layers, which gain most by a refit; None where a trial is alone."""
    return [at for at, trial in enumerate(trials) if trains(trial)] if len(trials) > 1 else None


def _known(told: Mapping[str, Any]) -> tuple[Mapping[str, float], Mapping[str, Any], bool]:
    """Scores, calibration and flips."""
    return told["val"], told.get("calibration", {}), bool(told.get("flips"))


def _mix(told: Mapping[str, Any], trials: Sequence[TrialRecord]) -> Mix | None:
    if "mix" not in told:
        return None
    pairs = zip(told["mix"]["members"], told["mix"]["scales"], strict=True)
    shares = tuple(Share((trials[position],), float(scale)) for position, scale in pairs)
    return Mix(shares, *_known(told["mix"]))


def hand_out(
    winner: Winner, runs: Sequence[TrialRecord], end: Finishing
) -> tuple[ModelRecord | None, list[str]]:
    """Make the refitted winner the study's model, or else the winner itself; the test set is opened for it.

    Where others are averaged with the winner, a recipe that there was no time to refit brings the network
    that the search has trained.

    Args:
        winner: as it was chosen.
        runs: REFIT trials of the study; may be empty.
        end: of the study.

    Returns:
        The model as it was pinned in the database, None if it was to stop before; and what is to be told.

    Raises:
        SearchError: neither reproduces its score, or the bundle can't be written.
    """
    told: list[str] = []
    attempts: list[list[Share]] = [[Share((winner.trial,))]]
    if own := members_of(winner.trial, runs):
        attempts.insert(0, [Share(tuple(own))])
    if winner.mix is not None:
        both = [(members_of(share.trials[0], runs), share) for share in winner.mix.shares]
        attempts.insert(0, [Share(tuple(found) or share.trials, share.scale) for found, share in both])
    for shares in attempts:
        try:
            return _handed_out(winner, shares, end), told
        except VerificationError as error:
            if end.stopping():
                return None, told
            told.append(f"the {_named(shares)} was refused: {error.message}")
    raise SearchError("No model reproduces its recorded score.\n" + "\n".join(told))


def _named(shares: Sequence[Share]) -> str:
    if len(shares) > 1:
        return f"mean of {len(shares)} recipes"
    return (
        "refitted model" if model_files.refitted(shares) else f"model of trial {shares[0].trials[0].number}"
    )


def _handed_out(winner: Winner, shares: Sequence[Share], end: Finishing) -> ModelRecord:
    spec, trial, metric = end.prepared.spec, winner.trial, end.prepared.spec.objective.metric
    members, refitted = model_files.networks(shares), model_files.refitted(shares)
    chosen = winner.mix if len(shares) > 1 and winner.mix is not None else winner
    flips = chosen.flips and members != [trial]
    # Another winner gets another folder: the model of the database stays whole until this one replaces it.
    numbers = [trial.number, *[one.number for one in members if one != trial][:1]]
    uri = artifacts.join(end.folder, model_files.MODEL + "-".join(f"{number:06d}" for number in numbers))
    made = {"refitted": refitted, "members": len(members), "recipes": len(shares), "flips": flips}
    told = {name: float(value) for name, value in made.items()}
    before = end.store.model(spec.study)
    if before is not None and _same(before, uri, told) and model_files.intact(before):
        return before  # its test set was opened already
    # Thresholds without the references that go with them: those are of the network that is looked at.
    described = {
        **model_files.described(trial, shares, end),
        "calibration": dict(chosen.calibration),
        "flips": flips,
    }
    place = model_files.candidate(end.folder)
    model_files.written(place, shares, described, end)
    least = None
    if refitted:
        items = end.prepared.dataset.counts["val"]
        least = floor(chosen.scores[metric], items=items, metric=end.prepared.metric)
    has_test = bool(end.prepared.dataset.counts.get("test"))
    openings = end.store.count_opening(end.lease) if has_test else 0
    try:
        scores = _verified(place, end, members, test=has_test, least=least)
    except VerificationError:
        if has_test:
            end.store.count_opening(end.lease, by=-1)  # refused before it was opened
        raise
    told["test_openings"] = float(openings)
    if refitted:
        told[f"{metric}_on_learned_validation_items"] = scores["val"][metric]
    if len(shares) > 1:
        told[f"{metric}_of_the_mean_before"] = chosen.scores[metric]
    metrics = {"val": _of_search(winner, metric), HANDED_OUT: told}
    if "test" in scores:
        metrics["test"] = dict(scores["test"])
    manifest = {**described, "metrics": metrics}
    manifest["calibration"] = {**chosen.calibration, **scores.get("calibration", {})}
    artifact = model_files.written(uri, shares, manifest, end, abstention.saved(place))
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


def _same(model: ModelRecord, uri: str, made: Mapping[str, float]) -> bool:
    """Whether a model is made of the networks that a place is named after, in the same way."""
    told = model.metrics.get(HANDED_OUT, {})
    return artifacts.normal(model.uri) == artifacts.normal(uri) and made.items() <= told.items()


def _of_search(winner: Winner, metric: str) -> dict[str, float]:
    """Scores on the validation split of the search's winner."""
    finalist = winner.finalist
    return {
        **winner.scores,
        metric: winner.trial.value if winner.trial.value is not None else winner.scores[metric],
        f"{metric}_mean": finalist.mean,
        f"{metric}_standard_error": finalist.error,
        f"{metric}_expected": finalist.expected if finalist.expected is not None else finalist.mean,
        "seeds": float(len(finalist.values)),
    }


def _verified(
    place: Path,
    end: Finishing,
    members: Sequence[TrialRecord],
    *,
    test: bool,
    least: float | None = None,
    mix: Sequence[int] | None = None,
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
        mix=mix,
        stopping=end.stopping,
        progress=end.progress,
        measurer=end.measurer,
    )
