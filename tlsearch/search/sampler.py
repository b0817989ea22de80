"""Optuna in memory: ask, tell, and rebuild from the records.

`allocation` decides which branch (a backbone with a strategy) gets the next trial; Optuna sets its
hyperparameters, with one study for each branch. In a study that branches share, trials that ASHA stops rank
behind every finished one, so that finished heads drive out fine-tuning that would beat them; and the best
learning rate of one backbone is proposed for another whose best is a hundredth of it.

Optuna proposes and forgets nothing while the driver lives; the database is the truth, from which a new driver
rebuilds this. No result is ever read back from here.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import warnings
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial, create_trial

from tlsearch.records import Params, Scalar, TrialRecord, TrialState
from tlsearch.search.allocation import Allocation, Key, key
from tlsearch.search.space import Branch, SearchSpace, draw, grid

STARTUP = 6
"""Trials of a branch before TPE models it; its starting points are among them."""
HISTORY = (120, 180)
"""A study's history is cut to the first number of trials when it passes the second."""
MAX_REPEATS = 20
"""Proposals already tried, in a row, after which chance proposes, and then what is left of a fine grid."""
FINE_GRID = 100
"""Values of a range that are then looked at."""
DEFAULT_TRIALS = 60
"""Budget of a study that names none."""
_VIEWS = {"augmentation"}
"""Knobs that say which views of the images the features are of."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A point without number or seed."""

    backbone: str
    strategy: str
    params: Params

    @property
    def branch(self) -> Key:
        """Its branch."""
        return self.backbone, self.strategy

    @property
    def key(self) -> str:
        """Equal for equal points."""
        return json.dumps([self.backbone, self.strategy, dict(self.params)], sort_keys=True)


@dataclass(frozen=True, slots=True)
class _Asked:
    proposal: Proposal
    trial: Trial | None  # None: a point that an earlier driver asked for, or a grid's


