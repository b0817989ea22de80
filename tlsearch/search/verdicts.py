"""What a finished model tells sure from unsure, and both from none of what it knows, by.

Fitted on the validation items while the model that is looked at hasn't learned from them, which is the
search's winner. A refit has: it takes over the winner's thresholds, with references of its own (see
`models.abstention`). What comes of it is counted on the test items, which set nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tlsearch.contracts.verdict import ABSTENTION, VERDICTS
from tlsearch.errors import StudyConflictError
from tlsearch.models import abstention, embedding
from tlsearch.models.model import Model
from tlsearch.records import StudyItems
from tlsearch.search.scored import Scored
from tlsearch.spec import AbstainSpec
from tlsearch.training.items import located
from tlsearch.training.listed import Listed


def fitted(
    model: Model,
    listed: Listed,
    items: StudyItems,
    scored: Scored,
    calibration: Mapping[str, Any],
    wanted: AbstainSpec,
) -> dict[str, Any]:
    """The calibration's part about verdicts; references lie beside the bundle after this.

    Args:
        model: the bundle's.
        listed: the data.
        items: the study's.
        scored: of the validation split; its outputs are kept where the model hasn't learned from these items.
        calibration: all that is known but for this.
        wanted: by the study.
    """
    task, known = model.task, dict(calibration.get(ABSTENTION, {}))
    if scored.kept is not None:
        outputs, targets = scored.kept
        _, decoded = task.decode(outputs, model.target_spec, calibration)
        known = dict(task.doubt(decoded, targets, missed=wanted.unsure)) if wanted.unsure else {}
    if wanted.outsiders:
        try:
            references = _references(model, listed, items)
        except StudyConflictError as error:
            return {
                ABSTENTION: known | {"why": f"its training items can't be read any more: {error.message}"}
            }
        if references is None:
            return {ABSTENTION: known | {"why": "it was trained on fewer than two items that can be read"}}
        if scored.features is not None:
            known["outsiders"] = abstention.limit(references, scored.features, beyond=wanted.outsiders)
        if "outsiders" in known:
            known["outsiders"] = {**known["outsiders"], **abstention.measure(references)}
            abstention.save(references, model.folder)
    return {ABSTENTION: known}


def of_mean(
    model: Model,
    scored: Scored,
    calibration: Mapping[str, Any],
    wanted: AbstainSpec,
    *,
    alone: Mapping[str, Any],
) -> dict[str, Any]:
    """The same part of several networks' mean: distances are the first one's, and so is their limit.

    Args:
        model: as for `fitted`.
        scored: the mean's, with its outputs.
        calibration: the mean's, but for this.
        wanted: by the study.
        alone: what `fitted` gave for the first network.
    """
    assert scored.kept is not None
    outputs, targets = scored.kept
    _, decoded = model.task.decode(outputs, model.target_spec, calibration)
    doubt = dict(model.task.doubt(decoded, targets, missed=wanted.unsure)) if wanted.unsure else {}
    first = {name: told for name, told in alone[ABSTENTION].items() if name in ("outsiders", "why")}
    return {ABSTENTION: doubt | first}


def checked(model: Model, scored: Scored, calibration: Mapping[str, Any]) -> dict[str, Any]:
    """The same part, with shares of verdicts on the test items, and of right answers among the sure ones.

    Args:
        model: the bundle's.
        scored: of the test split.
        calibration: all that is known, and fitted on other items.
    """
    known = dict(calibration.get(ABSTENTION, {}))
    if scored.kept is None or not {"candidates", "outsiders"} & set(known):
        return {}
    outputs, targets = scored.kept
    _, decoded = model.task.decode(outputs, model.target_spec, calibration)
    far = None
    if "outsiders" in known and scored.features is not None:
        references = abstention.References(
            abstention.saved(model.folder)[abstention.TENSOR].float(), known["outsiders"]["neighbours"]
        )
        limit = known["outsiders"]["ratio"] * known["outsiders"]["scale"]
        far = references.distances(scored.features) / limit
    given = abstention.verdicts(model.task, decoded, far, calibration)
    answers = model.task.answers(decoded.numpy(), model.target_spec, calibration)
    wanted = [model.task.plain(target, model.target_spec) for target in targets]
    right = [one == other for one, other in zip(answers, wanted, strict=True)]
    sure = np.asarray(right)[given.numpy() == 0]
    shares = {name: float((given == at).float().mean()) for at, name in enumerate(VERDICTS)}
    told = {**shares, "right of sure": float(sure.mean()) if len(sure) else None, "items": len(targets)}
    return {ABSTENTION: {**known, "test": told}}


def _references(model: Model, listed: Listed, items: StudyItems) -> abstention.References | None:
    """Of training items, drawn with a fixed seed where there are many."""
    indices = np.asarray(located(items, listed, "train"))
    if len(indices) > abstention.REFERENCES:
        rng = np.random.default_rng(0)
        indices = np.sort(rng.choice(indices, abstention.REFERENCES, replace=False))
    _, features, _ = embedding.embed(model, [listed.samples.items[index] for index in indices])
    return abstention.references(torch.from_numpy(features))
