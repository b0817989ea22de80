"""What Ray itself says to the terminal, of which little is for people who search."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import ray._private.worker as ray_worker

_MEMORY = ("due to memory pressure", "low on memory")
"""In what Ray says when its memory monitor ends workers; other paragraphs only guess at memory."""
TOLD = (
    "Ray ended a worker because the memory is nearly full; its trials are tried again. "
    "Lower resources.concurrent, or the largest batch_size, if it happens often."
)


def filter_out() -> None:
    """From here on raylets' paragraphs on workers that ended don't reach the terminal.

    They come on stdout whatever ``log_to_driver`` says, call workers that we end ourselves crashed, and guess
    at memory. What a worker's death meant is recorded with its trial. One that Ray itself ended for memory is
    told in one line on stderr. Ray has no setting for it (2.60), so what prints them is wrapped.
    """
    prints: Callable[..., Any] | None = getattr(ray_worker, "print_to_stdstream", None)
    if prints is None or hasattr(prints, "unfiltered"):
        return

    def filtered(data: dict[str, Any], *args: Any, **options: Any) -> None:
        if data.get("pid") != "raylet":
            prints(data, *args, **options)
        elif any(words in str(line) for line in data.get("lines", ()) for words in _MEMORY):
            print(TOLD, file=sys.stderr, flush=True)

    filtered.unfiltered = prints  # type: ignore[attr-defined]
    ray_worker.print_to_stdstream = filtered
