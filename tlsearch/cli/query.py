"""``study list``, ``trials``, ``best``: questions to the study database."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from tlsearch.cli import options, output
from tlsearch.counts import plural
from tlsearch.errors import InputError
from tlsearch.records import HANDED_OUT, StudyState, TrialRecord, TrialRole, TrialState

if TYPE_CHECKING:
    from tlsearch.reports.baseline import Baseline
    from tlsearch.reports.studies import BestModel

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
StrategyFilter = Annotated[str | None, typer.Option(help="Only trials of this strategy.")]
BackboneFilter = Annotated[str | None, typer.Option(help="Only trials of this backbone.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (trials, best):
        app.command()(command)


def studies(db: options.Database = None, json: options.Json = False, csv: Csv = False) -> None:
    """List the studies of a database."""
    from tlsearch.reports.studies import Studies

    with Studies(options.database(db)) as database:
        records = database.studies()
    if json:
        output.print_json(records)
        return
    if csv:
        output.print_csv(
            [
                *("study", "owner", "state", "metric", "direction"),
                *(*TrialState, "reruns", "seconds", "created", "reason"),
            ],
            [
                [
                    record.name,
                    record.owner,
                    record.state.value,
                    record.metric,
                    record.direction,
                    *(record.searched.get(state, 0) for state in TrialState),
                    record.reruns,
                    round(record.seconds, 3),
                    record.created.isoformat(),
                    record.reason,
                ]
                for record in records
            ],
        )
        return
    output.print_table(
        ["study", "owner", "state", "metric", "trials", "complete", "search time", "created"],
        [
            [
                record.name,
                record.owner or "-",
                f"{record.state.value}, to {record.request}"
                if record.request is not None and record.state is StudyState.RUNNING
                else record.state.value,
                record.metric,
                str(sum(record.searched.values())),
                str(record.searched.get(TrialState.COMPLETE, 0)),
                f"{record.seconds:.0f} s",
                f"{record.created:%Y-%m-%d %H:%M}",
            ]
            for record in records
        ],
        right=["trials", "complete", "search time"],
    )


def trials(
    study: StudyName,
    state: Annotated[TrialState | None, typer.Option(help="Only trials in this state.")] = None,
    strategy: StrategyFilter = None,
    backbone: BackboneFilter = None,
    sort: Annotated[str, typer.Option(help="By number, value (best first) or seconds.")] = "number",
    limit: Annotated[int | None, typer.Option(min=1, help="Print at most this many trials.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh every second while the study runs.")
    ] = False,
    db: options.Database = None,
    json: options.Json = False,
    csv: Csv = False,
) -> None:
    """List the trials of a study."""
    from tlsearch.reports.studies import Studies

    if watch and (json or csv):
        raise InputError("--watch goes with neither --json nor --csv.")
    with Studies(options.database(db)) as database:
        ask = partial(
            database.trials,
            study,
            state=state,
            strategy=strategy,
            backbone=backbone,
            sort=sort,
            limit=limit,
        )
        if watch:
            from tlsearch.cli.watch import watch as look

            look(database, study, ask=ask, columns=TRIAL_COLUMNS, right=TRIAL_NUMBERS, rows=_trial_rows)
            return
        found = ask()
    if json:
        output.print_json(found)
    elif csv:
        _print_trials_csv(found)
    else:
        output.print_table(
            TRIAL_COLUMNS, _trial_rows(found), right=TRIAL_NUMBERS, optional=["seconds", "freeze", "state"]
        )
        if not found:
            output.say("No trial of the study is so.")


CELL = 62
"""Characters of a line of hyperparameters, so that a table fits 80."""
LEADERBOARD = 5
"""Trials of a leaderboard, besides the winner."""
TRIAL_COLUMNS = ("trial", "state", "strategy", "backbone", "freeze", "value", "seconds", "why it ended")
TRIAL_NUMBERS = ("freeze", "value", "seconds")


def _trial_rows(found: Sequence[TrialRecord]) -> list[list[str]]:
    return [
        [
            f"{t.number}{_again(t)}",
            t.state.value,
            t.strategy,
            t.backbone,
            depth(t.freeze_depth, t.groups),
            _of_unseen(t),
            f"{t.costs.seconds:.1f}",
            t.reason,
        ]
        for t in found
    ]


def _of_unseen(trial: TrialRecord) -> str:
    """A trial's value; a refit's is of items that it has learned from, and says nothing beside others."""
    if trial.role is TrialRole.REFIT and trial.value is not None:
        return "learned"
    return output.show(trial.value)


def _again(trial: TrialRecord) -> str:
    """Which trial of the search one runs again, and to what end; empty for one of the search."""
    if trial.confirms is None:
        return ""
    does = "refits" if trial.role is TrialRole.REFIT else "repeats"
    return f" ({does} {trial.confirms}, seed {trial.seed})"


def _print_trials_csv(found: Sequence[TrialRecord]) -> None:
    output.print_csv(
        [
            *("number", "role", "state", "strategy", "backbone", "freeze_depth", "groups", "value"),
            *("seconds", "parameters", "trainable", "seed", "reason", "params"),
        ],
        [
            [
                t.number,
                t.role.value,
                t.state.value,
                t.strategy,
                t.backbone,
                t.freeze_depth,
                t.groups,
                t.value,
                round(t.costs.seconds, 3),
                t.costs.total_parameters,
                t.costs.trainable_parameters,
                t.seed,
                t.reason,
                output.json_line(t.params),
            ]
            for t in found
        ],
    )


def show_trial(study: str, trial: int, *, db: str | None, json: bool, csv: bool) -> None:
    """All about one trial, with its learning curve."""
    from tlsearch.reports.studies import Studies

    with Studies(options.database(db)) as database:
        record, epochs = database.trial(study, trial)
        metric = database.study(study).metric
    if json:
        output.print_json({"trial": record, "epochs": epochs})
        return
    if csv:
        names = sorted({name for e in epochs for name in e.metrics})
        output.print_csv(
            ["epoch", "value", "seconds", *names],
            [[e.epoch, e.value, e.seconds, *(e.metrics.get(name) for name in names)] for e in epochs],
        )
        return
    costs = record.costs
    facts: list[tuple[str, object]] = [
        ("state", f"{record.state.value}: {record.reason}"),
        ("strategy", record.strategy),
        ("backbone", record.backbone),
        ("freeze depth", depth(record.freeze_depth, record.groups)),
        ("params", output.show_params(record.params)),
        (metric, record.value),
        ("metrics", output.show_params(record.metrics)),
        ("seed, attempt", f"{record.seed}, {record.attempt}"),
        ("frozen prefix", record.cache or "-"),
        ("parameters", f"{costs.trainable_parameters:,} of {costs.total_parameters:,} trained"),
        ("seconds", costs.seconds),
        ("items computed by frozen layers", f"{costs.prefix_images:,}"),
        ("items computed by trained layers", f"{costs.suffix_images:,}"),
    ]
    output.print_table(["", f"trial {trial} of {study}"], facts)
    if epochs:
        output.print_table(
            ["epoch", metric, "train loss", "learning rate", "seconds"],
            [
                [
                    str(e.epoch),
                    output.show(e.value),
                    output.show(e.metrics.get("train_loss")),
                    output.show(e.metrics.get("learning_rate")),
                    f"{e.seconds:.2f}",
                ]
                for e in epochs
            ],
            right=["epoch", metric, "train loss", "learning rate", "seconds"],
        )


def best(
    study: StudyName,
    metric: Annotated[
        str | None, typer.Option(help="Metric to choose by; the study's own by default.")
    ] = None,
    max_params: Annotated[
        int | None, typer.Option(min=1, help="Only models with at most this many parameters.")
    ] = None,
    strategy: StrategyFilter = None,
    backbone: BackboneFilter = None,
    db: options.Database = None,
    json: options.Json = False,
) -> None:
    """Show the best model of a study."""
    from tlsearch.reports.studies import Studies

    with Studies(options.database(db)) as database:
        found = database.best(
            study, metric=metric, strategy=strategy, backbone=backbone, max_params=max_params
        )
    if json:
        output.print_json(found)
    else:
        print_best(found)


def print_leaderboard(found: Sequence[TrialRecord], metric: str, *, winner: int | None = None) -> None:
    """The best trials, one a line, the winner among them; what became of all in a line below.

    Args:
        found: trials of the search, the best first.
        metric: the study's.
        winner: number of the trial that the study's model is of.
    """
    complete = [t for t in found if t.state is TrialState.COMPLETE and t.confirms is None]
    ranked = [t for place, t in enumerate(complete) if place < LEADERBOARD or t.number == winner]
    output.print_table(
        ["trial", metric, "strategy", "backbone", "freeze", "trained", "seconds"],
        [
            [
                f"{'* ' if t.number == winner else ''}{t.number}",
                output.show(t.value),
                t.strategy,
                t.backbone,
                depth(t.freeze_depth, t.groups),
                f"{t.costs.trainable_parameters:,}",
                f"{t.costs.seconds:.1f}",
            ]
            for t in ranked
        ],
        right=["trial", metric, "freeze", "trained", "seconds"],
        optional=["seconds", "trained", "freeze"],
    )
    from tlsearch.reports.endings import in_a_line

    print(in_a_line(found))


def print_best(found: BestModel) -> None:
    """All about the best model, for people."""
    from tlsearch.reports.formatting import made_of

    scores = [
        (f"{split} {found.metric}", _filled(_score(found, split)))
        for split in found.metrics
        if split != HANDED_OUT
    ]

    model = found.model
    told = {
        "baseline": _baseline(found),
        "made of": made_of(found.metrics.get(HANDED_OUT, {})),
        "learned from": found.learned_from,
    }
    output.print_table(
        ["", f"best of {found.study}"],
        [
            ["trial", str(found.trial)],
            ["strategy", found.strategy],
            ["backbone", found.backbone],
            ["freeze depth", depth(found.freeze_depth, found.groups)],
            ["params", _filled(output.show_params(found.params))],
            *scores,
            *([name, _filled(text)] for name, text in told.items() if text),
        ],
    )
    output.tell()
    if model is None:
        output.tell(found.missing)
    else:
        output.tell(f"Model:\n{model.uri}\nsha256 {model.sha256}")


def _filled(text: str) -> str:
    """A text as a cell of several lines."""
    return textwrap.fill(text, CELL, break_on_hyphens=False)


def _baseline(found: BestModel) -> str:
    """What the score is to be read beside, as a cell; empty where nothing is known."""
    if (one := found.baseline) is None:
        return ""
    return f"{one.value:.4f} {one.split} {one.metric}: {one.words}{_no_better(found, one)}"


def _no_better(found: BestModel, one: Baseline) -> str:
    """What a score says whose interval holds the baseline."""
    from tlsearch.reports.intervals import of_items

    interval = of_items(found.metrics[one.split], one.metric, found.counts.get(one.split, 0))
    if interval is None or not interval.low <= one.value <= interval.high:
        return ""
    return "; on so few items the model can't be told from that"


def _score(found: BestModel, split: str) -> str:
    """A score of a split, with what is known of its certainty."""
    from tlsearch.models.intervals import over_groups
    from tlsearch.reports.formatting import SHARES
    from tlsearch.reports.intervals import of_items

    values, count = found.metrics[split], found.counts.get(split, 0)
    told = output.show(values.get(found.metric))
    if values.get("seeds", 1) > 1 and f"{found.metric}_mean" in values:
        mean, error = values[f"{found.metric}_mean"], values[f"{found.metric}_standard_error"]
        return f"{told} (mean of {values['seeds']:.0f} seeds {mean:.4f} ± {error:.4f})"
    if interval := of_items(values, found.metric, count):
        low, high = (
            f"{end:.3f}" if found.metric in SHARES else output.show(end)
            for end in (interval.low, interval.high)
        )
        groups = over_groups(values, found.metric, count)
        told += f" (95% interval {low} to {high}: {plural(count, 'item')}{groups})"
    return told


def depth(frozen: int | None, groups: int | None) -> str:
    """Freeze depth as k of n groups."""
    return "-" if frozen is None else f"{frozen}/{groups}"
