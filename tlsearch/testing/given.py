"""What an author gives a strategy's checks: values of hyperparameters, and names of hooks."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence

from optuna.distributions import BaseDistribution, CategoricalDistribution

from tlsearch.contracts import HeadStrategy, Space, Strategy
from tlsearch.errors import InputError, did_you_mean
from tlsearch.records import Scalar
from tlsearch.search.space_validation import inside

ALIKE = 0.85
"""How alike a method's name and a hook's are, as difflib measures it, where it is a slip of the pen."""


def refuse_params(strategy: str, params: Mapping[str, Scalar], spaces: Sequence[Space]) -> None:
    """Refuse values that no trial of a study could have.

    Args:
        strategy: its name, for errors.
        params: values by hyperparameter.
        spaces: the strategy's, for each backbone that the checks use: a value may be for one of them alone.

    Raises:
        InputError: a hyperparameter or a value is in none of the spaces.
    """
    known = list(dict.fromkeys(name for space in spaces for name in space))
    for name, value in params.items():
        if name not in known:
            raise InputError(
                f'{strategy} has no hyperparameter "{name}". {did_you_mean(name, known)}'.strip(),
                hint=f"Hyperparameters: {', '.join(known) or 'none'}.",
            )
        ranges = [space[name] for space in spaces if name in space]
        if not any(inside(one, value) for one in ranges):
            right = " or ".join(dict.fromkeys(_told(one) for one in ranges))
            raise InputError(f"{strategy}: {name}={value!r} is outside its space; right is {right}.")


def misspelt_hooks(strategy: type[Strategy]) -> dict[str, str]:
    """Public methods that are no hooks and are called nearly as one, with that hook's name."""
    base = HeadStrategy if issubclass(strategy, HeadStrategy) else Strategy
    hooks = [name for name, _ in inspect.getmembers(base, inspect.isfunction) if name[0] != "_"]
    own = [name for name, _ in inspect.getmembers(strategy, inspect.isfunction) if name[0] != "_"]
    near = {
        name: difflib.get_close_matches(name, hooks, n=1, cutoff=ALIKE) for name in own if name not in hooks
    }
    return {name: found[0] for name, found in near.items() if found}


def _told(distribution: BaseDistribution) -> str:
    """A range as people read it."""
    if isinstance(distribution, CategoricalDistribution):
        return "one of " + ", ".join(map(str, distribution.choices))
    low, high = getattr(distribution, "low"), getattr(distribution, "high")  # noqa: B009 - not of the base
    return f"{low:g} to {high:g}"
