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
    from tlsearch.spec import StudySpec

Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the study file; may be repeated."),
]


Trials = Annotated[
    str | None,
    typer.Option(
        metavar="N", help="Trials in all, in place of budget.trials; +N adds to what the study had."
    ),
]
Minutes = Annotated[float | None, typer.Option(help="Replaces budget.minutes.")]
Insecure = Annotated[
    bool,
    typer.Option("--insecure-no-token", help="Talk to another machine without a token: anybody there may."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(run)


def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")],
    trials: Trials = None,
    minutes: Minutes = None,
    setting: Setting = None,
    db: options.Database = None,
    artifacts: options.Artifacts = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to run on, such as auto; without it Ray is started here."),
    ] = None,
    local: Annotated[
        bool,
        typer.Option(
            "--local",
            help="Run trials one after the other in this process, without Ray: for debugging a strategy. "
            "TLSEARCH_LOCAL=1 does the same.",
        ),
    ] = False,
    insecure_no_token: Insecure = False,
    again: Annotated[bool, typer.Option("--again", hidden=True)] = False,
    json: options.Json = False,
) -> None:
    """Run a search here, with live progress. The same command again resumes it."""
    if local and address is not None:
        raise InputError("--local runs trials in this process, and --address on a cluster: give one of them.")
    url = options.database(db)
    parsed = read_study(study, url, trials=trials, minutes=minutes, settings=setting or ())
    search(
        parsed,
        url,
        artifacts,
        address=address,
        local=local,
        insecure=insecure_no_token,
        again=again,
        as_json=json,
        resume="The same command goes on from here.",
    )


def read_study(
    path: Path, url: str, *, trials: str | None, minutes: float | None, settings: Sequence[str]
) -> StudySpec:
    """A study file with what the command line says in place of its values."""
    from tlsearch import spec

    overrides = read_settings(settings, minutes=minutes)
    parsed = spec.load(path, overrides=overrides)
    if trials is None:
        return parsed
    from tlsearch.search.steer import trials_in_all

    in_all = trials_in_all(trials, parsed, url)
    return spec.load(path, overrides={**overrides, "budget.trials": in_all})


def search(
    parsed: StudySpec,
    url: str,
    artifacts: str | None,
    *,
    address: str | None,
    insecure: bool,
    again: bool,
    local: bool = False,
    as_json: bool,
    resume: str,
) -> None:
    """Run a study to its end and print what it came to; ``resume`` tells how to go on if it is stopped."""
    place = options.artifacts(artifacts, url)
    if address is not None:
        from tlsearch.cluster import token

        token.use(address.rpartition("://")[2].partition(":")[0], insecure=insecure)  # before Ray is imported

    from tlsearch.cli.live import view
    from tlsearch.search import study as studies

    with view() as observe:
        if address is not None:
            from tlsearch.cluster import preflight

            preflight.check(parsed, address=address, database=url, place=place, observe=observe)
        result = studies.run(
            parsed,
            database=url,
            artifacts=place,
            observe=observe,
            address=address,
            local=local or None,
            again=again,
        )
    if result.interrupted:
        if result.study.state.value == "CANCELLED":
            resume = f"`tlsearch fork {parsed.study} NEW` begins with what it found."
        output.say(f"Stopped: {result.interrupted}. {resume}")
        raise typer.Exit(128 + (result.signal or 2))
    _report(result, url, as_json=as_json)


def read_settings(settings: Sequence[str], *, minutes: float | None = None) -> dict[str, Any]:
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
    output.say(f"\nTry: tlsearch predict {name} ITEM...{suffix}    tlsearch trials {name}{suffix}")


def _without_password(url: str) -> str:
    import re

    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)
