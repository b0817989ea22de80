"""What a strategy declares of its space for a backbone, checked before anything is searched in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tlsearch import registry
from tlsearch.contracts import BackboneInfo, Space, Strategy
from tlsearch.counts import kind_of
from tlsearch.errors import PluginError
from tlsearch.records import Params

HYPERPARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
KINDS = (FloatDistribution, IntDistribution, CategoricalDistribution)


@dataclass(frozen=True, slots=True)
class Declared:
    """A strategy's hyperparameters, and the points that it wants tried first."""

    hyperparameters: Space
    starts: tuple[Params, ...]


def declared(name: str, strategy: Strategy, backbone: BackboneInfo) -> Declared:
    """A strategy's space and starts, known to be usable.

    Raises:
        PluginError: its hooks raise, or return what isn't a space with points inside; names the package.
    """

    def refuse(what: str) -> PluginError:
        return PluginError(
            f"The {registry.described(registry.STRATEGIES, name)} can't be searched with {backbone.name}: "
            f"{what}.",
            hint=f"`tlsearch plugins check {name}` checks it; `strategies:` in the study file may leave it "
            "out.",
        )

    try:
        hyperparameters = strategy.space(backbone)
        if problem := space_problem(hyperparameters):
            raise refuse(problem)
        points = {"default": strategy.default(backbone)}
        points |= {f"starts[{index}]": point for index, point in enumerate(strategy.starts(backbone))}
    except PluginError:
        raise
    except (Exception, SystemExit) as error:  # whatever its hooks do is its fault
        lines = str(error).splitlines()
        raise refuse(": ".join([type(error).__name__, *lines[:1]])) from error
    for called, point in points.items():
        if problem := point_problem(point, hyperparameters):
            raise refuse(f"{called}: {problem}")
    del points["default"]
    return Declared(dict(hyperparameters), tuple(points.values()))


def space_problem(hyperparameters: object) -> str:
    """What is wrong with a space; empty where nothing is."""
    if not isinstance(hyperparameters, Mapping):
        return f"space() returned {kind_of(hyperparameters)}, not a dict of Optuna distributions by name"
    if odd := [
        hyperparameter
        for hyperparameter, distribution in hyperparameters.items()
        if not isinstance(distribution, KINDS)
    ]:
        return (
            f"space()[{odd[0]!r}] is {kind_of(hyperparameters[odd[0]])}; right are Optuna's "
            "FloatDistribution, IntDistribution and CategoricalDistribution"
        )
    choices = {choice for _, choice in _choices(hyperparameters)}
    for hyperparameter in hyperparameters:
        choice, dot, own = hyperparameter.rpartition(".") if isinstance(hyperparameter, str) else ("", "", "")
        if not HYPERPARAMETER.fullmatch(own):
            return (
                f"space() has a hyperparameter {hyperparameter!r}; a name is letters, digits and underscores"
            )
        if dot and choice not in choices:
            return f'space() has "{hyperparameter}", which is for "{choice}", and no choice is that'
    depth = hyperparameters.get("freeze_depth")
    bounds = getattr(depth, "choices", None) or (getattr(depth, "low", 0.0), getattr(depth, "high", 1.0))
    if not all(isinstance(bound, int | float) and 0 <= bound <= 1 for bound in bounds):
        return f"freeze_depth is a fraction between 0 and 1, not {depth}"
    return ""


def point_problem(point: object, hyperparameters: Space) -> str:
    """What is wrong with a point of a space; empty where nothing is."""
    if not isinstance(point, Mapping):
        return f"is {kind_of(point)}, not a dict of values by hyperparameter"
    expected = {
        hyperparameter for hyperparameter in hyperparameters if exists(hyperparameter, point, hyperparameters)
    }
    if unknown := sorted(str(hyperparameter) for hyperparameter in set(point) - expected):
        hint = "which doesn't exist there" if unknown[0] in hyperparameters else "which isn't in the space"
        return f'has a value for "{unknown[0]}", {hint}'
    if missing := sorted(expected - set(point)):
        return f'has no value for "{missing[0]}"'
    for hyperparameter, value in point.items():
        if not inside(hyperparameters[hyperparameter], value):
            return f"{hyperparameter}={value!r} is outside {hyperparameters[hyperparameter]}"
    return ""


def exists(hyperparameter: str, chosen: Mapping[str, Any], hyperparameters: Space) -> bool:
    """Whether a hyperparameter is to be chosen, given what is: ``choice.name`` hangs on ``choice``."""
    choice, dot, _ = hyperparameter.rpartition(".")
    return not dot or any(chosen.get(name) == other == choice for name, other in _choices(hyperparameters))


def inside(distribution: BaseDistribution, value: object) -> bool:
    """Whether a distribution can take a value."""
    if isinstance(distribution, CategoricalDistribution):
        return any(type(choice) is type(value) and choice == value for choice in distribution.choices)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return distribution._contains(distribution.to_internal_repr(value))


def _choices(hyperparameters: Mapping[Any, BaseDistribution]) -> Sequence[tuple[str, object]]:
    return [
        (name, choice)
        for name, distribution in hyperparameters.items()
        if isinstance(distribution, CategoricalDistribution)
        for choice in distribution.choices
    ]
