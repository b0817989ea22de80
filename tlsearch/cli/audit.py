"""``tlsearch audit``: a look at the data before anything is searched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlsearch.cli import options, output
from tlsearch.cli.search import Setting, read_settings
from tlsearch.counts import plural
from tlsearch.errors import InputError

if TYPE_CHECKING:
    from tlsearch.spec import StudySpec


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(audit)


def audit(
    data: options.Target,
    image_column: options.ImageColumn = None,
    label_column: options.LabelColumn = None,
    setting: Setting = None,
    labels: Annotated[
        bool,
        typer.Option(
            "--labels", help="Find labels that are probably wrong, and what more labels would gain."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PAGE",
            help="With --labels: the page of pictures to write, with a table beside it; STUDY-labels.html by "
            "default.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Examples of each kind to print.")] = 10,
    json: options.Json = False,
) -> None:
    """Check data for broken images, duplicates, conflicting labels."""
    from tlsearch.cli.live import view
    from tlsearch.reports.data_findings import listed
    from tlsearch.search import from_data, setup

    columns = options.columns(image_column, label_column)
    parsed = from_data.study_of(data, overrides=read_settings(setting or ()), columns=columns)
    if out is not None and not labels:
        raise InputError("--output goes with --labels.")
    if labels:
        _labels(parsed, out or Path(f"{parsed.study}-labels.html"), limit=limit, json=json)
        return
    with view() as observe:
        found = setup.examine(parsed, observe=observe)
    if json:
        output.print_json(found)
        return
    _print_classes(found)
    for kind in listed(found):
        if kind.count:
            output.tell(f"\n{kind.title} ({kind.count})")
        for line in kind.lines[:limit]:
            output.print_wrapped(line)
        if kind.count > limit:
            output.tell(f"  ... and {kind.count - limit} more")
    output.tell("\nWarnings")
    for line in found["warnings"] or ["none"]:
        output.print_wrapped(line)


def _labels(parsed: StudySpec, page: Path, *, limit: int, json: bool) -> None:
    """Look for wrong labels; write the page and the table."""
    from tlsearch.cli.live import view
    from tlsearch.reports import label_page
    from tlsearch.search.label_audit import examine_labels

    table = label_page.refuse_existing(page)
    with view() as observe:
        found = examine_labels(parsed, observe=observe)
    label_page.write(found, study=parsed.study, page=page, table=table)
    if json:
        output.print_json(
            {
                "items": found.items,
                "confident": found.confident,
                "doubtful": [
                    {key: getattr(one, key) for key in ("name", "label", "suggested", "probability", "split")}
                    for one in found.doubtful
                ],
                "recalls": {name: recall for name, (recall, _) in found.recalls.items()},
                "learning_curve": found.curve.to_json() if found.curve is not None else None,
                "page": str(page),
                "table": str(table),
            }
        )
        return
    output.tell(
        f"Of {plural(found.items, 'label')}, {found.confident} probably wrong and "
        f"{len(found.doubtful) - found.confident} more doubtful. Heads that haven't learned from these items "
        "say so, and they err, too: look before you change a label."
    )
    rows = [
        [one.name, one.label, one.suggested, f"{one.probability:.2f}", one.split]
        for one in found.doubtful[:limit]
    ]
    output.print_table(["item", "label", "suggested", "probability", "split"], rows, right=["probability"])
    if more := len(found.doubtful) - len(rows):
        output.tell(f"... and {more} more: see {page}")
    for sentence in label_page.sentences(found):
        output.tell(sentence)
    output.say(f'Look at {page}. Write right classes into the column "corrected" of {table}, then set')
    output.say(f"data.corrected: {table} in the study file, or run `tlsearch init DATA --corrected {table}`.")


def _print_classes(found: Mapping[str, Any]) -> None:
    splits = list(found["counts"])
    rows = [
        [label, *(found["counts"][split][label] for split in splits)] for label in found["counts"][splits[0]]
    ]
    total = ["all", *(sum(found["counts"][split].values()) for split in splits)]
    output.print_table([found["kind"], *splits], [*rows, total], right=splits)
