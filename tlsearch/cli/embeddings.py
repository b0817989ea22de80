"""``embed`` and ``similar``: items as a model's trunk sees them, and which of them are alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlsearch.cli import options, output
from tlsearch.cli.inference import StudyOrBundle, model_of
from tlsearch.counts import plural
from tlsearch.errors import DataError, InputError

if TYPE_CHECKING:
    from tlsearch.models.model import Model


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(embed)
    app.command()(similar)


def embed(
    study: StudyOrBundle,
    items: Annotated[list[str], typer.Argument(metavar="ITEM...", help="Images, or folders of them.")],
    out: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="A .parquet file, or a NumPy archive (.npz)."),
    ] = Path("embeddings.parquet"),
    db: options.Database = None,
) -> None:
    """Write embeddings of images to a Parquet or NumPy file."""
    from tlsearch.models import embedding

    embedding.refuse_ending(out)
    model = model_of(study, db)
    found = [named for item in items for named in model.inputs.find(item)]
    kept, values, errors = embedding.embed(model, [item for _, item in found])
    for position, reason in errors.items():
        output.say(f"left out: {found[position][0]}: {reason}")
    if not kept:
        raise DataError("No item can be read.")
    embedding.write(out, [found[position][0] for position in kept], values)
    output.say(f"Wrote {plural(len(kept), 'embedding')} of {values.shape[1]} numbers to {out}.")
    if errors:
        raise typer.Exit(2)


def similar(
    study: StudyOrBundle,
    item: Annotated[str, typer.Argument(metavar="ITEM", help="An image.")],
    among: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Images or folders to search; by default the study's own items."),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-k", min=1, help="How many to print.")] = 10,
    db: options.Database = None,
    json: options.Json = False,
) -> None:
    """Find the images that are most like one."""
    from tlsearch.models import embedding

    model = model_of(study, db)
    asked = list(model.inputs.find(item))
    if len(asked) != 1:
        raise InputError(f"{item} holds {plural(len(asked), 'item')}; name one.")
    names, items, labels = _among(study, model, among or [], db)
    kept, (one, *_), errors = _first(model, asked[0][1])
    if not kept:
        raise DataError(f"{item}: {errors[0]}.")
    places, many, _ = embedding.embed(model, items)
    values = embedding.alike(one, many)
    nearest = values.argsort()[::-1][:count]
    rows = [(float(values[at]), names[places[at]], labels[places[at]]) for at in nearest.tolist()]
    if json:
        output.print_json(
            [{"similarity": value, "item": name, "label": label} for value, name, label in rows]
        )
        return
    table = [[f"{value:.4f}", name, label or ""] for value, name, label in rows]
    output.print_table(["similarity", "item", "label"], table, right=["similarity"])


def _first(model: Model, item: object) -> tuple[list[int], Any, dict[int, str]]:
    from tlsearch.models import embedding

    kept, values, errors = embedding.embed(model, [item])
    return kept, values if kept else [None], errors


def _among(
    study: str, model: Model, given: Sequence[str], db: str | None
) -> tuple[list[str], list[object], list[Any]]:
    """Names, items and labels of what is looked among; labels only of a study's own items."""
    if given:
        found = [named for word in given for named in model.inputs.find(word)]
        return [name for name, _ in found], [item for _, item in found], [None] * len(found)
    from tlsearch.reports.samples import all_items

    return all_items(study, options.database(db))
