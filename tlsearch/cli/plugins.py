"""``plugins``: list what is installed, scaffold a new one, check one against the contract."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlsearch.cli import options, output
from tlsearch.cli.search import Setting, read_settings
from tlsearch.counts import plural

if TYPE_CHECKING:
    from tlsearch.testing import CheckResult

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name, as `tlsearch plugins` lists it.")]


class Kind(enum.StrEnum):
    """What a plugin may be."""

    strategy = "strategy"
    backbone = "backbone"
    dataset = "dataset"
    combination = "combination"
    task = "task"


class NewKind(enum.StrEnum):
    """What a plugin may be that is written for an author. A task has too much of its own for that."""

    strategy = "strategy"
    backbone = "backbone"
    dataset = "dataset"
    combination = "combination"


group = typer.Typer(invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group.callback()(plugins)
    group.command()(new)
    group.command()(check)
    app.add_typer(group, name="plugins")


def plugins(context: typer.Context, json: options.Json = False) -> None:
    """List installed plugins, their packages, and whether they load."""
    if context.invoked_subcommand is not None:
        if json:
            raise typer.BadParameter(f"put --json after {context.invoked_subcommand}", context)
        return
    from tlsearch import registry

    rows = [
        {
            "kind": group.removeprefix("tlsearch."),
            "name": name,
            "package": plugin.distribution,
            "version": plugin.version,
            "state": registry.problem(group, name) or "ok",
        }
        for group in registry.GROUPS
        for name, plugin in registry.installed(group).items()
    ]
    if json:
        output.print_json(rows)
    else:
        columns = ["kind", "name", "package", "version", "state"]
        output.print_table(columns, [[row[column] for column in columns] for row in rows])
    if any(row["state"] != "ok" for row in rows):
        output.say("Some plugins can't be used; the others work.")


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the plugin, such as my_method.")],
    kind: Annotated[NewKind, typer.Option(help="Kind of plugin to write.")] = NewKind.strategy,
    parent: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write it in.")
    ] = Path(),
    json: options.Json = False,
) -> None:
    """Write a plugin package that passes its own tests."""
    from tlsearch.testing.scaffold import scaffold

    folder = scaffold(name, kind=kind.value, parent=parent)
    if json:
        output.print_json({"folder": str(folder), "kind": kind.value})
        return
    entry = name.replace("-", "_")
    output.tell(f"Wrote {folder}/. Next:")
    output.tell(f"  pip install -e {folder}")
    output.tell(f"  tlsearch plugins check {entry}")


def check(
    name: Name,
    kind: Annotated[Kind | None, typer.Option(help="Kind of plugin, if several share the name.")] = None,
    weights: Annotated[
        str, typer.Option(help="Weights of a backbone: random, pretrained, or a file.")
    ] = "random",
    image_size: Annotated[
        int | None, typer.Option(help="Image size of a backbone in pixels; its own by default.")
    ] = None,
    setting: Setting = None,
    json: options.Json = False,
) -> None:
    """Run the contract tests against an installed plugin.

    --set gives a hyperparameter of a strategy, or a key of a data set source.
    """
    from tlsearch import registry
    from tlsearch.errors import UnknownNameError, did_you_mean
    from tlsearch.testing.datasets import missing_options

    groups = dict(zip(Kind, registry.GROUPS, strict=False))  # the kinds that have contract tests
    family = name.partition("/")[0]
    found = [
        one for one in Kind if (family if one is Kind.backbone else name) in registry.installed(groups[one])
    ]
    chosen = [one for one in found if kind in (None, one)]
    if not chosen:
        known = [other for group in registry.GROUPS for other in registry.installed(group)]
        raise UnknownNameError(
            f'No {kind or "plugin"} is called "{name}". {did_you_mean(name, known)}'.strip(),
            hint="`tlsearch plugins` lists what is installed. A new or changed entry point counts once its "
            "package is installed again, with `pip install -e`.",
        )
    given = read_settings(setting or ())
    checked: dict[Kind, list[CheckResult]] = {}
    for one in chosen:
        output.say(f"Checking the {one} {name} ...")
        checked[one] = _checked(one, name, given, weights, image_size)
    failed = sum(not result.ok for results in checked.values() for result in results)
    if json:
        rows = [
            {
                "kind": one.value,
                "check": result.check,
                "ok": result.ok,
                "seconds": result.seconds,
                "message": result.message,
            }
            for one, results in checked.items()
            for result in results
        ]
        output.print_json({"name": name, "ok": not failed, "checks": rows})
    else:
        for one, results in checked.items():
            loads = one is Kind.dataset and registry.problem(groups[one], name) is None
            missing = missing_options(name, given) if loads else []
            _print_verdict(name, one, groups[one], results, missing)
    if failed:
        raise typer.Exit(1)


def _checked(
    kind: Kind, name: str, given: dict[str, Any], weights: str, image_size: int | None
) -> list[CheckResult]:
    """Results of the contract tests of a kind."""
    from tlsearch import testing

    if kind is Kind.strategy:
        return testing.check_strategy(name, params=given)
    if kind is Kind.backbone:
        return testing.check_backbone(name, weights=weights, image_size=image_size)
    if kind is Kind.combination:
        return testing.check_combination(name)
    if kind is Kind.task:
        return testing.check_task(name)
    return testing.check_dataset(name, given)


def _print_verdict(name: str, kind: Kind, group: str, results: list[CheckResult], missing: list[str]) -> None:
    from tlsearch import registry

    first: dict[str, str] = {}  # one cause fails many checks, and its message is long
    rows = []
    for r in results:
        before = first.setdefault(r.message, r.check) if not r.ok else r.check
        message = r.message if before == r.check else f'as "{before}"'
        rows.append([r.check, "ok" if r.ok else "FAILS", f"{r.seconds:.1f}", message])
    output.print_table(["check", "ok", "seconds", "message"], rows, right=["seconds"])
    owner = registry.installed(group)[name.partition("/")[0] if kind is Kind.backbone else name]
    output.tell(f"\nThe {kind} {name} of {owner.distribution} {owner.version}: {_verdict(results, missing)}")
    if kind is Kind.strategy:
        output.tell("Training was checked with classification.")


def _verdict(results: list[CheckResult], missing: list[str]) -> str:
    """What the results of checks come to; ``missing`` are keys without which hardly anything is checked."""
    failed = sum(not result.ok for result in results)
    passed_over = sum(result.message.startswith("not checked") for result in results)
    if missing and not failed:
        settings = " ".join(f"--set {key}=..." for key in missing)
        return f"only its options were checked; the rest needs {settings}."
    verdict = (
        f"{failed} of {plural(len(results), 'check')} failed"
        if failed
        else f"keeps the contract: {plural(len(results) - passed_over, 'check')} passed"
    )
    were = "wasn't" if passed_over == 1 else "weren't"
    return f"{verdict}, {passed_over} {were} applicable." if passed_over else f"{verdict}."
