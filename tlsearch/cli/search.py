"""``tlsearch run``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlsearch.cli import options, output
from tlsearch.errors import InputError

if TYPE_CHECKING:
    from tlsearch.search.study import StudyResult

Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the study file; may be repeated."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(run)


def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")],
    trials: Annotated[int | None, typer.Option(help="Trials in all; replaces budget.trials.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Replaces budget.minutes.")] = None,
    setting: Setting = None,
    db: options.Database = None,
    artifacts: options.Artifacts = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to run on, such as auto; without it Ray is started here."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Run a search here, with live progress. The same command again resumes it."""
    from tlsearch import spec

    overrides = read_settings(setting or (), trials=trials, minutes=minutes)
    parsed = spec.load(study, overrides=overrides)
    url = options.database(db)

    from tlsearch.cli.live import view
    from tlsearch.search import study as studies

    with view() as observe:
        result = studies.run(
            parsed,
            database=url,
            artifacts=options.artifacts(artifacts, url),
            observe=observe,
            address=address,
        )
    if result.interrupted:
        output.say(f"Stopped: {result.interrupted}. The same command goes on from here.")
        raise typer.Exit(128 + result.signal)
    _report(result, url, as_json=json)


def read_settings(
    settings: Sequence[str], *, trials: int | None = None, minutes: float | None = None
) -> dict[str, Any]:
    """``key=value`` settings as dotted keys and values, the latter read as YAML.

    Raises:
        InputError: one isn't of that form.
    """
    from ruamel.yaml import YAML, error

    overrides: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise InputError(f'--set takes KEY=VALUE, not "{setting}".', hint="Say --set budget.epochs=5")
        try:
            overrides[key] = YAML(typ="safe", pure=True).load(text)
        except error.YAMLError:
            raise InputError(f'--set {key}: "{text}" is not a value that YAML knows.') from None
    if trials is not None:
        overrides["budget.trials"] = trials
    if minutes is not None:
        if not math.isfinite(minutes):
            raise InputError(f"--minutes must be a finite number, not {minutes}.")
        overrides["budget.minutes"] = minutes
    return overrides


def _report(result: StudyResult, url: str, *, as_json: bool) -> None:
    from tlsearch.cli.query import print_best, print_leaderboard
    from tlsearch.reports.studies import Studies

    name = result.study.name
    with Studies(url) as studies:
        best = studies.best(name)
        if as_json:
            output.print_json(best)
            return
        print_leaderboard(studies.trials(name, sort="value", limit=10), result.study.metric)
        print_best(best)
    suffix = "" if url == options.DEFAULT_DATABASE else f" --db {_without_password(url)}"
    output.say(f"\nTry: tlsearch predict {name} IMAGE...{suffix}    tlsearch trials {name}{suffix}")


def _without_password(url: str) -> str:
    import re

    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)
