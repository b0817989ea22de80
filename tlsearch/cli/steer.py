"""``resume``, ``extend``, ``pause``, ``cancel``, ``fork``: studies that the database holds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from tlsearch.cli import options, output
from tlsearch.cli.begin import schema
from tlsearch.cli.jobs import Follow, Wait, hand_in
from tlsearch.cli.query import StudyName, studies
from tlsearch.cli.search import Insecure, Local, Minutes, Setting, Trials, read_budget, read_settings, search

group = typer.Typer(
    no_args_is_help=True,
    help="Studies of the database: list, go on, extend, stop, fork.",
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group.command("list")(studies)
    for command in (resume, extend, pause, cancel, fork, schema):
        group.command()(command)
    app.add_typer(group, name="study")


def resume(
    study: StudyName,
    address: Annotated[
        str | None,
        typer.Option(
            envvar="TLSEARCH_ADDRESS",
            metavar="URL",
            help="Dashboard of the cluster to run on; without it, the search runs on this machine.",
        ),
    ] = None,
    trials: Trials = None,
    minutes: Minutes = None,
    setting: Setting = None,
    db: options.Database = None,
    artifacts: options.Artifacts = None,
    wait: Wait = False,
    follow: Follow = False,
    insecure_no_token: Insecure = False,
    json: options.Json = False,
) -> None:
    """Continue a study; --trials +50 gives it fifty more."""
    began = time.time()
    from tlsearch import spec
    from tlsearch.search import control

    url = options.database(db)
    known = control.stored(url, study)
    overrides = read_settings(setting or ()) | read_budget(known, url, trials=trials, minutes=minutes)
    parsed = spec.parse(known.to_json(), overrides=overrides, name=f"study {study}")
    if address is None:
        search(
            parsed,
            url,
            artifacts,
            began=began,
            address=None,
            insecure=insecure_no_token,
            again=False,
            as_json=json,
            resume=f"`tlsearch study resume {study}` continues it.",
        )
    else:
        hand_in(
            parsed,
            url,
            artifacts,
            address=address,
            insecure=insecure_no_token,
            wait=wait,
            follow=follow,
            as_json=json,
        )


def extend(
    study: StudyName,
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA]",
            parser=options.data_path,
            help="Where the data with the new items is; by default where the study has it.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the new study; by default STUDY-2, then STUDY-3.", show_default=False),
    ] = None,
    db: options.Database = None,
    artifacts: options.Artifacts = None,
    local: Local = False,
    json: options.Json = False,
) -> None:
    """Take in new items or classes, by a study that extends another.

    Known items keep their splits, and only new ones are computed. The study's model is scored on these first;
    where it has not fallen and no class is new, its recipe is only trained anew.
    """
    began = time.time()
    from tlsearch.search import extension

    url = options.database(db)
    parsed = extension.described(url, study, data=data, name=name)
    output.say(f'Study "{parsed.study}" extends "{study}".')
    search(
        parsed,
        url,
        artifacts,
        began=began,
        address=None,
        local=local,
        insecure=False,
        again=False,
        as_json=json,
        resume=f"`tlsearch study resume {parsed.study}` continues it.",
        extends=study,
    )


def pause(study: StudyName, db: options.Database = None) -> None:
    """Pause a running study, wherever it runs.

    `tlsearch study resume` continues it.
    """
    from tlsearch.search import control

    control.pause(options.database(db), study)
    output.say(f"The study pauses within seconds. `tlsearch study resume {study}` continues it.")


def cancel(study: StudyName, db: options.Database = None) -> None:
    """End a study for good, wherever it runs; what it found stays."""
    from tlsearch.search import control

    driven = control.cancel(options.database(db), study)
    output.say("The study ends within seconds." if driven else f'Study "{study}" is cancelled.')


def fork(
    study: StudyName,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Name of the new study.")],
    setting: Setting = None,
    db: options.Database = None,
    json: options.Json = False,
) -> None:
    """Make a new study that begins with the results of another.

    `tlsearch study resume NEW` runs it.
    """
    from tlsearch.search import control

    made = control.fork(options.database(db), study, new, overrides=read_settings(setting or ()))
    if json:
        output.print_json(made)
    else:
        output.say(
            f'Study "{new}" begins with the results of "{study}". `tlsearch study resume {new}` runs it.'
        )
