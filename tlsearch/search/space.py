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

from tlsearch.contracts import BackboneInfo, HeadStrategy, Space, Strategy
from tlsearch.errors import SpecError, did_you_mean
from tlsearch.records import Params, Scalar
from tlsearch.search.declared import Declared, declared, exists
from tlsearch.spec import Override

ANY = "*"
"""``*.knob`` in a study file overrides that knob in every strategy that has it."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One backbone under one strategy: the knobs to choose there, and the points to try first.

    ``heads`` says that many points of this branch can be fitted together.
    """

    backbone: str
    strategy: str
    knobs: Space
    starts: tuple[Params, ...]
    heads: bool

    def exists(self, knob: str, chosen: Mapping[str, Scalar]) -> bool:
        """Whether a knob is to be chosen, given what is: ``choice.knob`` hangs on ``choice``."""
        return exists(knob, chosen, self.knobs)

    def ordered(self) -> list[str]:
        """Knobs in an order in which those that others hang on come first."""
        return sorted(self.knobs, key=lambda knob: ("." in knob, knob))


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
    fixed: Mapping[str, Scalar] = MappingProxyType({}),
) -> SearchSpace:
    """The space of a study.

    Args:
        strategies: by name.
        backbones: of the study.
        overrides: of the user.
        fixed: values of knobs, wherever a strategy has one of that name and the user says nothing of it.

    Raises:
        PluginError: a strategy's own space or starting points are wrong.
        SpecError: an override names no knob, or wants a range that the knob can't have.
    """
    own = {
        (info.name, name): declared(name, strategy, info)
        for info in backbones
        for name, strategy in strategies.items()
    }
    wanted = _resolve(own, overrides)
    branches = []
    for info in backbones:
        for name, strategy in strategies.items():
            knobs = dict(own[(info.name, name)].knobs)
            for knob in knobs:
                if (name, knob) in wanted:
                    key, override = wanted[(name, knob)]
                    knobs[knob] = _overridden(key, knobs[knob], override)
                    if knob == "freeze_depth":
                        _check_fraction(key, knobs[knob])
                elif knob in fixed:
                    knobs[knob] = CategoricalDistribution([fixed[knob]])
            branch = Branch(info.name, name, knobs, (), isinstance(strategy, HeadStrategy))
            starts = _unique([_fitted(branch, start) for start in own[(info.name, name)].starts])
            branches.append(replace(branch, starts=tuple(starts)))
    return SearchSpace(tuple(branches))


def draw(branch: Branch, chance: random.Random) -> Params:
    """A point of a branch by chance."""
    chosen: dict[str, Scalar] = {}
    for knob in branch.ordered():
        distribution = branch.knobs[knob]
        if not branch.exists(knob, chosen):
            continue
        if isinstance(distribution, CategoricalDistribution):
            chosen[knob] = chance.choice(distribution.choices)
        elif isinstance(distribution, FloatDistribution | IntDistribution):
            chosen[knob] = _at(distribution, chance.random())
    return chosen


def grid(branch: Branch, *, points: int = 3) -> Iterator[Params]:
    """Every combination of a branch: all choices, and ``points`` values of each range."""
    yield from _grid(branch, branch.ordered(), {}, points)


def _grid(branch: Branch, knobs: Sequence[str], chosen: dict[str, Scalar], points: int) -> Iterator[Params]:
    if not knobs:
        yield dict(chosen)
        return
    knob, rest = knobs[0], knobs[1:]
    if not branch.exists(knob, chosen):
        yield from _grid(branch, rest, chosen, points)
        return
    for value in _values(branch.knobs[knob], points):
        yield from _grid(branch, rest, {**chosen, knob: value}, points)


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
    for name, knob in dict.fromkeys((name, knob) for (_, name), space in own.items() for knob in space.knobs):
        known.setdefault(f"{name}.{knob}", []).append((name, knob))
        known.setdefault(f"{ANY}.{knob}", []).append((name, knob))
    wanted: dict[tuple[str, str], tuple[str, Override]] = {}
    # A strategy's own override goes before one for all.
    for key, override in sorted(overrides.items(), key=lambda item: not item[0].startswith(ANY)):
        if key not in known:
            named = [name for name in known if not name.startswith(ANY)]
            suggestion = did_you_mean(key, named)
            raise SpecError(
                f'space: there is no knob "{key}" in this study. {suggestion}'.strip(),
                hint=f"Knobs: {', '.join(sorted(named))}",
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
    """A value of the kind that the knob holds."""
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
    for knob in branch.ordered():
        if not branch.exists(knob, chosen):
            continue
        distribution = branch.knobs[knob]
        if knob in start and _contains(distribution, start[knob]):
            chosen[knob] = start[knob]
        elif isinstance(distribution, CategoricalDistribution):
            chosen[knob] = distribution.choices[0]
        elif isinstance(distribution, FloatDistribution | IntDistribution):
            value = start.get(knob)
            if isinstance(value, int | float) and not isinstance(value, bool):
                chosen[knob] = _nearest(distribution, float(value))
            else:
                chosen[knob] = _at(distribution, 0.5)
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
