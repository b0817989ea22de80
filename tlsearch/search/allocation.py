"""Which branch (a backbone with a strategy) gets the next trial.

Every backbone is first scouted with heads, or a decoder where a task has no heads: they cost little and tell
what its features are worth. Then the
reference strategy fine-tunes each promising backbone, since the best features do not always belong to the
backbone that fine-tunes best; a single backbone is fine-tuned twice. Each other strategy of heads follows
once. After that, most of the work goes to the branches that rank first, and up to a third of what is spent on
fine-tuning to strategies that were not tried yet.

Work is counted, not timed: a trial is charged by the share of the backbone that it trains. Seconds differ
from run to run, and the same seed must propose the same points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tlsearch.records import Params
from tlsearch.search.space import Branch, SearchSpace

HEAD_CHARGE = 0.25
"""Work of a head, where 1 is a trial that trains the whole backbone. It is far less in truth, but heads that
cost nothing would take every trial of the budget."""
LEAST_CHARGE = 0.2
"""Work of a trial that trains only the last layers: it still loads its data and evaluates."""
EXPLORATION = 1 / 3
"""Share of the work that may go to strategies' first trials."""
FIRST_FINE_TUNED = 2
"""Trials that fine-tune before other strategies of heads are tried: they take long, so they begin soon."""
FEWEST_PROMISING = 3
"""Backbones that are fine-tuned at least, where the study names so many."""
TRIALS_PER_PROMISING = 6
"""Trials of the budget for each backbone beyond those."""

BACKBONE_FALL, STRATEGY_FALL = 1.0, 2.0
"""How steeply shares of the work fall with the rank: 1, 1/2, 1/3, ... and 1, 1/4, 1/9, ..."""

Key = tuple[str, str]
T = TypeVar("T")


@dataclass
class _Tally:
    """What is known of a branch: its trials, their work, and the latest value of each, more being better."""

    tried: int = 0
    work: float = 0.0
    exhausted: bool = False
    values: dict[int, float] = field(default_factory=dict)

    @property
    def best(self) -> float | None:
        """The best of its trials as they stand now: a value that an epoch had and lost does not count."""
        return max(self.values.values(), default=None)


