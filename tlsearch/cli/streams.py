"""Standard streams that may be closed, be a pipe whose reader goes away, or know ASCII alone."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any

_replaced: list[Any] = []
"""Streams that others stand for. They are kept, as one that nobody knows any more closes its file."""


class _Beside(io.FileIO):
    """What is said beside the work: once nobody reads it any more, it goes nowhere, and the work goes on."""

    def write(self, data: Any) -> int:
        """Write bytes, or drop them."""
        try:
            return super().write(data)
        except BrokenPipeError:
            _to_nowhere(self.fileno())
            return memoryview(data).nbytes


def set_up() -> None:
    """Make standard output and standard error fit to be written to.

    A terminal that knows ASCII alone, or a file name that is no text, is no reason to fail. Nor is a reader
    of standard error that goes away, as `head` does: a search goes on. One of standard output that goes away
    ends the command, see `drop_output`: a search has stored all by the time that it writes there.
    """
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a stream that was closed; another file in its place would get what is printed
    os.close(spare)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - as long as the process
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    known = sys.stderr
    buffer = getattr(known, "buffer", None)  # the file itself with PYTHONUNBUFFERED
    if type(known) is io.TextIOWrapper and isinstance(getattr(buffer, "raw", buffer), io.FileIO):
        known.flush()
        _replaced.append(known)
        beside = io.BufferedWriter(_Beside(known.fileno(), "w", closefd=False))
        sys.stderr = io.TextIOWrapper(beside, encoding=known.encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if callable(reconfigure := getattr(stream, "reconfigure", None)):
            reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """What can't be written is not tried again, with a traceback, when the process ends."""
    with contextlib.suppress(OSError, ValueError):
        _to_nowhere(sys.stdout.fileno())


def _to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
