"""How trials ended, other than well: by state and reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tlsearch.counts import plural
from tlsearch.records import TrialRecord, TrialState

CUT = "CUT SHORT"
"""What is said of complete trials that trained for less than their length."""
REASON = 90
"""Characters of a reason in a line."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Trials that ended in one way: how many of each strategy, their numbers, and their seconds in all."""

    state: str
    reason: str
    trials: tuple[int, ...]
    strategies: tuple[tuple[str, int], ...]
    seconds: float

    @property
    def count(self) -> int:
        """Trials that ended so."""
        return len(self.trials)


def endings(trials: Sequence[TrialRecord]) -> list[Ending]:
    """The ways in which trials ended, the most frequent first; those that ended well are left out."""
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for trial in trials:
        if trial.cut_short:
            groups.setdefault((CUT, trial.reason), []).append(trial)
        elif trial.state is not TrialState.COMPLETE:
            reason = re.sub(r" \(after epoch \d+ of \d+\)$", "", trial.reason)
            groups.setdefault((trial.state.value, reason), []).append(trial)
    return [
        Ending(
            state=state,
            reason=reason or "still running",
            trials=tuple(trial.number for trial in some),
            strategies=tuple(Counter(trial.strategy for trial in some).most_common()),
            seconds=sum(trial.costs.seconds for trial in some),
        )
        for (state, reason), some in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]


def in_a_line(trials: Sequence[TrialRecord]) -> str:
    """All of it in one line, such as ``20 trials: 17 complete, 3 pruned (others were better)``."""
    complete = sum(trial.state is TrialState.COMPLETE for trial in trials)
    told = [f"{complete} complete"]
    for ending in endings(trials):
        reason = ending.reason if len(ending.reason) <= REASON else f"{ending.reason[: REASON - 1]}…"
        of_these = " of these" if ending.state == CUT else ""
        told.append(f"{ending.count}{of_these} {ending.state.lower()} ({reason})")
    return f"{plural(len(trials), 'trial')}: {', '.join(told)}"
