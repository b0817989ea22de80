"""``trials --watch``: the trials of a study while it runs, read from the database once a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tlsearch.cli import output
from tlsearch.records import StudyState, TrialRecord

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tlsearch.records import StudyRecord
    from tlsearch.reports.studies import Studies

SECONDS = 1.0
"""Between two looks."""
FRAME = 6
"""Lines of a terminal that aren't rows of the table."""

Ask = Callable[[], list[TrialRecord]]
Rows = Callable[[Sequence[TrialRecord]], list[list[str]]]


def watch(
    database: Studies, study: str, *, ask: Ask, columns: Sequence[str], right: Sequence[str], rows: Rows
) -> None:
    """Show trials until the study runs no more, or Ctrl-C.

    A terminal gets a table that changes; anything else a line for each trial that has ended.

    Args:
        database: where to look.
        study: its name.
        ask: the trials wanted, sorted.
        columns: of the table.
        right: columns aligned to the right.
        rows: trials as cells.
    """
    show = _Table(columns, right, rows) if sys.stdout.isatty() else _Lines(columns, rows)
    try:
        while True:
            record = database.study(study)
            show(record, ask())
            if record.state is not StudyState.RUNNING:
                break
            time.sleep(SECONDS)
    except KeyboardInterrupt:
        pass
    finally:
        show.close()


class _Lines:
    """A line for each trial once it has ended."""

    def __init__(self, columns: Sequence[str], rows: Rows) -> None:
        self.columns, self.rows = columns, rows
        self.shown: set[tuple[int, int]] = set()

    def __call__(self, record: StudyRecord, trials: Sequence[TrialRecord]) -> None:
        for trial in trials:
            if trial.state.final and (trial.number, trial.attempt) not in self.shown:
                self.shown.add((trial.number, trial.attempt))
                cells = zip(self.columns, self.rows([trial])[0], strict=True)
                output.tell("  ".join(f"{name} {cell}" for name, cell in cells))

    def close(self) -> None:
        return None


class _Table:
    """A table that is drawn anew, with as many trials as there is room for."""

    def __init__(self, columns: Sequence[str], right: Sequence[str], rows: Rows) -> None:
        from rich.console import Console
        from rich.live import Live

        self.columns, self.right, self.rows = columns, right, rows
        self.console = Console(highlight=False, markup=False)
        self.live = Live(console=self.console, auto_refresh=False)
        self.live.start()

    def __call__(self, record: StudyRecord, trials: Sequence[TrialRecord]) -> None:
        self.live.update(self.draw(record, trials), refresh=True)

    def draw(self, record: StudyRecord, trials: Sequence[TrialRecord]) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        room = max(3, self.console.height - FRAME)
        left_out = f", the last {room} of {len(trials)}" if len(trials) > room else ""
        from tlsearch.reports.formatting import trials as counted

        head = Text(f"{record.name} {record.state.value.lower()}: {counted(record)}{left_out}", style="bold")
        table = output.table(
            self.columns, self.rows(trials[-room:]), right=self.right, width=self.console.width
        )
        return Group(head, table)

    def close(self) -> None:
        self.live.stop()
