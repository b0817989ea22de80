"""Printing: one JSON document, or tables for people. Progress and warnings go to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tlsearch.safe_text import for_csv, for_terminal

if TYPE_CHECKING:
    from rich.table import Table


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    from tlsearch.reports.studies import to_json

    sys.stdout.write(json.dumps(to_json(document), indent=2, allow_nan=False) + "\n")


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> None:
    """A table on stdout, as wide as its content when nobody looks (a pipe), else fitted to the terminal."""
    from rich.console import Console

    seen = sys.stdout.isatty()
    made = table(columns, rows, right=right, optional=optional, width=Console().width if seen else None)
    console = Console(width=WIDEST, highlight=False, markup=False)
    if seen:
        console.print(made)
        return
    with console.capture() as captured:
        console.print(made)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_wrapped(text: str, indent: str = "  ") -> None:
    """A sentence on stdout, broken between words where somebody looks."""
    import shutil
    import textwrap

    if not sys.stdout.isatty():
        tell(f"{indent}{text}")
        return
    width = shutil.get_terminal_size().columns
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines:
        tell(line)


WIDEST = 100_000
"""Characters of a line that nobody looks at."""
GAP = 2
"""Blanks between columns."""


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    optional: Sequence[str] = (),
    width: int | None = None,
) -> Table:
    """A table, not yet printed.

    Args:
        columns: their headings.
        rows: of cells.
        right: columns aligned to the right.
        optional: columns to leave out where there is no room, the first of them first.
        width: characters of a line; None for as many as it takes. Lines are broken between words only.
    """
    from rich import box
    from rich.table import Table

    cells = [[for_terminal(cell if isinstance(cell, str) else show(cell)) for cell in row] for row in rows]
    kept = list(range(len(columns)))
    dropped = iter(optional)
    while width is not None and sum(_narrowest(columns, cells, kept)) + GAP * (len(kept) - 1) > width:
        name = next(dropped, None)
        if name is None:
            break
        kept = [column for column in kept if columns[column] != name]
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, GAP - 1, 0, 0))
    for column, fitted in zip(kept, _widths(columns, cells, kept, width), strict=True):
        justify: Any = "right" if columns[column] in right else "left"
        made.add_column(columns[column], justify=justify, width=fitted, overflow="fold")
    for row in cells:
        made.add_row(*(row[column] for column in kept))
    return made


def _narrowest(columns: Sequence[str], cells: Sequence[Sequence[str]], kept: Sequence[int]) -> list[int]:
    """Characters that columns need so that no word is broken."""
    from rich.cells import cell_len

    return [
        max(
            cell_len(columns[column]),
            *(cell_len(word) for row in cells for word in row[column].split()),
            1,
        )
        for column in kept
    ]


def _widths(
    columns: Sequence[str], cells: Sequence[Sequence[str]], kept: Sequence[int], width: int | None
) -> list[int]:
    """Characters for each column: its longest line, or less where there is no room for it."""
    from rich.cells import cell_len

    narrowest = _narrowest(columns, cells, kept)
    widths = [
        max([least, *(cell_len(line) for row in cells for line in row[column].splitlines())])
        for column, least in zip(kept, narrowest, strict=True)
    ]
    room = width - GAP * (len(kept) - 1) if width is not None else sum(widths)
    while sum(widths) > room:
        spare = [own - least for own, least in zip(widths, narrowest, strict=True)]
        widest = max(range(len(widths)), key=lambda column: (spare[column] > 0, widths[column]))
        if spare[widest] <= 0:
            break
        widths[widest] -= 1
    return widths


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """The same as CSV on stdout, without what a spreadsheet would take for a formula."""
    import csv

    writer = csv.writer(sys.stdout)
    writer.writerows([for_csv(cell) for cell in row] for row in (columns, *rows))


def json_line(document: Any) -> str:
    """JSON on one line, as a cell of a CSV."""
    return json.dumps(document, allow_nan=False, default=dict)


def tell(text: str = "") -> None:
    """A line, or several, on stdout."""
    print(for_terminal(text), flush=True)


def say(text: str) -> None:
    """A line on stderr."""
    print(for_terminal(text), file=sys.stderr, flush=True)


def say_next(commands: Iterable[str]) -> None:
    """What may be done now, a command a line on stderr."""
    say("\nNext:")
    for words in commands:
        say(f"  tlsearch {words}")


def show(value: object) -> str:
    """A value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 0.01 or abs(value) >= 1000 else f"{value:.4f}"
    return str(value)


def show_params(params: Mapping[str, object]) -> str:
    """Hyperparameters on one line, numbers rounded."""
    return " ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    )
