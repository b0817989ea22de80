"""The token that lets people onto a cluster: made here, looked for here, and used before Ray is imported.

Whoever reaches a cluster's ports may run code on it. Ray's GCS and raylets listen on every interface,
whatever the dashboard is bound to, so no other machine is talked to without a token, unless somebody says so.

Ray reads ``RAY_AUTH_MODE`` when it is imported: nothing here may import it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
from pathlib import Path

from tlsearch.errors import InputError

MODE = "RAY_AUTH_MODE"
VALUE = "RAY_AUTH_TOKEN"
PATH = "RAY_AUTH_TOKEN_PATH"
INSECURE = "--insecure-no-token"

HINT = (
    "Copy the cluster's token file here (`tlsearch cluster token --show` prints it there) to "
    f"~/.ray/auth_token, name its file in {PATH}, or put the token into {VALUE}."
)


def place() -> Path:
    """The file that holds this machine's token, or would."""
    given = os.environ.get(PATH)
    return Path(given) if given else Path.home() / ".ray" / "auth_token"


def available() -> bool:
    """Whether this machine has a token for a cluster."""
    return bool(os.environ.get(VALUE)) or place().is_file()


def create() -> tuple[Path, bool]:
    """Make a token that only this user can read, unless there is one; its file, and whether it is new.

    Raises:
        InputError: the file can't be written, is empty, or others can read it.
    """
    path = place()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            # Opened with its final mode: there is no moment at which others could read it.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
            return path, True
        _refuse_open(path)
        if not path.read_text().strip():
            raise InputError(f"{path} is empty.", hint="Remove it and run the command again.")
    except OSError as error:
        raise InputError(f"No token can be kept in {path}: {error.strerror}.") from None
    return path, False


def read() -> str:
    """This machine's token.

    Raises:
        InputError: it has none, or the file can't be read.
    """
    if os.environ.get(VALUE):
        return os.environ[VALUE]
    path = place()
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        raise InputError(
            f"This machine has no token: there is no {path}.",
            hint="`tlsearch cluster token` makes one.",
        ) from None
    except OSError as error:
        raise InputError(f"The token in {path} can't be read: {error.strerror}.") from None


def use(host: str, *, insecure: bool = False) -> None:
    """Have Ray send this machine's token, before Ray is imported; refuse other machines without one.

    Args:
        host: name or address of the cluster; "" or "auto" for the one that this machine is a node of.
        insecure: talk to other machines without a token all the same.

    Raises:
        InputError: there is no token, and the host is another machine.
    """
    if available():
        os.environ.setdefault(MODE, "token")
    elif not (insecure or host in ("", "auto") or loopback(host)):
        raise InputError(
            f"No token for {host}: other machines are talked to with a token only.",
            hint=f"{HINT} A cluster without one is open to everybody who reaches it; if that is meant, "
            f"say {INSECURE}.",
        )


def loopback(host: str) -> bool:
    """Whether a host is this machine by its loopback interface."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_open(path: Path) -> None:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise InputError(
            f"{path} can be read by others (mode {mode:04o}).",
            hint=f"Say `chmod 600 {path}`, and trust the token only if nobody did.",
        )
