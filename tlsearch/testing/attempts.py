"""What some code tries to reach, as Python's own audit events tell: the network, and files.

See https://docs.python.org/3/library/audit_events.html.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
_watching: list[Attempts] = []
_hooked: list[bool] = []


@dataclass(slots=True)
class Attempts:
    """Attempts to reach the network, and names of files that were opened or folders that were listed."""

    network: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


class NetworkRefusedError(OSError):
    """Raised in code that is being watched where it turns to the network."""


@contextlib.contextmanager
def watched() -> Iterator[Attempts]:
    """Record what is tried inside, in any thread; the network is refused."""
    if not _hooked:
        sys.addaudithook(_hook)  # no hook can be taken off again
        _hooked.append(True)
    attempts = Attempts()
    _watching.append(attempts)
    try:
        yield attempts
    finally:
        _watching.remove(attempts)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event in _NETWORK:
        for attempts in list(_watching):
            attempts.network.append(
                f"{event} {arguments[-1]!r}" if event == "socket.connect" else f"{event} {arguments[:2]!r}"
            )
        raise NetworkRefusedError(f"{event} isn't allowed here")
    if event in ("open", "os.listdir", "os.scandir"):
        for attempts in list(_watching):
            attempts.files.append(str(arguments[0]))
