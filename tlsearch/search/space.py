"""Strategies' spaces and the user's overrides -> one conditional space."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tlsearch.contracts import BackboneInfo, HeadStrategy, PlaceTask, Space, Strategy, Task
from tlsearch.errors import SpecError, did_you_mean
from tlsearch.records import Params, Scalar
from tlsearch.search.space_validation import Declared, declared, exists
from tlsearch.spec import Override

ANY = "*"
"""``*.hyperparameter`` in a study file overrides that hyperparameter in every strategy that has it."""

DRAWN = "sampling"
"""The ``balance`` that draws batches, which heads on stored features are not fitted by."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One backbone under one strategy: the hyperparameters to choose there, and the points to try first.

    ``heads`` says that many points of this branch can be fitted together.
    """

    backbone: str
    strategy: str
    hyperparameters: Space
    starts: tuple[Params, ...]
    heads: bool

    @property
    def frozen(self) -> bool:
        """Whether it trains a head or a decoder alone: the whole backbone is frozen at every point."""
        depth = self.hyperparameters.get("freeze_depth")
        return self.heads or (isinstance(depth, CategoricalDistribution) and depth.choices == (1.0,))

    def exists(self, hyperparameter: str, chosen: Mapping[str, Scalar]) -> bool:
        """Whether a hyperparameter is to be chosen, given what is: ``choice.name`` hangs on ``choice``."""
        return exists(hyperparameter, chosen, self.hyperparameters)

    def ordered(self) -> list[str]:
        """Hyperparameters in an order in which those that others hang on come first."""
        return sorted(
            self.hyperparameters, key=lambda hyperparameter: ("." in hyperparameter, hyperparameter)
        )


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """All branches of a study."""

    branches: tuple[Branch, ...]

    @property
    def strategies(self) -> list[str]:
        """Names, in the study's order."""
        return list(dict.fromkeys(branch.strategy for branch in self.branches))

    @property
    def backbones(self) -> list[str]:
        """Names, in the study's order."""
        return list(dict.fromkeys(branch.backbone for branch in self.branches))

    def branch(self, backbone: str, strategy: str) -> Branch:
        """The branch of that backbone and strategy."""
        return next(b for b in self.branches if b.backbone == backbone and b.strategy == strategy)


def build(
    strategies: Mapping[str, Strategy],
    backbones: Sequence[BackboneInfo],
    overrides: Mapping[str, Override],
    *,
    task: Task | None = None,
    metric: str = "",
    fixed: Mapping[str, Scalar] = MappingProxyType({}),
) -> SearchSpace:
    """The space of a study.

    Args:
        strategies: by name.
        backbones: of the study.
        overrides: of the user.
        task: what is learned; its losses, and how it makes up for unequal classes, are hyperparameters of
            strategies that train by its loss.
        metric: the study's.
        fixed: values of hyperparameters, wherever a strategy has one of that name and the user says nothing
            of it.

    Raises:
        PluginError: a strategy's own space or starting points are wrong.
        SpecError: an override names no hyperparameter, or wants a range that the hyperparameter can't have.
    """
    own = {
        (info.name, name): _with_loss(declared(name, strategy, info), strategy, task, metric)
        for info in backbones
        for name, strategy in strategies.items()
    }
    if isinstance(task, PlaceTask):
        movable = {info.name: info.inputs.movable for info in backbones}
        own = {key: replace(one, hyperparameters=_moving(one, movable[key[0]])) for key, one in own.items()}
    wanted = _resolve(own, overrides)
    branches = []
    for info in backbones:
        for name, strategy in strategies.items():
            hyperparameters = dict(own[(info.name, name)].hyperparameters)
            for hyperparameter in hyperparameters:
                if (name, hyperparameter) in wanted:
                    key, override = wanted[(name, hyperparameter)]
                    hyperparameters[hyperparameter] = _overridden(
                        key, hyperparameters[hyperparameter], override
                    )
                    if hyperparameter == "freeze_depth":
                        _check_fraction(key, hyperparameters[hyperparameter])
                elif hyperparameter in fixed:
                    hyperparameters[hyperparameter] = CategoricalDistribution([fixed[hyperparameter]])
            branch = Branch(info.name, name, hyperparameters, (), isinstance(strategy, HeadStrategy))
            starts = _unique([_fitted(branch, start) for start in own[(info.name, name)].starts])
            branches.append(replace(branch, starts=tuple(starts)))
    return SearchSpace(tuple(branches))


