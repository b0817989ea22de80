"""optuna-dashboard over the study database: a process of its own that can only read, on loopback alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from tlsearch.errors import InputError
from tlsearch.reports.optuna_view import OptunaView

HOST = "127.0.0.1"
HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})

DEAD = (
    'button:has(+ a[href$="/compare-studies"])',  # Create
    '[aria-label="rename study"]',
    '[aria-label="delete study"]',
    'a[href$="/note"]',
)
"""Selectors of what would change a study, and is refused."""

Environment = dict[str, Any]
Answer = Iterable[bytes]
Application = Callable[[Environment, Callable[..., Any]], Answer]


def application(url: str) -> Application:
    """The dashboard as a WSGI application.

    Raises:
        InputError: optuna-dashboard isn't installed.
        DatabaseError: the database can't be reached.
    """
    try:
        import optuna_dashboard
    except ImportError:
        raise InputError(
            "The dashboard needs the package optuna-dashboard, which isn't installed.",
            hint="Say: pip install 'tlsearch[dashboard]'",
        ) from None
    inner: Application = optuna_dashboard.wsgi(OptunaView(url))

    def guarded(environ: Environment, start: Callable[..., Any]) -> Answer:
        if environ["REQUEST_METHOD"] not in HARMLESS:
            return _refuse(
                start,
                "405 Method Not Allowed",
                "This dashboard is read-only: only a study's own search changes it. "
                "`tlsearch db export-optuna STUDY --to URL` makes a copy that you can change.",
            )
        # A page from elsewhere may have its own name point to this machine, and read along.
        if environ.get("HTTP_HOST", "").rpartition(":")[0] not in (HOST, "localhost"):
            return _refuse(start, "403 Forbidden", f"Open the page at {HOST} or localhost.")
        return _without_dead_buttons(inner, environ, start)

    return guarded


def serve(url: str, *, port: int, ready: Callable[[str], None]) -> None:
    """Serve the dashboard until interrupted.

    Args:
        url: of the study database.
        port: to listen on; 0 takes a free one.
        ready: told the address once it listens.

    Raises:
        InputError: the port is taken, or optuna-dashboard isn't installed.
    """
    serving = application(url)
    try:
        server = make_server(HOST, port, serving, server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise InputError(
            f"Can't listen on port {port}: {error.strerror}.", hint="Choose another with --port, or 0."
        ) from None
    with server:
        ready(f"http://{HOST}:{server.server_port}/")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Nobody reads a line for each request."""


def _without_dead_buttons(inner: Application, environ: Environment, start: Callable[..., Any]) -> Answer:
    """The dashboard's answer; in its page nothing is shown that this view refuses."""
    told: list[Any] = []

    def begun(status: str, headers: list[tuple[str, str]], *rest: Any) -> None:
        told[:] = [status, headers, *rest]

    answer = inner(environ, begun)
    status, headers, *rest = told
    kind = {name.lower(): value for name, value in headers}.get("content-type", "")
    if kind.startswith("text/html"):
        style = f"<style>{', '.join(DEAD)} {{ display: none !important }}</style></head>".encode()
        body = b"".join(answer).replace(b"</head>", style, 1)
        headers = [(name, value) for name, value in headers if name.lower() not in ("content-length", "etag")]
        headers.append(("Content-Length", str(len(body))))
        answer = [body]
    start(status, headers, *rest)
    return answer


def _refuse(start: Callable[..., Any], status: str, reason: str) -> Answer:
    body = json.dumps({"reason": reason}).encode()
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
