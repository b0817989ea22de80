"""Who may ask, and how much."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BEARER = HTTPBearer(auto_error=False, description="The token that the server was started with.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]

DRAINED = 4
"""How many times its largest size is read of a request that is refused for its size."""


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


class BodyLimit:
    """Refuses bodies above a size: at once where the header tells it, else as soon as it is reached."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"")
        if told.isdigit() and int(told) > self.most:
            await self._drain(receive)
            detail = {"detail": self._sentence()}
            await JSONResponse(detail, 413, headers={"Connection": "close"})(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.most:
                if message.get("more_body"):
                    await self._drain(receive)
                raise HTTPException(413, self._sentence(), headers={"Connection": "close"})
            return message

        await self.app(scope, counted, send)

    async def _drain(self, receive: Receive) -> None:
        """Let go of what is still sent, up to a bound: who is cut off while sending never sees the answer."""
        dropped = 0
        while dropped < DRAINED * self.most:
            message = await receive()
            dropped += len(message.get("body", b""))
            if not message.get("more_body"):
                return

    def _sentence(self) -> str:
        return f"The request is too large: at most {self.most} bytes are taken."