def _with_loss(found: Declared, strategy: Strategy, task: Task | None, metric: str) -> Declared:
    """A strategy's hyperparameters, with the task's losses and without what these have no use for."""
    if task is None or not strategy.task_loss:
        return found
    hyperparameters = dict(found.hyperparameters)
    if "label_smoothing" in hyperparameters and not task.smooths:
        hyperparameters["label_smoothing"] = CategoricalDistribution([0.0])
    if len(task.losses_by_name) > 1:
        hyperparameters.setdefault("loss", CategoricalDistribution(task.losses_by_name))
    ways = [way for way in task.balances(metric) if way != DRAWN or not isinstance(strategy, HeadStrategy)]
    if ways:
        hyperparameters["balance"] = CategoricalDistribution(ways)
    return replace(found, hyperparameters=hyperparameters)


def _moving(one: Declared, movable: Sequence[str]) -> Space:
    """Hyperparameters without the augmentation that can't move places."""
    own = one.hyperparameters.get("augmentation")
    if not isinstance(own, CategoricalDistribution):
        return one.hyperparameters
    kept = [choice for choice in own.choices if choice in movable]
    return {**one.hyperparameters, "augmentation": CategoricalDistribution(kept or ["none"])}


def draw(branch: Branch, chance: random.Random) -> Params:
    """A point of a branch by chance."""
    chosen: dict[str, Scalar] = {}
    for hyperparameter in branch.ordered():
        distribution = branch.hyperparameters[hyperparameter]
        if not branch.exists(hyperparameter, chosen):
            continue
        if isinstance(distribution, CategoricalDistribution):
            chosen[hyperparameter] = chance.choice(distribution.choices)
        elif isinstance(distribution, FloatDistribution | IntDistribution):
            chosen[hyperparameter] = _at(distribution, chance.random())
    return chosen


def grid(branch: Branch, *, points: int = 3) -> Iterator[Params]:
    """Every combination of a branch: all choices, and ``points`` values of each range."""
    yield from _grid(branch, branch.ordered(), {}, points)


def _grid(
    branch: Branch, hyperparameters: Sequence[str], chosen: dict[str, Scalar], points: int
) -> Iterator[Params]:
    if not hyperparameters:
        yield dict(chosen)
        return
    hyperparameter, rest = hyperparameters[0], hyperparameters[1:]
    if not branch.exists(hyperparameter, chosen):
        yield from _grid(branch, rest, chosen, points)
        return
    for value in _values(branch.hyperparameters[hyperparameter], points):
        yield from _grid(branch, rest, {**chosen, hyperparameter: value}, points)


def _values(distribution: BaseDistribution, points: int) -> list[Scalar]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if not isinstance(distribution, FloatDistribution | IntDistribution) or distribution.single():
        return [getattr(distribution, "low")]  # noqa: B009 - the base class declares no bounds
    shares = [index / (points - 1) for index in range(points)]
    return list(dict.fromkeys(_at(distribution, share) for share in shares))


def _at(distribution: FloatDistribution | IntDistribution, share: float) -> float | int:
    """The value a share of the way from low to high, on the distribution's own scale and steps."""
    low, high = float(distribution.low), float(distribution.high)
    return _nearest(
        distribution, low * (high / low) ** share if distribution.log else low + (high - low) * share
    )


def _nearest(distribution: FloatDistribution | IntDistribution, value: float) -> float | int:
    """The value of the distribution that is nearest."""
    low, high = float(distribution.low), float(distribution.high)
    if distribution.step and not distribution.log:
        value = low + round((value - low) / distribution.step) * distribution.step
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else value


