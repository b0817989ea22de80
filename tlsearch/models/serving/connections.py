"""Connections that wait only so long for their client, so that idle and slow ones can't starve others.

uvicorn limits how long a kept connection may be silent between requests, but waits for ever for a first
request, for the rest of a begun one, and for a client that doesn't read its answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tlsearch.models.serving.limits import Limits


class Wait(IntEnum):
    """What a connection waits for its client to do; the lower, the sooner it is given up for others."""

    HEAD = 0
    ANSWER = 1
    BODY = 2


class Connection(H11Protocol):
    """A connection that is closed when its client lets it wait too long, or when others need its place."""

    limits = Limits()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._wait: Wait | None = None
        self._since = 0.0
        self._begun = False
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Of too many connections, the one that has waited longest for its client is closed."""
        super().connection_made(transport)
        self._look()
        others = [one for one in self.connections if isinstance(one, Connection) and one is not self]
        waiting = [one for one in others if not one.transport.is_closing()]
        if len(waiting) >= self.limits.connections:
            _close_longest(waiting)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client went away, or was sent away."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """More of a request."""
        self._begun = True
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """The answer is written: the next request may come."""
        self._begun = False
        super().on_response_complete()
        self._look()
        if self._ended and self.conn.their_state is h11.IDLE:
            self.transport.close()

    def pause_writing(self) -> None:
        """The client doesn't read its answer."""
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._look()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's closes in any case
        """The client sends no more, and may still read: a complete request is answered, another refused."""
        if self._waits_for() in (Wait.HEAD, Wait.BODY):
            self._refuse("400 Bad Request", "The request ended before it was complete.")
            return False
        self._ended = True
        return self.cycle is not None and not self.cycle.response_complete

    def give_up(self) -> None:
        """Close, with a sentence where a request was begun and not yet answered."""
        self._stop()
        self._refuse("408 Request Timeout", "The request wasn't complete in time.")
        if self._wait is Wait.ANSWER:
            self.transport.abort()  # closing would wait until the answer is read
        else:
            self.transport.close()

    def _refuse(self, status: str, sentence: str) -> None:
        """Answer a request that was begun and never will be complete; nothing where its answer has begun."""
        answered = self._wait is not Wait.HEAD and self.cycle is not None and self.cycle.response_started
        if self._begun and not answered and not self.transport.is_closing():
            body = json.dumps({"detail": sentence}).encode()
            head = f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}"
            self.transport.write(f"HTTP/1.1 {status}\r\n{head}\r\n\r\n".encode() + body)

    def _look(self) -> None:
        """Begin to count the seconds of what is waited for now, where that is something else than before."""
        wait = self._waits_for()
        if wait is self._wait and self._timer is not None:
            return
        self._stop()
        self._wait = wait
        if wait is not None:
            self._since = self.loop.time()
            most = self.limits.head_seconds if wait is Wait.HEAD else self.limits.body_seconds
            self._timer = self.loop.call_later(most, self.give_up)

    def _waits_for(self) -> Wait | None:
        if self.transport.is_closing():
            return None
        if self.flow.write_paused:
            return Wait.ANSWER
        waits = {h11.IDLE: Wait.HEAD, h11.SEND_BODY: Wait.BODY}
        return waits.get(self.conn.their_state)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def bounded(limits: Limits) -> type[Connection]:
    """Connections with these limits, as uvicorn takes them."""
    return type("Connection", (Connection,), {"limits": limits})


def _close_longest(connections: Iterable[Connection]) -> None:
    waiting = [one for one in connections if one._wait is not None]
    if waiting:
        min(waiting, key=lambda one: (one._wait, one._since)).give_up()