class Allocation:
    """Counts what branches were given and what came of it, and names the next one.

    Args:
        space: all branches; its strategies stand in the order in which they are to be tried.
        trials: budget of the study, which bounds how many backbones are promising.
        ranked: whether better branches get more trials; otherwise all get the same.
        exploration: share of the work that may go to strategies' first trials; 1 where each is to be tried.
    """

    def __init__(
        self, space: SearchSpace, *, trials: int, ranked: bool, exploration: float = EXPLORATION
    ) -> None:
        self.space = space
        self.exploration = exploration
        self.trials = trials
        self.ranked = ranked
        self._tallies = {key(branch): _Tally() for branch in space.branches}

    def take(self, backbone: str, strategy: str, params: Params) -> None:
        """Count a trial that was proposed."""
        tally = self._tallies.get((backbone, strategy))
        if tally is not None:
            tally.tried += 1
            heads = self.space.branch(backbone, strategy).heads
            tally.work += HEAD_CHARGE if heads else charge(params)

    def note(self, number: int, backbone: str, strategy: str, value: float) -> None:
        """Take note of a trial's value, signed so that more is better; the latest counts."""
        tally = self._tallies.get((backbone, strategy))
        if tally is not None and math.isfinite(value):
            tally.values[number] = value

    def tried(self, branch: Branch) -> int:
        """Trials that a branch was given."""
        return self._tallies[key(branch)].tried

    def exhaust(self, branch: Branch) -> None:
        """Take note that a branch has no point left."""
        self._tallies[key(branch)].exhausted = True

    def next(self, *, heads_only: bool = False) -> Branch | None:
        """The branch that gets the next trial; None where all are exhausted.

        With ``heads_only`` one of heads that was given none yet: dozens more of one strategy would only find
        the luckiest on the validation items.
        """
        open_ = [branch for branch in self.space.branches if not self._tallies[key(branch)].exhausted]
        every = (self._scout, self._reference, self._other_heads, self._new_strategy, self._refine)
        steps = (self._scout, self._other_heads) if heads_only else every
        return next((branch for choose in steps if (branch := choose(open_)) is not None), None)

    def _scouts(self, branch: Branch) -> bool:
        """Whether a first trial of it tells cheaply what a backbone's features are worth."""
        return branch.heads or (branch.frozen and not any(other.heads for other in self.space.branches))

    def _scout(self, open_: Sequence[Branch]) -> Branch | None:
        """A branch that scouts, on a backbone where none has."""
        scouted = {branch.backbone for branch in self._begun() if self._scouts(branch)}
        return next((b for b in open_ if self._scouts(b) and b.backbone not in scouted), None)

    def _reference(self, open_: Sequence[Branch]) -> Branch | None:
        """The first strategy that fine-tunes, on a promising backbone where none was fine-tuned."""
        reference = next((b.strategy for b in self.space.branches if not b.frozen), None)
        on = {b.backbone: b for b in open_ if b.strategy == reference}
        trials = {name: self._fine_tuned(name) for name in self.space.backbones}
        strategies = {branch.strategy for branch in self.space.branches}
        spare = self.trials > len(strategies)  # each is to have a trial
        fewest = 2 if spare and sum(trials.values()) < FIRST_FINE_TUNED else 1
        waiting = [name for name in self._promising() if name in on and trials[name] < fewest]
        return on[min(waiting, key=trials.__getitem__)] if waiting else None

    def _fine_tuned(self, backbone: str) -> int:
        """Trials on a backbone that trained some of its layers."""
        branches = [b for b in self.space.branches if b.backbone == backbone and not b.frozen]
        return sum(self._tallies[key(branch)].tried for branch in branches)

    def _promising(self) -> list[str]:
        """Backbones worth fine-tuning, those with the best heads first, else in the study's order."""
        backbones = self.space.backbones
        many = max(FEWEST_PROMISING, self.trials // TRIALS_PER_PROMISING)
        worth = {backbone: self._worth(backbone, scouts_only=True) for backbone in backbones}
        return sorted(backbones, key=lambda backbone: -worth[backbone])[:many]

    def _other_heads(self, open_: Sequence[Branch]) -> Branch | None:
        """Heads of a strategy that was not tried, on the best backbone: its features are there already."""
        return self._first_trial([branch for branch in open_ if branch.heads])

    def _new_strategy(self, open_: Sequence[Branch]) -> Branch | None:
        """A strategy that was not tried, on the best backbone, while first trials took less than a third.

        Heads don't count: dozens of them take less than one trial that fine-tunes.
        """
        dear = [branch for branch in self.space.branches if not branch.heads]
        work = sum(self._tallies[key(branch)].work for branch in dear) + 1
        begun = {branch.strategy for branch in dear if self._tallies[key(branch)].tried}
        first = sum(self._first_charge(strategy) for strategy in begun) + 1
        refinable = any(self._tallies[key(branch)].tried for branch in open_)
        if self.ranked and refinable and first > self.exploration * work:
            return None
        return self._first_trial(open_)

    def _first_trial(self, branches: Sequence[Branch]) -> Branch | None:
        """The first strategy among these branches that was not tried, on the best of its backbones."""
        begun = self._begun_strategies()
        new = [branch for branch in branches if branch.strategy not in begun]
        candidates = [branch for branch in new if branch.strategy == new[0].strategy]
        return max(candidates, key=lambda branch: self._worth(branch.backbone), default=None)

    def _begun_strategies(self) -> set[str]:
        return {branch.strategy for branch in self._begun()}

    def _first_charge(self, strategy: str) -> float:
        """Mean charge of the trials of a strategy that has some."""
        tallies = [self._tallies[key(b)] for b in self.space.branches if b.strategy == strategy]
        return sum(tally.work for tally in tallies) / sum(tally.tried for tally in tallies)

    def _refine(self, open_: Sequence[Branch]) -> Branch | None:
        """The backbone furthest behind its share of the work, and there the strategy furthest behind its own.

        Backbones' shares fall more slowly with their rank than strategies': a backbone's rank may rest on
        a single learning rate that suits another one.
        """
        if not open_:
            return None
        backbones = sorted({b.backbone for b in open_}, key=self.space.backbones.index)
        ranked = sorted(backbones, key=self._worth, reverse=True)
        backbone = self._due(ranked, [self._work(backbone) for backbone in ranked], BACKBONE_FALL)
        branches = sorted((b for b in open_ if b.backbone == backbone), key=self._promise, reverse=True)
        return self._due(branches, [self._tallies[key(b)].work for b in branches], STRATEGY_FALL)

    def _due(self, ranked: Sequence[T], work: Sequence[float], fall: float) -> T:
        """Which of them is to get the next unit of work, for shares that fall by rank as 1 / rank^fall."""
        fall = fall if self.ranked else 0.0
        return ranked[min(range(len(ranked)), key=lambda place: (work[place] + 1) * (place + 1) ** fall)]

    def _work(self, backbone: str) -> float:
        return sum(self._tallies[key(b)].work for b in self.space.branches if b.backbone == backbone)

    def _promise(self, branch: Branch) -> tuple[bool, float]:
        """Its best value; branches without one come after those that have one, by their backbone's worth."""
        own = self._tallies[key(branch)].best
        if own is not None:
            return True, own
        return False, self._worth(branch.backbone)

    def _worth(self, backbone: str, *, scouts_only: bool = False) -> float:
        """The best value on a backbone; infinite where there is none yet."""
        own = [branch for branch in self.space.branches if branch.backbone == backbone]
        branches = [branch for branch in own if self._scouts(branch) or not scouts_only]
        values = [best for b in branches if (best := self._tallies[key(b)].best) is not None]
        return max(values, default=math.inf)

    def _begun(self) -> list[Branch]:
        return [branch for branch in self.space.branches if self._tallies[key(branch)].tried]


def charge(params: Params) -> float:
    """Work of a trial that fine-tunes: 1 where the whole backbone trains for the usual length.

    Less, the deeper it is frozen, and in proportion to the ``length``.
    """
    return max(LEAST_CHARGE, (1 - _number(params, "freeze_depth", 0.0)) * length(params))


def length(params: Params) -> float:
    """How long a trial trains, where 1 is the usual length."""
    return _number(params, "length", 1.0)


def _number(params: Params, name: str, otherwise: float) -> float:
    value = params.get(name, otherwise)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise


def key(branch: Branch) -> Key:
    """Tells branches apart."""
    return branch.backbone, branch.strategy
