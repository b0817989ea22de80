"""New data for a study: another study extends it, which begins with what that one knows.

Known items keep their splits, and what was computed of them is taken over. The extended study's model is
scored on new items first. It was refitted on all but its test items, so that score is held against the one on
these. Where it has not fallen and there is no new class, its recipes are all that is tried.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from tlsearch.contracts import Metric
from tlsearch.contracts.combination import members_of, structure_of
from tlsearch.counts import plural
from tlsearch.database.store import Store
from tlsearch.errors import StudyConflictError
from tlsearch.models import bundle
from tlsearch.models.evaluation import score_samples
from tlsearch.records import HANDED_OUT, ModelRecord, Point, StudyRecord, TrialRecord, TrialRole, TrialState
from tlsearch.search.finalists import binomial
from tlsearch.search.lease_heartbeat import surely_dead
from tlsearch.search.progress import Observer, Snapshot
from tlsearch.search.registration import lineage
from tlsearch.search.setup import Prepared
from tlsearch.search.space import SearchSpace
from tlsearch.spec import StudySpec, parse
from tlsearch.training.earlier import Extended
from tlsearch.training.items import NAMED, Growth

STARTS = 5
"""Points of the extended study that a new search begins with, at most."""
TOLD = 10
"""Sentences on changed targets."""
NORMAL = 2 * 1.96
"""Standard errors between the ends of a 95% interval."""


def described(database: str, study: str, *, data: Path | None = None, name: str | None = None) -> StudySpec:
    """The study that extends another one: the same but for its name and, where it is given, its data's path.

    Its budget is that of the last search: a study that only refitted has a smaller one.

    Raises:
        UnknownNameError: there is no such study.
        StudyConflictError: it runs, was cancelled or has no model; or the new name is taken.
        SpecError: the new name can't be, or the data has no path.
    """
    new = name or next_name(study)
    with Store.open(database) as store:
        record = store.study(study)
        store.refuse_held(study, stale=surely_dead)
        if store.model(study) is None:
            raise StudyConflictError(
                f'Study "{study}" has no model yet, which new items are scored with first.',
                hint=f"`tlsearch study resume {study}` goes on with it.",
            )
        if store.find_study(new) is not None:
            raise StudyConflictError(
                f'A study "{new}" exists already.',
                hint=f"`tlsearch study resume {new}` continues it; `tlsearch study extend {new}` extends it;"
                " --name takes another name.",
            )
        trials = max(int(elder.spec["budget"]["trials"]) for elder in lineage(store, study))
    overrides: dict[str, object] = {"study": new, "budget.trials": trials}
    if data is not None:
        overrides["data.path"] = str(data.expanduser().absolute())
    return parse(record.spec, overrides=overrides, name=f"extension of {study}")


def next_name(study: str) -> str:
    """``flowers-2`` after ``flowers``, ``flowers-3`` after that."""
    numbered = re.fullmatch(r"(.+)-([1-9][0-9]{0,5})", study)
    return f"{numbered[1]}-{int(numbered[2]) + 1}" if numbered else f"{study}-2"


def begin(prepared: Prepared, extended: Extended, *, database: str, observe: Observer) -> Prepared:
    """Tell what is new, score the extended study's model on it, and decide whether to search.

    Returns:
        The study; where that model stands, with no more trials than its recipes.

    Raises:
        BundleError: the model isn't there as it was written.
    """
    growth = prepared.growth
    if growth is None:
        return prepared
    with Store.open(database) as store:
        model = store.model(extended.study)
        many = len(_recipes(store, extended.study, model)) if model is not None else 0
    copies = _copies(growth, extended)
    told, stands = [*_news(growth, len(copies))], False
    if model is not None:
        sentences, stands = _judged(prepared, growth, model, extended)
        told += sentences
    for sentence in told:
        observe(Snapshot(phase="check", note=sentence))
    if not stands:
        return prepared
    budget = prepared.spec.budget.model_copy(update={"trials": many})
    return replace(prepared, spec=prepared.spec.model_copy(update={"budget": budget}))


def starts(store: Store, record: StudyRecord, space: SearchSpace, *, trials: int, seed: int) -> list[Point]:
    """The first points of a study that extends another one: that one's recipes, then its best of each branch.

    Args:
        store: the database.
        record: of the study.
        space: of its search.
        trials: points at most.
        seed: of the study.
    """
    elder = _extended(store, record)
    if elder is None:
        return []
    model = store.model(elder.name)
    best = [trial for trial in store.best(elder.name, limit=None) if not members_of(trial.params)]
    firsts = {(trial.backbone, trial.strategy): trial for trial in reversed(best)}
    leading = [trial for trial in best if firsts[trial.backbone, trial.strategy] is trial]
    recipes = _recipes(store, elder.name, model) if model is not None else []
    branches = {(branch.backbone, branch.strategy) for branch in space.branches}
    points: list[Point] = []
    for trial in [*recipes, *leading]:
        strategy, params = structure_of(trial.strategy, trial.params)
        point = Point(len(points), trial.backbone, strategy, params, seed)
        known = any(replace(point, number=other.number) == other for other in points)
        if (point.backbone, strategy) in branches and not known:
            points.append(point)
    return points[: min(trials, max(STARTS, len(recipes)))]


def refits_only(store: Store, record: StudyRecord, *, trials: int) -> bool:
    """Whether a study with so many trials tries the recipes of the one that it extends, and nothing else.

    Those were repeated with other seeds when they were chosen.
    """
    elder = _extended(store, record)
    model = store.model(elder.name) if elder is not None else None
    return model is not None and trials <= len(_recipes(store, model.study, model))


def _extended(store: Store, record: StudyRecord) -> StudyRecord | None:
    """The study that one extends; None where it extends none, or is a fork."""
    elder = next(islice(lineage(store, record.name), 1, None), None)
    return elder if elder is not None and elder.fingerprint != record.fingerprint else None


def _recipes(store: Store, study: str, model: ModelRecord) -> list[TrialRecord]:
    """The trials whose recipes a study's model is made of, the winner first."""
    refits = store.trials(study, role=TrialRole.REFIT, states=[TrialState.COMPLETE])
    others = dict.fromkeys(t.confirms for t in reversed(refits) if t.confirms not in (None, model.trial))
    many = int(model.metrics.get(HANDED_OUT, {}).get("recipes", 1))
    numbers = [model.trial, *(number for number in others if number is not None)][:many]
    return [store.trial(study, number) for number in numbers]


