"""``strategies``, ``backbones``, ``datasets``: what is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from tlsearch.cli import options, output, plugins
from tlsearch.counts import plural


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(backbones)
    for command in (strategies, datasets):
        plugins.group.command()(command)


def strategies(json: options.Json = False) -> None:
    """List installed strategies, and combinations of trials."""
    from tlsearch import registry

    after = [{**row, "kind": "combination"} for row in _described(registry.COMBINATIONS)]
    _print([*({**row, "kind": "strategy"} for row in _described(registry.STRATEGIES)), *after], as_json=json)


def datasets(json: options.Json = False) -> None:
    """List installed data set sources and their keys."""
    from tlsearch import registry

    rows = _described(registry.DATASETS)
    for row in rows:
        if not row["description"].startswith("can't be used"):
            options_ = registry.dataset(row["name"]).options.model_fields
            row["keys"] = ", ".join(
                name if field.is_required() else f"[{name}]" for name, field in options_.items()
            )
    _print(rows, as_json=json)


def backbones(
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATTERN]", help="Part of a name, with * and ?; a full name shows its details."
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="List all that are installed: thousands.")] = False,
    json: options.Json = False,
) -> None:
    """Recommend backbones, or list those whose names match."""
    if pattern is None and not every:
        _recommend(as_json=json)
        return
    import fnmatch

    from tlsearch import registry
    from tlsearch.errors import PluginError, UnknownNameError, did_you_mean

    names: list[str] = []
    for family in registry.installed(registry.BACKBONES):
        try:
            names += [f"{family}/{variant}" for variant in registry.backbone_family(family).names()]
        except PluginError as error:
            output.say(f"left out: {error.message}")
    if pattern is not None and (pattern in names or ("/" in pattern and "*" not in pattern)):
        _show_backbone(pattern, as_json=json)
        return
    wanted = f"*{pattern}*" if pattern and not set("*?") & set(pattern) else pattern or "*"
    found = fnmatch.filter(names, wanted)
    if not found:
        raise UnknownNameError(
            f'No backbone matches "{pattern}". {did_you_mean(pattern or "", names)}'.strip(),
            hint="`tlsearch backbones --all` lists all.",
        )
    if json:
        output.print_json(found)
    else:
        output.tell("\n".join(found))


def _recommend(*, as_json: bool) -> None:
    from tlsearch import registry
    from tlsearch.reports.recommended import RECOMMENDED

    families = registry.installed(registry.BACKBONES)
    if as_json:
        output.print_json(
            [
                {
                    "name": one.name,
                    "parameters": one.parameters,
                    "flops": one.operations,
                    "speed": one.speed,
                    "needs": one.needs(families),
                    "note": one.note,
                }
                for one in RECOMMENDED
            ]
        )
        return
    for one in RECOMMENDED:
        size = f"{one.parameters / 1e6:.1f} M parameters, speed {one.speed:.2g}"
        output.tell(f"{one.name}\n    {one.note}; {size}")
        output.tell(f"    needs {one.needs(families)}")
    output.say("\nSpeed is relative to lite0, counted in operations for an image of the backbone's own size.")
    output.say("`tlsearch backbones resnet` lists names with resnet, `tlsearch backbones --all` all.")


def _show_backbone(name: str, *, as_json: bool) -> None:
    from tlsearch import registry

    info = registry.backbone(name, weights="random", image_size=None).info
    facts = {
        "name": info.name,
        "parameters": info.parameters,
        "flops": info.flops,
        "width": info.width,
        "head": info.head,
        "input": dict(info.inputs.to_json()),
        "groups": list(info.group_names),
    }
    if as_json:
        output.print_json(facts)
        return
    output.print_table(
        ["", name],
        [
            ["parameters", f"{info.parameters:,}"],
            ["operations", f"{info.flops / 1e9:.3f} GFLOPs per item"],
            ["features", str(info.width)],
            ["head", info.head],
            *[[key, str(value)] for key, value in info.inputs.to_json().items()],
            [plural(len(info.groups), "group"), " ".join(info.group_names)],
        ],
    )


def _described(group: str) -> list[dict[str, str]]:
    import inspect

    from tlsearch import registry
    from tlsearch.errors import PluginError

    load: Callable[[str], object] = {
        registry.STRATEGIES: registry.strategy,
        registry.DATASETS: registry.dataset,
        registry.COMBINATIONS: registry.combination,
    }[group]
    rows = []
    for name, plugin in registry.installed(group).items():
        try:
            text = (inspect.getdoc(type(load(name))) or "").splitlines()
            description = text[0] if text else ""
        except PluginError as error:
            description = f"can't be used: {error.message}"
        rows.append({"name": name, "description": description, "package": plugin.distribution})
    return rows


def _print(rows: list[dict[str, str]], *, as_json: bool) -> None:
    if as_json:
        output.print_json(rows)
        return
    columns = list(rows[0]) if rows else []
    output.print_table(columns, [[row.get(column, "") for column in columns] for row in rows])
