"""Labels that were corrected in a table: written as suspects, filled in by people, read back."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tlsearch.contracts import Samples, TargetSpec, Task
from tlsearch.contracts.dataset import encoded
from tlsearch.counts import plural
from tlsearch.errors import DataError, did_you_mean
from tlsearch.names import printable
from tlsearch.safe_text import for_csv
from tlsearch.tables import read_table

ITEM, LABEL, CORRECTED = "item", "label", "corrected"
COLUMNS = (ITEM, LABEL, "suggested", "probability", "split", CORRECTED)
NEXT = "`tlsearch audit DATA --labels` writes such a table."


def as_csv(rows: Sequence[Sequence[Any]]) -> str:
    """Rows under `COLUMNS`, whose last cell is to be filled in by people."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([for_csv(cell) for cell in row] for row in rows)
    return text.getvalue()


def corrected(samples: Samples, task: Task, table: Path) -> Samples:
    """Samples with the labels of a table, where its column ``corrected`` says something.

    Args:
        samples: as listed.
        task: of classes.
        table: with the columns ``item``, ``label`` (as the data has it) and ``corrected``.

    Raises:
        DataError: it can't be read, lacks a column, names an item or class that isn't there, or a label that
            the item doesn't have.
    """
    frame = read_table(table).frame
    if missing := [name for name in (ITEM, LABEL, CORRECTED) if name not in frame.columns]:
        raise DataError(
            f"{table} has no column {' and no '.join(missing)}; it has: "
            f"{printable(', '.join(map(str, frame.columns)))}",
            hint=NEXT,
        )
    targets, spec = encoded(task, samples)
    where = {told: at for at, name in enumerate(samples.names) for told in _cells(name)}
    fixed = list(targets)
    count = 0
    for number, row in enumerate(frame[[ITEM, LABEL, CORRECTED]].astype(str).itertuples(index=False), 2):
        name, label, wanted = row
        if not wanted.strip():
            continue
        at = where.get(name)
        if at is None:
            raise DataError(
                f'{table}, line {number}: no item is called "{printable(name)}". '
                f"{did_you_mean(name, list(where))}".strip(),
                hint=NEXT,
            )
        fixed[at] = _class(wanted.strip(), spec, f"{table}, line {number}")
        known = task.plain(targets[at], spec)
        if label not in _cells(known):
            raise DataError(
                f'{table}, line {number}: "{printable(name)}" is "{printable(str(known))}" in the data, and'
                f' "{printable(label)}" in the table: it was written for other data.',
                hint=NEXT,
            )
        count += fixed[at] != targets[at]
    told = f"{plural(count, 'label')} corrected by {table.name}"
    return replace(samples, targets=fixed, spec=spec, notes=(*samples.notes, told))


def _cells(value: object) -> tuple[str, str]:
    """A text as it is, and as a table has it that spreadsheets read: see `for_csv`."""
    return str(value), str(for_csv(str(value)))


def _class(name: str, spec: TargetSpec, place: str) -> int:
    if name not in spec.names:
        name = name.removeprefix("'")
    if name not in spec.names:
        raise DataError(
            f'{place}: there is no class "{printable(name)}". {did_you_mean(name, spec.names)}'.strip(),
            hint=f"Classes: {printable(', '.join(spec.names[:50]))}",
        )
    return spec.names.index(name)
