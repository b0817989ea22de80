"""Who may ask, and how much."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Collection
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BEARER = HTTPBearer(auto_error=False, description="The token that the server was started with.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]


def only_with(token: str) -> Callable[[HTTPAuthorizationCredentials | None], Awaitable[None]]:
    """A dependency that lets only those pass who send the token."""

    async def check(credentials: Credentials) -> None:
        sent = credentials.credentials if credentials else ""
        if not hmac.compare_digest(sent.encode(), token.encode()):
            raise HTTPException(
                401,
                "The token is missing or wrong: send it as `Authorization: Bearer TOKEN`.",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return check


class HostGuard:
    """Refuses requests that call this server by a name that isn't its own; ``*`` stands for any name."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app = app
        self.hosts = {host.lower().strip("[]") for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or "*" in self.hosts:
            await self.app(scope, receive, send)
            return
        called = Headers(scope=scope).get("host", "")
        try:
            name = urlsplit(f"//{called}").hostname
        except ValueError:
            name = None
        if name in self.hosts:
            await self.app(scope, receive, send)
            return
        sentence = f"This server isn't called {called!r}. Its operator can allow that name with --allow-host."
        await JSONResponse({"detail": sentence}, 400)(scope, receive, send)


class BodyLimit:
    """Refuses bodies above a size: at once where the header tells it, else as soon as it is reached.

    What is still sent then is read and dropped by uvicorn for as long as a body may take: who is cut off
    while sending never sees the answer.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        told = headers.get("content-length", "")
        if told.isdigit() and int(told) > self.most:
            # Who waits for "100 Continue" sends no body now, and a next request couldn't be told from one.
            closed = {"Connection": "close"} if "expect" in headers else None
            await JSONResponse({"detail": self._sentence()}, 413, headers=closed)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.most:
                raise HTTPException(413, self._sentence())
            return message

        await self.app(scope, counted, send)

    def _sentence(self) -> str:
        return f"The request is too large: at most {self.most} bytes are taken."
