"""``show`` and ``compare``: a study on one screen, and two beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlsearch.cli import options, output
from tlsearch.cli.query import Csv, StudyName, print_best, print_leaderboard, show_trial
from tlsearch.errors import InputError, UnknownNameError
from tlsearch.records import TrialRole

if TYPE_CHECKING:
    from tlsearch.reports.studies import BestModel, Studies, Study
    from tlsearch.reports.versions import Version


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(show)
    app.command()(compare)


def show(
    study: StudyName,
    trial: Annotated[
        int | None, typer.Argument(metavar="[TRIAL]", help="Number of a trial: show that trial in detail.")
    ] = None,
    db: options.Database = None,
    json: options.Json = False,
    csv: Csv = False,
) -> None:
    """Show a study: its state, its best trials and its model. With a trial's number, show that trial.

    --csv prints a trial's learning curve.
    """
    if trial is not None:
        show_trial(study, trial, db=db, json=json, csv=csv)
        return
    if csv:
        raise InputError(
            "--csv prints the learning curve of one trial.", hint=f"`tlsearch trials {study} --csv`"
        )
    from tlsearch.reports.studies import Studies
    from tlsearch.reports.versions import versions

    with Studies(options.database(db)) as database:
        record = database.study(study)
        best = _best(database, study)
        ranked = database.trials(study, role=TrialRole.SEARCH, sort="value")
        grew = versions(database.store, study)
    if json:
        output.print_json({"study": record, "best": best, "versions": grew})
        return
    output.tell("\n".join(_head(record)))
    output.tell()
    if grew:
        _print_versions(grew, record.metric)
        output.tell()
    if best is None:
        output.tell("No trial has completed yet.")
        return
    print_leaderboard(ranked, record.metric, winner=best.trial)
    output.tell()
    print_best(best)


def _best(database: Studies, study: str) -> BestModel | None:
    try:
        return database.best(study)
    except UnknownNameError:
        return None  # no trial has completed


def _head(record: Study) -> list[str]:
    """State, trials, time and what is searched, a line each."""
    from tlsearch.reports.formatting import trials

    spec: dict[str, Any] = dict(record.spec)
    strategies = spec.get("strategies")
    why = f": {record.reason}" if record.reason else ""
    minutes = spec["budget"].get("minutes")
    limit = f" of {minutes:g} min" if minutes is not None else ""
    return [
        f"{record.name}: {record.state.value.lower()}{why}",
        f"data: {spec['data'].get('path', spec['data']['source'])}",
        f"trials: {trials(record)}",
        f"time: {record.seconds / 60:.1f} min{limit}",
        f"backbones: {', '.join(one['name'] for one in spec['backbones'])}",
        f"strategies: {', '.join(strategies) if strategies else 'all that apply'}",
    ]


def _print_versions(grew: Sequence[Version], metric: str) -> None:
    """The studies that one extends, a line each, and itself."""
    output.print_table(
        ["version", "items", "more", "new", "trials", f"val {metric}", f"test {metric}"],
        [
            [
                one.study,
                f"{one.items:,}",
                f"+{one.more:,}" if one.more else "-",
                ", ".join(one.new_names) or "-",
                str(one.trials),
                output.show(one.val),
                output.show(one.test),
            ]
            for one in grew
        ],
        right=["items", "more", "trials", f"val {metric}", f"test {metric}"],
        optional=["trials"],
    )


def compare(
    one: Annotated[str, typer.Argument(metavar="A", help="Name of a study.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Name of another one.")],
    db: options.Database = None,
    json: options.Json = False,
) -> None:
    """Compare two studies: what won, how good it is, what it cost."""
    from tlsearch.reports.studies import Studies

    with Studies(options.database(db)) as database:
        found = [(database.study(name), _best(database, name)) for name in (one, other)]
        (first, _), (second, _) = found
        same_data = first.fingerprint == second.fingerprint
        same_test = same_data or _tested_on(database, one) == _tested_on(database, other)
    if json:
        output.print_json([{"study": record, "best": best} for record, best in found])
        return
    sides = [_side(record, best) for record, best in found]
    rows = [[key, *(side.get(key, "-") for side in sides)] for key in {**sides[0], **sides[1]}]
    output.print_table(["", one, other], rows)
    if first.metric != second.metric:
        output.tell("\nThe studies have different metrics, so their scores can't be compared.")
    elif not same_data and same_test:
        output.tell("\nThe studies have different data, but the same test items: compare the test scores.")
    elif not same_data:
        output.tell("\nThe studies have different data, so their scores can't be compared.")


def _tested_on(database: Studies, study: str) -> list[tuple[str, str]] | str:
    """Contents and labels of a study's test items; its name where an older version didn't keep them."""
    items = database.store.items(study)
    return study if items is None else sorted((items.hashes[at], items.labels[at]) for at in items.of("test"))


def _side(record: Study, best: BestModel | None) -> dict[str, str]:
    from tlsearch.reports.formatting import trials

    side = {
        "state": record.state.value.lower(),
        "metric": record.metric,
        "trials": trials(record),
        "time": f"{record.seconds / 60:.1f} min",
    }
    if best is None:
        return side
    scores = {
        f"{split} {record.metric}": output.show(values.get(record.metric))
        for split, values in best.metrics.items()
        if record.metric in values
    }
    return {
        **side,
        **scores,
        "winner": f"trial {best.trial}",
        "strategy": best.strategy,
        "backbone": best.backbone,
        "parameters": f"{best.costs.total_parameters:,}",
    }
