"""A running search as a notebook shows it."""

from __future__ import annotations

import sys
from html import escape
from typing import Any

from tlsearch.search.progress import Snapshot, describe


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this process."""
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


class NotebookView:
    """One output of a cell, replaced whenever something happened; notes stay, one below the other."""

    def __init__(self) -> None:
        from IPython import display as shown

        tools: Any = shown
        self.html = tools.HTML
        self.output = tools.display(tools.HTML(""), display_id=True)
        self.notes: list[str] = []
        self.phase = "begin"
        self.facts: list[str] = []

    def __call__(self, snapshot: Snapshot) -> None:
        """Show where the search stands."""
        if snapshot.note and snapshot.note not in self.notes:
            self.notes.append(snapshot.note)
        if not snapshot.remark:
            self.phase, *facts = describe(snapshot)
            self.facts = facts or self.facts  # the end has none of its own, and the output stays
        notes = [f"<i>{escape(note)}</i>" for note in self.notes]
        lines = [f"<b>{escape(self.phase)}</b>", *map(escape, self.facts), *notes]
        self.output.update(self.html("<br>".join(lines)))
