"""Does a bundle reproduce its validation score from the raw items? A process of its own finds out.

Only then is the test set opened, and the temperature fitted on the validation split. What the process does is
in `measuring`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tlsearch.errors import SearchError, VerificationError
from tlsearch.records import StudyItems
from tlsearch.search.measurer import Measurer


def _untold(_done: int, _total: int) -> None:
    """Progress that nobody asked for."""


def verify(
    bundle: Path,
    *,
    spec: Mapping[str, Any],
    items: StudyItems,
    metric: str,
    values: Sequence[float | None],
    test: bool,
    least: float | None = None,
    mix: Sequence[int] | None = None,
    stopping: Callable[[], str] = str,
    progress: Callable[[int, int], None] = _untold,
    measurer: Measurer | None = None,
) -> dict[str, Any]:
    """Scores of a bundle on the validation split, and on the test split if asked, from a process of its own.

    Args:
        bundle: its folder.
        spec: the study, as `StudySpec.to_json` gives it.
        items: of the study's data, as `Prepared.items` and `Store.items` have them.
        metric: the study's.
        values: what was recorded of each member for the validation split.
        test: whether to open the test split, after all else was found to be right.
        least: the metric that the whole model must reach on the validation split.
        mix: the members are finalists, the winner first, and these positions those that are likely to gain
            most by a refit. All but ``mix`` of what is returned is then of the winner alone.
        stopping: why it is to be broken off, or empty.
        progress: told now and then how many items were measured, of how many.
        measurer: the process; one that ends with its answer where it is None.

    Returns:
        ``val`` and, where it was opened, ``test``: metric names to values; with ``_low`` and ``_high`` at the
        end of a name, the ends of a test score's 95% interval; and ``groups``, in how many of these the
        split's items come, where they do. ``calibration``: what the bundle's
        description is to say of it; the features that its verdicts go by lie beside the bundle then, as
        `abstention.saved` finds them. ``flips``: whether mirrored images besides make it better. ``mix``,
        where the mean of several finalists is better than the winner: ``members``, their positions, and
        ``scales``, with ``val``, ``calibration`` and ``flips`` of that mean. ``left_out``: positions of
        finalists whose value isn't reproduced, and why.

    Raises:
        VerificationError: a recorded value isn't reproduced or the least one isn't reached, and the test
            split is closed; or the model doesn't load, or it was broken off.
        SearchError: the items aren't there as they were, so that no model can be verified.
    """
    question = {
        "metric": metric,
        "values": list(values),
        "test": test,
        "least": least,
        "mix": None if mix is None else list(mix),
    }
    request = json.dumps({"bundle": str(bundle), "spec": spec, **question, "items": items.to_json()})
    answer = (measurer or Measurer()).ask(request, stopping=stopping, progress=progress)
    return scores_of(bundle, answer)


def scores_of(bundle: Path, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Scores out of what `measuring.answer` told.

    Raises:
        VerificationError: the bundle is refused.
        SearchError: nothing can be measured.
    """
    if "changed" in answer:
        raise SearchError(f"The model can't be verified. {answer['changed']}", hint=answer["hint"])
    for why in ("error", "died"):
        if why in answer:
            raise VerificationError(f"The model of {bundle} can't be verified: {answer[why]}")
    scores: dict[str, Any] = answer["scores"]
    return scores
