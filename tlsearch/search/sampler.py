"""Optuna in memory: ask, tell, and rebuild from the records.

`allocation` decides which branch (a backbone with a strategy) gets the next trial; Optuna sets its
hyperparameters, with one study (`History`) for each branch. In a study that branches share, trials that ASHA
stops rank behind every finished one, so that finished heads drive out fine-tuning that would beat them, and
the best learning rate of one backbone is proposed for another whose best is a hundredth of it.

The database is the truth, from which a new driver rebuilds this; no result is ever read back from here. What
is proposed depends on the seed, on the number of the trial that it becomes, and on the trials before it, and
not on what else this process has drawn: a search that was interrupted goes on as if it hadn't been.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import optuna

from tlsearch.records import EpochRecord, Params, TrialRecord, TrialState
from tlsearch.search.allocation import EXPLORATION, Allocation, key
from tlsearch.search.history import History, Proposal, Told
from tlsearch.search.space import Branch, SearchSpace, draw, grid

__all__ = ["Proposal", "Sampler"]

MAX_REPEATS = 20
"""Proposals already tried, in a row, after which chance proposes, and then what is left of a fine grid."""
FINE_GRID = 100
"""Values of a range that are then looked at."""
DEFAULT_TRIALS = 60
"""Budget of a study that names none."""
_VIEWS = {"augmentation"}
"""Hyperparameters that say which views of the images the features are of."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A point that isn't told yet, with the number of Optuna's trial; None where Optuna doesn't know it."""

    proposal: Proposal
    trial: int | None


