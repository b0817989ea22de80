"""Which of a study's labelled items its model has learned from, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tlsearch.counts import plural
from tlsearch.records import HANDED_OUT, DatasetRecord, ModelRecord, StudyRecord, TrialRecord, TrialState

LEAST_MINUTES = 2
"""That are proposed for a refit: a run of the study has some seconds of its own."""
SHARE = 0.5
"""Of the time of a search that goes on is left to the refit."""


def learned_from(
    study: StudyRecord,
    dataset: DatasetRecord,
    model: ModelRecord,
    *,
    winner: TrialRecord,
    refits: Sequence[TrialRecord],
) -> str:
    """How many items the model has learned from, and why no more; empty for an old model, which doesn't tell.

    Args:
        study: the study.
        dataset: its data.
        model: its model.
        winner: the trial that the model is of.
        refits: trials of the study that were trained anew on all but the test items.
    """
    told, counts = model.metrics.get(HANDED_OUT, {}), dataset.counts
    if not told:
        return ""
    labelled, tested = sum(counts.values()), counts.get("test", 0)
    items = plural(labelled, "labelled item")
    if told.get("refitted"):
        learned = f"{labelled - tested:,} of {items}: all but the test items" if tested else f"all {items}"
        anew = {one.confirms for one in refits if one.state is TrialState.COMPLETE and not one.cut_short}
        if (recipes := told.get("recipes", 1)) > 1 and len(anew) < recipes:
            learned += (
                "; but not all of its recipes were trained anew, and the others have learned from "
                f"{counts.get('train', 0):,}"
            )
        return learned
    held = " and ".join(
        f"{counts[split]:,} {purpose}"
        for split, purpose in (("val", "for validation"), ("stop", "for early stopping"))
        if counts.get(split)
    )
    own = [trial for trial in refits if trial.confirms == winner.number]
    return f"{counts.get('train', 0):,} of {items}, without the {held}: {_why(study, winner, own)}"


def _why(study: StudyRecord, winner: TrialRecord, refits: Sequence[TrialRecord]) -> str:
    """Why the winner wasn't trained anew on all but the test items, and what helps."""
    if not study.spec.get("search", {}).get("refit", True):
        return "search.refit is false"
    if any(trial.state is TrialState.COMPLETE and not trial.cut_short for trial in refits):
        return "the model that had learned from these too was refused when it was verified"
    if failed := [trial for trial in refits if trial.state is TrialState.FAILED]:
        return f"training it anew on these too failed (trial {failed[0].number}: {failed[0].reason})"
    minutes = max(LEAST_MINUTES, math.ceil(winner.costs.seconds / SHARE / 60))
    cut = [f"trial {trial.number} was {trial.reason}" for trial in refits if trial.cut_short]
    return (
        f"there was no time to train it anew on these too{''.join(f' ({why})' for why in cut[:1])}. "
        f"`tlsearch study resume {study.name} --minutes +{minutes}` has time for that"
    )
