"""A running search as its user sees it: a live view in a terminal, plain lines elsewhere. All on stderr."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from tlsearch.cli import output
from tlsearch.safe_text import for_terminal
from tlsearch.search.progress import Snapshot, describe

if TYPE_CHECKING:
    from rich.console import RenderableType


LINE_SECONDS = 5.0
"""Plain lines come at most this often, unless the phase or the best changes."""


class View(Protocol):
    """Something that shows snapshots while a search runs."""

    def __enter__(self) -> View:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""

    def __call__(self, snapshot: Snapshot) -> None:
        """Show where the search stands."""


def view(*, began: float | None = None) -> View:
    """The view that fits where stderr goes.

    Args:
        began: when the command did, as `time.time` counts; now where it is None.
    """
    return TerminalView() if sys.stderr.isatty() else LineView(began)


class LineView:
    """One line whenever something worth telling happened."""

    def __init__(self, began: float | None = None) -> None:
        self.phase = ""
        self.best: int | None = None
        self.finished = False
        self.last = 0.0
        self.began = time.time() if began is None else began

    def __enter__(self) -> LineView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, snapshot: Snapshot) -> None:
        """Print a line if it tells something new."""
        if snapshot.note:
            self._print(f"note: {snapshot.note}")
        if snapshot.remark:
            return
        best = snapshot.best.point.number if snapshot.best else None
        finished = snapshot.total is not None and snapshot.done == snapshot.total
        news = snapshot.phase != self.phase or best != self.best or (finished and not self.finished)
        if not news and time.monotonic() - self.last < LINE_SECONDS:
            return
        if snapshot.note and snapshot.phase == self.phase and best == self.best:
            return
        self.phase, self.best, self.finished = snapshot.phase, best, finished
        self.last = time.monotonic()
        self._print(" | ".join(describe(snapshot)))

    def _print(self, text: str) -> None:
        output.say(f"[{time.time() - self.began:6.1f}s] {text}")


class TerminalView:
    """A bar for the phase, with counts, the best, and each strategy's best below it; gone when it is over."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
        )
        self.task = self.progress.add_task("begin", total=None)
        self.snapshot: Snapshot | None = None
        self.ends: float | None = None
        self.live = Live(get_renderable=self.draw, console=self.console, refresh_per_second=8, transient=True)

    def __enter__(self) -> TerminalView:
        self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.__exit__(kind, error, trace)

    def __call__(self, snapshot: Snapshot) -> None:
        """Show where the search stands."""
        from rich.markup import escape
        from rich.text import Text

        if snapshot.note:
            self.console.print(Text(for_terminal(f"note: {snapshot.note}"), style="yellow"))
        if snapshot.remark:
            return
        phase = escape(for_terminal(snapshot.phase))
        self.progress.update(self.task, description=phase, completed=snapshot.done, total=snapshot.total)
        if snapshot.seconds_left is not None:
            self.ends = time.monotonic() + snapshot.seconds_left
        self.snapshot = snapshot

    def draw(self) -> RenderableType:
        """What is on the screen now; the time that is left goes on between two snapshots."""
        from rich.console import Group
        from rich.text import Text

        if self.snapshot is None:
            return self.progress
        left = self.ends - time.monotonic() if self.ends is not None else None
        _, *facts = describe(replace(self.snapshot, seconds_left=left))
        return Group(self.progress, *(Text(for_terminal(f"  {fact}")) for fact in facts))
