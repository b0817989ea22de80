"""Figures of the search: which trials there were, and why one of them won."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tlsearch.counts import plural
from tlsearch.records import TrialRecord, TrialState
from tlsearch.reports.evidence import Evidence
from tlsearch.reports.figures import (
    Figure,
    Trace,
    colour,
    done,
    escape,
    points,
    shown,
    value_axis,
)
from tlsearch.reports.formatting import depth, number, shorten

CURVES = 40
"""Learning curves drawn at most: the best, then the latest."""


def seeds(evidence: Evidence) -> Figure | None:
    """The finalists with the value of every seed."""
    repeated = evidence.finalists
    if not any(len(finalist.values) > 1 for finalist in repeated):
        return None
    labels = [
        escape(f"trial {f.trial.number} · {f.trial.strategy} · {shorten(f.trial.backbone.partition('/')[2])}")
        for f in repeated
    ]
    shades = [colour(evidence, f.trial.strategy) for f in repeated]
    dots: list[Trace] = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": list(finalist.values),
            "y": [label] * len(finalist.values),
            "marker": {"color": shade, "size": 9, "opacity": 0.55},
            "hovertemplate": "%{x:.4f}<extra></extra>",
        }
        for finalist, label, shade in zip(repeated, labels, shades, strict=True)
    ]
    means: Trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [f.mean for f in repeated],
        "y": labels,
        "error_x": {"type": "data", "array": [f.error for f in repeated], "color": "--ink", "thickness": 2},
        "marker": {"symbol": "line-ns", "size": 16, "line": {"width": 3, "color": "--ink"}},
        "hovertemplate": "mean %{x:.4f}<extra></extra>",
    }
    return Figure(
        "seeds",
        "The finalists, with every seed",
        "Each dot is one run with a seed of its own; the bar is the mean with its standard error. Among "
        "finalists within one standard error of the best, the cheaper one is the winner.",
        [*dots, means],
        {
            "xaxis": value_axis(evidence, [value for f in repeated for value in f.values]),
            "yaxis": {"autorange": "reversed", "type": "category", "showgrid": False},
            "showlegend": False,
        },
        height=100 + 44 * len(repeated),
    )


def history(evidence: Evidence) -> Figure | None:
    """Every trial in order, and the best so far."""
    complete = evidence.complete
    if not complete:
        return None
    best: list[TrialRecord] = []
    for trial in complete:
        if trial.value is not None and (not best or evidence.better(trial.value, best[-1].value or 0.0)):
            best.append(trial)
    steps = [(trial.number, trial.value) for trial in best]
    steps.append((max(trial.number for trial in evidence.searched), best[-1].value))
    line: Trace = {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": [x for x, _ in steps],
        "y": [y for _, y in steps],
        "line": {"shape": "hv", "color": "--ink", "width": 1.5},
        "hoverinfo": "skip",
    }
    return Figure(
        "history",
        "The search",
        _course(evidence, best),
        [*points(evidence, evidence.searched, lambda trial: trial.number), line],
        {"xaxis": {"title": {"text": "trial"}}, "yaxis": value_axis(evidence)},
    )


def _course(evidence: Evidence, best: Sequence[TrialRecord]) -> str:
    """How the best value came about, from the trials that were best when they ended."""
    first, last = best[0], best[-1]
    if first is last:
        again = sum(trial.value == last.value for trial in evidence.complete) - 1
        reached = f" {plural(again, 'later one')} reached it too." if again else ""
        return f"Trial {last.number} was the best from the beginning: {shown(evidence, last.value)}.{reached}"
    return (
        f"Trial {last.number} of {len(evidence.searched)} reached the best value, "
        f"{shown(evidence, last.value)}; trial {first.number} had begun with {shown(evidence, first.value)}."
    )


def freeze_depth(evidence: Evidence) -> Figure | None:
    """Value against the frozen share of the backbone, for strategies that have a choice."""
    trials = [t for t in evidence.searched if t.freeze_depth is not None and t.groups]
    varied = [s for s in evidence.strategies if len({_share(t) for t in trials if t.strategy == s}) > 1]
    fixed = [t for t in trials if t.strategy not in varied and t.state is TrialState.COMPLETE]
    choosing = [t for t in trials if t.strategy in varied]
    leaders = [
        best
        for strategy in dict.fromkeys(t.strategy for t in fixed)
        if (best := evidence.best_of([t for t in fixed if t.strategy == strategy])) is not None
    ]
    if not any(t.state is TrialState.COMPLETE for t in choosing):
        return None
    told = []
    for strategy in varied:
        best = evidence.best_of([t for t in choosing if t.strategy == strategy and done(t)])
        if best is not None:
            cut = " (cut short by the time budget)" if best.cut_short else ""
            told.append(f"{depth(best)} groups for {strategy}{cut}")
    finding = f"The best depths were {', '.join(told)}."
    return Figure(
        "freeze",
        "How much to freeze",
        f"{finding} Strategies without a choice appear with their best trial. Hollow ones trained for less.",
        points(evidence, [*choosing, *leaders], _share),
        {
            "xaxis": {
                "title": {"text": "share of the backbone frozen"},
                "tickformat": ".0%",
                "range": [-0.03, 1.03],
            },
            "yaxis": value_axis(evidence),
        },
    )


def learning_rate(evidence: Evidence) -> Figure | None:
    """Value against learning rate."""
    trials = [trial for trial in evidence.searched if _rate(trial) is not None]
    finished = [trial for trial in trials if done(trial)]
    if len({_rate(trial) for trial in finished}) < 2:
        return None
    told = []
    for strategy in evidence.strategies:
        best = evidence.best_of([trial for trial in finished if trial.strategy == strategy])
        if best is not None:
            told.append(f"{number(_rate(best))} for {strategy}")
    return Figure(
        "rate",
        "Learning rate",
        f"Best: {', '.join(told)}. A flat cloud means that it hardly matters. Hollow ones trained for less.",
        points(evidence, trials, _rate),
        {
            "xaxis": {
                "type": "log",
                "title": {"text": "learning rate"},
                "dtick": 1,
                "exponentformat": "power",
            },
            "yaxis": value_axis(evidence),
        },
    )


def importance(evidence: Evidence, found: Mapping[str, Mapping[str, float]]) -> Figure | None:
    """Which hyperparameters made the difference, strategy by strategy."""
    rows = [
        (strategy, hyperparameter, share)
        for strategy, hyperparameters in found.items()
        for hyperparameter, share in sorted(hyperparameters.items(), key=lambda item: -item[1])[:6]
        if share >= 0.005
    ]
    if not rows:
        return None
    told = [
        f"{max(hyperparameters, key=lambda k: hyperparameters[k])} in {strategy}"
        for strategy, hyperparameters in found.items()
        if hyperparameters
    ]
    several = len(found) > 1
    labels = [
        escape(f"{hyperparameter} · {strategy}" if several else hyperparameter)
        for strategy, hyperparameter, _ in rows
    ]
    return Figure(
        "importance",
        "Which hyperparameters matter",
        f"Most of the differences are due to {', '.join(told)} (fANOVA on the finished trials of a strategy; "
        "with few trials, a hint).",
        [
            {
                "type": "bar",
                "orientation": "h",
                "x": [share for _, _, share in rows],
                "y": labels,
                "text": [f"{share:.0%}" for _, _, share in rows],
                "textposition": "outside",
                "cliponaxis": False,
                "marker": {"color": [colour(evidence, strategy) for strategy, _, _ in rows]},
                "hoverinfo": "skip",
            }
        ],
        {
            "xaxis": {"visible": False, "range": [0, 1.15 * max(share for _, _, share in rows)]},
            "yaxis": {"autorange": "reversed", "type": "category", "showgrid": False},
            "showlegend": False,
            "bargap": 0.35,
        },
        height=70 + 26 * len(rows),
    )


def learning_curves(evidence: Evidence) -> Figure | None:
    """Value by epoch of trials that train by epochs."""
    trials = [t for t in evidence.searched if len(evidence.curves.get(t.number, ())) > 1]
    if not trials:
        return None
    winner = evidence.winner
    sign = 1 if evidence.minimize else -1
    valued = [t for t in trials if t.value is not None]
    first = sorted(valued, key=lambda t: (sign * (t.value or 0.0), t.number))[: CURVES // 2]
    kept = {t.number: t for t in [*first, *trials[-(CURVES - len(first)) :]]}
    seen: set[str] = set()
    traces: list[Trace] = []
    for trial in sorted(kept.values(), key=lambda t: (t.strategy, t.number)):
        won = winner is not None and trial.number == winner.number
        curve = [epoch for epoch in evidence.curves[trial.number] if epoch.value is not None]
        stopped = trial.state is not TrialState.COMPLETE
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if won else "lines",
                "name": escape(trial.strategy),
                "legendgroup": trial.strategy,
                "showlegend": trial.strategy not in seen,
                "x": [epoch.epoch for epoch in curve],
                "y": [epoch.value for epoch in curve],
                "line": {
                    "color": colour(evidence, trial.strategy),
                    "width": 3.5 if won else 1.4,
                    "dash": "dot" if stopped else "solid",
                },
                "opacity": 1 if won else 0.65,
                "hovertemplate": f"trial {trial.number}, epoch %{{x}}: %{{y:.4f}}<extra></extra>",
            }
        )
        seen.add(trial.strategy)
    stopped_count = sum(t.state is TrialState.PRUNED for t in trials)
    finding = (
        f"{plural(stopped_count, 'trial')} stopped early (dotted)."
        if stopped_count
        else "None was stopped early."
    )
    if winner is not None and winner.number in kept:
        finding += f" The thick line is the winner, trial {winner.number}."
    return Figure(
        "curves",
        "Learning curves",
        finding,
        traces,
        {
            "xaxis": {"title": {"text": "epoch"}, "dtick": _step(trials, evidence)},
            "yaxis": value_axis(evidence, [y for trace in traces for y in trace["y"]]),
        },
    )


def _share(trial: TrialRecord) -> float:
    return (trial.freeze_depth or 0) / (trial.groups or 1)


def _rate(trial: TrialRecord) -> float | None:
    for hyperparameter, value in trial.params.items():
        if (
            hyperparameter.rpartition(".")[2] == "learning_rate"
            and isinstance(value, int | float)
            and value > 0
        ):
            return float(value)
    return None


def _step(trials: Sequence[TrialRecord], evidence: Evidence) -> int:
    longest = max(len(evidence.curves[t.number]) for t in trials)
    return max(1, math.ceil(longest / 10))
