"""The Optuna study in memory: ask, tell, and rebuild from the records.

Optuna proposes and forgets nothing while the driver lives; the database is the truth, from which a new driver
rebuilds this. No result is ever read back from here.
"""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
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
from tlsearch.search.space import Branch, SearchSpace, grid

MAX_REPEATS = 50
"""Proposals already tried, in a row, after which a space counts as exhausted."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A point without number or seed."""

    backbone: str
    strategy: str
    params: Params

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

    def __init__(self, space: SearchSpace, *, kind: str, minimize: bool, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = space
        self.kind = kind
        self._study = optuna.create_study(
            direction="minimize" if minimize else "maximize", sampler=_sampler(kind, seed)
        )
        self._seen: set[str] = set()
        self._asked: dict[int, _Asked] = {}
        self._starts = deque(_interleaved(space))
        self._grid = _all_points(space) if kind == "grid" else None

    def rebuild(self, records: Iterable[TrialRecord]) -> None:
        """Learn from finished trials of an earlier driver, and propose none of their points again."""
        for record in records:
            proposal = Proposal(record.backbone, record.strategy, record.params)
            self._seen.add(proposal.key)
            self._learn(proposal, record.state, record.value)

    def resume(self, number: int, proposal: Proposal) -> None:
        """Take a point as asked that an earlier driver asked for and that is to run again."""
        self._seen.add(proposal.key)
        self._asked[number] = _Asked(proposal, None)

    def ask(self, first_number: int, *, most: int, heads: int) -> list[Proposal]:
        """Propose points that fit into one worker's turn, none that was proposed before.

        Args:
            first_number: of the trial that the first becomes; the others follow.
            most: how many at most.
            heads: how many at most where they are heads to be fitted together.

        Returns:
            One point, or several heads of one branch; none when the space is exhausted.
        """
        first = self._next(first_number, None)
        if first is None:
            return []
        proposals = [first]
        branch = self.space.branch(first.backbone, first.strategy)
        while branch.heads and len(proposals) < min(most, heads):
            following = self._next(first_number + len(proposals), branch)
            if following is None:
                break
            proposals.append(following)
        return proposals

    def tell(self, number: int, state: TrialState, value: float | None) -> None:
        """Learn how a trial ended. Values that aren't finite teach that the point fails."""
        asked = self._asked.pop(number, None)
        if asked is None:
            return
        if asked.trial is None:
            self._learn(asked.proposal, state, value)
        elif state is TrialState.COMPLETE and _finite(value):
            self._study.tell(asked.trial, value)
        elif state is TrialState.PRUNED and value is not None and _finite(value):
            asked.trial.report(value, 0)
            self._study.tell(asked.trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(asked.trial, state=optuna.trial.TrialState.FAIL)

    def _next(self, number: int, within: Branch | None) -> Proposal | None:
        for _ in range(MAX_REPEATS):
            asked = self._draw(within)
            if asked is None:
                return None
            if asked.proposal.key not in self._seen:
                self._seen.add(asked.proposal.key)
                self._asked[number] = asked
                return asked.proposal
            if asked.trial is not None:
                self._study.tell(asked.trial, state=optuna.trial.TrialState.FAIL)
        return None

    def _draw(self, within: Branch | None) -> _Asked | None:
        if within is None and self._starts:
            return self._start(self._starts.popleft())
        if within is not None:
            for start in self._starts:
                if (start.backbone, start.strategy) == (within.backbone, within.strategy):
                    self._starts.remove(start)
                    return self._start(start)
        if self._grid is not None:
            return self._from_grid(within)
        if within is not None:
            fixed = {"backbone": within.backbone, "strategy": within.strategy}
            self._study.enqueue_trial(fixed)
        return self._ask_optuna()

    def _start(self, proposal: Proposal) -> _Asked:
        if self._grid is not None:
            return _Asked(proposal, None)
        branch = self.space.branch(proposal.backbone, proposal.strategy)
        named = {self._dimension(branch, knob): value for knob, value in proposal.params.items()}
        self._study.enqueue_trial({"backbone": proposal.backbone, "strategy": proposal.strategy, **named})
        return self._ask_optuna()

    def _ask_optuna(self) -> _Asked:
        trial = self._study.ask()
        strategy = trial.suggest_categorical("strategy", self.space.strategies)
        backbone = trial.suggest_categorical("backbone", self.space.backbones)
        branch = self.space.branch(backbone, strategy)
        chosen: dict[str, Scalar] = {}
        for knob in branch.ordered():
            if branch.exists(knob, chosen):
                chosen[knob] = _suggest(trial, self._dimension(branch, knob), branch.knobs[knob])
        return _Asked(Proposal(backbone, strategy, chosen), trial)

    def _from_grid(self, within: Branch | None) -> _Asked | None:
        if self._grid is None:
            return None
        proposal = next(self._grid, None)
        if proposal is None:
            return None
        if within is not None and (proposal.backbone, proposal.strategy) != (
            within.backbone,
            within.strategy,
        ):
            self._grid = itertools.chain([proposal], self._grid)
            return None
        return _Asked(proposal, None)

    def _learn(self, proposal: Proposal, state: TrialState, value: float | None) -> None:
        branch = next(
            (
                b
                for b in self.space.branches
                if (b.backbone, b.strategy) == (proposal.backbone, proposal.strategy)
            ),
            None,
        )
        if branch is None or not _finite(value):
            return
        params: dict[str, Scalar] = {"backbone": proposal.backbone, "strategy": proposal.strategy}
        distributions: dict[str, BaseDistribution] = {
            "backbone": CategoricalDistribution(self.space.backbones),
            "strategy": CategoricalDistribution(self.space.strategies),
        }
        for knob, chosen in proposal.params.items():
            if knob in branch.knobs:
                params[self._dimension(branch, knob)] = chosen
                distributions[self._dimension(branch, knob)] = branch.knobs[knob]
        ended = {
            TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE,
            TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
        }.get(state)
        if ended is None or value is None:
            return
        try:
            trial = create_trial(
                state=ended,
                value=value if state is TrialState.COMPLETE else None,
                intermediate_values={0: value} if state is TrialState.PRUNED else None,
                params=params,
                distributions=distributions,
            )
        except ValueError:
            # The study's ranges were narrowed since: the point is outside of what is searched now.
            return
        self._study.add_trial(trial)

    def _dimension(self, branch: Branch, knob: str) -> str:
        """The sampler's name of a knob: shared by backbones where their ranges agree."""
        name = f"{branch.strategy}.{knob}"
        return name if self.space.shared(branch.strategy, knob) else f"{name}@{branch.backbone}"


def _sampler(kind: str, seed: int) -> optuna.samplers.BaseSampler:
    if kind != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)


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


def _interleaved(space: SearchSpace) -> Iterator[Proposal]:
    """Starting points: the first of every branch, then the second of every branch, ..."""
    longest = max((len(branch.starts) for branch in space.branches), default=0)
    for position in range(longest):
        for branch in space.branches:
            if position < len(branch.starts):
                yield Proposal(branch.backbone, branch.strategy, branch.starts[position])


def _all_points(space: SearchSpace) -> Iterator[Proposal]:
    for branch in space.branches:
        for params in grid(branch):
            yield Proposal(branch.backbone, branch.strategy, params)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
