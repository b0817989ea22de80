"""``tlsearch run``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlsearch.cli import options, output
from tlsearch.errors import InputError
from tlsearch.records import TrialRole

if TYPE_CHECKING:
    from tlsearch.search.result import StudyResult
    from tlsearch.spec import StudySpec

Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a value of the study file; may be repeated. Lists as a,b: strategies=lora,fine_tune.",
    ),
]


Trials = Annotated[
    str | None,
    typer.Option(
        metavar="N", help="Trials in all, in place of budget.trials; +N adds to those the study had."
    ),
]
Minutes = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Minutes to the verified model, in place of budget.minutes; +N adds to what the study had.",
    ),
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure-no-token",
        help="Connect to another machine without a token; anybody who reaches it can then run code on it.",
    ),
]
Local = Annotated[
    bool,
    typer.Option(
        "--local",
        help="Run trials one after the other in this process, without Ray: for debugging a strategy. "
        "TLSEARCH_LOCAL=1 does the same.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(run)


def run(
    data: options.Target,
    preset: options.Preset = None,
    name: options.Name = None,
    image_column: options.ImageColumn = None,
    label_column: options.LabelColumn = None,
    trials: Trials = None,
    minutes: Minutes = None,
    setting: Setting = None,
    db: options.Database = None,
    artifacts: options.Artifacts = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to run on, such as auto; by default Ray is started here."),
    ] = None,
    local: Local = False,
    insecure_no_token: Insecure = False,
    again: Annotated[bool, typer.Option("--again", hidden=True)] = False,
    json: options.Json = False,
) -> None:
    """Search for the best model of a folder, table or study file.

    The same command again resumes the search. A folder or table gets a study file in the working
    directory, with the reasons for what is in it.
    """
    began = time.time()
    if local and address is not None:
        raise InputError("--local runs trials in this process, and --address on a cluster: give one of them.")
    from tlsearch.search import control

    url = options.database(db)
    columns = options.columns(image_column, label_column)
    settings = read_settings(setting or ())
    new = {**settings, **control.budget_of_new(trials=trials, minutes=minutes)}
    study = study_file(data, url, preset=preset, name=name, columns=columns, overrides=new)
    parsed = read_study(study, url, trials=trials, minutes=minutes, overrides=settings)
    search(
        parsed,
        url,
        artifacts,
        began=began,
        address=address,
        local=local,
        insecure=insecure_no_token,
        again=again,
        as_json=json,
        resume="Run the same command again to continue.",
    )


def study_file(
    target: Path,
    url: str,
    *,
    preset: str | None,
    name: str | None,
    columns: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """The study file that somebody names, or that of the data that they name, written if it isn't there.

    Args:
        target: the file, or the data.
        url: of the study database, in which no other study may have the name of a new one.
        preset: of a new file.
        name: of a new study.
        columns: options of a table.
        overrides: dotted keys and values that a new study must be able to have.

    Raises:
        InputError: a preset, a name or a column is given for a study file, which has its own.
        SpecError: a new study can't have such values.
        StudyConflictError: another study has its name.
    """
    from tlsearch.search import from_data, registration
    from tlsearch.training.objective import settled

    if not from_data.is_data(target):
        named = {"--preset": preset, "--name": name}
        named |= {f"--{option.replace('_', '-')}": column for option, column in (columns or {}).items()}
        from_data.refuse_beside(target, named)
        return target
    found = from_data.study_file(
        target,
        preset=preset,
        name=name,
        columns=columns,
        overrides=overrides,
        check=lambda study: registration.refuse_conflicts(settled(study), url),
    )
    if found.proposal is None:
        output.say(f"Using {found.path.absolute()}, which was written for this data before.")
    else:
        from tlsearch.cli.begin import say_proposal

        say_proposal(found.path, found.proposal)
    return found.path


def read_study(
    path: Path, url: str, *, trials: str | None, minutes: str | None, overrides: Mapping[str, Any]
) -> StudySpec:
    """A study file with what the command line says in place of its values."""
    from tlsearch import spec

    parsed = spec.load(path, overrides=overrides)
    budget = read_budget(parsed, url, trials=trials, minutes=minutes)
    return spec.load(path, overrides={**overrides, **budget}) if budget else parsed


def read_budget(known: StudySpec, url: str, *, trials: str | None, minutes: str | None) -> dict[str, Any]:
    """--trials and --minutes as dotted keys and values.

    Args:
        known: the study without them.
        url: of the study database, which tells what the study had.
        trials: such as 60 or +50.
        minutes: such as 30 or +4.
    """
    from tlsearch.search import control

    budget: dict[str, Any] = {}
    if trials is not None:
        budget["budget.trials"] = control.trials_in_all(trials, known, url)
    if minutes is not None:
        budget["budget.minutes"] = control.minutes_in_all(minutes, known, url)
    return budget


def search(
    parsed: StudySpec,
    url: str,
    artifacts: str | None,
    *,
    began: float,
    address: str | None,
    insecure: bool,
    again: bool,
    local: bool = False,
    as_json: bool,
    resume: str,
    extends: str | None = None,
) -> None:
    """Run a study to its end and print what it came to.

    Args:
        parsed: the study.
        url: of the study database.
        artifacts: where weights and models go.
        began: when the command did, as `time.time` counts.
        address: of a Ray cluster.
        insecure: talk to it without a token.
        again: this driver replaces one that died.
        local: run trials in this process.
        as_json: print one JSON document.
        resume: how to go on if it is stopped.
        extends: the study whose data this one extends.
    """
    place = options.artifacts(artifacts, url)
    if address is not None:
        from tlsearch.cluster import token

        token.use(address.rpartition("://")[2].partition(":")[0], insecure=insecure)  # before Ray is imported

    from tlsearch.cli.live import view
    from tlsearch.search import study as studies

    with view(began=began) as observe:
        if address is not None:
            from tlsearch.cluster import preflight

            preflight.check(parsed, address=address, database=url, place=place, observe=observe)
        try:
            result = studies.run(
                parsed,
                database=url,
                artifacts=place,
                observe=observe,
                address=address,
                local=local or None,
                again=again,
                began=began,
                extends=extends,
            )
        except KeyboardInterrupt:  # the second one, or one before the search began
            output.say(f"Stopped at once. {resume}")
            raise typer.Exit(130) from None
    if result.interrupted:
        if result.study.state.value == "CANCELLED":
            resume = f"`tlsearch study fork {parsed.study} NEW` begins a new study with its results."
        output.say(f"Stopped: {result.interrupted}. {resume}")
        raise typer.Exit(128 + (result.signal or 2))
    _report(result, url, as_json=as_json)


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
    """``key=value`` settings as dotted keys and values, the latter read as YAML.

    A text with commas is a list where it is of ``space``, as it is of ``strategies`` and ``backbones``.

    Raises:
        InputError: one isn't of that form.
    """
    from ruamel.yaml import YAML, error

    overrides: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise InputError(
                f'--set takes KEY=VALUE, not "{setting}".', hint="Example: --set budget.epochs=5"
            )
        try:
            value = YAML(typ="safe", pure=True).load(text)
            if isinstance(value, str) and "," in value and key.startswith("space."):
                value = YAML(typ="safe", pure=True).load(f"[{text}]")
        except error.YAMLError:
            raise InputError(
                f'--set {key}: "{text}" is not valid YAML.', hint='A list is written as "[a, b]".'
            ) from None
        overrides[key] = value
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
        ranked = studies.trials(name, role=TrialRole.SEARCH, sort="value")
        print_leaderboard(ranked, result.study.metric, winner=best.trial)
        output.tell()
        print_best(best)
    from tlsearch.urls import public

    # Where the variable says it, it needn't be said again; and no password is repeated.
    suffix = "" if url == options.database(None) else f" --db {public(url)}"
    output.say_next(
        f"{words}{suffix}"
        for words in (
            f"predict {name} ITEM...",
            f"report {name} -o {name}.html",
            f"export {name} --format onnx -o {name}-onnx",
        )
    )