def _copies(growth: Growth, extended: Extended) -> set[int]:
    """New items of the same content as items of the extended study, which its model may have learned from."""
    known = set(extended.items.hashes)
    return {at for at in growth.new if growth.listed.hashes[at] in known}


def _news(growth: Growth, copies: int) -> Iterator[str]:
    """What is new of the data, in sentences; ``copies`` of the new items are of known ones."""
    listed, new = growth.listed, set(growth.new)
    counts = {name: len(new & set(indices.tolist())) for name, indices in growth.parts.items()}
    into = ", ".join(f"{count:,} in {name}" for name, count in counts.items() if count)
    total = len(listed.samples.items)
    yield (
        f"{len(new):,} of {plural(total, 'item')} {'is' if len(new) == 1 else 'are'} new"
        f"{f' ({into})' if into else ''}; known items keep their splits"
    )
    if copies:
        yield (
            f"{copies:,} of the new items {'is a copy' if copies == 1 else 'are copies'} of known ones:"
            " no score is of them"
        )
    one, many = listed.strata.one, listed.strata.many
    if growth.new_names:
        yield f"{plural(len(growth.new_names), f'new {one}', f'new {many}')}: {_quoted(growth.new_names)}"
    now = set(listed.target_spec.names)
    if gone := [name for name in growth.names if name not in now]:
        yield f"{plural(len(gone), one, many)} without items any more: {_quoted(gone)}"
    changed: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for name, before, after in growth.relabelled:
        changed[(before, after) if before in growth.names else ("", "")].append(name)
    for (before, after), names in list(changed.items())[:TOLD]:
        what = f'of "{before}" {{}} of "{after}" now' if before else "{} another target now"
        verb = ("is" if before else "has") if len(names) == 1 else ("are" if before else "have")
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        yield f"{plural(len(names), 'known item')} {what.format(verb)}: {', '.join(names[:NAMED])}{more}"
    if len(changed) > TOLD:
        yield f"{len(growth.relabelled)} known items have other targets in all"


