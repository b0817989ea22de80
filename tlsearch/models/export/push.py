"""A Hugging Face export onto the hub, through huggingface_hub and whatever it is logged in with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tlsearch.errors import ExportError, InputError

LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write."


def check(repository: str) -> None:
    """Find out before anything is written whether a push can work: the name, and who is logged in.

    Raises:
        InputError: the name can't be a repository's, or nobody is logged in.
        ExportError: the hub can't be reached.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"--push {repository}: {error}", hint="Give --push NAME or OWNER/NAME.") from None
    if get_token() is None:
        raise InputError("--push needs a login to the Hugging Face hub.", hint=LOG_IN)
    with _told(repository):
        HfApi().whoami()


def push(folder: Path, repository: str, *, public: bool) -> str:
    """Upload an export as one commit; a repository that isn't there is made.

    Args:
        folder: of the export.
        repository: such as OWNER/NAME.
        public: whether a new repository can be read by everybody; one that is there stays as it is.

    Returns:
        The commit's address.

    Raises:
        ExportError: the hub refused it, or can't be reached; the export itself is written.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    with _told(repository):
        made: Any = hub.create_repo(repository, private=not public, exist_ok=True)
        done: Any = hub.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message="Upload a model by tlsearch"
        )
    return str(done.commit_url)


@contextmanager
def _told(repository: str) -> Iterator[None]:
    """What goes wrong at the hub as a sentence."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        said = error.server_message or str(error).strip().partition("\n")[0]
        hint = LOG_IN if status in (401, 403) else None
        raise ExportError(f"The hub refused {repository}: {said} ({status}).", hint=hint) from error
    # Errors of the HTTP library that it uses, or of a socket.
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        raise ExportError(
            f"The hub can't be reached: {error or type(error).__name__}.",
            hint="Is this machine on the network? HF_ENDPOINT names another hub.",
        ) from error