def _resolve(
    own: Mapping[tuple[str, str], Declared], overrides: Mapping[str, Override]
) -> dict[tuple[str, str], tuple[str, Override]]:
    known: dict[str, list[tuple[str, str]]] = {}
    for name, hyperparameter in dict.fromkeys(
        (name, hyperparameter) for (_, name), space in own.items() for hyperparameter in space.hyperparameters
    ):
        known.setdefault(f"{name}.{hyperparameter}", []).append((name, hyperparameter))
        known.setdefault(f"{ANY}.{hyperparameter}", []).append((name, hyperparameter))
    wanted: dict[tuple[str, str], tuple[str, Override]] = {}
    # A strategy's own override goes before one for all.
    for key, override in sorted(overrides.items(), key=lambda item: not item[0].startswith(ANY)):
        if key not in known:
            named = [name for name in known if not name.startswith(ANY)]
            suggestion = did_you_mean(key, named)
            raise SpecError(
                f'space: there is no hyperparameter "{key}" in this study. {suggestion}'.strip(),
                hint=f"Hyperparameters: {', '.join(sorted(named))}",
            )
        for place in known[key]:
            wanted[place] = (key, override)
    return wanted


def _overridden(key: str, given: BaseDistribution, override: Override) -> BaseDistribution:
    try:
        if override.value is not None:
            return CategoricalDistribution([_typed(given, override.value)])
        if override.choices is not None:
            return CategoricalDistribution([_typed(given, choice) for choice in override.choices])
        if isinstance(given, FloatDistribution | IntDistribution):
            log = given.log if override.log is None else override.log
            low = given.low if override.low is None else override.low
            high = given.high if override.high is None else override.high
            if isinstance(given, FloatDistribution):
                step = override.step if override.step is not None else (None if log else given.step)
                return FloatDistribution(low, high, log=log, step=step)
            whole = [_whole(number) for number in (low, high, override.step or given.step)]
            return IntDistribution(whole[0], whole[1], log=log, step=1 if log else whole[2])
    except ValueError as error:
        raise SpecError(f"space: {key}: {error}") from None
    raise SpecError(f"space: {key} is a choice among {list(getattr(given, 'choices', ()))}, not a range.")


def _check_fraction(key: str, distribution: BaseDistribution) -> None:
    bounds = getattr(distribution, "choices", None) or (
        getattr(distribution, "low"),  # noqa: B009 - the base class declares no bounds
        getattr(distribution, "high"),  # noqa: B009
    )
    if not all(0 <= bound <= 1 for bound in bounds):
        raise SpecError(f"space: {key}: a freeze depth is a fraction between 0 and 1, not {max(bounds)}.")


def _typed(given: BaseDistribution, value: Scalar) -> Scalar:
    """A value of the kind that the hyperparameter holds."""
    if isinstance(given, FloatDistribution | IntDistribution):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"must be a finite number, not {value!r}")
        if isinstance(given, IntDistribution):
            return _whole(value)
        if given.log and value <= 0:
            raise ValueError(f"must be above 0, not {value!r}")
        return float(value)
    kinds = {type(choice) for choice in getattr(given, "choices", ())}
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kinds and type(value) not in kinds:
        names = " or ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"must be of type {names}, not {value!r}")
    return value


def _whole(value: float) -> int:
    if value != int(value):
        raise ValueError(f"must be a whole number, not {value!r}")
    return int(value)


def _fitted(branch: Branch, start: Params) -> Params:
    """A starting point moved into ranges that the user may have narrowed."""
    chosen: dict[str, Scalar] = {}
    for hyperparameter in branch.ordered():
        if not branch.exists(hyperparameter, chosen):
            continue
        distribution = branch.hyperparameters[hyperparameter]
        if hyperparameter in start and _contains(distribution, start[hyperparameter]):
            chosen[hyperparameter] = start[hyperparameter]
        elif isinstance(distribution, CategoricalDistribution):
            chosen[hyperparameter] = distribution.choices[0]
        elif isinstance(distribution, FloatDistribution | IntDistribution):
            value = start.get(hyperparameter)
            if isinstance(value, int | float) and not isinstance(value, bool):
                chosen[hyperparameter] = _nearest(distribution, float(value))
            else:
                chosen[hyperparameter] = _at(distribution, 0.5)
    return chosen


def _contains(distribution: BaseDistribution, value: Scalar) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if getattr(distribution, "log", False) and not (isinstance(value, int | float) and value > 0):
        return False  # Optuna has no logarithm of it, and raises
    return distribution._contains(distribution.to_internal_repr(value))


def _unique(points: Sequence[Params]) -> list[Params]:
    kept: list[Params] = []
    for point in points:
        if point not in kept:
            kept.append(point)
    return kept
