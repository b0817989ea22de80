"""The process that measures bundles, seen from the one that asks it."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any, Self

from tlsearch.files import temporary_folder

LOOK_SECONDS = 0.2
"""How often it is looked whether it is to be broken off."""
COMMAND = ("-m", "tlsearch.search.measuring")


class Measurer:
    """Has bundles measured in a process that shares nothing with the search: no memory, no caches.

    Each question has a process of its own, which ends with its answer, unless `begin` started one that stays.
    """

    def __init__(self) -> None:
        self._staying: _Running | None = None

    @property
    def begun(self) -> bool:
        """Whether a process is there already, so that the next answer waits for no imports."""
        return self._staying is not None

    def begin(self, families: Iterable[str]) -> None:
        """Start a process that stays.

        Args:
            families: of the backbones that it is to load ahead of the first question.
        """
        self._staying = self._staying or _Running.start(families)

    def ask(
        self, request: str, *, stopping: Callable[[], str], progress: Callable[[int, int], None]
    ) -> dict[str, Any]:
        """What `measuring.answer` returns.

        Args:
            request: what is asked, as JSON.
            stopping: why it is to be broken off, or empty.
            progress: told now and then how many items were measured, of how many.

        Returns:
            The answer; ``died``, with the last words, where the process ended before.
        """
        running = self._staying or _Running.start(())
        try:
            answer = running.ask(request, stopping=stopping, progress=progress)
        finally:
            if running is not self._staying:
                running.end()
        if "died" in answer:
            self.close()
        return answer

    def close(self) -> None:
        """End the process that stays, if there is one."""
        if self._staying is not None:
            self._staying.end()
            self._staying = None


@dataclass(frozen=True, slots=True)
class _Running:
    """The process, and what it prints."""

    process: subprocess.Popen[str]
    lines: queue.SimpleQueue[str | None]
    errors: IO[str]

    @classmethod
    def start(cls, families: Iterable[str]) -> Self:
        errors = tempfile.TemporaryFile(  # noqa: SIM115 - `end` closes it
            "w+", encoding="utf-8", errors="replace", dir=temporary_folder()
        )
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, *COMMAND, *families], stdin=pipe, stdout=pipe, stderr=errors, text=True
        )
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def read() -> None:
            if process.stdout is not None:
                for line in process.stdout:
                    lines.put(line)
            lines.put(None)

        threading.Thread(target=read, name="tlsearch-measurer", daemon=True).start()
        return cls(process, lines, errors)

    def ask(
        self, request: str, *, stopping: Callable[[], str], progress: Callable[[int, int], None]
    ) -> dict[str, Any]:
        """As `Measurer.ask`."""
        # A file, as a question may be longer than what a pipe takes before somebody reads from it.
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=temporary_folder()) as asked:
            asked.write(request)
            asked.flush()
            self._send(asked.name)
            while True:
                try:
                    line = self.lines.get(timeout=LOOK_SECONDS)
                except queue.Empty:
                    if stopping():
                        self.process.kill()
                    continue
                if line is None:
                    return {"died": self._last_words()}
                told = _object(line)
                if told.keys() == {"done", "total"}:
                    progress(told["done"], told["total"])
                elif told:
                    return told

    def _send(self, file: str) -> None:
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has died: its last words tell
                self.process.stdin.write(json.dumps(file) + "\n")
                self.process.stdin.flush()

    def _last_words(self) -> str:
        code = self.process.wait()
        self.errors.seek(0)
        said = self.errors.read().strip().splitlines()
        return said[-1] if said else f"exit code {code}"

    def end(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _object(line: str) -> dict[str, Any]:
    """A line of JSON; empty where it is anything else, which somebody's code may have printed."""
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
