"""What one request may ask for, and who may ask."""

from __future__ import annotations

import importlib.util
import ipaddress
from dataclasses import dataclass
from typing import ClassVar

from tlsearch.errors import InputError


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a server.

    Attributes:
        bytes: of one request.
        pixels: of one image, known before it is decoded.
        all_pixels: of all images of one request.
        files: images in one request.
        batch: images that go through the network together.
        wait: seconds that a batch waits for more images.
        head_seconds: until the head of a request has come in, from the connection or the answer before.
        body_seconds: until the rest of it has come in.
    """

    bytes: int = 32_000_000
    pixels: int = 50_000_000
    all_pixels: int = 200_000_000
    files: int = 64
    batch: int = 32
    wait: float = 0.002
    head_seconds: float = 10.0
    body_seconds: float = 60.0

    decoders: ClassVar[int] = 2
    """Images decoded at the same time."""
    connections: ClassVar[int] = 256
    """Of more, those that wait for their client are closed, the longest waiting first."""
    at_once: ClassVar[int] = 8
    """How many times what one request may ask for all that are being answered may ask for together."""


def check_host(host: str, token: str | None) -> None:
    """Refuse to answer other machines without a token.

    Raises:
        InputError: they could ask, and nothing would tell who.
    """
    if token is not None and not token.strip():
        raise InputError(
            "The token is empty.", hint="python -c 'import secrets; print(secrets.token_hex(16))'"
        )
    if token is None and not _is_loopback(host):
        raise InputError(
            f"Other machines can reach {host}, so a token is needed.",
            hint="Set TLSEARCH_TOKEN (or --token), or leave --host at 127.0.0.1.",
        )


def own_hosts(host: str) -> tuple[str, ...]:
    """Names that a request may call a server by: where only this machine can ask, this machine's own.

    It refuses pages of another name that a browser was made to resolve to this machine (DNS rebinding).
    """
    return ("localhost", "127.0.0.1", "::1", host) if _is_loopback(host) else ("*",)


def check_installed() -> None:
    """Refuse to begin where the packages of the extra ``serve`` are missing.

    Raises:
        InputError: one of them is.
    """
    for name in ("fastapi", "fastapi_offline", "python_multipart", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"Serving needs a package that isn't installed: {name}.", hint="pip install 'tlsearch[serve]'"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