class Sampler:
    """Proposes points and learns from results. Numbers are the study's trial numbers."""

    def __init__(
        self,
        space: SearchSpace,
        *,
        kind: str,
        minimize: bool,
        seed: int,
        trials: int = DEFAULT_TRIALS,
        exploration: float = EXPLORATION,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = space
        self._sign = -1 if minimize else 1
        self._seed = seed
        self._histories = {
            key(branch): History(branch, kind=kind, minimize=minimize) for branch in space.branches
        }
        self._allocation = Allocation(space, trials=trials, ranked=kind == "tpe", exploration=exploration)
        self._seen: set[str] = set()
        self._asked: dict[int, _Asked] = {}
        self._starts = {key(branch): deque(branch.starts) for branch in space.branches}
        self._grid = {key(branch): grid(branch) for branch in space.branches} if kind == "grid" else None

    def rebuild(
        self,
        records: Sequence[TrialRecord],
        *,
        elders: Sequence[TrialRecord] = (),
        curves: Mapping[int, Sequence[EpochRecord]] = MappingProxyType({}),
    ) -> None:
        """Know what an earlier driver knew, and propose none of its points again.

        Args:
            records: trials of the study; those that were cancelled or never ended are to run again.
            elders: trials that ended in studies that it was forked from.
            curves: learning curves by trial number: how far a trial came counts as `observe` had it.
        """
        own = sorted(records, key=lambda record: record.number)
        for number, record in [*enumerate(elders, -len(elders)), *((r.number, r) for r in own)]:
            proposal = Proposal(record.backbone, record.strategy, record.params)
            if number >= 0 and (record.state is TrialState.CANCELLED or not record.state.final):
                self.resume(number, proposal)
            else:
                self._take(proposal)
                if history := self._histories.get(proposal.branch):  # it may be searched no more
                    history.learn(Told(number, proposal, record.state, record.value))
            for value in (*(epoch.value for epoch in curves.get(number, ())), record.value):
                self._note(number, proposal, value)

    def resume(self, number: int, proposal: Proposal) -> None:
        """Take a point as asked that an earlier driver asked for and that is to run again."""
        if number not in self._asked:
            self._take(proposal)
            history = self._histories.get(proposal.branch)
            self._asked[number] = _Asked(proposal, history.begin(proposal) if history is not None else None)

    def ask(self, first_number: int, *, most: int, heads: int, heads_only: bool = False) -> list[Proposal]:
        """Propose points that fit into one worker's turn, none that was proposed before.

        Args:
            first_number: of the trial that the first becomes; the others follow.
            most: how many at most.
            heads: how many at most where they are heads to be fitted together. In a branch's first turn they
                all take the same features.
            heads_only: propose nothing else.

        Returns:
            One point, or several heads of one branch; none when the space is exhausted.
        """
        for branch_key, history in self._histories.items():
            running = {n: one for n, one in self._asked.items() if one.proposal.branch == branch_key}
            known = history.shorten({number: one.proposal for number, one in sorted(running.items())})
            self._asked |= {
                number: _Asked(running[number].proposal, trial) for number, trial in known.items()
            }
        first = self._next(first_number, None, {}, heads_only=heads_only)
        if first is None:
            return []
        proposals = [first]
        branch = self.space.branch(first.backbone, first.strategy)
        # Features of augmented views take a pass over the data for each view: a first turn is to be quick.
        begins = self._allocation.tried(branch) == 1
        alike = (
            {hyperparameter: first.params[hyperparameter] for hyperparameter in _VIEWS & first.params.keys()}
            if begins
            else {}
        )
        while branch.heads and len(proposals) < min(most, heads):
            following = self._next(first_number + len(proposals), branch, alike)
            if following is None:
                break
            proposals.append(following)
        return proposals

    def observe(self, number: int, value: float | None) -> None:
        """Take note of how far a trial has come: a branch needn't end a trial to show what it is worth."""
        if number in self._asked:
            self._note(number, self._asked[number].proposal, value)

    def tell(self, number: int, state: TrialState, value: float | None) -> None:
        """Learn how a trial ended. Values that aren't finite teach that the point fails."""
        asked = self._asked.pop(number, None)
        if asked is None:
            return
        self._note(number, asked.proposal, value)
        if history := self._histories.get(asked.proposal.branch):
            history.learn(Told(number, asked.proposal, state, value), asked.trial)

    def _take(self, proposal: Proposal) -> None:
        self._seen.add(proposal.key)
        self._allocation.take(proposal.backbone, proposal.strategy, proposal.params)

    def _note(self, number: int, proposal: Proposal, value: float | None) -> None:
        if value is not None:
            self._allocation.note(number, proposal.backbone, proposal.strategy, self._sign * value)

    def _next(
        self, number: int, within: Branch | None, fixed: Params, *, heads_only: bool = False
    ) -> Proposal | None:
        """The next point that is new, of a given branch or of the one whose turn it is.

        ``fixed`` holds for what is drawn, as long as that suffices for a new point.
        """
        while True:
            branch = within or self._allocation.next(heads_only=heads_only)
            for repeat in range(MAX_REPEATS if branch is not None else 0):
                asked = self._draw(branch, fixed, f"{self._seed} {number} {repeat}")
                if asked is None:
                    break
                if asked.proposal.key not in self._seen:
                    self._take(asked.proposal)
                    self._asked[number] = asked
                    return asked.proposal
                if asked.trial is not None:
                    self._histories[asked.proposal.branch].drop(asked.trial)
            if branch is None:
                return None
            left = self._left(branch, f"{self._seed} {number}")
            if left is not None:
                self.resume(number, left)
                return left
            self._allocation.exhaust(branch)
            if within is not None:
                return None

    def _left(self, branch: Branch, seed: str) -> Proposal | None:
        """A point that nobody proposed yet: samplers insist on their favourites where points are few."""
        if self._grid is not None:
            return None
        chance = random.Random(seed)
        by_chance = (draw(branch, chance) for _ in range(MAX_REPEATS))
        for params in itertools.chain(by_chance, grid(branch, points=FINE_GRID)):
            proposal = Proposal(branch.backbone, branch.strategy, params)
            if proposal.key not in self._seen:
                return proposal
        return None

    def _draw(self, branch: Branch | None, fixed: Params, seed: str) -> _Asked | None:
        if branch is None:
            return None
        starts = self._starts[key(branch)]
        while starts:
            start = starts.popleft()
            if Proposal(branch.backbone, branch.strategy, start).key not in self._seen:
                return self._ask(branch, start, seed)
        if self._grid is not None:
            return self._from_grid(branch)
        return self._ask(branch, fixed, seed)

    def _ask(self, branch: Branch, fixed: Params, seed: str) -> _Asked:
        if self._grid is not None:
            return _Asked(Proposal(branch.backbone, branch.strategy, fixed), None)
        params, trial = self._histories[key(branch)].ask(fixed, seed=f"{seed} {key(branch)}")
        return _Asked(Proposal(branch.backbone, branch.strategy, params), trial)

    def _from_grid(self, branch: Branch) -> _Asked | None:
        if self._grid is None:
            return None
        for params in self._grid[key(branch)]:
            proposal = Proposal(branch.backbone, branch.strategy, params)
            if proposal.key not in self._seen:  # by an earlier driver, or as a starting point
                return _Asked(proposal, None)
        return None
