"""``tlsearch audit``: a look at the data before anything is searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlsearch.cli import options, output
from tlsearch.cli.search import Setting, read_settings
from tlsearch.errors import InputError

if TYPE_CHECKING:
    from tlsearch.spec import StudySpec


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(audit)


def audit(
    data: options.Target,
    setting: Setting = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="Which labels are probably wrong, and whether more would pay.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PAGE",
            help="With --labels: the page of pictures, with a table beside it; else STUDY-labels.html.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Examples of each kind to print.")] = 10,
    json: options.Json = False,
) -> None:
    """Check data for broken images, duplicates, conflicting labels."""
    from tlsearch.cli.live import view
    from tlsearch.search import from_data, setup

    parsed = from_data.study_of(data, overrides=read_settings(setting or ()))
    if out is not None and not labels:
        raise InputError("--output is for the page of --labels.")
    if labels:
        _labels(parsed, out or Path(f"{parsed.study}-labels.html"), limit=limit, json=json)
        return
    with view() as observe:
        found = setup.examine(parsed, observe=observe)
    if json:
        output.print_json(found)
        return
    _print_classes(found)
    for title, lines, count in _lists(found):
        output.tell(f"\n{title} ({count})")
        for line in lines[:limit]:
            output.print_wrapped(line)
        if count > limit:
            output.tell(f"  ... and {count - limit} more")
    output.tell("\nIn short")
    for line in found["warnings"] or ["nothing to worry about was found"]:
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
        f"{found.confident} of {found.items} labels are probably wrong,"
        f" {len(found.doubtful) - found.confident} more are doubtful:"
    )
    rows = [
        [one.name, one.label, one.suggested, f"{one.probability:.2f}", one.split]
        for one in found.doubtful[:limit]
    ]
    output.print_table(["item", "label", "rather", "probability", "split"], rows, right=["probability"])
    for sentence in label_page.sentences(found):
        output.tell(sentence)
    output.say(f"Look at {page}; write right classes into the column corrected of {table}, then say")
    output.say(f"data.corrected: {table} in the study file, or `tlsearch init DATA --corrected {table}`.")


def _print_classes(found: Mapping[str, Any]) -> None:
    splits = list(found["counts"])
    rows = [
        [label, *(found["counts"][split][label] for split in splits)] for label in found["counts"][splits[0]]
    ]
    total = ["all", *(sum(found["counts"][split].values()) for split in splits)]
    output.print_table([found["kind"], *splits], [*rows, total], right=splits)


def _lists(found: Mapping[str, Any]) -> Iterator[tuple[str, list[str], int]]:
    """Title, lines and count of each kind of finding that there is."""
    alike = found["near_duplicates"]
    if alike and alike["count"]:
        lines = [
            f"{pair['item']} ({pair['split']}, {pair['label']}) and {pair['other']}"
            f" ({pair['other_split']}, {pair['other_label']}), distance {pair['distance']:.3f}"
            for pair in alike["examples"]
        ]
        yield "Nearly the same picture in two splits", lines, alike["count"]
    kinds = [
        ("Broken, set aside", found["broken"]),
        ("One content under different labels", found["clashes"]),
        ("One content in more than one split", found["overlaps"]),
        ("In source_data too", found["source_copies"]),
        ("Of one plain colour", alike["plain"] if alike else {"count": 0}),
        ("Tiny classes", found.get("tiny_classes", {"count": 0})),
    ]
    for title, some in kinds:
        if some["count"]:
            yield title, [_line(example) for example in some["examples"]], some["count"]


def _line(example: Any) -> str:
    return example if isinstance(example, str) else " | ".join(map(str, example))
