"""Numbers as people read them in a report."""

from __future__ import annotations

from collections.abc import Mapping

from tlsearch.counts import plural
from tlsearch.records import StudyRecord, TrialRecord

SHARES = frozenset({"accuracy", "balanced_accuracy", "macro_f1"})
"""Metrics that are shares of one, shown in percent."""


def score(metric: str, value: float | None) -> str:
    """A metric's value: percent for shares, else four digits."""
    if value is None:
        return "–"
    return f"{100 * value:.2f}%" if metric in SHARES else f"{value:.4f}"


def interval(metric: str, low: float, high: float) -> str:
    """A range of a metric's values, in the notation of `score`."""
    if metric in SHARES:
        return f"{100 * low:.1f} to {100 * high:.1f}%"
    return f"{score(metric, low)} to {score(metric, high)}"


def target(plain: object) -> str:
    """A target as people write it: whole numbers without a point, several values without brackets."""
    if isinstance(plain, list):
        return ", ".join(map(target, plain)) or "no label"
    if not isinstance(plain, float):
        return str(plain)
    whole = round(plain)  # numbers are kept as float32: their seventh digit may not be the table's
    return str(whole) if abs(plain - whole) <= 1e-6 * abs(plain) else f"{plain:.6g}"


def number(value: float | int | None) -> str:
    """A number with a magnitude that can be read at a glance: 3.4 million, 12,300, 0.0021."""
    if value is None:
        return "–"
    if abs(value) >= 1e12:
        return f"{value / 1e12:,.3g} trillion"
    if abs(value) >= 1e9:
        return f"{value / 1e9:.3g} billion"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g} million"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def size(count: int) -> str:
    """Bytes."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def depth(trial: TrialRecord) -> str:
    """Freeze depth as k of n groups."""
    return "–" if trial.freeze_depth is None else f"{trial.freeze_depth} of {trial.groups}"


def trials(study: StudyRecord) -> str:
    """Trials of a study's search by state, and how many runs repeat or refit the best of them."""
    counts = ", ".join(f"{count:,} {state.value.lower()}" for state, count in study.searched.items() if count)
    again = f"; {plural(study.reruns, 'rerun')} of the best" if study.reruns else ""
    return f"{counts or 'none'}{again}"


def shorten(text: str, limit: int = 28) -> str:
    """Long names with their middle left out."""
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def made_of(told: Mapping[str, float]) -> str:
    """What a model is made of, and how often the study has opened its test set; empty for an older one."""
    if not told:
        return ""
    members, recipes = int(told.get("members", 1)), int(told.get("recipes", 1))
    of = f" of {recipes} recipes" if recipes > 1 else ""
    networks = f"{members} networks{of} averaged" if members > 1 else "one network"
    if told.get("refitted"):
        said = f"{networks}, trained anew on all but the test items"
    else:
        said = f"{networks}, as the search trained them" if members > 1 else "the trial's own weights"
    if told.get("flips"):
        said += "; mirrored images averaged in"
    openings = int(told.get("test_openings", 0))
    times = "once" if openings == 1 else f"{openings} times"
    return f"{said}; test set opened {times}" if openings else said