class Sampler:
    """Proposes points and learns from results. Numbers are the study's trial numbers."""

    def __init__(
        self, space: SearchSpace, *, kind: str, minimize: bool, seed: int, trials: int = DEFAULT_TRIALS
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = space
        self._sign = -1 if minimize else 1
        self._studies = {
            key(branch): optuna.create_study(
                direction="minimize" if minimize else "maximize", sampler=_sampler(kind, seed + index)
            )
            for index, branch in enumerate(space.branches)
        }
        self._allocation = Allocation(space, trials=trials, ranked=kind == "tpe")
        self._chance = random.Random(seed)
        self._seen: set[str] = set()
        self._asked: dict[int, _Asked] = {}
        self._starts = {key(branch): deque(branch.starts) for branch in space.branches}
        self._grid = {key(branch): grid(branch) for branch in space.branches} if kind == "grid" else None

    def rebuild(self, records: Iterable[TrialRecord]) -> None:
        """Learn from finished trials of an earlier driver, and propose none of their points again."""
        for record in records:
            proposal = Proposal(record.backbone, record.strategy, record.params)
            self._take(proposal)
            self._note(record.number, proposal, record.value)
            self._learn(proposal, record.state, record.value)
        for branch in self._studies:
            self._shorten(branch)

    def resume(self, number: int, proposal: Proposal) -> None:
        """Take a point as asked that an earlier driver asked for and that is to run again."""
        self._take(proposal)
        self._asked[number] = _Asked(proposal, None)

    def ask(self, first_number: int, *, most: int, heads: int) -> list[Proposal]:
        """Propose points that fit into one worker's turn, none that was proposed before.

        Args:
            first_number: of the trial that the first becomes; the others follow.
            most: how many at most.
            heads: how many at most where they are heads to be fitted together. In a branch's first turn they
                all take the same features.

        Returns:
            One point, or several heads of one branch; none when the space is exhausted.
        """
        first = self._next(first_number, None, {})
        if first is None:
            return []
        proposals = [first]
        branch = self.space.branch(first.backbone, first.strategy)
        # Features of augmented views take a pass over the data for each view: a first turn is to be quick.
        begins = self._allocation.tried(branch) == 1
        alike = {knob: first.params[knob] for knob in _VIEWS & first.params.keys()} if begins else {}
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
        study = self._studies[asked.proposal.branch]
        if asked.trial is None:
            self._learn(asked.proposal, state, value)
        elif state is TrialState.COMPLETE and _finite(value):
            study.tell(asked.trial, value)
        elif state is TrialState.PRUNED and value is not None and _finite(value):
            asked.trial.report(value, 0)
            study.tell(asked.trial, state=optuna.trial.TrialState.PRUNED)
        elif state is TrialState.CANCELLED:
            study.tell(asked.trial, state=optuna.trial.TrialState.FAIL)
        else:
            # TPE doesn't look at failed trials and would go on proposing their like; one that was pruned
            # before it had a value ranks last.
            study.tell(asked.trial, state=optuna.trial.TrialState.PRUNED)
        self._shorten(asked.proposal.branch)

    def _shorten(self, branch: Key) -> None:
        """Keep a study's history short: TPE reads all of it for every proposal.

        The best are kept, which its good region is made of, and the latest, which show where it has been.
        """
        study = self._studies[branch]
        if len(study.get_trials(deepcopy=False)) <= HISTORY[1]:
            return
        ended = study.get_trials(
            deepcopy=False,
            states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED),
        )
        complete = [trial for trial in ended if trial.value is not None]
        best = sorted(complete, key=lambda t: -self._sign * (t.value or 0.0))[: HISTORY[0] // 2]
        latest = ended[-(HISTORY[0] - len(best)) :]
        kept = {trial.number: trial for trial in (*best, *latest)}
        shorter = optuna.create_study(direction=study.direction, sampler=study.sampler)
        shorter.add_trials([kept[number] for number in sorted(kept)])
        self._studies[branch] = shorter
        for number, asked in self._asked.items():
            if asked.proposal.branch == branch:  # its trial belongs to the study that is gone
                self._asked[number] = _Asked(asked.proposal, None)

    def _take(self, proposal: Proposal) -> None:
        self._seen.add(proposal.key)
        self._allocation.take(proposal.backbone, proposal.strategy, proposal.params)

    def _note(self, number: int, proposal: Proposal, value: float | None) -> None:
        if value is not None:
            self._allocation.note(number, proposal.backbone, proposal.strategy, self._sign * value)

    def _next(self, number: int, within: Branch | None, fixed: Params) -> Proposal | None:
        """The next point that is new, of a given branch or of the one whose turn it is.

        ``fixed`` holds for what is drawn, as long as that suffices for a new point.
        """
        while True:
            branch = within or self._allocation.next()
            for _ in range(MAX_REPEATS if branch is not None else 0):
                asked = self._draw(branch, fixed)
                if asked is None:
                    break
                if asked.proposal.key not in self._seen:
                    self._take(asked.proposal)
                    self._asked[number] = asked
                    return asked.proposal
                if asked.trial is not None:
                    self._studies[asked.proposal.branch].tell(asked.trial, state=optuna.trial.TrialState.FAIL)
            if branch is None:
                return None
            left = self._left(branch)
            if left is not None:
                self._take(left)
                self._asked[number] = _Asked(left, None)
                return left
            self._allocation.exhaust(branch)
            if within is not None:
                return None

    def _left(self, branch: Branch) -> Proposal | None:
        """A point that nobody proposed yet: samplers insist on their favourites where points are few."""
        if self._grid is not None:
            return None
        by_chance = (draw(branch, self._chance) for _ in range(MAX_REPEATS))
        for params in itertools.chain(by_chance, grid(branch, points=FINE_GRID)):
            proposal = Proposal(branch.backbone, branch.strategy, params)
            if proposal.key not in self._seen:
                return proposal
        return None

    def _draw(self, branch: Branch | None, fixed: Params) -> _Asked | None:
        if branch is None:
            return None
        starts = self._starts[key(branch)]
        if starts:
            return self._ask_optuna(branch, starts.popleft())
        if self._grid is not None:
            return self._from_grid(branch)
        return self._ask_optuna(branch, fixed)

    def _ask_optuna(self, branch: Branch, fixed: Params) -> _Asked:
        if self._grid is not None:
            return _Asked(Proposal(branch.backbone, branch.strategy, fixed), None)
        study = self._studies[key(branch)]
        if fixed:
            study.enqueue_trial(dict(fixed))
        trial = study.ask()
        chosen: dict[str, Scalar] = {}
        for knob in branch.ordered():
            if branch.exists(knob, chosen):
                chosen[knob] = _suggest(trial, knob, branch.knobs[knob])
        return _Asked(Proposal(branch.backbone, branch.strategy, chosen), trial)

    def _from_grid(self, branch: Branch) -> _Asked | None:
        if self._grid is None:
            return None
        for params in self._grid[key(branch)]:
            proposal = Proposal(branch.backbone, branch.strategy, params)
            if proposal.key not in self._seen:  # by an earlier driver, or as a starting point
                return _Asked(proposal, None)
        return None

    def _learn(self, proposal: Proposal, state: TrialState, value: float | None) -> None:
        branch = next((b for b in self.space.branches if key(b) == proposal.branch), None)
        if branch is None or state is TrialState.CANCELLED or not state.final:
            return
        params = {knob: value for knob, value in proposal.params.items() if knob in branch.knobs}
        distributions: dict[str, BaseDistribution] = {knob: branch.knobs[knob] for knob in params}
        complete = state is TrialState.COMPLETE and _finite(value)
        told = {0: value} if state is TrialState.PRUNED and value is not None and _finite(value) else {}
        try:
            trial = create_trial(
                state=optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.PRUNED,
                value=value if complete else None,
                intermediate_values=told,
                params=params,
                distributions=distributions,
            )
        except ValueError:
            # The study's ranges were narrowed since: the point is outside of what is searched now.
            return
        self._studies[key(branch)].add_trial(trial)


def _sampler(kind: str, seed: int) -> optuna.samplers.BaseSampler:
    if kind != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP, seed=seed
        )


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Scalar:
    if isinstance(distribution, CategoricalDistribution):
        choice: Scalar = trial.suggest_categorical(name, distribution.choices)
        return choice
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    raise TypeError(f"{name}: {type(distribution).__name__} is not one of Optuna's own distributions")


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