def _quoted(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return ", ".join(f'"{name}"' for name in names[:TOLD]) + more


@dataclass(frozen=True, slots=True)
class _Score:
    value: float
    error: float
    items: int


def _judged(
    prepared: Prepared, growth: Growth, record: ModelRecord, extended: Extended
) -> tuple[list[str], bool]:
    """How the extended study's model does on new items, in sentences; and whether it stands."""
    metric, study = prepared.metric, extended.study
    gone = set(growth.names) - set(growth.listed.target_spec.names)
    scored = _on_new_items(prepared, growth, record, copies=_copies(growth, extended))
    told, fell = [], False
    if scored is None:
        told.append(f"no new item is left to score the model of {study} on")
    else:
        before, which = _before(metric, record, extended)
        margin = math.hypot(before.error, scored.error)
        fell = metric.signed(scored.value) < metric.signed(before.value) - margin
        told.append(
            f"the model of {study} has {metric.words} {scored.value:.4g} on"
            f" {plural(scored.items, 'new item')} that it never saw, and {before.value:.4g} on {which}"
            f" (standard error of the difference {margin:.2g}): it {'fell' if fell else 'has not fallen'}"
        )
    if not (fell or gone or growth.new_names):
        told.append(
            f"its recipe is trained on the new items, too, and no other is searched; `tlsearch study resume"
            f" {prepared.spec.study} --trials +50` searches on"
        )
        return told, True
    told.append(f"the search begins anew, with the best points of {study}")
    return told, False


def _before(metric: Metric, record: ModelRecord, extended: Extended) -> tuple[_Score, str]:
    """The model's score on old items that it hasn't learned from, and which these are."""
    test, val, name = record.metrics.get("test", {}), record.metrics["val"], metric.name
    if name in test:
        items = len(extended.items.of("test"))
        width = test.get(f"{name}_high", 0.0) - test.get(f"{name}_low", 0.0)
        error = width / NORMAL or (binomial(test[name], items) if metric.share else 0.0)
        return _Score(test[name], error, items), f"its {plural(items, 'test item')}"
    items = len(extended.items.of("val"))
    error = val.get(f"{name}_standard_error", 0.0)
    value = val.get(f"{name}_expected", val[name])
    return _Score(value, error, items), f"{plural(items, 'validation item')} before it was refitted"


def _on_new_items(
    prepared: Prepared, growth: Growth, record: ModelRecord, *, copies: set[int]
) -> _Score | None:
    """The model's score on new items of what it knows, but for copies of known ones.

    Test items are opened for the winner alone.
    """
    listed, strata, metric = growth.listed, growth.listed.strata, prepared.metric
    unknown = {kind for kind, name in enumerate(strata.names) if name in growth.new_names}
    closed = {*growth.parts["test"].tolist(), *prepared.items.aside, *copies}
    chosen = [at for at in growth.new if at not in closed and not unknown & set(strata.of[at])]
    if not chosen:
        return None
    samples = replace(
        listed.samples,
        items=[listed.samples.items[at] for at in chosen],
        targets=np.asarray(listed.samples.targets)[chosen],
        names=[listed.samples.names[at] for at in chosen],
        splits=None,
        groups=None,
        broken=(),
    )
    found = score_samples(bundle.load(record.uri), samples)
    value = found.metrics[metric.name]
    return _Score(value, binomial(value, found.items) if metric.share else 0.0, found.items)
